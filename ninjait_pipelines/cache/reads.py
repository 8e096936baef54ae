"""What the caches are built from: current state (PostgreSQL), measurements (ClickHouse), readings (Dragonfly)."""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ninjait_pipelines import keys
from ninjait_pipelines.cache.documents import Device, Window
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.postgres import Postgres, check_times

# The status of a device that has been silent longer is unknown.
HEARD_OF = timedelta(days=7)


def devices_by_organization(
    postgres: Postgres, clickhouse: ClickHouse, now: datetime, left_out: LeftOut
) -> dict[UUID, list[Device]]:
    """Every active organization with its devices that are not retired, by name, and when each was last heard of."""
    statuses = {
        (row.pop("organization_id"), row.pop("device_id")): row
        for row in clickhouse.rows(sql("cache/statuses"), since=now - HEARD_OF, as_of=now)
    }
    rows = postgres.rows(sql("cache/devices"))
    found: dict[UUID, list[Device]] = {row["organization_id"]: [] for row in rows}

    def device(row: dict[str, Any]) -> Device:
        check_times(row)
        return Device(**row, **statuses.get((row["organization_id"], row["device_id"]), {}))

    own = (row for row in rows if row["device_id"])
    for one in left_out.each(own, lambda row: f"device {row['device_id']}", device):
        found[one.organization_id].append(one)
    return found


def documents(dragonfly: Dragonfly, names: Sequence[str]) -> list[dict[str, Any] | None]:
    """The JSON documents under these keys; None for a key without one."""
    with dragonfly.errors():
        values: list[Any] = list(dragonfly.client.mget(names)) if names else []
    return [_document(value) for value in values]


def _document(value: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(value or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def latest_readings(dragonfly: Dragonfly, devices: Sequence[Device]) -> dict[UUID, dict[str, Any]]:
    """The latest readings of these devices, without devices that have none."""
    found = documents(dragonfly, [keys.device_latest(device.device_id) for device in devices])
    return {device.device_id: value for device, value in zip(devices, found, strict=True) if value}


def rolled_up_window(clickhouse: ClickHouse, hours: int) -> Window:
    """The last `hours` hours of data."""
    rolled_up = [row["hour"] for row in clickhouse.rows(sql("cache/rolled_up"), hours=hours)]
    rows = clickhouse.rows(sql("cache/shares"), hours=rolled_up)
    return Window(hours, rolled_up, {(row["organization_id"], row["device_id"]): row["share"] for row in rows})


def means_by_organization(clickhouse: ClickHouse, window: Window) -> dict[UUID, dict[str, float | None]]:
    """cpu_avg and memory_avg per organization with samples in the window."""
    return {row.pop("organization_id"): row for row in clickhouse.rows(sql("cache/means"), hours=window.hours)}


def open_work(postgres: Postgres) -> defaultdict[UUID, dict[tuple[str, str], int]]:
    """Open tickets and alerts: organization -> (work, priority or severity) -> how many."""
    found: defaultdict[UUID, dict[tuple[str, str], int]] = defaultdict(dict)
    for row in postgres.rows(sql("cache/open_work")):
        found[row["organization_id"]][row["work"], row["level"]] = row["open"]
    return found
