"""What organizations used on local days, measured from stored hours, calls and reports: a query per kind, time zone and
rule, for all days of a range together.

A day's figures are the same whichever other days are measured with it. What is billed for them is decided elsewhere.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.billing.local_time import DAY, day_window, overlapped_hours
from ninjait_pipelines.billing.rating.agreement import Agreement, Item
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import content
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import mart_rows

# So many organizations a query: their ids go along as parameters, and a server limits the size of those.
BATCH = 1000
# So many days a query: of each call one integer has a bit for each of them and for each of the days before.
MAX_DAYS = 31
# For so many days before its own a call is looked for: retried within them, it is billed once, whatever its stamps say.
RETRIED_DAYS = 7
# `api_calls` and `usage_reports` are deleted so long after they happened. A day that needs older ones is frozen.
SOURCE_KEPT = timedelta(days=731)
MILLISECOND = timedelta(milliseconds=1)
QUANTITY_PLACES = Decimal("1e-9")
VOLUMES = ("storage", "backup")
# A row per device that reported, with its local days (counted from 1970-01-01), and the hours and samples of each.
DEVICES = pa.schema(
    [
        pa.field("organization_id", pa.string()),
        pa.field("time_zone", pa.string()),
        pa.field("device_id", pa.string()),
        pa.field("days", pa.list_(pa.uint16())),
        pa.field("hours", pa.list_(pa.uint8())),
        pa.field("samples", pa.list_(pa.uint32())),
    ]
)
# Rows of device_days are written in blocks of whole days: so many at least, if the days have them.
ROWS_AT_ONCE = 500_000


class Days(NamedTuple):
    """Consecutive local days [first, end) of one time zone."""

    time_zone: str
    first: date
    end: date

    @property
    def labels(self) -> list[date]:
        return [self.first + number * DAY for number in range((self.end - self.first).days)]

    def starts(self) -> list[datetime]:
        """The first instant of each day, and the end of the last."""
        windows = [day_window(day, self.time_zone) for day in self.labels]
        return [start for start, _ in windows] + [windows[-1][1]]


class Wanted(NamedTuple):
    """What the agreements of some days count: organizations by time zone, and by zone and rule."""

    devices: Mapping[str, set[str]]
    calls: Mapping[tuple[str, tuple[str, ...]], set[str]]
    volumes: Mapping[tuple[str, int], set[str]]


def wanted(agreements: Iterable[Agreement]) -> Wanted:
    """What items of any of an organization's agreements count, in the time zone of each agreement."""
    devices, calls, volumes = defaultdict(set), defaultdict(set), defaultdict(set)
    for one in agreements:
        devices[one.time_zone].add(one.organization_id)
        for item in one.items:
            if item.kind == "api_calls":
                calls[one.time_zone, rule_of(item)].add(one.organization_id)
            elif item.kind in VOLUMES:
                volumes[one.time_zone, item.carried_forward_days].add(one.organization_id)
    return Wanted(devices, calls, volumes)


def rule_of(item: Item) -> tuple[str, ...]:
    """The answers that the item does not bill, in order."""
    return tuple(sorted(set(item.not_billed_statuses)))


class MeasuredDays(NamedTuple):
    """Devices that reported (schema DEVICES) and rows of usage_days, without as_of."""

    devices: pa.Table
    usage: list[dict[str, Any]]


def measure_days(
    clickhouse: ClickHouse, agreements: Iterable[Agreement], first: date, end: date, as_of: datetime
) -> MeasuredDays:
    """What was used on the local days [first, end), at most MAX_DAYS, by organizations of these agreements.

    Rows whose source has begun to expire by `as_of` are those that are stored, and say so: measured again they could
    only be less.
    """
    found = wanted(agreements)
    rows = usage_days(clickhouse, found, first, end, as_of)
    return MeasuredDays(reporting_devices(clickhouse, found, first, end), _unless_frozen(clickhouse, rows))


def store_days(
    clickhouse: ClickHouse, agreements: Iterable[Agreement], first: date, end: date, as_of: datetime
) -> MeasuredDays:
    """Measures days and stores them. as_of: ClickHouse's clock before anything was read.

    1. Replace device_days, some days at a time. Dying in it: each day is new or old; the rerun makes the same rows.
    2. Replace usage_days, all days at once. Dying before: as above.
    """
    devices, rows = measured = measure_days(clickhouse, agreements, first, end, as_of)
    days, by_day = Days("UTC", first, end).labels, device_days(devices)
    at_once = max(1, len(days) * ROWS_AT_ONCE // max(len(by_day), 1))
    for some in (days[at : at + at_once] for at in range(0, len(days), at_once)):
        of_days = by_day.filter(pc.is_in(by_day["local_day"], pa.array(some)))
        clickhouse.replace_slice("device_days", content("device_days", of_days, LeftOut()), as_of, some)
    clickhouse.replace_slice("usage_days", mart_rows("usage_days", rows), as_of, days)
    return measured


def _unless_frozen(clickhouse: ClickHouse, measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; of what is frozen those that are stored, also of organizations without an agreement by now."""
    frozen = {row["local_day"] for row in measured if row["frozen"]}
    if not frozen:
        return measured
    query = "SELECT * EXCEPT (as_of) FROM usage_days WHERE local_day IN {days:Array(Date)}"
    stored = {_key(row): row for row in clickhouse.rows(query, days=sorted(frozen))}
    stored = {key: row | {"frozen": True} for key, row in stored.items()}
    fresh = {_key(row): row for row in measured}
    kept = {key: row for key, row in stored.items() if key not in fresh or fresh[key]["frozen"]}
    return list((fresh | kept).values())


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("organization_id", "time_zone", "local_day", "kind", "rule"))


def device_days(devices: pa.Table) -> pa.Table:
    """The rows of the mart device_days, without as_of: a row per device (schema DEVICES) and day."""
    whole = devices.combine_chunks()
    places = pc.list_parent_indices(whole["days"])
    of_device = whole.select(["organization_id", "time_zone", "device_id"]).take(places)
    days = pc.cast(pc.cast(pc.list_flatten(whole["days"]), pa.int32()), pa.date32())
    of_device = of_device.append_column("local_day", days)
    for name in ("hours", "samples"):
        of_device = of_device.append_column(name, pc.list_flatten(whole[name]))
    return of_device


def reporting_devices(clickhouse: ClickHouse, found: Wanted, first: date, end: date) -> pa.Table:
    """The devices that reported on any of the local days, with these days (schema DEVICES)."""
    tables = []
    for zone, organizations in sorted(found.devices.items()):
        days = Days(zone, first, end)
        hours = overlapped_hours(days.starts()[0], days.starts()[-1])
        cut = sorted({hour for start in days.starts() if (hour := _hour(start)) != start})
        for batch in _batches(organizations):
            rows = clickhouse.arrow(
                sql("billing/device_days"),
                organizations=batch,
                starts=days.starts(),
                first_day=first,
                first=hours[0],
                last=hours[-1] + timedelta(hours=1),
                cut_hours=cut,
            )
            zones = pa.repeat(pa.scalar(zone), len(rows))
            tables.append(rows.append_column("time_zone", zones).select(DEVICES.names))
    return pa.concat_tables([DEVICES.empty_table(), *(table.cast(DEVICES) for table in tables)])


def usage_days(clickhouse: ClickHouse, found: Wanted, first: date, end: date, as_of: datetime) -> list[dict[str, Any]]:
    """The rows of the mart usage_days, without as_of: of each organization, kind and rule one for each day."""
    hours = rolled_up(clickhouse, found.devices, first, end)
    rows = [
        *_hour_rows(found, hours),
        *_call_rows(clickhouse, found, first, end, hours),
        *_volume_rows(clickhouse, found, first, end),
    ]
    return [row | {"frozen": is_expiring(row, as_of)} for row in rows]


def is_expiring(row: Mapping[str, Any], as_of: datetime) -> bool:
    """Whether a source of the row has begun to expire, so that measuring it again may give less."""
    before = int(row["rule"]) if row["kind"] in VOLUMES else RETRIED_DAYS
    start = _start(row["local_day"] - before * DAY, row["time_zone"])
    return as_of - start > SOURCE_KEPT - DAY


def rolled_up(
    clickhouse: ClickHouse, zones: Iterable[str], first: date, end: date
) -> dict[tuple[str, date], tuple[int, int]]:
    """(time zone, local day) -> how many of its hours have been rolled up, and how many it has."""
    query = "SELECT hour FROM rolled_up_hours FINAL WHERE toDate(hour) BETWEEN {first:Date} AND {last:Date}"
    done = {row["hour"] for row in clickhouse.rows(query, first=first - 2 * DAY, last=end + 2 * DAY)}
    found = {}
    for zone in zones:
        for day in Days(zone, first, end).labels:
            hours = overlapped_hours(*day_window(day, zone))
            found[zone, day] = sum(hour in done for hour in hours), len(hours)
    return found


def _hour_rows(found: Wanted, hours: Mapping[tuple[str, date], tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for (zone, day), (done, of) in sorted(hours.items()):
        for organization in sorted(found.devices[zone]):
            known = {"quantity": Decimal(done), "unit": "hours", "completeness": done / max(of, 1), "inputs_hash": done}
            yield _row(organization, zone, day, "hours", "") | known


def _call_rows(
    clickhouse: ClickHouse,
    found: Wanted,
    first: date,
    end: date,
    hours: Mapping[tuple[str, date], tuple[int, int]],
) -> Iterator[dict[str, Any]]:
    for (zone, rule), organizations in sorted(found.calls.items()):
        for batch in _batches(organizations):
            counted = _calls(clickhouse, batch, Days(zone, first - RETRIED_DAYS * DAY, end), rule)
            for organization in batch:
                for day in Days(zone, first, end).labels:
                    calls, inputs = counted.get((organization, day), (0, 0))
                    done, of = hours[zone, day]
                    yield _row(organization, zone, day, "api_calls", ",".join(rule)) | {
                        "quantity": Decimal(calls),
                        "unit": "calls",
                        "completeness": done / max(of, 1),
                        "inputs_hash": inputs,
                    }


def _calls(
    clickhouse: ClickHouse, organizations: Sequence[str], days: Days, rule: Sequence[str]
) -> dict[tuple[str, date], tuple[int, int]]:
    starts = days.starts()
    rows = clickhouse.rows(
        sql("billing/call_days"),
        organizations=organizations,
        starts=starts,
        first_day=days.first,
        first64=starts[0],
        last64=starts[-1],
        not_billed=not_billed_codes(rule),
    )
    return {(row["organization_id"], row["local_day"]): (row["calls"], row["inputs_hash"]) for row in rows}


def not_billed_codes(rule: Iterable[str]) -> list[int]:
    """The status codes of a rule such as 401, 403, 5xx."""
    codes: set[int] = set()
    for one in rule:
        start, count = (int(one[0]) * 100, 100) if one.endswith("xx") else (int(one), 1)
        codes.update(range(start, start + count))
    return sorted(codes)


def _volume_rows(clickhouse: ClickHouse, found: Wanted, first: date, end: date) -> Iterator[dict[str, Any]]:
    for (zone, carried), organizations in sorted(found.volumes.items()):
        days = Days(zone, first, end)
        lengths = {day: (after - start) // MILLISECOND for day, (start, after) in _windows(days)}
        for batch in _batches(organizations):
            known = _volumes(clickhouse, batch, days, carried)
            for organization in batch:
                for day, length in lengths.items():
                    row = known.get((organization, day), {})
                    for kind in VOLUMES:
                        yield _row(organization, zone, day, kind, str(carried)) | _volume(row, kind, length)


def _volumes(
    clickhouse: ClickHouse, organizations: Sequence[str], days: Days, carried: int
) -> dict[tuple[str, date], dict[str, Any]]:
    starts = days.starts()
    rows = clickhouse.rows(
        sql("billing/volume_days"),
        organizations=organizations,
        starts=starts,
        first_day=days.first,
        first64=starts[0] - timedelta(days=carried),
        last64=starts[-1],
        carried=timedelta(days=carried) // MILLISECOND,
    )
    return {(row["organization_id"], row["local_day"]): row for row in rows}


def _volume(row: Mapping[str, Any], kind: str, length: int) -> dict[str, Any]:
    gb, known = row.get(kind, Decimal(0)), row.get("known_milliseconds", 0)
    with localcontext(prec=60):
        quantity = (gb / length).quantize(QUANTITY_PLACES) if length else Decimal(0)
    return {
        "quantity": quantity,
        "unit": "GB",
        "gb_milliseconds": gb,
        "known_milliseconds": known,
        "day_milliseconds": length,
        "completeness": known / length if length else 1.0,
        "inputs_hash": row.get(f"{kind}_hash", 0),
    }


def _row(organization: str, zone: str, day: date, kind: str, rule: str) -> dict[str, Any]:
    start, end = day_window(day, zone)
    row = {"organization_id": organization, "time_zone": zone, "local_day": day, "kind": kind, "rule": rule}
    return row | {
        "gb_milliseconds": Decimal(0),
        "known_milliseconds": 0,
        "day_milliseconds": (end - start) // MILLISECOND,
    }


@lru_cache(maxsize=100_000)
def _start(day: date, zone: str) -> datetime:
    return day_window(day, zone)[0]


def _windows(days: Days) -> list[tuple[date, tuple[datetime, datetime]]]:
    return [(day, day_window(day, days.time_zone)) for day in days.labels]


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _batches(organizations: Iterable[str]) -> list[list[str]]:
    ordered = sorted(organizations)
    return [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)]
