"""The rules of the roll-up, without a store."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.resources.metrics_store import FIELDS, WINDOWS, Tier, late_windows
from ninjait_pipelines.rollup.hours import (
    HourExpired,
    LateRange,
    condense,
    fewer,
    hourly_rows,
    source_tier,
    still_whole,
)
from ninjait_pipelines_tests.rollup.data import points

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def window(**fields: Any) -> pa.Table:
    """One sample as the window of its hour."""
    return _with(late_windows(points(NOW, 1, **fields)), "time", NOW)


def _with(windows: pa.Table, name: str, value: object) -> pa.Table:
    field = WINDOWS.field(name)
    return windows.set_column(WINDOWS.get_field_index(name), field, pa.array([value], field.type))


@pytest.mark.parametrize(
    ("age", "tier"),
    [
        (timedelta(hours=1), Tier.RAW),
        (timedelta(days=7), Tier.RAW),
        (timedelta(days=7, hours=1), Tier.FIVE_MINUTES),
        (timedelta(days=90), Tier.FIVE_MINUTES),
        (timedelta(days=90, hours=1), Tier.ONE_HOUR),
        (timedelta(days=730), Tier.ONE_HOUR),
        # Its later samples were young enough for ingest a moment ago, and the tier keeps a day of margin.
        (timedelta(days=730, hours=1), Tier.ONE_HOUR),
    ],
)
def test_an_hour_is_made_from_the_finest_tier_that_takes_all_of_its_points(age: timedelta, tier: Tier) -> None:
    assert source_tier(NOW - age, NOW) is tier


def test_an_hour_beyond_the_last_tier_is_refused() -> None:
    with pytest.raises(HourExpired, match="older than the 731 days"):
        source_tier(NOW - timedelta(days=731, hours=1), NOW)


def test_a_tier_is_whole_until_its_margin_is_over() -> None:
    """Of full resolution the hour before counts as well, in which the increases of counters begin."""
    for tier, last in (
        (Tier.RAW, timedelta(days=8, hours=-1)),
        (Tier.FIVE_MINUTES, timedelta(days=91)),
        (Tier.ONE_HOUR, timedelta(days=731)),
    ):
        assert still_whole(tier, NOW - last, NOW)
        assert not still_whole(tier, NOW - last - timedelta(seconds=1), NOW)


def test_a_field_that_no_sample_carries_is_null_and_divides_nothing() -> None:
    row = hourly_rows(window(cpu=[None], uptime=[None]), Tier.ONE_HOUR).to_pylist()[0]
    assert row["cpu_avg"] is None
    assert row["cpu_max"] is None
    assert row["uptime"] is None
    assert (row["memory_avg"], row["sample_count"], row["sample_share"]) == (1000.0, 1, 1 / 120)


def test_no_window_is_no_row() -> None:
    assert hourly_rows(WINDOWS.empty_table(), Tier.RAW).num_rows == 0


def test_a_device_that_sends_more_often_has_no_share_above_one() -> None:
    often = _with(_with(window(), "samples", 360.0), "cpu_count", 360.0)
    row = hourly_rows(often, Tier.RAW).to_pylist()[0]
    assert (row["sample_count"], row["sample_share"]) == (360, 1.0)


def test_a_reading_that_is_spread_over_several_points_counts_once() -> None:
    """cpu at one instant, memory milliseconds later, and so on: 360 points are 120 readings, of which 90 came."""
    spread = _with(window(), "samples", 360.0)
    for name, count in zip(FIELDS, (30.0, 90.0, 60.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), strict=True):
        spread = _with(spread, f"{name}_count", count)
    row = hourly_rows(spread, Tier.RAW).to_pylist()[0]
    assert (row["sample_count"], row["sample_share"]) == (360, 0.75)


def test_a_device_of_which_only_a_baseline_came_has_a_share_above_zero() -> None:
    empty = window(**{name: [None] for name in FIELDS})
    assert hourly_rows(empty, Tier.RAW).to_pylist()[0]["sample_share"] == 1 / 120


def test_contiguous_hours_are_one_range_with_the_newest_arrival() -> None:
    hours = [NOW + number * HOUR for number in (0, 1, 3)]
    late = {hours[1]: NOW + 5 * HOUR, hours[0]: NOW + 6 * HOUR, hours[2]: NOW}
    assert condense(late) == [LateRange(hours[0], hours[1], NOW + 6 * HOUR), LateRange(hours[2], hours[2], NOW)]


@given(st.sets(st.integers(0, 400)), st.integers(1, 50))
def test_ranges_have_every_late_hour_once_and_no_other(numbers: set[int], longest: int) -> None:
    late = {NOW + number * HOUR: NOW for number in numbers}
    ranges = condense(late, longest)
    covered = [r.first + n * HOUR for r in ranges for n in range((r.last - r.first) // HOUR + 1)]
    assert covered == sorted(late)
    assert all((r.last - r.first) // HOUR < longest for r in ranges)


def test_fewer_names_the_hours_that_lost_samples() -> None:
    assert fewer({NOW: 120}, {}, [NOW]) == ["2026-11-21 12:00 UTC: 0 samples, not 120"]
    assert fewer({NOW: 120}, {NOW: 121}, [NOW, NOW + HOUR]) == []
