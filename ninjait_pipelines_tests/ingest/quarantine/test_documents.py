"""Documents of 0.3.0 are listed, shown, edited, replayed and counted as those of today."""

import json
import uuid
from datetime import timedelta
from typing import Any

import bson
import dagster as dg

from ninjait_pipelines.ingest import outages
from ninjait_pipelines.ingest.decode.message import decode, decode_nothing
from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION, make_document
from ninjait_pipelines.ingest.quarantine.hold import move_spooled
from ninjait_pipelines.ingest.quarantine.query import select_spooled, summarize, summarize_selection
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.quarantine.usage import read_usage
from ninjait_pipelines.ingest.sensors import held_for_known_hosts
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.quarantine.helpers import (
    KIB,
    PERIOD,
)
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    line,
    message,
    metrics,
    sample,
    telegraf,
)


def as_0_3_0(stores: Stores, one: Message, decoded: Decoded, **fields: Any) -> str:
    """Holds a copy as 0.3.0 did."""
    new = make_document(one, decoded, "run", NOW)
    for name in ("envelope_organization", "share", "summary", "hosts"):
        new.pop(name, None)
    found = [{"index": r.index, "field": r.field, "value": r.value, "reason": r.reason} for r in decoded.rejections]
    stores.mongodb.insert_new(COLLECTION, [new | {"reasons": found} | fields])
    return str(new["_id"])


def test_a_dead_letter_of_0_3_0_is_replayed_only_as_a_person_says(fleet: Stores, ninjait: Any) -> None:
    """Its routing key may be what its sender wrote into `x-death`."""
    one = message("agent.metrics", metrics(sample(), organization_id=OTHER_ORG, device_id=OTHER_DEVICE))
    copy = as_0_3_0(fleet, one, decode_nothing(one, "dead_letter", "StoreUnavailable: no answer"))
    with dg.DagsterInstance.ephemeral() as instance:
        assert list(outages.waiting(fleet.mongodb, instance, {}, 10)) == []
    assert [row["reason"] for row in json.loads(ninjait("quarantine", "list", "--json").stdout)] == ["dead_letter"]
    done = ninjait("quarantine", "replay", "--everything")
    assert (done.exit_code, fleet.message_queue.depth("agent.metrics").outstanding) == (1, 0)
    assert f"an earlier version took its routing key, 'metrics.{OTHER_ORG}', from a header" in done.stdout
    assert ninjait("quarantine", "replay", "--everything", "--set", f"organization_id={ORG}").exit_code == 1
    done = ninjait("quarantine", "replay", "--id", copy, "--set", f"organization_id={OTHER_ORG}")
    assert (done.exit_code, drained(fleet).points_written) == (0, 1), done.output


def test_what_else_0_3_0_held_is_listed_shown_edited_and_replayed(fleet: Stores, ninjait: Any) -> None:
    body = metrics(*(sample(n, cpu=-2 if n % 3 else 5) for n in range(600)))
    one = message("agent.metrics", body)
    copy = as_0_3_0(
        fleet, one, decode(one, REGISTRY, PERIOD), intent={"changes": [], "who": "me", "at": NOW, "message_id": ""}
    )
    (group,) = json.loads(ninjait("quarantine", "list", "--json").stdout)
    assert (group["reason"], group["messages"], group["points"], group["agent_version"]) == (
        "negative",
        1,
        400,
        "2.4.1",
    )
    held = query.find(fleet.mongodb, copy) or {}
    assert (held["intent"]["who"], len(bson.encode(held["reasons"][0])) < 4 * KIB) == ("me", True)
    assert "envelope_organization" not in held
    assert "and 380 more: 380 of cpu: negative" in ninjait("quarantine", "show", copy).stdout
    fleet.mongodb.database[COLLECTION].update_one({"_id": copy}, {"$set": {"intent": None}})
    assert ninjait("quarantine", "replay", "--everything", "--set", "cpu=7").exit_code == 0
    assert drained(fleet).points_written == 400
    read = fleet.metrics_store.read(NOW - timedelta(hours=1), NOW, [DEVICE]).to_pylist()
    assert {row["cpu"] for row in read} == {7.0}


def test_what_0_3_0_held_takes_the_share_of_whose_it_is(fleet: Stores) -> None:
    """All of it was nobody's, whose share was full from then on. Of dead letters nobody knows whose they are."""
    one, other = message("agent.metrics", metrics(sample(cpu=-2))), message("agent.metrics", b"x", 9, delivery_id="d")
    as_0_3_0(fleet, one, decode(one, REGISTRY, PERIOD))
    as_0_3_0(fleet, other, decode_nothing(other, "dead_letter", "words"))
    query.upgrade(fleet.mongodb)
    assert {share: size > 0 for share, size in read_usage(fleet.mongodb).shares.items()} == {ORG: True, "": True}


def test_what_0_3_0_spooled_is_moved_in_today_s_form(fleet: Stores) -> None:
    one = telegraf(line("mem", "used=1i", host="new"), *["x y z"] * 500)
    copy = as_0_3_0(fleet, one, decode(one, REGISTRY, PERIOD))
    old = query.find(fleet.mongodb, copy) or {}
    fleet.mongodb.database[COLLECTION].delete_many({})
    Spool(fleet.mongodb).put([old], "run")
    assert [found.points for found in summarize(select_spooled(fleet.mongodb))] == [500, 1]
    assert move_spooled(fleet.mongodb, NOW) == 1
    lines = summarize_selection(fleet.mongodb)[0]
    assert sorted((found.reason, found.points) for found in lines) == [("bad_line", 500), ("unknown_host", 1)]
    registry = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, {"new": {ORG: str(uuid.UUID(int=5))}})
    assert [found["_id"] for found in held_for_known_hosts(fleet.mongodb, registry)] == [copy]
