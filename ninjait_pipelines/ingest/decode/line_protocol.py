"""Telegraf's line protocol: strict about the whole grammar, takes the fields that we know.

Not a library's: the only well-maintained one parses single lines, in C, on bytes that anyone may send. Strings may
contain newlines, so whoever splits a message into lines must already understand the grammar.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice, product
from typing import Any

import msgspec
import re2

from ninjait_pipelines.ingest.decode import contract
from ninjait_pipelines.ingest.decode.contract import ContractViolation
from ninjait_pipelines.ingest.decode.parts import ALL_CORES, Number
from ninjait_pipelines.ingest.decode.third_party import (
    BYTES_IN,
    BYTES_OUT,
    CPU,
    CPU_IDLE,
    FREE,
    MAX_ENTRIES,
    MEMORY,
    MEMORY_TOTAL,
    TOTAL,
    UPTIME,
    USED,
    Format,
    Reading,
    Target,
    limited,
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

# A backslash escapes what would end the name, and is literal otherwise. The quantifiers are possessive (`++`, `*+`):
# without backtracking a line has one meaning, and a bad line is recognized in one pass.
_MEASUREMENT = r"(?![#, \n])[^, \n\\]*+(?:\\[, ]?+[^, \n\\]*+)*+"
_NAME = r"(?=[^,= \n])[^,= \n\\]*+(?:\\[,= ]?+[^,= \n\\]*+)*+"
_STRING = r'"[^"\\]*+(?:\\[\s\S][^"\\]*+)*+"'
_NUMBER = r"-?\d{1,19}i|\d{1,20}u|-?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?"
_VALUE = rf"(?:{_NUMBER}|true|True|TRUE|false|False|FALSE|[tTfF]|{_STRING})"
_TAG = re.compile(rf",({_NAME})=({_NAME})", re.ASCII)
_FIELD = re.compile(rf"({_NAME})=({_VALUE})", re.ASCII)
_KEY = re.compile(rf"({_MEASUREMENT})((?:,{_NAME}={_NAME})*+)", re.ASCII)
_STRICT = (
    rf"[ \ufeff]*+({_MEASUREMENT}(?:,{_NAME}={_NAME})*+)[ ]++({_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*+)"
    r"(?:[ ]++(-?\d{1,19}))?+[ ]*+\r?(?:\n|\Z)"
)
_ENTRY = re.compile(rf"{_STRICT}|[^\n]*+\n|[^\n]++", re.ASCII)
# Nearly every message is plain: ASCII, 19-digit times, and no string with a quote, an equals sign or a backslash. RE2
# checks that in half the time of Python's re and without the GIL; afterwards looking for spaces, names and commas is
# enough. A key is parsed once for all its lines, and cached if it is short.
_PLAIN_KEY = r"(?:[!\"$-+\--\[\]-~]|\\+[ !-\[\]-~])(?:[!-\[\]-~]|\\+[ !-\[\]-~])*"
_PLAIN_VALUE = (
    r"-?[0-9]{1,19}i|[0-9]{1,20}u|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
    r'|true|True|TRUE|false|False|FALSE|[tTfF]|"[ !#-<>-\[\]-~]*"'
)
_PLAIN_FIELD = rf"[!#-+\--<>-\[\]-~]+=(?:{_PLAIN_VALUE})"
_PLAIN = re2.compile(rf"(?:{_PLAIN_KEY} {_PLAIN_FIELD}(?:,{_PLAIN_FIELD})* [0-9]{{19}}\n)+")
_MAX_REMEMBERED = 300
_NO_LINE = re.compile(r"[ \t\r\ufeff]*+(?:#|\n|\Z)")
# Ends any string that a bad line left open, and makes that line bad again.
_GUARD = '#"!\n'
_ESCAPED_NAME = re.compile(r"\\([,= ])")
_ESCAPED_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_STRING = re.compile(r'\\(["\\])')
NANOSECONDS = 1_000_000
TELEGRAF = "telegraf"

Line = re.Match[str]
PlainLine = tuple[int, int, int]  # (line number, position where its key ends, position where its fields end)


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


def entries(text: str) -> Sequence[Line]:
    """The lines, including comments, blank lines and bad lines. Raises ContractViolation."""
    lines = limited(list(islice(_ENTRY.finditer(text), MAX_ENTRIES + 1)))
    if not any(line[1] for line in lines):
        raise ContractViolation("not_line_protocol")
    return lines


def plain(body: bytes) -> str:
    """The text if all its lines are plain, else ""."""
    return body.decode() if _PLAIN.fullmatch(body) else ""


def lines_by_key(text: str) -> dict[str, list[PlainLine]]:
    """The lines of a plain text, as positions: copying them would take longer than decoding them."""
    lines: defaultdict[str, list[PlainLine]] = defaultdict(list)
    find, start, number, size = text.index, 0, 0, len(text)
    while start < size:
        space = find(" ", start)
        while text[space - 1] == "\\":  # an escaped space is part of a name
            space = find(" ", space + 1)
        end = find("\n", space)
        lines[text[start:space]].append((number, space, end - 20))
        start, number = end + 1, number + 1
    return lines


def times_at(text: str, ends: Iterable[int]) -> list[int]:
    """The times, in milliseconds since 1970, of the lines whose fields end at these positions."""
    return [int(text[end + 1 : end + 14]) for end in ends]


def first_name(text: str, line: PlainLine) -> str:
    """The name of a line's first field."""
    return text[line[1] + 1 : text.index("=", line[1])]


def values_at(text: str, name: str, spaces: Iterable[int], ends: Iterable[int]) -> list[str]:
    """The text of a field (named as in `Series`) in each of these lines: the last if it is repeated, "" if absent."""
    values: list[str] = []
    find, find_last, add, size, bare = text.find, text.rfind, values.append, len(name), name[1:]
    for space, end in zip(spaces, ends, strict=True):
        at = find_last(name, space, end)
        if at < 0:
            if not text.startswith(bare, space + 1):
                add("")
                continue
            at = space
        at += size
        stop = find(",", at, end)
        add(text[at : stop if stop > 0 else end])
    return values


def read(line: Line) -> Reading:
    """A line as a reading, with the fields that we know. Raises ContractViolation."""
    if not line[1]:
        if _NO_LINE.match(line[0]):
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
    return (_series if len(key) <= _MAX_REMEMBERED else _series_of_key)(key)


def _series_of_key(key: str) -> Series:
    return _series_of(*_names(key))


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


def parts(line: Line) -> tuple[str, dict[str, str], list[tuple[str, str]], int | None]:
    """(measurement, tags, [(field name, text)], nanoseconds since 1970) of a line. Raises ContractViolation."""
    key, fields, time = line.group(1, 2, 3)
    texts = [(_unescaped(name), text) for name, text in _FIELD.findall(fields)]
    return *_names(key), texts, None if time is None else int(time)


def _names(key: str) -> tuple[str, dict[str, str]]:
    """(measurement, tags) of a key. Raises ContractViolation."""
    match = _KEY.fullmatch(key)
    pairs = _TAG.findall(match[2]) if match else []
    tags = {_unescaped(name): _unescaped(value) for name, value in pairs}
    if not match or len(tags) < len(pairs):
        raise ContractViolation("bad_line")  # a repeated tag is ambiguous
    return _unescaped(match[1], _ESCAPED_MEASUREMENT), tags


def join(lines: Sequence[Line]) -> bytes:
    """The body of a message with these lines. Each is read as before, whatever its neighbours are now."""
    texts = [line[0].removesuffix("\n") + ("" if line[1] else f"\n{_GUARD}") for line in lines]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts).encode()


def value_of(text: str) -> float | int | bool | str:
    """The value that a field's text stands for."""
    if text[0] == '"':
        return _unescaped(text[1:-1], _ESCAPED_STRING)
    if text[0] in "tTfF":
        return text[0] in "tT"
    return int(text[:-1]) if text[-1] in "iu" else float(text)


def number_of(text: str) -> float | None:
    """The number that a field's text stands for; None if it is not a number."""
    value = value_of(text)
    return value if type(value) in (int, float) else None  # type: ignore[return-value]


def _unescaped(text: str, escaped: re.Pattern[str] = _ESCAPED_NAME) -> str:
    return escaped.sub(r"\1", text) if "\\" in text else text


LINE_PROTOCOL = Format(
    entries, read, join, lambda line: line[0].removesuffix("\n"), TELEGRAF, frozenset({"line_protocol"})
)
