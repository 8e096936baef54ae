"""Arrow columns as InfluxDB's line protocol, one string per row.

Why not the client's Point: it creates a Python object and a string for every field of every row, which takes more than
ten times as long as encoding whole columns. Nothing here knows of a server.
"""

import re
from collections.abc import Mapping
from itertools import chain, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# Line protocol escapes three characters of a tag. It cannot represent an empty tag, a newline or a final backslash, and
# answers to queries lose carriage returns: these are written as %XX, so that every text is read back unchanged.
_ENCODED = ("%", "\\", "\r", "\n")
_ESCAPE = re.compile(r"%([0-9A-F]{2})?")
_EMPTY = "%"


def percent_encode(text: pa.Array) -> pa.Array:
    """Any text as a tag value that InfluxDB can store; `percent_decode` is the inverse."""
    for character in _ENCODED:
        text = pc.replace_substring(text, character, f"%{ord(character):02X}")
    return pc.if_else(pc.equal(text, ""), _EMPTY, text)


def percent_decode(tag: pa.Array) -> pa.Array:
    """The text that `percent_encode` was given. If no value has a %, which is usual, nothing is decoded."""
    if not pc.any(pc.match_substring(tag, "%")).as_py():
        return tag
    decoded = {value: _ESCAPE.sub(_character, value) for value in pc.unique(tag).to_pylist()}
    return pa.array([decoded[value] for value in tag.to_pylist()], pa.string())


def _character(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else ""


def escaped(tag: pa.Array) -> pa.Array:
    """A tag value, escaped for a line."""
    for character in (",", "=", " "):
        tag = pc.replace_substring(tag, character, f"\\{character}")
    return tag


def lines(measurement: str, tags: Mapping[str, pa.Array], fields: Mapping[str, pa.Array], time: pa.Array) -> pa.Array:
    """One line per row, with its newline; null fields are left out. Every row must have one that is not null.

    tags: name -> text (see `percent_encode`); fields: name -> float64; time: timestamp in microseconds, which is also
    the precision to specify in the request. Floats have the fewest digits that are read back as the same float.
    """
    parts: list[Any] = [measurement]
    for name, tag in sorted(tags.items()):  # as InfluxDB recommends, because it would have to sort them
        few = tag.dictionary_encode()  # many rows, few devices
        parts.append(pc.binary_join_element_wise(f",{name}=", escaped(few.dictionary), "").take(few.indices))
    texts = {name: pc.cast(column, pa.string()) for name, column in fields.items() if column.null_count < len(column)}
    if any(text.null_count for text in texts.values()):
        values = [pc.binary_join_element_wise(f"{name}=", text, "") for name, text in texts.items()]
        parts += [" ", pc.binary_join_element_wise(*values, ",", null_handling="skip")]
    else:
        separators = chain(" ", repeat(","))
        parts += [part for name, text in texts.items() for part in (f"{next(separators)}{name}=", text)]
    stamp = pc.cast(pc.cast(time, pa.int64()), pa.string())
    return pc.binary_join_element_wise(*parts, " ", stamp, "\n", "")


def as_buffer(encoded: pa.Array) -> memoryview:
    """All lines one after the other, as they are in memory, without a copy."""
    offsets, text = encoded.buffers()[1:]
    ends = memoryview(offsets).cast("i")[encoded.offset : encoded.offset + len(encoded) + 1] if offsets else [0]
    return memoryview(text)[ends[0] : ends[-1]] if text else memoryview(b"")
