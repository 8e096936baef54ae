"""Puts messages into quarantine: into MongoDB, or into the spool while MongoDB does not take them.

Nothing is deleted automatically before a person, or an automatic replay, has resolved it. What exceeds its
organization's share (see usage) is not kept: its ledger row says so, the check `bodies_are_kept` names the
organization, and ingest goes on.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from pymongo import IndexModel

from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines.ingest.ledger import BODY_NOT_KEPT, KEPT_ONCE_A_DAY
from ninjait_pipelines.ingest.quarantine.audit import AUDIT, audit_id
from ninjait_pipelines.ingest.quarantine.documents import (
    COLLECTION,
    PIECE_BYTES,
    PIECES,
    envelope_organization,
    make_document,
    pieces_of,
    upgraded,
    without_long_body,
)
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.quarantine.usage import (
    Room,
    Shares,
    Usage,
    held_by_share,
    latest_usage,
    read_usage,
    sum_usage,
)
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError, StoreFailed

# For lists by time; the limit and its shares (10 ms for 50,000 documents, which it would take half a minute to read);
# lists by group; selections by reason, queue and organization; copies of the same message; daily repetitions.
INDEXES = [
    IndexModel([("state", 1), ("quarantined_at", 1)]),
    IndexModel([("state", 1), ("share", 1), ("held_bytes", 1)]),
    IndexModel([("state", 1), ("summary", 1)]),
    IndexModel([("state", 1), ("reasons.reason", 1), ("quarantined_at", 1)]),
    IndexModel([("state", 1), ("queue", 1), ("quarantined_at", 1)]),
    IndexModel([("state", 1), ("envelope_organization", 1), ("quarantined_at", 1)]),
    IndexModel([("message_id", 1)]),
    IndexModel([("once_a_day", 1)]),
]
# Files that a drain moves, so that a spool filled for a day does not hold up the metrics; store_health moves the rest.
MAX_FILES_PER_DRAIN = 20


def prepare_quarantine(mongodb: MongoDB, now: datetime, log: logging.Logger) -> Usage:
    """Before a drain receives anything: makes sure that bad messages can be stored, moves what waits in the spool, and
    returns how full the quarantine is. Raises StoreUnavailable if neither MongoDB nor the spool can take anything.
    """
    spool = Spool(mongodb)
    try:
        with mongodb.optional(), mongodb.errors():
            mongodb.probe()
            mongodb.database[COLLECTION].create_indexes(INDEXES)
            held = held_by_share(mongodb)
    except StoreError as error:
        spool.check_room()
        log.warning("MongoDB does not take quarantined messages; they go to the spool %s: %s", spool.folder, error)
        return read_usage(mongodb, away=True)
    spool.note_held(held)
    waiting: Shares = {}
    try:
        waiting = spool.shares()
        move_spooled(mongodb, now, MAX_FILES_PER_DRAIN)
    except StoreError as error:
        log.warning("Not everything in the quarantine's spool was moved: %s", error)
    return sum_usage(mongodb, held, waiting)


def hold_messages(
    mongodb: MongoDB,
    rejected: Iterable[tuple[Message, Decoded]],
    run_id: str,
    now: datetime,
    log: logging.Logger,
    room: Room | None = None,
) -> dict[str, str]:
    """Quarantines messages, in the spool if MongoDB does not take them, and returns once they are safe.

    Returns the copies that are not kept, with the reason: the organization's share is full (BODY_NOT_KEPT), or a device
    repeats what is kept already (KEPT_ONCE_A_DAY). A document that exists stays as it is: it may have been replayed
    since. Raises StoreUnavailable if the spool does not take them either.
    """
    room = room or Room()
    if room.is_stale:  # whatever this drain stored so far is counted by now
        room.look(latest_usage(mongodb))
    documents = [_document(message, decoded, run_id, now, room) for message, decoded in rejected]
    repeated = _repeated(mongodb, documents, room)
    documents = [document for document in documents if document["_id"] not in repeated]
    beyond = {document["_id"] for document in documents if not room.takes(document)}
    documents = [document for document in documents if document["_id"] not in beyond]
    try:
        with mongodb.optional():
            beyond -= mongodb.which_ids(COLLECTION, beyond)
            _insert(mongodb, documents)
    except StoreError as error:
        if documents:
            Spool(mongodb).put(documents, run_id)
            log.warning("%d quarantined messages wait in the spool: %s", len(documents), error)
    if beyond:
        room.left_out |= beyond
        log.warning("%d bad messages are not kept, because their organization's share is full", len(beyond))
    return dict.fromkeys(repeated, KEPT_ONCE_A_DAY) | dict.fromkeys(beyond, BODY_NOT_KEPT)


def _document(message: Message, decoded: Decoded, run_id: str, now: datetime, room: Room) -> dict[str, Any]:
    share = room.share_of(envelope_organization(message.queue, message.routing_key))
    return make_document(message, decoded, run_id, now, share)


def _repeated(mongodb: MongoDB, documents: Iterable[Mapping[str, Any]], room: Room) -> set[str]:
    """The documents in which devices only repeat what MongoDB or this drain already keeps of the day."""
    repeating = [document for document in documents if "once_a_day" in document]
    unknown = {key for document in repeating for key in document["once_a_day"]} - room.once_a_day.keys()
    if unknown:
        with suppress(StoreError), mongodb.optional(), mongodb.errors():
            query = {"once_a_day": {"$in": sorted(unknown)}}
            for kept in mongodb.database[COLLECTION].find(query, {"once_a_day": 1}):
                room.once_a_day.update(dict.fromkeys(kept["once_a_day"], kept["_id"]))
    for document in repeating:
        for key in document["once_a_day"]:
            room.once_a_day.setdefault(key, document["_id"])
    return {one["_id"] for one in repeating if one["_id"] not in {room.once_a_day[key] for key in one["once_a_day"]}}


def move_spooled(mongodb: MongoDB, now: datetime, max_files: int | None = None) -> int:
    """Moves the spool into MongoDB, file by file, and returns how many messages that were.

    1. Insert the documents of a file. Dying here: the next mover inserts the same documents again.
    2. Delete the file. Dying before: as above. Two movers at once do the same work twice.

    A file that cannot be read or moved is left, and raised as StoreFailed after all the others have been moved.
    """
    spool = Spool(mongodb)
    moved = 0
    problem: StoreFailed | None = None
    for file in spool.files()[:max_files]:
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
    """How many of these documents, which this run stored, are in MongoDB or wait in the spool.

    The spool is read first: what is moved between the two reads is then seen in MongoDB. What was resolved long ago and
    deleted since is in the audit trail.
    """
    missing = set(ids) - {document["_id"] for document in Spool(mongodb).documents(run_id)}
    resolved: set[str] = set()
    if missing:
        with mongodb.optional():
            missing -= mongodb.which_ids(COLLECTION, missing)
            resolved = mongodb.which_ids(AUDIT, [audit_id(document_id) for document_id in missing])
    return len(set(ids)) - len(missing) + len(resolved)


def _insert(mongodb: MongoDB, documents: Sequence[dict[str, Any]]) -> None:
    """Long bodies first. Dying between: the next drain, or mover, writes the same pieces again."""
    for pieces in _batches(piece for document in documents for piece in pieces_of(document)):
        mongodb.insert_new(PIECES, pieces)
    mongodb.insert_new(COLLECTION, [without_long_body(upgraded(document) or document) for document in documents])


def _batches(pieces: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """As many pieces at a time as one insert may take."""
    batch: list[dict[str, Any]] = []
    for piece in pieces:
        if batch and sum(len(other["body"]) for other in batch) + len(piece["body"]) > PIECE_BYTES:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch
