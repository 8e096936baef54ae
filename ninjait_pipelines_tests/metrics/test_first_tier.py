"""Streams read side by side, and which of two agents counts in an hour of a device, against plain Python."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.metrics.coverage import MINUTES
from ninjait_pipelines.metrics.first_tier import _longer, by_devices, whole_devices
from ninjait_pipelines_tests.examples import examples

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


@examples(100)  # the first example loads polars
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


# Devices in order, each with some rows, cut anywhere; as the store gives them: as text, or as a dictionary.
streams = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdefgh")).map(sorted), st.integers(1, 5), st.booleans()),
    min_size=1,
    max_size=3,
)


def parts(devices: list[str], size: int, coded: bool) -> list[pa.Table]:
    column = pa.array(devices, pa.string())
    whole = pa.table({"device_id": column, "row": pa.array(range(len(devices)), pa.int64())})
    found = [whole.slice(at, size) for at in range(0, len(devices), size)]
    return [one.set_column(0, "device_id", one["device_id"].dictionary_encode()) for one in found] if coded else found


@examples(100)
@given(streams)
def test_each_device_comes_once_with_all_its_rows(given_streams: list[tuple[list[str], int, bool]]) -> None:
    seen: set[str] = set()
    rows: list[list[tuple[str, int]]] = [[] for _ in given_streams]
    for part in by_devices(*(parts(*of) for of in given_streams)):
        devices = {device for one in part for device in one["device_id"].to_pylist()}
        assert devices
        assert not devices & seen
        seen |= devices
        for found, one in zip(rows, part, strict=True):
            found += zip(one["device_id"].to_pylist(), one["row"].to_pylist(), strict=True) if len(one) else []
    for found, (devices, _, _) in zip(rows, given_streams, strict=True):
        assert found == list(zip(devices, range(len(devices)), strict=True))


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 5)), unique_by=lambda one: one[0]), st.integers(1, 9)
)
def test_devices_of_one_stream_stay_whole_in_any_order(devices: list[tuple[str, int]], size: int) -> None:
    """ClickHouse cuts its answer anywhere; what was sent of a device in two parts would be two hours of it."""
    rows = [device for device, count in devices for _ in range(count)]
    found = [part["device_id"].to_pylist() for part in whole_devices([*parts(rows, size, False), *parts([], 1, False)])]
    assert [device for part in found for device in part] == rows
    assert all(found)
    assert sum(len(set(part)) for part in found) == len(devices)


def test_parts_come_before_the_streams_end() -> None:
    """Else all of a fleet would be in memory."""
    read = []

    def stream() -> Iterator[pa.Table]:
        for number in range(100):
            read.append(number)
            yield pa.table({"device_id": [f"{number:03}", f"{number:03}"]})

    next(by_devices(stream(), []))
    assert len(read) == 2


@pytest.mark.parametrize("devices", [["b", "a"], ["a", "b", "a"]])
@pytest.mark.parametrize("size", [1, 5])
def test_a_stream_that_is_not_in_order_is_an_error(devices: list[str], size: int) -> None:
    """Parts of one device would be computed as if they were all of it."""
    with pytest.raises(ValueError, match="not in order"):
        list(by_devices(parts(devices, size, False)))
