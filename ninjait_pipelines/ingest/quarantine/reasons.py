"""Why a copy is in quarantine, in a few kilobytes however much was refused. Pure.

260,000 bad lines came in 118 kB, and their reasons took 9,114 times as much. So of each kind (reason and field) there
is the exact number, which samples they were as a packed bitmap, and examples; of hosts that nobody knew, their names.
What was stored by 0.3.0, an entry for each refusal, is read as well.
"""

import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from bson import Binary

from ninjait_pipelines.ingest.decode.message import HOST_REASONS, Decoded

# The first ones of a copy; of each kind at least one, as far as there is room.
MAX_EXAMPLES = 20
MAX_EXAMPLE_BYTES = 8 * 1024
MAX_HOSTS = 1000
# The reason of a dead letter, and the words of those that an outage may have made: all others are their senders' own.
DEAD_LETTER = "dead_letter"
BY_A_STORE = re.compile(r"(Store(Unavailable|Refused|Failed)|OutOfSpace|TransferDamaged): ")
COUNTED_OUT = re.compile(r"delivered \d+ times and never settled")
_MAX_KINDS = 100
_SEPARATOR = "\0"


class Kind(msgspec.Struct):
    """So many refusals of one copy for one reason and field; `indexes` are those of the samples, `points` how many."""

    reason: str
    field: str | None
    count: int = 0
    points: int = 0
    indexes: Collection[int] = ()
    examples: list[tuple[int | None, str]] = []


class Entry(msgspec.Struct, frozen=True):
    """One refusal, of those that are kept as examples; index and field may be None."""

    index: Any
    field: Any
    value: str
    reason: str


def kinds(refusals: Iterable[tuple[int | None, str | None, str, str]]) -> list[Kind]:
    """Refusals (index, field, value, reason) by kind, in the order in which they came, with the examples that stay."""
    found: dict[tuple[str, str | None], Kind] = {}
    indexes: dict[tuple[str, str | None], set[int]] = {}
    kept = size = 0
    for index, field, value, reason in refusals:
        key = (reason, field) if (reason, field) in found or len(found) < _MAX_KINDS else ("others", None)
        kind = found.setdefault(key, Kind(*key))
        kind.count += 1
        if index is not None:
            indexes.setdefault(key, set()).add(index)
        if (kept < MAX_EXAMPLES or not kind.examples) and size + len(value) <= MAX_EXAMPLE_BYTES:
            kind.examples = [*kind.examples, (index, value)]
            kept, size = kept + 1, size + len(value.encode(errors="replace"))
    for key, of in indexes.items():
        found[key].indexes = of
    for kind in found.values():
        kind.points = len(kind.indexes) or 1
    return list(found.values())


def of_decoded(decoded: Decoded) -> list[Kind]:
    """The kinds of a message that was just decoded; where it is refused whole, each has all its points."""
    found = kinds((one.index, one.field, one.value, one.reason) for one in decoded.rejections)
    if decoded.whole:
        for kind in found:
            kind.points = decoded.points
    return found


def stored(found: Iterable[Kind]) -> list[dict[str, Any]]:
    """Kinds as a document keeps them."""
    return [
        {
            "reason": kind.reason,
            "field": kind.field,
            "count": kind.count,
            "points": kind.points,
            "indexes": Binary(_packed(kind.indexes)),
            "examples": [{"index": index, "value": value} for index, value in kind.examples],
        }
        for kind in found
    ]


def read(document: Mapping[str, Any]) -> list[Kind]:
    """The kinds of a document, also of one that 0.3.0 stored."""
    reasons = document["reasons"]
    if any("examples" not in one for one in reasons):
        found = kinds((one["index"], one["field"], one["value"], one["reason"]) for one in reasons)
        for kind in found if document.get("whole") else ():
            kind.points = document["points_quarantined"]
        return found
    return [
        Kind(
            one["reason"],
            one["field"],
            one["count"],
            one["points"],
            _unpacked(one["indexes"]),
            [(example["index"], example["value"]) for example in one["examples"]],
        )
        for one in reasons
    ]


def entries(found: Iterable[Kind]) -> list[Entry]:
    """The examples, in the order of the samples."""
    examples = [Entry(index, kind.field, value, kind.reason) for kind in found for index, value in kind.examples]
    return sorted(examples, key=lambda one: -1 if one.index is None else one.index)


def indexes_of(found: Iterable[Kind]) -> list[int]:
    """The samples that were refused, for whatever reason, in order."""
    return sorted({index for kind in found for index in kind.indexes})


def by_reason(found: Iterable[Kind]) -> dict[str, int]:
    """How many points were refused for each reason: a sample with two fields that are wrong counts once."""
    points: dict[str, int] = {}
    indexes: dict[str, set[int]] = {}
    for kind in found:
        if kind.indexes:
            indexes.setdefault(kind.reason, set()).update(kind.indexes)
        points[kind.reason] = len(indexes.get(kind.reason, ())) or kind.points
    return points


def hosts_of(decoded: Decoded) -> bytes | None:
    """The names of hosts that nobody knew, packed; None where there is none. They are looked up again later."""
    waiting = (one.value for one in decoded.rejections if one.reason in HOST_REASONS)
    names = list(dict.fromkeys(waiting))
    return pack_hosts(names) if names else None


def pack_hosts(names: Sequence[str]) -> bytes:
    """Names in one, as few as they may be."""
    return zlib.compress(_SEPARATOR.join(names[:MAX_HOSTS]).encode(errors="surrogatepass"))


def read_hosts(document: Mapping[str, Any]) -> Sequence[str]:
    """The same of a document: what `repr` gives for each."""
    if document.get("hosts") is None:
        return [one["value"] for one in document["reasons"] if one["reason"] in HOST_REASONS and "value" in one]
    return zlib.decompress(document["hosts"]).decode(errors="surrogatepass").split(_SEPARATOR)


def _packed(indexes: Collection[int]) -> bytes:
    bits = bytearray(max(indexes, default=-8) // 8 + 1)
    for index in indexes:
        bits[index // 8] |= 1 << index % 8
    return zlib.compress(bytes(bits)) if bits else b""


def _unpacked(packed: bytes) -> Collection[int]:
    bits = zlib.decompress(packed) if packed else b""
    return {8 * at + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1}


def words_of_dead_letter(document: Mapping[str, Any]) -> str:
    """What made a copy a dead letter, in the words of the drain or the broker; empty where it is none."""
    kinds = (kind for kind in read(document) if kind.reason == DEAD_LETTER)
    return next((value for kind in kinds for _, value in kind.examples), "")


def may_be_of_an_outage(document: Mapping[str, Any]) -> bool:
    """Whether a copy is a dead letter with which nothing may be wrong. One that expired is its sender's own doing."""
    words = words_of_dead_letter(document)
    return bool(BY_A_STORE.match(words) or COUNTED_OUT.match(words))
