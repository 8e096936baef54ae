"""The rows of message_deliveries, the ledger: what became of each copy of a message."""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from ninjait_pipelines.ingest.decode import NOBODY, Decoded
from ninjait_pipelines.resources.message_queue import Message

Batch = Sequence[tuple[Message, Decoded]]

_LEDGER = pa.schema(
    dict.fromkeys(("queue", "message_id", "delivery_id", "organization_id", "run_id", "outcome"), pa.string())
    | dict.fromkeys(("points", "points_written", "points_quarantined", "unknown_fields", "bytes"), pa.uint32())
    | dict.fromkeys(("first_time", "last_time", "published_at"), pa.timestamp("ms", "UTC"))
)


def ledger_rows(batch: Iterable[tuple[Message, Decoded]], run_id: str, outcome: str | None = None) -> pa.Table:
    """A row of message_deliveries for each copy; the outcome follows from what was decoded, if none is given."""
    rows = [_ledger_row(message, decoded, run_id, outcome or outcome_of(decoded)) for message, decoded in batch]
    return pa.Table.from_pylist(rows, schema=_LEDGER)


def outcome_of(decoded: Decoded) -> str:
    """What becomes of a message: written, partly_quarantined or quarantined."""
    if not decoded.rejections:
        return "written"
    return "partly_quarantined" if decoded.points_accepted else "quarantined"


def _ledger_row(message: Message, decoded: Decoded, run_id: str, outcome: str) -> dict[str, Any]:
    times = [*decoded.columns.get("time", ()), *decoded.counters.get("time", ())]
    times = times or decoded.columns.get("timestamp") or [None]
    return {
        "queue": message.queue,
        "message_id": str(decoded.message_id),
        "delivery_id": message.delivery_id,
        "organization_id": decoded.organization_id or NOBODY,
        "run_id": run_id,
        "outcome": outcome,
        "points": decoded.points,
        "points_written": decoded.points_accepted,
        "points_quarantined": decoded.points_rejected,
        "unknown_fields": decoded.unknown_fields,
        "bytes": len(message.body),
        "first_time": min(times),
        "last_time": max(times),
        "published_at": message.published_at or None,
    }
