"""How much of an hour samples cover, without a store."""

import itertools
import random
import statistics
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.metrics.coverage import covered_by, covered_windows, minutes_of
from ninjait_pipelines.metrics.model import POINTS
from ninjait_pipelines.metrics.windows import late_windows

HOUR, FIVE_MINUTES = timedelta(hours=1), timedelta(minutes=5)
START = datetime(2026, 11, 1, tzinfo=UTC)


def rows(seconds: Iterable[float], device: str = "d") -> pa.Table:
    moments = [START + timedelta(seconds=second) for second in seconds]
    columns = {"organization_id": ["o"] * len(moments), "device_id": [device] * len(moments), "time": moments}
    return pa.table(columns, schema=pa.schema([POINTS.field(name) for name in columns]))


def covered(*parts: pa.Table, every: timedelta = HOUR) -> dict[tuple[str, datetime], float]:
    found = covered_windows([minutes_of(part) for part in parts], every).to_pylist()
    return {(row["device_id"], row["time"]): row["covered"] for row in found}


def in_plain_python(seconds: Iterable[float]) -> int:
    """The minutes of one hour that samples cover, minute by minute."""
    halves: dict[int, set[int]] = defaultdict(set)
    for second in seconds:
        halves[int(second // 60)].add(int(second % 60 // 30))
    minutes = sorted(halves)
    dense = sum(map(len, halves.values())) >= 1.5 * len(minutes)
    gaps = [later - minute for minute, later in itertools.pairwise(minutes)]
    median = statistics.median_low(gaps) if gaps and not dense else 1
    interval = min(median, 15) if median <= 22 else 1
    bridged = interval if dense else max(interval + 1, interval * 3 // 2)
    return sum(gap if gap <= bridged else interval for gap in [*gaps, minutes[0] + 60 - minutes[-1]])


@pytest.mark.parametrize(
    ("seconds", "minutes"),
    [
        (range(0, 1200, 10), 20),
        (range(0, 3600, 30), 60),
        (range(0, 1800, 30), 30),
        (range(0, 900, 30), 15),
        (range(0, 3600, 60), 60),
        (range(0, 1800, 60), 30),
        (range(0, 3600, 120), 60),
        (range(17, 3600, 300), 60),
        (range(0, 1800, 300), 30),
        (range(0, 3600, 600), 60),
        (range(0, 3600, 900), 60),
        (range(899, 3600, 900), 60),
        (range(0, 1800, 900), 30),
        ([0, 900, 2700], 45),
        (range(0, 3600, 1200), 60),
        # a second early at the hour's end, and late at its start; and half an hour of it
        ([*range(0, 3540, 60), 3539], 60),
        ([1, *range(300, 3300, 300), 3299], 60),
        ([60, *range(120, 3600, 60)], 60),
        ([*range(0, 1740, 60), 1739], 29),
        (range(0, 3300, 300), 55),
        ([0, 10, 3580, 3590], 2),
        ([7], 1),
        ([7, 37], 1),
    ],
)
def test_a_share_of_an_hour_at_any_interval(seconds: list[int], minutes: int) -> None:
    """120 samples an hour were assumed: a host that was up 20 minutes at 10 s had a share of 1, one that was up all the
    hour at 60 s had a half."""
    assert covered(rows(seconds)) == {("d", START): minutes}


def test_a_moment_before_the_full_minute_is_not_a_minute_without_a_sample() -> None:
    """At 60 s, a little early or late, some minutes have two samples and some have none."""
    chance = random.Random(1)
    assert covered(rows(second + chance.uniform(-5, 5) for second in range(59, 3590, 60))) == {("d", START): 60}


@pytest.mark.parametrize("every", [10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 420, 600, 720, 900])
def test_a_device_that_is_up_all_the_hour_has_the_whole_hour_at_any_interval(every: int) -> None:
    """At 15 minutes it had two thirds; at whatever moment it began, and a little early or late."""
    chance = random.Random(every)
    for begin in range(0, every, max(every // 10, 1)):
        seconds = [begin + n * every + chance.uniform(-0.1, 0.1) * every for n in range(3600 // every + 1)]
        minutes = sum(covered(rows(second for second in seconds if 0 <= second < 3600)).values())
        assert 60 - 1.1 * every / 60 - 1 <= minutes <= 60 + every / 60, (begin, minutes)


def test_a_minute_without_a_sample_at_a_shorter_interval_is_not_covered() -> None:
    assert covered(rows(second for second in range(0, 3600, 30) if second // 60 % 3)) == {("d", START): 40}


def test_the_pieces_of_a_reading_and_kinds_of_readings_cover_a_minute_once() -> None:
    """collectd gives cpu, memory and disks some milliseconds apart, and counters are a table of their own."""
    pieces = rows(second + piece for second in range(0, 900, 30) for piece in (0.352, 0.353, 0.355))
    assert covered(pieces, rows(range(10, 900, 30)), rows([40], "other")) == {("d", START): 15, ("other", START): 1}


def test_two_senders_do_not_shorten_the_interval() -> None:
    """Two agents every 30 s, 0.3 s apart: half of the gaps are 0.3 s."""
    assert covered(rows([second + late for second in range(0, 3600, 30) for late in (0, 0.3)])) == {("d", START): 60}


def test_nothing_covers_nothing() -> None:
    assert covered() == covered(rows([])) == {}
    assert len(covered_by(rows([]))) == 0


def test_late_samples_that_come_twice_in_a_batch_cover_what_they_cover_once() -> None:
    """A laptop's message was published twice: the second copy of each row covered nothing, and took its place."""
    once = rows(range(0, 600, 30)).append_column("cpu", pa.array([1.0] * 20))
    once = pa.table(
        {name: once[name] if name in once.column_names else pa.nulls(20, pa.float64()) for name in POINTS.names}
    )
    twice = late_windows(pa.concat_tables([once, once]))
    stored = {row["time"]: row["covered"] for row in twice.to_pylist()}
    assert sum(stored.values()) == sum(late_windows(once)["covered"].to_pylist()) == 10


hours = st.lists(st.integers(0, 3599), max_size=80) | st.builds(
    lambda every, stop, jitter: [(second + jitter) % 3600 for second in range(0, stop, every)],
    st.sampled_from([10, 20, 30, 45, 60, 90, 120, 300, 900]),
    st.integers(1, 3600),
    st.integers(0, 59),
)


@given(devices=st.dictionaries(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2)), hours, max_size=4))
def test_any_samples_in_any_windows(devices: dict[tuple[str, int], list[int]]) -> None:
    """The 5-minute windows of an hour add up to it, and what single rows cover does as well."""
    table = pa.concat_tables([rows([]), *(rows([h * 3600 + s for s in of], d) for (d, h), of in devices.items())])
    expected = {(d, START + h * HOUR): float(in_plain_python(of)) for (d, h), of in devices.items() if of}
    assert covered(table) == covered(table.slice(0, len(table) // 2), table.slice(len(table) // 2)) == expected
    added: dict[tuple[str, datetime], float] = defaultdict(float)
    for (device, time), minutes in covered(table, every=FIVE_MINUTES).items():
        assert minutes > 0
        added[device, time.replace(minute=0)] += minutes
    assert added == expected
    single: dict[tuple[str, datetime], float] = defaultdict(float)
    for row, minutes in zip(table.to_pylist(), covered_by(table).to_pylist(), strict=True):
        single[row["device_id"], row["time"].replace(minute=0, second=0)] += minutes
    assert single == expected
