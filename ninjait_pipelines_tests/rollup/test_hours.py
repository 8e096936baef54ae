"""The rules of the roll-up, without a store."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.metrics.model import AGGREGATES, FIELDS, WINDOWS, Tier
from ninjait_pipelines.metrics.windows import aggregate_windows, late_windows, merge_windows
from ninjait_pipelines.rollup.hours import (
    HourExpired,
    LateRange,
    condense,
    fewer,
    hourly_rows,
    hours_at_once,
    sample_times,
    source_tier,
    still_whole,
)
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.rollup.data import points

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def window(**fields: Any) -> pa.Table:
    """One sample as the window of its hour."""
    return aggregate_windows(late_windows(points(NOW, 1, **fields)), HOUR)


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
    assert (row["memory_avg"], row["sample_count"], row["sample_share"]) == (1000.0, 1, 1 / 60)


def test_no_window_is_no_row() -> None:
    assert hourly_rows(WINDOWS.empty_table(), Tier.RAW).num_rows == 0


def test_the_share_is_what_samples_cover_and_never_more_than_the_hour() -> None:
    """An agent every 10 s had all of an hour's 120 samples in 20 minutes, and a share of 1."""
    for covered, share in ((20.0, 20 / 60), (60.0, 1.0), (65.0, 1.0)):
        row = hourly_rows(_with(window(), "covered", covered), Tier.RAW).to_pylist()[0]
        assert row["sample_share"] == share


numbers = st.floats(-1e15, 1e15)
counts = st.integers(0, 10_000).map(float)
windows_of_an_hour = st.fixed_dictionaries(
    {"samples": counts, "covered": st.floats(0, 70), "several_senders": st.sampled_from([0.0, 1.0])}
    | {
        f"{name}_{aggregate}": counts if aggregate == "count" else st.none() | numbers
        for name in FIELDS
        for aggregate in AGGREGATES
    }
)


@examples(50)
@given(st.lists(windows_of_an_hour, max_size=5))
def test_rows_are_what_plain_python_makes_of_the_windows(windows: list[dict[str, Any]]) -> None:
    """To the last bit: a mart that is made again from the same windows must be the same."""
    key = {"organization_id": "o", "device_id": "d", "time": NOW}
    table = pa.Table.from_pylist([key | of for of in windows], schema=WINDOWS)
    found = hourly_rows(table, Tier.RAW).to_pylist()
    assert [repr(sorted(row.items() - {("timestamp", row["timestamp"])})) for row in found] == [
        repr(sorted(_row(of).items())) for of in windows
    ]


def _row(of: dict[str, Any]) -> dict[str, Any]:
    def mean(name: str) -> float | None:
        count, total = of[f"{name}_count"], of[f"{name}_sum"]
        return total / count if count and total is not None else None

    used, total, free = (of[f"disk_{name}_last"] for name in ("used", "total", "free"))
    not_free = max(total - free, 0.0) if total is not None and free is not None else None
    made: dict[str, Callable[[str, str], Any]] = {
        "mean": lambda name, _: mean(name),
        "count": lambda name, _: int(of[f"{name}_count"]),
    }
    later = {  # metrics that the list below does not have
        column: made.get(aggregate, lambda name, aggregate: of[f"{name}_{aggregate}"])(name, aggregate)
        for name, metric in list(FIELDS.items())[9:]
        for column, aggregate in metric.hourly.items()
    }
    return later | {
        "organization_id": "o",
        "device_id": "d",
        "cpu_avg": mean("cpu"),
        "cpu_max": of["cpu_max"],
        "cpu_count": int(of["cpu_count"]),
        "memory_avg": mean("memory"),
        "memory_max": of["memory_max"],
        "memory_count": int(of["memory_count"]),
        "memory_total": of["memory_total_last"],
        "disk_usage": used if used is not None else not_free,
        "disk_total": total,
        "disk_free": free,
        "network_in": of["network_in_sum"],
        "network_out": of["network_out_sum"],
        "uptime": of["uptime_last"],
        "sample_count": int(of["samples"]),
        "sample_share": min(of["covered"] / 60, 1.0),
        "several_senders": of["several_senders"] > 0,
        "first_sample": None,
        "last_sample": None,
        "source_tier": "metrics",
    }


def test_windows_of_earlier_versions_count_half_a_minute_a_sample() -> None:
    """By the field that most of them carry; readings of counters only that begin a series count as samples."""
    spread = _with(_with(window(), "samples", 360.0), "covered", 0.0)
    spread = spread.set_column(spread.schema.get_field_index("covered"), "covered", pa.nulls(1, pa.float64()))
    for counts, covered in (((30.0, 90.0, 60.0, *[0.0] * len(list(FIELDS)[3:])), 45.0), ([0.0] * len(FIELDS), 180.0)):
        for name, count in zip(FIELDS, counts, strict=True):
            column = pa.array([count])
            spread = spread.set_column(spread.schema.get_field_index(f"{name}_count"), f"{name}_count", column)
        assert aggregate_windows(spread, HOUR)["covered"].to_pylist() == [covered]


def test_the_first_and_the_last_sample_of_an_hour_are_known_to_five_minutes() -> None:
    """Midnight cuts an hour in a zone of half hours: which side a device reported on decides which day is billed."""
    late = late_windows(points(NOW + timedelta(minutes=44, seconds=59), 1, timedelta(seconds=1)))
    regular = aggregate_windows(late_windows(points(NOW + timedelta(minutes=13), 3)), timedelta(minutes=5))
    windows = pa.concat_tables([late, regular])
    times = sample_times(windows)
    [row] = hourly_rows(merge_windows(aggregate_windows(windows, HOUR)), Tier.FIVE_MINUTES, times).to_pylist()
    assert row["first_sample"] == NOW + timedelta(minutes=10)
    assert row["last_sample"] == NOW + timedelta(minutes=40)
    assert (row["timestamp"], row["sample_count"]) == (NOW, 4)


def test_a_disk_of_which_only_the_free_space_is_sent_has_its_use() -> None:
    windows = window(disk_used=[None], disk_total=[100.0], disk_free=[30.0])
    row = hourly_rows(windows, Tier.RAW).to_pylist()[0]
    assert (row["disk_usage"], row["disk_total"], row["disk_free"]) == (70.0, 100.0, 30.0)
    assert hourly_rows(window(disk_used=[None], disk_total=[None]), Tier.RAW).to_pylist()[0]["disk_usage"] is None


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


def test_as_many_hours_go_together_as_make_the_rows_of_two_large_ones() -> None:
    assert [hours_at_once(rows) for rows in (0, 20, 2_000, 9_000, 10_000, 50_000)] == [12, 12, 10, 2, 2, 2]
