"""Days measured by ClickHouse are those that the pure functions of rating measure, to the last digit, in any range."""

import random
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from ninjait_pipelines.billing.local_time import DAY, day_window, overlapped_hours
from ninjait_pipelines.billing.measure import (
    BATCH,
    SOURCE_KEPT,
    Wanted,
    device_days,
    is_expiring,
    not_billed_codes,
    reporting_devices,
    rolled_up,
    usage_days,
    wanted,
)
from ninjait_pipelines.billing.rating.agreement import Agreement as Agreed
from ninjait_pipelines.billing.rating.agreement import Item, Price, Term
from ninjait_pipelines.billing.rating.usage import Call, Measurement, Usage, calls_by_day, volumes_by_day
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.usage_data import ACME, add_calls, add_hour, add_reports, add_rolled_up

OTHER = str(uuid.UUID(int=2))
DEFAULT = ("401", "403", "5xx")
NEVER = datetime(2000, 1, 1, tzinfo=UTC)
ZONES = ["Europe/Berlin", "Asia/Kolkata", "America/Los_Angeles", "Pacific/Chatham"]


def recent(month: int, day: int) -> date:
    """A day of the last year that is over: tests must not lie before the tables' time to live."""
    today = datetime.now(UTC).date()
    found = date(today.year, month, day)
    return found if found < today - 10 * DAY else date(today.year - 1, month, day)


def calls_of(zone: str, organizations: Iterable[str] = (ACME,), rule: tuple[str, ...] = DEFAULT) -> Wanted:
    return Wanted({zone: set(organizations)}, {(zone, rule): set(organizations)}, {})


def volumes_of(zone: str, carried: int = 7) -> Wanted:
    return Wanted({zone: {ACME}}, {}, {(zone, carried): {ACME}})


def days_of(stores: Stores, found: Wanted, first: date, end: date, kind: str) -> dict[date, dict[str, Any]]:
    rows = usage_days(stores.clickhouse, found, first, end, datetime.now(UTC))
    return {row["local_day"]: row for row in rows if row["kind"] == kind and row["organization_id"] == ACME}


def reported(stores: Stores, zone: str, first: date, end: date) -> list[date]:
    devices = reporting_devices(stores.clickhouse, Wanted({zone: {ACME, OTHER}}, {}, {}), first, end)
    rows = device_days(devices).to_pylist()
    return sorted(row["local_day"] for row in rows)


def test_berlins_march_ends_before_22_00_utc(shared_stores: Stores) -> None:
    """Calls at 21:59:59.999 and at 22:00:00 on 31 March are of March and of April."""
    last = recent(3, 31)
    midnight = datetime.combine(last, datetime.min.time(), UTC) + timedelta(hours=22)
    moments = (midnight - timedelta(milliseconds=1), midnight)
    add_calls(shared_stores, [(str(uuid.uuid4()), at, 200) for at in moments])
    days = days_of(shared_stores, calls_of("Europe/Berlin"), last - DAY, last + 2 * DAY, "api_calls")
    assert {day: row["quantity"] for day, row in days.items()} == {last - DAY: 0, last: 1, last + DAY: 1}


def test_kolkatas_april_begins_half_past_an_hour(shared_stores: Stores) -> None:
    """The only sample at 00:15 local on 1 April is April's device-day; one at 23:45 on 31 March is March's; an hour
    with both is on both days; one of which the times are not known counts by its start."""
    first = recent(4, 1)
    hour = datetime.combine(first - DAY, datetime.min.time(), UTC) + timedelta(hours=18)
    early, late = hour + timedelta(minutes=15), hour + timedelta(minutes=45)
    for times, days in (
        ((late, late), [first]),
        ((early, early), [first - DAY]),
        ((early, late), [first - DAY, first]),
        ((None, None), [first - DAY]),
    ):
        add_hour(shared_stores, hour, *times)
        assert reported(shared_stores, "Asia/Kolkata", first - DAY, first + DAY) == days, times
        assert reported(shared_stores, "Asia/Kolkata", first, first + DAY) == [day for day in days if day == first]
        shared_stores.clickhouse.command("TRUNCATE TABLE device_metrics_hourly_versions")


@pytest.mark.parametrize("zone", ZONES)
def test_a_device_reports_on_the_days_of_its_hours_and_each_is_counted_once(shared_stores: Stores, zone: str) -> None:
    first, end = recent(10, 24), recent(10, 28)
    start, stop = day_window(first, zone)[0], day_window(end, zone)[0]
    hours = overlapped_hours(start - timedelta(hours=2), stop + timedelta(hours=2))
    for hour in hours:
        add_hour(shared_stores, hour, hour, hour + timedelta(minutes=55))

    def of_days(first: date, end: date) -> list[dict[str, Any]]:
        devices = reporting_devices(shared_stores.clickhouse, Wanted({zone: {ACME}}, {}, {}), first, end)
        return device_days(devices).sort_by("local_day").to_pylist()

    rows = of_days(first, end)
    expected = [(day, len(overlapped_hours(*day_window(day, zone)))) for day in (first + n * DAY for n in range(4))]
    assert [(row["local_day"], row["hours"]) for row in rows] == expected
    assert [row["samples"] for row in rows] == [2 * hours for _, hours in expected]
    single = [row for day, _ in expected for row in of_days(day, day + DAY)]
    assert single == rows


def _random_calls(seed: int, first: date, zone: str) -> list[tuple[str, datetime, int]]:
    chance = random.Random(seed)
    start = day_window(first, zone)[0]
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(12)]
    return [
        (chance.choice(ids), start + chance.randrange(40 * 86_400_000) * timedelta(milliseconds=1), status)
        for status in chance.choices([200, 404, 401, 403, 500, 503], k=60)
    ]


def _billed(calls: Sequence[tuple[str, datetime, int]], zone: str, first: date, end: date) -> dict[date, int]:
    """By the rule as it is written, call by call: a day's billed ids, without those of any of the 7 days before."""
    from zoneinfo import ZoneInfo

    days: dict[str, set[date]] = {}
    for id_, at, status in calls:
        if status < 500 and status not in (401, 403):
            days.setdefault(id_, set()).add(at.astimezone(ZoneInfo(zone)).date())
    found = {first + number * DAY: 0 for number in range((end - first).days)}
    for of in days.values():
        for day in of & found.keys():
            found[day] += not any(day - number * DAY in of for number in range(1, 8))
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_a_retried_call_is_billed_once_whichever_days_are_measured_together(shared_stores: Stores, zone: str) -> None:
    """Each retry with a stamp of its own was a call of its own; and a range counted less than its days one by one."""
    first = recent(3, 10)
    calls = _random_calls(ZONES.index(zone), first, zone)
    add_calls(shared_stores, calls)
    add_calls(shared_stores, calls[::3])  # redelivered
    days = [first + number * DAY for number in range(31)]
    expected = _billed(calls, zone, first, first + 31 * DAY)
    whole = days_of(shared_stores, calls_of(zone), first, first + 31 * DAY, "api_calls")
    assert {day: row["quantity"] for day, row in whole.items()} == expected
    assert sum(expected.values()) < len({id_ for id_, *_ in calls}) * 4
    for size in (1, 3, 10):
        parts = [days_of(shared_stores, calls_of(zone), day, day + size * DAY, "api_calls") for day in days[:-10:size]]
        assert all(part[day] == whole[day] for part in parts for day in part)


def test_within_the_days_that_retries_are_looked_for_rating_counts_the_same(shared_stores: Stores) -> None:
    zone, first = "Europe/Berlin", recent(3, 26)
    start = day_window(first, zone)[0]
    chance = random.Random(5)
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(20)]
    calls = [
        (chance.choice(ids), start + chance.randrange(7 * 86_400_000) * timedelta(milliseconds=1), status)
        for status in chance.choices([200, 404, 401, 500], k=80)
    ]
    add_calls(shared_stores, calls)
    price = Price(version=1, from_=first, amount=Decimal(1))
    for rule in (DEFAULT, ("4xx", "5xx"), ()):
        item = Item(product="calls", kind="api_calls", prices=(price,), from_=first, not_billed_statuses=rule)
        usage = Usage(api_calls=tuple(Call(id=id_, timestamp=at, status_code=status) for id_, at, status in calls))
        expected = calls_by_day(usage, item, _zone(zone))
        days = days_of(shared_stores, calls_of(zone, rule=tuple(sorted(rule))), first, first + 7 * DAY, "api_calls")
        assert {day: int(row["quantity"]) for day, row in days.items() if row["quantity"]} == expected, rule


def _zone(name: str) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def test_a_million_calls_with_one_id_are_one_call_and_harm_nobody(shared_stores: Stores) -> None:
    day = recent(5, 4)
    at = datetime.combine(day, datetime.min.time(), UTC)
    add_calls(shared_stores, [(str(uuid.uuid4()), at, 200)] * 3, organization=OTHER)
    shared_stores.clickhouse.command(
        "INSERT INTO api_calls_versions (organization_id, timestamp, status_code, message_id) SELECT {id:UUID}, "
        "{at:DateTime64(3, 'UTC')} + toIntervalMillisecond(number % 86400000), 200, {id:UUID} FROM numbers(1000000)",
        id=ACME,
        at=at,
    )
    rows = usage_days(shared_stores.clickhouse, calls_of("UTC", (ACME, OTHER)), day, day + DAY, datetime.now(UTC))
    assert {row["organization_id"]: row["quantity"] for row in rows if row["kind"] == "api_calls"} == {
        ACME: 1,
        OTHER: 1,
    }


def test_a_hash_tells_whether_anything_that_a_day_was_measured_from_changed(shared_stores: Stores) -> None:
    day = recent(5, 4)
    at = datetime.combine(day, datetime.min.time(), UTC)
    first, second = (str(uuid.uuid4()) for _ in range(2))
    hashes = []
    for call in ((first, at, 200), (first, at, 200), (first, at + timedelta(hours=1), 200), (second, at, 200)):
        add_calls(shared_stores, [call])
        hashes.append(days_of(shared_stores, calls_of("UTC"), day, day + DAY, "api_calls")[day]["inputs_hash"])
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    assert hashes[0]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("carried", [0, 2, 7])
def test_volumes_are_those_of_rating_to_the_last_digit(shared_stores: Stores, zone: str, carried: int) -> None:
    """Days of 23, 24 and 25 hours; gaps that are carried forward, and longer ones, which are missing."""
    first, end = recent(3, 20), recent(4, 8)
    chance = random.Random(carried)
    start = day_window(first - 9 * DAY, zone)[0]
    silent = range(11 * 86_400_000, 20 * 86_400_000)
    instants = sorted(at for _ in range(35) if (at := chance.randrange(30 * 86_400_000)) not in silent)
    reports = [
        (start + at * timedelta(milliseconds=1), Decimal(chance.randrange(10**12)).scaleb(-6))
        for at in [*instants, instants[3]]
    ]
    add_reports(shared_stores, reports)
    measured = [Measurement(timestamp=at, gb=gb) for at, gb in reports]
    days = [first + number * DAY for number in range((end - first).days)]
    expected = volumes_by_day(measured, days, zone, timedelta(days=carried))
    found = days_of(shared_stores, volumes_of(zone, carried), first, end, "storage")
    backup = days_of(shared_stores, volumes_of(zone, carried), first, end, "backup")
    for day in days:
        row, level = found[day], expected[day]
        assert Fraction(row["gb_milliseconds"]) / row["day_milliseconds"] == level.quantity, day
        assert Fraction(row["known_milliseconds"], row["day_milliseconds"]) == level.known, day
        assert backup[day]["gb_milliseconds"] == 2 * row["gb_milliseconds"]
        assert days_of(shared_stores, volumes_of(zone, carried), day, day + DAY, "storage")[day] == row
    assert any(level.known < 1 for level in expected.values())


def test_a_silent_reporter_is_missing_after_its_days_and_never_zero_and_complete(shared_stores: Stores) -> None:
    first = recent(6, 1)
    add_reports(shared_stores, [(datetime.combine(first, datetime.min.time(), UTC), Decimal("100000"))])
    days = days_of(shared_stores, volumes_of("UTC", 3), first, first + 5 * DAY, "storage")
    assert [(row["quantity"], row["completeness"]) for row in days.values()] == [(100_000, 1)] * 3 + [(0, 0)] * 2


def test_more_organizations_than_fit_into_one_query(shared_stores: Stores) -> None:
    """Their ids travel as parameters: beyond some thousand they no longer fit into an address."""
    day = recent(5, 4)
    at = datetime.combine(day, datetime.min.time(), UTC)
    ids = [str(uuid.uuid4()) for _ in range(BATCH + 100)]
    for organization in (ids[0], ids[-1]):
        add_calls(shared_stores, [(str(uuid.uuid4()), at, 200)], organization)
    rows = usage_days(shared_stores.clickhouse, calls_of("UTC", ids), day, day + DAY, datetime.now(UTC))
    calls = {row["organization_id"]: row["quantity"] for row in rows if row["kind"] == "api_calls"}
    assert calls.keys() == set(ids)
    assert {id_ for id_, count in calls.items() if count} == {ids[0], ids[-1]}


def test_hours_that_are_in_are_counted_by_local_day(shared_stores: Stores) -> None:
    day = recent(6, 1)
    hours = overlapped_hours(*day_window(day, "Asia/Kolkata"))
    add_rolled_up(shared_stores, hours[:-1])
    assert rolled_up(shared_stores.clickhouse, ["Asia/Kolkata"], day, day + DAY) == {("Asia/Kolkata", day): (24, 25)}
    row = days_of(shared_stores, calls_of("Asia/Kolkata"), day, day + DAY, "hours")[day]
    assert (row["quantity"], row["completeness"]) == (24, 24 / 25)


def test_what_agreements_count_is_measured_once_per_rule() -> None:
    price = Price(version=1, from_=date(2026, 1, 1), amount=Decimal(1))

    def item(**columns: Any) -> Item:
        return Item(prices=(price,), from_=date(2026, 1, 1), **columns)

    items = (
        item(product="a", kind="api_calls", not_billed_statuses=("5xx", "401", "403")),
        item(product="b", kind="api_calls", not_billed_statuses=("403", "401", "5xx")),
        item(product="c", kind="storage", carried_forward_days=3),
        item(product="d", kind="backup", carried_forward_days=3),
        item(product="e", kind="flat"),
    )
    term = Term(from_=date(2026, 1, 1))
    one = Agreed(id="1", organization_id=ACME, currency="EUR", time_zone="UTC", items=items, term=term)
    assert wanted([one]) == Wanted({"UTC": {ACME}}, {("UTC", DEFAULT): {ACME}}, {("UTC", 3): {ACME}})


def test_a_rule_of_statuses_is_a_list_of_codes() -> None:
    assert not_billed_codes(("401", "5xx")) == [401, *range(500, 600)]


def test_a_day_expires_with_the_oldest_row_that_it_needs() -> None:
    row = {"kind": "api_calls", "rule": "", "time_zone": "UTC", "local_day": date(2026, 1, 8)}
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert not is_expiring(row, start + SOURCE_KEPT - DAY)
    assert is_expiring(row, start + SOURCE_KEPT - DAY + timedelta(seconds=1))
    assert not is_expiring({**row, "kind": "storage", "rule": "0"}, start + SOURCE_KEPT)
