"""The arithmetic of windows against plain Python, to the last bit.

A sum of floats depends on the order of its terms, so a rerun gives the same rows only if that order is fixed: the order
of time. (With polars an hour's sums differed in the last bit at some table sizes.)
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.metrics.model import AGGREGATES, FIELDS, POINTS, SAMPLE, WINDOWS
from ninjait_pipelines.metrics.windows import (
    STAMPED,
    STAMPS,
    aggregate_points,
    aggregate_windows,
    late_windows,
    merge_windows,
    stamped_fields,
)
from ninjait_pipelines_tests.examples import examples

START = datetime(2026, 11, 1, tzinfo=UTC)
SECOND, FIVE_MINUTES, HOUR = timedelta(seconds=1), timedelta(minutes=5), timedelta(hours=1)
Row = dict[str, Any]
SOME = ("cpu", "memory", "uptime")  # fields enough: each is treated alike
values = st.none() | st.floats(-1e15, 1e15)
points = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 2 * 3600), st.tuples(*[values] * len(SOME))), max_size=60
).map(
    lambda rows: [
        {"organization_id": "o", "device_id": device, "time": START + at * SECOND, "samples": 1.0}
        | dict.fromkeys(FIELDS)
        | dict(zip(SOME, of, strict=True))
        for device, at, of in sorted(rows, key=lambda row: row[:2])
    ]
)


def start_of(moment: datetime, every: timedelta) -> datetime:
    return START + (moment - START) // every * every


def total(terms: Sequence[float | None]) -> float | None:
    """Added one by one: `sum` compensates for rounding from Python 3.12 on."""
    result = 0.0
    for term in terms:
        result += term or 0.0
    return result if any(term is not None for term in terms) else None


def last(terms: Sequence[float | None]) -> float | None:
    return next((term for term in reversed(terms) if term is not None), None)


HOW: dict[str, Callable[[Sequence[float | None]], float | None]] = {
    "sum": total,
    "count": lambda terms: total([*terms, 0.0]),
    "min": lambda terms: min((term for term in terms if term is not None), default=None),
    "max": lambda terms: max((term for term in terms if term is not None), default=None),
    "last": last,
}


def grouped(rows: Sequence[Row], every: timedelta) -> dict[tuple[Any, ...], list[Row]]:
    groups: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["organization_id"], row["device_id"], start_of(row["time"], every)].append(row)
    return groups


def windows_of(rows: Sequence[Row]) -> list[Row]:
    """Each point as a window of its own."""
    found = []
    for row in rows:
        windows = {f"{name}_{aggregate}": row[name] for name in FIELDS for aggregate in AGGREGATES}
        windows |= {f"{name}_count": float(row[name] is not None) for name in FIELDS}
        key = {name: row[name] for name in SAMPLE}
        found.append(key | {"samples": 1.0, "covered": 0.0, "several_senders": 0.0} | windows)
    return found


def together(windows: Sequence[Row], every: timedelta) -> list[Row]:
    """Windows as wider ones, by plain Python."""
    found = []
    for key, rows in sorted(grouped(windows, every).items()):
        row = dict(zip(SAMPLE, key, strict=True))
        row |= {"samples": total([of["samples"] for of in rows]), "covered": total([of["covered"] for of in rows])}
        row["several_senders"] = max(of["several_senders"] for of in rows)
        for name in FIELDS:
            for aggregate in AGGREGATES:
                column = f"{name}_{aggregate}"
                row[column] = HOW[aggregate]([of[column] for of in rows])
        found.append(row)
    return found


def same(found: pa.Table, expected: Sequence[Row]) -> None:
    assert found.schema.equals(WINDOWS)
    rows = found.sort_by([(name, "ascending") for name in SAMPLE]).to_pylist()
    rows = [row | {"time": row["time"].astimezone(UTC)} for row in rows]
    assert repr(rows) == repr([{name: row[name] for name in WINDOWS.names} for row in expected])


@examples(30)
@given(points, st.sampled_from([FIVE_MINUTES, HOUR]))
def test_points_as_windows(rows: list[Row], every: timedelta) -> None:
    schema = POINTS.append(pa.field("samples", pa.float64()))
    same(aggregate_points(pa.Table.from_pylist(rows, schema=schema), every), together(windows_of(rows), every))


@examples(30)
@given(points)
def test_windows_as_wider_ones(rows: list[Row]) -> None:
    windows = together(windows_of(rows), FIVE_MINUTES)
    same(aggregate_windows(pa.Table.from_pylist(windows, schema=WINDOWS), HOUR), together(windows, HOUR))


@examples(30)
@given(points, points)
def test_windows_of_several_kinds_are_merged(some: list[Row], more: list[Row]) -> None:
    one, other = (together(windows_of(rows), HOUR) for rows in (some, more))
    tables = [pa.Table.from_pylist(rows, schema=WINDOWS) for rows in (one, other)]
    same(merge_windows(*tables), together([*one, *other], HOUR))


def test_a_long_window_is_added_up_in_order_of_time() -> None:
    """The example by which polars' sums were found to differ: 120 samples of a device, a thousand devices."""
    rows = [
        {"organization_id": "o", "device_id": f"{device:03d}", "time": START + 30 * n * SECOND, "samples": 1.0}
        | dict.fromkeys(FIELDS)
        | {"cpu": (device + 1) / 7 * 10.0 ** (n % 13 - 6)}
        for device in range(100)
        for n in range(120)
    ]
    schema = POINTS.append(pa.field("samples", pa.float64()))
    same(aggregate_points(pa.Table.from_pylist(rows, schema=schema), HOUR), together(windows_of(rows), HOUR))


@pytest.mark.parametrize("fields", [{}, {"cpu": 1.0}, dict.fromkeys(FIELDS, 2.0)])
def test_a_late_point_is_stamped_behind_its_time_by_less_than_a_millisecond(fields: dict[str, float]) -> None:
    row = {"organization_id": "o", "device_id": "d", "time": START} | dict.fromkeys(FIELDS) | fields
    windows = late_windows(pa.Table.from_pylist([row], schema=POINTS)).to_pylist()
    assert [window["samples"] for window in windows] == [1.0, *[0.0] * (len(windows) - 1)]
    for window in windows:
        assert timedelta(0) < window["time"] - START <= timedelta(microseconds=STAMPS) < timedelta(milliseconds=1)


NAMES = [f"field_{number}" for number in range(60)]


def stamps(groups: list[tuple[int, list[str]]]) -> list[int]:
    """All stamps that sets of fields may have; the first group's empty set has one."""
    return [first + number for first, names in groups for number in range(2 ** len(names))]


@pytest.mark.parametrize("count", [1, 9, 10, 17, 18, 30, 38])
def test_no_two_sets_share_a_stamp_and_none_reaches_the_next_instant(count: int) -> None:
    """With a tenth field two late samples a millisecond apart would have fallen on one stamp."""
    groups = stamped_fields(NAMES[:count])
    assert [name for _, names in groups for name in names] == NAMES[:count]
    found = stamps(groups)  # type: ignore[arg-type]
    assert len(found) == len(set(found))
    assert (min(found), max(found) <= STAMPS) == (1, True)


def test_a_field_more_changes_no_stamp() -> None:
    """What lies in the stores has them."""
    for count in range(1, 38):
        for (first, names), (later_first, later_names) in zip(
            stamped_fields(NAMES[:count]), stamped_fields(NAMES[: count + 1]), strict=False
        ):
            assert (first, list(names)) == (later_first, list(later_names)[: len(names)])
    assert STAMPED[0] == (1, list(FIELDS)[:9])


def test_more_fields_than_there_are_stamps_are_refused_when_they_are_declared() -> None:
    with pytest.raises(ValueError, match="there are no stamps for late samples of field_38"):
        stamped_fields(NAMES[:39])
