"""Every key in Dragonfly that the platform's API reads: name, type, lifetime, writer. None is spelled elsewhere.

All except the sorted set are strings with one JSON object with `organization_id` and `as_of` (UTC, microseconds). They
are written by `set_if_newer`: an older run never overwrites what a newer one wrote.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

# The API answers from it; an older device list is no answer. `device_caches` rewrites it every four minutes.
DEVICES_TTL = timedelta(seconds=300)
WEEKLY_REPORT_TTL = timedelta(hours=24)
# A leaderboard that was written but never switched to expires.
UNFINISHED_TTL = timedelta(hours=1)

# Sorted set, no expiry, by `uptime_leaderboard`: members are "{organization_id}:{device_id}" (see `member`), scores the
# share of seven days that the device's samples cover, 0 to 1.
UPTIME_LEADERBOARD = "uptime:leaderboard"
# JSON string, no expiry, switched together with the leaderboard: as_of, window, completeness and the number of devices.
# The only document without an organization_id: like the leaderboard it spans all organizations, and names none.
UPTIME_LEADERBOARD_ABOUT = "uptime:leaderboard:about"


def as_of_text(moment: datetime) -> str:
    """A moment as `as_of` is written: ISO 8601, UTC, microseconds, so that text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def device_latest(device_id: UUID | str) -> str:
    """JSON string, by `agent_metrics`, repaired by `device_caches`: the latest readings of a device,
    `as_of` being the time of the newest sample."""
    return f"device:{device_id}:latest"


def organization_devices(organization_id: UUID | str) -> str:
    """JSON string, DEVICES_TTL, by `device_caches`: the devices with status, last_seen and latest readings."""
    return f"api:devices:{organization_id}"


def organization_summary(organization_id: UUID | str) -> str:
    """JSON string, no expiry, by `organization_summaries`: the figures of the organization's dashboard."""
    return f"org:{organization_id}:summary"


def weekly_report(organization_id: UUID | str) -> str:
    """JSON string, WEEKLY_REPORT_TTL, by `weekly_reports`: the latest week's report."""
    return f"report:weekly:{organization_id}"


def unfinished_leaderboard(as_of: str) -> str:
    """Sorted set, UNFINISHED_TTL: a leaderboard while it is being written; it is never read."""
    return f"{UPTIME_LEADERBOARD}:{as_of}"


def member(organization_id: UUID | str, device_id: UUID | str) -> str:
    """A device in the leaderboard: filter by the prefix to show an organization its own devices only."""
    return f"{organization_id}:{device_id}"
