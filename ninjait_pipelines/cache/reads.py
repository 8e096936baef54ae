"""What the caches are built from: current state (PostgreSQL), measurements (ClickHouse), readings (Dragonfly)."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import md5
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines import keys
from ninjait_pipelines.cache.documents import Device, Figures, Window, lacks, own_reading
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.postgres import NoSuchTime, Postgres, check_times

# The status of a device that has been silent longer is unknown.
HEARD_OF = timedelta(days=7)
# A drain records a device's reading before it caches it: a list that is made in between has the reading before.
SETTLING = timedelta(minutes=1)
KEYS_AT_ONCE = 5_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DEVICES = msgspec.json.Decoder(list[Device])


class Heard(NamedTuple):
    """What was recorded of an organization's devices: columns of cache/statuses, by device id; its revision."""

    devices: pa.Table
    revision: int
    recorded_at: datetime

    def of_devices(self) -> dict[str, tuple[str, datetime]]:
        """Device -> status, and when it was last heard of."""
        columns = (self.devices[name].to_pylist() for name in ("device_id", "status", "last_seen"))
        return {
            device: (status, EPOCH + timedelta(milliseconds=moment))
            for device, status, moment in zip(*columns, strict=True)
        }

    def incomplete(self, devices: Sequence[Device]) -> list[Device]:
        """Devices whose cached reading is not what the metrics store has of the fields that they sent lately."""
        lately = self.devices.filter(pc.not_equal(self.devices["carried"], 0))
        columns = (lately[name].to_pylist() for name in ("device_id", "read_at", "carried"))
        sent = {device: (read_at, carried) for device, read_at, carried in zip(*columns, strict=True)}
        return [device for device in devices if lacks(device.readings, *sent.get(device.device_id, ("", 0)))]


class Organization(NamedTuple):
    """An active organization, its devices as PostgreSQL wrote them, and what was heard of them lately."""

    organization_id: UUID
    registered: str
    heard: Heard | None

    def devices(self, left_out: LeftOut) -> list[Device]:
        """Its devices that are not retired, by name, without those that have a time that there is not."""
        heard = self.heard.of_devices() if self.heard else {}
        found = registered_devices(self.registered, left_out)
        for device in found:
            if one := heard.get(device.device_id):
                device.status, device.last_seen = one
        return found

    def revision(self, as_of: datetime, latest_since: datetime) -> str:
        """Equal as long as the list of devices is; none ("") while a drain may still cache a recorded reading."""
        if self.heard and self.heard.recorded_at > as_of - SETTLING:
            return ""
        return revision_of(as_of, as_of - latest_since, self.registered, self.heard.revision if self.heard else 0)


def revision_of(as_of: datetime, *parts: object) -> str:
    """A text that is equal if the parts are, and the hour is: whatever was missed is found within an hour."""
    texts = (f"{as_of:%Y-%m-%dT%H}", *map(str, parts))
    return md5("\n".join(texts).encode(), usedforsecurity=False).hexdigest()


def organizations(postgres: Postgres, heard: Mapping[str, Heard]) -> list[Organization]:
    """Every active organization, in order of its id."""
    return [
        Organization(row["organization_id"], row["devices"], heard.get(str(row["organization_id"])))
        for row in postgres.rows(sql("cache/devices"))
    ]


def heard_of(clickhouse: ClickHouse, now: datetime, latest_since: datetime | None = None) -> dict[str, Heard]:
    """What was recorded of devices, by organization; latest_since: from when on a field counts as sent lately."""
    times = {"since": now - HEARD_OF, "as_of": now, "latest_since": latest_since or now}
    rows = clickhouse.arrow(sql("cache/statuses"), **times)
    return {rows["organization_id"][start].as_py(): _of_organization(rows[start:end]) for start, end in _runs(rows)}


def _runs(rows: pa.Table) -> Iterator[tuple[int, int]]:
    """Where the rows of each organization start and end."""
    ids = rows["organization_id"].to_numpy()
    starts = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    return pairwise([0, *starts.tolist(), len(ids)]) if len(ids) else iter(())


def _of_organization(rows: pa.Table) -> Heard:
    revision = int(np.bitwise_xor.reduce(rows["revision"].to_numpy()))
    recorded_at = EPOCH + timedelta(microseconds=int(rows["recorded_at"].to_numpy().max()))
    return Heard(rows, revision, recorded_at)


def registered_devices(registered: str, left_out: LeftOut) -> list[Device]:
    """The devices of an array of cache/devices."""
    try:
        return _DEVICES.decode(registered)
    except msgspec.ValidationError:
        rows = json.loads(registered)
        return list(left_out.each(rows, lambda row: f"device {row['device_id']}", _device))


def _device(row: dict[str, Any]) -> Device:
    try:
        return msgspec.convert(row, Device)
    except msgspec.ValidationError:
        check_times({"registered_at": NoSuchTime(row["registered_at"])})
        raise


def documents(dragonfly: Dragonfly, names: Sequence[str]) -> list[dict[str, Any] | None]:
    """The JSON documents under these keys; None for a key without one."""
    return [_document(value) for value in _values(dragonfly, names)]


def _values(dragonfly: Dragonfly, names: Sequence[str]) -> list[str | None]:
    values: list[Any] = []
    with dragonfly.errors():
        for first in range(0, len(names), KEYS_AT_ONCE):
            values += dragonfly.client.mget(names[first : first + KEYS_AT_ONCE])
    return values


def _document(value: str | None) -> dict[str, Any] | None:
    try:
        found = json.loads(value or "null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def add_readings(dragonfly: Dragonfly, devices: Sequence[Device]) -> None:
    """Gives each device its latest readings, if they name its organization."""
    values = _values(dragonfly, [keys.device_latest(device.device_id) for device in devices])
    for device, value in zip(devices, values, strict=True):
        device.readings = own_reading(value, device.organization_id)


def summary_figures(dragonfly: Dragonfly, revisions: Mapping[UUID, str]) -> dict[UUID, Figures]:
    """The figures of hours in the cached summaries that have these revisions."""
    found = documents(dragonfly, [keys.organization_summary(id_) for id_ in revisions])
    pairs = zip(revisions.items(), found, strict=True)
    return {
        id_: Figures(*(cached.get(name) for name in Figures._fields))
        for (id_, revision), cached in pairs
        if cached and (cached.get("organization_id"), cached.get("revision")) == (str(id_), revision)
    }


def rolled_up_hours(clickhouse: ClickHouse, hours: int) -> dict[datetime, datetime]:
    """The rolled-up ones of the last `hours` hours of data, in order, each with its version."""
    return {row["hour"]: row["as_of"] for row in clickhouse.rows(sql("cache/rolled_up"), hours=hours)}


def rolled_up_window(clickhouse: ClickHouse, length: int, rolled_up: Sequence[datetime]) -> Window:
    """The last `length` hours of data, with what samples cover of them."""
    rows = clickhouse.arrow(sql("cache/shares"), hours=rolled_up)
    columns = (rows[name].to_pylist() for name in ("organization_id", "device_id", "share"))
    shares = {(organization, device): share for organization, device, share in zip(*columns, strict=True)}
    return Window(length, rolled_up, shares)


def means_by_organization(clickhouse: ClickHouse, hours: Sequence[datetime]) -> dict[UUID, dict[str, float | None]]:
    """cpu_avg and memory_avg per organization with samples in the window."""
    return {row.pop("organization_id"): row for row in clickhouse.rows(sql("cache/means"), hours=hours)}


def open_work(postgres: Postgres) -> defaultdict[UUID, dict[tuple[str, str], int]]:
    """Open tickets and alerts: organization -> (work, priority or severity) -> how many."""
    found: defaultdict[UUID, dict[tuple[str, str], int]] = defaultdict(dict)
    for row in postgres.rows(sql("cache/open_work")):
        found[row["organization_id"]][row["work"], row["level"]] = row["open"]
    return found
