"""The arithmetic of windows: points, windows and late points as windows (schemas in model.py). Pure."""

from collections.abc import Sequence
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.metrics.coverage import covered_by
from ninjait_pipelines.metrics.model import AGGREGATES, FIELDS, POINTS, SAMPLE, WINDOWS

# Between two instants, which are milliseconds apart, lie this many stamps.
STAMPS = 999


def stamped_fields(names: Sequence[str]) -> list[tuple[int, Sequence[str]]]:
    """The fields in groups, each with its first stamp: a group of n fields has 2^n, one for each set of them.

    The first group has 9 fields and the stamps 1 to 512, as before there were more; the next ones what fits behind it.
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
# How windows become one; what a device's hour alone can say is among them in parts.
TOGETHER = [("samples", "sum"), ("covered", "sum"), ("several_senders", "max")] + [
    (f"{name}_{aggregate}", "sum" if aggregate == "count" else aggregate) for name in FIELDS for aggregate in AGGREGATES
]
_OF_HOURS = ("covered", "several_senders")
# Before 0.4.0 a sample stood for half a minute, however often its sender sent.
ASSUMED_MINUTES = 0.5


def late_windows(points: pa.Table) -> pa.Table:
    """Points too old for full resolution, as windows of one sample each (schema WINDOWS); see `late_rows`."""
    return late_rows(points)[0]


def late_rows(points: pa.Table) -> tuple[pa.Table, list[int]]:
    """Points too old for full resolution, as windows of one sample each (schema WINDOWS), and the point of each row.

    Each is stamped up to STAMPS microseconds after its own time, by the fields that it carries: so it lies beside the
    aggregate of its window, which is stamped with the window's start, and beside the other parts of its own reading,
    and replaces neither. Samples have milliseconds, so no two instants ever meet. Parts of one reading are a sample
    each; a field that two parts carry in different company counts twice. What a sample covers is told by those that
    are here.

    A point is one row, and another one, which is no sample, for each further group of fields (STAMPED) that it carries.
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
    """Windows of these fields alone, covering nothing."""
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
    """What rows cover, the same for all that have one key: a message that comes twice in a batch brings each row twice,
    the store keeps the last one, and only the first one of a minute covers it."""
    covered = windows.group_by(SAMPLE, use_threads=False).aggregate([("covered", "max")])
    numbered = windows.select(SAMPLE).append_column("row", pa.array(range(len(windows)), pa.int64()))
    return numbered.join(covered, SAMPLE).sort_by("row")["covered_max"]


def aggregate_points(points: pa.Table, every: timedelta) -> pa.Table:
    """Points (schema POINTS, and the number of `samples` of each) as windows (schema WINDOWS), in any order.

    What they cover is not told: it is 0. Those of a device are in order of time: `last` is the last that is there.
    """
    of = [("samples", "sum"), *((name, aggregate) for name in FIELDS for aggregate in AGGREGATES)]
    names = [name for name in WINDOWS.names if name not in _OF_HOURS]
    return fill_columns(by_window(points, every).aggregate(of).rename_columns(names))


def aggregate_windows(windows: pa.Table, every: timedelta) -> pa.Table:
    """Windows (schema WINDOWS) as wider ones, in any order. Those of a device are in order of time.

    Windows that were written before 0.4.0 do not say what they cover: half a minute for each sample, by the field that
    most of them carry, as was taken then.
    """
    counts = pc.max_element_wise(*(windows[f"{name}_count"] for name in FIELDS))
    limit = pc.if_else(pc.greater(pc.fill_null(counts, 0.0), 0.0), counts, windows["samples"])
    column = pc.coalesce(windows["covered"], pc.multiply(limit, ASSUMED_MINUTES))
    windows = windows.set_column(windows.schema.get_field_index("covered"), "covered", column)
    return fill_columns(by_window(windows, every).aggregate(TOGETHER).rename_columns(WINDOWS.names))


def by_window(rows: pa.Table, every: timedelta, key: Sequence[str] = SAMPLE[:2]) -> pa.TableGroupBy:
    """Rows grouped by key and window, `time` being the window's start: a multiple of `every` since 1970."""
    width = every // timedelta(microseconds=1)
    start = pc.multiply(pc.divide(pc.cast(rows["time"], pa.int64()), width), width)
    index = rows.schema.get_field_index("time")
    rows = rows.set_column(index, "time", pc.cast(start, POINTS.field("time").type))
    return rows.group_by([*key, "time"], use_threads=False)


def merge_windows(*windows: pa.Table) -> pa.Table:
    """Tables (schema WINDOWS) as one, in order of the key; of windows in several, `last` is that of the last one."""
    some = [of for of in windows if len(of)]
    found = some[0] if some else WINDOWS.empty_table()
    if len(some) > 1:
        both = pa.concat_tables(some).group_by(SAMPLE, use_threads=False)
        found = both.aggregate(TOGETHER).rename_columns(WINDOWS.names).cast(WINDOWS)
    return found.sort_by([(name, "ascending") for name in SAMPLE])


def fill_columns(windows: pa.Table) -> pa.Table:
    """Windows that lack columns, as schema WINDOWS: what is not there was in no sample."""
    columns = {name: windows[name] for name in windows.column_names}
    for name in WINDOWS.names:
        column = columns.get(name, pa.nulls(len(windows), pa.float64()))
        never_null = name.endswith("_count") or name in _OF_HOURS or name == "samples"
        columns[name] = pc.fill_null(pc.cast(column, pa.float64()), 0.0) if never_null else column
    return pa.table([columns[name] for name in WINDOWS.names], names=WINDOWS.names).cast(WINDOWS)
