"""What could not be taken, with its reasons and original bytes, in MongoDB: held by a drain, mended by a person.

One document is one delivered copy; its `_id` is made from the copy, so holding it again after a crash is the same one.
What MongoDB does not take waits in the spool (see spool.py), and is moved once it does.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from bson import Binary
from pymongo.errors import BulkWriteError

from ninjait_pipelines.ingest.decode import Decoded, format_of, read_json
from ninjait_pipelines.ingest.foreign import text_of
from ninjait_pipelines.ingest.spool import Spool
from ninjait_pipelines.resources.message_queue import Message, MessageQueue, Outgoing, identity
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError, StoreFailed

COLLECTION = "quarantine"
AUDIT = "audit_trail"
# MongoDB's documents end at 16 MiB: a longer body lies beside its document, in pieces. (GridFS would do the same, but
# a put that died half-way has to be cleaned up first, and the local stack's server does that in its own way.)
PIECE_BYTES = 8 * 1024 * 1024
PIECES = "quarantine_body_pieces"
DUPLICATE_KEY = 11000
# Of the spool, so that what gathered there in a day does not hold up the metrics; store_health moves the rest.
FILES_A_DRAIN = 20


class Line(msgspec.Struct, frozen=True):
    """One line of the list: so many held copies with this reason."""

    reason: str
    queue: str
    organization_id: str | None
    agent_version: str | None
    copies: int
    points: int


def document_id(message: Message) -> str:
    """The quarantine document of this copy."""
    return f"{message.queue}/{message.delivery_id}"


def insert_new(mongodb: MongoDB, collection: str, documents: Sequence[dict[str, Any]]) -> None:
    """Inserts documents; one whose `_id` is there already is left as it is."""
    if not documents:
        return
    with mongodb.errors():
        try:
            mongodb.database[collection].insert_many(documents, ordered=False)
        except BulkWriteError as error:
            if any(problem["code"] != DUPLICATE_KEY for problem in error.details["writeErrors"]):
                raise


def prepare(mongodb: MongoDB, now: datetime, log: logging.Logger) -> None:
    """Before a drain receives anything: sees to it that what is bad can be held, and moves what waits in the spool.

    Raises StoreUnavailable where neither MongoDB nor the spool can take anything.
    """
    try:
        with mongodb.optional(), mongodb.errors():
            mongodb.database[COLLECTION].create_index([("state", 1), ("quarantined_at", 1)])
    except StoreError as error:
        spool = Spool(mongodb)
        spool.check_room()
        log.warning("What MongoDB does not take for the quarantine goes to the spool %s: %s", spool.folder, error)
        return
    try:
        move_spooled(mongodb, now, FILES_A_DRAIN)
    except StoreError as error:
        log.warning("Not all that waits in the quarantine's spool was moved: %s", error)


def hold(
    mongodb: MongoDB,
    rejected: Iterable[tuple[Message, Decoded]],
    run_id: str,
    now: datetime,
    log: logging.Logger,
) -> None:
    """Puts copies into quarantine, into its spool where MongoDB does not take them, and returns when they are safe.

    A copy that is there already stays as it is: a person may have replayed it since. Raises StoreUnavailable where the
    spool does not take them either.
    """
    documents = [_document(message, decoded, run_id, now) for message, decoded in rejected]
    if not documents:
        return
    try:
        with mongodb.optional():
            _insert(mongodb, documents)
    except StoreError as error:
        Spool(mongodb).put(documents, run_id)
        log.warning("%d copies for the quarantine wait in its spool: %s", len(documents), error)


def move_spooled(mongodb: MongoDB, now: datetime, most_files: int | None = None) -> int:
    """Moves what waits in the spool into MongoDB, file by file, and returns how many copies that were.

    1. Insert the documents of a file. Dying here: the next mover inserts them onto themselves.
    2. Delete the file.                As above. Two movers at once do the same thing twice.

    A file that cannot be read or moved is left and raised as StoreFailed, after all others have been moved.
    """
    spool = Spool(mongodb)
    moved = 0
    problem: StoreFailed | None = None
    for file in spool.files()[:most_files]:
        try:
            documents = spool.read(file)
            with mongodb.optional():
                _insert(mongodb, documents)
            spool.remove(file)
            moved += len(documents)
        except StoreFailed as error:
            problem = error
    spool.clear_unfinished(now)
    if problem:
        raise problem
    return moved


def count_held(mongodb: MongoDB, ids: Sequence[str], run_id: str) -> int:
    """How many of these copies, which this run held, are in quarantine or wait in its spool.

    The spool first: what is moved between the two looks is seen in MongoDB.
    """
    spooled = {document["_id"] for document in Spool(mongodb).documents(run_id)}.intersection(ids)
    others = [one for one in ids if one not in spooled]
    if not others:
        return len(spooled)
    with mongodb.optional():
        return len(spooled) + mongodb.count_ids(COLLECTION, others)


def _insert(mongodb: MongoDB, documents: Sequence[dict[str, Any]]) -> None:
    insert_new(mongodb, COLLECTION, [_without_long_body(mongodb, document) for document in documents])


def _document(message: Message, decoded: Decoded, run_id: str, now: datetime) -> dict[str, Any]:
    return {
        "_id": document_id(message),
        "queue": message.queue,
        "routing_key": message.routing_key,
        "content_type": message.content_type,
        "message_id": str(decoded.message_id),
        "organization_id": decoded.organization_id,
        "device_id": decoded.device_id,
        "agent_version": decoded.agent_version,
        "body": Binary(message.body),
        "body_bytes": len(message.body),
        "body_sha256": hashlib.sha256(message.body).hexdigest(),
        "body_pieces": 0,
        "whole": decoded.whole,
        "reasons": [msgspec.structs.asdict(rejection) for rejection in decoded.rejections],
        "points_quarantined": decoded.points_rejected,
        "run_id": run_id,
        "quarantined_at": now,
        "state": "held",
        "trail": [],
    }


def _without_long_body(mongodb: MongoDB, document: dict[str, Any]) -> dict[str, Any]:
    """The document, after a body that is too long for it has been written in pieces. Dying between: the next drain, or
    mover, writes the same pieces again."""
    body = document["body"]
    if len(body) <= PIECE_BYTES:
        return document
    pieces = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
    for number, piece in enumerate(pieces):
        insert_new(mongodb, PIECES, [{"_id": _piece_id(document, number), "body": Binary(piece)}])
    return document | {"body": Binary(b""), "body_pieces": len(pieces)}


def _piece_id(document: dict[str, Any], number: int) -> str:
    return f"{document['_id']}#{number}"


def body_of(mongodb: MongoDB, document: dict[str, Any]) -> bytes:
    """The original bytes."""
    ids = [_piece_id(document, number) for number in range(document["body_pieces"])]
    with mongodb.errors():
        found = [mongodb.database[PIECES].find_one({"_id": piece_id}) or {} for piece_id in ids]
    return b"".join(piece["body"] for piece in found) if ids else bytes(document["body"])


def find(mongodb: MongoDB, document_id: str) -> dict[str, Any] | None:
    """One quarantined copy, with its body."""
    with mongodb.errors():
        return mongodb.database[COLLECTION].find_one({"_id": document_id})


def select(
    mongodb: MongoDB,
    *,
    document_id: str | None = None,
    reason: str | None = None,
    since: datetime | None = None,
    state: str | None = "held",
) -> Iterator[dict[str, Any]]:
    """Quarantined copies, without their bodies, the oldest first."""
    wanted = {
        "state": state,
        "_id": document_id,
        "reasons.reason": reason,
        "quarantined_at": since and {"$gte": since},
    }
    query = {name: value for name, value in wanted.items() if value}
    with mongodb.errors():
        yield from mongodb.database[COLLECTION].find(query, {"body": 0}).sort("quarantined_at", 1)


def select_spooled(
    mongodb: MongoDB, *, reason: str | None = None, since: datetime | None = None
) -> list[dict[str, Any]]:
    """The same of what waits in the spool, with their bodies: all of it is held."""
    found = [
        document
        for document in Spool(mongodb).documents()
        if reason is None or any(entry["reason"] == reason for entry in document["reasons"])
        if since is None or document["quarantined_at"] >= since
    ]
    return sorted(found, key=lambda document: document["quarantined_at"])


def lines(documents: Iterable[dict[str, Any]]) -> list[Line]:
    """Copies grouped by reason, queue, organization and agent version, the most frequent first.

    A copy with several reasons stands in the line of each; `points` counts the samples (or events) with that reason.
    """
    copies: Counter[tuple[str, str, str | None, str | None]] = Counter()
    points: Counter[tuple[str, str, str | None, str | None]] = Counter()
    for document in documents:
        for reason in {entry["reason"] for entry in document["reasons"]}:
            key = (reason, document["queue"], document["organization_id"], document["agent_version"])
            samples = {entry["index"] for entry in document["reasons"] if entry["reason"] == reason}
            copies[key] += 1
            points[key] += document["points_quarantined"] if document["whole"] else len(samples)
    return [
        Line(reason, queue, organization, version, count, points[reason, queue, organization, version])
        for (reason, queue, organization, version), count in copies.most_common()
    ]


def replay(mongodb: MongoDB, queue: MessageQueue, documents: Iterable[dict[str, Any]], who: str, now: datetime) -> int:
    """Publishes held copies again, through the front door, and returns how many messages that were.

    1. Publish, several held copies of one message once. Dying here: they are still held, and the next replay publishes
       the same message again, which the ledger shows as a duplicate and no store shows at all.
    2. Mark it replayed.
    """
    published: set[tuple[str, str | None, bytes]] = set()
    for document in documents:
        full = find(mongodb, document["_id"])
        if full is None or full["state"] != "held":
            continue
        message = again(full, body_of(mongodb, full))
        # with the routing key: another agent's message names its organization nowhere else
        content = (message.routing_key, message.message_id, hashlib.sha256(message.body).digest())
        if content not in published:
            queue.publish([message])
            published.add(content)
        _mark(mongodb, full, "replayed", who, now, f"published as message {message.message_id}")
    return len(published)


def again(document: dict[str, Any], body: bytes) -> Outgoing:
    """The message that replays a copy: itself, or a message of its rejected samples where the others were written.

    Either has the same id however often, and from whichever copy, it is made.
    """
    message_id = document["message_id"]
    if not document["whole"]:
        body = _only_samples(document, body)
        message_id = str(identity(document["queue"], body))
    return Outgoing(document["queue"], document["routing_key"], body, message_id, document["content_type"])


def _only_samples(document: dict[str, Any], body: bytes) -> bytes:
    """The samples, lines or entries of a body that were rejected, in the format that they came in."""
    indexes = {entry["index"] for entry in document["reasons"]}
    foreign = format_of(document["queue"], document["routing_key"], document["content_type"], body)
    if foreign:
        entries = foreign.entries(text_of(body))
        return foreign.join([entry for index, entry in enumerate(entries) if index in indexes])
    envelope = read_json(body)
    envelope["samples"] = [sample for index, sample in enumerate(envelope["samples"]) if index in indexes]
    return json.dumps(envelope, separators=(",", ":")).encode()


def discard(mongodb: MongoDB, document_id: str, because: str, who: str, now: datetime) -> bool:
    """Gives up a held copy, for a reason that is recorded; False where it is not held. Its bytes stay."""
    document = find(mongodb, document_id)
    return document is not None and _mark(mongodb, document, "discarded", who, now, because)


def _mark(mongodb: MongoDB, document: dict[str, Any], state: str, who: str, now: datetime, outcome: str) -> bool:
    """Sets the state of a held copy, and records it: in the copy's own trail and in the operators' audit trail.

    The state is left once, so of two who act at the same time one gets False. Dying between the two writes, the copy's
    trail has what the audit trail lacks.
    """
    step = {"at": now, "who": who, "action": state, "outcome": outcome}
    change = {"$set": {"state": state, "trail": [*document["trail"], step]}}
    with mongodb.errors():
        held = {"_id": document["_id"], "state": "held"}
        if not mongodb.database[COLLECTION].update_one(held, change).modified_count:
            return False
        mongodb.database[AUDIT].insert_one({**step, "entity": "quarantine", "entity_id": document["_id"]})
    return True
