"""The tiers and windows of the metric model."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from ninjait_pipelines.metrics.model import (
    MAX_AGE,
    MAX_COUNTER_AGE,
    RETENTION,
    WIDTH,
    Tier,
    check_window,
    tier_of,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("age", "tier"),
    [
        (timedelta(minutes=-5), Tier.RAW),
        (timedelta(days=7), Tier.RAW),
        (timedelta(days=7, microseconds=1), Tier.FIVE_MINUTES),
        (timedelta(days=90), Tier.FIVE_MINUTES),
        (timedelta(days=90, microseconds=1), Tier.ONE_HOUR),
        (timedelta(days=730), Tier.ONE_HOUR),
        (timedelta(days=730, microseconds=1), None),
    ],
)
def test_a_point_goes_to_the_finest_tier_that_still_accepts_its_age(age: timedelta, tier: Tier | None) -> None:
    assert tier_of(NOW - age, NOW) is tier


def test_each_tier_keeps_its_points_for_longer_than_the_finer_one() -> None:
    """Else the contract would accept what no tier takes, or a coarser tier would expire first."""
    assert list(RETENTION) == list(Tier)
    assert sorted(RETENTION.values()) == list(RETENTION.values())
    assert (RETENTION[Tier.RAW], RETENTION[Tier.ONE_HOUR]) == (MAX_COUNTER_AGE, MAX_AGE)
    assert {*WIDTH} == {*Tier} - {Tier.RAW}


@pytest.mark.parametrize(
    ("start", "stop", "problem"),
    [
        (NOW, NOW, "is not before"),
        (NOW + HOUR, NOW, "is not before"),
        (NOW + timedelta(minutes=5), NOW + HOUR, r"start=2026-03-01T12:05:00\+00:00 is not a multiple of 1:00:00"),
        (NOW, NOW + HOUR + timedelta(microseconds=1), "stop=.* is not a multiple"),
        (NOW.replace(tzinfo=None), NOW + HOUR, "start=.* is not in UTC"),
        (NOW, (NOW + HOUR).astimezone(timezone(HOUR)), "stop=.* is not in UTC"),
    ],
)
def test_a_window_is_in_utc_aligned_and_not_empty(start: datetime, stop: datetime, problem: str) -> None:
    """A ragged window would be stored under the start of a whole one."""
    with pytest.raises(ValueError, match=problem):
        check_window(start, stop, HOUR)


def test_windows_are_aligned_to_their_own_width() -> None:
    check_window(NOW, NOW + 3 * HOUR, HOUR)
    check_window(NOW + timedelta(minutes=5), NOW + HOUR, timedelta(minutes=5))
    check_window(datetime(1969, 12, 31, 23, tzinfo=UTC), NOW, HOUR)
