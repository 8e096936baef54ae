"""collectd's JSON, as its amqp and write_http plugins write it: a list of value lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ninjait_pipelines.ingest.contract import MOST_NUMBER, Refused
from ninjait_pipelines.ingest.foreign import (
    BYTES_IN,
    BYTES_OUT,
    CPU,
    CPU_IDLE,
    DISK_USED,
    MEMORY,
    Format,
    Reading,
    Target,
    counted,
    is_loopback,
)

# (plugin, plugin_instance, type, type_instance) -> data source -> ours; an interface has any name. The cpu plugin says
# "percent" without an instance only where it adds up the cores.
TABLE: Mapping[tuple[str, str, str, str], Mapping[str, Target]] = {
    ("cpu", "", "percent", "idle"): {"value": CPU_IDLE},
    ("cpu", "", "percent", "active"): {"value": CPU},
    ("memory", "", "memory", "used"): {"value": MEMORY},
    ("df", "root", "df_complex", "used"): {"value": DISK_USED},
    ("interface", "*", "if_octets", ""): {"rx": BYTES_IN, "tx": BYTES_OUT},
}
_COUNTERS = {"counter", "derive"}
_TEXT = {str}


def entries(text: str) -> Sequence[Any]:
    """The value lists."""
    try:
        body = msgspec.json.decode(text)
    except ValueError:
        raise Refused("not_json") from None
    if not isinstance(body, list):
        raise Refused("not_a_list")
    if not body:
        raise Refused("no_samples")
    return counted(body)


def read(entry: Any) -> Reading:
    """What a value list says, if the table has it."""
    if not isinstance(entry, dict):
        raise Refused("not_an_object")
    names, values, types = entry.get("dsnames"), entry.get("values"), entry.get("dstypes")
    if not (isinstance(names, list) and isinstance(values, list) and isinstance(types, list)):
        raise Refused("bad_value_list")
    if not len(names) == len(values) == len(types) or not _TEXT.issuperset(map(type, names + types)):
        raise Refused("bad_value_list")
    plugin, instance = entry.get("plugin", ""), entry.get("plugin_instance", "")
    interface = None
    if plugin == "interface":
        interface = "" if instance is None else instance  # null names no interface, and is refused like no name
    try:
        what = (plugin, instance if interface is None else "*", entry.get("type", ""), entry.get("type_instance", ""))
        known = TABLE.get(what, {})
    except TypeError:  # a list or an object in the place of a name
        raise Refused("bad_value_list") from None
    if interface is not None and (is_loopback(interface) or not _COUNTERS.issuperset(types)):
        known = {}
    named, seconds = dict(zip(names, values, strict=True)), entry.get("time")
    taken = [(target, named[name]) for name, target in known.items() if named.get(name) is not None]
    if not taken:
        return _left_out(entry, names)
    time = round(seconds * 1000) if isinstance(seconds, int | float) and abs(seconds) < MOST_NUMBER else None
    return Reading(len(named) - len(taken), entry.get("host"), time, taken, interface)


def _left_out(entry: Mapping[str, Any], names: Sequence[str]) -> Reading:
    """A value list without anything for us, called plugin/type; where these are no names it is called nothing."""
    plugin, kind, example = (
        name if isinstance(name := entry.get(key), str) else "" for key in ("plugin", "type", "type_instance")
    )
    return Reading(len(names), entry.get("host"), measurement=f"{plugin}/{kind}", example=example or "".join(names[:1]))


COLLECTD = Format(entries, read, msgspec.json.encode, lambda entry: entry, "collectd")
