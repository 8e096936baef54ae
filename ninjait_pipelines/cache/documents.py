"""What the cached documents say, as pure functions of what was read. All of them are JSON-able."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from ninjait_pipelines.cache.keys import member
from ninjait_pipelines.resources.dragonfly import as_of_text
from ninjait_pipelines.resources.metrics_store import FIELDS
from ninjait_pipelines.rollup.hours import EXPECTED_SAMPLES

UNKNOWN = "unknown"

# (organization, device): samples that name another organization's device are nobody's.
Key = tuple[UUID, UUID]


class Device(msgspec.Struct, frozen=True):
    """An active device, and its latest heartbeat where it sent one lately."""

    organization_id: UUID
    device_id: UUID
    hostname: str
    kind: str
    operating_system: str
    registered_at: datetime
    status: str = UNKNOWN
    last_seen: datetime | None = None

    @property
    def key(self) -> Key:
        return self.organization_id, self.device_id


class Window(msgspec.Struct, frozen=True):
    """The last `length` hours of data: those of them that were rolled up, in order. Empty before the first roll-up."""

    length: int
    hours: Sequence[datetime]

    @property
    def stop(self) -> datetime | None:
        """The end of the newest rolled-up hour."""
        return self.hours[-1] + timedelta(hours=1) if self.hours else None

    @property
    def start(self) -> datetime | None:
        """`length` hours before the end."""
        return self.stop - timedelta(hours=self.length) if self.stop else None

    @property
    def completeness(self) -> float:
        """The share of its hours that were rolled up."""
        return len(self.hours) / self.length

    def expected_samples(self, device: Device) -> int:
        """Samples due from a device: 120 for each rolled-up hour that began after its registration."""
        return EXPECTED_SAMPLES * (len(self.hours) - bisect_left(self.hours, device.registered_at))

    def document(self) -> dict[str, str | None]:
        """The window as it stands in a document."""
        return {"start": _text(self.start), "end": _text(self.stop)}


def device_list(
    organization_id: UUID, devices: Sequence[Device], readings: Mapping[UUID, dict[str, Any]], as_of: datetime
) -> dict[str, Any]:
    """The API's answer to "my devices". completeness is the share of devices whose status is known.

    Readings that name another organization are left out, whatever put them there.
    """
    own = {
        device: {name: found.get(name) for name in ("as_of", *FIELDS)}
        for device, found in readings.items()
        if found.get("organization_id") == str(organization_id)
    }
    return {
        "organization_id": str(organization_id),
        "as_of": as_of_text(as_of),
        "completeness": sum(device.status != UNKNOWN for device in devices) / len(devices) if devices else 1.0,
        "devices": [
            {
                "device_id": str(device.device_id),
                "hostname": device.hostname,
                "kind": device.kind,
                "operating_system": device.operating_system,
                "status": device.status,
                "last_seen": _text(device.last_seen),
                "readings": own.get(device.device_id),
            }
            for device in devices
        ],
    }


def summary(
    organization_id: UUID,
    devices: Sequence[Device],
    samples: Mapping[Key, int],
    means: Mapping[str, float | None],
    open_work: Mapping[tuple[str, str], int],
    window: Window,
    as_of: datetime,
) -> dict[str, Any]:
    """The dashboard's figures; cpu_avg (percent) and memory_avg (MiB) are means of the window's samples.

    completeness is the share of the window's hours that were rolled up, sample_share that of the expected samples in
    them, null while none is due.
    """
    due = sum(window.expected_samples(device) for device in devices)
    arrived = sum(min(samples.get(device.key, 0), window.expected_samples(device)) for device in devices)
    return {
        "organization_id": str(organization_id),
        "as_of": as_of_text(as_of),
        "completeness": window.completeness,
        "window": window.document(),
        "devices": {"total": len(devices), **Counter(device.status for device in devices)},
        "cpu_avg": means.get("cpu_avg"),
        "memory_avg": means.get("memory_avg"),
        "sample_share": arrived / due if due else None,
        "open_tickets": _levels(open_work, "ticket", ("urgent", "high", "normal", "low")),
        "open_alerts": _levels(open_work, "alert", ("critical", "warning", "info")),
    }


def _levels(open_work: Mapping[tuple[str, str], int], work: str, levels: Iterable[str]) -> dict[str, int]:
    return {level: open_work.get((work, level), 0) for level in levels}


def uptime_scores(devices: Iterable[Device], samples: Mapping[Key, int], window: Window) -> dict[str, float]:
    """The leaderboard: member -> share of expected samples, 0 to 1. A device of which none is due yet is not in it."""
    due = {device: window.expected_samples(device) for device in devices}
    return {
        member(*device.key): min(1.0, samples.get(device.key, 0) / expected)
        for device, expected in due.items()
        if expected
    }


def by_organization(devices: Iterable[Device]) -> defaultdict[UUID, list[Device]]:
    """The devices of each organization, in their order."""
    grouped: defaultdict[UUID, list[Device]] = defaultdict(list)
    for device in devices:
        grouped[device.organization_id].append(device)
    return grouped


def _text(moment: datetime | None) -> str | None:
    return as_of_text(moment) if moment else None
