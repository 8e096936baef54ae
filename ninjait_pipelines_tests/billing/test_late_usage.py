"""Usage that is late for an issued month, from the samples of devices to the document that charges it."""

import uuid
from datetime import UTC, date, datetime, timedelta

import pytest

from ninjait_pipelines.billing.assets import billing_events
from ninjait_pipelines.billing.document_checks import all_document_checks
from ninjait_pipelines.billing.documents import invoices
from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.billing.rating.document import Document
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.conftest import Platform, hours_between
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import add, passed, run

MAY, JUNE, JULY, AUGUST = (date(2026, month, 1) for month in (5, 6, 7, 8))
LATE = [date(2026, 5, day) for day in (10, 11, 12)]


def clock() -> datetime:
    return datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def acme(platform: Platform) -> uuid.UUID:
    """5.00 per device that reports; of two devices one has sent samples, in all of May."""
    organization = platform.organization("acme", "UTC")
    books = Books(platform.stores)
    books.seller()
    books.agreement(organization, item("device", "5", basis="reporting"))
    devices = [uuid.uuid5(organization, str(number)) for number in (1, 2)]
    row = {"organization_id": organization, "kind": "server", "os_version": "?", "created_at": _start(MAY)}
    add(platform.stores, "devices", [{**row, "id": id_, "name": str(id_)} for id_ in devices])
    platform.rolled_up(hours_between(_start(MAY), _start(AUGUST)))
    platform.samples(organization, 1, hours_between(_start(MAY), _start(JUNE)))
    measured(platform, days_of(MAY))
    return organization


def measured(platform: Platform, days: list[date]) -> None:
    run(platform.stores, billing_events, span=(days[0].isoformat(), days[-1].isoformat()))


def drafted(stores: Stores, month: date) -> dict[str, str]:
    """Line's kind -> amount, as ClickHouse has it after a run of the asset, whose checks pass."""
    result = run(stores, invoices, *all_document_checks, key=month.isoformat())
    assert all(passed(result).values())
    rows = stores.clickhouse.rows(
        "SELECT kind, toString(amount) AS amount FROM invoice_lines WHERE period_starts_on = {month:Date}", month=month
    )
    return {row["kind"]: row["amount"] for row in rows}


def issued(stores: Stores, month: date) -> Document:
    [found] = finalise(stores.postgres, stores.clickhouse, month, force="a test", clock=clock).issued
    return found


def test_three_device_days_of_may_that_arrive_in_july(platform: Platform, acme: uuid.UUID) -> None:
    """3 of 31 days at 5.00 are 0.48, on July's document and on no other; May's bytes stay."""
    stores = platform.stores
    assert drafted(stores, MAY) == {"charge": "5"}
    may = issued(stores, MAY)
    issued(stores, JUNE)
    before = stores.postgres.rows("SELECT document, sha256 FROM billing.invoices WHERE number = '2026-000001'")
    for day in LATE:
        platform.samples(acme, 2, [_start(day) + timedelta(hours=9)])
    measured(platform, LATE)
    assert drafted(stores, MAY) == {"charge": "5"}
    assert drafted(stores, JULY) == {"charge": "0", "correction": "0.48"}
    july = issued(stores, JULY)
    assert (str(may.total), str(july.total)) == ("5.00", "0.48")
    assert drafted(stores, AUGUST) == {"charge": "0"}
    after = stores.postgres.rows("SELECT document, sha256 FROM billing.invoices WHERE number = '2026-000001'")
    assert after == before
    assert stores.clickhouse.scalar("SELECT sum(total) FROM invoices WHERE status = 'issued'") == may.total + july.total


def _start(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


def test_days_that_are_measured_again_and_are_the_same_correct_nothing(platform: Platform, acme: uuid.UUID) -> None:
    issued(platform.stores, MAY)
    measured(platform, [MAY, MAY + DAY])
    assert drafted(platform.stores, JUNE) == {"charge": "0"}
