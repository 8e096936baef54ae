"""A month under other items: the same usage and the same functions as the run, and nothing is written."""

import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest

from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.rating.agreement import Refused
from ninjait_pipelines.billing.simulate import Simulation, simulate_agreement, simulate_plan
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.conftest import Platform
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import add

JUNE, JULY = date(2026, 6, 1), date(2026, 7, 1)


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    return Books(shared_stores)


@pytest.fixture
def acme(books: Books) -> uuid.UUID:
    """Two devices at 8.00 and 100 calls a day at 0.01, in USD: 16.00 and 30.00 in June."""
    acme = books.organization("acme")
    books.agreement(acme, item("device", "8"), item("api_calls", "0.01"), currency="USD")
    books.reported(acme, books.device(acme, 1), days_of(JUNE))
    books.device(acme, 2)
    books.used(acme, days_of(JUNE), calls=100)
    books.measure(days_of(JUNE))
    return acme


def simulated(stores: Stores, plan: str = "standard", **more: Any) -> Simulation:
    return simulate_plan(stores.postgres, stores.clickhouse, JUNE, plan, **more)


def everything(stores: Stores) -> list[Any]:
    tables = ("device_days_versions", "usage_days_versions", "invoices_versions", "billing_quantities_versions")
    counts = [stores.clickhouse.scalar(f"SELECT count() FROM {table}") for table in tables]
    return [*counts, stores.postgres.rows("SELECT count(*) AS n FROM billing.invoices")]


def test_a_plan_costs_what_it_would_cost(shared_stores: Stores, acme: uuid.UUID) -> None:
    """Standard: 5.00 for the device that reports, 3,000 calls at 0.001, no storage: 8.00 for 46.00."""
    before = everything(shared_stores)
    found = simulated(shared_stores)
    [one] = found.agreements
    assert (one.organization_id, str(one.before), str(one.after), str(one.difference)) == (
        str(acme),
        "46.00",
        "8.00",
        "-38.00",
    )
    assert {currency: [str(amount) for amount in amounts] for currency, amounts in found.sums.items()} == {
        "USD": ["46.00", "8.00", "-38.00"]
    }
    assert everything(shared_stores) == before


def test_before_is_what_the_run_drafts(shared_stores: Stores, acme: uuid.UUID) -> None:
    [drawn] = draw_up(shared_stores.postgres, shared_stores.clickhouse, JUNE)
    assert simulated(shared_stores).agreements[0].before == drawn.document.total


def test_after_is_what_the_run_would_draft(shared_stores: Stores, books: Books, acme: uuid.UUID) -> None:
    """The plan is entered instead of the items."""
    after = simulated(shared_stores).agreements[0].after
    with shared_stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM billing.agreement_items")
        query = "SELECT billing.subscribe(a.id, p.name, a.term) FROM billing.agreements AS a, billing.plans AS p"
        connection.execute(query)
    books.used(acme, days_of(JUNE), calls=100)
    [drawn] = draw_up(shared_stores.postgres, shared_stores.clickhouse, JUNE)
    assert drawn.document.total == after


def test_what_was_not_measured_for_an_agreement_is_measured(shared_stores: Stores, books: Books) -> None:
    """It pays a fee; its calls have never been counted, and would have been simulated as none."""
    acme = books.organization("fee")
    books.agreement(acme, item("flat", "100"), currency="USD")
    platform = Platform(shared_stores)
    start = datetime(2026, 6, 3, tzinfo=UTC)
    platform.calls(acme, *(start + timedelta(minutes=number) for number in range(1000)))
    platform.usage(acme, datetime(2026, 5, 31, 12, tzinfo=UTC), "30", "1")
    [one] = simulated(shared_stores).agreements
    # 1,000 calls at 0.001, and 30 GB at 0.10, carried forward from 1 June for 6.5 of 30 days
    assert (str(one.before), str(one.after)) == ("100.00", "1.65")
    assert "storage" in one.incomplete


def test_another_currency_stays_as_it_is(shared_stores: Stores, books: Books, acme: uuid.UUID) -> None:
    other = books.organization("euro")
    id_ = books.agreement(other, item("flat", "7"))
    found = simulated(shared_stores)
    assert (len(found.agreements), found.left_as_they_are) == (1, (str(id_),))
    assert simulated(shared_stores, organization=str(other)).agreements == ()


def test_an_unknown_plan_is_refused(shared_stores: Stores) -> None:
    with pytest.raises(Refused, match="there is no plan 'gold'; there are standard"):
        simulated(shared_stores, plan="gold")


def test_what_cannot_be_rated_is_named(shared_stores: Stores, acme: uuid.UUID) -> None:
    """The plan's price is used from a day after the month."""
    columns = {"id": uuid.UUID(int=7), "name": "new", "currency": "USD"}
    [product] = shared_stores.postgres.rows("SELECT id FROM billing.products WHERE name = 'base_fee'")
    add(shared_stores, "billing.plans", [columns])
    add(shared_stores, "billing.prices", [{**columns, "product_id": product["id"]}])
    add(
        shared_stores,
        "billing.price_versions",
        [{"price_id": columns["id"], "version": 1, "used_from": JULY, "amount": 1}],
    )
    item_ = {"plan_id": columns["id"], "currency": "USD", "product_id": product["id"], "kind": "flat"}
    add(shared_stores, "billing.plan_items", [{**item_, "price_id": columns["id"]}])
    found = simulated(shared_stores, plan="new")
    [reason] = found.left_out.values()
    assert "no price is in use on 2026-06-01" in reason
    assert found.agreements == ()


def test_an_agreement_as_it_is_given(shared_stores: Stores, acme: uuid.UUID) -> None:
    [agreed] = agreements_in_force(shared_stores.postgres, JUNE, JULY)
    device, *_ = sorted(agreed.items, key=lambda one: one.kind == "api_calls")
    dearer = msgspec.structs.replace(device, prices=(msgspec.structs.replace(device.prices[0], amount="9"),))
    given = msgspec.json.decode(
        msgspec.json.encode(msgspec.structs.replace(agreed, items=(dearer,))), type=type(agreed)
    )
    [one] = simulate_agreement(shared_stores.postgres, shared_stores.clickhouse, JUNE, given).agreements
    assert (str(one.before), str(one.after)) == ("46.00", "18.00")
    new = msgspec.structs.replace(given, id="A-2")
    [one] = simulate_agreement(shared_stores.postgres, shared_stores.clickhouse, JUNE, new).agreements
    assert (one.before, str(one.after), str(one.difference)) == (None, "18.00", "18.00")
    with pytest.raises(Refused, match="organization_id: 'acme' is no UUID"):
        simulate_agreement(
            shared_stores.postgres,
            shared_stores.clickhouse,
            JUNE,
            msgspec.structs.replace(given, organization_id="acme"),
        )
