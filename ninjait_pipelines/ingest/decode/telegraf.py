"""What Telegraf's measurements, tags and fields mean, and which of them are taken."""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any

import msgspec

from ninjait_pipelines import contract
from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest.decode.line_protocol import (
    NANOSECONDS,
    Line,
    entries,
    is_blank_or_comment,
    join,
    number_of,
    parts,
    split_key,
    value_of,
)
from ninjait_pipelines.ingest.decode.parts import ALL_CORES, Number
from ninjait_pipelines.ingest.decode.third_party import (
    BYTES_IN,
    BYTES_OUT,
    CPU,
    CPU_IDLE,
    FREE,
    MEMORY,
    MEMORY_TOTAL,
    TOTAL,
    UPTIME,
    USED,
    Format,
    Reading,
    Target,
)
from ninjait_pipelines.ingest.decode.volumes import Place, drive_of, place_of

Formula = Callable[..., float | None]


class Derived(msgspec.Struct, frozen=True):
    """How to compute one of our fields from other fields of the line if it is not sent itself; None if impossible."""

    target: Target
    sources: tuple[str, ...]
    formula: Formula


class Kind(msgspec.Struct, frozen=True):
    """What is taken from a line: field -> our field, the last one wins; then derived fields, the first one wins."""

    known: Mapping[str, Target]
    derived: Sequence[Derived] = ()


def _difference(total: float, part: float) -> float:
    return total - part


def _part(total: float, percent: float) -> float | None:
    return total * contract.percent(percent) / 100


def _other_part(total: float, percent: float) -> float | None:
    return total * (100 - contract.percent(percent)) / 100


def _total(part: float, percent: float) -> float | None:
    percent = contract.percent(percent)
    return part * 100 / percent if percent else None


def _total_minus(part: float, percent: float) -> float | None:
    percent = contract.percent(percent)
    return part * (100 - percent) / percent if percent else None


def _spellings(*counters: str) -> list[tuple[str, ...]]:
    """The spellings of Windows counters across Telegraf's versions and processors; each tuple uses a single one."""
    ways = list(product(("Percent", "%"), ("_", " "), ("_persec", "/sec")))
    spelled = [
        tuple(name.replace("%", percent).replace(" ", space).replace("/sec", per) for name in counters)
        for percent, space, per in ways
    ]
    return list(dict.fromkeys(spelled))


def _counter(name: str, target: Target) -> dict[str, Target]:
    return dict.fromkeys((spelled for (spelled,) in _spellings(name)), target)


CPU_TIMES = Kind({"usage_idle": CPU_IDLE, "usage_active": CPU})
MEM = Kind(
    {"used": MEMORY, "total": MEMORY_TOTAL},
    (
        Derived(MEMORY, ("total", "available"), _difference),
        Derived(MEMORY, ("total", "available_percent"), _other_part),
        Derived(MEMORY, ("total", "used_percent"), _part),
        Derived(MEMORY, ("available", "available_percent"), _total_minus),
        Derived(MEMORY_TOTAL, ("used", "used_percent"), _total),
        Derived(MEMORY_TOTAL, ("available", "available_percent"), _total),
    ),
)
# As in df, used_percent relates to used + free, which is less than total.
DISK = Kind(
    {"used": USED, "total": TOTAL, "free": FREE},
    (Derived(USED, ("free", "used_percent"), lambda free, percent: _total_minus(free, 100 - percent)),),
)
NET = Kind({"bytes_recv": BYTES_IN, "bytes_sent": BYTES_OUT})
SYSTEM = Kind({"uptime": UPTIME})
WINDOWS_CPU = Kind(_counter("% Idle Time", CPU_IDLE) | _counter("% Processor Time", CPU))
WINDOWS_DISK = Kind(
    _counter("Free Megabytes", Target("free", contract.number)),
    tuple(
        Derived(Target(field, contract.number), sources, formula)
        for field, formula in (("total", _total), ("used", _total_minus))
        for sources in _spellings("Free Megabytes", "% Free Space")
    ),
)
# Windows reports rates. With `UseRawValues = true` Telegraf also sends the counters behind them.
WINDOWS_NET = Kind(_counter("Bytes Received/sec_Raw", BYTES_IN) | _counter("Bytes Sent/sec_Raw", BYTES_OUT))
WINDOWS_SYSTEM = Kind(_counter("System Up Time", UPTIME))
KINDS = (CPU_TIMES, MEM, DISK, NET, SYSTEM, WINDOWS_CPU, WINDOWS_DISK, WINDOWS_NET, WINDOWS_SYSTEM)
# The Windows object behind a measurement that has no tag `objectname`; users may name measurements as they like.
_WINDOWS_OBJECTS = {"win_cpu": "processor", "win_disk": "logicaldisk", "win_net": "network interface"}
_WINDOWS_OBJECTS |= {"win_system": "system"}
_CORE = re.compile(r"(?:cpu)?(\d{1,6})|(\d{1,6}),(\d{1,6})", re.ASCII)
_MAX_CACHED_KEY = 300
TELEGRAF = "telegraf"


class Series(msgspec.Struct, frozen=True, gc=False):
    """The meaning of a line's key: the host, the part of the device, and the fields to take.

    Field names in `known` and `derived` include the comma before and the equals sign after them.
    """

    host: str | None = None
    interface: str | None = None
    place: Place | None = None
    core: Number | None = None
    known: tuple[tuple[str, Target], ...] = ()
    derived: tuple[Derived, ...] = ()
    measurement: str = ""
    source: str = TELEGRAF


def read(line: Line) -> Reading:
    """A line as a reading, with the fields that we know. Raises ContractViolation."""
    if not line[1]:
        if is_blank_or_comment(line):
            return Reading()
        raise ContractViolation("bad_line")
    measurement, tags, fields, time = parts(line)
    series = _series_of(measurement, tags)
    texts = {f",{name}=": text for name, text in fields}
    values = [(target, value_of(texts[name])) for name, target in series.known if name in texts]
    names = {name for name, _ in series.known if name in texts}
    for target, value, sources in derived(series, {target.field for target, _ in values}, _numbers_of(texts)):
        values.append((target, value))
        names.update(sources)
    time = None if time is None else time // NANOSECONDS
    unknown = len(fields) - len(names)
    return Reading(
        unknown,
        series.host,
        time,
        values,
        series.interface,
        series.place,
        series.core,
        measurement=measurement,
        example=fields[0][0],
        source=series.source,
    )


def _numbers_of(texts: Mapping[str, str]) -> Callable[[str], float | None]:
    return lambda name: number_of(texts[name]) if name in texts else None


def derived(
    series: Series, present: Container[str], number: Callable[[str], float | None]
) -> Iterator[tuple[Target, float, tuple[str, ...]]]:
    """(our field, value, source fields) for each of our fields that is not present and can be computed from others.

    number: the numeric value of a field; None if it is absent or not a number.
    """
    done: set[str] = set()
    for derivation in series.derived:
        if derivation.target.field in present or derivation.target.field in done:
            continue
        values = [number(name) for name in derivation.sources]
        result = None if None in values else _result_of(derivation, values)
        if result is not None:
            done.add(derivation.target.field)
            yield derivation.target, result, derivation.sources


def _result_of(derivation: Derived, values: Sequence[Any]) -> float | None:
    """None for nonsense (a percentage out of range, less than nothing in use), so that it costs no field that was
    sent."""
    try:
        result = derivation.formula(*values)
        if result is not None:
            derivation.target.convert(result)
    except ContractViolation:
        return None
    return result


def series(key: str) -> Series:
    """The meaning of a plain line's key. Raises ContractViolation for a bad key."""
    return (_series if len(key) <= _MAX_CACHED_KEY else _series_of_key)(key)


def _series_of_key(key: str) -> Series:
    return _series_of(*split_key(key))


_series = lru_cache(maxsize=1 << 16)(_series_of_key)


def _series_of(measurement: str, tags: Mapping[str, str]) -> Series:
    if measurement.startswith("win_"):
        windows_object = tags.get("objectname", _WINDOWS_OBJECTS.get(measurement, "")).replace("_", " ").lower()
        read_tags = _OF_WINDOWS.get(windows_object)
    else:
        read_tags = _OF_MEASUREMENT.get(measurement)
    series = read_tags(tags) if read_tags else None
    return msgspec.structs.replace(series or Series(tags.get("host")), measurement=measurement)


def _device(kind: Kind, tags: Mapping[str, str]) -> Series:
    return _series_with(kind, tags)


def _core(kind: Kind, name: str, tags: Mapping[str, str]) -> Series | None:
    core = _number_of_core(tags.get(name, ""))
    return None if core is None else _series_with(kind, tags, core=core)


def _interface(kind: Kind, name: str, tags: Mapping[str, str]) -> Series | None:
    if tags.get(name, "_Total") == "_Total":
        return None
    # Telegraf's `net` may count the same bytes under other names. Like two agents', such readings are never added up.
    return _series_with(kind, tags, interface=tags[name], source="win_net" if kind is WINDOWS_NET else TELEGRAF)


def _volume(tags: Mapping[str, str]) -> Series | None:
    place = place_of(*(tags.get(name, "") for name in ("path", "device", "fstype"))) if "path" in tags else None
    return _series_with(DISK, tags, place=place) if place else None


def _drive(tags: Mapping[str, str]) -> Series | None:
    drive = drive_of(tags.get("instance", ""))
    return _series_with(WINDOWS_DISK, tags, place=Place(drive, drive)) if drive else None


def _number_of_core(name: str) -> Number | None:
    if name in ("cpu-total", "_Total"):
        return ALL_CORES
    match = _CORE.fullmatch(name)
    return tuple(int(number) for number in match.groups() if number is not None) if match else None


def _series_with(kind: Kind, tags: Mapping[str, str], **part_of_device: Any) -> Series:
    known = tuple((f",{name}=", target) for name, target in kind.known.items())
    derived = tuple(
        Derived(derivation.target, tuple(f",{name}=" for name in derivation.sources), derivation.formula)
        for derivation in kind.derived
    )
    return Series(tags.get("host"), known=known, derived=derived, **part_of_device)


_OF_MEASUREMENT: Mapping[str, Callable[[Mapping[str, str]], Series | None]] = {
    "cpu": partial(_core, CPU_TIMES, "cpu"),
    "mem": partial(_device, MEM),
    "disk": _volume,
    "net": partial(_interface, NET, "interface"),
    "system": partial(_device, SYSTEM),
}
_OF_WINDOWS: Mapping[str, Callable[[Mapping[str, str]], Series | None]] = {
    "processor": partial(_core, WINDOWS_CPU, "instance"),
    "processor information": partial(_core, WINDOWS_CPU, "instance"),
    "logicaldisk": _drive,
    "network interface": partial(_interface, WINDOWS_NET, "instance"),
    "network adapter": partial(_interface, WINDOWS_NET, "instance"),
    "system": partial(_device, WINDOWS_SYSTEM),
}


def names_of(field: str) -> set[str]:
    """Telegraf's names for our field."""
    return {name for kind in KINDS for name, target in kind.known.items() if target.field == field}


LINE_PROTOCOL = Format(
    entries, read, join, lambda line: line[0].removesuffix("\n"), TELEGRAF, frozenset({"line_protocol"})
)
