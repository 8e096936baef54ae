"""How many minutes of an hour a device's samples cover, whatever its interval. Pure: arrays and tables, no store.

A minute with a sample is covered. If the interval is longer than a minute, a sample also covers the minutes up to the
next one that is due. The interval is inferred from the hour: the median gap between minutes with a sample.

    10 s for 20 minutes        20 of 60 minutes
    60 s for the whole hour    60
    5 minutes, whole hour      60: each of the 12 covers 5
    15 minutes, whole hour     60: each of the 4 covers 15
    one sample                 1

If most minutes have samples in both halves, the interval is below a minute, and a minute without a sample is not
covered. Otherwise a gap may exceed the interval by one minute or half the interval and still counts as covered: a
sender with a 60 s interval skips a minute now and then because of jitter, and one with 15 minutes is sometimes late.
The time before an hour's first sample and after its last one together form such a gap too. A lost sample leaves a gap
of two intervals, which is not covered. Intervals are capped at LONGEST_INTERVAL: if the median gap is too long even for
a late sample at that interval, the device was only online for moments.
"""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LONGEST_INTERVAL = 15  # minutes
DENSE = 1.5  # half minutes with a sample, for each minute with one
_HALF_US = 30_000_000
_HALVES = 120  # of an hour
_KEY = ("organization_id", "device_id")
_NOTHING = np.zeros(0, np.int64)
# One row per device and hour (since 1970). Bit n of `early` is set if a sample fell into the first half of minute n,
# bit n of `late` likewise for the second half. Minutes of several kinds of readings merge with OR.
MINUTES = pa.schema(
    [
        pa.field("organization_id", pa.string()),
        pa.field("device_id", pa.string()),
        pa.field("hour", pa.int64()),
        pa.field("early", pa.uint64()),
        pa.field("late", pa.uint64()),
    ]
)
Integers = npt.NDArray[np.int64]


def minutes_of(rows: pa.Table) -> pa.Table:
    """The minutes (schema MINUTES) that these rows (organization_id, device_id, time) fall into."""
    if not len(rows):
        return MINUTES.empty_table()
    device, first = devices_of(rows)
    halves = distinct(device * 2**40 + pc.cast(rows["time"], pa.int64()).to_numpy() // _HALF_US)
    device, half = halves >> 40, halves & (2**40 - 1)
    hour, half = half // _HALVES, half % _HALVES
    bit = np.left_shift(np.uint64(1), (half // 2).astype(np.uint64))
    starts = starts_of(device, hour)
    early = np.bitwise_or.reduceat(np.where(half % 2, np.uint64(0), bit), starts)
    late = np.bitwise_or.reduceat(np.where(half % 2, bit, np.uint64(0)), starts)
    places = pa.array(first[device[starts]])
    of = [pc.cast(rows[name].take(places), pa.string()) for name in _KEY]
    return pa.table([*of, hour[starts], early, late], schema=MINUTES)


def covered_windows(minutes: Sequence[pa.Table], every: timedelta) -> pa.Table:
    """Covered minutes (`covered`) per device and window of width `every`, at most an hour; `time` is its start.

    A minute belongs to the window in which it begins.
    """
    found = pa.concat_tables([MINUTES.empty_table(), *minutes]).combine_chunks()
    names = [*_KEY, "hour"]
    found = found.group_by(names, use_threads=False).aggregate([("early", "list"), ("late", "list")])
    early, late = (_any_of(found[f"{name}_list"].combine_chunks()) for name in ("early", "late"))
    bits = np.arange(60, dtype=np.uint64)
    halves = np.stack([(of[:, None] >> bits) & np.uint64(1) for of in (early, late)], axis=2).reshape(-1, _HALVES)
    place, half = np.nonzero(halves)
    place, minute, covered = covered_minutes(place, half)
    width = every // timedelta(microseconds=1)
    time = (found["hour"].to_numpy()[place] * 60 + minute) * 60_000_000 // width * width
    starts = starts_of(place, time)
    where = pa.array(place[starts])
    return pa.table(
        {
            **{name: found[name].take(where) for name in _KEY},
            "time": pa.array(time[starts], pa.int64()).cast(pa.timestamp("us", "UTC")),
            "covered": np.add.reduceat(covered, starts).astype(np.float64)
            if len(starts)
            else pa.array([], pa.float64()),
        }
    )


def covered_by(rows: pa.Table) -> pa.Array:
    """The minutes each row (organization_id, device_id, time) covers; only the first row in a minute covers any."""
    result = np.zeros(len(rows))
    if len(rows):
        device, _ = devices_of(rows)
        half = pc.cast(rows["time"], pa.int64()).to_numpy() // _HALF_US
        group = device * 2**24 + half // _HALVES
        _, _, covered = covered_minutes(group, half % _HALVES)
        _, first = np.unique(group * 60 + half % _HALVES // 2, return_index=True)
        result[first] = covered
    return pa.array(result, pa.float64())


def covered_minutes(group: Integers, half: Integers) -> tuple[Integers, Integers, Integers]:
    """Half minutes with a sample -> (group, minute, minutes it covers) for each minute with a sample, in order.

    group: numbers the device and hour; half: the half minute in the hour, 0 to 119.
    """
    if not len(group):
        return _NOTHING, _NOTHING, _NOTHING
    halves = distinct(group * _HALVES + half)
    starts = starts_of(halves // 2)
    group, minute = halves[starts] // _HALVES, halves[starts] % _HALVES // 2
    firsts = starts_of(group)
    sizes = np.diff(np.append(firsts, len(group)))
    dense = np.add.reduceat(np.diff(np.append(starts, len(halves))), firsts) >= DENSE * sizes
    gap = np.append(np.diff(minute), 0)
    lasts = firsts + sizes - 1
    gap[lasts] = 0  # the last minute of an hour has no gap after it
    interval = np.where(dense, 1, _intervals(gap, firsts, sizes))
    gap[lasts] = minute[firsts] + 60 - minute[lasts]
    own, dense = np.repeat(interval, sizes), np.repeat(dense, sizes)
    whole = (gap > 0) & (gap <= np.where(dense, own, np.maximum(own + 1, own * 3 // 2)))
    return group, minute, np.where(whole, gap, own)


def _intervals(gap: Integers, firsts: Integers, sizes: Integers) -> Integers:
    """The lower median of each group's gaps; 1 minute if there is no gap, or the median is too long for an interval."""
    order = np.lexsort((gap, np.repeat(np.arange(len(firsts)), sizes)))
    middle = firsts + sizes // 2  # each group starts with the 0 of its last minute
    median = gap[order][middle]
    return np.where(median > LONGEST_INTERVAL * 3 // 2, 1, np.clip(median, 1, LONGEST_INTERVAL))


def devices_of(rows: pa.Table) -> tuple[Integers, Integers]:
    """A number for each row's device, and the first row of each number."""
    codes = [_codes(rows[name]) for name in _KEY]
    _, first, device = np.unique(codes[0] * 2**31 + codes[1], return_index=True, return_inverse=True)
    return device.astype(np.int64), first


def _codes(column: pa.ChunkedArray) -> Integers:
    encoded = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [_NOTHING]).astype(np.int64)


def distinct(values: Integers) -> Integers:
    """The distinct values, sorted. numpy's unique hashes integers, which takes a hundred times as long for these."""
    values = np.sort(values)
    return values[starts_of(values)]


def starts_of(*keys: Integers) -> Integers:
    """Where each run of equal keys starts; the keys are sorted."""
    if not len(keys[0]):
        return _NOTHING
    differs = np.zeros(len(keys[0]) - 1, bool)
    for key in keys:
        differs |= np.diff(key) != 0
    return np.append(0, np.flatnonzero(differs) + 1)


def _any_of(lists: pa.ListArray) -> npt.NDArray[np.uint64]:
    """The bitwise OR of each list; no list is empty."""
    values, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy()
    return np.bitwise_or.reduceat(values, offsets[:-1] - offsets[0]) if len(lists) else np.zeros(0, np.uint64)
