"""How much the quarantine holds against its limit, and how much of that each organization may use.

No organization can use up what others need: each may hold a third of what is free, so one alone fills a quarter of the
limit, some room is left however many there are, and a thousandth of the limit is guaranteed to each. (Switches share
their buffers in this way: Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998.) Dead letters of an outage may be
good: of these an organization may hold as much as is free.

Which organization a message counts for follows from the routing key that the broker let its sender use. Messages of no
organization that PostgreSQL knows have one share together.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from ninjait_pipelines.ingest.decode.third_party import MEBIBYTE
from ninjait_pipelines.ingest.quarantine import reasons
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION, HELD, NO_ORGANIZATION, is_dead_letter
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.settings import THRESHOLDS

# How full the limit, or a share, is when store_health begins to warn.
NEARLY_FULL = THRESHOLDS.quarantine_warn_percent / 100
# The part of the free room that one organization may hold: of bad messages, and of an outage's dead letters.
SHARE, SHARE_OF_DEAD_LETTERS = 1 / 3, 1
# The part of the limit that each may hold even if nothing is free: the limit was lowered, or filled by 0.3.0.
GUARANTEED = 1 / 1024
# The part of the limit that a drain fills before it looks again at what the drains of other queues have stored.
LOOK_AGAIN = 1 / 64
Shares = Mapping[str, tuple[int, int]]  # share -> (messages, bytes)


class Usage(msgspec.Struct, frozen=True):
    """What is quarantined, in MongoDB and in the spool, against the limit."""

    messages: int
    bytes: int
    limit: int
    shares: Mapping[str, int] = {}

    @property
    def share(self) -> float:
        """How full it is; 1 is full."""
        return self.bytes / self.limit

    def fullest(self) -> list[tuple[str, float]]:
        """The organizations whose share is nearly full, and how full, the fullest first."""
        limit = max_held(self.limit, self.bytes)
        found = [(share, size / limit) for share, size in self.shares.items() if size / limit >= NEARLY_FULL]
        return sorted(found, key=lambda entry: -entry[1])

    def __str__(self) -> str:
        used, limit = self.bytes // MEBIBYTE, self.limit // MEBIBYTE
        noun = "message" if self.messages == 1 else "messages"
        return f"{used:,} of {limit:,} MiB in {self.messages:,} quarantined {noun}"


def max_held(limit: float, used: float, of_free: float = SHARE) -> float:
    """Bytes that one organization may hold while all together hold `used`."""
    return max(limit * GUARANTEED, (limit - used) * of_free)


class Room:
    """What each organization may still put into quarantine during one drain.

    A message counts once, however often it is stored: a step that failed is repeated.
    """

    def __init__(self) -> None:
        self.begin(Usage(0, 0, 0), None)

    def begin(self, used: Usage, organizations: Collection[str] | None) -> None:
        """Starts from what is there. Without organizations there are no shares."""
        self._organizations = organizations
        self._limit = math.inf if organizations is None else used.limit
        self.look(used)
        self._kept: set[str] = set()
        self.once_a_day: dict[str, str] = {}  # key of a repetition -> the document that is kept of it
        self.left_out: set[str] = set()

    def look(self, used: Usage) -> None:
        """Goes on from what is there now."""
        self._used = Counter(used.shares)
        self._total, self._taken = used.bytes, 0

    @property
    def is_stale(self) -> bool:
        """Whether this drain has stored so much that it should look at what the others have."""
        return self._taken >= self._limit * LOOK_AGAIN

    def share_of(self, organization: str | None) -> str:
        """The share of an organization: its own if PostgreSQL knows it, otherwise the common one."""
        known = self._organizations is None or organization in self._organizations
        return organization if organization and known else NO_ORGANIZATION

    def takes(self, document: Mapping[str, Any]) -> bool:
        """Whether there is room for a document, which it then takes."""
        document_id, share, size = document["_id"], document["share"], document["held_bytes"]
        if document_id in self._kept:
            return True
        of_an_outage = is_dead_letter(document) and reasons.may_be_of_an_outage(document)
        of_free = SHARE_OF_DEAD_LETTERS if of_an_outage else SHARE
        if self._used[share] + size > max_held(self._limit, self._total, of_free):
            return False
        self._used[share] += size
        self._total += size
        self._taken += size
        self._kept.add(document_id)
        return True


def read_usage(mongodb: MongoDB, away: bool = False) -> Usage:
    """How full the quarantine is; `away`: by what MongoDB held when a drain last saw it. Raises StoreError where that
    cannot be read."""
    spool = Spool(mongodb)
    with mongodb.errors():
        return sum_usage(mongodb, spool.noted_held() if away else held_by_share(mongodb), spool.shares())


def latest_usage(mongodb: MongoDB) -> Usage:
    """How full the quarantine is, by the last note of it while MongoDB is away."""
    try:
        with mongodb.optional():
            return read_usage(mongodb)
    except StoreError:
        return read_usage(mongodb, away=True)


def sum_usage(mongodb: MongoDB, *parts: Shares) -> Usage:
    """The usage that these parts add up to."""
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes.update({share: size for share, (_, size) in part.items()})
    messages = sum(count for part in parts for count, _ in part.values())
    return Usage(messages, sizes.total(), limit_of(mongodb), sizes)


def limit_of(mongodb: MongoDB) -> int:
    """The limit in bytes."""
    return mongodb.quarantine_limit_mib * MEBIBYTE


def held_by_share(mongodb: MongoDB, state: str = HELD) -> dict[str, tuple[int, int]]:
    """Share -> (messages, bytes) that MongoDB has in this state, summed over the documents: a counter would be wrong
    after a crash.

    The local stack's MongoDB gives null for a sum where no document has the field: earlier versions wrote none.
    """
    totals = {"messages": {"$sum": 1}, "bytes": {"$sum": "$held_bytes"}}
    pipeline: list[dict[str, Any]] = [{"$match": {"state": state}}, {"$group": {"_id": "$share", **totals}}]
    found: dict[str, tuple[int, int]] = {}
    for group in mongodb.database[COLLECTION].aggregate(pipeline):
        found[group["_id"] or NO_ORGANIZATION] = int(group["messages"]), int(group["bytes"] or 0)
    return found
