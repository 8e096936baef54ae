"""Billable quantities on real stores: the right hours, the right contract, again and again the same."""

import itertools
import uuid
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ninjait_pipelines.billing import assets, checks
from ninjait_pipelines.billing.local_time import DAY, HOUR, day_window, hours_of
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines_tests.billing.conftest import LONG_AGO, Platform, small, today
from ninjait_pipelines_tests.runs import Killed, content, killed, left_out, passed, run, spoil

CHECKS = (checks.every_contract_is_measured, checks.every_organization_has_a_contract)


def measured(platform: Platform, day: date) -> dict[uuid.UUID, dict[str, Decimal]]:
    run(platform.stores, assets.billing_events, key=day.isoformat())
    rows = platform.stores.clickhouse.rows("SELECT * FROM billing_quantities WHERE local_day = {day:Date}", day=day)
    result: dict[uuid.UUID, dict[str, Decimal]] = {}
    for row in rows:
        result.setdefault(row["organization_id"], {})[row["kind"]] = row["quantity"]
    return result


def one_row(platform: Platform, day: date) -> dict[str, Any]:
    query = "SELECT * FROM billing_quantities WHERE local_day = {day:Date} AND kind = 'devices'"
    (row,) = platform.stores.clickhouse.rows(query, day=day)
    return row


def latest_day(zone: str, length: timedelta) -> date:
    """The latest local day of this length that is over everywhere."""
    days = (today() - DAY * i for i in range(2, 400))
    return next(day for day in days if (w := day_window(day, zone))[1] - w[0] == length)


@pytest.mark.parametrize(
    ("zone", "hours"),
    [
        ("Europe/Berlin", 25),
        ("Europe/Berlin", 23),
        ("America/Los_Angeles", 25),
        ("Pacific/Auckland", 24),
        ("Asia/Kolkata", 24),
    ],
)
def test_a_local_day_has_its_own_hours(platform: Platform, zone: str, hours: int) -> None:
    day = latest_day(zone, hours * HOUR)
    start, end = day_window(day, zone)
    mine = hours_of(start, end)
    assert len(mine) == hours
    organization = platform.organization("one", zone)
    contract = platform.contract(organization, LONG_AGO)
    for device, hour in enumerate((mine[0] - HOUR, mine[0], mine[-1], mine[-1] + HOUR)):
        platform.samples(organization, device, [hour])
    platform.samples(organization, 1, mine[3:5])  # the same device again
    platform.rolled_up([mine[0] - HOUR, *mine[:-1], mine[-1] + HOUR])
    instant = timedelta(milliseconds=1)
    platform.calls(organization, start - instant, start, end - instant, end)
    platform.usage(organization, end - instant, "7.000001", "3")
    platform.usage(organization, start, "6", "2")
    platform.usage(organization, end, "8", "4")
    quantities = measured(platform, day)[organization]
    assert quantities == {"devices": 2, "storage": Decimal("7.000001"), "backup": 3, "api_calls": 2}
    row = one_row(platform, day)
    assert (row["window_start"], row["window_end"]) == (start, end)
    assert row["completeness"] == (hours - 1) / hours
    assert (row["contract_id"], row["price_plan_version"], row["unit"]) == (contract, 1, "device-days")
    platform.rolled_up(mine)
    run(platform.stores, assets.billing_events, key=day.isoformat())
    assert one_row(platform, day)["completeness"] == 1


def test_storage_without_a_report_is_the_last_of_seven_days_and_then_nothing(platform: Platform) -> None:
    day = today() - 2 * DAY
    start, _ = day_window(day, "UTC")
    week_old, too_old, silent = (platform.organization(name, "UTC") for name in ("week-old", "too-old", "silent"))
    for organization in (week_old, too_old, silent):
        platform.contract(organization, LONG_AGO)
    platform.usage(week_old, start - timedelta(days=7), "5", "1")
    platform.usage(too_old, start - timedelta(days=7, milliseconds=1), "5", "1")
    result = measured(platform, day)
    assert (result[week_old]["storage"], result[week_old]["backup"]) == (5, 1)
    nothing = {"devices": 0, "storage": 0, "backup": 0, "api_calls": 0}
    assert result[too_old] == result[silent] == nothing
    assert platform.stores.clickhouse.scalar("SELECT max(completeness) FROM billing_quantities") == 0


def test_nothing_is_counted_for_another_organization(platform: Platform) -> None:
    day = today() - 2 * DAY
    start, _ = day_window(day, "UTC")
    mine, other = platform.organization("mine", "UTC"), platform.organization("other", "UTC")
    platform.contract(mine, LONG_AGO)
    for organization in (mine, other, other):
        platform.samples(organization, 1, [start])
        platform.calls(organization, start)
        platform.usage(organization, start, "1", "1")
    assert measured(platform, day) == {mine: {"devices": 1, "storage": 1, "backup": 1, "api_calls": 1}}


def test_the_contract_in_force(platform: Platform) -> None:
    """By the first day of the next contract the one before has ended, even when nobody wrote that down."""
    day = today() - 5 * DAY
    succeeded, ended, ended_before, future, not_revived = (
        platform.organization(name, "UTC") for name in ("succeeded", "ended", "before", "future", "not-revived")
    )
    first = platform.contract(succeeded, LONG_AGO)
    second = platform.contract(succeeded, day + DAY, version=2)
    last = platform.contract(ended, LONG_AGO, day + DAY)
    platform.contract(ended_before, LONG_AGO, day)
    platform.contract(future, day + DAY)
    platform.contract(not_revived, LONG_AGO)
    platform.contract(not_revived, day - DAY, day)
    assert measured(platform, day).keys() == {succeeded, ended}
    assert measured(platform, day + DAY).keys() == {succeeded, future}
    rows = platform.stores.clickhouse.rows(
        "SELECT DISTINCT local_day, contract_id, price_plan_version FROM billing_quantities"
    )
    found = {(row["local_day"], row["contract_id"], row["price_plan_version"]) for row in rows}
    assert {(day, first, 1), (day, last, 1), (day + DAY, second, 2)} < found
    result = run(platform.stores, assets.billing_events, *CHECKS, key=day.isoformat())
    assert passed(result) == {"every_contract_is_measured": True, "every_organization_has_a_contract": False}
    (warning,) = (one for one in result.get_asset_check_evaluations() if not one.passed)
    assert warning.description == "Without a contract: before, future, not-revived"
    assert warning.severity.value == "WARN"


def test_twice_the_same_and_a_range_the_same_as_its_days(platform: Platform) -> None:
    small(platform)
    days = [today() - i * DAY for i in (4, 3)]
    for day in days:
        run(platform.stores, assets.billing_events, key=day.isoformat())
    first = content(platform.stores, "billing_quantities")
    assert len(first) == 2 * 2 * 4
    span = (days[0].isoformat(), days[1].isoformat())
    assert all(passed(run(platform.stores, assets.billing_events, *CHECKS, span=span)).values())
    assert content(platform.stores, "billing_quantities") == first
    # the same key is two windows that hardly overlap; each row says which it was
    query = "SELECT DISTINCT window_start FROM billing_quantities WHERE local_day = {day:Date} ORDER BY window_start"
    east, west = (row["window_start"] for row in platform.stores.clickhouse.rows(query, day=days[0]))
    assert west - east in (19 * HOUR, 20 * HOUR, 21 * HOUR)


def test_killed_half_way_and_run_again(platform: Platform) -> None:
    small(platform)
    day = today() - 3 * DAY
    gone = platform.organization("gone", "UTC")
    contract = platform.contract(gone, LONG_AGO)
    run(platform.stores, assets.billing_events, key=day.isoformat())
    with platform.stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM contracts WHERE id = %s", (contract,))
    # device_days, usage_days and billing_quantities are written in this order: before each, and before what it replaced
    # is deleted.
    for call, after in itertools.product((1, 2, 3), (False, True)):
        with killed(ClickHouse, "insert", call, after), pytest.raises(Killed):
            run(platform.stores, assets.billing_events, key=day.isoformat())
        assert len(content(platform.stores, "billing_quantities")) == (8 if call == 3 and after else 12)
    run(platform.stores, assets.billing_events, key=day.isoformat())
    rows = content(platform.stores, "billing_quantities")
    assert len(rows) == 8
    run(platform.stores, assets.billing_events, key=day.isoformat())
    assert content(platform.stores, "billing_quantities") == rows


def test_more_organizations_than_fit_into_one_query(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    """The windows travel as parameters: beyond some hundred organizations they no longer fit into an address."""
    monkeypatch.setattr(assets, "BATCH", 150)
    day = today() - 2 * DAY
    start, _ = day_window(day, "UTC")
    ids = [platform.organization(f"organization-{number}", "UTC") for number in range(200)]
    for id_ in ids:
        platform.contract(id_, LONG_AGO)
    platform.samples(ids[0], 1, [start])
    platform.samples(ids[-1], 1, [start])
    result = measured(platform, day)
    assert result.keys() == set(ids)
    assert [number for number, id_ in enumerate(ids) if result[id_]["devices"]] == [0, 199]


def test_an_organization_with_an_unknown_time_zone_stops_only_itself(platform: Platform) -> None:
    """`Europe/Zurch` stopped everybody's billing; rows like it are older than the constraint that refuses them."""
    small(platform)
    key = (today() - 3 * DAY).isoformat()
    lost = platform.organization("lost", "UTC")
    platform.contract(lost, LONG_AGO)
    with platform.stores.postgres.transaction() as connection:
        connection.execute("ALTER TABLE organizations DISABLE TRIGGER ALL")
        connection.execute("UPDATE organizations SET time_zone = 'Europe/Zurch' WHERE id = %s", (lost,))
        connection.execute("ALTER TABLE organizations ENABLE TRIGGER ALL")
    result = run(platform.stores, assets.billing_events, *CHECKS, checks.billing_events_left_nothing_out, key=key)
    assert len(content(platform.stores, "billing_quantities")) == 8
    [event] = result.asset_materializations_for_node("billing_events")
    assert event.metadata["left_out"].value == 1
    assert str(lost) in event.metadata["left_out_names"].value
    assert passed(result)["every_contract_is_measured"]
    [failed] = [one for one in result.get_asset_check_evaluations() if one.check_name.endswith("left_nothing_out")]
    assert not failed.passed
    assert f"organization {lost} (ZoneInfoNotFoundError" in str(failed.description)


BAD = {
    "starts_on is -infinity": ("contracts", "starts_on = '-infinity'"),
    "starts_on is 0044-03-15 BC": ("contracts", "starts_on = '0044-03-15 BC'"),
    "ends_on is 294000-01-01": ("contracts", "ends_on = '294000-01-01'"),
    "ZoneInfoNotFoundError": ("organizations", "time_zone = 'Europe/Zurch'"),
    "ValueError": ("organizations", "time_zone = '../../etc/passwd'"),
}


@pytest.mark.parametrize("words", BAD)
def test_terms_that_nothing_can_compute_with_stop_only_their_organization(platform: Platform, words: str) -> None:
    """psycopg raised for `-infinity`: nobody was billed."""
    small(platform)
    key = (today() - 3 * DAY).isoformat()
    lost = platform.organization("lost", "UTC")
    platform.contract(lost, LONG_AGO)
    table, change = BAD[words]
    column = "id" if table == "organizations" else "organization_id"
    spoil(platform.stores, table, f"UPDATE {table} SET {change} WHERE {column} = '{lost}'")
    day = run(platform.stores, assets.billing_events, *CHECKS, checks.billing_events_left_nothing_out, key=key)
    said = left_out(day, "billing_events")
    assert said.startswith(f"organization {lost} (")
    assert words in said
    assert passed(day)["every_contract_is_measured"]
    assert len(content(platform.stores, "billing_quantities")) == 8


def test_an_end_that_never_comes_is_none(platform: Platform) -> None:
    """And a contract that never begins ends no other."""
    small(platform)
    one = platform.organization("lost", "UTC")
    platform.contract(one, LONG_AGO)
    platform.contract(one, today() + 900 * DAY)
    spoil(platform.stores, "contracts", f"UPDATE contracts SET ends_on = 'infinity' WHERE starts_on = '{LONG_AGO}'")
    spoil(platform.stores, "contracts", f"UPDATE contracts SET starts_on = 'infinity' WHERE starts_on > '{today()}'")
    key = (today() - 3 * DAY).isoformat()
    result = run(platform.stores, assets.billing_events, *CHECKS, checks.billing_events_left_nothing_out, key=key)
    assert left_out(result, "billing_events") == ""
    assert len(content(platform.stores, "billing_quantities")) == 12


def test_the_door_refuses_a_time_zone_that_there_is_not(platform: Platform) -> None:
    with pytest.raises(StoreError, match="time_zone"):
        platform.organization("lost", "Europe/Zurch")
