"""A replay that dies, or that somebody else begins at the same time: never two contents under one id."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from ninjait_pipelines.ingest.decode.message import decode, decode_nothing
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.audit import delete_resolved
from ninjait_pipelines.ingest.quarantine.edit import Edits
from ninjait_pipelines.ingest.quarantine.hold import hold_messages
from ninjait_pipelines.ingest.quarantine.replay import Replay, replay_each
from ninjait_pipelines.messages import Message, Outgoing, fits
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import LOG, drained
from ninjait_pipelines_tests.ingest.quarantine.deaths import replay_and_die
from ninjait_pipelines_tests.ingest.samples import (
    EVENTS,
    NOW,
    ORG,
    OTHER_ORG,
    REGISTRY,
    ago,
    collectd,
    line,
    message,
    metrics,
    outgoing,
    sample,
    telegraf,
    value_list,
)

CALLS = "platform.api_calls"
CALL = EVENTS[CALLS] | {"timestamp": "yesterday"}
FIRST, SECOND = f"timestamp={ago(minutes=9)}", f"timestamp={ago(minutes=8)}"
EARLIER = Edits({"timestamp": ago(minutes=9)})


def publish_bad(stores: Stores, *bodies: Any, queue: str = CALLS) -> list[str]:
    """Publishes and drains what is bad; the ids of what is held."""
    stores.message_queue.publish([outgoing(queue, body) for body in bodies])
    drained(stores, queue)
    return [document["_id"] for document in query.select(stores.mongodb)]


def depth(stores: Stores) -> int:
    return stores.message_queue.depth(CALLS).outstanding


def state_of(stores: Stores, copy: str) -> str:
    return str((query.find(stores.mongodb, copy) or {})["state"])


def calls(stores: Stores) -> int:
    return int(stores.clickhouse.scalar("SELECT count() FROM api_calls"))


def ledger(stores: Stores) -> dict[str, int]:
    rows = stores.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    return {row["outcome"]: row["n"] for row in rows}


def test_a_replay_that_died_is_done_again_with_the_same_change_only(ninjait: Any, fleet: Stores) -> None:
    """A replay was killed before it could mark what it had published; the next one set another time, and the call was
    billed twice: the time is in its key."""
    (copy,) = publish_bad(fleet, CALL)
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
    publish_bad(fleet, CALL)
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
    (copy,) = publish_bad(fleet, CALL)

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
    first, second = publish_bad(fleet, CALL, CALL)
    assert ninjait("quarantine", "replay", "--id", first, "--set", FIRST).exit_code == 0
    assert ninjait("quarantine", "replay", "--id", second, "--set", SECOND).exit_code == 1
    assert f"--set {FIRST}" in ninjait("quarantine", "show", second).stdout
    (third,) = set(publish_bad(fleet, CALL)) - {second}
    late = ninjait("quarantine", "replay", "--id", third, "--set", SECOND)
    assert (late.exit_code, f"with --set {FIRST}, and it may be out" in late.stdout) == (1, True)
    for copy in (second, third):
        assert ninjait("quarantine", "replay", "--id", copy, "--set", FIRST).exit_code == 0
    drained(fleet, CALLS)
    assert calls(fleet) == 1


def test_what_comes_back_is_changed_again_as_often_as_it_takes(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, CALL | {"method": 1})
    for change in ((), ("--set", "method=" + "x" * 30), ("--set", FIRST), ("--set", "method=GET")):
        assert ninjait("quarantine", "replay", "--everything", *change).exit_code == 0
        drained(fleet, CALLS)
    assert (calls(fleet), list(query.select(fleet.mongodb))) == (1, [])


def test_samples_of_a_partly_good_message_are_bound_too(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(60), sample(timestamp="yesterday")), queue="agent.metrics")
    replay_and_die(fleet, EARLIER)
    assert ninjait("quarantine", "replay", "--everything", "--set", SECOND).exit_code == 1
    assert ninjait("quarantine", "replay", "--everything", "--set", FIRST).exit_code == 0
    drained(fleet)
    assert len(fleet.metrics_store.read(NOW - timedelta(hours=1), NOW)) == 2


def test_what_may_be_out_is_told_after_it_was_discarded_too(ninjait: Any, fleet: Stores) -> None:
    (copy,) = publish_bad(fleet, CALL)
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
    publish_bad(fleet, CALL)
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
    first, second = publish_bad(fleet, CALL, CALL)
    ninjait("quarantine", "replay", "--id", first)
    drained(fleet, CALLS)
    left = ninjait("quarantine", "replay", "--everything", "--set", FIRST)
    assert f"with no change, and it may be out already: replay {second} with the same changes" in left.stdout
    ninjait("quarantine", "discard", "--id", second, "--because", "a copy of the other one")
    assert ninjait("quarantine", "replay", "--everything", "--set", FIRST).exit_code == 0
    drained(fleet, CALLS)
    assert calls(fleet) == 1
