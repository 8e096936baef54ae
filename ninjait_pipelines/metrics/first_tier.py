"""Full resolution as windows: a device's points, counters and volumes together. Pure, the same for both stores.

Readers must pass whole hours: a device's interval, the agent that counts and its resets are determined per hour, and
each window gets its part of the hour's result.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.metrics.counters import DIRECTIONS, Readings
from ninjait_pipelines.metrics.coverage import covered_windows, minutes_of
from ninjait_pipelines.metrics.model import AGGREGATES, HOUR, WINDOWS
from ninjait_pipelines.metrics.volumes import DISK_FIELDS, FIVE_MINUTES
from ninjait_pipelines.metrics.windows import aggregate_windows, fill_columns, merge_windows

Read = Callable[[list[str]], pa.Table]
DEVICES_AT_ONCE = 100
_DEVICE_HOUR = ["organization_id", "device_id", "hour"]


def whole_hours(start: datetime, stop: datetime) -> tuple[datetime, datetime]:
    """The whole hours that contain the window."""
    first = start.replace(minute=0, second=0, microsecond=0)
    last = stop.replace(minute=0, second=0, microsecond=0)
    return first, last if last == stop else last + HOUR


def widths_of(every: timedelta) -> tuple[timedelta, timedelta]:
    """For windows of width `every`: the width at which points and counters are read, and that of volumes."""
    return min(every, HOUR), min(every, FIVE_MINUTES)


def by_devices(*streams: Iterable[pa.Table]) -> Iterator[list[pa.Table]]:
    """The rows of streams that are in order of device_id, in parts: a table of each stream, with all the rows that they
    have of some devices. So no more than a part or two of each stream is in memory.

    A table without rows may lack columns. Raises ValueError for a stream that is not in order: it would split devices.
    """
    rests = [_Rest(iter(stream)) for stream in streams]
    ends: list[str] = [""]
    while ends:
        for rest in rests:
            rest.fetch()
        ends = [rest.last for rest in rests if rest.last is not None]
        part = [rest.before(min(ends, default=None)) for rest in rests]
        if any(map(len, part)):
            yield part


class _Rest:
    """What has been read of a stream and not been passed on; `last` is the device of which more may come, None at the
    end of the stream."""

    def __init__(self, parts: Iterator[pa.Table]) -> None:
        self._parts = parts
        self._rows = pa.table({"device_id": pa.array([], pa.string())})
        self.last: str | None = ""

    def fetch(self) -> None:
        """Reads on until there is more than `last`."""
        while self.last is not None and (not len(self._rows) or _devices(self._rows)[0].as_py() == self.last):
            part = next(self._parts, None)
            if part is None:
                self.last = None
            elif len(part):
                self._rows = pa.concat_tables([*map(_small, [self._rows] if len(self._rows) else []), part])
                self._rows = self._rows.unify_dictionaries()
                self.last = _last_in_order(_devices(self._rows))

    def before(self, device: str | None) -> pa.Table:
        """Takes the rows of all devices before this one, or of all."""
        count = len(self._rows)
        if device is not None:
            count = pc.sum(pc.less(_devices(self._rows), device)).as_py() or 0
        part, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        return part


def _devices(rows: pa.Table) -> pa.ChunkedArray:
    return pc.cast(rows["device_id"], pa.string())


def _last_in_order(devices: pa.ChunkedArray) -> str:
    if len(devices) > 1 and not pc.all(pc.less_equal(devices.slice(0, len(devices) - 1), devices.slice(1))).as_py():
        raise ValueError("readings are not in order of their devices")
    last: str = devices[-1].as_py()
    return last


def _small(rows: pa.Table) -> pa.Table:
    """The rows with dictionaries of their own values alone: those of what has been passed on would pile up."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            rows = rows.set_column(index, field, pc.cast(rows[index], pa.string()).dictionary_encode())
    return rows


def whole_devices(stream: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of one stream, in parts with all rows of their devices: a device's are in consecutive rows, the devices
    in any order. (`by_devices` needs that of their text, which in ClickHouse is not the order of UUIDs.)"""
    rest: list[pa.Table] = []  # of the newest device, which the next part may go on with
    for part in stream:
        if not len(part):
            continue
        newest = pc.equal(part["device_id"], part["device_id"][-1])
        if not pc.all(newest).as_py() or (rest and rest[-1]["device_id"][-1] != part["device_id"][-1]):
            yield pa.concat_tables([*rest, part.filter(pc.invert(newest))])
            rest = []
        rest.append(part.filter(newest))
    if rest:
        yield pa.concat_tables(rest)


def first_tier(
    points: Readings,
    counters: Readings,
    volumes: Readings,
    read: Read,
    start: datetime,
    stop: datetime,
    every: timedelta,
) -> pa.Table:
    """The windows (schema WINDOWS, in key order) of [start, stop), from readings of whole hours.

    points: the samples as windows (see `widths_of`) and their minutes; counters, volumes: results of `increases` and
    `disk_windows`. read: returns these devices' points in these hours; called for devices that two agents count for.
    """
    width, _ = widths_of(every)
    of_points, of_counters = _by_one_sender(points, counters, read)
    of_volumes = aggregate_windows(volumes.windows, width)
    # A sender that reports the usage of all its disks knows better than the sum of single volumes.
    of_volumes = _without(of_volumes, DISK_FIELDS, _carrying(of_points, DISK_FIELDS[:1]))
    covered = covered_windows([one.minutes for one in (points, counters, volumes)], width)
    windows = merge_windows(of_volumes, of_points, of_counters, fill_columns(covered))
    time = windows["time"]
    of_time = WINDOWS.field("time").type
    inside = pc.and_(pc.greater_equal(time, pa.scalar(start, of_time)), pc.less(time, pa.scalar(stop, of_time)))
    # Windows narrower than a minute may have covered time but no sample: these are dropped.
    windows = windows.filter(pc.and_(inside, pc.greater(windows["samples"], 0.0)))
    return windows if every == width else merge_windows(aggregate_windows(windows, every))


def _by_one_sender(points: Readings, counters: Readings, read: Read) -> tuple[pa.Table, pa.Table]:
    """The windows of both, without the network fields of the one that covers less of a device's hour if both count at
    the same time: an agent that sends increases and one that sends counters count the same bytes, unless one replaced
    the other. Ties: the one with more readings, then the increases."""
    both = _carrying(points.windows, DIRECTIONS).join(
        _carrying(counters.windows, DIRECTIONS), _DEVICE_HOUR, None, "inner", "", "_other"
    )
    if not len(both):
        return points.windows, counters.windows
    devices = sorted(set(both["device_id"].to_pylist()))
    sent = pa.concat_tables([read(devices[n : n + DEVICES_AT_ONCE]) for n in range(0, len(devices), DEVICES_AT_ONCE)])
    sent = sent.filter(pc.or_(*(pc.is_valid(sent[name]) for name in DIRECTIONS)))
    theirs = counters.minutes.filter(pc.is_in(counters.minutes["device_id"], pa.array(devices, pa.string())))
    points_win, counters_win = (both.filter(wins) for wins in _longer(both, minutes_of(sent), theirs))
    several = pc.cast(_is_of(counters.windows, pa.concat_tables([points_win, counters_win])), pa.float64())
    several = pc.max_element_wise(counters.windows["several_senders"], several)
    at = WINDOWS.get_field_index("several_senders")
    windows = counters.windows.set_column(at, WINDOWS.field(at), several)
    return _without(points.windows, DIRECTIONS, counters_win), _without(windows, DIRECTIONS, points_win)


def _longer(both: pa.Table, points: pa.Table, counters: pa.Table) -> tuple[pa.Array, pa.Array]:
    """In which of these device hours the points count alone, and in which the counters do: those that cover more from
    their first to their last half minute. In neither if one ends before the other begins.

    both: device hours with the `count` of the points, and `count_other`; points, counters: their minutes.
    """
    import polars as pl  # here because it takes 0.2 s to load, and few devices have two agents that count

    halves = [(pl.col(name), late) for late, name in enumerate(("early", "late"))]
    firsts = [bits.bitwise_trailing_zeros().cast(pl.Int64) * 2 + late for bits, late in halves]
    lasts = [(63 - bits.bitwise_leading_zeros().cast(pl.Int64)) * 2 + late for bits, late in halves]
    span = {"first": pl.min_horizontal(firsts).min(), "last": pl.max_horizontal(lasts).max()}
    hours = pl.DataFrame(both)
    for minutes in (points, counters):
        spans = pl.DataFrame(minutes).group_by(_DEVICE_HOUR).agg(**span)
        hours = hours.join(spans, _DEVICE_HOUR, "left", suffix="_other", maintain_order="left")
    names = ("first", "last", "count", "first_other", "last_other", "count_other")
    first, last, count, first_other, last_other, count_other = (pl.col(name).fill_null(0) for name in names)
    meet = ((first == first_other) & (last == last_other)) | ((last > first_other) & (last_other > first))
    longer, other = last - first, last_other - first_other
    points_win = (longer > other) | ((longer == other) & (count >= count_other))
    found = hours.select(points=meet & points_win, counters=meet & ~points_win)
    return found["points"].to_arrow(), found["counters"].to_arrow()


def _carrying(windows: pa.Table, fields: Sequence[str]) -> pa.Table:
    """The device hours with a value in one of the fields, and how many (`count`)."""
    counts = pc.max_element_wise(*(windows[f"{name}_count"] for name in fields))
    rows = windows.select(_DEVICE_HOUR[:2]).append_column("hour", _hours(windows)).append_column("count", counts)
    rows = rows.filter(pc.greater(rows["count"], 0.0))
    found = rows.group_by(_DEVICE_HOUR, use_threads=False).aggregate([("count", "sum")])
    return found.rename_columns([*_DEVICE_HOUR, "count"])


def _without(windows: pa.Table, fields: Sequence[str], hours: pa.Table) -> pa.Table:
    """The windows, with the fields removed in these device hours."""
    if not len(hours) or not len(windows):
        return windows
    gone = _is_of(windows, hours)
    for name in (f"{field}_{aggregate}" for field in fields for aggregate in AGGREGATES):
        nothing = pa.scalar(0.0 if name.endswith("_count") else None, pa.float64())
        column = pc.if_else(gone, nothing, windows[name])
        windows = windows.set_column(windows.schema.get_field_index(name), WINDOWS.field(name), column)
    return windows


def _is_of(windows: pa.Table, hours: pa.Table) -> pa.ChunkedArray:
    """Whether each window is in one of these device hours."""
    keys = pc.binary_join_element_wise(*(pc.cast(hours[name], pa.string()) for name in _DEVICE_HOUR), "/")
    own = [*(windows[name] for name in _DEVICE_HOUR[:2]), pc.cast(_hours(windows), pa.string())]
    return pc.is_in(pc.binary_join_element_wise(*own, "/"), keys.combine_chunks())


def _hours(windows: pa.Table) -> pa.ChunkedArray:
    return pc.divide(pc.cast(windows["time"], pa.int64()), 3_600_000_000)
