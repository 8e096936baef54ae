"""Invoices on real stores: equal in both, to the cent, however often and wherever a run dies."""

import uuid
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest

from ninjait_pipelines.billing import assets, checks, write
from ninjait_pipelines.billing.local_time import DAY, day_window, hours_of, next_month
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines_tests.billing.conftest import (
    BERLIN,
    BERLIN_1,
    BERLIN_2,
    CHECKS,
    DAYS,
    KEY,
    KOLKATA,
    KOLKATA_1,
    MIDDLE,
    MONTH,
    WHOLE,
    Platform,
    everything,
)
from ninjait_pipelines_tests.runs import Killed, killed, passed, run


def lines_of(stores: Stores, contract: uuid.UUID) -> dict[str, tuple[Decimal, Decimal]]:
    """Kind -> (quantity, amount) of a contract's invoice in PostgreSQL."""
    query = (
        "SELECT kind, quantity, amount FROM billing.invoice_lines AS l "
        "JOIN billing.invoices AS i ON i.id = l.invoice_id WHERE i.contract_id = %(contract)s"
    )
    return {
        row["kind"]: (row["quantity"], row["amount"]) for row in stores.postgres.rows(query, {"contract": contract})
    }


def cents(value: Decimal) -> Decimal:
    return value.quantize(Decimal("0.01"), "ROUND_HALF_UP")


def test_a_month_from_samples_to_invoices(contracts: Platform) -> None:
    """The whole way, billing events included: a device all month, another for three days; an hour is not rolled up."""
    for organization, zone in ((BERLIN, "Europe/Berlin"), (KOLKATA, "Asia/Kolkata")):
        start, end = day_window(MONTH, zone)[0], day_window(next_month(MONTH) - DAY, zone)[1]
        hours = hours_of(start, end)
        contracts.samples(organization, 1, hours)
        contracts.samples(organization, 2, hours[: 24 * 3])
        for week in range(5):
            contracts.usage(organization, start + week * timedelta(days=7), "100.5", "10")
        contracts.calls(organization, *(start + i * timedelta(hours=2) for i in range(12 * DAYS)))
        contracts.rolled_up(hours[1:])
    contracts.calls(KOLKATA, *(start + timedelta(seconds=i) for i in range(4000)))
    run(contracts.stores, assets.billing_events, span=WHOLE)
    result = run(contracts.stores, assets.invoices, *CHECKS, key=KEY)
    assert passed(result) == {"lines_add_up": True, "stores_agree": True}
    kolkata = lines_of(contracts.stores, KOLKATA_1)
    calls = 4000 + 12 * DAYS
    assert kolkata["api_calls"][0] == Decimal(calls - 3100) / 1000
    assert {kind: amount for kind, (_, amount) in kolkata.items()} == {
        "base_fee": Decimal("99.00"),
        "devices": cents(Decimal("3.90") * (DAYS + 3) / DAYS),
        "storage": Decimal("10.05"),
        "backup": Decimal("0.50"),
        "api_calls": cents(Decimal(calls - 3100) / 1000 * Decimal("0.50")),
    }
    before, after = lines_of(contracts.stores, BERLIN_1), lines_of(contracts.stores, BERLIN_2)
    assert before["base_fee"][1] == cents(Decimal(99) * 16 / DAYS)
    assert after["base_fee"][1] == cents(Decimal(109) * (DAYS - 16) / DAYS)
    assert before["devices"][1] == cents(Decimal("3.90") * (16 + 3) / DAYS)
    assert after["storage"][1] == cents(Decimal("0.20") * Decimal("100.5") * (DAYS - 16) / DAYS)
    heads = {row["contract_id"]: row for row in contracts.stores.postgres.rows("SELECT * FROM billing.invoices")}
    assert heads.keys() == {KOLKATA_1, BERLIN_1, BERLIN_2}
    assert heads[BERLIN_2]["price_plan_version"] == 2
    kolkatas = heads[KOLKATA_1]
    assert (kolkatas["days_covered"], kolkatas["days_in_period"]) == (DAYS - 1, DAYS)
    assert (heads[BERLIN_2]["days_covered"], heads[BERLIN_2]["days_in_period"]) == (DAYS - 16, DAYS - 16)
    assert (kolkatas["period_starts_on"], kolkatas["period_ends_on"]) == (MONTH, next_month(MONTH))
    assert kolkatas["period_start"] == day_window(MONTH, "Asia/Kolkata")[0]
    assert kolkatas["total"] == sum(amount for _, amount in kolkata.values())
    assert {row["as_of"] for row in contracts.stores.clickhouse.rows("SELECT as_of FROM invoices")} == {
        kolkatas["as_of"]
    }


def test_days_without_events_and_incomplete_ones_are_not_covered(contracts: Platform) -> None:
    first, _, kolkata = assets.contracts_in_force(contracts.stores.postgres, MONTH, next_month(MONTH))
    contracts.events(first, [MONTH, MONTH + DAY, MIDDLE])  # on MIDDLE the next contract is in force
    contracts.events(first, [MONTH + DAY], completeness=0.96)
    run(contracts.stores, assets.invoices, key=KEY)
    heads = {row["contract_id"]: row for row in contracts.stores.postgres.rows("SELECT * FROM billing.invoices")}
    assert {id_: row["days_covered"] for id_, row in heads.items()} == {first.id: 1, BERLIN_2: 1, kolkata.id: 0}
    assert lines_of(contracts.stores, first.id)["storage"][0] == round(Decimal(201) / DAYS, 6)


def test_twice_the_same_to_the_cent(month: Platform) -> None:
    run(month.stores, assets.invoices, key=KEY)
    first = everything(month.stores)
    assert [len(rows) for rows in first.values()] == [3, 15, 3, 15]
    run(month.stores, assets.invoices, *CHECKS, span=(KEY, KEY))
    assert everything(month.stores) == first


STEPS: dict[str, tuple[type, str, int, bool]] = {
    "in PostgreSQL's transaction": (psycopg.Cursor, "executemany", 2, False),
    "between PostgreSQL and ClickHouse": (ClickHouse, "insert", 1, False),
    "before what the invoices replaced is deleted": (ClickHouse, "insert", 1, True),
    "between invoices and lines": (ClickHouse, "insert", 2, False),
    "before what the lines replaced is deleted": (ClickHouse, "insert", 2, True),
}


@pytest.mark.parametrize(("owner", "method", "call", "after"), STEPS.values(), ids=STEPS.keys())
def test_killed_anywhere_and_run_again(month: Platform, owner: type, method: str, call: int, after: bool) -> None:
    """An invoice that changes and one that vanishes, and the process dies: a rerun leaves both stores the same."""
    run(month.stores, assets.invoices, key=KEY)
    old = everything(month.stores)
    (berlin,) = assets.contracts_in_force(month.stores.postgres, MIDDLE, MIDDLE + DAY)[:1]
    month.events(berlin, [MIDDLE], storage="9999")
    with month.stores.postgres.transaction() as connection:
        connection.execute("UPDATE contracts SET ends_on = %s WHERE id = %s", (MONTH, KOLKATA_1))
    with killed(owner, method, call, after), pytest.raises(Killed):
        run(month.stores, assets.invoices, key=KEY)
    half = everything(month.stores)
    if owner is psycopg.Cursor:
        assert half == old  # all of it or nothing
    else:
        assert len(half["heads"]) == 2  # the system of record has the new ones
        record = checks.totals_in_postgres(month.stores.postgres, MONTH)
        agree = record == checks.totals_in_clickhouse(month.stores.clickhouse, MONTH)
        # Once both are in, readers see nothing of what they replaced.
        assert agree is ((call, after) == (2, True))
    assert all(passed(run(month.stores, assets.invoices, *CHECKS, key=KEY)).values())
    new = everything(month.stores)
    assert [len(rows) for rows in new.values()] == [2, 10, 2, 10]
    run(month.stores, assets.invoices, key=KEY)
    assert everything(month.stores) == new


def test_an_older_run_does_not_win(month: Platform) -> None:
    """A run that was paused for an hour wrote its old invoices over the newer ones in one store of the two."""
    as_of = month.stores.clickhouse.now()
    drafts = assets.invoices_of_month(month.stores.postgres, month.stores.clickhouse, MONTH)
    run(month.stores, assets.invoices, key=KEY)
    first = everything(month.stores)
    with pytest.raises(write.Superseded):
        write.save_invoices(month.stores.postgres, month.stores.clickhouse, MONTH, drafts[:1], as_of)
    assert everything(month.stores) == first


def test_another_month_is_left_alone(month: Platform) -> None:
    run(month.stores, assets.invoices, key=KEY)
    following = next_month(MONTH)
    run(month.stores, assets.invoices, key=following.isoformat())
    assert len(everything(month.stores)["heads"]) == 5  # Berlin's first contract was over
    run(month.stores, assets.invoices, key=KEY)
    assert [len(rows) for rows in everything(month.stores).values()] == [5, 25, 5, 25]
