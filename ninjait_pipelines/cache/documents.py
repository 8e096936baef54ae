"""The content of the cached documents, as pure functions of what was read; all of it can be written as JSON."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from ninjait_pipelines.keys import as_of_text, member
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.metrics.model import FIELDS, HOUR

UNKNOWN = "unknown"
PRIORITIES = ("urgent", "high", "normal", "low")
SEVERITIES = ("critical", "warning", "info")


class _Reading(msgspec.Struct):
    organization_id: str | msgspec.UnsetType = msgspec.UNSET
    as_of: str | None = None


# A device's latest reading as it is cached, and without `organization_id` as it is listed.
Reading = msgspec.defstruct("Reading", [(name, float | None, None) for name in FIELDS], bases=(_Reading,))
_READING = msgspec.json.Decoder(Reading)


class Device(msgspec.Struct):
    """An active device, with its status, when it was last heard of, and its readings, if it sent anything lately."""

    organization_id: str
    device_id: str
    hostname: str
    kind: str
    operating_system: str
    registered_at: datetime
    status: str = UNKNOWN
    last_seen: datetime | None = None
    readings: _Reading | None = None


class Window(msgspec.Struct, frozen=True):
    """The last `length` hours of data: the rolled-up ones in order (none before the first roll-up).

    shares: (organization, device) -> hours that its samples cover, the sum of its sample_share. Shares under another
    organization than the device's are ignored.
    """

    length: int
    hours: Sequence[datetime]
    shares: Mapping[tuple[str, str], float]

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


def own_reading(cached: str | None, organization_id: str) -> _Reading | None:
    """The reading in a cached document; None if it is none, or names another organization, wherever it comes from."""
    try:
        found: Any = _READING.decode(cached) if cached else None
    except msgspec.DecodeError:
        return None
    if found is None or found.organization_id != organization_id:
        return None
    found.organization_id = msgspec.UNSET
    reading: _Reading = found
    return reading


def lacks(reading: _Reading | None, read_at: str, carried: int) -> bool:
    """Whether a cached reading is older than the device's newest one, or has nothing for a field that was sent lately.

    read_at: when that was, as the beginning of an as_of; carried: the fields by their places in FIELDS, as bits.
    """
    if reading is None or not reading.as_of:
        return carried > 0
    values = msgspec.structs.astuple(reading)[-len(FIELDS) :]
    return reading.as_of[: len(read_at)] < read_at or (
        None in values and any(value is None and carried >> place & 1 for place, value in enumerate(values))
    )


def device_list(organization_id: UUID, devices: Sequence[Device], revision: str, as_of: datetime) -> dict[str, Any]:
    """The API's answer to "my devices". completeness is the share of devices whose status is known."""
    known = sum(device.status != UNKNOWN for device in devices)
    return {
        "organization_id": str(organization_id),
        "as_of": as_of_text(as_of),
        "revision": revision,
        "completeness": known / len(devices) if devices else 1.0,
        "devices": devices,
    }


class Figures(NamedTuple):
    """What a summary has from the window's hours: means of their samples in percent and MiB, and the share of due hours
    that samples cover, None while none is due."""

    cpu_avg: float | None
    memory_avg: float | None
    sample_share: float | None


def figures(devices: Sequence[Device], window: Window, means: Mapping[str, float | None]) -> Figures:
    """The figures of an organization."""
    due = sum(map(window.due, devices))
    share = sum(map(window.covered, devices)) / due if due else None
    return Figures(means.get("cpu_avg"), means.get("memory_avg"), share)


def summary(
    organization_id: UUID,
    devices: Sequence[Device],
    window: Window,
    of_hours: Figures,
    open_work: Mapping[tuple[str, str], int],
    revision: str,
    as_of: datetime,
) -> dict[str, Any]:
    """The dashboard's figures. completeness is the share of the window's hours that were rolled up."""
    return {
        "organization_id": str(organization_id),
        "as_of": as_of_text(as_of),
        "revision": revision,
        "completeness": window.completeness,
        "window": window.document(),
        "devices": {"total": len(devices), **Counter(device.status for device in devices)},
        **of_hours._asdict(),
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
