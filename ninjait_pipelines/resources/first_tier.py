"""Full resolution as windows: points, counters and volumes of a device together. Pure, and alike for both stores.

Who reads it takes whole hours: what an interval is, which agent counts and where a reset is are said of an hour, and
its windows have their parts of it.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.resources.counters import DIRECTIONS, Readings
from ninjait_pipelines.resources.coverage import covered_windows
from ninjait_pipelines.resources.metrics_store import AGGREGATES, WINDOWS, added, filled, of_windows
from ninjait_pipelines.resources.volumes import DISK_FIELDS, FIVE_MINUTES

HOUR = timedelta(hours=1)
_DEVICE_HOUR = ["organization_id", "device_id", "hour"]


def whole_hours(start: datetime, stop: datetime) -> tuple[datetime, datetime]:
    """The hours that a window lies in."""
    first = start.replace(minute=0, second=0, microsecond=0)
    last = stop.replace(minute=0, second=0, microsecond=0)
    return first, last if last == stop else last + HOUR


def widths(every: timedelta) -> tuple[timedelta, timedelta]:
    """The width of the windows that points and counters, and volumes, are read as for windows of width `every`."""
    return min(every, HOUR), min(every, FIVE_MINUTES)


def first_tier(
    points: Readings, counters: Readings, volumes: Readings, start: datetime, stop: datetime, every: timedelta
) -> pa.Table:
    """The windows (schema WINDOWS, in order of its key) of [start, stop), from those of whole hours.

    points: what the samples are worth (see `widths`) and their minutes; counters, volumes: of `increases` and
    `disk_windows`.
    """
    width, _ = widths(every)
    of_points, of_counters = _by_one_sender(points.windows, counters.windows)
    of_volumes = of_windows(volumes.windows, width)
    # A sender that says what all its disks hold knows it better than what single volumes add up to.
    of_volumes = _without(of_volumes, DISK_FIELDS, _carrying(of_points, DISK_FIELDS[:1]))
    covered = covered_windows([one.minutes for one in (points, counters, volumes)], width)
    windows = added(of_volumes, of_points, of_counters, filled(covered))
    time = windows["time"]
    of_time = WINDOWS.field("time").type
    inside = pc.and_(pc.greater_equal(time, pa.scalar(start, of_time)), pc.less(time, pa.scalar(stop, of_time)))
    # Of windows narrower than a minute, those in which nothing but a minute begins are none.
    windows = windows.filter(pc.and_(inside, pc.greater(windows["samples"], 0.0)))
    return windows if every == width else added(of_windows(windows, every))


def _by_one_sender(points: pa.Table, counters: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both without the network of the one that has less of it in a device's hour: an agent that sends increases, and
    one that sends counters, count the same bytes. As many of both: the increases count."""
    both = _carrying(points, DIRECTIONS).join(
        _carrying(counters, DIRECTIONS), _DEVICE_HOUR, None, "inner", "", "_other"
    )
    if not len(both):
        return points, counters
    counters_win = pc.greater(both["count_other"], both["count"])
    several = pc.cast(_is_of(counters, both), pa.float64())
    counters = counters.set_column(
        counters.schema.get_field_index("several_senders"),
        WINDOWS.field("several_senders"),
        pc.max_element_wise(counters["several_senders"], several),
    )
    points = _without(points, DIRECTIONS, both.filter(counters_win))
    return points, _without(counters, DIRECTIONS, both.filter(pc.invert(counters_win)))


def _carrying(windows: pa.Table, fields: Sequence[str]) -> pa.Table:
    """Devices' hours that have a value of the fields, and how many (`count`)."""
    counts = pc.max_element_wise(*(windows[f"{name}_count"] for name in fields))
    rows = windows.select(_DEVICE_HOUR[:2]).append_column("hour", _hours(windows)).append_column("count", counts)
    rows = rows.filter(pc.greater(rows["count"], 0.0))
    found = rows.group_by(_DEVICE_HOUR, use_threads=False).aggregate([("count", "sum")])
    return found.rename_columns([*_DEVICE_HOUR, "count"])


def _without(windows: pa.Table, fields: Sequence[str], hours: pa.Table) -> pa.Table:
    """The windows, those of these devices' hours without the fields."""
    if not len(hours) or not len(windows):
        return windows
    gone = _is_of(windows, hours)
    for name in (f"{field}_{aggregate}" for field in fields for aggregate in AGGREGATES):
        nothing = pa.scalar(0.0 if name.endswith("_count") else None, pa.float64())
        column = pc.if_else(gone, nothing, windows[name])
        windows = windows.set_column(windows.schema.get_field_index(name), WINDOWS.field(name), column)
    return windows


def _is_of(windows: pa.Table, hours: pa.Table) -> pa.ChunkedArray:
    """Whether a window is of one of these devices' hours."""
    keys = pc.binary_join_element_wise(*(pc.cast(hours[name], pa.string()) for name in _DEVICE_HOUR), "/")
    own = [*(windows[name] for name in _DEVICE_HOUR[:2]), pc.cast(_hours(windows), pa.string())]
    return pc.is_in(pc.binary_join_element_wise(*own, "/"), keys.combine_chunks())


def _hours(windows: pa.Table) -> pa.ChunkedArray:
    return pc.divide(pc.cast(windows["time"], pa.int64()), 3_600_000_000)
