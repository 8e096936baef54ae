"""Reads collectd's JSON, a list of value lists, as its plugins amqp and write_http send it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ninjait_pipelines.contract import MAX_NUMBER, ContractViolation
from ninjait_pipelines.ingest.decode.parts import ALL_CORES, MEMORY_STATES, VOLUME_STATES, Number
from ninjait_pipelines.ingest.decode.third_party import (
    BYTES_IN,
    BYTES_OUT,
    CPU,
    CPU_IDLE,
    FREE,
    MAX_ENTRIES,
    MEMORY,
    UPTIME,
    USED,
    Format,
    Reading,
    Target,
    limited,
)
from ninjait_pipelines.ingest.decode.volumes import Place, place_of

# (plugin, type, type_instance) -> data source -> our field. plugin_instance names the core, volume or interface.
TABLE: Mapping[tuple[str, str, str], Mapping[str, Target]] = {
    ("cpu", "percent", "idle"): {"value": CPU_IDLE},
    ("cpu", "percent", "active"): {"value": CPU},
    ("aggregation", "percent", "idle"): {"value": CPU_IDLE},
    ("aggregation", "percent", "active"): {"value": CPU},
    ("memory", "memory", "used"): {"value": MEMORY},
    ("df", "df_complex", "used"): {"value": USED},
    ("df", "df_complex", "free"): {"value": FREE},
    ("interface", "if_octets", ""): {"rx": BYTES_IN, "tx": BYTES_OUT},
    ("uptime", "uptime", ""): {"value": UPTIME},
}
# A value list has about 16 commas, between its keys and in its lists of names, types and values.
_MAX_COMMAS = 20 * MAX_ENTRIES
_COUNTERS = {"counter", "derive"}
_TEXT = {str}
_NUMBER = re.compile(r"\d{1,6}", re.ASCII)
# How collectd's df spells the mount point /.
_ROOT = "root"
# NFS and SMB shares by device (ReportByDevice): nas:/export and //nas/share, with slashes or their substitutes.
_REMOTE = re.compile(r"[^/]+:[-_/]|--|__|//")
# Containers' layers and shared memory, recognizable only by the ends of their mount points.
_OF_CONTAINERS = re.compile(r".*-(?:merged|shm)", re.DOTALL)


def entries(text: str) -> Sequence[Any]:
    """The value lists. Raises ContractViolation."""
    if text.count(",") > _MAX_COMMAS:  # checked before parsing, which would take memory for all of them
        raise ContractViolation("too_many_readings")
    try:
        body = msgspec.json.decode(text)
    except ValueError:
        raise ContractViolation("not_json") from None
    if not isinstance(body, list):
        raise ContractViolation("not_a_list")
    if not body:
        raise ContractViolation("no_samples")
    return limited(body)


def read(entry: Any) -> Reading:
    """A value list as a reading, with the values that TABLE names. Raises ContractViolation."""
    if not isinstance(entry, dict):
        raise ContractViolation("not_an_object")
    names, values, types = entry.get("dsnames"), entry.get("values"), entry.get("dstypes")
    if not (isinstance(names, list) and isinstance(values, list) and isinstance(types, list)):
        raise ContractViolation("bad_value_list")
    if not len(names) == len(values) == len(types) or not _TEXT.issuperset(map(type, names + types)):
        raise ContractViolation("bad_value_list")
    named, seconds = dict(zip(names, values, strict=True)), entry.get("time")
    parts = [entry.get(name, "") for name in ("plugin", "type", "type_instance", "plugin_instance")]
    if any(isinstance(part, list | dict) for part in (parts[:3] if parts[0] == "interface" else parts)):
        raise ContractViolation("bad_value_list")
    plugin, kind, state, instance = parts
    targets, part_of_device = _meaning(plugin, kind, state, instance, types)
    values_taken = [(target, named[name]) for name, target in targets.items() if named.get(name) is not None]
    time = round(seconds * 1000) if isinstance(seconds, int | float) and abs(seconds) < MAX_NUMBER else None
    if "state" in part_of_device:
        part_of_device["state"] = (state, named.get("value"))
    plugin_name, type_name, example = (part if isinstance(part, str) else "" for part in parts[:3])
    part_of_device |= {"measurement": f"{plugin_name}/{type_name}", "example": example or "".join(names[:1])}
    return Reading(len(named) - len(values_taken), entry.get("host"), time, values_taken, **part_of_device)


def _meaning(
    plugin: Any, kind: Any, state: Any, instance: Any, types: Sequence[str]
) -> tuple[Mapping[str, Target], dict[str, Any]]:
    """(data source -> our field, the part of the device as fields of Reading) for a value list."""
    targets = TABLE.get((plugin, kind, state), {})
    if plugin == "interface":
        # null is no name: like the empty one, it is rejected later
        return (targets if _COUNTERS.issuperset(types) else {}), {"interface": "" if instance is None else instance}
    if plugin == "df" and kind == "df_complex" and state in VOLUME_STATES:
        place = _place_of(instance)
        return (targets, {"place": place, "state": state}) if place else ({}, {})
    if plugin == "memory" and kind == "memory" and state in MEMORY_STATES and instance == "":
        return targets, {"state": state}
    if plugin in ("cpu", "aggregation") and targets:
        core = _core_of(plugin, instance)
        return (targets, {"core": core}) if core is not None else ({}, {})
    return (targets if instance == "" else {}), {}


def _core_of(plugin: str, instance: Any) -> Number | None:
    """The core's number; None if it is unknown. The cpu plugin omits the instance only if it adds up all cores."""
    if plugin == "aggregation":
        return ALL_CORES if instance == "cpu-average" else None
    if instance == "":
        return ALL_CORES
    return (int(instance),) if isinstance(instance, str) and _NUMBER.fullmatch(instance) else None


def _place_of(instance: Any) -> Place | None:
    """A volume by its mount point, where collectd replaces slashes by dashes, or by its device (ReportByDevice)."""
    if not isinstance(instance, str) or not instance:
        return None
    if _OF_CONTAINERS.fullmatch(instance) or _REMOTE.match(instance):
        return None
    path = "/" if instance == _ROOT else "/" + instance.replace("-", "/")
    return Place("", instance) if place_of(path, instance) else None


def names_of(field: str) -> set[str]:
    """The data sources that hold our field."""
    return {name for targets in TABLE.values() for name, target in targets.items() if target.field == field}


COLLECTD = Format(
    entries,
    read,
    msgspec.json.encode,
    lambda entry: entry,
    "collectd",
    frozenset({"collectd_json", "json"}),
    one_read=100,  # collectd stamps a value list when it is dispatched: those of 64 cores are milliseconds apart
)
