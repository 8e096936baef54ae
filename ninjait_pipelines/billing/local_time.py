"""Local days and months as windows of UTC: the one place where time zones are applied to billing."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def day_window(day: date, time_zone: str) -> tuple[datetime, datetime]:
    """[start, end) of a local day in UTC: 24 hours, or 23 or 25 where clocks change, or what the zone says.

    time_zone: IANA name; raises zoneinfo.ZoneInfoNotFoundError for an unknown one.
    """
    zone = ZoneInfo(time_zone)
    return _first_instant(day, zone), _first_instant(day + DAY, zone)


def month_window(month: date, time_zone: str) -> tuple[datetime, datetime]:
    """[start, end) of a local month in UTC; month: its first day."""
    zone = ZoneInfo(time_zone)
    return _first_instant(month, zone), _first_instant(next_month(month), zone)


def next_month(month: date) -> date:
    """The first day of the month after the one in which `month` lies."""
    return (month.replace(day=1) + timedelta(days=32)).replace(day=1)


def overlapped_hours(start: datetime, end: datetime) -> list[datetime]:
    """The UTC hours that a window overlaps; in a zone of half hours midnight cuts the first and the last of a day."""
    first = start.replace(minute=0, second=0, microsecond=0)
    return [first + i * HOUR for i in range(-(-(end - first) // HOUR))]


def _first_instant(day: date, zone: ZoneInfo) -> datetime:
    # fold=0: of a midnight that comes twice, the first; of one that is skipped, the instant of the change.
    return datetime.combine(day, time(), zone).astimezone(UTC)
