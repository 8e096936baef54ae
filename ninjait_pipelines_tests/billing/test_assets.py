"""Billable quantities on real stores: the right hours, the right agreements, again and again the same."""

import itertools
import random
import uuid
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ninjait_pipelines.billing import assets, checks
from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.local_time import DAY, HOUR, day_window, next_month, overlapped_hours
from ninjait_pipelines.billing.rating.charges import Measured
from ninjait_pipelines.billing.rating.document import draft
from ninjait_pipelines.billing.stored_usage import usage_of
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines_tests.billing.conftest import (
    LONG_AGO,
    MONTH,
    WHOLE,
    Platform,
    hours_between,
    one_item,
    small,
    today,
)
from ninjait_pipelines_tests.runs import Killed, content, killed, left_out, passed, run

CHECKS = (checks.every_agreement_is_measured, checks.every_organization_has_an_agreement)
MARTS = ("device_days", "usage_days", "billing_quantities")
ITEMS = 5


def measured(platform: Platform, day: date) -> dict[uuid.UUID, dict[str, Decimal]]:
    run(platform.stores, assets.billing_events, key=day.isoformat())
    rows = platform.stores.clickhouse.rows("SELECT * FROM billing_quantities WHERE local_day = {day:Date}", day=day)
    result: dict[uuid.UUID, dict[str, Decimal]] = {}
    for row in rows:
        result.setdefault(row["organization_id"], {})[row["product"]] = row["quantity"]
    return result


def row_of(platform: Platform, day: date, product: str = "devices") -> dict[str, Any]:
    query = "SELECT * FROM billing_quantities WHERE local_day = {day:Date} AND product = {product:String}"
    (row,) = platform.stores.clickhouse.rows(query, day=day, product=product)
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
    mine = overlapped_hours(start, end)
    assert len(mine) == hours + (zone == "Asia/Kolkata")
    organization = platform.organization("one", zone)
    agreement = platform.agreement(organization)
    # An hour of which it is not known when its samples came counts by its start.
    begun = [hour for hour in mine if hour >= start]
    for device, hour in enumerate((begun[0] - HOUR, begun[0], begun[-1], begun[-1] + HOUR)):
        platform.samples(organization, device, [hour])
    platform.samples(organization, 1, begun[3:5])  # the same device again
    platform.rolled_up([mine[0] - HOUR, *mine[:-1], mine[-1] + HOUR])
    instant = timedelta(milliseconds=1)
    platform.calls(organization, start - instant, start, end - instant, end)
    half = start + (end - start) / 2
    platform.usage(organization, start, "6", "2")
    platform.usage(organization, half, "7.000002", "3")
    platform.usage(organization, end, "8", "4")
    quantities = measured(platform, day)[organization]
    assert quantities == {
        "devices": 2,
        "storage": Decimal("6.500001"),
        "backup": Decimal("2.5"),
        "api_calls": 2,
        "base_fee": 1,
    }
    row = row_of(platform, day)
    assert (row["window_start"], row["window_end"], row["time_zone"]) == (start, end, zone)
    assert row["completeness"] == (len(mine) - 1) / len(mine)
    assert (row["agreement_id"], row["price_version"], row["unit"]) == (agreement, 1, "device-days")
    shares = {product: row_of(platform, day, product)["completeness"] for product in ("storage", "base_fee")}
    assert shares == {"storage": 1, "base_fee": 1}
    platform.rolled_up(mine)
    run(platform.stores, assets.billing_events, key=day.isoformat())
    assert row_of(platform, day)["completeness"] == 1


def test_a_silent_reporter_is_carried_forward_for_seven_days_and_then_missing(platform: Platform) -> None:
    day = today() - 2 * DAY
    start, _ = day_window(day, "UTC")
    week_old, too_old, silent = (platform.organization(name, "UTC") for name in ("week-old", "too-old", "silent"))
    for organization in (week_old, too_old, silent):
        platform.agreement(organization)
    platform.usage(week_old, start - timedelta(days=6), "5", "1")
    platform.usage(too_old, start - timedelta(days=7), "5", "1")
    result = measured(platform, day)
    assert (result[week_old]["storage"], result[week_old]["backup"]) == (5, 1)
    nothing = {"devices": 0, "storage": 0, "backup": 0, "api_calls": 0, "base_fee": 1}
    assert result[too_old] == result[silent] == nothing
    query = "SELECT organization_id, completeness FROM billing_quantities WHERE kind = 'storage'"
    rows = {row["organization_id"]: row["completeness"] for row in platform.stores.clickhouse.rows(query)}
    assert rows == {week_old: 1, too_old: 0, silent: 0}


def test_nothing_is_counted_for_another_organization(platform: Platform) -> None:
    day = today() - 2 * DAY
    start, _ = day_window(day, "UTC")
    mine, other = platform.organization("mine", "UTC"), platform.organization("other", "UTC")
    platform.agreement(mine)
    for organization in (mine, other, other):
        platform.samples(organization, 1, [start])
        platform.calls(organization, start)
        platform.usage(organization, start, "1", "1")
    expected = {"devices": 1, "storage": 1, "backup": 1, "api_calls": 1, "base_fee": 1}
    assert measured(platform, day) == {mine: expected}


def test_devices_count_by_their_terms_and_by_the_basis(platform: Platform) -> None:
    """A weekday laptop and a silent server are two registered devices; one retired on the 11th goes on sending."""
    day, day_before = today() - 3 * DAY, today() - 4 * DAY
    organization = platform.organization("one", "UTC")
    term = {"from": LONG_AGO.isoformat()}
    items = [
        one_item("seats", term, "10", kind="device"),
        one_item("heard", term, "10", kind="device", basis="reporting"),
        one_item("servers", term, "10", kind="device", filter={"classes": ["server"]}),
    ]
    platform.agreement(organization, items=items)
    platform.device(organization, 1, kind="server")
    start = day_window(day, "UTC")[0]
    platform.device(organization, 2, retired_at=start)
    for device in (2, 3):
        platform.samples(organization, device, [start - HOUR, start])
    assert measured(platform, day) == {organization: {"seats": 2, "heard": 1, "servers": 1}}
    assert measured(platform, day_before) == {organization: {"seats": 3, "heard": 2, "servers": 1}}
    query = "SELECT product, inputs_hash FROM billing_quantities WHERE local_day = {day:Date}"
    rows = platform.stores.clickhouse.rows(query, day=day)
    assert len({row["inputs_hash"] for row in rows}) == 3


def test_the_agreements_in_force(platform: Platform) -> None:
    """Several stand side by side, each with its own zone and currency; no row has a cost of two currencies."""
    day = today() - 5 * DAY
    two, ended, future = (platform.organization(name, "UTC") for name in ("two", "ended", "future"))
    first = platform.agreement(two)
    second = platform.agreement(two, day, currency="USD", time_zone="Asia/Tokyo")
    platform.agreement(ended, LONG_AGO, day)
    platform.agreement(future, day + DAY)
    assert measured(platform, day).keys() == {two}
    rows = platform.stores.clickhouse.rows("SELECT DISTINCT agreement_id, time_zone, currency FROM billing_quantities")
    found = {tuple(row.values()) for row in rows}
    assert found == {(first, "UTC", "EUR"), (second, "Asia/Tokyo", "USD")}
    [row] = platform.stores.clickhouse.rows("SELECT * FROM billing_events")
    assert (row["agreements"], row["cost"], row["cost_usd"], row["currency"]) == (2, None, None, "")
    assert row["window_end"] - row["window_start"] == 33 * HOUR
    result = run(platform.stores, assets.billing_events, *CHECKS, key=day.isoformat())
    assert passed(result) == {"every_agreement_is_measured": True, "every_organization_has_an_agreement": False}
    (warning,) = (one for one in result.get_asset_check_evaluations() if not one.passed)
    assert warning.description == "Without an agreement: ended, future"
    assert warning.severity.value == "WARN"


def test_twice_the_same_and_a_range_the_same_as_its_days(platform: Platform) -> None:
    small(platform)
    days = [today() - i * DAY for i in (4, 3)]
    for day in days:
        run(platform.stores, assets.billing_events, key=day.isoformat())
    first = {mart: content(platform.stores, mart) for mart in MARTS}
    assert len(first["billing_quantities"]) == 2 * 2 * ITEMS
    assert len(first["device_days"]) == 2 * 2
    span = (days[0].isoformat(), days[1].isoformat())
    assert all(passed(run(platform.stores, assets.billing_events, *CHECKS, span=span)).values())
    assert {mart: content(platform.stores, mart) for mart in MARTS} == first
    # the same key is two windows that hardly overlap; each row says which it was
    query = "SELECT DISTINCT window_start FROM billing_quantities WHERE local_day = {day:Date} ORDER BY window_start"
    east, west = (row["window_start"] for row in platform.stores.clickhouse.rows(query, day=days[0]))
    assert west - east in (19 * HOUR, 20 * HOUR, 21 * HOUR)


def test_killed_half_way_and_run_again(platform: Platform) -> None:
    small(platform)
    day = today() - 3 * DAY
    gone = platform.organization("gone", "UTC")
    agreement = platform.agreement(gone)
    run(platform.stores, assets.billing_events, key=day.isoformat())
    with platform.stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM billing.agreement_items WHERE agreement_id = %s", (agreement,))
        connection.execute("DELETE FROM billing.agreements WHERE id = %s", (agreement,))
    # device_days, usage_days and billing_quantities are written in this order: before each, and before what it replaced
    # is deleted.
    for call, after in itertools.product((1, 2, 3), (False, True)):
        with killed(ClickHouse, "insert", call, after), pytest.raises(Killed):
            run(platform.stores, assets.billing_events, key=day.isoformat())
        expected = 2 if call == 3 and after else 3
        assert len(content(platform.stores, "billing_quantities")) == expected * ITEMS
    run(platform.stores, assets.billing_events, key=day.isoformat())
    rows = {mart: content(platform.stores, mart) for mart in MARTS}
    assert len(rows["billing_quantities"]) == 2 * ITEMS
    run(platform.stores, assets.billing_events, key=day.isoformat())
    assert {mart: content(platform.stores, mart) for mart in MARTS} == rows


BAD = {
    "no time zone; give an IANA name": "UPDATE billing.agreements SET time_zone = 'Europe/Zurch' WHERE id = '{id}'",
    "is no currency": "UPDATE billing.agreements SET currency = 'XXX' WHERE id = '{id}'",
}


@pytest.mark.parametrize("words", BAD)
def test_an_agreement_that_nothing_can_compute_with_stops_only_itself(platform: Platform, words: str) -> None:
    """`Europe/Zurch` stopped everybody's billing; rows like it are older than the constraint that refuses them."""
    small(platform)
    key = (today() - 3 * DAY).isoformat()
    lost = platform.organization("lost", "UTC")
    agreement = platform.agreement(lost)
    with platform.stores.postgres.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(BAD[words].format(id=agreement).encode())
    day = run(platform.stores, assets.billing_events, *CHECKS, checks.billing_events_left_nothing_out, key=key)
    said = left_out(day, "billing_events")
    assert said.startswith(f"organization {lost}, agreement {agreement} (")
    assert words in said
    assert passed(day)["every_agreement_is_measured"]
    assert len(content(platform.stores, "billing_quantities")) == 2 * ITEMS


def test_two_terms_of_a_device_on_one_day_stop_only_their_organization(platform: Platform) -> None:
    small(platform)
    key = (today() - 3 * DAY).isoformat()
    lost = platform.organization("lost", "UTC")
    platform.agreement(lost)
    device = platform.device(lost, 1)
    twice = (
        "INSERT INTO billing.device_terms (organization_id, device_id, term) "
        f"VALUES ('{lost}', '{device}', tstzrange('{LONG_AGO}', NULL))"
    )
    with platform.stores.postgres.transaction() as connection:
        exclusion = connection.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = 'billing.device_terms'::regclass AND contype = 'x'"
        ).fetchone()
        assert exclusion
        connection.execute(f"ALTER TABLE billing.device_terms DROP CONSTRAINT {exclusion['conname']}".encode())
        connection.execute(twice.encode())
    day = run(platform.stores, assets.billing_events, *CHECKS, checks.billing_events_left_nothing_out, key=key)
    assert "has two terms on" in left_out(day, "billing_events")
    assert passed(day)["every_agreement_is_measured"]
    assert len(content(platform.stores, "billing_quantities")) == 2 * ITEMS


def test_the_door_refuses_a_time_zone_that_there_is_not(platform: Platform) -> None:
    with pytest.raises(StoreError, match="time_zone"):
        platform.organization("lost", "Europe/Zurch")


def test_a_month_of_storage_at_a_price_of_five_places(platform: Platform) -> None:
    """100,000 GB all month at 0.00045 are 45.00: the price was stored as 0.0005."""
    organization = platform.organization("one", "Europe/Berlin")
    item = one_item("gigabytes", {"from": LONG_AGO.isoformat()}, "0.00045", kind="storage")
    platform.agreement(organization, items=[item])
    start, end = day_window(MONTH, "Europe/Berlin")[0], day_window(next_month(MONTH), "Europe/Berlin")[0]
    for number in range(6):
        platform.usage(organization, start + number * (end - start) / 6, "100000", "0")
    run(platform.stores, assets.billing_events, span=WHOLE)
    assert platform.stores.clickhouse.scalar("SELECT sum(cost) FROM billing_events").quantize(Decimal("1e-9")) == 45
    [agreement] = agreements_in_force(platform.stores.postgres, MONTH, next_month(MONTH))
    usage = usage_of(platform.stores.postgres, platform.stores.clickhouse, [agreement], MONTH, next_month(MONTH))
    assert draft(agreement, usage[agreement.id], MONTH).net == Decimal("45.00")


def test_the_days_of_a_month_cost_what_its_document_does(platform: Platform) -> None:
    """Where nothing is included; and reporting devices are those that rating counts, one by one."""
    organization = platform.organization("one", "Asia/Kolkata")
    term = {"from": LONG_AGO.isoformat()}
    items = [
        one_item("fee", {"from": (MONTH + 9 * DAY).isoformat()}, "100", kind="flat"),
        one_item("heard", term, "3.1", kind="device", basis="reporting", filter={"classes": ["laptop"]}),
        one_item("seats", term, "7", kind="device", discounts=[{"from": (MONTH + DAY).isoformat(), "percent": "12.5"}]),
        one_item("calls", term, "0.001", kind="api_calls"),
        one_item("gigabytes", term, "0.1", kind="storage"),
        one_item("setup", {"from": (MONTH + 3 * DAY).isoformat()}, "50", kind="one_off"),
        one_item("desk", term, "30", kind="flat", proration="full"),
    ]
    platform.agreement(organization, items=items)
    chance = random.Random(7)
    start, end = day_window(MONTH, "Asia/Kolkata")[0], day_window(next_month(MONTH), "Asia/Kolkata")[0]
    hours = hours_between(start.replace(minute=0), end)
    platform.rolled_up(hours)
    for device in range(4):
        platform.device(organization, device, kind="server" if device == 3 else "laptop")
        platform.samples(organization, device, chance.sample(hours, 60))
    platform.calls(organization, *(start + chance.random() * (end - start) for _ in range(50)))
    for _ in range(9):
        platform.usage(organization, start + chance.random() * (end - start), str(chance.randrange(1000)), "0")
    run(platform.stores, assets.billing_events, span=WHOLE)
    stores = platform.stores
    [agreement] = agreements_in_force(stores.postgres, MONTH, next_month(MONTH))
    usage = usage_of(stores.postgres, stores.clickhouse, [agreement], MONTH, next_month(MONTH))[agreement.id]
    document = draft(agreement, usage, MONTH)
    rows = stores.clickhouse.rows("SELECT product, sum(cost) AS cost FROM billing_quantities GROUP BY product")
    costs = {row["product"]: row["cost"] for row in rows}
    amounts = {product: sum(one.amount for one in document.lines if one.product == product) for product in costs}
    assert costs.keys() == {one["product"] for one in items}
    assert all(abs(costs[product] - amount) <= Decimal("0.01") for product, amount in amounts.items()), (costs, amounts)
    [heard] = [item for item in agreement.items if item.product == "heard"]
    days = [MONTH + number * DAY for number in range((next_month(MONTH) - MONTH).days)]
    levels = Measured(agreement, usage).device_levels(heard, days)
    query = "SELECT local_day, quantity FROM billing_quantities WHERE product = 'heard' ORDER BY local_day"
    assert [(row["local_day"], row["quantity"]) for row in stores.clickhouse.rows(query)] == [
        (day, levels[day]) for day in days
    ]
    assert msgspec.json.decode(msgspec.json.encode(usage)), "it goes to a file"
