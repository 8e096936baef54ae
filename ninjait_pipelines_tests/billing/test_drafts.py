"""Drafts: what is late is corrected once, under the agreement of then, and only what changed is gathered again."""

import uuid
from datetime import UTC, date, datetime
from typing import Any

import pytest

from ninjait_pipelines.billing.drafts import Drawn, draw_up, frozen, hash_of
from ninjait_pipelines.billing.finalise import credit, finalise, void
from ninjait_pipelines.billing.rating.agreement import agreement
from ninjait_pipelines.billing.rating.document import Document
from ninjait_pipelines.billing.rating.usage import usage
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import SINCE, Books, days_of, named
from ninjait_pipelines_tests.billing.rating.agreements import agreed, item, used
from ninjait_pipelines_tests.runs import changed

MARCH, MAY, JUNE, JULY, AUGUST = (date(2026, month, 1) for month in (3, 5, 6, 7, 8))
LATE = [date(2026, 5, day) for day in (10, 11, 12)]


def clock() -> datetime:
    return datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    books = Books(shared_stores)
    books.seller()
    return books


@pytest.fixture
def acme(books: Books) -> uuid.UUID:
    """An organization with an agreement of 5.00 a device that reports; of two devices one does, in May."""
    organization = books.organization("acme")
    books.agreement(organization, item("device", "5", basis="reporting"))
    books.device(organization, 2)
    books.reported(organization, books.device(organization, 1), days_of(MAY))
    for month in (MAY, JUNE, JULY, AUGUST):
        books.used(organization, days_of(month))
        books.measure(days_of(month))
    return organization


def issue(books: Books, month: date) -> Document:
    [found] = finalise(books.stores.postgres, books.stores.clickhouse, month, clock=clock).issued
    return found


def drawn(books: Books, month: date) -> Drawn:
    [found] = draw_up(books.stores.postgres, books.stores.clickhouse, month)
    return found


def late(books: Books, organization: uuid.UUID, days: list[date] = LATE) -> None:
    """The second device has reported on these days, it turns out."""
    books.reported(organization, named(organization, "device", 2), days)
    books.measure(days)


def corrected(document: Document) -> list[tuple[str | None, str, str]]:
    return [(one.corrects, str(one.amount), str(one.from_)) for one in document.lines if one.kind == "correction"]


def hashes(books: Books) -> list[Any]:
    return books.stores.postgres.rows("SELECT number, sha256, document FROM billing.invoices WHERE status <> 'draft'")


def test_what_arrives_in_july_for_may_is_on_julys_document_once(books: Books, acme: uuid.UUID) -> None:
    """3 device-days of 31 at 5.00 are 0.48; one more in August makes 4, 0.65, which is 0.16 more."""
    may = issue(books, MAY)
    before = hashes(books)
    assert issue(books, JUNE).total == 0
    late(books, acme)
    assert corrected(drawn(books, JULY).document) == [("2026-000001", "0.48", "2026-05-01")]
    july = issue(books, JULY)
    assert (str(may.total), str(july.total)) == ("5.00", "0.48")
    assert hashes(books)[0] == before[0]
    assert corrected(drawn(books, AUGUST).document) == []
    late(books, acme, [date(2026, 5, 20)])
    assert corrected(drawn(books, AUGUST).document) == [("2026-000001", "0.17", "2026-05-01")]


def test_the_document_is_what_rate_computes_from_what_was_frozen(books: Books, acme: uuid.UUID) -> None:
    found = drawn(books, MAY)
    assert agreement(frozen(found.agreement)) == found.agreement
    assert usage([frozen(found.usage)]) == found.usage


def test_only_what_changed_is_gathered_again(books: Books, acme: uuid.UUID) -> None:
    """One organization's late device-days make all organizations' day a new version; only that one is gathered."""
    other = books.organization("other")
    books.agreement(other, item("device", "5", basis="reporting"))
    for month in (MAY, JUNE):
        books.used(other, days_of(month))
        books.measure(days_of(month))
    finalise(books.stores.postgres, books.stores.clickhouse, MAY, clock=clock)
    with books.stores.postgres.transaction() as connection:  # devices that were registered within the hour count as new
        connection.execute("UPDATE billing.changed_terms SET changed_at = changed_at - interval '2 hours'")
    asked: list[Any] = []
    counting = changed(books.stores.clickhouse, rows=lambda self, query, **given: _rows(asked, self, query, given))
    with counting.open() as clickhouse:
        draw_up(books.stores.postgres, clickhouse, JUNE)
        assert _months(asked) == {"2026-06-01": 2}
        asked.clear()
        books.measure(LATE)  # again, and nothing is different
        draw_up(books.stores.postgres, clickhouse, JUNE)
        assert _months(asked) == {"2026-06-01": 2}
        asked.clear()
        late(books, acme)
        found = draw_up(books.stores.postgres, clickhouse, JUNE)
    assert _months(asked) == {"2026-05-01": 1, "2026-06-01": 2}
    assert sorted(len(corrected(one.document)) for one in found) == [0, 1]


def _rows(asked: list[Any], clickhouse: Any, query: str, given: dict[str, Any]) -> Any:
    asked.append(given)
    return type(clickhouse).__mro__[1].rows(clickhouse, query, **given)


def _months(asked: list[Any]) -> dict[str, int]:
    """First day -> how many organizations' usage was read from it on."""
    return {str(one["first_day"]): len(one["organizations"]) for one in asked if "first_day" in one}


def test_a_term_that_is_corrected_makes_its_periods_late(books: Books, acme: uuid.UUID) -> None:
    """On a registered basis nothing is measured: the device turns out to have been retired on 16 May."""
    organization = books.organization("registered")
    books.agreement(organization, item("device", "31"))
    device = books.device(organization, 1)
    for month in (MAY, JUNE):
        books.used(organization, days_of(month))
        books.measure(days_of(month))
    finalise(books.stores.postgres, books.stores.clickhouse, MAY, clock=clock)
    with books.stores.postgres.transaction() as connection:
        connection.execute("UPDATE devices SET retired_at = '2026-05-16T12:00:00Z' WHERE id = %s", (device,))
    found = draw_up(books.stores.postgres, books.stores.clickhouse, JUNE)
    assert [amount for one in found for _, amount, _ in corrected(one.document)] == ["-16.00"]


def test_a_document_that_corrected_and_was_voided_has_corrected_nothing(books: Books, acme: uuid.UUID) -> None:
    issue(books, MAY)
    late(books, acme)
    june = issue(books, JUNE)
    assert june.number is not None
    void(books.stores.postgres, books.stores.clickhouse, june.number, "typing error", clock)
    assert corrected(drawn(books, JUNE).document) == [("2026-000001", "0.48", "2026-05-01")]
    assert corrected(issue(books, JUNE)) == [("2026-000001", "0.48", "2026-05-01")]
    assert corrected(drawn(books, JULY).document) == []


def test_a_credit_note_is_kept(books: Books, acme: uuid.UUID) -> None:
    """All of May was given back; three device-days more are charged, and nothing else."""
    may = issue(books, MAY)
    assert may.number is not None
    credit(books.stores.postgres, books.stores.clickhouse, may.number, "a gift", clock=clock)
    late(books, acme)
    assert [amount for _, amount, _ in corrected(drawn(books, JUNE).document)] == ["0.48"]


def test_an_agreement_that_ended_has_a_document_for_what_is_late(books: Books, acme: uuid.UUID) -> None:
    issue(books, MAY)
    with books.stores.postgres.transaction() as connection:
        for table in ("agreement_items", "agreements"):
            connection.execute(f"UPDATE billing.{table} SET term = '[2025-12-01,2026-06-01)'".encode())
    assert draw_up(books.stores.postgres, books.stores.clickhouse, JUNE) == []
    late(books, acme)
    found = drawn(books, JUNE)
    assert corrected(found.document) == [("2026-000001", "0.48", "2026-05-01")]
    assert (found.days_covered, found.days_in_period) == (0, 0)


def test_an_advance_whose_item_ended_sooner_is_given_back(books: Books) -> None:
    """June was billed with May, at 30.00; the item ended on the 16th: 15/30 back, whatever was measured."""
    organization = books.organization("acme")
    books.agreement(organization, item("flat", "30", billed="advance"))
    for month in (MAY, JUNE):
        books.used(organization, days_of(month))
        books.measure(days_of(month))
    assert str(issue(books, MAY).total) == "30.00"
    assert corrected(drawn(books, JUNE).document) == []
    with books.stores.postgres.transaction() as connection:
        connection.execute("UPDATE billing.agreement_items SET term = '[2025-12-01,2026-06-16)'")
    assert [amount for _, amount, _ in corrected(drawn(books, JUNE).document)] == ["-15.00"]


def test_a_bad_agreement_leaves_out_only_itself(books: Books, acme: uuid.UUID) -> None:
    """A term of a device overlaps another one, which the database refuses; as after a restore without constraints."""
    bad = books.organization("bad")
    books.agreement(bad, item("device", "5"))
    device = books.device(bad, 1)
    with books.stores.postgres.transaction() as connection:
        connection.execute("ALTER TABLE billing.device_terms DROP CONSTRAINT terms_of_a_device_do_not_overlap")
        connection.execute(
            "INSERT INTO billing.device_terms (organization_id, device_id, term) VALUES (%s, %s, tstzrange(%s, NULL))",
            (bad, device, SINCE),
        )
    left_out = LeftOut()
    found = draw_up(books.stores.postgres, books.stores.clickhouse, MAY, left_out)
    assert [one.document.organization_id for one in found] == [str(acme)]
    assert [name for name in left_out.reasons if str(bad) in name and str(named(bad, "agreement")) in name]


def test_who_pays_is_the_organization_by_its_own_name(books: Books, acme: uuid.UUID) -> None:
    found = drawn(books, MAY).document.bill_to
    assert found is not None
    assert found.name == "acme"


def test_how_complete_a_draft_is(books: Books, acme: uuid.UUID) -> None:
    september = drawn(books, date(2026, 9, 1))
    assert (september.days_covered, september.days_in_period) == (0, 30)
    assert {str(line.completeness) for line in september.document.lines} == {"0"}
    assert (drawn(books, MAY).days_covered, drawn(books, MAY).days_in_period) == (31, 31)


def test_the_hash_of_an_agreement_is_that_of_what_it_says() -> None:
    """Sets have no order, and their bytes must."""
    one, other = (
        agreed(item("device", "5", filter={"classes": names})) for names in (["a", "b", "c"], ["c", "a", "b"])
    )
    assert hash_of(one) == hash_of(other)
    assert hash_of(one) != hash_of(agreed(item("device", "6")))
    assert frozen(used(devices=[])) == frozen(used())


def test_a_name_that_no_document_may_have_leaves_out_its_organization_alone(books: Books) -> None:
    """It was issued, and could never be read again."""
    for name in ("good", "bad"):
        books.agreement(books.organization(name), item("flat", "100"))
    with books.stores.postgres.transaction() as connection:
        connection.execute("UPDATE organizations SET name = '' WHERE slug = 'bad'")
    left_out = LeftOut()
    [drawn] = draw_up(books.stores.postgres, books.stores.clickhouse, MAY, left_out)
    assert drawn.document.bill_to is not None
    assert drawn.document.bill_to.name == "good"
    [reason] = left_out.reasons.values()
    assert "bill_to.name" in reason
