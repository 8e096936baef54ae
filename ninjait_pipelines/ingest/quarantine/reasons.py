"""Why a message is in quarantine, in a few kilobytes however much of it was refused. Pure.

The reasons of 260,000 bad lines, which came in 118 kB, once took 9,114 times that. So each kind (reason and field) has
its exact count, a packed bitmap of the samples, and examples; unknown hosts are kept by name. What 0.3.0 stored, one
entry per refusal, is read as well.
"""

import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from bson import Binary

from ninjait_pipelines.ingest.decode.model import HOST_REASONS, Decoded

# The first refusals of a message, and at least one of each kind as far as there is room.
MAX_EXAMPLES = 20
MAX_EXAMPLE_BYTES = 8 * 1024
MAX_HOSTS = 1000
# The reason of a dead letter, and the explanations that an outage may have caused: all others are the senders' fault.
DEAD_LETTER = "dead_letter"
BY_A_STORE = re.compile(r"(Store(Unavailable|Refused|Failed)|OutOfSpace|TransferDamaged): ")
COUNTED_OUT = re.compile(r"delivered \d+ times and never settled")
_MAX_KINDS = 100
_SEPARATOR = "\0"


class Kind(msgspec.Struct):
    """The refusals of one message for one reason and field: `count` refusals of `points` points, `indexes` being the
    samples that were refused."""

    reason: str
    field: str | None
    count: int = 0
    points: int = 0
    indexes: Collection[int] = ()
    examples: list[tuple[int | None, str]] = []


class Entry(msgspec.Struct, frozen=True):
    """A refusal that is kept as an example; index and field may be None."""

    index: Any
    field: Any
    value: str
    reason: str


def kinds(refusals: Iterable[tuple[int | None, str | None, str, str]]) -> list[Kind]:
    """Groups refusals (index, field, value, reason) by kind, in the order in which they came, and keeps examples."""
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
    for key, samples in indexes.items():
        found[key].indexes = samples
    for kind in found.values():
        kind.points = len(kind.indexes) or 1
    return list(found.values())


def of_decoded(decoded: Decoded) -> list[Kind]:
    """The kinds of a message that was just decoded; if it is refused whole, each kind has all its points."""
    found = kinds((one.index, one.field, one.value, one.reason) for one in decoded.rejections)
    if decoded.whole:
        for kind in found:
            kind.points = decoded.points
    return found


def stored(found: Iterable[Kind]) -> list[dict[str, Any]]:
    """Kinds as a document stores them."""
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
    """The kinds of a document, including one that 0.3.0 stored."""
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
    """The samples that were refused for any reason, in order."""
    return sorted({index for kind in found for index in kind.indexes})


def by_reason(found: Iterable[Kind]) -> dict[str, int]:
    """How many points were refused per reason: a sample with two wrong fields counts once."""
    points: dict[str, int] = {}
    indexes: dict[str, set[int]] = {}
    for kind in found:
        if kind.indexes:
            indexes.setdefault(kind.reason, set()).update(kind.indexes)
        points[kind.reason] = len(indexes.get(kind.reason, ())) or kind.points
    return points


def hosts_of(decoded: Decoded) -> bytes | None:
    """The names of unknown hosts, packed, to be looked up again later; None if there are none."""
    waiting = (one.value for one in decoded.rejections if one.reason in HOST_REASONS)
    names = list(dict.fromkeys(waiting))
    return pack_hosts(names) if names else None


def pack_hosts(names: Sequence[str]) -> bytes:
    """Host names, MAX_HOSTS at most, as one compressed value."""
    return zlib.compress(_SEPARATOR.join(names[:MAX_HOSTS]).encode(errors="surrogatepass"))


def read_hosts(document: Mapping[str, Any]) -> Sequence[str]:
    """The names of unknown hosts in a document, each as `repr` writes it."""
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


def dead_letter_message(document: Mapping[str, Any]) -> str:
    """Why a message became a dead letter, as the drain or the broker reported it; empty if it is not one."""
    kinds = (kind for kind in read(document) if kind.reason == DEAD_LETTER)
    return next((value for kind in kinds for _, value in kind.examples), "")


def may_be_of_an_outage(document: Mapping[str, Any]) -> bool:
    """Whether a message is a dead letter that may be good. An expired one is not: its sender set the expiry."""
    message = dead_letter_message(document)
    return bool(BY_A_STORE.match(message) or COUNTED_OUT.match(message))
