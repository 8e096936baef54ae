"""What the caches are made from: current state (PostgreSQL), measurements (ClickHouse), readings (Dragonfly)."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from ninjait_pipelines.cache import keys
from ninjait_pipelines.cache.documents import Device, Key, Window
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.dragonfly import Dragonfly, errors
from ninjait_pipelines.resources.postgres import Postgres

# A device that has been silent for longer has no known state.
HEARTBEATS_OF = timedelta(days=7)


def active_organizations(postgres: Postgres) -> list[UUID]:
    """The organizations that have cache entries."""
    return [row["organization_id"] for row in postgres.rows(sql("cache/organizations"))]


def active_devices(postgres: Postgres, clickhouse: ClickHouse, now: datetime) -> list[Device]:
    """The devices that are not retired, by organization and name, with their latest heartbeats."""
    heartbeats = {
        (row.pop("organization_id"), row.pop("device_id")): row
        for row in clickhouse.rows(sql("cache/heartbeats"), since=now - HEARTBEATS_OF)
    }
    return [
        Device(**row, **heartbeats.get((row["organization_id"], row["device_id"]), {}))
        for row in postgres.rows(sql("cache/devices"))
    ]


def latest_readings(dragonfly: Dragonfly, devices: Sequence[Device]) -> dict[UUID, dict[str, Any]]:
    """What agent_metrics last heard of these devices, of those that it heard anything of."""
    found: dict[UUID, dict[str, Any]] = {}
    for first in range(0, len(devices), 1000):
        chunk = devices[first : first + 1000]
        with errors(dragonfly.url):
            values = dragonfly.client.mget([keys.device_latest(device.device_id) for device in chunk])
        found |= {device.device_id: json.loads(value) for device, value in zip(chunk, values, strict=True) if value}
    return found


def rolled_up_window(clickhouse: ClickHouse, hours: int) -> Window:
    """The last `hours` hours of data."""
    return Window(hours, [row["hour"] for row in clickhouse.rows(sql("cache/rolled_up"), hours=hours)])


def samples_by_device(clickhouse: ClickHouse, window: Window) -> dict[Key, int]:
    """Samples of each (organization, device) in the window, at most 120 an hour."""
    if window.stop is None:
        return {}
    rows = clickhouse.rows(sql("cache/samples"), start=window.start, stop=window.stop)
    return {(row["organization_id"], row["device_id"]): row["samples"] for row in rows}


def means_by_organization(clickhouse: ClickHouse, window: Window) -> dict[UUID, dict[str, float | None]]:
    """cpu_avg and memory_avg of each organization that has samples in the window."""
    if window.stop is None:
        return {}
    rows = clickhouse.rows(sql("cache/last_day"), start=window.start, stop=window.stop)
    return {row.pop("organization_id"): row for row in rows}


def open_work(postgres: Postgres) -> dict[UUID, dict[tuple[str, str], int]]:
    """Open tickets and alerts: organization -> (work, priority or severity) -> how many."""
    found: dict[UUID, dict[tuple[str, str], int]] = {}
    for row in postgres.rows(sql("cache/open_work")):
        found.setdefault(row["organization_id"], {})[row["work"], row["level"]] = row["open"]
    return found
