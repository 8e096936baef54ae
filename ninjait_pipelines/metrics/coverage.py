"""How much of an hour a device's samples cover, at whatever interval it sends. Pure: arrays and tables, no store.

A minute with a sample is covered. A sender that reports less often than every minute covers the minutes in between as
well, as long as its interval is, which is read off the hour itself: the median of the gaps between its covered minutes.

    10 s for 20 minutes        20 of 60 minutes
    60 s all the hour          60
    5 minutes all the hour     60: each of the 12 covers 5
    15 minutes all the hour    60: each of the 4 covers 15
    one sample                 1

Where samples fall into both halves of most minutes, the interval is below a minute and a minute without a sample is not
covered. Else a gap that is one minute or half an interval longer than the interval is covered too: a sender that
reports every 60 s, a moment before or after the full minute, leaves a minute out now and then, and one that reports
every 15 minutes is late now and then. What lies before an hour's first sample and after its last one is such a gap as
well. A lost sample makes a gap of two intervals. No interval is beyond
LONGEST_INTERVAL: where even the median gap is too long for a late sample of that, the device was there for moments.
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
# One row a device and hour (since 1970): bit n of `early` says whether a sample fell into the first half of minute n,
# `late` the second half. So minutes of several kinds of readings are put together, and an hour takes 16 bytes.
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
    """The minutes (schema MINUTES) in which these rows (organization_id, device_id, time) lie."""
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
    """Covered minutes (`covered`) by device and window of width `every`, an hour at most, `time` being its start.

    A minute is the window's in which it begins.
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
    """Of each row (organization_id, device_id, time), the minutes that it covers; of several in a minute the first."""
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
    """(group, minute, minutes that it covers) of each minute with a sample, in order, from half minutes of hours.

    group: which hour of which device; half: 0 to 119.
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
    gap[lasts] = 0  # the last one of an hour has none
    interval = np.where(dense, 1, _intervals(gap, firsts, sizes))
    gap[lasts] = minute[firsts] + 60 - minute[lasts]
    own, dense = np.repeat(interval, sizes), np.repeat(dense, sizes)
    whole = (gap > 0) & (gap <= np.where(dense, own, np.maximum(own + 1, own * 3 // 2)))
    return group, minute, np.where(whole, gap, own)


def _intervals(gap: Integers, firsts: Integers, sizes: Integers) -> Integers:
    """The median of each group's gaps, the lower one of two; a minute where there is none, or it is no interval."""
    order = np.lexsort((gap, np.repeat(np.arange(len(firsts)), sizes)))
    middle = firsts + sizes // 2  # the first of each group is the 0 of the last minute
    median = gap[order][middle]
    return np.where(median > LONGEST_INTERVAL * 3 // 2, 1, np.clip(median, 1, LONGEST_INTERVAL))


def devices_of(rows: pa.Table) -> tuple[Integers, Integers]:
    """A number for each row's device, and of each number the first row."""
    codes = [_codes(rows[name]) for name in _KEY]
    _, first, device = np.unique(codes[0] * 2**31 + codes[1], return_index=True, return_inverse=True)
    return device.astype(np.int64), first


def _codes(column: pa.ChunkedArray) -> Integers:
    encoded = column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [_NOTHING]).astype(np.int64)


def distinct(values: Integers) -> Integers:
    """In order. (numpy's unique hashes integers, which takes a hundred times as long for these.)"""
    values = np.sort(values)
    return values[starts_of(values)]


def starts_of(*keys: Integers) -> Integers:
    """Where a sorted key begins to be another one."""
    if not len(keys[0]):
        return _NOTHING
    differs = np.zeros(len(keys[0]) - 1, bool)
    for key in keys:
        differs |= np.diff(key) != 0
    return np.append(0, np.flatnonzero(differs) + 1)


def _any_of(lists: pa.ListArray) -> npt.NDArray[np.uint64]:
    """The bits that any number of each list has; none is empty."""
    values, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy()
    return np.bitwise_or.reduceat(values, offsets[:-1] - offsets[0]) if len(lists) else np.zeros(0, np.uint64)
