"""The disk usage of a device, from readings of single volumes. Pure: tables in, tables out, no store.

The decoders accept fixed local volumes only. Each disk counts once, however often it is mounted. Volumes that share
space count its size once, and the usage of each:

- The volumes of one macOS container (disk3s1s1, disk3s5). Its sealed system volume, mounted as /, is ignored if the
  data volume is there too.
- The data sets of one ZFS pool, each of which reports its own usage plus the pool's free space as its size.
- Volumes without a disk (collectd's) that have the same free space to the byte: they share a pool, or are one file
  system mounted twice, in which case their usage is equal and counts once.

A device has one value per 5 minutes, from one agent: the last reading of each volume in that window or the one before,
so that a round of readings cut by a window's boundary is still complete. Wider windows are aggregated from these.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.metrics.counters import Readings
from ninjait_pipelines.metrics.coverage import MINUTES, minutes_of
from ninjait_pipelines.metrics.model import POINTS, WINDOWS
from ninjait_pipelines.metrics.windows import by_window, fill_columns

FIVE_MINUTES = timedelta(minutes=5)
DISK_FIELDS = ("disk_used", "disk_total", "disk_free")
VALUES = ("used", "total", "free")
_DEVICE = ("organization_id", "device_id")
_VOLUME = (*_DEVICE, "source", "disk", "volume")
# macOS's partitions, and snapshots of them: disk3s1s1 is one of disk3s1, in the container disk3.
_SLICE = re.compile(r"(?:/dev/)?(disk\d+)s(\d+)(s\d+)?")
_DATA = "System/Volumes/Data"
_ZFS = "zfs:"


class Volume(NamedTuple):
    """A volume in MiB; `disk` is "" if the agent does not report it."""

    disk: str
    volume: str
    used: float | None = None
    total: float | None = None
    free: float | None = None


def disk_of(volumes: Iterable[Volume]) -> tuple[float | None, float | None, float | None]:
    """(used, total, free) of all these volumes together, each disk once.

    The total or free space is None if it is unknown for any disk.
    """
    known = [_completed(volume) for volume in volumes]
    known = [volume for volume in known if any(value is not None for value in volume[2:])]
    with_data = any(_name(volume) == _DATA for volume in known)
    disks: defaultdict[Any, list[Volume]] = defaultdict(list)
    for volume in known:
        disks[_container(volume, with_data)].append(volume)
    found = [_of_container(parts) for parts in disks.values()]
    used = [part for part, _, _ in found if part is not None]
    totals, frees = ([part[at] for part in found] for at in (1, 2))
    return sum(used) if used else None, _all(totals), _all(frees)


def _completed(volume: Volume) -> Volume:
    """The volume with its third value computed from the other two. (collectd sends no total; what is reserved for root
    is then in none of the values.)"""
    used, total, free = volume.used, volume.total, volume.free
    if free is not None:
        used = max(total - free, 0.0) if used is None and total is not None else used
        total = used + free if total is None and used is not None else total
    return volume._replace(used=used, total=total)


def _name(volume: Volume) -> str:
    """The mount point; collectd writes `root` for / and - for any other slash."""
    name = volume.volume.strip("/").replace("-", "/")
    return "" if name == "root" else name


def _container(volume: Volume, with_data: bool) -> Any:
    """Identifies the disk, container or pool whose size the volume shares."""
    if found := _SLICE.fullmatch(volume.disk):
        return found[1], volume.total
    if not volume.disk and with_data and (_name(volume) == "" or _name(volume).startswith("System/Volumes/")):
        return _DATA
    if volume.disk.startswith(_ZFS):
        return volume.disk.split("/")[0]
    return volume.disk or (None, volume.free or volume.volume)


def _of_container(parts: Sequence[Volume]) -> tuple[float | None, float | None, float | None]:
    total, free = _most(part.total for part in parts), _most(part.free for part in parts)
    if any(_name(part) == _DATA for part in parts):
        parts = [part for part in parts if _name(part) != ""]
    elif all(_name(part) == "" and _is_snapshot(part) for part in parts) and total is not None and free is not None:
        return total - free, total, free  # only the sealed system volume is reported: use what is not free
    used: dict[Any, float] = {}
    for part in parts:
        if part.used is not None:
            key = _unsnapped(part.disk) or part.used
            used[key] = max(used.get(key, 0.0), part.used)
    in_use = sum(used.values()) if used else None
    is_pool = len(used) > 1 and not _SLICE.fullmatch(parts[0].disk)
    return in_use, in_use + free if is_pool and in_use is not None and free is not None else total, free


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _is_snapshot(volume: Volume) -> bool:
    return bool((found := _SLICE.fullmatch(volume.disk)) and found[3])


def _unsnapped(disk: str) -> str:
    found = _SLICE.fullmatch(disk)
    return f"{found[1]}s{found[2]}" if found else disk


def _all(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def disk_windows(readings: Iterable[pa.Table], every: timedelta) -> Readings:
    """Readings of volumes as windows of width `every`, at most 5 minutes, and their minutes.

    readings: in parts (schema VOLUMES), each with all readings of its devices, a device's in consecutive rows and a
    volume's in order of time.
    """
    found = [_readings_of(part, every) for part in readings if len(part)]
    windows = pa.concat_tables([WINDOWS.empty_table(), *(one.windows for one in found)])
    return Readings(windows, pa.concat_tables([MINUTES.empty_table(), *(one.minutes for one in found)]))


def _readings_of(readings: pa.Table, every: timedelta) -> Readings:
    instants = readings.group_by([*_DEVICE, "time"], use_threads=False).aggregate([])
    samples = by_window(instants, every).aggregate([([], "count_all")]).rename_columns([*_DEVICE, "time", "samples"])
    last = by_window(readings, every, _VOLUME).aggregate([(name, "last") for name in VALUES])
    rows = last.rename_columns([*_VOLUME, "time", *VALUES]).to_pylist()
    values = [_valued(of, every) for of in _by_device_and_hour(rows).values()]
    together = {key: value for found in values for key, value in found.items()}
    columns: dict[str, Any] = {name: samples[name] for name in (*_DEVICE, "time")}
    columns["samples"] = pc.cast(samples["samples"], pa.float64())
    keys = zip(*(columns[name].to_pylist() for name in (*_DEVICE, "time")), strict=True)
    for name, of in zip(DISK_FIELDS, zip(*(together.get(key, (None,) * 3) for key in keys), strict=True), strict=True):
        value = pa.array(of, pa.float64())
        columns |= {f"{name}_{aggregate}": value for aggregate in ("sum", "min", "max", "last")}
        columns[f"{name}_count"] = pc.cast(pc.is_valid(value), pa.float64())
    return Readings(fill_columns(pa.table(columns)), minutes_of(instants))


def _by_device_and_hour(rows: Sequence[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    found: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        hour = row["time"].replace(minute=0, second=0, microsecond=0)
        found[row["organization_id"], row["device_id"], hour].append(row)
    return found


def _valued(rows: Sequence[dict[str, Any]], every: timedelta) -> dict[Any, tuple[float | None, ...]]:
    """The value of each window in a device's hour, from the agent that covers the longest part of it; ties: the one
    with more windows, then the first by name. Before and after that part the next agent counts, as for counters."""
    by_source: defaultdict[str, defaultdict[Any, dict[Any, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        by_source[row["source"]][row["time"]][row["disk"], row["volume"]] = row
    found: dict[Any, tuple[float | None, ...]] = {}
    spans: list[tuple[datetime, datetime]] = []
    for _, windows in sorted(by_source.items(), key=lambda of: (min(of[1]) - max(of[1]), -len(of[1]), of[0])):
        for time, volumes in windows.items():
            if any(first <= time <= last for first, last in spans):
                continue
            whole = windows.get(time - every, {}) | volumes if every == FIVE_MINUTES else volumes
            key = rows[0]["organization_id"], rows[0]["device_id"], time
            found[key] = disk_of(Volume(*name, *(row[value] for value in VALUES)) for name, row in whole.items())
        spans.append((min(windows), max(windows)))
    return found


def with_disks(latest: pa.Table, volumes: pa.Table) -> pa.Table:
    """Devices' latest values (schema POINTS), with missing disk values computed from the last readings of volumes.

    volumes: one row per volume with its last values. If several agents report, the first by name counts.
    """
    by_device: defaultdict[Any, defaultdict[str, list[Volume]]] = defaultdict(lambda: defaultdict(list))
    for row in volumes.to_pylist():
        volume = Volume(*(row[name] for name in ("disk", "volume", *VALUES)))
        by_device[row["organization_id"], row["device_id"]][row["source"]].append(volume)
    points = latest.to_pylist()
    for point in points:
        sources = by_device.get((point["organization_id"], point["device_id"]))
        if sources and point["disk_used"] is None:
            point |= dict(zip(DISK_FIELDS, disk_of(sources[min(sources)]), strict=True))
    return pa.Table.from_pylist(points, schema=POINTS)
