"""Reads the quarantine: one message, a selection, or counts by reason, queue, organization and agent version."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from ninjait_pipelines.ingest.quarantine.documents import COLLECTION, HELD, upgraded
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.resources.mongodb import MongoDB

MAX_SUMMARIES = 10_000  # groups that a list reads
UPGRADED_AT_ONCE = 200


class QuarantineFilter(msgspec.Struct, frozen=True):
    """Selects quarantined messages; an empty one selects all.

    `reason` is one of a message's reasons, `since` and `until` are the half-open period of its quarantine, and
    `organization` is the one that its routing key names.
    """

    document_id: str | None = None
    queue: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    organization: str | None = None

    def query(self) -> dict[str, Any]:
        """The filter as a query of MongoDB."""
        period = {name: moment for name, moment in (("$gte", self.since), ("$lt", self.until)) if moment} or None
        given = {
            "_id": self.document_id,
            "queue": self.queue,
            "envelope_organization": self.organization,
            "reasons.reason": self.reason,
            "quarantined_at": period,
        }
        return {name: value for name, value in given.items() if value is not None}

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Whether a document is selected."""
        return (
            self.document_id in (None, document["_id"])
            and self.queue in (None, document["queue"])
            and self.organization in (None, document.get("envelope_organization"))
            and (self.reason is None or any(entry["reason"] == self.reason for entry in document["reasons"]))
            and (self.since is None or self.since <= document["quarantined_at"])
            and (self.until is None or document["quarantined_at"] < self.until)
        )


ALL = QuarantineFilter()


class ReasonSummary(msgspec.Struct, frozen=True):
    """How many quarantined messages have this reason, per queue, organization and agent version."""

    reason: str
    queue: str
    organization_id: str | None
    agent_version: str | None
    messages: int
    points: int


def find(mongodb: MongoDB, document_id: str) -> dict[str, Any] | None:
    """One document, in whatever state; `documents.body_of` has its body."""
    with mongodb.errors():
        return mongodb.database[COLLECTION].find_one({"_id": document_id})


def select(
    mongodb: MongoDB,
    selection: QuarantineFilter = ALL,
    state: str | None = HELD,
    names: Iterable[str] = (),
    newest: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Documents in this state, or in any, without their bodies (or only these fields of them), oldest first; with
    `newest` only that many, newest first."""
    query = selection.query() | ({"state": state} if state else {})
    with mongodb.errors():
        found = mongodb.database[COLLECTION].find(query, dict.fromkeys(names, 1) or {"body": 0})
        yield from found.sort("quarantined_at", -1).limit(newest) if newest else found.sort("quarantined_at", 1)


def count(mongodb: MongoDB, state: str | None = HELD, selection: QuarantineFilter = ALL) -> int:
    """How many documents are in this state, or in any."""
    if selection != ALL:
        return sum(1 for _ in select(mongodb, selection, state, ("_id",)))
    pipeline: list[dict[str, Any]] = [
        {"$match": {"state": state} if state else {}},
        {"$group": {"_id": None, "messages": {"$sum": 1}}},
    ]
    with mongodb.errors():  # not count_documents, for which the local stack's MongoDB reads every document
        return next((int(group["messages"]) for group in mongodb.database[COLLECTION].aggregate(pipeline)), 0)


def select_spooled(mongodb: MongoDB, selection: QuarantineFilter = ALL, bodies: bool = False) -> list[dict[str, Any]]:
    """The documents that wait in the spool, none of them resolved; with their bodies if wanted."""
    found = {}
    for document in filter(selection.matches, Spool(mongodb).documents()):
        whole = upgraded(document) or document
        found[whole["_id"]] = whole if bodies else {name: value for name, value in whole.items() if name != "body"}
    return sorted(found.values(), key=lambda document: document["quarantined_at"])


def summarize_selection(mongodb: MongoDB, selection: QuarantineFilter = ALL) -> tuple[list[ReasonSummary], bool]:
    """What `summarize` gives for the unresolved messages, and whether that is complete."""
    upgrade(mongodb)
    summaries = _summaries(mongodb, selection)
    return _by_reason(summaries[:MAX_SUMMARIES], selection.reason), len(summaries) <= MAX_SUMMARIES


def summarize(documents: Iterable[dict[str, Any]], only: str | None = None) -> list[ReasonSummary]:
    """Counts messages by reason (or `only` this one), queue, organization and agent version, most frequent first.

    A message with several reasons counts for each of them; `points` counts its samples (or events) with that reason.
    """
    return _by_reason(((document["summary"], 1) for document in documents), only)


def upgrade(mongodb: MongoDB) -> None:
    """Rewrites what 0.3.0 quarantined in today's form, without which lists lack it; some at a time. Dying in between:
    the next call goes on. It changes no field that a replay begun meanwhile writes."""
    query = {"state": HELD, "summary": {"$exists": False}}
    with mongodb.errors():
        collection = mongodb.database[COLLECTION]
        while found := list(collection.find(query, {"body": 0}).limit(UPGRADED_AT_ONCE)):
            for document in found:
                new = upgraded(document) or document
                changed = {name: new[name] for name in new if new[name] != document.get(name)}
                collection.update_one({"_id": document["_id"]}, {"$set": changed})


def _summaries(mongodb: MongoDB, selection: QuarantineFilter) -> list[tuple[str, int]]:
    """(summary, messages), most frequent first. MongoDB counts them, except for a period: the local stack's one cannot
    compare times in an aggregation. A reason is looked for in the summaries, which have it."""
    if selection.since or selection.until:
        return Counter(one["summary"] for one in select(mongodb, selection, names=("summary",))).most_common()
    match = {name: value for name, value in selection.query().items() if name != "reasons.reason"}
    pipeline: list[dict[str, Any]] = [
        {"$match": match | {"state": HELD}},
        {"$group": {"_id": "$summary", "messages": {"$sum": 1}}},
        {"$sort": {"messages": -1}},
        {"$limit": MAX_SUMMARIES + 1},
    ]
    with mongodb.errors():
        return [(group["_id"], int(group["messages"])) for group in mongodb.database[COLLECTION].aggregate(pipeline)]


def _by_reason(summaries: Iterable[tuple[str, int]], only: str | None) -> list[ReasonSummary]:
    counts: dict[tuple[str, str, str | None, str | None], list[int]] = defaultdict(lambda: [0, 0])
    for summary, messages in summaries:
        queue, organization, agent_version, points_by_reason = json.loads(summary)
        for reason, points in points_by_reason:
            if only in (None, reason):
                totals = counts[reason, queue, organization, agent_version]
                totals[0] += messages
                totals[1] += messages * points
    return sorted((ReasonSummary(*key, *totals) for key, totals in counts.items()), key=lambda group: -group.messages)
