"""What the messages of other agents than ours have in common: entries, each of which is at most one reading of a host.

Which of their names is which of our fields stands in the table of each format, beside its reader.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ninjait_pipelines.ingest import contract as rules

MOST_ENTRIES = 10_000
MEBIBYTE = 1024 * 1024
# What subtracting percentages from 100 may lose or gain.
_TOLERANCE = 1e-6
_GZIP = b"\x1f\x8b"


class Target(msgspec.Struct, frozen=True):
    """Our field for a value of theirs, and how it becomes ours; the conversion raises Refused."""

    field: str
    convert: rules.Rule


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What an entry says. Nothing has been checked; without `values` there is nothing in it for us.

    `time` is in milliseconds since 1970, None where there is none that could be read; `interface` makes the values
    counters; `unknown` counts the values that have no target. `measurement` and `example`, one of its values' names,
    say what was left out where there are no `values`; both are empty for a comment, of which nothing is.
    """

    unknown: int = 0
    host: Any = None
    time: int | None = None
    values: Sequence[tuple[Target, Any]] = ()
    interface: Any = None
    measurement: str = ""
    example: str = ""

    def shown(self) -> dict[str, Any]:
        """Its parts by the names that rejections use."""
        ours = {target.field: value for target, value in self.values}
        return {"host": self.host, "time": self.time, "interface": self.interface} | ours


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


def text_of(body: bytes) -> str:
    """The body as text, unpacked if it is packed by gzip: no text begins like that, whatever the message says of it.

    Raises Refused and UnicodeDecodeError.
    """
    if body.startswith(_GZIP):
        packed = zlib.decompressobj(wbits=31)
        try:
            body = packed.decompress(body, rules.MOST_BYTES + 1)
        except zlib.error:
            raise rules.Refused("bad_gzip") from None
        if len(body) > rules.MOST_BYTES:
            raise rules.Refused("too_large")
        if packed.unused_data or not packed.eof:
            raise rules.Refused("bad_gzip")
    return body.decode()


def counted(entries: Sequence[Any]) -> Sequence[Any]:
    """The entries, if a message may have so many."""
    if len(entries) > MOST_ENTRIES:
        raise rules.Refused("too_many_readings")
    return entries


def mebibytes(value: Any) -> float:
    """Bytes in use, as MiB."""
    return rules.number(value) / MEBIBYTE


def busy(value: Any) -> float:
    """A percentage of the time, which by subtracting may be beyond its bounds by a hair."""
    if isinstance(value, float) and -_TOLERANCE <= value <= 100 + _TOLERANCE:
        value = min(max(value, 0.0), 100.0)
    return rules.percent(value)


def idle(value: Any) -> float:
    """The busy part of a percentage of idle time."""
    return 100 - busy(value)


def is_loopback(interface: Any) -> bool:
    """Whether its bytes never left the device: lo, macOS's lo0, Windows's Loopback Pseudo-Interface 1."""
    return isinstance(interface, str) and (interface in ("lo", "lo0") or interface.lower().startswith("loopback"))


CPU, CPU_IDLE = Target("cpu", busy), Target("cpu", idle)
MEMORY, DISK_USED = Target("memory", mebibytes), Target("disk_used", mebibytes)
BYTES_IN, BYTES_OUT = Target("network_in", rules.counter), Target("network_out", rules.counter)
