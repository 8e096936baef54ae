"""Replays: idempotent, never to another organization, and never two contents under one id."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pika
import pytest

from ninjait_pipelines.ingest.decode.message import decode, decode_nothing
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.quarantine import audit, query
from ninjait_pipelines.ingest.quarantine.audit import AUDIT, delete_resolved
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION
from ninjait_pipelines.ingest.quarantine.edit import Edits
from ninjait_pipelines.ingest.quarantine.hold import hold_messages
from ninjait_pipelines.ingest.quarantine.query import summarize_selection
from ninjait_pipelines.ingest.quarantine.replay import Replay, replay_each
from ninjait_pipelines.ingest.sensors import replay_registered
from ninjait_pipelines.messages import Message, Outgoing, fits
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.rabbitmq import topology
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines_tests.ingest.conftest import LOG, drained, lines
from ninjait_pipelines_tests.ingest.drains import ledger
from ninjait_pipelines_tests.ingest.quarantine.helpers import hold, publish_bad, replay_and_die, states
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    ago,
    collectd,
    encoded,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)
from ninjait_pipelines_tests.truncated_stores import rabbitmq_channel

NO_TEXT = b"\xff" * 200  # each of them is three bytes as text, and 255 is the most that the broker takes
CALLS = "platform.api_calls"
CALL = EVENTS[CALLS] | {"timestamp": "yesterday"}
FIRST, SECOND = f"timestamp={ago(minutes=9)}", f"timestamp={ago(minutes=8)}"
EARLIER = Edits({"timestamp": ago(minutes=9)})


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


def send(stores: Stores, body: Any, key: str, **headers: Any) -> None:
    """As anybody does who may publish under this key."""
    assert isinstance(stores.message_queue, RabbitMQ)
    _send(stores.message_queue, encoded(body), key, pika.BasicProperties("application/json", headers=headers))


def _send(broker: RabbitMQ, body: bytes, key: Any, properties: Any) -> None:
    with rabbitmq_channel(broker) as channel:
        channel.confirm_delivery()
        channel.basic_publish(topology.EVENTS, key, body, properties, mandatory=True)


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
    assert (replayed.document_id, replayed.problem) == (copies[1], "")


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


def publish_calls(stores: Stores, *bodies: Any) -> list[str]:
    return publish_bad(stores, *bodies, queue=CALLS)


def depth(stores: Stores) -> int:
    return stores.message_queue.depth(CALLS).outstanding


def state_of(stores: Stores, copy: str) -> str:
    return str((query.find(stores.mongodb, copy) or {})["state"])


def calls(stores: Stores) -> int:
    return int(stores.clickhouse.scalar("SELECT count() FROM api_calls"))


def test_a_replay_that_died_is_done_again_with_the_same_change_only(ninjait: Any, fleet: Stores) -> None:
    """A replay was killed before it could mark what it had published; the next one set another time, and the call was
    billed twice: the time is in its key."""
    (copy,) = publish_calls(fleet, CALL)
    replay_and_die(fleet, EARLIER)
    assert (depth(fleet), state_of(fleet, copy)) == (1, "held")
    for change in (("--set", SECOND), ()):
        for more in ((), ("--dry-run",)):
            refused = ninjait("quarantine", "replay", "--everything", *change, *more)
            assert refused.exit_code == 1
            assert f"UTC with --set {FIRST}, and it may be out already: replay it with the same" in refused.stdout
    assert depth(fleet) == 1
    shown = ninjait("quarantine", "show", copy).stdout
    assert f"began to replay it: may be out as message {copy_message(fleet, copy)}\n   --set {FIRST}\n" in shown
    assert "   not drained yet\n" in shown

    done = ninjait("quarantine", "replay", "--everything", "--set", FIRST)
    assert (done.exit_code, done.stdout) == (0, "replayed 1 message\n")
    assert (depth(fleet), state_of(fleet, copy)) == (2, "replayed")
    assert "began" not in ninjait("quarantine", "show", copy).stdout
    drained(fleet, CALLS)
    assert (calls(fleet), ledger(fleet)) == (1, {"written": 1, "duplicate": 2})


def copy_message(stores: Stores, copy: str) -> str:
    return str((query.find(stores.mongodb, copy) or {})["message_id"])


def test_the_same_content_by_another_change_is_the_same(ninjait: Any, fleet: Stores) -> None:
    publish_calls(fleet, CALL)
    replay_and_die(fleet, EARLIER)
    time = FIRST.partition("=")[2]
    assert ninjait("quarantine", "replay", "--everything", "--map", f"yesterday={time}").exit_code == 0
    drained(fleet, CALLS)
    assert calls(fleet) == 1


class Recorder:
    """A queue that keeps what is published."""

    def __init__(self) -> None:
        self.out: list[Outgoing] = []

    def takes(self, _: Outgoing) -> bool:
        return True

    def publish(self, messages: list[Outgoing]) -> None:
        self.out += messages


def test_dying_before_it_is_published_binds_to_the_change_as_well(fleet: Stores) -> None:
    (copy,) = publish_calls(fleet, CALL)

    class Gone(Recorder):
        def publish(self, _: Any) -> None:
            raise KeyboardInterrupt

    def replaying(queue: Any, typed: str) -> list[Replay]:
        change = Edits(dict([typed.split("=")]))
        return list(replay_each(fleet.mongodb, queue, [{"_id": copy}], "me", NOW, change))

    with pytest.raises(KeyboardInterrupt):
        replaying(Gone(), FIRST)
    (other,) = replaying(fleet.message_queue, SECOND)
    assert (other.message, depth(fleet)) == (None, 0)
    assert other.problem.startswith(f"me began to replay it at {NOW:%Y-%m-%d %H:%M:%S} UTC with --set {FIRST}")
    (same,) = replaying(fleet.message_queue, FIRST)
    assert same.message
    assert depth(fleet) == 1


def test_of_two_who_begin_at_the_same_time_one_publishes(fleet: Stores) -> None:
    """With other changes, and from either copy of one message."""

    def begin(queue: Any, copy: str, minutes: int, ready: threading.Barrier) -> None:
        change = Edits({"timestamp": ago(minutes=minutes)})
        ready.wait()
        list(replay_each(fleet.mongodb, queue, [{"_id": copy}], f"person {minutes}", NOW, change))

    for number in range(10):
        copies = [message(CALLS, CALL, number, delivery_id=f"{number}-{name}") for name in "ab"]
        rejected = [(one, decode(one, REGISTRY, Period.at(NOW))) for one in copies]
        hold_messages(fleet.mongodb, rejected, "run", NOW, LOG)
        queue, ready = Recorder(), threading.Barrier(4)
        with ThreadPoolExecutor(4) as people:
            begun = [people.submit(begin, queue, copies[minutes % 2].copy_id, minutes, ready) for minutes in range(4)]
            assert [one.result() for one in begun] == [None] * 4
        assert len(queue.out) == 1
        assert queue.out[0].message_id == copies[0].message_id


def test_another_copy_of_a_message_is_bound_to_its_change(ninjait: Any, fleet: Stores) -> None:
    """Two copies of one call were held. Each was replayed by its id, at another time, and the call was billed twice."""
    first, second = publish_calls(fleet, CALL, CALL)
    assert ninjait("quarantine", "replay", "--id", first, "--set", FIRST).exit_code == 0
    assert ninjait("quarantine", "replay", "--id", second, "--set", SECOND).exit_code == 1
    assert f"--set {FIRST}" in ninjait("quarantine", "show", second).stdout
    (third,) = set(publish_calls(fleet, CALL)) - {second}
    late = ninjait("quarantine", "replay", "--id", third, "--set", SECOND)
    assert (late.exit_code, f"with --set {FIRST}, and it may be out" in late.stdout) == (1, True)
    for copy in (second, third):
        assert ninjait("quarantine", "replay", "--id", copy, "--set", FIRST).exit_code == 0
    drained(fleet, CALLS)
    assert calls(fleet) == 1


def test_what_comes_back_is_changed_again_as_often_as_it_takes(ninjait: Any, fleet: Stores) -> None:
    publish_calls(fleet, CALL | {"method": 1})
    for change in ((), ("--set", "method=" + "x" * 30), ("--set", FIRST), ("--set", "method=GET")):
        assert ninjait("quarantine", "replay", "--everything", *change).exit_code == 0
        drained(fleet, CALLS)
    assert (calls(fleet), list(query.select(fleet.mongodb))) == (1, [])


def test_samples_of_a_partly_good_message_are_bound_too(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(60), sample(timestamp="yesterday")))
    replay_and_die(fleet, EARLIER)
    assert ninjait("quarantine", "replay", "--everything", "--set", SECOND).exit_code == 1
    assert ninjait("quarantine", "replay", "--everything", "--set", FIRST).exit_code == 0
    drained(fleet)
    assert len(fleet.metrics_store.read(NOW - timedelta(hours=1), NOW)) == 2


def test_what_may_be_out_is_told_after_it_was_discarded_too(ninjait: Any, fleet: Stores) -> None:
    (copy,) = publish_calls(fleet, CALL)
    replay_and_die(fleet, EARLIER)
    drained(fleet, CALLS)
    ninjait("quarantine", "discard", "--id", copy, "--because", "it is out")
    shown = ninjait("quarantine", "show", copy).stdout.partition(" began to replay it: may be out as message ")[2]
    steps = shown.splitlines()[1:4]
    assert steps[:2] == [f"   --set {FIRST}", "   written (1 of 1 points) by run run-1"]
    assert steps[2].endswith(" discarded: it is out")
    audited: Any = fleet.mongodb.database["audit_trail"].find_one({"entity_id": copy})
    assert (audited["action"], audited["intent"]["changes"]) == ("discarded", [f"--set {FIRST}"])
    assert isinstance(audited["intent"]["at"], datetime)
    fleet.mongodb.database["audit_trail"].delete_many({})
    delete_resolved(fleet.mongodb, NOW + timedelta(days=31))
    again: Any = fleet.mongodb.database["audit_trail"].find_one({"entity_id": copy})
    assert again == audited


def test_a_broker_that_is_away_binds_nothing(ninjait: Any, fleet: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_calls(fleet, CALL)
    with monkeypatch.context() as patch:
        patch.setattr(type(fleet.message_queue), "depth", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        ninjait("quarantine", "replay", "--everything", "--set", FIRST)
    assert ninjait("quarantine", "replay", "--everything", "--set", SECOND).exit_code == 0


def held_without_keys(stores: Stores, queue: str, *bodies: Any, **fields: Any) -> list[str]:
    """Holds dead letters whose headers could not be read; their ids."""
    letters = [message(queue, body, number, routing_key="", **fields) for number, body in enumerate(bodies, 10)]
    batch = [(letter, decode_nothing(letter, "dead_letter", "words")) for letter in letters]
    hold_messages(stores.mongodb, batch, "run", NOW, LOG)
    return [letter.copy_id for letter in letters]


def test_what_the_broker_would_give_back_holds_up_no_other_copy(
    ninjait: Any, fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ gave the replay of what has no routing key back, which ended the replay of all that came after it, each
    time; and as it had been begun, the change that names a key was refused."""
    monkeypatch.setattr(type(fleet.message_queue), "takes", lambda _, one: fits(one.queue, one.routing_key))
    good = message(CALLS, EVENTS[CALLS])
    (first, other) = held_without_keys(fleet, CALLS, EVENTS[CALLS], EVENTS[CALLS] | {"organization_id": OTHER_ORG})
    hold_messages(fleet.mongodb, [(good, decode_nothing(good, "dead_letter", "words"))], "run", NOW, LOG)
    said = f"left: {CALLS} gets no messages with the routing key '': make a new one by --set organization_id=..."
    for code, *more in ((0,), (1, "--dry-run")):  # 1: nothing else is left to publish
        done = ninjait("quarantine", "replay", "--reason", "dead_letter", *more)
        assert (said in done.stdout, done.exit_code) == (True, code)
    assert (depth(fleet), state_of(fleet, first)) == (1, "held")
    done = ninjait("quarantine", "replay", "--reason", "dead_letter", "--set", f"organization_id={ORG}")
    assert f"left: its routing key is lost, and its body has organization_id {OTHER_ORG}" in done.stdout
    assert (done.exit_code, state_of(fleet, first), state_of(fleet, other)) == (0, "replayed", "held")
    drained(fleet, CALLS)
    assert calls(fleet) == 2


@pytest.mark.parametrize(
    ("agent", "lost"),
    [
        ("telegraf", telegraf(line("mem", "used=1048576i"))),
        ("collectd", collectd(value_list("memory", "memory", 1048576, type_instance="used", host="lap-2"))),
    ],
)
def test_another_agents_message_gets_a_new_routing_key(ninjait: Any, fleet: Stores, agent: str, lost: Message) -> None:
    copy, _ = held_without_keys(fleet, "agent.metrics", lost.body, lost.body, content_type=lost.content_type)
    many = ninjait("quarantine", "replay", "--everything", "--set", f"organization_id={ORG}")
    assert "2 of these messages have no routing key that names their organization" in many.stderr
    refused = ninjait("quarantine", "replay", "--id", copy, "--set", "cpu=5")
    assert (refused.exit_code, "it is from a third-party agent" in refused.stdout) == (1, True)
    assert ninjait("quarantine", "replay", "--id", copy, "--set", f"organization_id={ORG}").exit_code == 0
    with fleet.message_queue.consume("agent.metrics", 1) as consumer:
        (got,) = consumer.receive(1, 2)
        assert (got.routing_key, got.body) == (f"metrics.{agent}.{ORG}", lost.body)
    assert decode(got, REGISTRY, Period.at(NOW)).points_accepted == 1


def test_a_copy_that_was_left_behind_is_named(ninjait: Any, fleet: Stores) -> None:
    """One of two copies was replayed as it is and came back; what came back waits for the other one."""
    first, second = publish_calls(fleet, CALL, CALL)
    ninjait("quarantine", "replay", "--id", first)
    drained(fleet, CALLS)
    left = ninjait("quarantine", "replay", "--everything", "--set", FIRST)
    assert f"with no change, and it may be out already: replay {second} with the same changes" in left.stdout
    ninjait("quarantine", "discard", "--id", second, "--because", "a copy of the other one")
    assert ninjait("quarantine", "replay", "--everything", "--set", FIRST).exit_code == 0
    drained(fleet, CALLS)
    assert calls(fleet) == 1


def test_a_replay_that_died_after_publishing_is_a_duplicate(ninjait: Any, fleet: Stores) -> None:
    ninjait("publish", "agent.metrics", "--routing-key", "metrics.x", stdin=lines(metrics(sample())))
    drained(fleet)
    replay_and_die(fleet)
    assert states(fleet) == ["held"]
    ninjait("quarantine", "replay", "--everything")
    assert drained(fleet).messages == 2
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome ORDER BY outcome")
    assert rows == [{"outcome": "duplicate", "n": 2}, {"outcome": "quarantined", "n": 1}]


def test_two_held_copies_of_one_call_are_one_call_once_replayed(ninjait: Any, fleet: Stores) -> None:
    """A call was published twice before its organization was registered, and both copies were held. Replayed, each came
    back under an id made from the copy, and the organization was billed for two calls."""
    with fleet.postgres.transaction() as connection:
        connection.execute("DELETE FROM devices WHERE organization_id = %s", (ORG,))
        connection.execute("DELETE FROM organizations WHERE id = %s", (ORG,))
    ninjait("publish", "platform.api_calls", stdin=lines(EVENTS["platform.api_calls"], EVENTS["platform.api_calls"]))
    drained(fleet, "platform.api_calls")
    assert states(fleet) == ["held", "held"]
    with fleet.postgres.transaction() as connection:
        connection.execute("INSERT INTO organizations VALUES (%s, 'x', 'x', 'UTC', now())", (ORG,))
    for document in list(query.select(fleet.mongodb)):
        ninjait("quarantine", "replay", "--id", document["_id"])
    assert drained(fleet, "platform.api_calls").points_written == 2
    assert fleet.clickhouse.scalar("SELECT count() FROM api_calls") == 1
    assert ledger(fleet) == {"written": 1, "duplicate": 3}


@pytest.mark.parametrize("body", [metrics(sample(60), sample(cpu=-2)), metrics(sample(cpu=-2)), b"cpu=5"])
def test_what_stays_bad_is_held_once_however_often_its_replay_dies(ninjait: Any, fleet: Stores, body: Any) -> None:
    """Each replay that died between publishing and marking left one more copy held, and the next one replayed them
    all: 1, 2, 4, 8 copies of the same bad message."""
    ninjait("publish", "agent.metrics", "--raw", "--routing-key", f"metrics.{ORG}", stdin=lines(body))
    drained(fleet)
    for _ in range(3):
        replay_and_die(fleet)
        drained(fleet)
    ninjait("quarantine", "replay", "--everything")
    drained(fleet)
    ninjait("quarantine", "replay", "--everything")
    drained(fleet)
    assert states(fleet).count("held") == 1


def test_a_copy_that_someone_else_resolves_meanwhile_is_not_reported_as_replayed(fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(cpu=-2)))
    found = list(query.select(fleet.mongodb))

    class Slow:
        """A queue that takes so long that somebody else discards what it is given."""

        def takes(self, _: Any) -> bool:
            return True

        def publish(self, _: Any) -> None:
            assert audit.discard(fleet.mongodb, found[0]["_id"], "a test", "somebody", NOW)

    (one,) = replay_each(fleet.mongodb, Slow(), found, "me", NOW)  # type: ignore[arg-type]
    assert one.message is None
    assert one.problem.startswith("someone else resolved it meanwhile; it was still published as message ")
    assert states(fleet) == ["discarded"]
