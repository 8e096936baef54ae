"""Drafts on real stores: equal in both, to the cent, however often and wherever a run dies."""

import uuid
from datetime import UTC, date, datetime

import psycopg
import pytest

from ninjait_pipelines.billing import write
from ninjait_pipelines.billing.document_checks import all_document_checks, totals_in_clickhouse, totals_in_postgres
from ninjait_pipelines.billing.documents import invoices
from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines_tests.billing.books import Books, days_of, everything, named
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import Killed, killed, passed, run

MAY, JUNE = (date(2026, month, 1) for month in (5, 6))
KEY = MAY.isoformat()
CHECKS = [one for one in all_document_checks if "left_nothing_out" not in str(one.check_key)]


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    """Berlin has devices, calls and storage in May; Kolkata a fee, in another currency."""
    books = Books(shared_stores)
    books.seller()
    berlin, kolkata = books.organization("berlin", "Europe/Berlin"), books.organization("kolkata", "Asia/Kolkata")
    items = [item("device", "3.90", basis="reporting"), item("storage", "0.1"), item("api_calls", "0.001")]
    books.agreement(berlin, *items, tax={"category": "S", "rate": "19"})
    books.agreement(kolkata, item("flat", "1000"), currency="JPY")
    books.reported(berlin, books.device(berlin, 1), days_of(MAY))
    for organization in (berlin, kolkata):
        books.used(organization, days_of(MAY), calls=100, storage=10)
    books.measure(days_of(MAY))
    return books


def draft(books: Books, month: date = MAY) -> dict[str, bool]:
    return passed(run(books.stores, invoices, *CHECKS, key=month.isoformat()))


def test_twice_the_same_to_the_cent(books: Books) -> None:
    """3.90 + 1.00 + 3.10, and 19 % of 8.00."""
    assert all(draft(books).values())
    first = everything(books.stores)
    assert [len(rows) for rows in first.values()] == [2, 4, 2, 4]
    assert sorted(str(row["total"]) for row in first["heads"]) == ["1000", "9.52"]
    assert {row["days_covered"] for row in first["heads"]} == {31}
    run(books.stores, invoices, *CHECKS, span=(KEY, KEY))
    assert everything(books.stores) == first


STEPS: dict[str, tuple[type, str, int, bool]] = {
    "in PostgreSQL's transaction": (psycopg.Cursor, "executemany", 2, False),
    "between PostgreSQL and ClickHouse": (ClickHouse, "insert", 1, False),
    "before what the documents replaced is deleted": (ClickHouse, "insert", 1, True),
    "between documents and lines": (ClickHouse, "insert", 2, False),
    "before what the lines replaced is deleted": (ClickHouse, "insert", 2, True),
}


@pytest.mark.parametrize(("owner", "method", "call", "after"), STEPS.values(), ids=STEPS.keys())
def test_killed_anywhere_and_run_again(books: Books, owner: type, method: str, call: int, after: bool) -> None:
    """A draft that changes and one that vanishes, and the process dies: a rerun leaves both stores the same."""
    draft(books)
    old = everything(books.stores)
    books.used(named("berlin"), [MAY], calls=999_999)
    books.measure([MAY])
    with books.stores.postgres.transaction() as connection:
        connection.execute("UPDATE billing.agreement_items SET term = '[2025-12-01,2026-05-01)' WHERE currency = 'JPY'")
        connection.execute("UPDATE billing.agreements SET term = '[2025-12-01,2026-05-01)' WHERE currency = 'JPY'")
    with killed(owner, method, call, after), pytest.raises(Killed):
        run(books.stores, invoices, key=KEY)
    half = everything(books.stores)
    if owner is psycopg.Cursor:
        assert half == old  # all of it or nothing
    else:
        assert len(half["heads"]) == 1  # the record has the new one
        record = totals_in_postgres(books.stores.postgres, MAY)
        # Once both are in, readers see nothing of what they replaced.
        assert (record == totals_in_clickhouse(books.stores.clickhouse, MAY)) is ((call, after) == (2, True))
    assert all(draft(books).values())
    new = everything(books.stores)
    assert [len(rows) for rows in new.values()] == [1, 3, 1, 3]
    draft(books)
    assert everything(books.stores) == new


def test_an_older_run_does_not_win(books: Books) -> None:
    """A run that was paused for an hour wrote its old drafts over the newer ones in one store of the two."""
    as_of = books.stores.clickhouse.now()
    drawn = draw_up(books.stores.postgres, books.stores.clickhouse, MAY)
    draft(books)
    first = everything(books.stores)
    with pytest.raises(write.Superseded):
        write.save_drafts(books.stores.postgres, books.stores.clickhouse, MAY, drawn[:1], as_of)
    assert everything(books.stores) == first


def test_what_is_issued_while_drafts_are_written_stays(books: Books) -> None:
    """The run had computed a draft of it before."""
    drawn = draw_up(books.stores.postgres, books.stores.clickhouse, MAY)
    at = datetime(2026, 9, 1, tzinfo=UTC)
    issued = finalise(books.stores.postgres, books.stores.clickhouse, MAY, clock=lambda: at).issued
    before = everything(books.stores)
    write.save_drafts(books.stores.postgres, books.stores.clickhouse, MAY, drawn, books.stores.clickhouse.now())
    assert everything(books.stores) == before
    assert all(draft(books).values())
    assert everything(books.stores) == before
    assert len(issued) == 2


def test_another_month_is_left_alone(books: Books) -> None:
    draft(books)
    draft(books, JUNE)
    both = everything(books.stores)
    assert len(both["heads"]) == 4
    draft(books)
    assert everything(books.stores) == both


def test_no_agreement_no_document_and_the_checks_pass(shared_stores: Stores) -> None:
    assert all(draft(Books(shared_stores)).values())
    assert not any(everything(shared_stores).values())


def test_ids_are_the_same_in_every_run(books: Books) -> None:
    """A draft of 0.4.0 had the id that follows from its contract, which is that of the agreement, and the month."""
    draft(books)
    found = {row["id"] for row in everything(books.stores)["heads"]}
    agreements = [named(named(name), "agreement") for name in ("berlin", "kolkata")]
    assert found == {uuid.uuid5(id_, KEY) for id_ in agreements}
