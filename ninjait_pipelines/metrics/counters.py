"""Increases of byte counters, computed from their readings. Pure: tables in, tables out, no store.

The rules, for the readings of one interface by one agent in order of time:

- The highest value so far is the baseline; the increase is what a reading exceeds it by. A reading more than
  COUNTER_GAP after the previous one only starts a new series.
- A value below half the baseline, or near zero, is a reset (the device booted): the whole value is increase. A smaller
  drop adds nothing and leaves the baseline: a driver or a stepped clock delivered readings out of order.
- A drop from near 2^32 to a small value is the wrap of a 32-bit counter, unless the increase that implies is
  implausible (more than four times the series' usual rate, twice the rate of the steps before and after it, and one
  megabit per second) or the value is back up at once: then the device booted, or two machines write. If the series
  never reaches 2^32 and its drops, taken as wraps, are as fast as its rises (see `_usual_rates`), a drop from any value
  is a wrap: a busy counter wraps ten times per hour.
- Readings below half or above twice the baseline after an implausible step (which also exceeds ten megabits per second,
  because much arrives at once after a boot; for a rise also twice the rate of the neighbouring steps) belong to another
  sender if the series then continues as if they did not exist: a driver that reads 0 for a moment, or a second machine.
  They add nothing and count as one reset.
- More than FEW resets in an hour mean that several machines write as one device. Their counters add nothing in it.
- An increase faster than MAX_RATE adds nothing either: no interface is so fast, a driver returned -1.
- If several agents run on one device, the one that covers the longest part of the hour counts, from where its first
  increase begins to its last reading. (Ties: the one with more readings, then the first by name.) What another agent
  counted before or after that part is added: when one agent replaces another, they count different bytes.

An hour is computed from its own readings and those of the hour before, which hold the baselines, whatever else is read
along with it. So every run computes the same hour.
"""

import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.metrics.coverage import MINUTES, Integers, devices_of, distinct, minutes_of, starts_of
from ninjait_pipelines.metrics.interfaces import is_left_out, patterns_of
from ninjait_pipelines.metrics.model import COUNTER_GAP, COUNTERS, WINDOWS
from ninjait_pipelines.metrics.windows import fill_columns

Floats = npt.NDArray[np.float64]
FEW = 3  # resets of an interface per hour, or drops that suggest two senders, before a device counts as several
OFTEN = 0.1  # share of an interface's readings that drop, likewise: a stepped clock causes drops, but not all hour long
OFF_BEAT = 0.75  # of the usual time between readings: a reading closer to its neighbour comes from a second sender
NEAR_ZERO = 1024.0  # bytes
WRAP = 2.0**32
NEAR_WRAP, AFTER_WRAP = 0.75 * WRAP, 0.25 * WRAP
USUAL_RATES = 4  # times the usual rate
SLOW, FAST = 131_072.0, 1_310_720.0  # bytes per second
MAX_RATE = 1e11  # bytes per second: 800 Gbit/s
DIRECTIONS = ("network_in", "network_out")
_KEY = ["organization_id", "device_id", "time"]
_HOUR_US = 3_600_000_000
_GAP_US = COUNTER_GAP // timedelta(microseconds=1)


class Readings(NamedTuple):
    """Readings aggregated to windows (schema WINDOWS, `covered` 0), and the minutes they fall into (schema MINUTES)."""

    windows: pa.Table
    minutes: pa.Table


def increases(
    readings: Iterable[pa.Table], start: datetime, every: timedelta, interfaces_left_out: str | None = None
) -> Readings:
    """Counter readings as increases per window of width `every`, at most an hour; `start` is the start of an hour.

    readings: in parts (schema COUNTERS), each with all readings of its devices, a device's in consecutive rows; null
    means not read. They begin COUNTER_GAP before `start`. Readings of several interfaces at one instant make one
    sample, their sum. Readings that only start a series, come from an agent that does not count, or from an interface
    that is left out (the setting), are samples without an increase. A part without rows may lack columns.

    Only one part is in memory beside the result. The stores return every reading: no aggregate that they could compute
    tells an increase from a reset.
    """
    patterns = patterns_of(interfaces_left_out)
    found = [_readings_of(_without(part, patterns), start, every) for part in readings if len(part)]
    windows = pa.concat_tables([WINDOWS.empty_table(), *(one.windows for one in found)])
    return Readings(windows, pa.concat_tables([MINUTES.empty_table(), *(one.minutes for one in found)]))


def _without(readings: pa.Table, patterns: Sequence[str]) -> pa.Table:
    """The readings, with the values of left-out interfaces set to null."""
    names = [name for name in pc.unique(readings["interface"]).to_pylist() if is_left_out(name, patterns)]
    if not names:
        return readings
    gone = pc.is_in(readings["interface"], pa.array(names, readings["interface"].type))
    for name in DIRECTIONS:
        at = readings.schema.get_field_index(name)
        values = pc.if_else(gone, pa.scalar(None, pa.float64()), readings[name])
        readings = readings.set_column(at, COUNTERS.field(name), values)
    return readings


class _Rows(NamedTuple):
    """Readings by series and time, as numbers: each in its own hour (`own`), and again as history of the next hour.

    `row` is the index among the readings; `device`, `source` and `series` are codes, those of sources in name order.
    """

    row: Integers
    time: Integers
    hour: Integers
    device: Integers
    source: Integers
    series: Integers
    own: npt.NDArray[np.bool_]

    def at(self, places: npt.NDArray[Any]) -> "_Rows":
        return _Rows(*(of[places] for of in self))


def _readings_of(readings: pa.Table, start: datetime, every: timedelta) -> Readings:
    rows = _rows(readings, start)
    found = [_increases(rows, readings[name].to_numpy()[rows.row]) for name in DIRECTIONS]
    places = np.flatnonzero(rows.own)
    rows, several = rows.at(places), np.logical_or(*(one.several for one in found))[places]
    others, many = _other_sources(rows, np.minimum(*(one.since for one in found))[places])
    grown = [np.where(others, np.nan, one.grown[places]) for one in found]
    windows = _windows(readings, rows, grown, several | many, every)
    return Readings(windows, minutes_of(readings.take(pa.array(rows.row))))


def _rows(readings: pa.Table, start: datetime) -> _Rows:
    time = pc.cast(readings["time"], pa.int64()).to_numpy()
    hour = time // _HOUR_US
    first = int(start.timestamp()) // 3600
    own, before = np.flatnonzero(hour >= first), np.flatnonzero(hour < hour.max(initial=0))
    row = np.concatenate([own, before])
    hours = np.concatenate([hour[own], hour[before] + 1])
    device, _ = devices_of(readings)
    source, names = _ranked(readings["source"])
    interface, _ = _ranked(readings["interface"])
    rows = _Rows(row, time[row], hours, device[row], source[row], interface[row], np.arange(len(row)) < len(own))
    if names[:1] == [""]:
        rows = rows._replace(source=_adopted(rows))
    rows = rows._replace(series=(rows.device * len(names) + rows.source) * (interface.max(initial=0) + 1) + rows.series)
    return rows.at(np.lexsort((rows.time, rows.hour, rows.series)))


def _adopted(rows: _Rows) -> Integers:
    """The sources, with "" replaced by the device's named source if the hour has exactly one: its readings continue
    those that an earlier version wrote without a name. With two named sources it is unknown whose they were."""
    group, limit = _device_hour(rows), int(rows.source.max()) + 1
    pairs = distinct(group * limit + rows.source)
    pairs = pairs[pairs % limit > 0]
    starts = starts_of(pairs // limit)
    alone = np.diff(np.append(starts, len(pairs))) == 1
    only = pairs[starts][alone]
    place = np.searchsorted(only // limit, group)
    known = place < len(only)
    known[known] = (only // limit)[place[known]] == group[known]
    known &= rows.source == 0
    source = rows.source.copy()
    source[known] = (only % limit)[place[known]]
    return source


class _Increases(NamedTuple):
    """Per reading: its increase over the previous ones, null if it starts a series; the time the increase began (the
    reading's own if there is none); and whether several machines write as this device."""

    grown: Floats
    since: Integers
    several: npt.NDArray[np.bool_]


def _increases(rows: _Rows, value: Floats) -> _Increases:
    places = np.flatnonzero(~np.isnan(value))
    result = _Increases(np.full(len(value), np.nan), rows.time.copy(), np.zeros(len(value), bool))
    rows, value = rows.at(places), value[places]
    if not len(places):
        return result
    begins = np.ones(len(places), bool)
    begins[1:] = (np.diff(rows.series) != 0) | (np.diff(rows.hour) != 0) | (np.diff(rows.time) > _GAP_US)
    since = np.where(begins, rows.time, np.append(0, rows.time[:-1]))
    grown = np.append(0.0, np.diff(value))
    fell = (grown < 0) & ~begins
    grown[begins] = np.nan
    if fell.any():
        # A wrap is a drop too, but no sign of several machines.
        group = np.cumsum((np.diff(rows.series, prepend=-1) != 0) | (np.diff(rows.hour, prepend=-1) != 0)) - 1
        reset, other = _through_falls(rows.time, value, grown, np.append(np.flatnonzero(begins), len(value)), fell)
        odd = fell & (reset | (other & ~(grown > 0)))
        resets, falls, all_ = (np.bincount(group, of & rows.own)[group] for of in (reset, odd, np.ones_like(odd)))
        grown[(resets > FEW) & ~np.isnan(grown)] = 0.0
        result.several[places] = (resets > FEW) | ((falls > FEW) & (falls > OFTEN * all_))
    grown[grown > MAX_RATE * np.maximum((rows.time - since) / 1e6, 1.0)] = 0.0
    result.grown[places], result.since[places] = grown, since
    return result


def _through_falls(
    time: Integers, value: Floats, grown: Floats, bounds: Integers, fell: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Writes the increases of series that drop somewhere into `grown`. Returns which readings are resets, and which
    belong to another sender unless they are resets."""
    reset, other = np.zeros(len(value), bool), np.zeros(len(value), bool)
    for place in distinct(np.searchsorted(bounds, np.flatnonzero(fell), "right") - 1).tolist():
        first, end = bounds[place], bounds[place + 1]
        seconds, values = time[first:end] / 1e6, value[first:end]
        found, resets = increases_of(seconds.tolist(), values.tolist())
        grown[first + 1 : end] = found
        reset[first + 1 : end] = resets
        other[first + 1 : end] = _of_another(seconds, values, sum(found))
    return reset, other


def _of_another(seconds: Floats, values: Floats, added: float) -> npt.NDArray[np.bool_]:
    """Which readings after the first would, if they drop, belong to another sender: those out of step with the
    interval, or lower by more than can have arrived in the meantime. `added` is the series' total increase. A driver
    whose counter steps back does so on the beat, and by little."""
    gap = np.diff(seconds)
    nearest = np.minimum(gap, np.append(gap[1:], np.inf))
    limit = max(USUAL_RATES * added / max(seconds[-1] - seconds[0], 1.0), SLOW)  # bytes per second
    return (nearest < OFF_BEAT * np.quantile(gap, 0.75)) | (-np.diff(values) > limit * gap)


class _Series(NamedTuple):
    """Readings of one counter in order of time, their usual rate, and the rate up to which a drop is a wrap, both in
    bytes per second."""

    seconds: Sequence[float]
    values: Sequence[float]
    usual: float
    wrapping: float

    def is_believed(self, added: float, since: int, at: int, anyway: float = SLOW) -> bool:
        """Whether that many bytes are plausible between two readings; `anyway` is a rate plausible for any device."""
        return added <= max(USUAL_RATES * self.usual, self.wrapping, anyway) * (self.seconds[at] - self.seconds[since])

    def beside(self, at: int) -> float:
        """The rate that the steps before and after make plausible for this one: on devices that are quiet all day,
        counters wrap while a download runs."""
        steps = [(then, then + 1) for then in (at - 2, at) if then >= 0 and then + 1 < len(self.values)]
        rates = [
            (self.values[end] - self.values[then]) / (self.seconds[end] - self.seconds[then])
            for then, end in steps
            if self.seconds[end] > self.seconds[then]
        ]
        return max(SLOW, *(2 * rate for rate in rates), 0.0)

    def is_wrap(self, highest: float, at: int) -> bool:
        """Whether this reading, below the highest one so far, follows it through a wrap at 2^32."""
        value, added = self.values[at], self.values[at] + WRAP - highest
        if highest >= WRAP:
            return False
        if added <= self.wrapping * (self.seconds[at] - self.seconds[at - 1]):
            return True
        is_up_again = at + 1 < len(self.values) and self.values[at + 1] >= highest
        is_near = highest >= NEAR_WRAP and value < AFTER_WRAP
        return is_near and not is_up_again and self.is_believed(added, at - 1, at, self.beside(at))

    def goes_on(self, highest: float, at: int) -> int:
        """Where the series continues as if the readings from `at` on did not exist; `at` if it does not."""
        values, after = self.values, at
        while after < len(values) and (values[after] < highest / 2 or values[after] > 2 * highest):
            after += 1
        if after in (at, len(values)) or values[after] < highest:
            return at
        steps = ((values[at] - highest, at), (values[after] - values[after - 1], after))
        if all(self.is_believed(step, place - 1, place, FAST) for step, place in steps):
            return at
        return after if self.is_believed(values[after] - highest, at - 1, after) else at


def increases_of(seconds: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[bool]]:
    """What each reading after the first adds by the rules above, and whether it is a reset."""
    series = _Series(seconds, values, *_usual_rates(seconds, values))
    highest, goes_on = values[0], 0
    found: list[float] = []
    resets: list[bool] = []
    for at in range(1, len(values)):
        value = values[at]
        rises, falls_far = value >= highest, value < highest / 2 or value < NEAR_ZERO
        added, reset = 0.0, False
        if at < goes_on:
            pass  # from another sender, like the one before
        elif not rises and series.is_wrap(highest, at):
            added, highest = value + WRAP - highest, value
        elif rises or falls_far:
            limit = max(FAST, series.beside(at))
            doubtful = falls_far if not rises else not series.is_believed(value - highest, at - 1, at, limit)
            goes_on = series.goes_on(highest, at) if doubtful else at
            reset = not rises or goes_on > at
            if goes_on == at:
                added, highest = value - highest if rises else value, value
        found.append(added)
        resets.append(reset)
    return found, resets


def _usual_rates(seconds: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The median rate of its rises in bytes per second, 0 if it never rises; and the rate up to which a drop is the
    wrap of a 32-bit counter, 0 if drops are no wraps.

    Drops are wraps if nearly all of them can be (taken through 2^32, each at most twice as fast as the fastest rise,
    and together at most four times as fast as the rises) and the counter does not return to where it was, as it does
    when two machines alternate.
    """
    gaps = [
        (now - then, value - before) for (then, before), (now, value) in pairwise(zip(seconds, values, strict=True))
    ]
    rises = [(gap, step) for gap, step in gaps if step > 0 and gap > 0]
    falls = [(at, gap, step + WRAP) for at, (gap, step) in enumerate(gaps, 1) if step < 0 and gap > 0]
    if not rises:
        return 0.0, 0.0
    usual, fastest = statistics.median(step / gap for gap, step in rises), 2 * max(step / gap for gap, step in rises)
    wraps = [one for one in falls if one[2] <= fastest * one[1]]
    if max(values) >= WRAP or len(wraps) < 0.75 * len(falls):
        return usual, 0.0
    if _rate((gap, step) for _, gap, step in wraps) > USUAL_RATES * _rate(rises):
        return usual, 0.0
    back = sum(_comes_back(values, at) for at, _, _ in wraps)
    return usual, fastest if 2 * back < len(wraps) else 0.0


def _rate(steps: Iterable[tuple[float, float]]) -> float:
    """Bytes per second over pairs of seconds and bytes; 0 if there are none."""
    gaps, bytes_ = [0.0], [0.0]
    for gap, step in steps:
        gaps.append(gap)
        bytes_.append(step)
    return sum(bytes_) / max(sum(gaps), 1e-6)


def _comes_back(values: Sequence[float], at: int) -> bool:
    """Whether the series, after its drop here, returns in one step to where it was, and hardly beyond."""
    before = values[at - 1]
    after = next((place for place in range(at + 1, len(values)) if values[place] >= before), None)
    return after is not None and values[after] - before <= (values[after] - values[after - 1]) / 16


def _other_sources(rows: _Rows, since: Integers) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which increases do not count because another agent of the device counts at that time, and which rows are in hours
    with such increases. since: the time each increase began, the row's own if there is none."""
    others = np.zeros(len(rows.row), bool)
    if not rows.source.max(initial=0):
        return others, others
    group = _device_hour(rows)
    places = np.flatnonzero(since < rows.time)
    order = places[np.lexsort((rows.time[places], rows.source[places], group[places]))]
    agents = starts_of(group[order], rows.source[order])
    if not len(agents):
        return others, others
    instants = starts_of(group[order], rows.source[order], rows.time[order])
    readings = np.diff(np.searchsorted(instants, np.append(agents, len(order))))
    first = np.maximum(np.minimum.reduceat(since[order], agents), rows.hour[order[agents]] * _HOUR_US)
    ends = np.append(agents[1:], len(order))
    last = rows.time[order[ends - 1]]
    hours = np.append(starts_of(group[order[agents]]), len(agents))
    for hour in np.flatnonzero(np.diff(hours) > 1):
        best, *rest = sorted(range(hours[hour], hours[hour + 1]), key=lambda n: (first[n] - last[n], -readings[n], n))
        counting = [best]
        for agent in rest:
            increases_ = order[agents[agent] : ends[agent]]
            for one in counting:
                within = (since[increases_] < last[one]) & (rows.time[increases_] > first[one])
                others[increases_[within]] = True
            counting.append(agent)
    return others, np.isin(group, group[others])


def _windows(
    readings: pa.Table, rows: _Rows, grown: Sequence[Floats], several: npt.NDArray[np.bool_], every: timedelta
) -> pa.Table:
    """The increases at each instant, summed over interfaces, as windows."""
    order = np.lexsort((rows.time, rows.device))
    row, time, device = rows.row[order], rows.time[order], rows.device[order]
    several = _anywhere(device * 2**24 + time // _HOUR_US, several[order])
    instants = starts_of(device, time)
    sums = [_sums(of[order], instants) for of in grown]
    row, time, device, several = row[instants], time[instants], device[instants], several[instants]
    width = every // timedelta(microseconds=1)
    starts = starts_of(device, time // width)
    where = pa.array(row[starts])
    columns: dict[str, Any] = {name: pc.cast(readings[name].take(where), pa.string()) for name in _KEY[:2]}
    columns["time"] = pa.array(time[starts] // width * width).cast(WINDOWS.field("time").type)
    columns["samples"] = np.diff(np.append(starts, len(time))).astype(np.float64)
    columns["several_senders"] = several[starts].astype(np.float64)
    for name, of in zip(DIRECTIONS, sums, strict=True):
        columns |= {f"{name}_{aggregate}": values for aggregate, values in _aggregates(of, starts).items()}
    return fill_columns(pa.table(columns))


def _anywhere(group: Integers, flag: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether the flag is set anywhere in the row's group; the rows are sorted by group."""
    starts = starts_of(group)
    if not len(starts):
        return flag
    return np.repeat(np.logical_or.reduceat(flag, starts), np.diff(np.append(starts, len(group))))


def _sums(values: Floats, starts: Integers) -> Floats:
    """The sum of each run; null if the whole run is null."""
    if not len(starts):
        return values
    there = np.add.reduceat((~np.isnan(values)).astype(np.int64), starts)
    return np.where(there > 0, np.add.reduceat(np.nan_to_num(values), starts), np.nan)


def _aggregates(values: Floats, starts: Integers) -> dict[str, Any]:
    """The aggregates of each run; null if it has no value."""
    if not len(starts):
        return {}
    valid = ~np.isnan(values)
    count = np.add.reduceat(valid.astype(np.float64), starts)
    last = np.maximum.reduceat(np.where(valid, np.arange(len(values)), -1), starts)
    found = {
        "sum": np.add.reduceat(np.where(valid, values, 0.0), starts),
        "min": np.minimum.reduceat(np.where(valid, values, np.inf), starts),
        "max": np.maximum.reduceat(np.where(valid, values, -np.inf), starts),
        "last": values[last],
    }
    return {name: pa.array(of, mask=count == 0) for name, of in found.items()} | {"count": count}


def _device_hour(rows: _Rows) -> Integers:
    return rows.device * 2**24 + rows.hour


def _ranked(column: pa.ChunkedArray) -> tuple[Integers, list[str]]:
    """Each value's rank by name, and the sorted names."""
    names = sorted(pc.unique(column).to_pylist())
    return pc.index_in(column, pa.array(names, column.type)).to_numpy().astype(np.int64), names
