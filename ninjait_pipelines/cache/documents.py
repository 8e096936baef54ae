"""The content of the cached documents, as pure functions of what was read; all of it can be written as JSON."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Any
from uuid import UUID

import msgspec

from ninjait_pipelines.keys import as_of_text, member
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.metrics.model import FIELDS, HOUR

UNKNOWN = "unknown"
PRIORITIES = ("urgent", "high", "normal", "low")
SEVERITIES = ("critical", "warning", "info")


class Device(msgspec.Struct, frozen=True):
    """An active device, with its status and when it was last heard of if it sent anything lately."""

    organization_id: UUID
    device_id: UUID
    hostname: str
    kind: str
    operating_system: str
    registered_at: datetime
    status: str = UNKNOWN
    last_seen: datetime | None = None


class Window(msgspec.Struct, frozen=True):
    """The last `length` hours of data: the rolled-up ones in order (none before the first roll-up).

    shares: (organization, device) -> hours that its samples cover, the sum of its sample_share. Shares under another
    organization than the device's are ignored.
    """

    length: int
    hours: Sequence[datetime]
    shares: Mapping[tuple[UUID, UUID], float]

    @property
    def completeness(self) -> float:
        """The share of the hours that were rolled up."""
        return len(self.hours) / self.length

    def due(self, device: Device) -> int:
        """Hours due from a device: the rolled-up ones that began after its registration."""
        return len(self.hours) - bisect_left(self.hours, device.registered_at)

    def covered(self, device: Device) -> float:
        """Hours due that a device's samples cover. Raises ValueError if that is not a finite number."""
        share = self.shares.get((device.organization_id, device.device_id), 0.0)
        if not isfinite(share):
            raise ValueError(f"sample_share of device {device.device_id} adds up to {share}: roll its hours up again")
        return min(share, float(self.due(device)))

    def document(self) -> dict[str, str | None]:
        """The window as shown in a document: up to the end of the newest rolled-up hour."""
        if not self.hours:
            return {"start": None, "end": None}
        stop = self.hours[-1] + HOUR
        return {"start": as_of_text(stop - timedelta(hours=self.length)), "end": as_of_text(stop)}


def device_list(
    organization_id: UUID, devices: Sequence[Device], readings: Mapping[UUID, dict[str, Any]], as_of: datetime
) -> dict[str, Any]:
    """The API's answer to "my devices". completeness is the share of devices whose status is known.

    Readings that name another organization are left out, wherever they come from.
    """
    own = {
        device: {name: found.get(name) for name in ("as_of", *FIELDS)}
        for device, found in readings.items()
        if found.get("organization_id") == str(organization_id)
    }
    known = sum(device.status != UNKNOWN for device in devices)
    return {
        "organization_id": str(organization_id),
        "as_of": as_of_text(as_of),
        "completeness": known / len(devices) if devices else 1.0,
        "devices": [{**msgspec.to_builtins(device), "readings": own.get(device.device_id)} for device in devices],
    }


def summary(
    organization_id: UUID,
    devices: Sequence[Device],
    window: Window,
    means: Mapping[str, float | None],
    open_work: Mapping[tuple[str, str], int],
    as_of: datetime,
) -> dict[str, Any]:
    """The dashboard's figures; cpu_avg (percent) and memory_avg (MiB) are means of the window's samples.

    completeness is the share of the window's hours that were rolled up; sample_share is the share of due hours that
    samples cover, null while none is due.
    """
    due = sum(map(window.due, devices))
    return {
        "organization_id": str(organization_id),
        "as_of": as_of_text(as_of),
        "completeness": window.completeness,
        "window": window.document(),
        "devices": {"total": len(devices), **Counter(device.status for device in devices)},
        "cpu_avg": means.get("cpu_avg"),
        "memory_avg": means.get("memory_avg"),
        "sample_share": sum(map(window.covered, devices)) / due if due else None,
        "open_tickets": {level: open_work.get(("ticket", level), 0) for level in PRIORITIES},
        "open_alerts": {level: open_work.get(("alert", level), 0) for level in SEVERITIES},
    }


def uptime_scores(devices: Iterable[Device], window: Window, left_out: LeftOut) -> dict[str, float]:
    """The leaderboard: member -> share of its hours that samples cover, 0 to 1.

    A device without a due hour is left out.
    """

    def score(device: Device) -> tuple[str, float]:
        return member(device.organization_id, device.device_id), window.covered(device) / window.due(device)

    due = filter(window.due, devices)
    return dict(left_out.each(due, lambda device: f"device {device.device_id}", score))
