"""Which of two agents counts in a device's hour, against the same rule in plain Python."""

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ninjait_pipelines.metrics.coverage import MINUTES
from ninjait_pipelines.metrics.first_tier import _longer

Key = tuple[str, str, int]
Span = tuple[int, int]
KEY = ("organization_id", "device_id", "hour")
keys = st.tuples(st.sampled_from("op"), st.sampled_from("abc"), st.integers(490_000, 490_001))
minutes = st.lists(
    st.tuples(keys, st.integers(0, 2**60 - 1), st.integers(0, 2**60 - 1)).filter(lambda row: bool(row[1] | row[2])),
    max_size=12,
)
# Short spans, so that one often ends before the other begins.
bursts = st.lists(st.tuples(keys, st.integers(0, 59), st.booleans()), max_size=12).map(
    lambda rows: [(key, 0 if late else 1 << at, 1 << at if late else 0) for key, at, late in rows]
)
counts = st.integers(1, 3).map(float)
hours = st.dictionaries(keys, st.tuples(counts, counts), min_size=1, max_size=12)


def table(rows: list[tuple[Key, int, int]]) -> pa.Table:
    values = [{**dict(zip(KEY, key, strict=True)), "early": early, "late": late} for key, early, late in rows]
    return pa.Table.from_pylist(values, schema=MINUTES)


def spans(rows: list[tuple[Key, int, int]]) -> dict[Key, Span]:
    """Device hour -> the first and last half minute with a reading."""
    found: dict[Key, Span] = {}
    for key, *bits in rows:
        halves = [2 * n + late for late, of in enumerate(bits) for n in range(60) if of >> n & 1]
        first, last = found.get(key, (120, -1))
        found[key] = min(first, *halves), max(last, *halves)
    return found


def points_win(points: Span, counters: Span, has_more: bool) -> bool | None:
    """Whether the points count alone; None if one ends before the other begins."""
    if points != counters and (points[1] <= counters[0] or counters[1] <= points[0]):
        return None
    length, other = points[1] - points[0], counters[1] - counters[0]
    return length > other or (length == other and has_more)


def both(of: dict[Key, tuple[float, float]]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {**dict(zip(KEY, key, strict=True)), "count": count, "count_other": other} for key, (count, other) in of.items()
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([*list(MINUTES)[:3], *COUNTS]))


COUNTS = [pa.field("count", pa.float64()), pa.field("count_other", pa.float64())]


@settings(deadline=None)  # the first example loads polars
@given(hours, minutes | bursts, minutes | bursts)
def test_the_agent_that_covers_more_of_an_hour_counts(
    of: dict[Key, tuple[float, float]], points: list[tuple[Key, int, int]], counters: list[tuple[Key, int, int]]
) -> None:
    """Minutes may be missing: the points may have been deleted since they were counted."""
    of_points, of_counters = spans(points), spans(counters)
    wins = [
        points_win(of_points.get(key, (0, 0)), of_counters.get(key, (0, 0)), count >= other)
        for key, (count, other) in of.items()
    ]
    found = _longer(both(of), table(points), table(counters))
    assert [one.to_pylist() for one in found] == [[win is True for win in wins], [win is False for win in wins]]


def test_an_agent_that_replaced_another_leaves_both_to_count() -> None:
    key = ("o", "a", 490_000)
    before, after = [(key, 0b11, 0)], [(key, 0b1100, 0)]
    found = _longer(both({key: (2.0, 2.0)}), table(before), table(after))
    assert [one.to_pylist() for one in found] == [[False], [False]]
