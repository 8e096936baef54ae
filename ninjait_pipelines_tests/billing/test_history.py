"""Which issued periods changed since they were last taken into account."""

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.finalise import finalise, void
from ninjait_pipelines.billing.history import Entry, Stored, changed, entries, fingerprints, issued, measured_months
from ninjait_pipelines.billing.rating.agreement import Refused
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.rating.agreements import item

MAY, JUNE, JULY = (date(2026, month, 1) for month in (5, 6, 7))
ZERO = uuid.UUID(int=0)


def clock() -> datetime:
    return datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    books = Books(shared_stores)
    books.seller()
    return books


@pytest.fixture
def acme(books: Books) -> uuid.UUID:
    """One device, which reports in May."""
    organization = books.organization("acme")
    books.agreement(organization, item("device", "5", basis="reporting"))
    books.reported(organization, books.device(organization, 1), days_of(MAY))
    for month in (MAY, JUNE):
        books.used(organization, days_of(month))
        books.measure(days_of(month))
    with books.stores.postgres.transaction() as connection:
        connection.execute("UPDATE billing.changed_terms SET changed_at = changed_at - interval '2 hours'")
    return organization


def history(books: Books) -> dict[str, list[Entry]]:
    with books.stores.postgres.transaction() as connection:
        return {id_: list(own) for id_, own in entries(connection).items()}


def again(books: Books, month: date) -> list[date]:
    """The periods that a document of a month would compute again."""
    found = history(books)
    ids = changed(books.stores.clickhouse, found, month, {})
    return [one.period_starts_on for own in found.values() for one in own if one.id in ids]


def finalised(books: Books, *months: date) -> list[Any]:
    found = [finalise(books.stores.postgres, books.stores.clickhouse, month, clock=clock) for month in months]
    return [document for one in found for document in one.issued]


def test_a_fingerprint_is_of_what_was_measured_and_not_of_when(books: Books, acme: uuid.UUID) -> None:
    def now() -> str:
        return fingerprints(books.stores.clickhouse, [str(acme)], [MAY])[str(acme), "UTC", MAY]

    before = now()
    books.measure(days_of(MAY))
    assert now() == before
    books.used(acme, [MAY], calls=1)
    books.measure([MAY])
    assert now() != before
    books.used(acme, [MAY])
    books.measure([MAY])
    assert now() == before
    assert fingerprints(books.stores.clickhouse, [], [MAY]) == {}


def test_months_that_were_measured_since(books: Books, acme: uuid.UUID) -> None:
    then = books.stores.clickhouse.now()
    assert measured_months(books.stores.clickhouse, then) == {}
    books.measure([date(2026, 6, 30)])
    found = measured_months(books.stores.clickhouse, then)
    assert list(found) == [JUNE]
    assert then < found[JUNE]
    assert set(measured_months(books.stores.clickhouse, then - timedelta(hours=1))) == {MAY, JUNE}


def test_what_a_later_document_took_into_account_is_not_computed_again(books: Books, acme: uuid.UUID) -> None:
    """Until that one is void."""
    finalised(books, MAY)
    assert again(books, JUNE) == []
    books.reported(acme, books.device(acme, 2, datetime(2026, 5, 20, tzinfo=UTC)), [date(2026, 5, 20)])
    books.measure([date(2026, 5, 20)])
    assert again(books, JUNE) == [MAY]
    assert again(books, MAY) == []
    with books.stores.postgres.transaction() as connection:
        connection.execute("UPDATE billing.changed_terms SET changed_at = changed_at - interval '2 hours'")
    [june] = finalised(books, JUNE)
    assert again(books, JULY) == []
    void(books.stores.postgres, books.stores.clickhouse, june.number, "x", clock)
    assert again(books, JULY) == [MAY]


def test_documents_are_read_as_they_were_issued(books: Books, acme: uuid.UUID) -> None:
    [drawn] = draw_up(books.stores.postgres, books.stores.clickhouse, MAY)
    [may] = finalised(books, MAY)
    [[id_, [entry]]] = history(books).items()
    assert (entry.kind, entry.status, entry.period_starts_on) == ("invoice", "issued", MAY)
    [stored] = issued(books.stores.postgres, [uuid.UUID(id_)], [entry.id])[id_]
    found = stored.read()
    assert (found.document, found.agreement, found.changed) == (may, drawn.agreement, True)
    assert issued(books.stores.postgres, [ZERO], []) == {}


def test_a_document_that_cannot_be_read_is_named_and_harms_its_agreement_alone() -> None:
    """Drafts read it one agreement at a time."""
    stored = Stored("2026-000006", b'{"seller": {"name": "x", "address": [null]}}', None, changed=True)
    with pytest.raises(Refused, match=r"document 2026-000006: .*; void it"):
        stored.read()
