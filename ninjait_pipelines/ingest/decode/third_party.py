"""What third-party agents' formats share: a message has entries, each with at most one reading of a host.

How an agent's names map to our fields is in each format's module, beside its reader.
"""

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ninjait_pipelines import contract
from ninjait_pipelines.ingest.decode.parts import Number
from ninjait_pipelines.ingest.decode.volumes import Place

# The unpacked size of a message: RabbitMQ 4 accepts no larger ones. A thousand lines with long tags exceed 1 MiB.
MAX_BYTES = 16 * 1024 * 1024
MAX_ENTRIES = 100_000
MEBIBYTE = 1024 * 1024
_MAX_VOLUME_BYTES = 2.0**63
_GZIP = b"\x1f\x8b"
BYTE_ORDER_MARK = "\ufeff".encode()


class Target(msgspec.Struct, frozen=True):
    """Our field for one of their values, and its conversion, which raises ContractViolation."""

    field: str
    convert: contract.Rule


class Reading(msgspec.Struct, frozen=True, gc=False):
    """The content of an entry, not yet checked; without `values` nothing in it is stored directly.

    `time` is in milliseconds since 1970, None if absent or unreadable; `unknown` counts the values without a target.
    With an `interface` the values are counters, with a `place` they belong to a volume. `core` is the number of their
    core, or ALL_CORES. `state` is (name, amount) of one of the amounts that add up to a total. `measurement` and
    `example` (the name of one of its values) describe the entry if it is left out; both are empty for a comment.
    `source` is who counted the bytes if that differs from the format's `source`.
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
        """Its values by the field names that rejections use."""
        ours = {target.field: value for target, value in self.values}
        volume = self.place.volume if self.place else None
        return {"host": self.host, "time": self.time, "interface": self.interface, "volume": volume} | ours


class Format(msgspec.Struct, frozen=True):
    """A format: splits text into `entries`, `read`s an entry, `join`s entries to a body, and shows an entry to people.

    `entries` and `read` raise ContractViolation, for the message and for the entry. `source` is the agent that writes
    the format, `forms` are the names of the form (see forms.py) that its messages are expected to have. An agent that
    stamps the parts of one read (cores, states of memory) one by one does so within `one_read` milliseconds.
    """

    entries: Callable[[str], Sequence[Any]]
    read: Callable[[Any], Reading]
    join: Callable[[Sequence[Any]], bytes]
    shown: Callable[[Any], Any]
    source: str
    forms: frozenset[str]
    one_read: int = 0


def text_of(body: bytes) -> str:
    """The body as text. Raises ContractViolation and UnicodeDecodeError."""
    return unpacked(body).decode()


def unpacked(body: bytes) -> bytes:
    """The body, decompressed if it starts like gzip, which no text does, and without the byte order mark that Windows
    tools prepend. The content encoding that the message claims is ignored. Raises ContractViolation.
    """
    if body.startswith(_GZIP):
        packed = zlib.decompressobj(wbits=31)
        try:
            body = packed.decompress(body, MAX_BYTES + 1)
        except zlib.error:
            raise contract.ContractViolation("bad_gzip") from None
        if len(body) > MAX_BYTES:
            raise contract.ContractViolation("too_large")
        if packed.unused_data or not packed.eof:
            raise contract.ContractViolation("bad_gzip")
    return body.removeprefix(BYTE_ORDER_MARK)


def size_of(body: bytes) -> int:
    """The unpacked size in bytes, as gzip's trailer claims it; `unpacked` checks that."""
    return min(int.from_bytes(body[-4:], "little"), MAX_BYTES) if body.startswith(_GZIP) else len(body)


def limited(entries: Sequence[Any]) -> Sequence[Any]:
    """The entries. Raises ContractViolation if they are more than a message may have."""
    if len(entries) > MAX_ENTRIES:
        raise contract.ContractViolation("too_many_readings")
    return entries


def mebibytes(value: Any) -> float:
    """Bytes of memory, as MiB."""
    if type(value) is int and 0 <= value <= contract.MAX_NUMBER:  # nearly all; the rule takes three times as long
        return value / MEBIBYTE
    return contract.number(value) / MEBIBYTE


def bytes_of_volume(value: Any) -> float:
    """Bytes of a volume, as MiB. Volumes may have petabytes."""
    if type(value) is int and 0 <= value <= contract.MAX_NUMBER:
        return value / MEBIBYTE
    return contract.number(value, _MAX_VOLUME_BYTES) / MEBIBYTE


def idle(value: Any) -> float:
    """A percentage of idle time, as the percentage of busy time."""
    return 100 - contract.percent(value)


_floats = msgspec.json.Decoder(list[float]).decode
# rule -> (limit, the rule for a whole column of numbers from 0 to the limit)
_COLUMN_RULES: dict[contract.Rule, tuple[float, Callable[[list[float]], list[float]]]] = {
    contract.percent: (100, list),
    idle: (100, lambda values: [100 - value for value in values]),
    mebibytes: (contract.MAX_NUMBER, lambda values: [value / MEBIBYTE for value in values]),
    bytes_of_volume: (contract.MAX_NUMBER, lambda values: [value / MEBIBYTE for value in values]),
    contract.counter: (contract.MAX_NUMBER, list),
}


def converted(rule: contract.Rule, texts: Sequence[str]) -> list[float]:
    """A column of numbers in line protocol's spelling (integers end in `i`), converted by a rule. Raises ValueError.

    Nearly all columns can be converted as a whole, in a fifth of the time.
    """
    text = ",".join(texts)
    if rule in _COLUMN_RULES and "-" not in text and (rule is not contract.counter or text.count("i") == len(texts)):
        limit, convert = _COLUMN_RULES[rule]
        with suppress(msgspec.DecodeError):  # numbers that are not JSON, such as 007
            values = _floats(f"[{text.replace('i', '')}]")
            if max(values) <= limit:
                return convert(values)
    return [rule(int(text[:-1]) if text[-1] == "i" else float(text)) for text in texts]


CPU, CPU_IDLE = Target("cpu", contract.percent), Target("cpu", idle)
MEMORY, MEMORY_TOTAL = Target("memory", mebibytes), Target("memory_total", mebibytes)
UPTIME = Target("uptime", contract.number)
BYTES_IN, BYTES_OUT = Target("network_in", contract.counter), Target("network_out", contract.counter)
USED, TOTAL, FREE = (Target(name, bytes_of_volume) for name in ("used", "total", "free"))
