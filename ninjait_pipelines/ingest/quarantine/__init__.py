"""What could not be taken, with its reasons and original bytes, in MongoDB: held by a drain, mended by a person.

One document is one delivered copy; its `_id` is made from the copy, so holding it again after a crash is the same one.
What MongoDB does not take waits in the spool (see spool.py), and is moved once it does.

What is held is never deleted by itself; what was replayed or discarded is, 30 days later, or sooner where it takes more
than the limit. A limit bounds what is held, and no organization can use up what others need of it: each may hold a
third of what is free, so that one alone fills a quarter of the limit, however many there are some room is left, and a
thousandth is everybody's in any case. (Switches share their buffers in this way: Choudhury and Hahne, Dynamic Queue
Length Thresholds, 1998.) Dead letters of an outage may be good: of them an organization may hold as much as is free.

Whose a message is follows from the routing key that the broker let it have; what is of no organization that PostgreSQL
knows has one share together. What is beyond a share is not kept: the ledger has its row, which says so, the check
`bodies_are_kept` names the organization, and all ingest goes on.
"""

import hashlib
import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import bson
import msgspec
from bson import Binary
from pymongo import IndexModel, ReturnDocument
from pymongo.errors import BulkWriteError

from ninjait_pipelines.ingest.decode.contract import CONTRACTS
from ninjait_pipelines.ingest.decode.message import Decoded, format_of, organization_of, read_json
from ninjait_pipelines.ingest.decode.third_party import MEBIBYTE, text_of
from ninjait_pipelines.ingest.ledger import BODY_NOT_KEPT, KEPT_ONCE_A_DAY, organization_shown
from ninjait_pipelines.ingest.quarantine import reasons
from ninjait_pipelines.ingest.quarantine.edit import Change, EditRejected, mended
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.series import TOO_MANY
from ninjait_pipelines.messages import Message, Outgoing, identity
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError, StoreFailed

COLLECTION = "quarantine"
AUDIT = "audit_trail"
# What lists and counts copies reads their documents: a longer body lies beside its document. In pieces, because
# MongoDB's documents end at 16 MiB. (GridFS would do the same, but a put that died half-way has to be cleaned up first,
# and the local stack's server does that in its own way.)
INLINE_BYTES = 1024
PIECE_BYTES = 8 * 1024 * 1024
PIECES = "quarantine_body_pieces"
DUPLICATE_KEY = 11000
# In the order of what they serve: lists by time, the limit and its shares (10 ms for 50,000 held copies, where the
# documents would take half a minute), lists by group, selections, the other copies of a message that is to be replayed.
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
# What a device repeats with every message, until somebody looks after it: one body a device, reason and day is kept.
REPEATED = frozenset(TOO_MANY.values())
# Devices of a message, beyond which it is kept as any other.
MAX_REPEATING = 100
SETTLED = ("replayed", "discarded")
# Of a settled copy, what the audit trail is made from.
AUDITED = {"trail": 1, "intent": 1}
INTENT = {"state": 1, "intent": 1}
SETTLED_KEPT = timedelta(days=30)
# By one run of store_health.
DELETED_AT_MOST = 1000
# Of the limit, and of a share, from where on store_health warns.
NEARLY_FULL = 0.8
# Of what is free of the limit, what one organization may hold, and what everything may that is of none.
SHARE, SHARE_OF_DEAD_LETTERS = 1 / 3, 1
# Of the limit, what each may hold though nothing is free: the limit was lowered, or an earlier version filled it.
ALWAYS = 1 / 1024
# Of the limit, what a drain puts in before it looks again at what the drains of the other queues have put in meanwhile.
LOOK_AGAIN = 1 / 64
NOBODYS = ""
# What a list reads at most, of copies and of groups of them, and what is put into today's form at a time.
MAX_LISTED = 200
MAX_SUMMARIES = 10_000
RENEWED_AT_ONCE = 200
NO_CHANGE = Change()
# Of the spool, so that what gathered there in a day does not hold up the metrics; store_health moves the rest.
FILES_A_DRAIN = 20


class Usage(msgspec.Struct, frozen=True):
    """What is held, in MongoDB and in the spool, against the limit."""

    copies: int
    bytes: int
    limit: int
    shares: Mapping[str, int] = {}

    @property
    def share(self) -> float:
        """How full it is; 1 is full."""
        return self.bytes / self.limit

    def fullest(self) -> list[tuple[str, float]]:
        """The organizations whose share is nearly full, and how full."""
        limit = max_held(self.limit, self.bytes)
        found = [(share, size / limit) for share, size in self.shares.items()]
        return sorted((one for one in found if one[1] >= NEARLY_FULL), key=lambda one: -one[1])

    def __str__(self) -> str:
        used, limit = self.bytes // MEBIBYTE, self.limit // MEBIBYTE
        return f"{used:,} of {limit:,} MiB in {self.copies:,} held copies"


def max_held(limit: float, used: float, of_free: float = SHARE) -> float:
    """Bytes that one organization may hold while all together hold `used`."""
    return max(limit * ALWAYS, (limit - used) * of_free)


class Room:
    """What each organization may still put into the quarantine, during one drain.

    Copies count once, however often they are held: a step that failed is done again.
    """

    def __init__(self) -> None:
        self.begin(Usage(0, 0, 0), None)

    def begin(self, used: Usage, organizations: Collection[str] | None) -> None:
        """Starts from what is there. Without organizations there are no shares."""
        self._organizations = organizations
        self._limit = math.inf if organizations is None else used.limit
        self.look(used)
        self._kept: set[str] = set()
        self.once_a_day: dict[str, str] = {}  # what repeats -> the copy that is kept of it
        self.left_out: set[str] = set()

    def look(self, used: Usage) -> None:
        """Goes on from what is there now."""
        self._used = Counter(used.shares)
        self._total, self._taken = used.bytes, 0

    @property
    def is_stale(self) -> bool:
        """Whether so much was taken that the others' part is worth a look."""
        return self._taken >= self._limit * LOOK_AGAIN

    def share_of(self, organization: str | None) -> str:
        """Whose share it is: an organization's that PostgreSQL knows, or nobody's."""
        known = self._organizations is None or organization in self._organizations
        return organization if organization and known else NOBODYS

    def takes(self, document: Mapping[str, Any]) -> bool:
        """Whether there is room for it, which it then takes."""
        copy, share, size = document["_id"], document["share"], document["held_bytes"]
        if copy in self._kept:
            return True
        of_an_outage = _is_dead_letter(document) and reasons.may_be_of_an_outage(document)
        of_free = SHARE_OF_DEAD_LETTERS if of_an_outage else SHARE
        if self._used[share] + size > max_held(self._limit, self._total, of_free):
            return False
        self._used[share] += size
        self._total += size
        self._taken += size
        self._kept.add(copy)
        return True


class Replayed(msgspec.Struct, frozen=True):
    """One copy, and the message that replays it, or why there is none."""

    copy: str
    message: Outgoing | None = None
    problem: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """Which copies: `reason` is one of theirs, they were quarantined from `since` to before `until`, and `organization`
    is the one that their routing key names."""

    document_id: str | None = None
    queue: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    organization: str | None = None

    def query(self) -> dict[str, Any]:
        """As MongoDB is asked for them."""
        period = {name: moment for name, moment in (("$gte", self.since), ("$lt", self.until)) if moment} or None
        given = {
            "_id": self.document_id,
            "queue": self.queue,
            "envelope_organization": self.organization,
            "reasons.reason": self.reason,
            "quarantined_at": period,
        }
        return {name: value for name, value in given.items() if value is not None}

    def fits(self, document: Mapping[str, Any]) -> bool:
        """Whether a copy is one of them."""
        return (
            self.document_id in (None, document["_id"])
            and self.queue in (None, document["queue"])
            and self.organization in (None, document.get("envelope_organization"))
            and (self.reason is None or any(entry["reason"] == self.reason for entry in document["reasons"]))
            and (self.since is None or self.since <= document["quarantined_at"])
            and (self.until is None or document["quarantined_at"] < self.until)
        )


ALL = Wanted()


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
    """Inserts documents, safely as the URL defines it; one whose `_id` is there already is left as it is."""
    if not documents:
        return
    with mongodb.errors():
        try:
            mongodb.database[collection].insert_many(documents, ordered=False)
        except BulkWriteError as error:
            there = all(problem["code"] == DUPLICATE_KEY for problem in error.details["writeErrors"])
            if not there or error.details.get("writeConcernErrors"):  # the latter: written, but perhaps not to stay
                raise


def envelope_organization(queue: str, routing_key: str) -> str | None:
    """The organization that a routing key names; None where it names none, as those of logs."""
    return organization_of(routing_key) or None if CONTRACTS[queue].routed_by == "organization_id" else None


def prepare(mongodb: MongoDB, now: datetime, log: logging.Logger) -> Usage:
    """Before a drain receives anything: sees to it that what is bad can be held, and moves what waits in the spool.

    Returns what is held. Raises StoreUnavailable where neither MongoDB nor the spool can take anything.
    """
    spool = Spool(mongodb)
    try:
        with mongodb.optional(), mongodb.errors():
            mongodb.probe()
            mongodb.database[COLLECTION].create_indexes(INDEXES)
            held = _held(mongodb)
    except StoreError as error:
        spool.check_room()
        log.warning("What MongoDB does not take for the quarantine goes to the spool %s: %s", spool.folder, error)
        return usage(mongodb, away=True)
    spool.note_held(held)
    waiting: Mapping[str, tuple[int, int]] = {}
    try:
        waiting = spool.shares()
        move_spooled(mongodb, now, FILES_A_DRAIN)
    except StoreError as error:
        log.warning("Not all that waits in the quarantine's spool was moved: %s", error)
    return _usage(mongodb, held, waiting)


def usage(mongodb: MongoDB, away: bool = False) -> Usage:
    """How full it is; while MongoDB is away, by what it held when a drain last saw it. Raises StoreError where that
    cannot be seen."""
    spool = Spool(mongodb)
    with mongodb.errors():
        return _usage(mongodb, spool.noted_held() if away else _held(mongodb), spool.shares())


def _usage_now(mongodb: MongoDB) -> Usage:
    try:
        with mongodb.optional():
            return usage(mongodb)
    except StoreError:
        return usage(mongodb, away=True)


def _usage(mongodb: MongoDB, *parts: Mapping[str, tuple[int, int]]) -> Usage:
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes.update({share: size for share, (_, size) in part.items()})
    copies = sum(count for part in parts for count, _ in part.values())
    return Usage(copies, sizes.total(), _limit(mongodb), sizes)


def _limit(mongodb: MongoDB) -> int:
    return int(mongodb.quarantine_limit_mib) * MEBIBYTE


def _held(mongodb: MongoDB, state: str = "held") -> dict[str, tuple[int, int]]:
    """Share -> (copies, bytes) that MongoDB has in this state, of the documents themselves: a counter would be wrong
    after a crash.

    A sum is null on the local stack's MongoDB where no document has the field: earlier versions wrote none.
    """
    totals = {"copies": {"$sum": 1}, "bytes": {"$sum": "$held_bytes"}}
    pipeline: list[dict[str, Any]] = [{"$match": {"state": state}}, {"$group": {"_id": "$share", **totals}}]
    found: dict[str, tuple[int, int]] = {}
    for one in mongodb.database[COLLECTION].aggregate(pipeline):
        found[one["_id"] or NOBODYS] = int(one["copies"]), int(one["bytes"] or 0)
    return found


def hold(
    mongodb: MongoDB,
    rejected: Iterable[tuple[Message, Decoded]],
    run_id: str,
    now: datetime,
    log: logging.Logger,
    room: Room | None = None,
) -> dict[str, str]:
    """Puts copies into quarantine, into its spool where MongoDB does not take them, and returns when they are safe: the
    ids of those that are not kept, with the reason: their organization's share is full (BODY_NOT_KEPT), or a device
    repeats what is there already (KEPT_ONCE_A_DAY).

    A copy that is there already stays as it is: a person may have replayed it since. Raises StoreUnavailable where the
    spool does not take them either.
    """
    room = room or Room()
    if room.is_stale:  # all that this drain has taken is there by now
        room.look(_usage_now(mongodb))
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
            log.warning("%d copies for the quarantine wait in its spool: %s", len(documents), error)
    if beyond:
        room.left_out |= beyond
        log.warning("%d bad messages are not kept, because the share of who sent them is full", len(beyond))
    return dict.fromkeys(repeated, KEPT_ONCE_A_DAY) | dict.fromkeys(beyond, BODY_NOT_KEPT)


def _repeated(mongodb: MongoDB, documents: Iterable[Mapping[str, Any]], room: Room) -> set[str]:
    """Those in which devices only repeat what is kept of today, by MongoDB or by this drain."""
    repeating = [document for document in documents if "once_a_day" in document]
    unknown = {key for one in repeating for key in one["once_a_day"]} - room.once_a_day.keys()
    if unknown:
        with suppress(StoreError), mongodb.optional(), mongodb.errors():
            query = {"once_a_day": {"$in": sorted(unknown)}}
            for one in mongodb.database[COLLECTION].find(query, {"once_a_day": 1}):
                room.once_a_day.update(dict.fromkeys(one["once_a_day"], one["_id"]))
    for document in repeating:
        for key in document["once_a_day"]:
            room.once_a_day.setdefault(key, document["_id"])
    return {one["_id"] for one in repeating if one["_id"] not in {room.once_a_day[key] for key in one["once_a_day"]}}


def move_spooled(mongodb: MongoDB, now: datetime, max_files: int | None = None) -> int:
    """Moves what waits in the spool into MongoDB, file by file, and returns how many copies that were.

    1. Insert the documents of a file. Dying here: the next mover inserts them onto themselves.
    2. Delete the file.                As above. Two movers at once do the same thing twice.

    A file that cannot be read or moved is left and raised as StoreFailed, after all others have been moved.
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
    """How many of these copies, which this run held, are in quarantine or wait in its spool.

    The spool first: what is moved between the two looks is seen in MongoDB. What was deleted since, because it was
    settled long ago, is in the audit trail.
    """
    missing = set(ids) - {document["_id"] for document in Spool(mongodb).documents(run_id)}
    settled: set[str] = set()
    if missing:
        with mongodb.optional():
            missing -= mongodb.which_ids(COLLECTION, missing)
            settled = mongodb.which_ids(AUDIT, [_audit_id(one) for one in missing])
    return len(set(ids)) - len(missing) + len(settled)


def _insert(mongodb: MongoDB, documents: Sequence[dict[str, Any]]) -> None:
    """Long bodies first. Dying between: the next drain, or mover, writes the same pieces again."""
    for piece in _lots(piece for document in documents for piece in _pieces(document)):
        insert_new(mongodb, PIECES, piece)
    insert_new(mongodb, COLLECTION, [_without_long_body(renewed(document) or document) for document in documents])


def _pieces(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    body = document["body"]
    parts = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)] if _is_long(body) else []
    return [{"_id": _piece_id(document["_id"], number), "body": Binary(part)} for number, part in enumerate(parts)]


def _lots(pieces: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Pieces by so many as one insert may take."""
    lot: list[dict[str, Any]] = []
    for piece in pieces:
        if lot and sum(len(one["body"]) for one in lot) + len(piece["body"]) > PIECE_BYTES:
            yield lot
            lot = []
        lot.append(piece)
    if lot:
        yield lot


def _is_long(body: bytes) -> bool:
    return len(body) > INLINE_BYTES


def _document(
    message: Message, decoded: Decoded, run_id: str, now: datetime, room: Room | None = None
) -> dict[str, Any]:
    kinds, hosts = reasons.of_decoded(decoded), reasons.hosts_of(decoded)
    envelope = envelope_organization(message.queue, message.routing_key)
    document = {
        "_id": document_id(message),
        "queue": message.queue,
        "routing_key": message.routing_key,
        "envelope_organization": envelope,
        "share": (room or Room()).share_of(envelope),
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
        "state": "held",
        "trail": [],
    }
    document["summary"] = summary_of(document, kinds)
    return document | {"held_bytes": len(bson.encode(document)) + len(message.body), "body": Binary(message.body)}


def _repeats(decoded: Decoded, kinds: Iterable[reasons.Kind], envelope: str | None, now: datetime) -> list[str]:
    """What each device repeats in a message, reason by reason, with the day; nothing where something else is wrong."""
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


def summary_of(document: Mapping[str, Any], kinds: Iterable[reasons.Kind]) -> str:
    """All that a list by reason needs of a copy, as one text, because the local stack's MongoDB groups by one field."""
    named = (document["queue"], document["organization_id"], document["agent_version"])
    return json.dumps([*named, sorted(reasons.by_reason(kinds).items())])


def renewed(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What 0.3.0 stored, in today's form; None where it is. It gets no `envelope_organization`: nobody knows it of dead
    letters, and the others' routing keys say whose share it takes."""
    if "summary" in document:
        return None
    kinds = reasons.read(document)
    hosts = list(dict.fromkeys(reasons.read_hosts(document)))
    share = envelope_organization(document["queue"], routing_key_of(document)) or NOBODYS
    new = dict(document) | {"reasons": reasons.stored(kinds), "share": share}
    if hosts:
        new["hosts"] = Binary(reasons.pack_hosts(hosts))
    new["summary"] = summary_of(document, kinds)
    without = {name: value for name, value in new.items() if name != "body"}
    return new | {"held_bytes": len(bson.encode(without)) + document["body_bytes"]}


def renew(mongodb: MongoDB) -> None:
    """Puts what 0.3.0 holds into today's form, without which it is in no list; some at a time. Dying in between: the
    next one goes on. A replay that is begun meanwhile changes none of these fields."""
    query = {"state": "held", "summary": {"$exists": False}}
    with mongodb.errors():
        collection = mongodb.database[COLLECTION]
        while found := list(collection.find(query, {"body": 0}).limit(RENEWED_AT_ONCE)):
            for document in found:
                new = renewed(document) or document
                changed = {name: new[name] for name in new if new[name] != document.get(name)}
                collection.update_one({"_id": document["_id"]}, {"$set": changed})


def _without_long_body(document: dict[str, Any]) -> dict[str, Any]:
    pieces = len(_pieces(document))
    return document | {"body": Binary(b""), "body_pieces": pieces} if pieces else document


def _piece_id(copy: str, number: int) -> str:
    return f"{copy}#{number}"


def body_of(mongodb: MongoDB, document: dict[str, Any]) -> bytes:
    """The original bytes."""
    if not document["body_pieces"]:
        return bytes(document["body"])
    ids = [_piece_id(document["_id"], number) for number in range(document["body_pieces"])]
    with mongodb.errors():
        found = [mongodb.database[PIECES].find_one({"_id": piece_id}) or {} for piece_id in ids]
    return b"".join(piece["body"] for piece in found)


def find(mongodb: MongoDB, document_id: str) -> dict[str, Any] | None:
    """One quarantined copy, with its body."""
    with mongodb.errors():
        return mongodb.database[COLLECTION].find_one({"_id": document_id})


def select(
    mongodb: MongoDB,
    wanted: Wanted = ALL,
    state: str | None = "held",
    names: Iterable[str] = (),
    newest: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Quarantined copies, in this state or any, without their bodies (or only these fields of theirs), the oldest
    first; or so many, the newest first."""
    query = wanted.query() | ({"state": state} if state else {})
    with mongodb.errors():
        found = mongodb.database[COLLECTION].find(query, dict.fromkeys(names, 1) or {"body": 0})
        yield from found.sort("quarantined_at", -1).limit(newest) if newest else found.sort("quarantined_at", 1)


def count(mongodb: MongoDB, state: str | None = "held", wanted: Wanted = ALL) -> int:
    """How many copies there are, in this state or any."""
    if wanted != ALL:
        return sum(1 for _ in select(mongodb, wanted, state, ("_id",)))
    pipeline: list[dict[str, Any]] = [
        {"$match": {"state": state} if state else {}},
        {"$group": {"_id": None, "copies": {"$sum": 1}}},
    ]
    with mongodb.errors():  # the local stack's MongoDB reads every document to count them in the other way
        return next((int(one["copies"]) for one in mongodb.database[COLLECTION].aggregate(pipeline)), 0)


def select_spooled(mongodb: MongoDB, wanted: Wanted = ALL, bodies: bool = False) -> list[dict[str, Any]]:
    """The same of what waits in the spool, with their bodies if wanted: all of it is held."""
    found = {}
    for document in filter(wanted.fits, Spool(mongodb).documents()):
        whole = renewed(document) or document
        found[whole["_id"]] = whole if bodies else {name: value for name, value in whole.items() if name != "body"}
    return sorted(found.values(), key=lambda document: document["quarantined_at"])


def groups(mongodb: MongoDB, wanted: Wanted = ALL) -> tuple[list[Line], bool]:
    """Held copies as `lines` has them, and whether these are all."""
    renew(mongodb)
    summaries = _summaries(mongodb, wanted)
    return _lines(summaries[:MAX_SUMMARIES], wanted.reason), len(summaries) <= MAX_SUMMARIES


def _summaries(mongodb: MongoDB, wanted: Wanted) -> list[tuple[str, int]]:
    """(summary, copies), the most frequent first: made in MongoDB, but for a period, because the local stack's one
    compares no times there. A reason is in the summaries."""
    if wanted.since or wanted.until:
        return Counter(one["summary"] for one in select(mongodb, wanted, names=("summary",))).most_common()
    match = {name: value for name, value in wanted.query().items() if name != "reasons.reason"}
    pipeline: list[dict[str, Any]] = [
        {"$match": match | {"state": "held"}},
        {"$group": {"_id": "$summary", "copies": {"$sum": 1}}},
        {"$sort": {"copies": -1}},
        {"$limit": MAX_SUMMARIES + 1},
    ]
    with mongodb.errors():
        return [(one["_id"], int(one["copies"])) for one in mongodb.database[COLLECTION].aggregate(pipeline)]


def lines(documents: Iterable[dict[str, Any]], only: str | None = None) -> list[Line]:
    """Copies grouped by reason, queue, organization and agent version, the most frequent first; `only` one reason.

    A copy with several reasons stands in the line of each; `points` counts the samples (or events) with that reason.
    """
    return _lines(((document["summary"], 1) for document in documents), only)


def _lines(summaries: Iterable[tuple[str, int]], only: str | None) -> list[Line]:
    counts: dict[tuple[str, str, str | None, str | None], list[int]] = defaultdict(lambda: [0, 0])
    for summary, copies in summaries:
        queue, organization, agent_version, points_by_reason = json.loads(summary)
        for reason, points in points_by_reason:
            if only in (None, reason):
                count = counts[reason, queue, organization, agent_version]
                count[0] += copies
                count[1] += copies * points
    return sorted((Line(*key, *count) for key, count in counts.items()), key=lambda line: -line.copies)


def first_of_each(
    copies: Iterable[Mapping[str, Any]], of_one: int, is_wanted: Callable[[Mapping[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    """The ids of the held copies to replay automatically: of each organization the first `of_one` that are wanted, so
    that copies which no replay takes out of the way hold up nobody else's. `copies` have `share` and `intent`.

    Without those that a person began to replay with changes: only that person knows whether to go on.
    """
    taken: Counter[str | None] = Counter()
    for copy in copies:
        if (copy.get("intent") or {}).get("changes") or taken[copy.get("share")] >= of_one:
            continue
        if is_wanted(copy):
            taken[copy.get("share")] += 1
            yield {"_id": copy["_id"]}


def replay(mongodb: MongoDB, queue: MessageQueue, documents: Iterable[dict[str, Any]], who: str, now: datetime) -> int:
    """Replays held copies as they are, and returns how many messages that were."""
    return len({content_of(one.message) for one in replaying(mongodb, queue, documents, who, now) if one.message})


def replaying(
    mongodb: MongoDB,
    queue: MessageQueue,
    documents: Iterable[dict[str, Any]],
    who: str,
    now: datetime,
    change: Change = NO_CHANGE,
) -> Iterator[Replayed]:
    """Publishes held copies again, through the front door, with a change if there is one; copy by copy as it is asked.

    1. Write the intent into all held copies of the message: what is about to go out, by whom, with which changes.
       Dying before: nothing has happened. Dying half-way: as after it, for whoever begins with any of the copies.
    2. Publish, several held copies of one message once. Dying before: nothing is out, and nobody can know that: the
       copies are left, but for a replay of the very same content, or to be discarded.
    3. Mark it replayed. Dying before: it is out, and the copies are left as after 1. A replay of the same content
       publishes under the same id, which the ledger shows as a duplicate; no other content goes out under that id.

    A copy in which the change is not possible, or changes nothing, stays held; so does one whose replay was begun with
    another content, and one that the broker refuses.
    """
    published: set[tuple[str, str | None, bytes]] = set()
    for one in remade(mongodb, queue, documents, change):
        if one.message is None:
            yield one
            continue
        content = content_of(one.message)
        if problem := _begin(mongodb, one.copy, one.message, change, who, now):
            yield Replayed(one.copy, problem=problem)
            continue
        if content not in published:
            try:
                queue.publish([one.message])
            except StoreFailed as error:  # for what it is: the others go out
                yield Replayed(one.copy, problem=str(error))
                continue
            published.add(content)
        outcome = f"published as message {one.message.message_id}"
        about = {"message_id": one.message.message_id, "changes": change.described()}
        if _mark(mongodb, one.copy, "replayed", who, now, outcome, **about):
            yield one
        else:
            yield Replayed(one.copy, problem=f"somebody else settled it meanwhile; it was {outcome} all the same")


def _begin(mongodb: MongoDB, copy: str, message: Outgoing, change: Change, who: str, now: datetime) -> str | None:
    """Writes the intent to publish this into a copy and the other held copies of its message, and returns None; or why
    it may not be published.

    An intent stays as it was written first. Copies are taken in the order of their ids: of two who begin at the same
    time with two contents, whoever comes second finds the other one's intent in the first copy, and has written none.
    A copy that was delivered after another one was replayed with changes is bound to these too.
    """
    intent = {
        "content": _digest(message),
        "message_id": message.message_id,
        "changes": change.described(),
        "who": who,
        "at": now,
    }
    with mongodb.errors():
        collection = mongodb.database[COLLECTION]
        copies = _copies_of_its_message(mongodb, copy)
        problems = [problem for one in copies if (problem := _begun_otherwise(one, message, copy))]
        for one in () if problems else copies:
            collection.update_one({"_id": one["_id"], "state": "held", "intent": None}, {"$set": {"intent": intent}})
            now_there = collection.find_one({"_id": one["_id"]}, INTENT) or {"state": "deleted"}
            if problem := _begun_otherwise(now_there, message, copy):
                return problem
            if one["_id"] == copy and now_there["state"] != "held":
                return "somebody else settled it meanwhile"
    return next(iter(problems), None)


def _digest(message: Outgoing) -> str:
    return hashlib.sha256(repr(content_of(message)).encode()).hexdigest()


def _begun_otherwise(document: Mapping[str, Any], message: Outgoing, copy: str) -> str | None:
    """Why this message may not be published for a copy, where a replay of it, or of another copy of its message, was
    begun with another content.

    What was replayed as it is, and is here again, was refused again: it may be changed now.
    """
    intent = document.get("intent")
    if not intent or intent["content"] == _digest(message) or (document["state"] != "held" and not intent["changes"]):
        return None
    changes = " ".join(intent["changes"]) or "no change"
    which = document["_id"] if document["state"] == "held" and document["_id"] != copy else "it"
    return (
        f"{intent['who']} began to replay {which} at {intent['at']:%Y-%m-%d %H:%M:%S} UTC with {changes}, and it may "
        f"be out already: replay {which} with the same changes, or discard it"
    )


def _copies_of_its_message(mongodb: MongoDB, copy: str) -> list[dict[str, Any]]:
    """The copies that are replayed as the same message as this one, itself among them, in the order of their ids."""
    collection = mongodb.database[COLLECTION]
    same = ("queue", "routing_key", "message_id", "body_sha256", "whole")
    own = collection.find_one({"_id": copy}, dict.fromkeys((*same, "reasons"), 1))
    if own is None:
        return []
    found = collection.find({name: own[name] for name in same}, {**INTENT, "reasons": 1}).sort("_id", 1)
    return [one for one in found if own["whole"] or _indexes(one) == _indexes(own)]


def _indexes(document: Mapping[str, Any]) -> list[int]:
    """The samples that were rejected, of a message that was partly good."""
    return reasons.indexes_of(reasons.read(document))


def _is_dead_letter(document: Mapping[str, Any]) -> bool:
    return any(one["reason"].startswith(reasons.DEAD_LETTER) for one in document["reasons"])


def routing_key_of(document: Mapping[str, Any]) -> str:
    """The routing key under which a copy may be published again; none for dead letters of 0.3.0, which took it from a
    header that anyone could write."""
    believed = "envelope_organization" in document or not _is_dead_letter(document)
    return str(document["routing_key"]) if believed else ""


def remade(
    mongodb: MongoDB, queue: MessageQueue, documents: Iterable[dict[str, Any]], change: Change
) -> Iterator[Replayed]:
    """What a replay publishes, of those copies that are still held, and why it does not publish the others."""
    for document in documents:
        held = find(mongodb, document["_id"])
        if held is None or held["state"] != "held":
            continue
        try:
            message = again(held, body_of(mongodb, held), change)
        except EditRejected as error:
            yield Replayed(held["_id"], problem=str(error))
            continue
        problem = _misdirected(queue, held, message, change) or _begun_otherwise(held, message, held["_id"])
        yield Replayed(held["_id"], problem=problem) if problem else Replayed(held["_id"], message)


def _misdirected(queue: MessageQueue, held: Mapping[str, Any], message: Outgoing, change: Change) -> str | None:
    """Why this message may not go out for a copy: nobody would be given it, or somebody else than the one for whom the
    broker took it, without a person who says so."""
    routed_by = CONTRACTS[message.queue].routed_by
    if not message.routing_key and held["routing_key"]:
        said = f"its routing key, {held['routing_key']!r}, is what an earlier version read in a header of its sender's"
        return f"{said}: see whose it is, and --set {routed_by}=... makes a new one"
    if not queue.takes(message):
        said = f"{message.queue} is given no messages with the routing key {message.routing_key!r}"
        return f"{said}: --set {routed_by}=... makes a new one"
    before = held.get("envelope_organization")
    after = envelope_organization(message.queue, message.routing_key)
    if (
        "envelope_organization" in held
        and before != after
        and not (routed_by in change.fields or before in change.values)
    ):
        return f"its sender was let publish for {before}, and this would be for {after}"
    return None


def content_of(message: Outgoing) -> tuple[str, str | None, bytes]:
    """What makes two messages the same; another agent's message names its organization in the routing key only."""
    return message.routing_key, message.message_id, hashlib.sha256(message.body).digest()


def again(document: dict[str, Any], body: bytes, change: Change = NO_CHANGE) -> Outgoing:
    """The message that replays a copy: itself, or a message of its rejected samples where the others were written.

    Either has the same id however often, from whichever copy, and with whatever change it is made. Raises CannotChange.
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
    return mended(message, kinds, change) if change else message


def _only_samples(document: dict[str, Any], body: bytes) -> bytes:
    """The samples, lines or entries of a body that were rejected, in the format that they came in."""
    indexes = set(_indexes(document))
    foreign = format_of(document["queue"], document["routing_key"], document["content_type"], body)
    if foreign:
        entries = foreign.entries(text_of(body))
        return foreign.join([entry for index, entry in enumerate(entries) if index in indexes])
    envelope = read_json(body)
    envelope["samples"] = [sample for index, sample in enumerate(envelope["samples"]) if index in indexes]
    return json.dumps(envelope, separators=(",", ":")).encode()


def discard(mongodb: MongoDB, document_id: str, because: str, who: str, now: datetime) -> bool:
    """Gives up a held copy, for a reason that is recorded; False where it is not held. Its bytes stay for 30 days."""
    return _mark(mongodb, document_id, "discarded", who, now, because)


def _mark(mongodb: MongoDB, copy: str, state: str, who: str, now: datetime, outcome: str, **about: Any) -> bool:
    """Sets the state of a held copy, and records it: in the copy's own trail and in the operators' audit trail.

    The state is left once, so of two who act at the same time one gets False. Dying between the two writes, the copy's
    trail has what the audit trail lacks until the copy is deleted.
    """
    step = {"at": now, "who": who, "action": state, "outcome": outcome, **about}
    with mongodb.errors():
        change = {"$set": {"state": state, "trail": [step]}}
        settled = mongodb.database[COLLECTION].find_one_and_update(
            {"_id": copy, "state": "held"}, change, AUDITED, return_document=ReturnDocument.AFTER
        )
    if settled is None:
        return False
    insert_new(mongodb, AUDIT, [_audited(settled)])
    return True


def trail_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who did what with a copy, the oldest first; also that somebody began to replay it, where it was not then marked
    replayed: a message may have gone out, with changes that nothing else names."""
    trail, intent = document["trail"], document.get("intent")
    if not intent or document["state"] == "replayed":
        return list(trail)
    begun = {"action": "began to replay it", "outcome": f"may be out as message {intent['message_id']}"}
    return [{name: intent[name] for name in ("at", "who", "message_id", "changes")} | begun, *trail]


def last_step(mongodb: MongoDB, document_id: str) -> dict[str, Any] | None:
    """Who settled a copy, when and how; of one that was deleted since, from the audit trail. None: nobody did."""
    with mongodb.errors():
        document = mongodb.database[COLLECTION].find_one({"_id": document_id}, {"trail": 1})
        if document:
            return next(reversed(document["trail"]), None)
        return mongodb.database[AUDIT].find_one({"_id": _audit_id(document_id)})


def _audited(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the audit trail has of a settled copy: the step, and an intent that no such step tells of."""
    step = document["trail"][0]
    about = {"entity": "quarantine", "entity_id": document["_id"]}
    if step["action"] != "replayed" and document.get("intent"):
        about["intent"] = document["intent"]
    return {"_id": _audit_id(document["_id"]), **step, **about}


def _audit_id(document_id: str) -> str:
    return f"quarantine/{document_id}"


def delete_settled(mongodb: MongoDB, now: datetime, limit: int = DELETED_AT_MOST) -> int:
    """Deletes copies that were replayed or discarded more than 30 days ago, and returns how many; sooner the oldest of
    them, where all that are settled take more than the limit: a sender whose copies are replayed automatically could
    fill MongoDB with them.

    Dying between any two of these: the documents are still there, and the next one does the rest.

    1. See to it that the audit trail has who settled them and why.
    2. Delete the pieces of their bodies.
    3. Delete the documents.
    """
    moment = now - SETTLED_KEPT
    query = {"state": {"$in": SETTLED}, "quarantined_at": {"$lt": moment}}
    with mongodb.optional(), mongodb.errors():
        names = {**AUDITED, "body_pieces": 1, "held_bytes": 1}
        found = mongodb.database[COLLECTION].find(query, names)
        documents = list(islice((one for one in found if one["trail"][0]["at"] < moment), limit))
        excess = sum(size for state in SETTLED for _, size in _held(mongodb, state).values()) - _limit(mongodb)
        if excess > 0 and not documents:
            oldest = mongodb.database[COLLECTION].find({"state": {"$in": SETTLED}}, names).sort("quarantined_at", 1)
            documents = list(_first_of(oldest.limit(limit), excess))
        insert_new(mongodb, AUDIT, [_audited(one) for one in documents])
        pieces = [_piece_id(one["_id"], number) for one in documents for number in range(one["body_pieces"])]
        mongodb.database[PIECES].delete_many({"_id": {"$in": pieces}})
        mongodb.database[COLLECTION].delete_many({"_id": {"$in": [one["_id"] for one in documents]}})
    return len(documents)


def _first_of(documents: Iterable[dict[str, Any]], size: int) -> Iterator[dict[str, Any]]:
    """As many as take so many bytes."""
    for one in documents:
        if size <= 0:
            return
        size -= one.get("held_bytes") or 0
        yield one
