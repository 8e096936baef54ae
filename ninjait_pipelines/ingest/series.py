"""How many series a device may create: it chooses the names of its interfaces and volumes, and each costs memory.

The names in use are kept in ClickHouse, so that the limit holds across messages, drains and restarts. A name that is
not used for KEPT makes room for another one, so that a host whose interfaces come and go recovers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from ninjait_pipelines.resources.clickhouse import ClickHouse, sql

# Interfaces per device, and as many volumes.
MAX_NAMES = 64
# As long as full resolution keeps their readings.
KEPT = timedelta(days=7)
Named = Literal["counters", "volumes"]
NAME_OF: Mapping[Named, str] = {"counters": "interface", "volumes": "volume"}
TOO_MANY: Mapping[Named, str] = {"counters": "too_many_interfaces", "volumes": "too_many_volumes"}
_KEYS: Mapping[Named, Sequence[str]] = {
    "counters": ("organization_id", "device_id", "source", "interface"),
    "volumes": ("organization_id", "device_id", "source", "disk", "volume"),
}
# Per query: a ClickHouse parameter has at most 128 KiB, and an id takes 39 bytes.
_DEVICES_AT_ONCE = 1_000
_SCHEMA = pa.schema(
    dict.fromkeys(("organization_id", "device_id", "kind", "name"), pa.string()) | {"seen_on": pa.date32()}
)

Device = tuple[str, str]
Name = tuple[str, str]  # kind, and what the device calls it


class Series:
    """The names in use by the devices that a drain has seen, and which new ones it accepts."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse
        self._known: dict[Device, dict[Name, date]] = {}

    def refused(self, tables: Mapping[Named, pa.Table], now: datetime) -> dict[Named, list[int]]:
        """The rows of counters and volumes whose names are beyond their device's limit.

        Accepted names are recorded first. Dying after that: the message is redelivered and finds its own names
        accepted, and what was refused is refused again. Two drains at once may each accept a device's last names, so
        that it exceeds the limit; later drains accept no more.
        """
        today = now.date()
        distinct = {kind: _names(kind, _distinct(kind, table)) for kind, table in tables.items()}
        self._load({device for names in distinct.values() for device, _ in names}, today)
        fresh = [one for names in distinct.values() for one in admit(names, self._known, today)]
        self._clickhouse.insert("device_series", _table(fresh, today))
        for device, name in fresh:
            self._known[device][name] = today
        return {kind: self._without_room(kind, tables[kind], names) for kind, names in distinct.items()}

    def _without_room(self, kind: Named, table: pa.Table, distinct: Iterable[tuple[Device, Name]]) -> list[int]:
        if all(name in self._known[device] for device, name in distinct):
            return []
        return [at for at, (device, name) in enumerate(_names(kind, table)) if name not in self._known[device]]

    def _load(self, devices: set[Device], today: date) -> None:
        missing = sorted(devices - self._known.keys())
        for first in range(0, len(missing), _DEVICES_AT_ONCE):
            some = missing[first : first + _DEVICES_AT_ONCE]
            ids = {"organizations": sorted({one for one, _ in some}), "devices": [one for _, one in some]}
            rows = self._clickhouse.rows(sql("ingest/device_series"), since=today - KEPT, **ids)
            self._known.update((device, {}) for device in some)
            for row in rows:
                names = self._known.setdefault((str(row["organization_id"]), str(row["device_id"])), {})
                names[row["kind"], row["name"]] = row["seen_on"]


def admit(
    names: Iterable[tuple[Device, Name]], known: Mapping[Device, Mapping[Name, date]], today: date
) -> Iterator[tuple[Device, Name]]:
    """The names to record, in order of arrival: known names not yet seen today, and new ones while there is room.

    All names are of one kind.
    """
    room: dict[Device, int] = {}
    for device, name in names:
        seen_on = known[device].get(name)
        if seen_on is None:
            if device not in room:
                room[device] = MAX_NAMES - sum(kind == name[0] for kind, _ in known[device])
            room[device] -= 1
        if (seen_on is None and room[device] >= 0) or (seen_on is not None and seen_on < today):
            yield device, name


def _distinct(kind: Named, table: pa.Table) -> pa.Table:
    """Each name once, in order of arrival."""
    rows = table.select(_KEYS[kind]).append_column("row", pa.array(range(len(table)), pa.int64()))
    return rows.group_by(_KEYS[kind], use_threads=False).aggregate([("row", "min")]).sort_by("row_min")


def _names(kind: Named, table: pa.Table) -> Sequence[tuple[Device, Name]]:
    organizations, devices, *parts = (table[name].to_pylist() for name in _KEYS[kind])
    texts = map("\t".join, zip(*parts, strict=True))  # no name may contain a tab
    return [
        ((organization, device), (kind, text))
        for organization, device, text in zip(organizations, devices, texts, strict=True)
    ]


def _table(fresh: Sequence[tuple[Device, Name]], today: date) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"organization_id": device[0], "device_id": device[1], "kind": kind, "name": name, "seen_on": today}
        for device, (kind, name) in fresh
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)
