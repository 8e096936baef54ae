"""The documents of the quarantine: one per delivered copy of a message, with its reasons and its original bytes.

A document's `_id` is made from the copy, so storing it again after a crash changes nothing. Here is only what documents
contain; hold, query and audit store and read them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import bson
from bson import Binary

from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines.ingest.decode.routing import organization_of
from ninjait_pipelines.ingest.ledger import organization_shown
from ninjait_pipelines.ingest.quarantine import reasons
from ninjait_pipelines.ingest.series import TOO_MANY
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.streams import CONTRACTS

COLLECTION = "quarantine"
# The state of a quarantined message until it is resolved, as stored since the first version; people see "quarantined".
HELD = "held"
RESOLVED = ("replayed", "discarded")
# Lists and counts read whole documents, so a longer body is stored beside its document; in pieces, because MongoDB's
# documents end at 16 MiB. (GridFS would do the same, but a put that died half-way has to be cleaned up first, and the
# local stack's server does that in its own way.)
INLINE_BYTES = 1024
PIECE_BYTES = 8 * 1024 * 1024
PIECES = "quarantine_body_pieces"
# The share of messages whose routing key names no organization that PostgreSQL knows.
NO_ORGANIZATION = ""
# A device repeats these with every message until someone fixes it: one body per device, reason and day is kept.
REPEATED = frozenset(TOO_MANY.values())
# A message with more devices than this is kept like any other.
MAX_REPEATING = 100


def make_document(
    message: Message, decoded: Decoded, run_id: str, now: datetime, share: str | None = None
) -> dict[str, Any]:
    """The document of a message that was refused, whole or in part. `share` is whose share of the limit it takes: by
    default that of the organization in its routing key."""
    kinds, hosts = reasons.of_decoded(decoded), reasons.hosts_of(decoded)
    envelope = envelope_organization(message.queue, message.routing_key)
    document = {
        "_id": message.copy_id,
        "queue": message.queue,
        "routing_key": message.routing_key,
        "envelope_organization": envelope,
        "share": (envelope or NO_ORGANIZATION) if share is None else share,
        "content_type": message.content_type,
        "message_id": str(decoded.message_id),
        "organization_id": organization_shown(message, decoded),
        "device_id": decoded.device_id,
        "agent_version": decoded.agent_version,
        "body_bytes": len(message.body),
        "body_sha256": hashlib.sha256(message.body).hexdigest(),
        "body_pieces": 0,
        "whole": decoded.whole,
        "reasons": reasons.stored(kinds),
        **({"hosts": Binary(hosts)} if hosts else {}),
        **({"once_a_day": repeats} if (repeats := _repeats(decoded, kinds, envelope, now)) else {}),
        "points_quarantined": decoded.points_rejected,
        "run_id": run_id,
        "quarantined_at": now,
        "state": HELD,
        "trail": [],
    }
    document["summary"] = _summary(document, kinds)
    return document | {"held_bytes": len(bson.encode(document)) + len(message.body), "body": Binary(message.body)}


def envelope_organization(queue: str, routing_key: str) -> str | None:
    """The organization that a routing key names; None for keys that name none, such as those of logs."""
    return organization_of(routing_key) or None if CONTRACTS[queue].routed_by == "organization_id" else None


def _repeats(decoded: Decoded, kinds: Iterable[reasons.Kind], envelope: str | None, now: datetime) -> list[str]:
    """A key per device, reason and day of a message in which devices only repeat REPEATED reasons; empty if anything
    else is wrong with it."""
    found = {kind.reason: kind.indexes for kind in kinds}
    if not found.keys() <= REPEATED:
        return []
    parts = ((decoded.counters, decoded.counter_rows), (decoded.volumes, decoded.volume_rows))
    keys = {
        f"{envelope} {device} {reason} {now:%Y-%m-%d}"
        for columns, rows in parts
        for at, device in enumerate(columns.get("device_id") or [decoded.device_id] * len(columns.get("time", ())))
        for reason, indexes in found.items()
        if (rows[at] if rows else at) in indexes
    }
    return sorted(keys) if len(keys) <= MAX_REPEATING else []


def _summary(document: Mapping[str, Any], kinds: Iterable[reasons.Kind]) -> str:
    """What a list by reason shows of a document, as one text: the local stack's MongoDB groups by a single field."""
    named = (document["queue"], document["organization_id"], document["agent_version"])
    return json.dumps([*named, sorted(reasons.by_reason(kinds).items())])


def upgraded(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """A document of 0.3.0 in today's form; None if it has that form already.

    It gets no `envelope_organization`: that of dead letters is unknown. The others' routing keys name their share.
    """
    if "summary" in document:
        return None
    kinds = reasons.read(document)
    hosts = list(dict.fromkeys(reasons.read_hosts(document)))
    share = envelope_organization(document["queue"], routing_key_of(document)) or NO_ORGANIZATION
    new = dict(document) | {"reasons": reasons.stored(kinds), "share": share}
    if hosts:
        new["hosts"] = Binary(reasons.pack_hosts(hosts))
    new["summary"] = _summary(document, kinds)
    without = {name: value for name, value in new.items() if name != "body"}
    return new | {"held_bytes": len(bson.encode(without)) + document["body_bytes"]}


def is_dead_letter(document: Mapping[str, Any]) -> bool:
    """Whether the broker or a drain gave the message up."""
    return any(entry["reason"].startswith(reasons.DEAD_LETTER) for entry in document["reasons"])


def routing_key_of(document: Mapping[str, Any]) -> str:
    """The routing key under which a message may be published again. Empty for dead letters of 0.3.0, which read it from
    a header that any sender could write."""
    trusted = "envelope_organization" in document or not is_dead_letter(document)
    return str(document["routing_key"]) if trusted else ""


def pieces_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pieces of a body too long to stay in its document; empty for a short one."""
    body = document["body"]
    if len(body) <= INLINE_BYTES:
        return []
    parts = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
    return [{"_id": piece_id(document["_id"], number), "body": Binary(part)} for number, part in enumerate(parts)]


def piece_id(document_id: str, number: int) -> str:
    """The id of a piece of a body."""
    return f"{document_id}#{number}"


def without_long_body(document: dict[str, Any]) -> dict[str, Any]:
    """The document as it is stored once the pieces of its body are."""
    pieces = len(pieces_of(document))
    return document | {"body": Binary(b""), "body_pieces": pieces} if pieces else document


def body_of(mongodb: MongoDB, document: Mapping[str, Any]) -> bytes:
    """The original bytes."""
    if not document["body_pieces"]:
        return bytes(document["body"])
    ids = [piece_id(document["_id"], number) for number in range(document["body_pieces"])]
    with mongodb.errors():
        found = [mongodb.database[PIECES].find_one({"_id": one}) or {} for one in ids]
    return b"".join(piece["body"] for piece in found)
