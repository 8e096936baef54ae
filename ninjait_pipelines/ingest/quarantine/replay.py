"""Publishes quarantined messages again, as they are or edited, and never two contents under one message id.

A message that was partly good is replayed as a message of its rejected samples; what is still bad comes back.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Period, SenderRegistry
from ninjait_pipelines.ingest.decode.routing import format_of
from ninjait_pipelines.ingest.decode.rules import read_json
from ninjait_pipelines.ingest.decode.third_party import text_of
from ninjait_pipelines.ingest.quarantine import audit, reasons
from ninjait_pipelines.ingest.quarantine.documents import (
    COLLECTION,
    HELD,
    body_of,
    envelope_organization,
    routing_key_of,
)
from ninjait_pipelines.ingest.quarantine.edit import EditRejected, Edits, apply_edits
from ninjait_pipelines.ingest.quarantine.query import find
from ninjait_pipelines.messages import Message, Outgoing, identity
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines.streams import CONTRACTS

NO_EDITS = Edits()
_INTENT = {"state": 1, "intent": 1}
_RESOLVED_MEANWHILE = "someone else resolved it meanwhile"


class Replay(msgspec.Struct, frozen=True):
    """The message that replays a quarantined one, or why there is none."""

    document_id: str
    message: Outgoing | None = None
    problem: str = ""


class RehearsedReplay(msgspec.Struct, frozen=True):
    """A message that a replay would publish, and what a drain would make of it now."""

    document_id: str
    message_id: str
    routing_key: str
    accepted: int
    rejected: int
    reasons: list[str]
    body: bytes


class Rehearsal(msgspec.Struct, frozen=True):
    """What a replay would do: the messages, how many different ones these are, and which stay, with the problem."""

    replays: list[RehearsedReplay]
    messages: int
    left: dict[str, str]


def first_of_each(
    documents: Iterable[Mapping[str, Any]], limit: int, is_wanted: Callable[[Mapping[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    """The ids of the messages to replay automatically: the first `limit` wanted ones per share, so that messages which
    cannot be replayed do not hold up others. `documents` have `share` and `intent`.

    Messages that a person began to replay with edits are left out: only that person knows whether to go on.
    """
    taken: Counter[str | None] = Counter()
    for document in documents:
        if (document.get("intent") or {}).get("changes") or taken[document.get("share")] >= limit:
            continue
        if is_wanted(document):
            taken[document.get("share")] += 1
            yield {"_id": document["_id"]}


def replay_all(
    mongodb: MongoDB, queue: MessageQueue, documents: Iterable[dict[str, Any]], who: str, now: datetime
) -> int:
    """Replays quarantined messages as they are, and returns how many were published."""
    done = replay_each(mongodb, queue, documents, who, now)
    return len({content_of(replayed.message) for replayed in done if replayed.message})


def replay_each(
    mongodb: MongoDB,
    queue: MessageQueue,
    documents: Iterable[dict[str, Any]],
    who: str,
    now: datetime,
    edits: Edits = NO_EDITS,
) -> Iterator[Replay]:
    """Publishes quarantined messages through the exchange, one by one as the iterator advances, edited if so wanted.

    1. Write the intent (the content about to go out, by whom, with which edits) into all quarantined copies of the
       message. Dying before: nothing has happened. Dying half-way: as after it, whichever copy is replayed next.
    2. Publish, once for several copies of one message. Dying before: nothing is out, but nothing proves that; the
       copies can be replayed with the very same content, or discarded.
    3. Mark as replayed. Dying before: it is out, and the copies are left as after 1. A replay of the same content
       publishes under the same id, which the ledger records as a duplicate; no other content goes out under that id.

    A message stays in quarantine if the edits are impossible or change nothing, if its replay was begun with another
    content, or if the broker refuses it.
    """
    published: set[tuple[str, str | None, bytes]] = set()
    for prepared in prepare_replays(mongodb, queue, documents, edits):
        document_id, message = prepared.document_id, prepared.message
        if message is None:
            yield prepared
            continue
        if problem := _begin(mongodb, document_id, message, edits, who, now):
            yield Replay(document_id, problem=problem)
            continue
        if content_of(message) not in published:
            try:
                queue.publish([message])
            except StoreFailed as error:  # the broker refuses this message: the others go out
                yield Replay(document_id, problem=str(error))
                continue
            published.add(content_of(message))
        outcome = f"published as message {message.message_id}"
        details = {"message_id": message.message_id, "changes": edits.described()}
        if audit.resolve(mongodb, document_id, "replayed", who, now, outcome, **details):
            yield prepared
        else:
            yield Replay(document_id, problem=f"{_RESOLVED_MEANWHILE}; it was still {outcome}")


def rehearse(
    mongodb: MongoDB,
    queue: MessageQueue,
    documents: Iterable[dict[str, Any]],
    edits: Edits,
    registry: SenderRegistry,
    now: datetime,
    bodies: bool = False,
) -> Rehearsal:
    """What a replay would publish, decoded as a drain would decode it now. Publishes and marks nothing. Only the first
    body is kept unless `bodies`."""
    period = Period.at(now)
    rehearsal = Rehearsal([], 0, {})
    contents = set()
    for prepared in prepare_replays(mongodb, queue, documents, edits):
        document_id, new = prepared.document_id, prepared.message
        if new is None:
            rehearsal.left[document_id] = prepared.problem
            continue
        contents.add(content_of(new))
        delivered = Message(
            new.queue, new.routing_key, new.body, new.content_type, new.message_id, "", document_id, 1, 0
        )
        decoded = decode(delivered, registry, period)
        rehearsal.replays.append(
            RehearsedReplay(
                document_id,
                str(new.message_id),
                new.routing_key,
                decoded.points_accepted,
                decoded.points_rejected,
                sorted({rejection.reason for rejection in decoded.rejections}),
                new.body if bodies or not rehearsal.replays else b"",
            )
        )
    return msgspec.structs.replace(rehearsal, messages=len(contents))


def prepare_replays(
    mongodb: MongoDB, queue: MessageQueue, documents: Iterable[dict[str, Any]], edits: Edits
) -> Iterator[Replay]:
    """What a replay publishes for each message that is still in quarantine, or why it publishes nothing."""
    for selected in documents:
        document = find(mongodb, selected["_id"])
        if document is None or document["state"] != HELD:
            continue
        try:
            message = rebuild_message(document, body_of(mongodb, document), edits)
        except EditRejected as error:
            yield Replay(document["_id"], problem=str(error))
            continue
        problem = _misdirected(queue, document, message, edits)
        problem = problem or _begun_otherwise(document, message, document["_id"])
        yield Replay(document["_id"], problem=problem) if problem else Replay(document["_id"], message)


def rebuild_message(document: dict[str, Any], body: bytes, edits: Edits = NO_EDITS) -> Outgoing:
    """The message that replays a quarantined one: itself, or only its rejected samples if the others were written.

    Its id is always the same, whichever copy it is rebuilt from and whatever is edited. Raises EditRejected.
    """
    message_id, kinds = document["message_id"], reasons.read(document)
    if not document["whole"]:
        body = _only_samples(document, body)
        message_id = str(identity(document["queue"], body))
        place = {index: at for at, index in enumerate(_indexes(document))}
        for kind in kinds:
            kind.indexes = [place[index] for index in kind.indexes]
    key = routing_key_of(document)
    message = Outgoing(document["queue"], key, body, message_id, document["content_type"])
    return apply_edits(message, kinds, edits) if edits else message


def _only_samples(document: dict[str, Any], body: bytes) -> bytes:
    """The samples, lines or entries of a body that were rejected, in their own format."""
    indexes = set(_indexes(document))
    third_party = format_of(document["queue"], document["routing_key"], document["content_type"], body)
    if third_party:
        entries = third_party.entries(text_of(body))
        return third_party.join([entry for index, entry in enumerate(entries) if index in indexes])
    envelope = read_json(body)
    envelope["samples"] = [sample for index, sample in enumerate(envelope["samples"]) if index in indexes]
    return json.dumps(envelope, separators=(",", ":")).encode()


def _indexes(document: Mapping[str, Any]) -> list[int]:
    """The rejected samples of a message that was partly good."""
    return reasons.indexes_of(reasons.read(document))


def content_of(message: Outgoing) -> tuple[str, str | None, bytes]:
    """What makes two messages the same. The routing key is part of it: in a third-party agent's message nothing else
    names the organization."""
    return message.routing_key, message.message_id, hashlib.sha256(message.body).digest()


def _misdirected(queue: MessageQueue, document: Mapping[str, Any], message: Outgoing, edits: Edits) -> str | None:
    """Why this message may not be published: no queue would receive it, or it would go to another organization than the
    one the broker accepted it for, and no edit says that it should."""
    routed_by = CONTRACTS[message.queue].routed_by
    if not message.routing_key and document["routing_key"]:
        key = document["routing_key"]
        return (
            f"an earlier version took its routing key, {key!r}, from a header that its sender wrote: find out whose it "
            f"is, and make a new key by --set {routed_by}=..."
        )
    if not queue.takes(message):
        key = message.routing_key
        return f"{message.queue} gets no messages with the routing key {key!r}: make a new one by --set {routed_by}=..."
    before = document.get("envelope_organization")
    after = envelope_organization(message.queue, message.routing_key)
    if (
        "envelope_organization" in document
        and before != after
        and not (routed_by in edits.fields or before in edits.values)
    ):
        return f"its sender may publish for {before}, and this would be for {after}"
    return None


def _begin(mongodb: MongoDB, document_id: str, message: Outgoing, edits: Edits, who: str, now: datetime) -> str | None:
    """Writes the intent to publish this message into all its quarantined copies, and returns None; or why it may not be
    published.

    The first intent wins. Copies are claimed in id order, so when two operators start replays with different edits, the
    second finds the first one's intent on the first copy and writes nothing. A copy that was delivered after another
    one was replayed with edits is bound to these too.
    """
    intent = {
        "content": _digest(message),
        "message_id": message.message_id,
        "changes": edits.described(),
        "who": who,
        "at": now,
    }
    with mongodb.errors():
        collection = mongodb.database[COLLECTION]
        copies = _copies_of_its_message(mongodb, document_id)
        problems = [problem for copy in copies if (problem := _begun_otherwise(copy, message, document_id))]
        for copy in () if problems else copies:
            collection.update_one({"_id": copy["_id"], "state": HELD, "intent": None}, {"$set": {"intent": intent}})
            current = collection.find_one({"_id": copy["_id"]}, _INTENT) or {"state": "deleted"}
            if problem := _begun_otherwise(current, message, document_id):
                return problem
            if copy["_id"] == document_id and current["state"] != HELD:
                return _RESOLVED_MEANWHILE
    return next(iter(problems), None)


def _digest(message: Outgoing) -> str:
    return hashlib.sha256(repr(content_of(message)).encode()).hexdigest()


def _begun_otherwise(document: Mapping[str, Any], message: Outgoing, document_id: str) -> str | None:
    """Why this message may not be published for `document_id`: a replay of `document`, the same or another copy of its
    message, was begun with another content.

    A message that was replayed unedited and is in quarantine again was refused again, so it may be edited now.
    """
    intent = document.get("intent")
    if not intent or intent["content"] == _digest(message) or (document["state"] != HELD and not intent["changes"]):
        return None
    changes = " ".join(intent["changes"]) or "no change"
    which = document["_id"] if document["state"] == HELD and document["_id"] != document_id else "it"
    return (
        f"{intent['who']} began to replay {which} at {intent['at']:%Y-%m-%d %H:%M:%S} UTC with {changes}, and it may "
        f"be out already: replay {which} with the same changes, or discard it"
    )


def _copies_of_its_message(mongodb: MongoDB, document_id: str) -> list[dict[str, Any]]:
    """The copies that are replayed as the same message as this one, including itself, in id order."""
    collection = mongodb.database[COLLECTION]
    same = ("queue", "routing_key", "message_id", "body_sha256", "whole")
    own = collection.find_one({"_id": document_id}, dict.fromkeys((*same, "reasons"), 1))
    if own is None:
        return []
    found = collection.find({name: own[name] for name in same}, {**_INTENT, "reasons": 1}).sort("_id", 1)
    return [copy for copy in found if own["whole"] or _indexes(copy) == _indexes(own)]
