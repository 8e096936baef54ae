"""What the tests of the caches share: their assets and checks, a fleet, and what is cached of it."""

import json
import uuid
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.cache import assets, checks
from ninjait_pipelines.keys import as_of_text
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, HOUR, Fleet, midnight

ASSETS = (assets.device_caches, assets.organization_summaries, assets.uptime_leaderboard)


CHECKS = (checks.device_lists_match, checks.summaries_match, checks.leaderboard_is_whole)


H = midnight(1)


@pytest.fixture
def fleet(shared_stores: Stores) -> Fleet:
    """Alpha has `one` (all samples, online), `two` (half of them, silent) and `new` (registered at H+2); Beta has one.

    Rolled up: H to H+3 but for H+1.
    """
    fleet = Fleet(shared_stores)
    one, two = fleet.device(ALPHA, "one"), fleet.device(ALPHA, "two")
    new, other = fleet.device(ALPHA, "new", H + 2 * HOUR), fleet.device(BETA, "other")
    fleet.device(ALPHA, "retired", retired_at=H)
    when = [H, H + 2 * HOUR, H + 3 * HOUR]
    fleet.rolled_up(when)
    fleet.hourly(ALPHA, one, when, cpu_avg=10.0, memory_avg=1000.0)
    fleet.hourly(ALPHA, two, when, 60, cpu_avg=40.0, memory_avg=None)
    fleet.hourly(ALPHA, new, when[1:], 90, cpu_avg=None, memory_avg=None)
    # Written by a roll-up that died before it recorded the hour: not data yet.
    fleet.hourly(ALPHA, one, [H + HOUR], cpu_avg=99.0)
    fleet.hourly(BETA, other, when, 240, cpu_avg=20.0, memory_avg=2000.0)
    fleet.heartbeat(ALPHA, one, H, "offline")
    fleet.heartbeat(ALPHA, one, H + HOUR, "online")
    fleet.heartbeat(BETA, other, H, "maintenance")
    reading(shared_stores, ALPHA, one, cpu=12.5)
    return fleet


def reading(stores: Stores, organization: uuid.UUID, device: uuid.UUID, **fields: float) -> None:
    """What agent_metrics writes of a reading of H."""
    sighting(stores, organization, device, H)
    about = {"organization_id": str(organization), "device_id": str(device), "as_of": as_of_text(H)}
    stores.dragonfly.set_if_newer(keys.device_latest(device), about | fields)


def sighting(stores: Stores, organization: uuid.UUID, device: uuid.UUID, moment: datetime) -> None:
    """What agent_metrics writes."""
    stamp = pa.array([moment], pa.timestamp("ms", "UTC"))
    columns = {"organization_id": [str(organization)], "device_id": [str(device)], "last_seen": stamp}
    stores.clickhouse.insert("device_sightings", pa.table(columns))


def cached(stores: Stores, key: str) -> dict[str, Any]:
    return json.loads(stores.dragonfly.client.get(key) or "null")


def device(organization: uuid.UUID, name: str) -> str:
    return str(uuid.uuid5(organization, name))
