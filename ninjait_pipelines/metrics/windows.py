"""The arithmetic of windows: points, windows and late points as windows (schemas in model.py). Pure."""

from collections.abc import Sequence
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.metrics.coverage import covered_by
from ninjait_pipelines.metrics.model import AGGREGATES, FIELDS, POINTS, SAMPLE, WINDOWS

# Samples have millisecond times; this many microsecond stamps fit between two of them.
STAMPS = 999


def stamped_fields(names: Sequence[str]) -> list[tuple[int, Sequence[str]]]:
    """The fields in groups, each with its first stamp. A group of n fields has 2^n stamps, one per subset of them.

    The first group has 9 fields and the stamps 1 to 512, as when it was the only one; later groups fill the rest.
    Raises ValueError for more fields than there are stamps for.
    """
    groups: list[tuple[int, Sequence[str]]] = []
    first, size = 1, 9
    while names:
        if not size:
            raise ValueError(f"too many metric fields: there are no stamps for late samples of {', '.join(names)}")
        groups.append((first, names[:size]))
        first, names = first + (1 << size), names[size:]
        size = (STAMPS + 1 - first).bit_length() - 1
    return groups


STAMPED = stamped_fields(list(FIELDS))
# How windows are merged. What is determined per hour (`covered`, `several_senders`) is spread over its windows.
TOGETHER = [("samples", "sum"), ("covered", "sum"), ("several_senders", "max")] + [
    (f"{name}_{aggregate}", "sum" if aggregate == "count" else aggregate) for name in FIELDS for aggregate in AGGREGATES
]
_OF_HOURS = ("covered", "several_senders")
# Before 0.4.0 a sample counted as half a minute, whatever the sender's interval.
ASSUMED_MINUTES = 0.5


def late_windows(points: pa.Table) -> pa.Table:
    """Points too old for full resolution, as windows of one sample each (schema WINDOWS); see `late_rows`."""
    return late_rows(points)[0]


def late_rows(points: pa.Table) -> tuple[pa.Table, list[int]]:
    """Points too old for full resolution, as windows of one sample each (schema WINDOWS), and the point of each row.

    Each timestamp is offset by up to STAMPS microseconds that encode which fields are present. So the row overwrites
    neither the regular aggregate of its window, which is stamped with the window's start, nor another part of the same
    reading; and since samples have millisecond times, rows of different instants never collide. Each part of a reading
    is a sample; a field that two parts carry beside different other fields counts twice. The covered minutes are
    determined from these points alone.

    A point becomes one row, plus one more with 0 samples for each further group (STAMPED) of which it carries fields.
    """
    (first, names), *more = STAMPED
    rows = _late_rows(points, first, names)
    covered = _of_either_twin(rows.select(SAMPLE).append_column("covered", covered_by(points)))
    rows = rows.set_column(rows.schema.get_field_index("covered"), WINDOWS.field("covered"), covered)
    tables, sources = [rows], list(range(len(points)))
    for first, names in more:
        carrying = [
            row
            for row, one in enumerate(points.select(list(names)).to_pylist())
            if any(value is not None for value in one.values())
        ]
        others = _late_rows(points.take(pa.array(carrying, pa.int64())), first, names)
        none = pa.array([0.0] * len(others), pa.float64())
        tables.append(others.set_column(others.schema.get_field_index("samples"), WINDOWS.field("samples"), none))
        sources += carrying
    return pa.concat_tables(tables), sources


def _late_rows(points: pa.Table, first: int, names: Sequence[str]) -> pa.Table:
    """Windows with these fields only, and 0 covered minutes."""
    stamp = pa.array([first] * len(points), pa.int64())
    for number, name in enumerate(names):
        stamp = pc.add(stamp, pc.if_else(pc.is_valid(points[name]), 1 << number, 0))
    later = pc.add(points["time"], pc.cast(stamp, pa.duration("us")))
    columns = {"organization_id": points["organization_id"], "device_id": points["device_id"], "time": later}
    columns["samples"] = pa.array([1.0] * len(points), pa.float64())
    columns["covered"] = columns["several_senders"] = pa.array([0.0] * len(points), pa.float64())
    for name in FIELDS:
        value = points[name] if name in names else pa.nulls(len(points), pa.float64())
        columns |= {f"{name}_{aggregate}": value for aggregate in AGGREGATES}
        columns[f"{name}_count"] = pc.if_else(pc.is_valid(value), 1.0, 0.0)
    return pa.table([columns[name] for name in WINDOWS.names], schema=WINDOWS)


def _of_either_twin(windows: pa.Table) -> pa.ChunkedArray:
    """The covered minutes, equal for all rows with the same key. A message delivered twice in a batch yields each row
    twice: the store keeps the last, but only the first row of a minute covers anything."""
    covered = windows.group_by(SAMPLE, use_threads=False).aggregate([("covered", "max")])
    numbered = windows.select(SAMPLE).append_column("row", pa.array(range(len(windows)), pa.int64()))
    return numbered.join(covered, SAMPLE).sort_by("row")["covered_max"]


def aggregate_points(points: pa.Table, every: timedelta) -> pa.Table:
    """Points (schema POINTS, and the number of `samples` of each) as windows (schema WINDOWS), in any order.

    `covered` is 0, to be filled in by the caller. A device's points must be in order of time: `last` is the last value.
    """
    of = [("samples", "sum"), *((name, aggregate) for name in FIELDS for aggregate in AGGREGATES)]
    names = [name for name in WINDOWS.names if name not in _OF_HOURS]
    return fill_columns(by_window(points, every).aggregate(of).rename_columns(names))


def aggregate_windows(windows: pa.Table, every: timedelta) -> pa.Table:
    """Windows (schema WINDOWS) as wider ones, in any order. A device's windows must be in order of time.

    Windows written before 0.4.0 have no `covered`: half a minute per value of their most frequent field, as was assumed
    then.
    """
    counts = pc.max_element_wise(*(windows[f"{name}_count"] for name in FIELDS))
    limit = pc.if_else(pc.greater(pc.fill_null(counts, 0.0), 0.0), counts, windows["samples"])
    column = pc.coalesce(windows["covered"], pc.multiply(limit, ASSUMED_MINUTES))
    windows = windows.set_column(windows.schema.get_field_index("covered"), "covered", column)
    return fill_columns(by_window(windows, every).aggregate(TOGETHER).rename_columns(WINDOWS.names))


def by_window(rows: pa.Table, every: timedelta, key: Sequence[str] = SAMPLE[:2]) -> pa.TableGroupBy:
    """Rows grouped by key and window; `time` becomes the window's start, a multiple of `every` since 1970."""
    width = every // timedelta(microseconds=1)
    start = pc.multiply(pc.divide(pc.cast(rows["time"], pa.int64()), width), width)
    index = rows.schema.get_field_index("time")
    rows = rows.set_column(index, "time", pc.cast(start, POINTS.field("time").type))
    return rows.group_by([*key, "time"], use_threads=False)


def merge_windows(*windows: pa.Table) -> pa.Table:
    """Tables (schema WINDOWS) merged, in key order; `last` of a window in several comes from the last of them."""
    some = [of for of in windows if len(of)]
    found = some[0] if some else WINDOWS.empty_table()
    if len(some) > 1:
        both = pa.concat_tables(some).group_by(SAMPLE, use_threads=False)
        found = both.aggregate(TOGETHER).rename_columns(WINDOWS.names).cast(WINDOWS)
    return found.sort_by([(name, "ascending") for name in SAMPLE])


def fill_columns(windows: pa.Table) -> pa.Table:
    """Windows that lack columns, as schema WINDOWS: a missing column was in no sample."""
    columns = {name: windows[name] for name in windows.column_names}
    for name in WINDOWS.names:
        column = columns.get(name, pa.nulls(len(windows), pa.float64()))
        never_null = name.endswith("_count") or name in _OF_HOURS or name == "samples"
        columns[name] = pc.fill_null(pc.cast(column, pa.float64()), 0.0) if never_null else column
    return pa.table([columns[name] for name in WINDOWS.names], names=WINDOWS.names).cast(WINDOWS)
