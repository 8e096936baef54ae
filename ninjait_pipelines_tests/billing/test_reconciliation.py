"""What does not fit together is found in the stores, with its cost, and the same however often it is looked for."""

import uuid
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.reconciliation import (
    NONE,
    billing_reconciliation,
    billing_reconciliation_left_nothing_out,
    devices_and_bills_fit,
    findings,
)
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.conftest import Platform, hours_between
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import add, content, killed, left_out, passed, run

APRIL = date(2026, 4, 1)
KEY = "2026-04-01"


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    return Books(shared_stores)


@pytest.fixture
def acme(books: Books) -> uuid.UUID:
    """A registered device at 5.00 that is silent since the 3rd, and one that was retired on the 11th and goes on."""
    acme = books.organization("acme")
    books.agreement(acme, item("device", "5.00"))
    books.reported(acme, books.device(acme, 1), days_of(APRIL)[:3])
    retired = books.device(acme, 2)
    books.reported(acme, retired, days_of(APRIL))
    update(books.stores, "devices", "retired_at = '2026-04-11T00:00:00Z'", retired)
    return acme


def update(stores: Stores, table: str, change: str, id_: uuid.UUID) -> None:
    with stores.postgres.transaction() as connection:
        connection.execute(f"UPDATE {table} SET {change} WHERE id = %s".encode(), [id_])


def measure(books: Books) -> None:
    for organization in (*books._zones,):
        books.used(organization, days_of(APRIL))
    books.measure(days_of(APRIL))


def found(stores: Stores, **more: Any) -> list[tuple[str, int, str]]:
    rows = findings(stores.postgres, stores.clickhouse, APRIL, **more)
    return sorted((row["finding"], row["days"], str(row["amount"])) for row in rows)


def test_silent_and_retired_devices_are_named(books: Books, acme: uuid.UUID) -> None:
    """Heard of on three of 30 days: 27 days, 4.50. Retired on the 11th: 20 days of reports that cost nothing."""
    measure(books)
    assert found(books.stores) == [("retired_and_sending", 20, "0.00"), ("silent_but_billed", 27, "4.50")]


def test_the_mart_has_them_and_the_check_counts_them(books: Books, acme: uuid.UUID) -> None:
    measure(books)
    result = run(books.stores, billing_reconciliation, devices_and_bills_fit, key=KEY)
    [check] = result.get_asset_check_evaluations()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == (
        "retired_and_sending: devices 1, days 20; silent_but_billed: devices 1, days 27, EUR 4.50"
    )
    rows = books.stores.clickhouse.rows("SELECT month, finding, product, currency FROM billing_reconciliation")
    assert {tuple(row.values()) for row in rows} == {
        (APRIL, "silent_but_billed", "device", "EUR"),
        (APRIL, "retired_and_sending", "", "EUR"),
    }


def test_a_rerun_gives_the_same_also_after_a_death(books: Books, acme: uuid.UUID) -> None:
    measure(books)
    run(books.stores, billing_reconciliation, key=KEY)
    first = content(books.stores, "billing_reconciliation")
    for after in (False, True):
        with killed(ClickHouse, "insert", after=after):
            run(books.stores, billing_reconciliation, key=KEY, fails=True)
        assert content(books.stores, "billing_reconciliation") == first
    run(books.stores, billing_reconciliation, key=KEY)
    assert len(first) == 2
    assert content(books.stores, "billing_reconciliation") == first


def test_findings_that_are_gone_go(books: Books, acme: uuid.UUID) -> None:
    measure(books)
    run(books.stores, billing_reconciliation, key=KEY)
    books.reported(acme, books.device_id(acme, 1), days_of(APRIL))
    measure(books)
    update(books.stores, "devices", "retired_at = NULL", books.device_id(acme, 2))
    checked = run(books.stores, billing_reconciliation, devices_and_bills_fit, key=KEY)
    assert passed(checked) == {"devices_and_bills_fit": True}
    assert content(books.stores, "billing_reconciliation") == []


def test_an_organization_that_is_deactivated_is_billed_on(books: Books, acme: uuid.UUID) -> None:
    """At the end of the 20th: ten days of the device that is left, 1.67 of 5.00."""
    measure(books)
    update(books.stores, "organizations", "deactivated_at = '2026-04-21T00:00:00Z'", acme)
    assert ("deactivated_but_billed", 10, "1.67") in found(books.stores)


def test_two_agreements_that_bill_one_device(books: Books, acme: uuid.UUID) -> None:
    books.agreement(acme, item("device", "3.00", **{"from": "2026-04-16"}), name="other")
    measure(books)
    twice = [row for row in found(books.stores) if row[0] == "billed_twice"]
    assert twice == [("billed_twice", 15, "1.50"), ("billed_twice", 15, "2.50")]


def test_devices_of_an_organization_without_agreement(shared_stores: Stores) -> None:
    """Kolkata: the sample at 18:45 UTC on 31 March is of 1 April; those of 30 April after 18:30 UTC are of May."""
    platform = Platform(shared_stores)
    organization = platform.organization("loose", "Asia/Kolkata")
    start = datetime(2026, 3, 31, 19, tzinfo=UTC)
    platform.samples(organization, 1, hours_between(start, datetime(2026, 4, 3, tzinfo=UTC)))
    platform.samples(organization, 2, [datetime(2026, 4, 30, 19, tzinfo=UTC)])
    [row] = findings(shared_stores.postgres, shared_stores.clickhouse, APRIL)
    assert (row["organization_id"], row["device_id"]) == (organization, uuid.uuid5(organization, "1"))
    assert (row["finding"], row["days"], row["agreement_id"]) == ("without_agreement", 3, NONE)
    other = platform.organization("other", "UTC")
    assert findings(shared_stores.postgres, shared_stores.clickhouse, APRIL, organization=str(other)) == []


def test_one_organization_that_cannot_be_compared_stops_only_itself(books: Books, acme: uuid.UUID) -> None:
    """Two terms of one device at once, which the database refuses today."""
    bad = books.organization("bad")
    books.agreement(bad, item("device", "5.00"))
    device = books.device(bad, 1)
    with books.stores.postgres.transaction() as connection:
        connection.execute("ALTER TABLE billing.device_terms DROP CONSTRAINT terms_of_a_device_do_not_overlap")
    add(books.stores, "billing.device_terms", [{"organization_id": bad, "device_id": device, "term": "[2026-01-01Z,)"}])
    measure(books)
    both = (billing_reconciliation, billing_reconciliation_left_nothing_out)
    assert str(bad) in left_out(run(books.stores, *both, key=KEY), "billing_reconciliation")
    assert len(content(books.stores, "billing_reconciliation")) == 2


def test_a_retired_device_that_goes_on_costs_nothing_after_and_is_named(books: Books) -> None:
    """31.00 a month by day, retired on 11 March: 10.00, and 21 days of reports."""
    march = date(2026, 3, 1)
    acme = books.organization("acme")
    books.agreement(acme, item("device", "31.00"))
    device = books.device(acme, 1)
    books.reported(acme, device, days_of(march))
    books.used(acme, days_of(march))
    books.measure(days_of(march))
    update(books.stores, "devices", "retired_at = '2026-03-11T00:00:00Z'", device)
    [drawn] = draw_up(books.stores.postgres, books.stores.clickhouse, march)
    assert str(drawn.document.total) == "10.00"
    [row] = findings(books.stores.postgres, books.stores.clickhouse, march)
    assert (row["finding"], row["device_id"], row["days"]) == ("retired_and_sending", device, 21)
