"""The fleet that is simulated: organizations and devices of PostgreSQL, the time, and what the fleet is like."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from ninjait_pipelines.resources.postgres import Postgres


class Device(msgspec.Struct, frozen=True):
    """A device of the fleet; kind: server, workstation or laptop."""

    id: str
    kind: str
    operating_system: str


class Organization(msgspec.Struct, frozen=True):
    """An organization with its devices and the ids of its users."""

    id: str
    time_zone: str
    devices: tuple[Device, ...]
    users: tuple[str, ...] = ()


class Window(msgspec.Struct, frozen=True):
    """The time that is simulated, half open."""

    start: datetime
    end: datetime


class Options(msgspec.Struct, frozen=True):
    """What the fleet is like; shares are 0 to 1."""

    seed: int = 1
    interval: int = 30  # seconds between two samples of a device
    samples_per_message: int = 20
    broken: float = 0.005  # share of messages that are wrong, wholly or in some of their samples
    duplicates: float = 0.01  # share of messages that are published twice
    resent: float = 0.005  # share of metrics messages whose samples come again in another message
    away: float = 0.35  # share of laptops that lose their connection for a while, and deliver later
    heartbeat_interval: int = 300  # seconds
    api_calls: float = 3.0  # per device and hour
    logs: float = 0.5  # per device and hour


def read_fleet(
    postgres: Postgres, before: datetime, slugs: Sequence[str] = (), max_devices: int | None = None
) -> list[Organization]:
    """The organizations of PostgreSQL with what was registered before that moment and is still in use.

    slugs: only these; max_devices: of each organization. Raises LookupError for an unknown slug.
    """
    rows = postgres.rows("SELECT id, slug, time_zone FROM organizations WHERE deactivated_at IS NULL ORDER BY slug")
    if missing := set(slugs) - {row["slug"] for row in rows}:
        raise LookupError(f"There is no organization {', '.join(sorted(missing))} in PostgreSQL. See: ninjait seed.")
    devices = postgres.rows(
        "SELECT organization_id, id::text AS id, kind, os_version AS operating_system FROM devices "
        "WHERE retired_at IS NULL AND created_at < %(before)s ORDER BY id",
        {"before": before},
    )
    users = postgres.rows("SELECT organization_id, id::text AS id FROM users WHERE deactivated_at IS NULL ORDER BY id")

    def owned(found: list[dict[str, Any]], organization: uuid.UUID) -> list[dict[str, Any]]:
        return [row for row in found if row["organization_id"] == organization]

    return [
        Organization(
            id=str(row["id"]),
            time_zone=row["time_zone"],
            devices=tuple(
                Device(device["id"], device["kind"], device["operating_system"])
                for device in owned(devices, row["id"])[:max_devices]
            ),
            users=tuple(user["id"] for user in owned(users, row["id"])),
        )
        for row in rows
        if not slugs or row["slug"] in slugs
    ]
