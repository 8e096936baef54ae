"""Arrow columns as InfluxDB's line protocol, a string a row.

Why not the client's own Point: it makes an object and a string for every field of every row in Python, which takes more
than ten times as long as encoding whole columns. Nothing here knows of a server.
"""

import re
from collections.abc import Mapping
from itertools import chain, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# Line protocol escapes three characters of a tag. It cannot hold an empty tag, a newline or a backslash at the end,
# and answers to queries lose a carriage return: these few are written as %XX, so that every text comes back as it was.
_UNHOLDABLE = ("%", "\\", "\r", "\n")
_HELD = re.compile(r"%([0-9A-F]{2})?")
_EMPTY = "%"


def held(text: pa.Array) -> pa.Array:
    """Any text as a tag value that InfluxDB can hold; `text_of` is its inverse."""
    for character in _UNHOLDABLE:
        text = pc.replace_substring(text, character, f"%{ord(character):02X}")
    return pc.if_else(pc.equal(text, ""), _EMPTY, text)


def text_of(tag: pa.Array) -> pa.Array:
    """What `held` was given. Few values have a %: only these are looked at one by one."""
    if not pc.any(pc.match_substring(tag, "%")).as_py():
        return tag
    unescaped = {value: _HELD.sub(_character, value) for value in pc.unique(tag).to_pylist()}
    return pa.array([unescaped[value] for value in tag.to_pylist()], pa.string())


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else ""


def escaped(tag: pa.Array) -> pa.Array:
    """A tag value as it stands in a line."""
    for character in (",", "=", " "):
        tag = pc.replace_substring(tag, character, f"\\{character}")
    return tag


def lines(measurement: str, tags: Mapping[str, pa.Array], fields: Mapping[str, pa.Array], time: pa.Array) -> pa.Array:
    """One line a row, its newline included; a field that is null is left out. Every row has one that is not.

    tags: name -> text (see `held`); fields: name -> float64; time: timestamp in microseconds, the precision to name to
    the server. Floats are written in the fewest digits that read back as the same float.
    """
    parts: list[Any] = [measurement]
    for name, tag in sorted(tags.items()):  # as InfluxDB advises: it need not sort them then
        few = tag.dictionary_encode()  # many rows, few devices
        parts.append(pc.binary_join_element_wise(f",{name}=", escaped(few.dictionary), "").take(few.indices))
    texts = {name: pc.cast(of, pa.string()) for name, of in fields.items() if of.null_count < len(of)}
    if any(of.null_count for of in texts.values()):
        values = [pc.binary_join_element_wise(f"{name}=", of, "") for name, of in texts.items()]
        parts += [" ", pc.binary_join_element_wise(*values, ",", null_handling="skip")]
    else:
        separators = chain(" ", repeat(","))
        parts += [part for name, of in texts.items() for part in (f"{next(separators)}{name}=", of)]
    stamp = pc.cast(pc.cast(time, pa.int64()), pa.string())
    return pc.binary_join_element_wise(*parts, " ", stamp, "\n", "")


def whole(encoded: pa.Array) -> memoryview:
    """All the lines as they stand in memory, one behind the other, without a copy."""
    offsets, text = encoded.buffers()[1:]
    ends = memoryview(offsets).cast("i")[encoded.offset : encoded.offset + len(encoded) + 1] if offsets else [0]
    return memoryview(text)[ends[0] : ends[-1]] if text else memoryview(b"")
