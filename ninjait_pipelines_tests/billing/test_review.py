"""The list before documents are issued says what a person should look at."""

from datetime import UTC, date, datetime
from decimal import Decimal

from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.billing.review import Reviewed, review
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, days_of, everything
from ninjait_pipelines_tests.billing.rating.agreements import item

MAY, JUNE = date(2026, 5, 1), date(2026, 6, 1)
NOW = datetime(2026, 9, 1, tzinfo=UTC)


def test_what_is_incomplete_has_findings_or_costs_something_else_than_before(shared_stores: Stores) -> None:
    """One device reports on ten days of May, and is silent on 21; in June it is not measured at all."""
    books = Books(shared_stores)
    books.seller()
    acme = books.organization("acme")
    id_ = books.agreement(acme, item("device", "31"), item("storage", "1"))
    books.reported(acme, books.device(acme, 1), days_of(MAY)[:10])
    books.used(acme, days_of(MAY), storage=10)
    books.measure(days_of(MAY))
    before = everything(shared_stores)
    [may] = review(shared_stores.postgres, shared_stores.clickhouse, MAY, NOW).drafts
    assert everything(shared_stores) == before
    assert may == Reviewed(str(id_), "acme", "EUR", Decimal("41.00"), Decimal("41.00"), None, 0, Decimal(1), 1, None)
    finalise(shared_stores.postgres, shared_stores.clickhouse, MAY, clock=lambda: NOW)
    [june] = review(shared_stores.postgres, shared_stores.clickhouse, JUNE, NOW).drafts
    assert (june.before, june.total, june.completeness) == (may.total, Decimal("31.00"), 0)
    assert june.waits == "usage is incomplete: storage"


def test_a_device_that_another_agreement_bills_is_no_finding(shared_stores: Stores) -> None:
    """One agreement has the servers, the other the laptops; the only device is a server."""
    books = Books(shared_stores)
    acme = books.organization("acme")
    servers, laptops = (
        books.agreement(acme, item("device", "1", product=kind, filter={"classes": [kind]}), name=kind)
        for kind in ("server", "laptop")
    )
    books.reported(acme, books.device(acme, 1), days_of(MAY))
    books.used(acme, days_of(MAY))
    books.measure(days_of(MAY))
    for only in (None, [servers], [laptops]):
        found = review(shared_stores.postgres, shared_stores.clickhouse, MAY, NOW, only).drafts
        assert [one.findings for one in found] == [0] * (1 if only else 2)
