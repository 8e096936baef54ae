"""The grammar of line protocol, read strictly. What Telegraf's fields mean is in telegraf.py.

Not a library's: the only well-maintained one parses single lines, in C, on bytes that anyone may send. Strings may
contain newlines, so splitting a message into lines already requires the grammar.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice

import re2

from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest.decode.third_party import (
    MAX_ENTRIES,
    limited,
)

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
_NO_LINE = re.compile(r"[ \t\r\ufeff]*+(?:#|\n|\Z)")
# Ends any string that a bad line left open, and makes that line bad again.
_GUARD = '#"!\n'
_ESCAPED_NAME = re.compile(r"\\([,= ])")
_ESCAPED_MEASUREMENT = re.compile(r"\\([, ])")
_ESCAPED_STRING = re.compile(r'\\(["\\])')
NANOSECONDS = 1_000_000
Line = re.Match[str]
PlainLine = tuple[int, int, int]  # (line number, position where its key ends, position where its fields end)


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


def parts(line: Line) -> tuple[str, dict[str, str], list[tuple[str, str]], int | None]:
    """(measurement, tags, [(field name, text)], nanoseconds since 1970) of a line. Raises ContractViolation."""
    key, fields, time = line.group(1, 2, 3)
    texts = [(_unescaped(name), text) for name, text in _FIELD.findall(fields)]
    return *split_key(key), texts, None if time is None else int(time)


def split_key(key: str) -> tuple[str, dict[str, str]]:
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


def is_blank_or_comment(line: Line) -> bool:
    """Whether an entry that is not a good line is not a bad one either."""
    return bool(_NO_LINE.match(line[0]))
