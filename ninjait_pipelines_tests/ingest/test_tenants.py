"""What one organization may do to another by what it sends: nothing. Hostile messages, and what is kept of them."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import bson
import dagster as dg
import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninjait_pipelines.ingest import outages
from ninjait_pipelines.ingest.decode.message import decode, decode_nothing
from ninjait_pipelines.ingest.decode.model import NOBODY, Decoded, Period, Rejection
from ninjait_pipelines.ingest.ledger import BODY_NOT_KEPT
from ninjait_pipelines.ingest.quarantine import query, reasons
from ninjait_pipelines.ingest.quarantine.audit import AUDIT
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION, body_of, make_document
from ninjait_pipelines.ingest.quarantine.hold import count_held, hold_messages, move_spooled, prepare_quarantine
from ninjait_pipelines.ingest.quarantine.query import QuarantineFilter, select_spooled, summarize, summarize_selection
from ninjait_pipelines.ingest.quarantine.replay import replay_each
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.quarantine.usage import Room, Usage, read_usage
from ninjait_pipelines.ingest.sensors import held_for_known_hosts, replay_registered
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.operations.assets import _bodies, stores_are_up
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS
from ninjait_pipelines_tests.emptied import rabbitmq_channel
from ninjait_pipelines_tests.ingest.conftest import LOG, drained
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    as_published,
    encoded,
    gzipped,
    line,
    message,
    metrics,
    outgoing,
    sample,
    telegraf,
)

PERIOD = Period.at(NOW)
KIB = 1024


def hold(stores: Stores, one: Message, reason: str = "") -> str:
    decoded = decode_nothing(one, reason, "words") if reason else decode(one, REGISTRY, PERIOD)
    hold_messages(stores.mongodb, [(one, decoded)], "run", NOW, LOG)
    return one.copy_id


def small(stores: Stores, **changes: Any) -> Stores:
    """The stores with room for 1 MiB in the quarantine, of which 256 KiB are one organization's."""
    return replace(stores, mongodb=stores.mongodb.model_copy(update={"quarantine_limit_mib": "1", **changes}))


def bad(number: int, organization: str = ORG, size: int = 16 * KIB) -> Any:
    """A message that is refused whole, of so many bytes."""
    return outgoing("agent.metrics", metrics(sample(number), organization_id=organization, schema="x" * size))


def kept(stores: Stores) -> dict[str, int]:
    """How many copies are held, by the organization of their routing key."""
    found = [one["envelope_organization"] for one in query.select(stores.mongodb)]
    return {name: found.count(name) for name in set(found)}


# ---- what is kept of a message


def test_what_is_kept_of_a_message_does_not_grow_with_what_is_wrong_in_it(fleet: Stores) -> None:
    """118 kB of packed lines made reasons of 9,114 times as much, and one tenant stopped everybody's ingest."""
    lines = gzipped((line("swap", "used=1i") + "\n" + "x y z\n" * 9_999).encode())
    sent = [message("agent.metrics", lines, routing_key=f"metrics.telegraf.{ORG}", message_id=None)]
    samples = [sample(n, cpu=-2, memory="\u4e00" * 20, disk_used=True, uptime=-5) for n in range(1_000)]
    sent.append(message("agent.metrics", metrics(*samples)))
    fleet.message_queue.publish(map(as_published, sent))
    summary = drained(fleet)
    assert (summary.points, summary.points_quarantined) == (10_999, 10_999)
    documents = list(query.select(fleet.mongodb))
    assert sorted(one["points_quarantined"] for one in documents) == [1_000, 9_999]
    for one in documents:
        assert len(bson.encode(one)) < 20 * KIB
        assert len(bson.encode(one)) <= one["held_bytes"] < one["body_bytes"] + 20 * KIB
    counts = {line.reason: (line.messages, line.points) for line in summarize_selection(fleet.mongodb)[0]}
    assert counts["bad_line"] == (1, 9_999)
    assert counts["negative"] == counts["boolean_as_number"] == (1, 1_000)


REFUSALS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 9_999),
        st.sampled_from([None, "cpu", "memory", "host"]),
        st.text(max_size=200),
        st.sampled_from(["negative", "bad_line", "unknown_host", "too_old"]),
    ),
    max_size=300,
)


@settings(max_examples=200, deadline=None)
@given(REFUSALS)
def test_of_whatever_is_refused_the_counts_and_the_samples_stay_exact(refusals: list[Any]) -> None:
    stored = {"reasons": reasons.stored(reasons.kinds(refusals))}
    assert len(bson.encode(stored)) < 40 * KIB
    found = {(kind.reason, kind.field): kind for kind in reasons.read(bson.decode(bson.encode(stored)))}
    for key, kind in found.items():
        of = [one for one in refusals if (one[3], one[1]) == key]
        assert kind.count == len(of)
        assert set(kind.indexes) == {one[0] for one in of if one[0] is not None}
        assert set(kind.examples) <= {(one[0], one[2]) for one in of}
    assert sum(kind.count for kind in found.values()) == len(refusals)
    assert reasons.indexes_of(found.values()) == sorted({one[0] for one in refusals if one[0] is not None})


def test_a_host_among_hundreds_that_nobody_knew_is_found_once_it_is_registered(fleet: Stores) -> None:
    names = [f"host-{n}" for n in range(400)]
    copy = hold(fleet, telegraf(*(line("mem", "used=1i", host=name) for name in names)))
    registry = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, {"host-399": {ORG: str(uuid.UUID(int=5))}})
    assert [one["_id"] for one in held_for_known_hosts(fleet.mongodb, registry)] == [copy]
    assert list(held_for_known_hosts(fleet.mongodb, REGISTRY)) == []


# ---- shares


def test_a_full_share_is_one_organization_s_matter(fleet: Stores, ninjait: Any) -> None:
    """One tenant filled the quarantine, and no drain of anybody began."""
    fleet.message_queue.publish([bad(n) for n in range(60)])
    fleet.message_queue.publish([bad(99, OTHER_ORG), outgoing("agent.metrics", metrics(sample(5)))])
    summary = drained(small(fleet))
    assert (summary.messages, summary.points_written, summary.messages_quarantined) == (62, 1, 61)
    held = kept(fleet)
    assert (held[OTHER_ORG], 13 <= held[ORG] <= 16) == (1, True)
    assert summary.bodies_not_kept == 60 - held[ORG]
    count = f"SELECT countIf(has(reasons, '{BODY_NOT_KEPT}')) AS gone, count() AS n FROM message_deliveries FINAL"
    (row,) = fleet.clickhouse.rows(f"{count} WHERE outcome = 'quarantined'")
    assert row == {"gone": 60 - held[ORG], "n": 61}
    since = NOW - timedelta(days=1)
    (ledger,) = fleet.clickhouse.rows(sql("ingest/ledger_of_run"), queue="agent.metrics", run_id="run-1", since=since)
    ids = [f"agent.metrics/{one}" for one in ledger["quarantined_ids"]]
    assert len(ids) == count_held(fleet.mongodb, ids, "run-1") == held[ORG] + 1

    fleet.message_queue.publish([bad(100), bad(101, OTHER_ORG), outgoing("agent.metrics", metrics(sample(6)))])
    summary = drained(small(fleet))
    assert (summary.points_written, summary.bodies_not_kept, kept(fleet)[OTHER_ORG]) == (1, 1, 2)
    (status,) = check_all({"mongodb": small(fleet).mongodb})
    assert (status.ok, stores_are_up([status]).passed) == (True, False)
    assert f"The organization {ORG} has filled 9" in status.note
    assert OTHER_ORG not in status.note
    result = _bodies(fleet.clickhouse)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert f"the organization {ORG} {61 - held[ORG]} (" in str(result.description)
    assert OTHER_ORG not in str(result.description)

    done = ninjait("quarantine", "discard", "--organization", ORG, "--because", "a test", "--yes")
    assert done.stdout == f"discarded {held[ORG]} messages\n"
    fleet.message_queue.publish([bad(102)])
    assert drained(small(fleet)).bodies_not_kept == 0


def test_drains_at_once_leave_one_organization_one_share(fleet: Stores) -> None:
    """By four queues it had four shares, each drain with one of its own: the whole quarantine, and nobody's drain began
    any more."""
    mongodb = small(fleet).mongodb
    rooms = [Room() for _ in range(4)]
    for room in rooms:
        room.begin(read_usage(mongodb), {ORG})
    for n in range(30):
        for number, room in enumerate(rooms):
            one = message("agent.metrics", metrics(sample(), schema="x" * 16 * KIB), n, delivery_id=f"{number}-{n}")
            hold_messages(mongodb, [(one, decode(one, REGISTRY, PERIOD))], "run", NOW, LOG, room)
    assert 13 <= kept(fleet)[ORG] <= 19  # of 120: 15 fill the share, and each drain may put in one more


def test_four_organizations_with_full_shares_stop_nobody_else(fleet: Stores) -> None:
    """With a quarter of the limit each they filled it, and no drain of anybody began."""
    loud = [str(uuid.UUID(int=n)) for n in range(1, 7)]
    with fleet.postgres.transaction() as connection:
        for one in loud:
            connection.execute("INSERT INTO organizations VALUES (%s, %s, %s, 'UTC', now())", (one, one, one))
    stores = small(fleet)
    for _ in range(3):
        fleet.message_queue.publish([bad(n, organization) for n in range(20) for organization in loud])
        drained(stores)
    used = read_usage(stores.mongodb)
    assert 0.6 < used.share < 0.9
    assert {*used.shares} == {*loud}
    fleet.message_queue.publish([bad(99), outgoing("agent.metrics", metrics(sample(5)))])
    summary = drained(stores)
    assert (summary.points_written, summary.bodies_not_kept, kept(fleet)[ORG]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("why", "least", "limit"),
    [
        ("expired", 0.2, 0.26),
        ("StoreUnavailable: ClickHouse is away", 0.4, 0.52),
        ("delivered 6 times and never settled", 0.4, 0.52),
    ],
)
def test_dead_letters_have_a_bound_too(fleet: Stores, why: str, least: float, limit: float) -> None:
    """Whoever sets an expiry makes as many as it likes, and they were kept beyond every share. An outage's have more
    room than those, because nothing is wrong with them."""
    for n in range(120):
        fleet.message_queue.publish([bad(n)])
    with fleet.message_queue.consume("agent.metrics", 200) as consumer:
        while got := consumer.receive(200, 0.5):
            for one in got:
                consumer.reject(one, why)
    stores = small(fleet)
    assert drained(stores).dead_letters == 120
    assert least < read_usage(stores.mongodb).share < limit
    fleet.message_queue.publish([bad(99, OTHER_ORG)])
    assert (drained(stores).bodies_not_kept, kept(fleet)[OTHER_ORG]) == (0, 1)
    result = _bodies(fleet.clickhouse)
    assert f"the organization {ORG} {120 - kept(fleet)[ORG]} (" in str(result.description)


def test_a_refused_message_is_in_the_ledger_as_what_the_broker_let_it_be(fleet: Stores) -> None:
    """An organization whose bodies named another one showed up as that one, in the ledger and in alarms."""
    body = metrics(sample(), organization_id=OTHER_ORG, device_id=OTHER_DEVICE)
    fleet.message_queue.publish([Outgoing("agent.metrics", f"metrics.{ORG}", encoded(body))])
    assert drained(fleet).points_written == 0
    (row,) = fleet.clickhouse.rows("SELECT toString(organization_id) AS id FROM message_deliveries FINAL")
    assert row == {"id": ORG}


@pytest.mark.parametrize("key", [ORG.upper(), f"{{{ORG}}}", f"urn:uuid:{ORG}", f"{ORG}\n", ORG.replace("-", "")])
def test_another_spelling_of_an_organization_in_a_key_is_not_that_organization(fleet: Stores, key: str) -> None:
    """A right to another key is no right to this one: its bad messages were the organization's in the ledger."""
    fleet.message_queue.publish([Outgoing("agent.metrics", f"metrics.{key}", b"x")])
    drained(fleet)
    (row,) = fleet.clickhouse.rows("SELECT toString(organization_id) AS id FROM message_deliveries FINAL")
    (held,) = query.select(fleet.mongodb)
    assert (row["id"], held["share"]) == (NOBODY, "")


def test_of_what_a_device_repeats_one_body_a_day_is_kept(fleet: Stores) -> None:
    """A host of containers with too many interfaces filled its organization's share in weeks, with one thing said."""
    names = [f"eth{n}" for n in range(70)]

    def sent(*hosts: str) -> Outgoing:
        fields = "bytes_recv=1i,bytes_sent=1i"
        return as_published(
            telegraf(*(line("net", fields, 60, host, interface=name) for host in hosts for name in names))
        )

    for hosts in (("lap-1",), ("lap-1", "lap-2"), ("lap-2",), ("lap-1",)):
        fleet.message_queue.publish([sent(*hosts)])
        assert drained(fleet).bodies_not_kept == 0
    assert len(list(query.select(fleet.mongodb))) == 2
    said = "SELECT countIf(has(reasons, 'kept_once_a_day')) AS n, sum(points_quarantined) AS points"
    assert fleet.clickhouse.rows(f"{said} FROM message_deliveries FINAL") == [{"n": 2, "points": 5 * 6}]
    refused = [Rejection(0, "interface", "'eth70'", "too_many_interfaces")]
    decoded = Decoded(uuid.uuid4(), device_id=DEVICE, counters={"time": [1]}, rejections=refused)
    for number, days in enumerate((1, 1, 2)):
        one = telegraf("", delivery_id=f"later-{number}")
        hold_messages(fleet.mongodb, [(one, decoded)], "run", NOW + timedelta(days=days), LOG)
    assert len(list(query.select(fleet.mongodb))) == 4


def test_organizations_that_nobody_knows_share_one_share(fleet: Stores) -> None:
    """Whoever may publish under any key makes up as many as it likes."""
    fleet.message_queue.publish([bad(n, str(uuid.UUID(int=1000 + n))) for n in range(60)])
    fleet.message_queue.publish([bad(99)])
    summary = drained(small(fleet))
    assert 40 <= summary.bodies_not_kept <= 46
    assert kept(fleet)[ORG] == 1


def test_the_spool_has_the_same_shares(fleet: Stores) -> None:
    gone = f"mongodb://127.0.0.1:1/{fleet.mongodb.spool.name}"
    away = MongoDB(url=gone, spool_folder=fleet.mongodb.spool_folder, timeout_seconds=1, quarantine_limit_mib="1")
    for first in (0, 30):
        fleet.message_queue.publish([bad(n) for n in range(first, first + 30)])
        fleet.message_queue.publish([bad(90 + first, OTHER_ORG), outgoing("agent.metrics", metrics(sample(first + 5)))])
        assert drained(replace(fleet, mongodb=away)).points_written == 1
    assert move_spooled(fleet.mongodb, NOW) == sum(kept(fleet).values())
    assert (kept(fleet)[OTHER_ORG], 14 <= kept(fleet)[ORG] <= 17) == (2, True)
    rows = fleet.clickhouse.rows("SELECT count() AS n FROM message_deliveries FINAL WHERE outcome = 'quarantined'")
    assert rows == [{"n": 62}]


def test_dead_letters_are_kept_though_the_share_is_full(fleet: Stores) -> None:
    """They may be good messages, and nothing but their bodies says so."""
    fleet.message_queue.publish([bad(n) for n in range(20)])
    drained(small(fleet))
    good = outgoing("agent.metrics", metrics(sample(1)))
    fleet.message_queue.publish([good])
    with fleet.message_queue.consume("agent.metrics", 1) as consumer:
        (one,) = consumer.receive(1, 2)
        consumer.reject(one, "why")
    assert drained(small(fleet)).dead_letters == 1
    (held,) = query.select(fleet.mongodb, QuarantineFilter(reason="dead_letter"))
    found = query.find(fleet.mongodb, held["_id"]) or {}
    assert body_of(fleet.mongodb, found) == good.body


def test_a_step_that_is_done_again_takes_no_more_room() -> None:
    room = Room()
    room.begin(Usage(0, 0, 400), {ORG})
    one = {"_id": "a", "share": ORG, "held_bytes": 100, "reasons": []}
    assert [room.takes(one), room.takes(one), room.takes(one | {"_id": "b"}), room.takes(one)] == [
        True,
        True,
        False,
        True,
    ]
    assert (room.share_of(OTHER_ORG), room.share_of(None), room.share_of(ORG)) == ("", "", ORG)


# ---- replays


def test_a_replay_goes_to_nobody_else_than_the_envelope_named(fleet: Stores, ninjait: Any) -> None:
    """Whatever became of the copy's routing key: in MongoDB, or by a version that had believed a header."""
    copy = hold(fleet, message("agent.metrics", metrics(sample(cpu=-2))))
    collection = fleet.mongodb.database[COLLECTION]
    collection.update_one({"_id": copy}, {"$set": {"routing_key": f"metrics.{OTHER_ORG}"}})
    done = ninjait("quarantine", "replay", "--everything")
    assert (done.exit_code, fleet.message_queue.depth("agent.metrics").outstanding) == (1, 0)
    assert f"its sender may publish for {ORG}, and this would be for {OTHER_ORG}" in done.stdout


def test_a_person_may_say_whose_it_is_and_that_is_written_down(fleet: Stores, ninjait: Any) -> None:
    body = metrics(sample(), organization_id=OTHER_ORG, device_id=OTHER_DEVICE)
    hold(fleet, message("agent.metrics", body, routing_key=f"metrics.{ORG}"))
    assert ninjait("quarantine", "replay", "--everything").exit_code == 0
    assert drained(fleet).points_written == 0, "under its own key, as it came"
    assert ninjait("quarantine", "replay", "--everything", "--map", f"{ORG}={OTHER_ORG}").exit_code == 0
    assert drained(fleet).points_written == 1
    trails = fleet.mongodb.database[AUDIT].find()
    assert [f"--map {ORG}={OTHER_ORG}"] in [one["changes"] for one in trails]


# ---- headers, from a real broker to the stores


def send(stores: Stores, body: Any, key: str, **headers: Any) -> None:
    """As anybody does who may publish under this key."""
    assert isinstance(stores.message_queue, RabbitMQ)
    _send(stores.message_queue, encoded(body), key, pika.BasicProperties("application/json", headers=headers))


def _send(broker: RabbitMQ, body: bytes, key: Any, properties: Any) -> None:
    with rabbitmq_channel(broker) as channel:
        channel.confirm_delivery()
        channel.basic_publish(EVENTS, key, body, properties, mandatory=True)


@pytest.mark.servers
def test_ten_messages_with_one_id_are_ten_in_the_ledger_and_in_quarantine(fleet: Stores) -> None:
    """Ten messages with one `ninjait-delivery-id`, eight of them bad, left two ledger rows and one quarantined body."""
    mark = {"ninjait-delivery-id": "f" * 32, "ninjait-published-ms": 1_795_257_771_000}
    for n in range(10):
        send(fleet, metrics(sample(n, cpu=5 if n < 2 else -2)), f"metrics.{ORG}", **mark)
    assert drained(fleet).messages == 10
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_deliveries FINAL GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in rows] == [("quarantined", 8), ("written", 2)]
    held = list(query.select(fleet.mongodb))
    assert len({one["body_sha256"] for one in held}) == 8


@pytest.mark.servers
def test_a_forged_x_death_takes_a_replay_to_nobody_else(fleet: Stores, ninjait: Any) -> None:
    """The operator's replay of dead letters wrote one tenant's data into another's device."""
    keys = [f"metrics.{OTHER_ORG}"]
    forged = {
        "x-death": [{"queue": "agent.metrics", "reason": "delivery_limit", "count": 0, "routing-keys": keys}],
        "ninjait-routing-key": keys[0],
        "ninjait-reason": "an outage",
    }
    theirs = metrics(sample(), organization_id=OTHER_ORG, device_id=OTHER_DEVICE)
    for n in range(2):
        send(fleet, theirs | {"n": n}, f"metrics.{ORG}", **forged)
    with fleet.message_queue.consume("agent.metrics", 2) as consumer:
        while got := consumer.receive(1, 1):
            consumer.requeue(got)
    assert drained(fleet).dead_letters == 2
    held = list(query.select(fleet.mongodb))
    assert {(one["routing_key"], one["envelope_organization"]) for one in held} == {(f"metrics.{ORG}", ORG)}
    assert ninjait("quarantine", "replay", "--everything").exit_code == 0
    assert drained(fleet).points_written == 0
    reasons_ = {line.reason for line in summarize_selection(fleet.mongodb)[0]}
    assert reasons_ == {"not_of_its_routing_key"}
    assert fleet.metrics_store.read(NOW - timedelta(hours=1), NOW, [OTHER_DEVICE]).num_rows == 0


# ---- what 0.3.0 left


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


def test_what_else_0_3_0_held_is_listed_shown_mended_and_replayed(fleet: Stores, ninjait: Any) -> None:
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


# ---- lists


def test_lists_are_bounded_and_say_what_they_leave_out(fleet: Stores, ninjait: Any) -> None:
    """7 s for 5,000 copies: every document was read, with its body and all of its reasons."""
    refused = [Rejection(0, "cpu", "-1", "negative"), Rejection(1, "cpu", "-1", "negative")]
    batch = [
        (message("agent.metrics", b"x" * 3000, n, delivery_id=f"d{n}"), Decoded(uuid.UUID(int=n), rejections=refused))
        for n in range(500)
    ]
    for at in range(0, 500, 100):
        moment = NOW + timedelta(seconds=at)
        hold_messages(fleet.mongodb, batch[at : at + 100], "run", moment, LOG)
    (group,) = json.loads(ninjait("quarantine", "list", "--json").stdout)
    assert (group["messages"], group["points"]) == (500, 1000)
    listed = ninjait("quarantine", "list", "--all", "--json")
    assert (len(json.loads(listed.stdout)), listed.stderr) == (200, "and 300 older messages: --limit\n")
    assert {row["id"] for row in json.loads(listed.stdout)} == {f"agent.metrics/d{n}" for n in range(300, 500)}
    more = ninjait("quarantine", "list", "--all", "--limit", "600", "--json")
    assert (len(json.loads(more.stdout)), more.stderr) == (500, "")
    assert all(not one["body"] for one in fleet.mongodb.database[COLLECTION].find())


@pytest.mark.parametrize("name", ["reason", "queue", "organization"])
def test_a_selection_is_served_by_an_index(fleet: Stores, name: str) -> None:
    prepare_quarantine(fleet.mongodb, NOW, LOG)
    keys = [list(index["key"]) for index in fleet.mongodb.database[COLLECTION].list_indexes()]
    (field,) = QuarantineFilter(**{name: "x"}).query()
    assert ["state", field, "quarantined_at"] in keys


NO_TEXT = b"\xff" * 200  # each of them is three bytes as text, and 255 is the most that the broker takes


@pytest.mark.servers
def test_a_content_type_that_is_no_text_stops_nobody_s_replay(fleet: Stores) -> None:
    """The sensor that replays what came from a host before it was registered failed for it, at every tick."""
    assert isinstance(fleet.message_queue, RabbitMQ)
    for content_type in (NO_TEXT, "text/plain"):
        body = line("mem", f"used={len(content_type)}i", host="newcomer").encode()
        _send(fleet.message_queue, body, f"metrics.telegraf.{ORG}", pika.BasicProperties(content_type))
    assert drained(fleet).messages_quarantined == 2
    registry = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, {"newcomer": {ORG: DEVICE}})
    assert replay_registered(fleet.mongodb, fleet.message_queue, registry, NOW) == 2


@pytest.mark.servers
def test_one_that_the_broker_refuses_does_not_hold_up_the_other_replays(fleet: Stores) -> None:
    copies = [
        hold(fleet, message("agent.metrics", metrics(sample(n)), content_type=kind, delivery_id=f"{n}"), "dead_letter")
        for n, kind in enumerate(("x" * 300, "application/json"))
    ]
    found = [{"_id": copy} for copy in copies]
    refused, replayed = replay_each(fleet.mongodb, fleet.message_queue, found, "me", NOW)
    assert "longer than 255 bytes" in refused.problem
    assert (replayed.copy, replayed.problem) == (copies[1], "")


@pytest.mark.servers
def test_a_routing_key_that_is_no_text_costs_nobody_else_the_last_delivery(fleet: Stores) -> None:
    """What a drain gives back for the last time is published anew together: all of it became dead letters."""
    broker = fleet.message_queue
    assert isinstance(broker, RabbitMQ)
    _send(broker, b"x", b"metrics.telegraf." + NO_TEXT, pika.BasicProperties())
    send(fleet, metrics(sample()), f"metrics.{ORG}")
    with broker.consume("agent.metrics", 2) as consumer:
        for _ in range(broker.delivery_limit):
            consumer.requeue(consumer.receive(2, 2))
        assert {one.deliveries for one in consumer.receive(2, 2)} == {broker.delivery_limit + 1}
        consumer.spare()
    depth = broker.depth("agent.metrics")
    assert (depth.ready, depth.dead) == (2, 0)
