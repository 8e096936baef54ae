"""Telegraf's line protocol: the whole grammar is read strictly, what we know of it is taken.

No library: the one that is kept well reads a single line, in C, on bytes that anyone may send. Strings may hold
newlines, so where a line ends has to be known by whoever cuts the message into lines.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import islice

import msgspec

from ninjait_pipelines.ingest.contract import Refused
from ninjait_pipelines.ingest.foreign import (
    BYTES_IN,
    BYTES_OUT,
    CPU,
    CPU_IDLE,
    DISK_USED,
    MEMORY,
    MOST_ENTRIES,
    Format,
    Reading,
    Target,
    counted,
    is_loopback,
)

# measurement -> (which of its lines, by their tags, are of the whole device, field -> ours); later fields win
Table = Mapping[str, tuple[Callable[[Mapping[str, str]], bool], Mapping[str, Target]]]
TABLE: Table = {
    "cpu": (lambda tags: tags.get("cpu") == "cpu-total", {"usage_idle": CPU_IDLE, "usage_active": CPU}),
    "mem": (lambda tags: True, {"used": MEMORY}),
    "disk": (lambda tags: tags.get("path", "").lstrip("\\").upper() in ("/", "C:"), {"used": DISK_USED}),
    "net": (
        lambda tags: "interface" in tags and not is_loopback(tags["interface"]),
        {"bytes_recv": BYTES_IN, "bytes_sent": BYTES_OUT},
    ),
}

# A backslash escapes what would end the name and is itself otherwise. Names and strings are never taken back (the `+`
# after a quantifier): a line has one meaning, and a bad one is known for bad as soon as it has been read once.
_MEASUREMENT = r"(?![#, \n])[^, \n\\]*+(?:\\[, ]?+[^, \n\\]*+)*+"
_NAME = r"(?![,= \n])[^,= \n\\]*+(?:\\[,= ]?+[^,= \n\\]*+)*+"
_STRING = r'"[^"\\]*+(?:\\[\s\S][^"\\]*+)*+"'
_NUMBER = r"-?\d{1,19}i|\d{1,20}u|-?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?"
_VALUE = rf"(?:{_NUMBER}|true|True|TRUE|false|False|FALSE|[tTfF]|{_STRING})"
_TAG = re.compile(rf",({_NAME})=({_NAME})", re.ASCII)
_FIELD = re.compile(rf"({_NAME})=({_VALUE})", re.ASCII)
_KEY = re.compile(rf"({_MEASUREMENT})((?:,{_NAME}={_NAME})*+)", re.ASCII)
_STRICT = (
    rf"[ ]*+({_MEASUREMENT}(?:,{_NAME}={_NAME})*+)[ ]++({_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*+)"
    r"(?:[ ]++(-?\d{1,19}))?+[ ]*+\r?(?:\n|\Z)"
)
# Nearly every line is plain: its names are words, its values are numbers, its time has 19 digits. That is seen in a
# third of the time; whether its key is one is looked at once for all the lines that have it, and remembered. That is
# why its length is bounded, and why it is ASCII: all that can be remembered takes 100 MB at most.
_WORD_AND_NUMBER = r"\w++=-?\d{1,19}+(?:i|\.\d++)?+"
_PLAIN = (
    r"([!-[\]-~]{1,300}+(?:\\[ -[\]-~][!-[\]-~]{0,49}+){0,6}+)"
    rf" ({_WORD_AND_NUMBER}(?:,{_WORD_AND_NUMBER})*+) (\d{{19}})\n"
)
_ENTRY = re.compile(rf"{_PLAIN}|{_STRICT}|[^\n]*+\n|[^\n]++", re.ASCII)
_NO_LINE = re.compile(r"[ \t\r]*+(?:#|\n|\Z)")
# Whatever string a bad line left open ends here, and what follows it makes that line bad again.
_GUARD = '#"!\n'
_ESCAPED_NAME = re.compile(r"\\([,= ])")
_ESCAPED_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_STRING = re.compile(r'\\(["\\])')
_NANOSECONDS = 1_000_000

Line = re.Match[str]


class _Series(msgspec.Struct, frozen=True, gc=False):
    """What the key of a line says: whose it is, and which of its fields we take, by their names after a comma."""

    host: str | None = None
    interface: str | None = None
    known: tuple[tuple[str, Target], ...] = ()


_OTHER = _Series()


def entries(text: str) -> Sequence[Line]:
    """The lines, and what is none: comments, blank lines, bad lines."""
    found = counted(list(islice(_ENTRY.finditer(text), MOST_ENTRIES + 1)))
    if not any(map(_is_line, found)):
        raise Refused("not_line_protocol")
    return found


def read(line: Line) -> Reading:
    """What a line says, if it is of a measurement that we know and of the whole device."""
    key, fields, time = line.group(1, 2, 3)
    series = _series(key) if key else None
    if series is None:
        return _read_strictly(line)
    count = fields.count("=")
    if not series.known:
        return Reading(count)
    values: list[tuple[Target, float | int]] = []
    for name, target in series.known:
        _, found, after = f",{fields}".rpartition(name)
        if found:
            number = after.partition(",")[0]
            values.append((target, int(number[:-1]) if number[-1] == "i" else float(number)))
    return Reading(count - len(values), series.host, int(time) // _NANOSECONDS, values, series.interface)


def _read_strictly(line: Line) -> Reading:
    """Reads any line, and says of what is none that it is none."""
    if not _is_line(line):
        if _NO_LINE.match(line[0]):
            return Reading()
        raise Refused("bad_line")
    measurement, tags, fields, time = parts(line)
    series = _series_of(measurement, tags)
    texts = {f",{name}=": text for name, text in fields}
    values = [(target, value_of(texts[name])) for name, target in series.known if name in texts]
    time = None if time is None else time // _NANOSECONDS
    return Reading(len(fields) - len(values), series.host, time, values, series.interface)


@lru_cache(maxsize=1 << 16)
def _series(key: str) -> _Series | None:
    """What the key of a plain line says; None where it is not the key of a good line."""
    try:
        return _series_of(*_names(key))
    except Refused:
        return None


def _series_of(measurement: str, tags: Mapping[str, str]) -> _Series:
    whole_device, fields = TABLE.get(measurement, (None, {}))
    if not whole_device or not whole_device(tags):
        return _OTHER
    known = tuple((f",{name}=", target) for name, target in fields.items())
    return _Series(tags.get("host"), tags["interface"] if measurement == "net" else None, known)


def _is_line(line: Line) -> bool:
    return bool(line[4] or (line[1] and _KEY.fullmatch(line[1])))


def parts(line: Line) -> tuple[str, dict[str, str], list[tuple[str, str]], int | None]:
    """Measurement, tags, the names and texts of the fields, nanoseconds since 1970. Raises Refused."""
    key, fields, time = line.group(1, 2, 3) if line[1] else line.group(4, 5, 6)
    texts = [(_unescaped(name), text) for name, text in _FIELD.findall(fields)]
    return *_names(key), texts, None if time is None else int(time)


def _names(key: str) -> tuple[str, dict[str, str]]:
    """Measurement and tags. Raises Refused."""
    found = _KEY.fullmatch(key)
    pairs = _TAG.findall(found[2]) if found else []
    tags = {_unescaped(name): _unescaped(value) for name, value in pairs}
    if not found or len(tags) < len(pairs):
        raise Refused("bad_line")  # a tag named twice: nobody knows which one is meant
    return _unescaped(found[1], _ESCAPED_MEASUREMENT), tags


def join(lines: Sequence[Line]) -> bytes:
    """A message of these lines, each of which is read as it was, whatever stands beside it now."""
    texts = [line[0].removesuffix("\n") + ("" if _is_line(line) else f"\n{_GUARD}") for line in lines]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts).encode()


def value_of(text: str) -> float | int | bool | str:
    """A field's value, of its text."""
    if text[0] == '"':
        return _unescaped(text[1:-1], _ESCAPED_STRING)
    if text[0] in "tTfF":
        return text[0] in "tT"
    return int(text[:-1]) if text[-1] in "iu" else float(text)


def _unescaped(text: str, escaped: re.Pattern[str] = _ESCAPED_NAME) -> str:
    return escaped.sub(r"\1", text) if "\\" in text else text


LINE_PROTOCOL = Format(entries, read, join, lambda line: line[0].removesuffix("\n"))
