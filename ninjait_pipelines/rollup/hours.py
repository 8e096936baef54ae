"""The rules of the hourly roll-up: from which tier an hour is made, what its rows are, which hours go together.

Nothing here touches a store or a clock.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.metrics.model import (
    COUNTER_GAP,
    FIELDS,
    HOUR,
    RETENTION,
    RETENTION_GRACE,
    Aggregate,
    Tier,
    tier_of,
)

# One query for two hours costs InfluxDB a tenth less than two queries; three hours save hardly more.
HOURS_AT_ONCE = 2
KEY = ["organization_id", "device_id"]
SAMPLE_TIMES = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in KEY),
        *(pa.field(name, pa.timestamp("s", "UTC")) for name in ("timestamp", "first_sample", "last_sample")),
    ]
)
# More hours of few devices cost hardly more than one: as many go together as have the rows of two hours of 10,000.
ROWS_AT_ONCE, MAX_HOURS_AT_ONCE = 20_000, 12


class HourExpired(Exception):
    """No tier holds the whole hour any more: rolling it up now would lose rows, so its rows stay as they are."""


class SamplesLost(Exception):
    """The hour has fewer samples now than it had at its last roll-up. Its rows stay as they are."""


def still_whole(tier: Tier, hour: datetime, now: datetime) -> bool:
    """Whether the tier still has everything ever written to it for the hour that starts at `hour`.

    Increases of counters begin with readings of the hour before, which only full resolution has.
    """
    first = hour - COUNTER_GAP if tier is Tier.RAW else hour
    return now - first <= RETENTION[tier] + RETENTION_GRACE


def source_tier(hour: datetime, now: datetime) -> Tier:
    """The tier to make device_metrics_hourly from: the finest one that takes points of the whole hour.

    Ingest writes a sample older than a tier's retention directly to the next tier, so beyond that age only the next
    tier has all samples of the hour. Raises HourExpired beyond the last tier.
    """
    tier = tier_of(hour, now)
    if tier is None and still_whole(Tier.ONE_HOUR, hour, now):
        return Tier.ONE_HOUR
    if tier is None:
        kept = (RETENTION[Tier.ONE_HOUR] + RETENTION_GRACE).days
        raise HourExpired(
            f"{hour:%Y-%m-%d %H:%M} UTC is older than the {kept} days of the last tier; nothing was changed."
        )
    return tier


def sample_times(windows: pa.Table) -> pa.Table:
    """When the first and the last sample of each device's hour came (first_sample, last_sample), to five minutes: from
    windows of that width, or of single samples."""
    at = pc.floor_temporal(windows["time"], 5, unit="minute")
    keyed = windows.select(KEY).append_column("timestamp", pc.floor_temporal(at, unit="hour")).append_column("at", at)
    found = keyed.group_by([*KEY, "timestamp"], use_threads=False).aggregate([("at", "min"), ("at", "max")])
    return found.rename_columns([*KEY, "timestamp", "first_sample", "last_sample"]).cast(SAMPLE_TIMES)


def hourly_rows(windows: pa.Table, tier: Tier, times: pa.Table | None = None) -> pa.Table:
    """The rows of device_metrics_hourly, without as_of, from windows of one hour (schema WINDOWS).

    times: when samples came (schema SAMPLE_TIMES), as far as known; the rest is null. Means are sum / count of the
    samples that carry the field; a field that none carries is null.
    """
    columns = {
        "organization_id": windows["organization_id"],
        "device_id": windows["device_id"],
        "timestamp": pc.cast(windows["time"], pa.timestamp("s", "UTC")),
        **{
            column: _hourly(windows, name, aggregate)
            for name, metric in FIELDS.items()
            for column, aggregate in metric.hourly.items()
        },
        "disk_usage": _disk_usage(windows),
        "sample_count": pc.cast(windows["samples"], pa.uint32()),
        "sample_share": pc.min_element_wise(pc.divide(windows["covered"], 60.0), 1.0),
        "several_senders": pc.greater(windows["several_senders"], 0.0),
        "source_tier": pa.array([str(tier)] * windows.num_rows, pa.string()),
    }
    if times is None:
        nothing = pa.nulls(windows.num_rows, pa.timestamp("s", "UTC"))
        return pa.table(columns | {"first_sample": nothing, "last_sample": nothing})
    return pa.table(columns).join(times, [*KEY, "timestamp"], join_type="left outer", use_threads=False)


def _hourly(windows: pa.Table, field: str, aggregate: Aggregate) -> pa.ChunkedArray:
    if aggregate == "mean":
        return _mean(windows, field)
    column = windows[f"{field}_{aggregate}"]
    return pc.cast(column, pa.uint32()) if aggregate == "count" else column


def _disk_usage(windows: pa.Table) -> pa.ChunkedArray:
    """Disk space in use; where a sender reports only free space, the rest."""
    not_free = pc.max_element_wise(
        pc.subtract(windows["disk_total_last"], windows["disk_free_last"]), 0.0, skip_nulls=False
    )
    return pc.coalesce(windows["disk_used_last"], not_free)


def _mean(windows: pa.Table, field: str) -> pa.ChunkedArray:
    count = windows[f"{field}_count"]
    return pc.divide(windows[f"{field}_sum"], pc.if_else(pc.greater(count, 0.0), count, pa.scalar(None, pa.float64())))


def batches(
    hours: Sequence[datetime], kind: Callable[[datetime], object], at_once: int | None = None
) -> Iterator[list[datetime]]:
    """Consecutive hours of one kind, at most `at_once` (or HOURS_AT_ONCE) per group: each is read by one query."""
    at_once = at_once or HOURS_AT_ONCE
    for _, alike in itertools.groupby(enumerate(hours), lambda pair: (kind(pair[1]), pair[1] - pair[0] * HOUR)):
        together = [hour for _, hour in alike]
        for first in range(0, len(together), at_once):
            yield together[first : first + at_once]


def hours_at_once(rows: int) -> int:
    """How many hours to roll up together, after one that had so many rows."""
    return max(HOURS_AT_ONCE, min(ROWS_AT_ONCE // max(rows, 1), MAX_HOURS_AT_ONCE))


def per_hour(times: pa.ChunkedArray, samples: pa.ChunkedArray) -> dict[datetime, tuple[int, int]]:
    """Hour -> (rows, samples), for rows with these times."""
    table = pa.table({"hour": pc.floor_temporal(times, unit="hour"), "samples": samples})
    found = table.group_by("hour").aggregate([("samples", "count"), ("samples", "sum")]).to_pylist()
    return {row["hour"].astimezone(UTC): (row["samples_count"], int(row["samples_sum"])) for row in found}


class LateRange(msgspec.Struct, frozen=True):
    """Contiguous late hours, `first` to `last` inclusive; `touched_at` is the newest arrival among them."""

    first: datetime
    last: datetime
    touched_at: datetime


def condense(late: Mapping[datetime, datetime], longest: int = 168) -> list[LateRange]:
    """Late hours (hour -> when it was last touched) as ranges of at most `longest` hours, oldest first."""
    ranges: list[LateRange] = []
    for hour in sorted(late):
        previous = ranges[-1] if ranges else None
        if previous and hour - previous.last == HOUR and hour - previous.first < longest * HOUR:
            ranges[-1] = LateRange(previous.first, hour, max(previous.touched_at, late[hour]))
        else:
            ranges.append(LateRange(hour, hour, late[hour]))
    return ranges


def in_turn(ranges: Sequence[LateRange]) -> list[LateRange]:
    """The order in which ranges are rolled up again: alternately the newest hours, which people look at, and those with
    the oldest last arrival. However many hours one sender keeps touching, no other sender waits for all of them."""
    newest = sorted(ranges, key=lambda one: one.last, reverse=True)
    longest_quiet = sorted(ranges, key=lambda one: one.touched_at)
    return list(dict.fromkeys(itertools.chain.from_iterable(zip(newest, longest_quiet, strict=True))))


def fewer(before: Mapping[datetime, int], after: Mapping[datetime, int], hours: Iterable[datetime]) -> list[str]:
    """The hours that have fewer samples after than before, as text with both numbers."""
    return [
        f"{hour:%Y-%m-%d %H:%M} UTC: {after.get(hour, 0)} samples, not {before[hour]}"
        for hour in hours
        if after.get(hour, 0) < before.get(hour, 0)
    ]
