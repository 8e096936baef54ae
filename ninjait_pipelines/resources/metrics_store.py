"""`MetricsStore`: what the pipeline asks of a time-series store. InfluxDB and ClickHouse implement it alike.

The contract, which `ninjait_pipelines_tests/resources/metrics_contract.py` holds every implementation to:

- A point is known by (organization_id, device_id, time): written again it replaces itself, so writing is idempotent,
  and of each field the value received last wins. A field that a later point does not carry keeps its value: other
  agents than ours spread one reading over several messages.
- A reading of a network interface's counters is known by (organization_id, device_id, source, interface, time).
  `aggregate` of the first tier turns them into increases (see `increases`) and adds them to network_in and network_out.
- A reading of a volume is known by (organization_id, device_id, source, disk, volume, time).
- All fields are float; a field that a sample does not carry is null and stays null.
- The tiers below the first hold aggregates that compose: aggregating the 5-minute tier over an hour gives exactly what
  aggregating the raw points would have given (sums to the last bits of floating point). Only `last` of a window that
  `late_windows` added to is not exact: it is the value of the row that is stamped last.
- The increases of counters, the values of disks and the minutes that samples cover are of an hour of a device, by the
  rules of counters.py, volumes.py and coverage.py: the hour's 5-minute windows have their parts of it.
- Windows are half open, UTC, aligned to their width; a window without a sample has no row.
"""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ninjait_pipelines.resources.coverage import covered_by
from ninjait_pipelines.resources.store import Store

# The metrics of the contract and their units; others are counted and left out.
FIELDS = {
    "cpu": "percent of all cores, 0 to 100",
    "memory": "MiB in use",
    "disk_used": "MiB in use",
    "network_in": "bytes received since the previous sample",
    "network_out": "bytes sent since the previous sample",
    "uptime": "seconds since the last boot",
    # New fields at the end: the stamp of a late sample has their numbers (see `late_windows`).
    "memory_total": "MiB that the device has",
    "disk_total": "MiB that all fixed local volumes have",
    "disk_free": "MiB free on all fixed local volumes",
}
AGGREGATES = ("sum", "count", "min", "max", "last")


# A late sample's stamp is up to this many microseconds after its instant, and instants are milliseconds apart.
LATEST_STAMP = 1 << len(FIELDS)
assert LATEST_STAMP < 1_000, "late samples of neighbouring instants would replace each other: see late_windows"


class Tier(StrEnum):
    """The tiers, finest first; the value is the name of the bucket or table."""

    RAW = "metrics"
    FIVE_MINUTES = "metrics_5m"
    ONE_HOUR = "metrics_1h"


# How far back a tier takes points. The stores themselves delete MARGIN later, so that nothing expires while the next
# tier is still being made from it.
RETENTION = {Tier.RAW: timedelta(days=7), Tier.FIVE_MINUTES: timedelta(days=90), Tier.ONE_HOUR: timedelta(days=730)}
MARGIN = timedelta(days=1)
WIDTH = {Tier.FIVE_MINUTES: timedelta(minutes=5), Tier.ONE_HOUR: timedelta(hours=1)}

_KEY = [
    pa.field("organization_id", pa.string(), nullable=False),
    pa.field("device_id", pa.string(), nullable=False),
    pa.field("time", pa.timestamp("us", "UTC"), nullable=False),
]
# One row a sample: what `write` takes and `read` gives.
POINTS = pa.schema([*_KEY, *(pa.field(name, pa.float64()) for name in FIELDS)])
# One row a device and window, `time` being the window's start: what `aggregate` gives and `write_aggregates` takes.
# `samples` counts the samples whatever fields they carry; `<field>_count` those that carry the field. `covered` is the
# minutes that samples cover (see coverage.py); `several_senders` is 1 where several machines or agents write as this
# device in the hour (see counters.py), else 0.
WINDOWS = pa.schema(
    [
        *_KEY,
        pa.field("samples", pa.float64(), nullable=False),
        pa.field("covered", pa.float64(), nullable=False),
        pa.field("several_senders", pa.float64(), nullable=False),
        *(pa.field(f"{name}_{aggregate}", pa.float64()) for name in FIELDS for aggregate in AGGREGATES),
    ]
)
# Which agent a reading came from: two agents on one device read one counter at different moments. "" in rows that were
# written before 0.4.0.
_SOURCE = pa.field("source", pa.string(), nullable=False)
SAMPLE = ["organization_id", "device_id", "time"]
# How windows become one; what a device's hour alone can say is among them in parts.
TOGETHER = [("samples", "sum"), ("covered", "sum"), ("several_senders", "max")] + [
    (f"{name}_{aggregate}", "sum" if aggregate == "count" else aggregate) for name in FIELDS for aggregate in AGGREGATES
]
_OF_HOURS = ("covered", "several_senders")
# Before 0.4.0 a sample stood for half a minute, however often its sender sent.
ASSUMED_MINUTES = 0.5
# One row a reading of an interface: bytes received and sent since its device booted. Full resolution only.
COUNTERS = pa.schema(
    [
        *_KEY[:2],
        _SOURCE,
        pa.field("interface", pa.string(), nullable=False),
        _KEY[2],
        pa.field("network_in", pa.float64()),
        pa.field("network_out", pa.float64()),
    ]
)
# One row a reading of a fixed local volume, in MiB. `disk` is the disk or partition that it lies on, "" where the agent
# does not say: mounted twice, it is one; `volume` is the mount point, drive letter or name. Full resolution only.
VOLUMES = pa.schema(
    [
        *_KEY[:2],
        _SOURCE,
        pa.field("disk", pa.string(), nullable=False),
        pa.field("volume", pa.string(), nullable=False),
        _KEY[2],
        *(pa.field(name, pa.float64()) for name in ("used", "total", "free")),
    ]
)
# A reading increases the one before it where that is not older than this; else nobody knows what lies between, and it
# only begins a new series. So a reading that comes late changes its own hour and the next one, and no other.
COUNTER_GAP = timedelta(hours=1)


class Refusal(msgspec.Struct, frozen=True):
    """A row that the store will never take: its index in what was written, and the store's own words."""

    row: int
    words: str


class MetricsStore(Store):
    """Device metrics in three tiers: full resolution, 5 minutes, 1 hour."""

    interfaces_left_out: str | None = Field(
        default=None, description="Shell patterns, separated by commas, of the interfaces whose bytes do not count"
    )

    @abstractmethod
    def declare(self) -> None:
        """Creates what is missing of the tiers, with their retention. Safe to repeat; never changes what is there."""

    @abstractmethod
    def now(self) -> datetime:
        """The store's clock, UTC, by which it lets points expire."""

    @abstractmethod
    def write(self, points: pa.Table) -> list[Refusal]:
        """Writes points (schema POINTS) to the full-resolution tier, in as few requests as is sensible.

        Returns when the store has them safely, all but those that it refused for what they are. Of two points with one
        key, the later row wins.
        """

    @abstractmethod
    def write_aggregates(self, tier: Tier, windows: pa.Table) -> list[Refusal]:
        """Writes windows (schema WINDOWS) to a lower tier; a window written again is replaced."""

    @abstractmethod
    def write_counters(self, counters: pa.Table) -> list[Refusal]:
        """Writes readings of counters (schema COUNTERS), which are kept as long as full resolution."""

    @abstractmethod
    def write_volumes(self, volumes: pa.Table) -> list[Refusal]:
        """Writes readings of volumes (schema VOLUMES), which are kept as long as full resolution."""

    @abstractmethod
    def read(self, start: datetime, stop: datetime, device_ids: list[str] | None = None) -> pa.Table:
        """The points (schema POINTS) of the full-resolution tier, in order of organization, device and time.

        Of all devices, or of some: a hundred at most.
        """

    @abstractmethod
    def latest(self, start: datetime, stop: datetime) -> pa.Table:
        """One row a device (schema POINTS) with the last value of each field in the window, in order of the key.

        `time` is that of the newest point. Counters are not among it.
        """

    @abstractmethod
    def aggregate(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        """Aggregates a tier over windows of width `every`; schema WINDOWS, in order of its key.

        `start` and `stop` are UTC and multiples of `every`, else ValueError.
        """

    @abstractmethod
    def delete(self, device_ids: Sequence[str]) -> None:
        """Deletes everything of these devices in all tiers; returns when it can no longer be read."""


def check_window(start: datetime, stop: datetime, every: timedelta) -> None:
    """Raises ValueError for a window that is not UTC, not aligned to `every`, or empty."""
    for name, moment in (("start", start), ("stop", stop)):
        if moment.utcoffset() != timedelta(0):
            raise ValueError(f"{name}={moment.isoformat()} is not in UTC")
        if moment.timestamp() % every.total_seconds():
            raise ValueError(f"{name}={moment.isoformat()} is not a multiple of {every}")
    if start >= stop:
        raise ValueError(f"start={start.isoformat()} is not before stop={stop.isoformat()}")


def tier_of(moment: datetime, now: datetime) -> Tier | None:
    """The finest tier that still takes a point of this moment; None where even the last is too young for it."""
    age = now - moment
    return next((tier for tier, kept in RETENTION.items() if age <= kept), None)


def late_windows(points: pa.Table) -> pa.Table:
    """Points too old for full resolution, as windows of one sample each (schema WINDOWS).

    Each is stamped up to LATEST_STAMP microseconds after its own time, by the fields that it carries: so it lies beside
    the aggregate of its window, which is stamped with the window's start, and beside the other parts of its own
    reading, and replaces neither. Samples have milliseconds, so no two instants ever meet. Parts of one reading are a
    sample each; a field that two parts carry in different company counts twice. What a sample covers is told by
    those that are here.
    """
    stamp = pa.array([1] * len(points), pa.int64())
    for number, name in enumerate(FIELDS):
        stamp = pc.add(stamp, pc.if_else(pc.is_valid(points[name]), 1 << number, 0))
    later = pc.add(points["time"], pc.cast(stamp, pa.duration("us")))
    columns = {"organization_id": points["organization_id"], "device_id": points["device_id"], "time": later}
    columns["samples"] = pa.array([1.0] * len(points), pa.float64())
    columns["covered"] = _of_either_twin(pa.table(columns).append_column("covered", covered_by(points)))
    columns["several_senders"] = pa.array([0.0] * len(points), pa.float64())
    for name in FIELDS:
        value = points[name]
        columns |= {f"{name}_{aggregate}": value for aggregate in AGGREGATES}
        columns[f"{name}_count"] = pc.if_else(pc.is_valid(value), 1.0, 0.0)
    return pa.table([columns[name] for name in WINDOWS.names], schema=WINDOWS)


def _of_either_twin(windows: pa.Table) -> pa.ChunkedArray:
    """What rows cover, the same for all that have one key: a message that comes twice in a batch brings each row twice,
    the store keeps the last one, and only the first one of a minute covers it."""
    covered = windows.group_by(SAMPLE, use_threads=False).aggregate([("covered", "max")])
    numbered = windows.select(SAMPLE).append_column("row", pa.array(range(len(windows)), pa.int64()))
    return numbered.join(covered, SAMPLE).sort_by("row")["covered_max"]


def of_points(points: pa.Table, every: timedelta) -> pa.Table:
    """Points (schema POINTS, and the number of `samples` of each) as windows (schema WINDOWS), in any order.

    What they cover is not told: it is 0. Those of a device are in order of time: `last` is the last that is there.
    """
    of = [("samples", "sum"), *((name, aggregate) for name in FIELDS for aggregate in AGGREGATES)]
    names = [name for name in WINDOWS.names if name not in _OF_HOURS]
    return filled(by_window(points, every).aggregate(of).rename_columns(names))


def of_windows(windows: pa.Table, every: timedelta) -> pa.Table:
    """Windows (schema WINDOWS) as wider ones, in any order. Those of a device are in order of time.

    Windows that were written before 0.4.0 do not say what they cover: half a minute for each sample, by the field that
    most of them carry, as was taken then.
    """
    counts = pc.max_element_wise(*(windows[f"{name}_count"] for name in FIELDS))
    most = pc.if_else(pc.greater(pc.fill_null(counts, 0.0), 0.0), counts, windows["samples"])
    column = pc.coalesce(windows["covered"], pc.multiply(most, ASSUMED_MINUTES))
    windows = windows.set_column(windows.schema.get_field_index("covered"), "covered", column)
    return filled(by_window(windows, every).aggregate(TOGETHER).rename_columns(WINDOWS.names))


def by_window(rows: pa.Table, every: timedelta, key: Sequence[str] = SAMPLE[:2]) -> pa.TableGroupBy:
    """Rows grouped by key and window, `time` being the window's start: a multiple of `every` since 1970."""
    width = every // timedelta(microseconds=1)
    start = pc.multiply(pc.divide(pc.cast(rows["time"], pa.int64()), width), width)
    index = rows.schema.get_field_index("time")
    rows = rows.set_column(index, "time", pc.cast(start, POINTS.field("time").type))
    return rows.group_by([*key, "time"], use_threads=False)


def added(*windows: pa.Table) -> pa.Table:
    """Tables (schema WINDOWS) as one, in order of the key; of windows in several, `last` is that of the last one."""
    some = [of for of in windows if len(of)]
    found = some[0] if some else WINDOWS.empty_table()
    if len(some) > 1:
        both = pa.concat_tables(some).group_by(SAMPLE, use_threads=False)
        found = both.aggregate(TOGETHER).rename_columns(WINDOWS.names).cast(WINDOWS)
    return found.sort_by([(name, "ascending") for name in SAMPLE])


def filled(windows: pa.Table) -> pa.Table:
    """Windows that lack columns, as schema WINDOWS: what is not there was in no sample."""
    columns = {name: windows[name] for name in windows.column_names}
    for name in WINDOWS.names:
        column = columns.get(name, pa.nulls(len(windows), pa.float64()))
        never_null = name.endswith("_count") or name in _OF_HOURS or name == "samples"
        columns[name] = pc.fill_null(pc.cast(column, pa.float64()), 0.0) if never_null else column
    return pa.table([columns[name] for name in WINDOWS.names], names=WINDOWS.names).cast(WINDOWS)
