"""The rules of counters of bytes, without a store; whole tables are held to plain Python by the metrics contract."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.metrics.counters import Readings, increases, increases_of
from ninjait_pipelines.metrics.model import COUNTERS

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
START = datetime(2026, 11, 1, tzinfo=UTC)
GIB = 2.0**30
WRAP = 2.0**32


def read(
    *values: float | None,
    every: timedelta = MINUTE,
    source: str = "telegraf",
    interface: str = "eth0",
    after: timedelta = timedelta(),
) -> pa.Table:
    """Readings of one interface from the start of an hour on, or from `after` it."""
    rows = [
        {"organization_id": "o", "device_id": "d", "source": source, "interface": interface}
        | {"time": START + after + n * every, "network_in": value, "network_out": None}
        for n, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=COUNTERS)


def hour(*parts: pa.Table, start: datetime = START) -> tuple[float | None, float]:
    """network_in and several_senders of an hour."""
    found = increases([pa.concat_tables(parts)], start, HOUR)
    assert isinstance(found, Readings)
    (row,) = [row for row in found.windows.to_pylist() if row["time"] == start]
    return row["network_in_sum"], row["several_senders"]


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ([100, 150, 150, 170], 70),
        ([10**10, 10**10 + 700, 10**10 - 5_095, 10**10 + 1_000], 1_000),
        ([10**10, 6 * 10**9, 6 * 10**9 + 500, 10**10 + 7], 7),
        ([10**10, 3_000, 5_000], 5_000),
        ([10**10, 0, 5_000], 5_000),
        ([1_500, 900, 1_000], 1_000),
        ([0, 7], 7),
        ([10**10, 4 * 10**9, 4 * 10**9 + 1], 4 * 10**9 + 1),
    ],
    ids=["rises", "a little less", "less, but not half", "a boot", "a boot to 0", "near zero", "from 0", "below half"],
)
def test_a_fall_below_half_is_a_reset_and_a_smaller_one_adds_nothing(values: list[float], added: float) -> None:
    """Each decrease counted as a reset: a router's counter that went down by 5,095 made 3.7 GB of 736 kB."""
    assert hour(read(*values)) == (added, 0.0)


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ([WRAP - 20_000, WRAP - 10_000, 500, 10_500], 30_500),
        # At 5 MB/s, every 60 s: 300 MB between two readings.
        ([WRAP - 8e8, WRAP - 5e8, WRAP - 2e8, 1e8, 4e8], 1.2e9),
        # A quiet device (1 kB a reading) booted 200 MB before the wrap: 1 MB since, and not 201 MB.
        ([WRAP - 2e8 - 2_000, WRAP - 2e8 - 1_000, WRAP - 2e8, 1e6, 1e6 + 1_000], 2_000 + 1e6 + 1_000),
        # A counter of 64 bits that is beyond 2^32 never wraps.
        ([WRAP + 100, 50], 50),
        # Far from the wrap it is a boot.
        ([2 * GIB, 2 * GIB + 3e8, 100], 3e8 + 100),
    ],
    ids=["quiet", "busy", "booted near the wrap", "64 bits", "booted far from it"],
)
def test_a_wrap_at_32_bits(values: list[float], added: float) -> None:
    """A wrap counted as a boot, and lost what was left to 2^32."""
    assert hour(read(*values)) == (added, 0.0)


@pytest.mark.parametrize("first", range(5))
def test_a_counter_wraps_while_a_download_runs(first: int) -> None:
    """A device that is quiet but for five minutes of 12 MB/s: what was left to 2^32 was lost, up to a gigabyte."""
    added = [12e6 * 60 if 20 <= n < 25 else 6_000.0 for n in range(59)]
    begin = WRAP - first * 12e6 * 60 - 2e8
    values = [(begin + sum(added[:n])) % WRAP for n in range(60)]
    assert hour(read(*values)) == (pytest.approx(sum(added)), 0.0)


def test_a_download_between_two_boots_is_no_other_sender_s() -> None:
    """After each boot the counter of a quiet device is small, as if 3.6 GB in between had not been: none counted."""
    first = [5e9 + n * 3_000 for n in range(10)]
    second = [3_000.0 * (n + 1) for n in range(10)]
    download = [30_000 + 180e6 * (n + 1) for n in range(20)]
    third = [3_000.0 * (n + 12) for n in range(20)]
    added = 9 * 3_000 + download[-1] + third[-1]
    assert hour(read(*first, *second, *download, *third, every=timedelta(seconds=15))) == (added, 0.0)


def test_a_device_that_boots_near_the_wrap_and_loads_much_does_not_wrap() -> None:
    before, after = [3.5e9 + n * 6_000 for n in range(30)], [5e7 + n * 5e7 for n in range(10)]
    assert hour(read(*before, *after)) == (29 * 6_000 + 5e8, 0.0)


def test_a_wrap_is_none_where_the_value_is_up_again_at_once() -> None:
    found, resets = increases_of([0, 30, 60, 90], [WRAP - 100, 10, WRAP - 90, WRAP - 80])
    assert (found, resets) == ([10, WRAP - 100, 10], [True, False, False])


def test_many_wraps_an_hour_are_one_sender_s() -> None:
    """At 10 MB/s a counter of 32 bits wraps eight times an hour, which was shown as several senders."""
    assert hour(read(*(n * 6e8 % WRAP for n in range(60)))) == (59 * 6e8, 0.0)


def test_a_steady_counter_wraps_from_wherever_it_is() -> None:
    """At 5 MB/s, read every five minutes: 1.5 GB a reading, of which 0 was counted, of several senders."""
    assert hour(read(*(n * 1.5e9 % WRAP for n in range(12)), every=5 * MINUTE)) == (11 * 1.5e9, 0.0)


@pytest.mark.parametrize("every", [10, 30, 60])
@pytest.mark.parametrize("traffic", ["even", "bursts", "on and off"])
@pytest.mark.parametrize("rate", [2e6, 1e7, 2e7])
def test_a_busy_counter_of_32_bits_whose_rate_changes_wraps(every: int, traffic: str, rate: float) -> None:
    """From wherever it is, often: four such wraps were resets, of several senders, and the hour had nothing."""
    chance = random.Random(f"{every} {traffic} {rate}")
    speed: Callable[[], float] = {
        "even": lambda: chance.uniform(0, 2 * rate),
        "bursts": lambda: min(chance.expovariate(1 / rate), 4 * rate),
        "on and off": lambda: chance.choice([rate / 50, 2 * rate]),
    }[traffic]
    grown = [3e9]
    while len(grown) < 3600 // every:
        grown.append(grown[-1] + round(min(speed() * every, 3e9)))
    added, several = hour(read(*(value % WRAP for value in grown), every=timedelta(seconds=every)))
    assert added == pytest.approx(grown[-1] - grown[0], rel=0.05)
    assert several == 0.0


@pytest.mark.parametrize(
    "values", [(3e9, 1e9), (3e9, 1e9, 1e9), (3e9, 3e9, 1e9), (2.5e9, 0.9e9), (3.2e9, 0.8e9, 0.8e9, 0.8e9)], ids=repr
)
def test_two_machines_below_2_32_do_not_wrap(values: tuple[float, ...]) -> None:
    """Nor do they where their counters would wrap at a rate that looks usual."""
    found = hour(read(*(values[n % len(values)] + n * 1_000 for n in range(60))))
    assert found == (0.0, 1.0)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("other", [0.0, 1e9, 30e9])
def test_what_comes_in_between_and_is_gone_makes_no_gigabytes(other: float, times: int) -> None:
    """A driver that read 0 once, and a second machine that was there for a moment, made 9 GB each time."""
    own = [9e9 + n * 60_000 for n in range(40)]
    apart = [value for n, value in enumerate(own) for value in ([value, other] if 0 < n <= times else [value])]
    together = own[:10] + [other] * times + own[10:]
    for values in (apart, together):
        assert hour(read(*values)) == (39 * 60_000.0, 0.0)


def test_a_young_device_that_boots_and_loads_much_is_counted() -> None:
    """8 MB a minute after a boot are nothing odd, though it stood at 8 MB before."""
    before, after = [8e6 + n for n in range(10)], [8.05e6 + n for n in range(10)]
    assert hour(read(*before, 50.0, *after)) == (9 + 8.05e6 + 9, 0.0)


def test_a_few_boots_are_boots_and_more_are_several_machines() -> None:
    boots = [value for _ in range(4) for value in (5e9, 1_000.0)]
    assert hour(read(*boots[:-2])) == (3 * 1_000.0 + 2 * (5e9 - 1_000), 0.0)
    assert hour(read(*boots)) == (0.0, 1.0)


def test_a_clock_that_is_stepped_back_makes_no_gigabytes() -> None:
    """Readings of two minutes come among those of the two minutes before."""
    ahead = read(*(9e9 + n * 1_000 for n in range(10)))
    again = read(*(9e9 + 4_500 + n * 1_000 for n in range(5)), every=timedelta(seconds=61))
    added, _ = hour(ahead, again)
    assert added == 9_000


@pytest.mark.parametrize("every", [1, 10])
def test_a_clock_that_is_stepped_back_is_no_second_sender(every: int) -> None:
    """By 90 seconds, at an interval of 10: nine readings come among others, which was shown as several senders."""
    moments = [n * every for n in range(1800 // every)] + [1710.5 + n * every for n in range(1800 // every)]
    readings = read(*(9e9 + n * 1_000.0 for n in range(len(moments))))
    time = pa.array([START + timedelta(seconds=moment) for moment in moments], readings["time"].type)
    readings = readings.set_column(4, COUNTERS.field("time"), time)
    assert hour(readings) == ((len(moments) - 1) * 1_000.0, 0.0)


def test_a_counter_that_goes_back_a_little_now_and_then_is_one_sender_s() -> None:
    falls = read(*(9e9 + n * 100_000.0 - (105_095.0 if n % 11 == 10 else 0.0) for n in range(60)))
    assert hour(falls) == (59 * 100_000.0, 0.0)


@pytest.mark.parametrize("often", [2, 3, 5, 9])
@pytest.mark.parametrize("back", [7.0, 5_095.0, 130_000.0])
def test_a_counter_that_often_goes_back_a_little_is_one_sender_s(often: int, back: float) -> None:
    """At more than a tenth of its readings, it was shown as several senders."""
    values = [9e9 + n * 1_000.0 - (back + 1_000.0 if n % often == often - 1 else 0.0) for n in range(360)]
    added, several = hour(read(*values, every=timedelta(seconds=10)))
    assert (added, several) == (max(values) - values[0], 0.0)


@pytest.mark.parametrize("late", [0.3, 3, 5, 12, 15])
@pytest.mark.parametrize("every", [30, 60])
def test_two_machines_whose_counters_are_near_each_other_are_shown(late: float, every: int) -> None:
    """9 GB and 8 GB: less, but not half. The greater one's bytes count."""
    one = read(*(9e9 + n * 1_000.0 for n in range(3600 // 30)), every=timedelta(seconds=30))
    other = (8e9 + n * 1_000.0 for n in range(3600 // every))
    late_ = timedelta(seconds=late)
    assert hour(one, read(*other, every=timedelta(seconds=every), after=late_)) == (119_000.0, 1.0)


def test_two_agents_alike_that_read_one_counter_at_other_moments_are_shown() -> None:
    """Two Telegrafs, one of which rounds its times: many small falls add nothing, and say that there are two."""
    one = read(*(9e9 + 900 + n * 30_000 for n in range(20)), every=timedelta(seconds=30))
    other = read(*(9e9 + 300 + n * 30_000 for n in range(20)), every=timedelta(seconds=30))
    time = pa.array([moment + timedelta(seconds=0.3) for moment in other["time"].to_pylist()], other["time"].type)
    added, several = hour(one, other.set_column(4, COUNTERS.field("time"), time))
    assert (added, several) == (570_000.0, 1.0)


@given(st.lists(st.floats(0, 2.0**53, width=64), min_size=1, max_size=40))
def test_no_series_adds_more_than_its_values_allow(values: list[float]) -> None:
    """Nothing below zero; without a fall, the last less the first; never more than each reading could have brought."""
    found, resets = increases_of(list(range(0, 30 * len(values), 30)), values)
    assert len(found) == len(resets) == len(values) - 1
    assert all(added >= 0 for added in found)
    assert all(added <= value + WRAP for added, value in zip(found, values[1:], strict=True))
    if sorted(values) == values:
        assert sum(found) == pytest.approx(values[-1] - values[0])
        assert not any(resets)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(0, 59), st.integers(1, 5_000))
def test_what_comes_in_disorder_adds_no_more_than_the_counter_grew(growth: list[int], at: int, back: int) -> None:
    """A counter that goes back a little, wherever, and goes on: what it grew, but for what went back at the end."""
    values = [10**10 + sum(growth[: n + 1]) for n in range(len(growth))]
    dented = [value - (back if n == at else 0) for n, value in enumerate(values)]
    found, resets = increases_of(list(range(0, 30 * len(values), 30)), dented)
    assert not any(resets)
    assert sum(found) == max(dented) - dented[0]


@given(st.integers(0, 3), st.lists(st.integers(0, 10**9), min_size=2, max_size=30))
def test_an_hour_is_the_same_however_many_are_read_with_it(hours: int, values: list[int]) -> None:
    readings = read(*values, every=timedelta(minutes=11))
    whole = increases([readings], START, HOUR).windows
    last = START + hours * HOUR
    lead = readings.filter(pa.array([last - HOUR <= time < last + HOUR for time in readings["time"].to_pylist()]))
    alone = increases([lead], last, HOUR).windows
    of_hour = [row for row in whole.to_pylist() if row["time"] == last]
    assert [row for row in alone.to_pylist() if row["time"] == last] == of_hour


def test_the_agent_that_covers_most_of_the_hour_counts() -> None:
    """collectd ran for a quarter of an hour beside Telegraf, with more readings: its quarter was all that counted."""
    telegraf = read(*(9e9 + n * 60_000.0 for n in range(60)))
    collectd = read(*(9e9 + n * 10_000.0 for n in range(90)), every=timedelta(seconds=10), source="collectd")
    for beside in (collectd, collectd.slice(0, 1)):
        assert hour(telegraf, beside)[0] == 59 * 60_000.0
    assert hour(telegraf, collectd)[1] == 1.0
    assert hour(telegraf, collectd.slice(0, 1))[1] == 0.0, "it counted nothing that was left out"


@pytest.mark.parametrize("first", ["collectd", "telegraf"])
@pytest.mark.parametrize("overlap", [0, 1, 5, 20])
def test_an_agent_that_takes_over_goes_on_where_the_other_one_ends(first: str, overlap: int) -> None:
    """Half an hour of each, with some minutes of both: of two agents one counted, and half an hour was lost."""
    old = read(*(9e9 + n * 1_000.0 for n in range(31 + overlap)), source=first)
    second = "telegraf" if first == "collectd" else "collectd"
    new = read(*(9e9 + n * 1_000.0 for n in range(31, 60)), source=second, after=31 * MINUTE)
    added, several = hour(old, new)
    assert added == (59_000 if overlap else 58_000), "what came between the two is nobody's"
    assert several == (1.0 if overlap > 1 else 0.0)


def test_three_agents_one_after_another_all_count() -> None:
    parts = [
        read(*(5e9 + n * 1_000.0 for n in range(20)), source=name, after=20 * k * MINUTE)
        for k, name in enumerate(("telegraf", "collectd", "other"))
    ]
    assert hour(*parts) == (3 * 19_000.0, 0.0)


def test_the_hour_before_says_where_an_agent_s_part_begins() -> None:
    """One reading in the hour, with one before it: all that came in between."""
    seldom = read(1e9, 2e9, every=50 * MINUTE)
    often = read(*(7e9 + n for n in range(20)), source="collectd", after=HOUR)
    assert hour(seldom, often, start=START + HOUR)[0] == 19
    seldom = read(1e9, 2e9, every=50 * MINUTE, after=40 * MINUTE)
    assert hour(seldom, often, start=START + HOUR)[0] == 1e9


@pytest.mark.parametrize("value", [2.0**64, 1.8e19])
def test_a_driver_that_gives_minus_one_makes_no_exabytes(value: float) -> None:
    """-1 is 2^64 - 1 in 64 bits, and used to be refused for its size."""
    own = [9e9 + n * 1_000.0 for n in range(40)]
    for values in ([*own[:10], value, *own[10:]], [*own, value], [*own[:39], value, value + 4096.0]):
        added, _ = hour(read(*values))
        assert added is not None
        assert 38_000 <= added <= 44_000


def test_counters_beyond_2_53_lose_no_more_than_their_steps() -> None:
    values = [float(2**63 - 10**9 + n * 1_000_003) for n in range(60)]
    added, several = hour(read(*values))
    assert added == pytest.approx(59 * 1_000_003, abs=2_048)
    assert several == 0.0
