"""Resolves quarantined messages (replayed or discarded), records who did so, and deletes them once that is long ago.

A resolved message is kept for 30 days, or less if all of them take more than the limit.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from pymongo import ReturnDocument

from ninjait_pipelines.ingest.quarantine.documents import COLLECTION, HELD, PIECES, RESOLVED, piece_id
from ninjait_pipelines.ingest.quarantine.usage import held_by_share, limit_of
from ninjait_pipelines.resources.mongodb import MongoDB

AUDIT = "audit_trail"
# The fields of a document that its audit entry is made from.
AUDITED = {"trail": 1, "intent": 1}
RESOLVED_KEPT = timedelta(days=30)
MAX_DELETED = 1000  # per run of store_health


def discard(mongodb: MongoDB, document_id: str, because: str, who: str, now: datetime) -> bool:
    """Gives up a quarantined message, for a reason that is recorded; False if it is not in quarantine. Its bytes stay
    for 30 days."""
    return resolve(mongodb, document_id, "discarded", who, now, because)


def resolve(
    mongodb: MongoDB, document_id: str, state: str, who: str, now: datetime, outcome: str, **details: Any
) -> bool:
    """Sets the state of a quarantined message, and records that in its own trail and in the operators' audit trail.

    A message is resolved once, so of two who act at the same time one gets False. Dying between the two writes, the
    audit trail lacks the entry until the document is deleted.
    """
    step = {"at": now, "who": who, "action": state, "outcome": outcome, **details}
    with mongodb.errors():
        update = {"$set": {"state": state, "trail": [step]}}
        resolved = mongodb.database[COLLECTION].find_one_and_update(
            {"_id": document_id, "state": HELD}, update, AUDITED, return_document=ReturnDocument.AFTER
        )
    if resolved is None:
        return False
    mongodb.insert_new(AUDIT, [_entry(resolved)])
    return True


def trail_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who did what with a message, oldest first.

    A replay that was begun and never marked as done is part of it: a message may have gone out, with edits that are
    recorded nowhere else.
    """
    trail, intent = document["trail"], document.get("intent")
    if not intent or document["state"] == "replayed":
        return list(trail)
    begun = {"action": "began to replay it", "outcome": f"may be out as message {intent['message_id']}"}
    return [{name: intent[name] for name in ("at", "who", "message_id", "changes")} | begun, *trail]


def last_step(mongodb: MongoDB, document_id: str) -> dict[str, Any] | None:
    """Who resolved a message, when and how, from the audit trail if it was deleted since. None if it is unresolved."""
    with mongodb.errors():
        document = mongodb.database[COLLECTION].find_one({"_id": document_id}, {"trail": 1})
        if document:
            return next(reversed(document["trail"]), None)
        return mongodb.database[AUDIT].find_one({"_id": audit_id(document_id)})


def audit_id(document_id: str) -> str:
    """The id of a document's entry in the audit trail."""
    return f"quarantine/{document_id}"


def _entry(document: Mapping[str, Any]) -> dict[str, Any]:
    """The audit trail's entry for a resolved message: the step, and an intent that the step does not cover."""
    step = document["trail"][0]
    details = {"entity": "quarantine", "entity_id": document["_id"]}
    if step["action"] != "replayed" and document.get("intent"):
        details["intent"] = document["intent"]
    return {"_id": audit_id(document["_id"]), **step, **details}


def delete_resolved(mongodb: MongoDB, now: datetime, limit: int = MAX_DELETED) -> int:
    """Deletes messages that were resolved more than 30 days ago, and returns how many.

    Where all that are resolved take more than the limit, the oldest go sooner: otherwise a sender whose messages are
    replayed automatically could fill MongoDB with them.

    Dying between any two steps: the documents are still there, and the next run does the rest.

    1. Make sure that the audit trail has who resolved them and why.
    2. Delete the pieces of their bodies.
    3. Delete the documents.
    """
    before = now - RESOLVED_KEPT
    query = {"state": {"$in": RESOLVED}, "quarantined_at": {"$lt": before}}
    with mongodb.optional(), mongodb.errors():
        names = {**AUDITED, "body_pieces": 1, "held_bytes": 1}
        found = mongodb.database[COLLECTION].find(query, names)
        documents = list(islice((document for document in found if document["trail"][0]["at"] < before), limit))
        sizes = [size for state in RESOLVED for _, size in held_by_share(mongodb, state).values()]
        excess = sum(sizes) - limit_of(mongodb)
        if excess > 0 and not documents:
            oldest = mongodb.database[COLLECTION].find({"state": {"$in": RESOLVED}}, names).sort("quarantined_at", 1)
            documents = list(_first_of(oldest.limit(limit), excess))
        mongodb.insert_new(AUDIT, [_entry(document) for document in documents])
        ids = [document["_id"] for document in documents]
        pieces = [piece_id(one["_id"], number) for one in documents for number in range(one["body_pieces"])]
        mongodb.database[PIECES].delete_many({"_id": {"$in": pieces}})
        mongodb.database[COLLECTION].delete_many({"_id": {"$in": ids}})
    return len(documents)


def _first_of(documents: Iterable[dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """As many documents as take `size` bytes."""
    for document in documents:
        if size <= 0:
            return
        size -= document.get("held_bytes") or 0
        yield document
