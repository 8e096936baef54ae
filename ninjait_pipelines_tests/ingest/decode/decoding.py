"""What the tests of the decoder share."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, Period
from ninjait_pipelines.ingest.quarantine.documents import make_document
from ninjait_pipelines.ingest.quarantine.replay import rebuild_message
from ninjait_pipelines.messages import Message
from ninjait_pipelines_tests.ingest.decode.fuzz import check
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    REGISTRY,
    collectd,
    line,
    message,
    telegraf,
)

PERIOD = Period.at(NOW)
MIB = 2**20
TIME = round((NOW - timedelta(seconds=60)).timestamp() * 1000)


def decoded(delivered: Message) -> Decoded:
    """A message decoded with the tests' registry, now."""
    return decode(delivered, REGISTRY, PERIOD)


def reasons(result: Decoded) -> list[tuple[int | None, str | None, str]]:
    """(index, field, reason) of each rejection."""
    return [(rejection.index, rejection.field, rejection.reason) for rejection in result.rejections]


def gauges(result: Decoded) -> dict[str, list[Any]]:
    """The columns of fields that at least one row has."""
    key = ("organization_id", "device_id", "time")
    return {name: values for name, values in result.columns.items() if name not in key and set(values) != {None}}


def volumes(result: Decoded) -> list[tuple[Any, ...]]:
    """(disk, volume, MiB used, in all and free) of each reading of a volume."""
    return [*zip(*(result.volumes[name] for name in ("disk", "volume", "used", "total", "free")), strict=True)]


NANOSECONDS = TIME * 1_000_000
PIECES = st.sampled_from(
    [
        *("cpu", "mem", "net", ",", " ", "=", "\\", '"', "\n", "#", "host=lap-2", "cpu=cpu-total", "interface=eth0"),
        *(
            "usage_idle=",
            "used=",
            "bytes_recv=",
            "1i",
            "5",
            "true",
            '"a\nb"',
            "é",
            str(NANOSECONDS),
            "\x00",
            "-",
            "1e5",
        ),
        line("mem", "used=1i"),
        line("mem", 'used=1i,note="a'),
        line("mem", "used=1i", host="nobody"),
    ]
)
LINE_TEXTS = st.lists(PIECES, max_size=12).map("".join)


def rejected_of(result: Decoded, key: str, kind: str, body: bytes) -> bytes:
    """The body in which the rejected part of a message would be replayed."""
    held = make_document(
        message("agent.metrics", body, routing_key=key, content_type=kind), result, "run", datetime.now(UTC)
    )
    return rebuild_message(held, body).body


def of_lines(*lines: str) -> Decoded:
    """Lines decoded by the fast path and by the grammar; `check` compares the results."""
    fast, slow = (check(telegraf(*some, organization=ORG)) for some in (lines, [*lines, "# thorough"]))
    assert (fast.columns, fast.volumes, fast.counters, fast.left_out) == (
        slow.columns,
        slow.volumes,
        slow.counters,
        slow.left_out,
    )
    return fast


def of_lists(*lists: Any) -> Decoded:
    """Value lists, decoded and checked."""
    return check(collectd(*lists, organization=ORG))


def rounded_volumes(result: Decoded) -> list[tuple[Any, ...]]:
    """`volumes`, rounded, also of a message that has none."""
    names = ("disk", "volume", "used", "total", "free")
    columns = [result.volumes.get(name, ()) for name in names]
    return [
        tuple(round(one, 3) if isinstance(one, float) else one for one in row) for row in zip(*columns, strict=True)
    ]
