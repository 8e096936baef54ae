"""Telegraf's line protocol: the whole grammar is read strictly, what we know of it is taken.

No library: the one that is kept well reads a single line, in C, on bytes that anyone may send. Strings may hold
newlines, so where a line ends has to be known by whoever cuts the message into lines.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import islice, product
from typing import Any

import msgspec
import re2

from ninjait_pipelines.ingest.decode import contract as rules
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
    counted,
)
from ninjait_pipelines.ingest.decode.volumes import Place, drive_of, place_of

Formula = Callable[..., float | None]


class Derived(msgspec.Struct, frozen=True):
    """One of our fields where its own is not sent: what other fields of the line say of it, None where they do not."""

    target: Target
    sources: tuple[str, ...]
    formula: Formula


class Kind(msgspec.Struct, frozen=True):
    """What is taken of a line: field -> ours, the last one wins; then what follows from others, the first one wins."""

    known: Mapping[str, Target]
    derived: Sequence[Derived] = ()


def _rest(whole: float, part: float) -> float:
    return whole - part


def _share(whole: float, percent: float) -> float | None:
    return whole * rules.percent(percent) / 100


def _other_share(whole: float, percent: float) -> float | None:
    return whole * (100 - rules.percent(percent)) / 100


def _whole(part: float, percent: float) -> float | None:
    percent = rules.percent(percent)
    return part * 100 / percent if percent else None


def _rest_of_whole(part: float, percent: float) -> float | None:
    percent = rules.percent(percent)
    return part * (100 - percent) / percent if percent else None


def _spellings(*counters: str) -> list[tuple[str, ...]]:
    """Windows' counters by the names that Telegraf's versions and processors give them, each way for all of them."""
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
        Derived(MEMORY, ("total", "available"), _rest),
        Derived(MEMORY, ("total", "available_percent"), _other_share),
        Derived(MEMORY, ("total", "used_percent"), _share),
        Derived(MEMORY, ("available", "available_percent"), _rest_of_whole),
        Derived(MEMORY_TOTAL, ("used", "used_percent"), _whole),
        Derived(MEMORY_TOTAL, ("available", "available_percent"), _whole),
    ),
)
# As df has it, used_percent is of what people may use: of used + free.
DISK = Kind(
    {"used": USED, "total": TOTAL, "free": FREE},
    (Derived(USED, ("free", "used_percent"), lambda free, percent: _rest_of_whole(free, 100 - percent)),),
)
NET = Kind({"bytes_recv": BYTES_IN, "bytes_sent": BYTES_OUT})
SYSTEM = Kind({"uptime": UPTIME})
WINDOWS_CPU = Kind(_counter("% Idle Time", CPU_IDLE) | _counter("% Processor Time", CPU))
WINDOWS_DISK = Kind(
    _counter("Free Megabytes", Target("free", rules.number)),
    tuple(
        Derived(Target(field, rules.number), sources, formula)
        for field, formula in (("total", _whole), ("used", _rest_of_whole))
        for sources in _spellings("Free Megabytes", "% Free Space")
    ),
)
# What Windows gives are rates. With `UseRawValues = true` Telegraf also sends the counters that they are made from.
WINDOWS_NET = Kind(_counter("Bytes Received/sec_Raw", BYTES_IN) | _counter("Bytes Sent/sec_Raw", BYTES_OUT))
WINDOWS_SYSTEM = Kind(_counter("System Up Time", UPTIME))
KINDS = (CPU_TIMES, MEM, DISK, NET, SYSTEM, WINDOWS_CPU, WINDOWS_DISK, WINDOWS_NET, WINDOWS_SYSTEM)
# Which of Windows' objects a measurement is of, where no tag says it: measurements are named as one likes.
_WINDOWS_OBJECTS = {"win_cpu": "processor", "win_disk": "logicaldisk", "win_net": "network interface"}
_WINDOWS_OBJECTS |= {"win_system": "system"}
_CORE = re.compile(r"(?:cpu)?(\d{1,6})|(\d{1,6}),(\d{1,6})", re.ASCII)

# A backslash escapes what would end the name and is itself otherwise. Names and strings are never taken back (the `+`
# after a quantifier): a line has one meaning, and a bad one is known for bad as soon as it has been read once.
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
# Nearly every message is plain: all of it is ASCII, its times have 19 digits, no string holds what would cut it. RE2
# sees that in half the time of Python's re, and without Python's lock; then cutting at spaces and commas is reading.
# Whether a key is one is looked at once for all the lines that have it, and remembered if it is short.
_PLAIN_KEY = r"(?:[!\"$-+\--\[\]-~]|\\+[ !-\[\]-~])(?:[!-\[\]-~]|\\+[ !-\[\]-~])*"
_PLAIN_VALUE = (
    r"-?[0-9]{1,19}i|[0-9]{1,20}u|-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
    r'|true|True|TRUE|false|False|FALSE|[tTfF]|"[ !#-<>-\[\]-~]*"'
)
_PLAIN_FIELD = rf"[!#-+\--<>-\[\]-~]+=(?:{_PLAIN_VALUE})"
_PLAIN = re2.compile(rf"(?:{_PLAIN_KEY} {_PLAIN_FIELD}(?:,{_PLAIN_FIELD})* [0-9]{{19}}\n)+")
_MAX_REMEMBERED = 300
_NO_LINE = re.compile(r"[ \t\r\ufeff]*+(?:#|\n|\Z)")
# Whatever string a bad line left open ends here, and what follows it makes that line bad again.
_GUARD = '#"!\n'
_ESCAPED_NAME = re.compile(r"\\([,= ])")
_ESCAPED_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_STRING = re.compile(r'\\(["\\])')
NANOSECONDS = 1_000_000
TELEGRAF = "telegraf"

Line = re.Match[str]
PlainLine = tuple[int, int, int]  # its number, where its key ends, and where its fields do


class Series(msgspec.Struct, frozen=True, gc=False):
    """What the key of a line says: whose it is and of which part of the device, and what is taken of its fields.

    The names of the fields, in `known` and `derived`, are between a comma and an equals sign.
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
    """The lines, and what is none: comments, blank lines, bad lines."""
    found = counted(list(islice(_ENTRY.finditer(text), MAX_ENTRIES + 1)))
    if not any(line[1] for line in found):
        raise ContractViolation("not_line_protocol")
    return found


def plain(body: bytes) -> str:
    """The text, if every line of it is plain; else none."""
    return body.decode() if _PLAIN.fullmatch(body) else ""


def lines_by_key(text: str) -> dict[str, list[PlainLine]]:
    """The lines of a plain text. Their places in it: to copy them would take longer than to read them."""
    found: defaultdict[str, list[PlainLine]] = defaultdict(list)
    find, start, number, size = text.index, 0, 0, len(text)
    while start < size:
        space = find(" ", start)
        while text[space - 1] == "\\":  # a space behind a backslash is part of a name
            space = find(" ", space + 1)
        end = find("\n", space)
        found[text[start:space]].append((number, space, end - 20))
        start, number = end + 1, number + 1
    return found


def times_at(text: str, ends: Iterable[int]) -> list[int]:
    """The times, in milliseconds since 1970, of the lines whose fields end there."""
    return [int(text[end + 1 : end + 14]) for end in ends]


def first_name(text: str, line: PlainLine) -> str:
    """The name of the line's first field."""
    return text[line[1] + 1 : text.index("=", line[1])]


def values_at(text: str, name: str, spaces: Iterable[int], ends: Iterable[int]) -> list[str]:
    """The text of a field (see `Series` for its name) in each of some lines: the last one, where it is there twice; ""
    where it is not there."""
    found: list[str] = []
    find, find_last, add, size, bare = text.find, text.rfind, found.append, len(name), name[1:]
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
    return found


def read(line: Line) -> Reading:
    """What a line says, if it is of something that we know."""
    if not line[1]:
        if _NO_LINE.match(line[0]):
            return Reading()
        raise ContractViolation("bad_line")
    measurement, tags, fields, time = parts(line)
    found = _series_of(measurement, tags)
    texts = {f",{name}=": text for name, text in fields}
    values = [(target, value_of(texts[name])) for name, target in found.known if name in texts]
    names = {name for name, _ in found.known if name in texts}
    for target, value, sources in derived(found, {target.field for target, _ in values}, _numbers_of(texts)):
        values.append((target, value))
        names.update(sources)
    time = None if time is None else time // NANOSECONDS
    unknown = len(fields) - len(names)
    return Reading(
        unknown,
        found.host,
        time,
        values,
        found.interface,
        found.place,
        found.core,
        measurement=measurement,
        example=fields[0][0],
        source=found.source,
    )


def _numbers_of(texts: Mapping[str, str]) -> Callable[[str], float | None]:
    return lambda name: number_of(texts[name]) if name in texts else None


def derived(
    of: Series, there: Container[str], number: Callable[[str], float | None]
) -> Iterator[tuple[Target, float, tuple[str, ...]]]:
    """What follows from several fields of a line, and from which: of each of our fields that is not `there`, once.

    number: the value of a field, None where it is not sent or is none.
    """
    done: set[str] = set()
    for one in of.derived:
        if one.target.field in there or one.target.field in done:
            continue
        values = [number(name) for name in one.sources]
        result = None if None in values else _result_of(one, values)
        if result is not None:
            done.add(one.target.field)
            yield one.target, result, one.sources


def _result_of(one: Derived, values: Sequence[Any]) -> float | None:
    """What is computed of a percentage beyond its bounds, or makes no sense (less than nothing is in use), is None: it
    costs no field that was sent."""
    try:
        result = one.formula(*values)
        if result is not None:
            one.target.convert(result)
    except ContractViolation:
        return None
    return result


def series(key: str) -> Series:
    """What the key of a plain line says. Raises Refused where it is not one of a good line."""
    return (_series if len(key) <= _MAX_REMEMBERED else _series_of_key)(key)


def _series_of_key(key: str) -> Series:
    return _series_of(*_names(key))


_series = lru_cache(maxsize=1 << 16)(_series_of_key)


def _series_of(measurement: str, tags: Mapping[str, str]) -> Series:
    if measurement.startswith("win_"):
        of = tags.get("objectname", _WINDOWS_OBJECTS.get(measurement, "")).replace("_", " ").lower()
        read_tags = _OF_WINDOWS.get(of)
    else:
        read_tags = _OF_MEASUREMENT.get(measurement)
    found = read_tags(tags) if read_tags else None
    return msgspec.structs.replace(found or Series(tags.get("host")), measurement=measurement)


def _device(kind: Kind, tags: Mapping[str, str]) -> Series:
    return _made(kind, tags)


def _core(kind: Kind, name: str, tags: Mapping[str, str]) -> Series | None:
    core = _number_of_core(tags.get(name, ""))
    return None if core is None else _made(kind, tags, core=core)


def _interface(kind: Kind, name: str, tags: Mapping[str, str]) -> Series | None:
    if tags.get(name, "_Total") == "_Total":
        return None
    # Telegraf's `net` may count the same bytes, under other names: they are as two agents', which never add up.
    return _made(kind, tags, interface=tags[name], source="win_net" if kind is WINDOWS_NET else TELEGRAF)


def _volume(tags: Mapping[str, str]) -> Series | None:
    place = place_of(*(tags.get(name, "") for name in ("path", "device", "fstype"))) if "path" in tags else None
    return _made(DISK, tags, place=place) if place else None


def _drive(tags: Mapping[str, str]) -> Series | None:
    drive = drive_of(tags.get("instance", ""))
    return _made(WINDOWS_DISK, tags, place=Place(drive, drive)) if drive else None


def _number_of_core(name: str) -> Number | None:
    if name in ("cpu-total", "_Total"):
        return ALL_CORES
    found = _CORE.fullmatch(name)
    return tuple(int(number) for number in found.groups() if number is not None) if found else None


def _made(kind: Kind, tags: Mapping[str, str], **where: Any) -> Series:
    known = tuple((f",{name}=", target) for name, target in kind.known.items())
    more = tuple(Derived(one.target, tuple(f",{name}=" for name in one.sources), one.formula) for one in kind.derived)
    return Series(tags.get("host"), known=known, derived=more, **where)


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
    """What Telegraf calls our field."""
    return {name for kind in KINDS for name, target in kind.known.items() if target.field == field}


def parts(line: Line) -> tuple[str, dict[str, str], list[tuple[str, str]], int | None]:
    """Measurement, tags, the names and texts of the fields, nanoseconds since 1970. Raises Refused."""
    key, fields, time = line.group(1, 2, 3)
    texts = [(_unescaped(name), text) for name, text in _FIELD.findall(fields)]
    return *_names(key), texts, None if time is None else int(time)


def _names(key: str) -> tuple[str, dict[str, str]]:
    """Measurement and tags. Raises Refused."""
    found = _KEY.fullmatch(key)
    pairs = _TAG.findall(found[2]) if found else []
    tags = {_unescaped(name): _unescaped(value) for name, value in pairs}
    if not found or len(tags) < len(pairs):
        raise ContractViolation("bad_line")  # a tag named twice: nobody knows which one is meant
    return _unescaped(found[1], _ESCAPED_MEASUREMENT), tags


def join(lines: Sequence[Line]) -> bytes:
    """A message of these lines, each of which is read as it was, whatever stands beside it now."""
    texts = [line[0].removesuffix("\n") + ("" if line[1] else f"\n{_GUARD}") for line in lines]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts).encode()


def value_of(text: str) -> float | int | bool | str:
    """A field's value, of its text."""
    if text[0] == '"':
        return _unescaped(text[1:-1], _ESCAPED_STRING)
    if text[0] in "tTfF":
        return text[0] in "tT"
    return int(text[:-1]) if text[-1] in "iu" else float(text)


def number_of(text: str) -> float | None:
    """A field's number, of its text or of how that begins; None where it is none."""
    value = value_of(text)
    return value if type(value) in (int, float) else None  # type: ignore[return-value]


def _unescaped(text: str, escaped: re.Pattern[str] = _ESCAPED_NAME) -> str:
    return escaped.sub(r"\1", text) if "\\" in text else text


LINE_PROTOCOL = Format(
    entries, read, join, lambda line: line[0].removesuffix("\n"), TELEGRAF, frozenset({"line_protocol"})
)
