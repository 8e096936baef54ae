"""Documents are issued once each, without gaps in their numbers, and stay as they are; whoever is killed where."""

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from ninjait_pipelines.billing import drafts, finalise
from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.rating.agreement import Refused, agreement
from ninjait_pipelines.billing.rating.document import Document, canonical, document, draft, sha256
from ninjait_pipelines.billing.rating.usage import usage
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import Killed, killed

MAY, JUNE, JULY = (date(2026, month, 1) for month in (5, 6, 7))
LATER = datetime(2026, 9, 1, 12, tzinfo=UTC)


def clock() -> datetime:
    return LATER


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    books = Books(shared_stores)
    books.seller(payment_days=14, time_zone="Europe/Berlin")
    return books


@pytest.fixture
def stores(shared_stores: Stores) -> Stores:
    return shared_stores


@pytest.fixture
def acme(books: Books) -> uuid.UUID:
    """An agreement of 100.00 a month at 19 %, and 5.00 a device that reports: one all May, and none later."""
    organization = books.organization("acme")
    id_ = books.agreement(
        organization,
        item("flat", "100"),
        item("device", "5", basis="reporting"),
        tax={"category": "S", "rate": "19"},
        bill_to={"name": "Acme GmbH", "address": ["Street 1", "Berlin"]},
    )
    books.reported(organization, books.device(organization, 1), days_of(MAY))
    for month in (MAY, JUNE, JULY):
        books.used(organization, days_of(month))
        books.measure(days_of(month))
    return id_


def finalised(stores: Stores, month: date, **more: Any) -> list[Document]:
    """What a run issues, and nothing waits."""
    found = finalise.finalise(stores.postgres, stores.clickhouse, month, clock=clock, **more)
    assert found.waiting == {}
    return found.issued


def records(stores: Stores) -> list[dict[str, Any]]:
    return stores.postgres.rows("SELECT * FROM billing.invoices WHERE status <> 'draft' ORDER BY series_number")


def test_a_document_is_frozen_with_all_that_it_was_drawn_up_from(stores: Stores, acme: uuid.UUID) -> None:
    [found] = finalised(stores, MAY)
    assert (found.number, found.status, str(found.total)) == ("2026-000001", "issued", "124.95")
    assert (found.issued_at, found.due_on) == (LATER, date(2026, 9, 15))
    assert found.seller is not None
    assert found.bill_to is not None
    assert (found.seller.name, found.bill_to.address) == ("Provider", ("Street 1", "Berlin"))
    [row] = records(stores)
    assert document(bytes(row["document"])) == found
    assert (bytes(row["document"]), row["sha256"]) == (canonical(found), sha256(found))
    again = draft(agreement(bytes(row["agreement"])), usage([bytes(row["usage"])]), MAY)
    assert (again.lines, again.total, again.bill_to) == (found.lines, found.total, found.bill_to)
    [copy] = stores.clickhouse.rows("SELECT number, status, total, sha256, agreement_id FROM invoices")
    assert copy == {
        "number": found.number,
        "status": "issued",
        "total": found.total,
        "sha256": row["sha256"],
        "agreement_id": acme,
    }


def test_a_document_is_issued_once(stores: Stores, acme: uuid.UUID) -> None:
    assert len(finalised(stores, MAY)) == 1
    assert finalised(stores, MAY) == []
    assert [one.number for one in finalised(stores, JUNE)] == ["2026-000002"]
    assert len(records(stores)) == 2


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing.invoices SET total = total + 1, net = net + 1",
        "UPDATE billing.invoices SET status = 'draft'",
        "UPDATE billing.invoices SET status = 'void', voided_at = now(), void_reason = 'x', due_on = due_on + 1",
        "UPDATE billing.invoices SET document = '', sha256 = encode(sha256(''), 'hex')",
        "DELETE FROM billing.invoices",
        "UPDATE billing.invoice_lines SET amount = 0",
        "DELETE FROM billing.invoice_lines WHERE line_number = 1",
        "INSERT INTO billing.invoice_lines SELECT * FROM billing.invoice_lines",
    ],
)
def test_the_database_keeps_what_is_issued(stores: Stores, acme: uuid.UUID, change: str) -> None:
    finalised(stores, MAY)
    before = records(stores)
    with pytest.raises(StoreError, match=r"document 2026-000001 is issued: .* is refused; void it"):  # noqa: SIM117
        with stores.postgres.transaction() as connection:
            connection.execute(change.encode())
    assert records(stores) == before


@pytest.mark.parametrize("table", ["billing.invoices CASCADE", "billing.invoice_lines", "billing.series"])
def test_the_database_is_not_emptied_of_what_is_issued(stores: Stores, acme: uuid.UUID, table: str) -> None:
    finalised(stores, MAY)
    with pytest.raises(StoreError, match="truncate is refused, because documents are issued, such as 2026-000001"):  # noqa: SIM117
        with stores.postgres.transaction() as connection:
            connection.execute(f"TRUNCATE {table}".encode())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing.series SET last_number = 7",
        "UPDATE billing.series SET last_number = 0",
        "DELETE FROM billing.series",
    ],
)
def test_a_series_counts_up_by_one(stores: Stores, acme: uuid.UUID, change: str) -> None:
    finalised(stores, MAY)
    with pytest.raises(StoreError, match="a series begins at 0 and counts up by one"):  # noqa: SIM117
        with stores.postgres.transaction() as connection:
            connection.execute(change.encode())


def test_numbers_are_the_sellers_own(books: Books, stores: Stores, acme: uuid.UUID) -> None:
    """The year is that of the seller's day: in Berlin it is 2026 an hour before it is in London."""
    other = books.seller(name="Other", number_prefix="B/", numbered_by_year=False, is_default=False, payment_days=0)
    organization = books.organization("other")
    id_ = books.agreement(organization, item("flat", "1"))
    with stores.postgres.transaction() as connection:
        connection.execute("UPDATE billing.agreements SET seller_id = %s WHERE id = %s", (other, id_))
    at = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    found = finalise.finalise(stores.postgres, stores.clickhouse, MAY, force="x", clock=lambda: at).issued
    assert {one.organization_id: (one.number, one.due_on) for one in found} == {
        str(organization): ("B/000001", date(2026, 12, 31)),
        found[0].organization_id if found[1].organization_id == str(organization) else found[1].organization_id: (
            "2027-000001",
            date(2027, 1, 15),
        ),
    }


def test_what_is_not_over_or_not_complete_waits(books: Books, stores: Stores, acme: uuid.UUID) -> None:
    def attempt(**more: Any) -> finalise.Finalised:
        return finalise.finalise(stores.postgres, stores.clickhouse, MAY, **more)

    early = attempt(clock=lambda: datetime(2026, 6, 3, 23, 59, tzinfo=UTC))
    assert early == ([], {str(acme): "its grace time ends at 2026-06-04 00:00 UTC"})
    books.used(next(iter(books._zones)), [MAY], calls=0)
    for row in books._usage[MAY].values():
        row["quantity"] = row["quantity"] and 23 if row["kind"] == "hours" else row["quantity"]
    books.measure([MAY])
    incomplete = attempt(clock=clock)
    assert incomplete == ([], {str(acme): "usage is incomplete: device"})
    assert records(stores) == []
    [forced] = attempt(clock=clock, force="the customer asked for it").issued
    assert forced.number == "2026-000001"
    assert records(stores)[0]["reason"] == "the customer asked for it"


def test_without_a_seller_nothing_is_issued(shared_stores: Stores) -> None:
    books = Books(shared_stores)
    books.agreement(books.organization("acme"), item("flat", "1"))
    with pytest.raises(Refused, match="no seller, and there is no default one"):
        finalised(shared_stores, MAY)
    assert records(shared_stores) == []


def test_a_draft_that_became_outdated_is_drawn_up_again(stores: Stores, acme: uuid.UUID) -> None:
    """May and June are issued by two people at once: June's draft did not know that May was issued."""
    [june] = draw_up(stores.postgres, stores.clickhouse, JUNE)
    finalised(stores, MAY)
    with pytest.raises(finalise.Outdated):
        finalise.issue(stores.postgres, june, clock=clock)
    assert [one.number for one in finalised(stores, JUNE)] == ["2026-000002"]


STEPS: dict[str, tuple[type, str, int, bool]] = {
    "before a number is taken": (psycopg.Connection, "execute", 5, False),
    "after a number is taken": (psycopg.Cursor, "executemany", 1, False),
    "before the document is issued": (psycopg.Cursor, "executemany", 2, True),
    "before documents are copied": (ClickHouse, "insert", 1, False),
    "before lines are copied": (ClickHouse, "insert", 2, False),
}


@pytest.mark.parametrize(("owner", "method", "call", "after"), STEPS.values(), ids=STEPS.keys())
def test_killed_anywhere_and_finalised_again(
    stores: Stores, acme: uuid.UUID, owner: type, method: str, call: int, after: bool
) -> None:
    with killed(owner, method, call, after), pytest.raises(Killed):
        finalised(stores, MAY)
    assert len(records(stores)) == (owner is ClickHouse)
    finalised(stores, MAY)
    assert [row["number"] for row in records(stores)] == ["2026-000001"]
    assert [row["number"] for row in stores.clickhouse.rows("SELECT number FROM invoices")] == ["2026-000001"]
    assert stores.clickhouse.scalar("SELECT count() FROM invoice_lines") == 2


def test_fifty_processes_issue_forty_drafts_and_five_are_killed(books: Books, stores: Stores) -> None:
    """Each is issued once, by whichever process came first, and the numbers have no gap."""
    organization = books.organization("acme")
    for number in range(40):
        books.agreement(organization, item("flat", "1"), name=number)
    drawn = draw_up(stores.postgres, stores.clickhouse, MAY)
    assert len(drawn) == 40
    children = [_forked(stores.postgres.url, drawn[n % 40 :] + drawn[: n % 40], dies=n < 5) for n in range(50)]
    ends = [os.waitpid(child, 0)[1] for child in children]
    assert [os.WTERMSIG(end) for end in ends if os.WIFSIGNALED(end)] == [signal.SIGKILL] * 5
    assert {os.WEXITSTATUS(end) for end in ends if os.WIFEXITED(end)} == {0}
    found = records(stores)
    assert [row["series_number"] for row in found] == list(range(1, 41))
    assert len({row["agreement_id"] for row in found}) == 40
    assert stores.postgres.rows("SELECT last_number FROM billing.series") == [{"last_number": 40}]


def _forked(url: str, drawn: list[drafts.Drawn], dies: bool) -> int:
    """A process of its own; returns its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        kind = DyingPostgres if dies else Postgres
        with kind(url=url).open() as postgres:
            _issue_each(postgres, drawn)
        code = 0
    finally:
        os._exit(code)


class DyingPostgres(Postgres):
    """Its process is killed when it writes a document: a number has been taken, and its series is locked."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as connection:
            yield _Dying(connection)


class _Dying:
    def __init__(self, connection: Any) -> None:
        self.execute = connection.execute

    def cursor(self) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def _issue_each(postgres: Postgres, drawn: list[drafts.Drawn]) -> None:
    for one in drawn:
        try:
            finalise.issue(postgres, one, clock=clock)
        except finalise.Outdated:
            continue


def test_a_voided_document_keeps_number_and_bytes_and_its_month_is_drafted_again(
    stores: Stores, acme: uuid.UUID
) -> None:
    [may] = finalised(stores, MAY)
    [before] = records(stores)
    for _ in range(2):
        finalise.void(stores.postgres, stores.clickhouse, may.number, "wrong customer", clock)
    [after] = records(stores)
    changed = {name for name, value in after.items() if value != before[name]}
    assert changed == {"status", "voided_at", "void_reason"}
    assert (after["status"], after["void_reason"], after["voided_at"]) == ("void", "wrong customer", LATER)
    drafted = stores.clickhouse.rows("SELECT status, total FROM invoices ORDER BY status")
    assert [(row["status"], row["total"]) for row in drafted] == [("draft", may.total), ("void", may.total)]
    [again] = finalised(stores, MAY)
    assert (again.number, again.total, again.lines) == ("2026-000002", may.total, may.lines)
    assert stores.clickhouse.rows("SELECT number, status FROM invoices ORDER BY number") == [
        {"number": "2026-000001", "status": "void"},
        {"number": "2026-000002", "status": "issued"},
    ]


def test_a_credit_note_is_a_document_of_the_series_and_is_issued_once(stores: Stores, acme: uuid.UUID) -> None:
    [may] = finalised(stores, MAY)

    def credit(reason: str, amounts: dict[int, Decimal | None] | None = None) -> Document:
        return finalise.credit(stores.postgres, stores.clickhouse, may.number, reason, amounts, clock)

    with killed(ClickHouse, "insert"), pytest.raises(Killed):
        credit("outage on 3 May", {2: Decimal("10.00")})
    first = credit("outage on 3 May", {2: Decimal("10.00")})
    assert (first.number, first.kind, first.credits, str(first.total)) == (
        "2026-000002",
        "credit_note",
        "2026-000001",
        "-11.90",
    )
    assert [row["number"] for row in records(stores)] == ["2026-000001", "2026-000002"]
    with pytest.raises(Refused, match=r"of line 2 only 90\.00 is left"):
        credit("another", {2: Decimal("90.01")})
    rest = credit("all of it")
    assert first.total + rest.total == -may.total
    with pytest.raises(Refused, match="nothing is left"):
        credit("once more")
    assert stores.clickhouse.scalar("SELECT sum(total) FROM invoices") == 0
    with pytest.raises(Refused, match="2026-000002, 2026-000003 corrects or credits it"):
        finalise.void(stores.postgres, stores.clickhouse, may.number, "x", clock)


def test_a_number_that_there_is_not(stores: Stores, acme: uuid.UUID) -> None:
    for attempt in (finalise.void, finalise.credit):
        with pytest.raises(Refused, match="there is no document of it"):
            attempt(stores.postgres, stores.clickhouse, "7", "x")


def test_what_could_not_be_read_again_is_not_issued(stores: Stores, acme: uuid.UUID) -> None:
    """A null in the seller's address was issued; then no month of any organization was drafted, and no void helped."""
    rule = "CONSTRAINT address_is_a_list_of_texts"
    with stores.postgres.transaction() as connection:
        connection.execute(f"ALTER TABLE billing.sellers DROP {rule}".encode())
        connection.execute("UPDATE billing.sellers SET address = ARRAY[NULL]")
    try:
        with pytest.raises(Refused, match="address"):
            finalise.finalise(stores.postgres, stores.clickhouse, MAY, clock=clock)
        assert records(stores) == []
    finally:
        with stores.postgres.transaction() as connection:
            connection.execute("UPDATE billing.sellers SET address = '{}'")
            connection.execute(f"ALTER TABLE billing.sellers ADD {rule} CHECK (billing.are_texts(address))".encode())
