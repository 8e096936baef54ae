"""Local days and months in UTC: changes of the clock, zones east and west, zones of half hours."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfoNotFoundError, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.billing.local_time import DAY, HOUR, day_window, month_window, next_month, overlapped_hours
from ninjait_pipelines.partitions import LOCAL_DAY

DAYS = {  # zone, local day -> start and end in UTC
    "winter in Berlin": ("Europe/Berlin", "2026-01-15", "2026-01-14T23:00", "2026-01-15T23:00"),
    "23 hours in Berlin": ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00", "2026-03-29T22:00"),
    "25 hours in Berlin": ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00", "2026-10-25T23:00"),
    "23 hours in Los Angeles": ("America/Los_Angeles", "2026-03-08", "2026-03-08T08:00", "2026-03-09T07:00"),
    "25 hours in Los Angeles": ("America/Los_Angeles", "2026-11-01", "2026-11-01T07:00", "2026-11-02T08:00"),
    "25 hours in Auckland": ("Pacific/Auckland", "2026-04-05", "2026-04-04T11:00", "2026-04-05T12:00"),
    "half past in Kolkata": ("Asia/Kolkata", "2026-02-28", "2026-02-27T18:30", "2026-02-28T18:30"),
    "three quarters in Kathmandu": ("Asia/Kathmandu", "2026-01-01", "2025-12-31T18:15", "2026-01-01T18:15"),
    "half an hour's change on Lord Howe": ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00", "2026-04-05T13:30"),
    "no midnight in Cairo": ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00", "2026-04-24T21:00"),
    "two midnights in Havana": ("America/Havana", "2026-11-01", "2026-11-01T04:00", "2026-11-02T05:00"),
    "farthest east": ("Pacific/Kiritimati", "2026-06-01", "2026-05-31T10:00", "2026-06-01T10:00"),
    "farthest west": ("Etc/GMT+12", "2026-06-01", "2026-06-01T12:00", "2026-06-02T12:00"),
}


@pytest.mark.parametrize(("zone", "day", "start", "end"), DAYS.values(), ids=DAYS.keys())
def test_day_window(zone: str, day: str, start: str, end: str) -> None:
    expected = (datetime.fromisoformat(start).replace(tzinfo=UTC), datetime.fromisoformat(end).replace(tzinfo=UTC))
    assert day_window(date.fromisoformat(day), zone) == expected


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Asia/Kolkata", "2026-10-25", 25),
        ("Australia/Lord_Howe", "2026-04-05", 25),  # 24.5 hours
        ("Australia/Lord_Howe", "2026-10-04", 24),  # 23.5 hours
    ],
)
def test_overlapped_hours_a_day(zone: str, day: str, hours: int) -> None:
    found = overlapped_hours(*day_window(date.fromisoformat(day), zone))
    assert len(found) == hours
    assert all(hour.minute == 0 and hour.tzinfo == UTC for hour in found)


@given(st.sampled_from(sorted(available_timezones())), st.dates(date(2026, 1, 1), date(2037, 12, 30)))
def test_days_meet_and_each_hour_is_in_one_of_them_and_in_the_mapped_partitions(zone: str, day: date) -> None:
    start, end = day_window(day, zone)
    next_start, next_end = day_window(day + DAY, zone)
    assert end == next_start
    hours = overlapped_hours(start, end)
    cut = 1 if end.minute else 0
    assert hours + overlapped_hours(next_start, next_end)[cut:] == overlapped_hours(start, next_end)
    assert all(hour < end and start < hour + HOUR for hour in hours)
    assert isinstance(LOCAL_DAY.start_offset, int)
    utc_day = datetime.combine(day, datetime.min.time(), UTC)
    assert utc_day + LOCAL_DAY.start_offset * DAY <= start
    assert end <= utc_day + (LOCAL_DAY.end_offset + 1) * DAY


@given(st.sampled_from(sorted(available_timezones())), st.dates(date(2026, 1, 1), date(2037, 12, 1)))
def test_a_month_is_its_days(zone: str, day: date) -> None:
    month = day.replace(day=1)
    assert month_window(month, zone) == (day_window(month, zone)[0], day_window(next_month(month) - DAY, zone)[1])


def test_months() -> None:
    assert next_month(date(2026, 12, 31)) == date(2027, 1, 1)
    assert next_month(date(2026, 1, 1)) == date(2026, 2, 1)
    start, end = month_window(date(2026, 10, 1), "Europe/Berlin")
    assert (end - start) // HOUR == 31 * 24 + 1
    assert end - start == timedelta(days=31, hours=1)


def test_an_unknown_zone_is_an_error() -> None:
    with pytest.raises(ZoneInfoNotFoundError):
        day_window(date(2026, 1, 1), "Europe/Atlantis")
