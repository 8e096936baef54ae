"""What the messages of other agents than ours have in common: entries, each of which is at most one reading of a host.

Which of their names is which of our fields stands in the table of each format, beside its reader.
"""

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ninjait_pipelines.ingest.decode import contract as rules
from ninjait_pipelines.ingest.decode.parts import Number
from ninjait_pipelines.ingest.decode.volumes import Place

# Of a message, unpacked: RabbitMQ 4 takes no larger ones. Batches of a thousand lines with long tags are beyond a MiB.
MAX_BYTES = 16 * 1024 * 1024
MAX_ENTRIES = 100_000
MEBIBYTE = 1024 * 1024
_MAX_BYTES_OF_VOLUME = 2.0**63
_GZIP = b"\x1f\x8b"
BYTE_ORDER_MARK = "\ufeff".encode()


class Target(msgspec.Struct, frozen=True):
    """Our field for a value of theirs, and how it becomes ours; the conversion raises Refused."""

    field: str
    convert: rules.Rule


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What an entry says. Nothing has been checked; without `values` there is nothing in it for us.

    `time` is in milliseconds since 1970, None where there is none that could be read; `unknown` counts the values that
    have no target. `interface` makes the values counters, `place` those of a volume. `core` is the number of the core
    that they are of, or ALL_CORES; `state` is one of the amounts that make a total together, and which one.
    `measurement` and `example`, one of its values' names, say what it was if it is left out; both are empty for a
    comment, of which nothing is. `source` is who counts these bytes, where it is not the format's.
    """

    unknown: int = 0
    host: Any = None
    time: int | None = None
    values: Sequence[tuple[Target, Any]] = ()
    interface: Any = None
    place: Place | None = None
    core: Number | None = None
    state: tuple[str, Any] | None = None
    measurement: str = ""
    example: str = ""
    source: str = ""

    def shown(self) -> dict[str, Any]:
        """Its parts by the names that rejections use."""
        ours = {target.field: value for target, value in self.values}
        volume = self.place.volume if self.place else None
        return {"host": self.host, "time": self.time, "interface": self.interface, "volume": volume} | ours


class Format(msgspec.Struct, frozen=True):
    """A format: text to entries, an entry to its reading, some entries to a text of their own, and an entry as shown;
    `source` is the agent that writes it.

    `entries` and `read` raise Refused, for the message and for the entry.
    """

    entries: Callable[[str], Sequence[Any]]
    read: Callable[[Any], Reading]
    join: Callable[[Sequence[Any]], bytes]
    shown: Callable[[Any], Any]
    source: str
    forms: frozenset[str]


def text_of(body: bytes) -> str:
    """The body as text. Raises ContractViolation and UnicodeDecodeError."""
    return unpacked(body).decode()


def unpacked(body: bytes) -> bytes:
    """The body, unpacked if it is packed by gzip: no text begins like that, whatever the message says of it. Without
    the byte order mark that Windows' tools write before it. Raises ContractViolation.
    """
    if body.startswith(_GZIP):
        packed = zlib.decompressobj(wbits=31)
        try:
            body = packed.decompress(body, MAX_BYTES + 1)
        except zlib.error:
            raise rules.ContractViolation("bad_gzip") from None
        if len(body) > MAX_BYTES:
            raise rules.ContractViolation("too_large")
        if packed.unused_data or not packed.eof:
            raise rules.ContractViolation("bad_gzip")
    return body.removeprefix(BYTE_ORDER_MARK)


def size_of(body: bytes) -> int:
    """How many bytes it has unpacked, by gzip's own word, which is checked when it is unpacked."""
    return min(int.from_bytes(body[-4:], "little"), MAX_BYTES) if body.startswith(_GZIP) else len(body)


def counted(entries: Sequence[Any]) -> Sequence[Any]:
    """The entries, if a message may have so many."""
    if len(entries) > MAX_ENTRIES:
        raise rules.ContractViolation("too_many_readings")
    return entries


def mebibytes(value: Any) -> float:
    """Bytes of memory, as MiB."""
    if type(value) is int and 0 <= value <= rules.MAX_NUMBER:  # nearly all; asking the rule takes three times as long
        return value / MEBIBYTE
    return rules.number(value) / MEBIBYTE


def bytes_of_volume(value: Any) -> float:
    """Bytes of a volume, as MiB; there are volumes of petabytes."""
    if type(value) is int and 0 <= value <= rules.MAX_NUMBER:
        return value / MEBIBYTE
    return rules.number(value, _MAX_BYTES_OF_VOLUME) / MEBIBYTE


def idle(value: Any) -> float:
    """The busy part of a percentage of idle time."""
    return 100 - rules.percent(value)


_floats = msgspec.json.Decoder(list[float]).decode
# What rules make of numbers that are neither negative nor beyond this, a column at once.
_AT_ONCE: dict[rules.Rule, tuple[float, Callable[[list[float]], list[float]]]] = {
    rules.percent: (100, list),
    idle: (100, lambda values: [100 - value for value in values]),
    mebibytes: (rules.MAX_NUMBER, lambda values: [value / MEBIBYTE for value in values]),
    bytes_of_volume: (rules.MAX_NUMBER, lambda values: [value / MEBIBYTE for value in values]),
    rules.counter: (rules.MAX_NUMBER, list),
}


def converted(rule: rules.Rule, texts: Sequence[str]) -> list[float]:
    """What a rule makes of numbers as line protocol writes them, with `i` behind an integer. Raises ValueError.

    Nearly all columns are plain, and take a fifth of the time at once.
    """
    text = ",".join(texts)
    if rule in _AT_ONCE and "-" not in text and (rule is not rules.counter or text.count("i") == len(texts)):
        most, convert = _AT_ONCE[rule]
        with suppress(msgspec.DecodeError):  # what is no JSON, as 007 is none, may be a number all the same
            values = _floats(f"[{text.replace('i', '')}]")
            if max(values) <= most:
                return convert(values)
    return [rule(int(one[:-1]) if one[-1] == "i" else float(one)) for one in texts]


CPU, CPU_IDLE = Target("cpu", rules.percent), Target("cpu", idle)
MEMORY, MEMORY_TOTAL = Target("memory", mebibytes), Target("memory_total", mebibytes)
UPTIME = Target("uptime", rules.number)
BYTES_IN, BYTES_OUT = Target("network_in", rules.counter), Target("network_out", rules.counter)
USED, TOTAL, FREE = (Target(name, bytes_of_volume) for name in ("used", "total", "free"))
