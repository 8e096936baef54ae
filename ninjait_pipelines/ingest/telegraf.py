"""Telegraf's line protocol: the whole grammar is read strictly, what we know of it is taken.

No library: the one that is kept well reads a single line, in C, on bytes that anyone may send. Strings may hold
newlines, so where a line ends has to be known by whoever cuts the message into lines.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import islice

import msgspec
import re2

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
_NAME = r"(?=[^,= \n])[^,= \n\\]*+(?:\\[,= ]?+[^,= \n\\]*+)*+"
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
_MOST_REMEMBERED = 300
_NO_LINE = re.compile(r"[ \t\r]*+(?:#|\n|\Z)")
# Whatever string a bad line left open ends here, and what follows it makes that line bad again.
_GUARD = '#"!\n'
_ESCAPED_NAME = re.compile(r"\\([,= ])")
_ESCAPED_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_STRING = re.compile(r'\\(["\\])')
NANOSECONDS = 1_000_000

Line = re.Match[str]


class Series(msgspec.Struct, frozen=True, gc=False):
    """What the key of a line says: whose it is, and which of its fields we take, by their names after a comma."""

    host: str | None = None
    interface: str | None = None
    known: tuple[tuple[str, Target], ...] = ()
    measurement: str = ""


def entries(text: str) -> Sequence[Line]:
    """The lines, and what is none: comments, blank lines, bad lines."""
    found = counted(list(islice(_ENTRY.finditer(text), MOST_ENTRIES + 1)))
    if not any(line[1] for line in found):
        raise Refused("not_line_protocol")
    return found


def plain(text: str) -> list[str]:
    """The lines of a text in which every line is plain; none where any is not."""
    if not text.isascii() or not _PLAIN.fullmatch(text.encode()):
        return []
    return text[:-1].split("\n")


def cut(line: str) -> tuple[str, str, str]:
    """Key, fields (each after a comma) and time of a plain line."""
    end = line.index(" ")
    while line[end - 1] == "\\":  # a space behind a backslash is part of a name
        end = line.index(" ", end + 1)
    return line[:end], f",{line[end + 1 : -20]}", line[-19:]


def read(line: Line) -> Reading:
    """What a line says, if it is of a measurement that we know and of the whole device."""
    if not line[1]:
        if _NO_LINE.match(line[0]):
            return Reading()
        raise Refused("bad_line")
    measurement, tags, fields, time = parts(line)
    series = _series_of(measurement, tags)
    texts = {f",{name}=": text for name, text in fields}
    values = [(target, value_of(texts[name])) for name, target in series.known if name in texts]
    time = None if time is None else time // NANOSECONDS
    return Reading(
        len(fields) - len(values), series.host, time, values, series.interface, series.measurement, fields[0][0]
    )


def series(key: str) -> Series:
    """What the key of a plain line says. Raises Refused where it is not one of a good line."""
    return (_series if len(key) <= _MOST_REMEMBERED else _series_of_key)(key)


def _series_of_key(key: str) -> Series:
    return _series_of(*_names(key))


_series = lru_cache(maxsize=1 << 16)(_series_of_key)


def _series_of(measurement: str, tags: Mapping[str, str]) -> Series:
    whole_device, fields = TABLE.get(measurement, (None, {}))
    if not whole_device or not whole_device(tags):
        return Series(tags.get("host"), measurement=measurement)
    known = tuple((f",{name}=", target) for name, target in fields.items())
    return Series(tags.get("host"), tags["interface"] if measurement == "net" else None, known, measurement)


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
        raise Refused("bad_line")  # a tag named twice: nobody knows which one is meant
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


def _unescaped(text: str, escaped: re.Pattern[str] = _ESCAPED_NAME) -> str:
    return escaped.sub(r"\1", text) if "\\" in text else text


LINE_PROTOCOL = Format(entries, read, join, lambda line: line[0].removesuffix("\n"), "telegraf")
