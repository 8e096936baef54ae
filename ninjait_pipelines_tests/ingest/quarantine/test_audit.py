"""What was resolved is recorded, and deleted 30 days later."""

from datetime import timedelta
from typing import Any

import pymongo.collection
import pytest

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.quarantine import audit, query
from ninjait_pipelines.ingest.quarantine.audit import delete_resolved
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION, PIECES
from ninjait_pipelines.ingest.quarantine.hold import count_held, hold_messages
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import LOG
from ninjait_pipelines_tests.ingest.quarantine.helpers import fill, small, states
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    REGISTRY,
    message,
)

LONG = b"x" * 9_000_000


def discarded(stores: Stores, name: str, body: bytes = b"x") -> None:
    """Holds a copy and discards it."""
    one = message("agent.metrics", body, delivery_id=name)
    hold_messages(stores.mongodb, [(one, decode(one, REGISTRY, Period.at(NOW)))], "run", NOW, LOG)
    assert audit.discard(stores.mongodb, f"agent.metrics/{name}", f"because {name}", "test", NOW)


def test_what_was_resolved_30_days_ago_is_deleted_and_nothing_else(fleet: Stores) -> None:
    for n in range(120):
        discarded(fleet, f"old-{n:03}")
    discarded(fleet, "long", LONG)
    fill(fleet, 0.2)
    database = fleet.mongodb.database
    ids = [f"agent.metrics/{name}" for name in ("old-001", "long")]
    database["audit_trail"].delete_one({"entity_id": "agent.metrics/old-002"})  # it died between its two writes
    month = NOW + timedelta(days=30)
    assert delete_resolved(fleet.mongodb, month) == 0
    month += timedelta(seconds=1)
    later = [{"at": month, "who": "test", "action": "discarded", "outcome": "later"}]
    database[COLLECTION].update_one({"_id": ids[0]}, {"$set": {"trail": later}})
    assert delete_resolved(fleet.mongodb, month, limit=60) == 60
    assert database[COLLECTION].count_documents({}) == 121 - 60 + 3
    assert delete_resolved(fleet.mongodb, month) == 60
    left = {document["_id"]: document["state"] for document in database[COLLECTION].find()}
    assert left.pop(ids[0]) == "discarded", "resolved a month later"
    assert set(left.values()) == {"held"}
    assert database[PIECES].count_documents({}) == 3, "of what is held"
    reasons = {row["entity_id"]: row["outcome"] for row in database["audit_trail"].find()}
    assert (len(reasons), reasons["agent.metrics/old-002"]) == (121, "because old-002")
    assert count_held(fleet.mongodb, [*ids, "agent.metrics/lost"], "run") == 2


def test_what_is_resolved_has_a_limit_too(fleet: Stores) -> None:
    """A sender's copies were replayed each time that it registered their hosts: all of them stayed for 30 days, and
    counted towards nothing."""
    for n in range(24):
        discarded(fleet, f"{n:02}", b"x" * 50_000)
        mine = {"$set": {"quarantined_at": NOW + timedelta(seconds=n)}}
        fleet.mongodb.database[COLLECTION].update_one({"_id": f"agent.metrics/{n:02}"}, mine)
    fill(fleet, 0.2)
    assert delete_resolved(small(fleet).mongodb, NOW) == 4
    assert delete_resolved(small(fleet).mongodb, NOW) == 0
    left = {document["_id"] for document in fleet.mongodb.database[COLLECTION].find({"state": "discarded"})}
    assert left == {f"agent.metrics/{n:02}" for n in range(4, 24)}
    assert fleet.mongodb.database["audit_trail"].count_documents({}) == 24
    assert len(list(query.select(fleet.mongodb))) == 3


def test_a_deletion_that_is_killed_half_way_is_done_by_the_next_one(
    fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    discarded(fleet, "long", LONG)
    month = NOW + timedelta(days=31)
    deleted: list[str] = []
    delete_many = pymongo.collection.Collection.delete_many

    def killed(collection: Any, query: Any) -> Any:
        if collection.name == COLLECTION:
            raise KeyboardInterrupt
        deleted.append(collection.name)
        return delete_many(collection, query)

    with monkeypatch.context() as patch:
        patch.setattr(pymongo.collection.Collection, "delete_many", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_resolved(fleet.mongodb, month)
    assert (deleted, len(states(fleet))) == ([PIECES], 1)
    assert delete_resolved(fleet.mongodb, month) == 1
    assert (states(fleet), fleet.mongodb.database["audit_trail"].count_documents({})) == ([], 1)
