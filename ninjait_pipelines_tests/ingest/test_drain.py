"""The drain: what is published is written, quarantined or still queued, whatever dies and whenever."""

import json
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, Period
from ninjait_pipelines.ingest.decode.third_party import MAX_BYTES
from ninjait_pipelines.ingest.drain import BATCH_BYTES, RECEIVE_MESSAGES, DrainSummary, _parts
from ninjait_pipelines.ingest.quarantine.documents import body_of
from ninjait_pipelines.ingest.quarantine.reasons import entries, read
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain, sink_of
from ninjait_pipelines_tests.ingest.drains import (
    Broken,
    held,
    latest,
    ledger,
    outstanding,
    points,
    poisoned,
    publish,
    run,
)
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    batch,
    gzipped,
    line,
    message,
    metrics,
    outgoing,
    sample,
    telegraf,
)
from ninjait_pipelines_tests.resources.queue_contract import eventually
from ninjait_pipelines_tests.runs import changed
from ninjait_pipelines_tests.truncated_stores import rabbitmq_channel

UNKNOWN = str(uuid.UUID(int=99))


def fails(stores: Stores, error: type[Exception], waiting: int, **changes: Any) -> None:
    """A drain of the metrics fails, and the broker has so many messages back."""
    with pytest.raises(error):
        run(stores, **changes)
    assert eventually(lambda: outstanding(stores) == (waiting, 0))


def test_samples_arrive_with_their_ledger_hours_and_latest_values(fleet: Stores) -> None:
    old = sample(3 * 3600, cpu=99, extra=1)
    other = metrics(sample(20), organization_id=OTHER_ORG, device_id=OTHER_DEVICE)
    publish(fleet, metrics(sample(60, cpu=1), sample(30, cpu=2, uptime=None)), metrics(old), other)
    summary = run(fleet)
    assert (summary.messages, summary.points, summary.points_written, summary.unknown_fields) == (3, 4, 4, 1)
    assert [(p["device_id"], p["cpu"], p["uptime"]) for p in points(fleet, hours=4) if p["device_id"] == DEVICE] == [
        (DEVICE, 99, 3600),
        (DEVICE, 1, 3600),
        (DEVICE, 2, None),
    ]
    assert latest(fleet)["as_of"].startswith((NOW - timedelta(seconds=30)).strftime("%Y-%m-%dT%H:%M:%S"))
    assert (latest(fleet)["cpu"], latest(fleet)["uptime"], latest(fleet)["organization_id"]) == (2, None, ORG)
    assert ledger(fleet) == {"written": 3}
    touched = fleet.clickhouse.rows("SELECT sum(points) AS points FROM touched_hours")
    assert touched == [{"points": 4}]
    hour = fleet.clickhouse.rows("SELECT DISTINCT organization_id, hour FROM touched_hours")
    assert {(str(row["organization_id"]), row["hour"]) for row in hour} == summary.hours
    assert outstanding(fleet) == (0, 0)


def test_a_bad_sample_is_held_alone_with_its_reason_and_original_bytes(fleet: Stores) -> None:
    body = metrics(sample(60, cpu=1), sample(30, cpu=103), sample(20, cpu="5"))
    publish(fleet, body)
    summary = run(fleet)
    assert (summary.points_written, summary.points_quarantined, summary.messages_quarantined) == (1, 2, 1)
    assert [point["cpu"] for point in points(fleet)] == [1]
    (document,) = held(fleet)
    assert json.loads(document["body"]) == body
    assert [(one.index, one.field, one.reason) for one in entries(read(document))] == [
        (1, "cpu", "above_100"),
        (2, "cpu", "number_as_text"),
    ]
    assert (document["organization_id"], document["device_id"], document["agent_version"]) == (ORG, DEVICE, "2.4.1")
    assert (document["whole"], document["points_quarantined"], document["run_id"]) == (False, 2, "run-1")
    assert ledger(fleet) == {"partly_quarantined": 1}


def test_what_cannot_be_taken_is_held_whole(fleet: Stores) -> None:
    """Bodies beyond 8 MiB lie in pieces, because MongoDB's documents end at 16."""
    bad: dict[str, tuple[Any, dict[str, Any]]] = {
        "invalid_utf8": (b"\xff\xfe not even text", {}),
        "not_json": (b'{"cpu": ', {}),
        "too_large": (b'{"a": "' + b"x" * 17_000_000 + b'"}', {}),
        "unknown_device": (metrics(sample(), device_id=UNKNOWN), {}),
        "device_of_another_organization": (metrics(sample(), device_id=OTHER_DEVICE), {}),
        "not_of_its_routing_key": (metrics(sample()), {"routing_key": f"metrics.{OTHER_ORG}"}),
        "too_many_samples": (metrics(*[sample()] * 1001), {}),
    }
    for body, fields in bad.values():
        publish(fleet, body, **fields)
    also_too_large = b'{"a": "' + b"x" * 10_000_000 + b'"}'
    publish(fleet, also_too_large)
    make_drain(fleet).run(idle_seconds=2)  # RabbitMQ takes that long to send them
    documents = held(fleet)
    assert [document["whole"] for document in documents] == [True] * 8
    found = [(document["reasons"][0]["reason"], body_of(fleet.mongodb, document)) for document in documents]
    expected = [(reason, outgoing("agent.metrics", body).body) for reason, (body, _) in bad.items()]
    assert sorted(found) == sorted([*expected, ("too_large", also_too_large)])
    assert points(fleet) == []
    assert ledger(fleet) == {"quarantined": 8}
    assert outstanding(fleet) == (0, 0)


def test_the_same_message_twice_and_the_same_point_with_another_value(fleet: Stores) -> None:
    publish(fleet, metrics(sample(60, cpu=1)), metrics(sample(60, cpu=1)), metrics(sample(60, cpu=7)))
    run(fleet)
    assert [point["cpu"] for point in points(fleet)] == [7]
    assert latest(fleet)["cpu"] == 7
    publish(fleet, metrics(sample(60, cpu=8)))
    run(fleet)
    assert [point["cpu"] for point in points(fleet)] == [8]
    assert ledger(fleet) == {"written": 3, "duplicate": 1}


def test_a_device_that_is_registered_while_a_drain_runs_is_known(fleet: Stores) -> None:
    """An agent registered itself and sent its first sample while a drain waited for more: the drain knew only who had
    been registered when it began, and the sample of a good device stayed in quarantine until somebody replayed it."""
    new = str(uuid.UUID(int=77))

    def first_sample(decoded: Sequence[Decoded]) -> None:
        if decoded[0].device_id == DEVICE:
            with fleet.postgres.transaction() as connection:
                connection.execute("INSERT INTO devices VALUES (%s, %s, 'new', 'server', 'x', now())", (new, ORG))
            publish(fleet, metrics(sample(), device_id=new))

    publish(fleet, metrics(sample()))
    summary = run(fleet, sink=Broken(sink_of(fleet, "agent.metrics"), first_sample))  # type: ignore[arg-type]
    assert (summary.messages, summary.messages_quarantined) == (2, 0)


def test_bounds_in_messages_and_seconds(fleet: Stores) -> None:
    publish(fleet, *(metrics(sample(n)) for n in range(1, 21)))
    assert make_drain(fleet, batch_messages=4).run(max_messages=6, idle_seconds=idle_seconds(fleet)).messages == 6
    times = iter(NOW + timedelta(seconds=10 * n) for n in range(100))
    bounded = make_drain(fleet, batch_messages=4, clock=lambda: next(times))
    taken = bounded.run(max_seconds=45, idle_seconds=idle_seconds(fleet)).messages
    assert 8 <= taken <= 14  # RabbitMQ has sent ahead what it may
    assert eventually(lambda: outstanding(fleet) == (14 - taken, 0))
    assert run(fleet, batch_messages=4).messages == 14 - taken
    assert run(fleet, batch_messages=4).messages == 0


def test_what_a_drain_leaves_at_its_bound_was_never_delivered(fleet: Stores) -> None:
    """Given back it would count as delivered, and after some bounded drains be isolated."""
    publish(fleet, *(metrics(sample(n)) for n in range(1, 61)))
    taken = make_drain(fleet, batch_messages=4).run(max_messages=40, idle_seconds=idle_seconds(fleet)).messages
    assert taken == 40
    with fleet.message_queue.consume("agent.metrics", 60) as consumer:
        left = consumer.receive(60, 2)
    assert [message.deliveries for message in left] == [1] * (60 - taken)


@pytest.mark.parametrize("culprit", [0, 70, 139])
def test_a_message_that_kills_each_drain_takes_few_others_along(fleet: Stores, culprit: int) -> None:
    """At most those become dead letters that stand behind it in its group of the fourth delivery."""

    class Death(BaseException):
        pass

    def dies(decoded: Sequence[Decoded]) -> None:
        if any(13.0 in one.columns.get("cpu", []) for one in decoded):
            raise Death

    publish(fleet, *(metrics(sample(n, cpu=13 if n == culprit + 1 else 5)) for n in range(1, 141)))
    sink = Broken(sink_of(fleet, "agent.metrics"), dies)  # type: ignore[arg-type]
    for _ in range(6):
        with suppress(Death):
            run(fleet, sink=sink)
    assert eventually(lambda: run(fleet).dead_letters or outstanding(fleet) == (0, 0))
    dead = ledger(fleet).get("dead_lettered", 0)
    assert 1 <= dead <= 8
    assert ledger(fleet)["written"] == 140 - dead


@pytest.mark.parametrize(("outages", "limit"), [(2, 16), (3, 32)])
def test_many_that_came_often_because_a_store_was_away_go_through_in_few_groups(
    fleet: Stores, outages: int, limit: int
) -> None:
    """One by one they took minutes, and the next outage made dead letters of them."""

    groups_of = {3: (2, 16), 4: (2, 32)}

    def away(decoded: Sequence[Decoded]) -> None:
        raise StoreUnavailable("InfluxDB", "http://h", "silent", "Wait.")

    publish(fleet, *(metrics(sample(n)) for n in range(1, 141)))
    for _ in range(outages):
        broken = Broken(sink_of(fleet, "agent.metrics"), away)  # type: ignore[arg-type]
        fails(fleet, StoreUnavailable, 140, sink=broken, isolation_groups=groups_of)
    groups: list[int] = []
    counting = Broken(sink_of(fleet, "agent.metrics"), lambda decoded: groups.append(len(decoded)))  # type: ignore[arg-type]
    assert run(fleet, isolation_groups=groups_of, sink=counting).messages == sum(groups) == 140
    assert 4 < len(groups) <= limit
    assert ledger(fleet) == {"written": 140}


def test_two_drains_at_once_share_the_queue_and_the_ledger_balances(fleet: Stores, settings: Any) -> None:
    bodies = [metrics(sample(n, cpu=n % 100), sample(n + 0.5, cpu=103 if n % 7 == 0 else 1)) for n in range(1, 201)]
    publish(fleet, *bodies)
    summaries: list[DrainSummary] = []

    def work(name: str) -> None:
        with open_stores(settings) as stores:
            summaries.append(run(stores, batch_messages=20, prefetch=40, run_id=name))

    threads = [threading.Thread(target=work, args=(name,)) for name in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(summary.messages for summary in summaries) == 200
    assert all(summary.messages for summary in summaries)
    assert ledger(fleet) == {"written": 172, "partly_quarantined": 28}
    assert len(points(fleet)) == 372
    assert len(held(fleet)) == 28


def test_a_poison_message_is_found_out_and_the_others_go_through(fleet: Stores) -> None:
    publish(fleet, *(metrics(sample(n, cpu=n)) for n in range(10, 20)))
    sink = Broken(sink_of(fleet, "agent.metrics"), poisoned)  # type: ignore[arg-type]
    for _ in range(2):
        fails(fleet, ZeroDivisionError, 10, sink=sink)
    assert run(fleet, sink=sink).messages == 9
    assert outstanding(fleet) == (0, 1)
    assert run(fleet, sink=sink).dead_letters == 1
    assert outstanding(fleet) == (0, 0)
    (document,) = held(fleet)
    (reason,) = entries(read(document))
    assert (reason.reason, reason.value) == ("dead_letter", "ZeroDivisionError: a bug of ours, at cpu 13")
    assert (document["whole"], document["points_quarantined"], document["device_id"]) == (True, 1, DEVICE)
    assert ledger(fleet) == {"written": 9, "dead_lettered": 1}


def test_poison_that_stood_alone_is_found_out_by_those_that_come_after_it(fleet: Stores) -> None:
    """It failed the drain again, and took along what had been sent ahead."""
    sink = Broken(sink_of(fleet, "agent.metrics"), poisoned)  # type: ignore[arg-type]
    publish(fleet, metrics(sample(cpu=13)))
    for _ in range(2):
        fails(fleet, ZeroDivisionError, 1, sink=sink)
    publish(fleet, *(metrics(sample(n, cpu=1)) for n in range(1, 4)))
    assert run(fleet, sink=sink).messages == 3
    assert outstanding(fleet) == (0, 1)


def test_redelivered_messages_are_grouped_by_their_number_of_deliveries() -> None:
    """One that had come for the fifth time made all others of its batch go one by one."""
    template = Message("agent.metrics", "", b"", "", None, "", "", 3, 0)
    often = [msgspec.structs.replace(template, receipt=str(n), deliveries=5 if n == 7 else 3) for n in range(129)]
    groups = list(drain_module._groups(often))
    assert [len(group) for group in groups] == [64, 64, 1]
    assert groups[-1][0].receipt == "7"
    assert len(list(drain_module._groups([msgspec.structs.replace(template, deliveries=5)] * 4_000))) == 250


def test_poison_alone_ends_at_the_delivery_limit(fleet: Stores) -> None:
    """RabbitMQ makes it a dead letter when it is given back for the last time, Dragonfly when it is asked for again."""
    limit: int = fleet.message_queue.delivery_limit  # type: ignore[attr-defined]
    sink = Broken(sink_of(fleet, "agent.metrics"), poisoned)  # type: ignore[arg-type]
    publish(fleet, metrics(sample(cpu=13)))
    for _ in range(limit):
        fails(fleet, ZeroDivisionError, 1, sink=sink)
    with pytest.raises(ZeroDivisionError):
        run(fleet, sink=sink)
    assert eventually(lambda: run(fleet, sink=sink).dead_letters == 1)
    assert outstanding(fleet) == (0, 0)
    assert entries(read(held(fleet)[0]))[0].value.startswith(f"delivered {limit + 1} times")


def test_a_store_that_refuses_everything_makes_no_dead_letters_of_good_messages(fleet: Stores) -> None:
    def refuse(decoded: Sequence[Decoded]) -> None:
        raise StoreFailed("Metrics store", "http://x:1", "no such table", "Bring the schema up to date.")

    publish(fleet, *(metrics(sample(n)) for n in range(1, 4)))
    for _ in range(4):
        fails(fleet, StoreFailed, 3, sink=Broken(sink_of(fleet, "agent.metrics"), refuse))  # type: ignore[arg-type]
    assert run(fleet).messages == 3
    assert ledger(fleet) == {"written": 3}


def test_a_message_that_the_decoder_stumbles_over_is_held_and_its_batch_goes_through(
    fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = drain_module.decode

    def stumbling(message: Any, *rest: Any) -> Decoded:
        if b'"cpu": 13' in message.body:
            raise IndexError("a bug of ours")
        return decode(message, *rest)

    monkeypatch.setattr(drain_module, "decode", stumbling)
    publish(fleet, *(metrics(sample(n, cpu=n)) for n in range(10, 20)))
    assert run(fleet).messages == 10
    assert held(fleet)[0]["reasons"][0]["reason"] == "decoder_failed:IndexError"
    assert ledger(fleet) == {"written": 9, "quarantined": 1}


def test_what_was_written_is_in_the_ledger_although_the_broker_was_emptied_meanwhile(fleet: Stores) -> None:
    """FLUSHALL while a drain wrote: it asked the broker once more before the ledger, failed, and ten points stood in
    the store that no ledger knew."""
    publish(fleet, metrics(sample()))
    sink = Broken(sink_of(fleet, "agent.metrics"), lambda _: empty_broker(fleet))
    with pytest.raises(StoreFailed, match=r"the server was emptied|no queue 'agent\.metrics'"):
        run(fleet, sink=sink)
    assert (len(points(fleet)), ledger(fleet)) == (1, {"written": 1})
    assert run(fleet).messages == 0
    publish(fleet, metrics(sample(30)))
    assert run(fleet).messages == 1


def empty_broker(stores: Stores) -> None:
    """Takes the queue away with all that it holds."""
    if isinstance(stores.message_queue, RabbitMQ):
        with rabbitmq_channel(stores.message_queue) as channel:
            channel.queue_delete("agent.metrics")
    else:
        stores.dragonfly.client.flushdb()


def dying(*_: Any) -> None:
    raise KeyboardInterrupt


def test_dead_letters_move_to_quarantine_once_even_when_the_drain_dies_between(fleet: Stores) -> None:
    publish(fleet, *(metrics(sample(n)) for n in range(1, 31)))
    with fleet.message_queue.consume("agent.metrics", 50) as consumer:
        for message in consumer.receive(50, 0.1):
            consumer.reject(message, "tried it")
    with changed(fleet.message_queue, discard_dead_letters=dying).open() as broker, pytest.raises(KeyboardInterrupt):
        run(fleet, message_queue=broker)
    assert eventually(lambda: outstanding(fleet) == (0, 30))
    assert run(fleet).dead_letters == 30
    assert ledger(fleet) == {"dead_lettered": 30}
    reasons = [entries(read(document))[0] for document in held(fleet)]
    assert [(one.reason, one.value) for one in reasons] == [("dead_letter", "tried it")] * 30
    assert outstanding(fleet) == (0, 0)


def test_dead_letters_leave_time_for_the_queue(fleet: Stores) -> None:
    publish(fleet, *(metrics(sample(n)) for n in range(1, 10)))
    with fleet.message_queue.consume("agent.metrics", 50) as consumer:
        for message in consumer.receive(50, 0.1)[:8]:
            consumer.reject(message, "tried it")
    times = iter(NOW + timedelta(seconds=n) for n in range(1_000))
    drain = make_drain(fleet, dead_letters_at_once=2, clock=lambda: next(times))
    summary = drain.run(max_seconds=12, idle_seconds=idle_seconds(fleet))
    assert 2 <= summary.dead_letters < 8
    assert summary.messages == 1


def test_a_copy_that_was_replayed_meanwhile_is_not_held_again(fleet: Stores) -> None:
    """A drain held a message and died before its acknowledgement; a person replayed it; then it came again."""
    publish(fleet, metrics(sample(cpu=103)))
    drain = make_drain(fleet)
    with fleet.message_queue.consume("agent.metrics", 5) as consumer:
        messages = consumer.receive(5, 0.1)
        drain._process(_Deaf(consumer), messages, REGISTRY, DrainSummary())  # type: ignore[arg-type]
        fleet.mongodb.database["quarantine"].update_one({}, {"$set": {"state": "replayed"}})
    run(fleet)
    assert [document["state"] for document in fleet.mongodb.database["quarantine"].find()] == ["replayed"]
    assert ledger(fleet) == {"quarantined": 1}


class _Deaf:
    """A consumer whose acknowledgements are lost."""

    def __init__(self, consumer: Any) -> None:
        self.keep_alive = consumer.keep_alive

    def acknowledge(self, messages: Any) -> None:
        """Nothing arrives."""


def test_a_copy_that_comes_twice_in_one_batch_counts_once() -> None:
    """A publisher that names no copies sent one twice; the ledger had one, and `conservation` failed by the other."""
    one = telegraf(line("mem", "used=0i"), line("mem", "used=-1i"))
    summary = DrainSummary()
    summary.add([(one, decode(one, REGISTRY, Period.at(NOW))), (one, decode(one, REGISTRY, Period.at(NOW)))], set())
    summary.add([(one, decode(one, REGISTRY, Period.at(NOW)))], set())
    assert (summary.messages, summary.messages_quarantined) == (1, 1)
    assert (summary.points, summary.points_written, summary.points_quarantined) == (2, 1, 1)
    assert summary.bytes == len(one.body)


def test_what_is_packed_goes_in_parts_as_large_as_it_is_unpacked() -> None:
    """RECEIVE_MESSAGES come at once, and 16 MiB may be packed into 16 kB."""
    small, large = batch(10, 1), batch(1, MAX_BYTES - 200)
    packed = message("agent.metrics", gzipped(large.body), routing_key=large.routing_key)
    assert len(packed.body) < 50_000 < BATCH_BYTES
    parts = [list(part) for part in _parts([small, small, packed, packed, packed, small])]
    assert list(map(len, parts)) == [4, 2]  # three of the large ones are beyond the bound
    assert [one for part in parts for one in part] == [small, small, packed, packed, packed, small]
    assert list(_parts([])) == []
    assert json.dumps(len(list(_parts([small] * 4000)))) == "1"
    usual = batch(100, 200)
    received = [usual] * (BATCH_BYTES // len(usual.body) + RECEIVE_MESSAGES)
    assert len(list(_parts(received))) == 1, "what the last receive brings beyond the bound is no batch of its own"
