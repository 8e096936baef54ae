"""Telegraf's line protocol: the whole grammar is read strictly, what we know of it is taken.

No library: the one that is kept well reads a single line, in C, on bytes that anyone may send. Strings may hold
newlines, so where a line ends has to be known by whoever cuts the message into lines.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from ninjait_pipelines.ingest.contract import Refused
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
    reading,
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
_LINE = re.compile(
    rf"[ ]*+({_MEASUREMENT})((?:,{_NAME}={_NAME})*+)[ ]++({_NAME}={_VALUE}(?:,{_NAME}={_VALUE})*+)"
    r"(?:[ ]++(-?\d{1,19}))?+[ ]*+\r?(?:\n|\Z)",
    re.ASCII,
)
_NO_LINE = re.compile(r"[ \t\r]*+(?:#|\n|\Z)")
# Whatever string a bad line left open ends here, and what follows it makes that line bad again.
_GUARD = '#"!\n'
_ESCAPED_NAME = re.compile(r"\\([,= ])")
_ESCAPED_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_STRING = re.compile(r'\\(["\\])')
_NANOSECONDS = 1_000_000

Line = re.Match[str] | str


def entries(text: str) -> Sequence[Line]:
    """The lines, as matches; the text of what is none: comments, blank lines, bad lines."""
    found: list[Line] = []
    at = 0
    while at < len(text):
        line = _LINE.match(text, at)
        end = line.end() if line else (text.find("\n", at) + 1 or len(text))
        found.append(line or text[at:end].removesuffix("\n"))
        at = end
    if not any(isinstance(line, re.Match) for line in found):
        raise Refused("not_line_protocol")
    return counted(found)


def read(line: Line) -> Reading:
    """What a line says, if it is of a measurement that we know and of the whole device."""
    if isinstance(line, str):
        if _NO_LINE.match(line):
            return Reading()
        raise Refused("bad_line")
    measurement, tags, fields, time = parts(line)
    whole_device, known = TABLE.get(measurement, (None, {}))
    if not whole_device or not whole_device(tags):
        return Reading(unknown=len(fields))
    return reading(
        known,
        {name: value_of(text) if name in known else text for name, text in fields.items()},
        host=tags.get("host"),
        time=None if time is None else time // _NANOSECONDS,
        interface=tags["interface"] if measurement == "net" else None,
    )


def parts(line: re.Match[str]) -> tuple[str, dict[str, str], dict[str, str], int | None]:
    """Measurement, tags, the texts of the fields, nanoseconds since 1970. Raises Refused."""
    measurement, after, fields, time = line.groups()
    pairs, texts = _TAG.findall(after), dict(_FIELD.findall(fields))
    tags = dict(pairs)
    if "\\" in after or "\\" in fields:
        tags = {_unescaped(name): _unescaped(value) for name, value in pairs}
        texts = {_unescaped(name): text for name, text in texts.items()}
    if len(tags) < len(pairs):
        raise Refused("bad_line")  # a tag named twice: nobody knows which one is meant
    return _unescaped(measurement, _ESCAPED_MEASUREMENT), tags, texts, None if time is None else int(time)


def join(lines: Sequence[Line]) -> bytes:
    """A message of these lines, each of which is read as it was, whatever stands beside it now."""
    texts = [line[0] if isinstance(line, re.Match) else f"{line}\n{_GUARD}" for line in lines]
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


LINE_PROTOCOL = Format(entries, read, join)
