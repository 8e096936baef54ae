"""Consuming through lost connections, slow callers and dying processes."""

import threading
import time
import urllib.parse
import urllib.request
from typing import Any

import pytest

from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources.rabbitmq import consumer as consumer_module
from ninjait_pipelines.resources.rabbitmq.consumer import Session
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines_tests.proxy import FROM_ENGINE, Proxy
from ninjait_pipelines_tests.resources.queue_contract import (
    DELIVERY_LIMIT,
    QUEUE,
    WRITTEN_SECONDS,
    bodies,
    drain,
    eventually,
    outgoing,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import Node, held, make
from ninjait_pipelines_tests.runs import Killed, killed

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def test_what_is_settled_is_not_kept_for_another_chance(queue: RabbitMQ) -> None:
    """After an outage thousands come for the last time: a drain kept all their bodies until its end."""
    queue.publish([outgoing(1), outgoing(2)])
    for _ in range(DELIVERY_LIMIT):
        with queue.consume(QUEUE, 2) as consumer:
            held(consumer, 2)
    with queue.consume(QUEUE, 2) as consumer:
        messages = held(consumer, 2)
        session = consumer.session()  # type: ignore[attr-defined]
        assert {message.deliveries for message in messages} == {DELIVERY_LIMIT + 1}
        assert len(session.final_deliveries()) == 2
        consumer.acknowledge(messages)
        assert not session._final


@pytest.mark.parametrize("prefetch", [1, 7, drain_module.BATCH_MESSAGES])
def test_a_prefetch_below_the_drains_batch_does_not_stop_it(queue: RabbitMQ, prefetch: int) -> None:
    queue.publish(outgoing(number) for number in range(30))
    got: list[Message] = []
    with queue.consume(QUEUE, prefetch) as consumer:
        while batch := drain_module._receive(consumer, 1_000, drain_module.BATCH_BYTES, idle_seconds=1):
            assert len(batch) == min(prefetch, 30 - len(got))
            consumer.acknowledge(batch)
            got += batch
    assert bodies(got) == list(range(30))


def test_a_batch_is_what_is_there(queue: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries trickle in; a drain that took the first few for all would write in crumbs."""
    for name in ("LINGER_SECONDS", "MAX_LINGER_SECONDS"):  # on a busy machine they trickle as much more slowly
        monkeypatch.setattr(consumer_module, name, 100 * getattr(consumer_module, name))
    queue.publish(outgoing(number) for number in range(1_500))
    with queue.consume(QUEUE, 1_000) as consumer:
        assert len(drain_module._receive(consumer, 1_000, drain_module.BATCH_BYTES, idle_seconds=1)) == 1_000


def test_a_batch_ends_with_the_message_that_reaches_its_bytes(queue: RabbitMQ) -> None:
    """A drain begins with small batches, so that the stores have something to do at once."""
    queue.publish(outgoing(number) for number in range(200))
    size = len(outgoing(0).body)
    with queue.consume(QUEUE, 1_000) as consumer:
        consumer.receive(1, 1)  # by now the others wait here
        got = drain_module._receive(consumer, 1_000, 30 * size, idle_seconds=1)
        assert len(got) == 2 * drain_module.RECEIVE_MESSAGES


def test_acknowledging_some_in_any_order_settles_just_these(url: str, queue: RabbitMQ) -> None:
    queue.publish(outgoing(number) for number in range(10))
    with queue.consume(QUEUE, 10) as consumer:
        messages = held(consumer, 10)
        consumer.acknowledge([messages[7], messages[1], messages[0], messages[4]])
        consumer.acknowledge([messages[1], messages[7]])  # once more: nothing
        consumer.requeue([messages[2]])
        consumer.acknowledge([messages[3]])
    assert sorted(bodies(drain(queue))) == [2, 5, 6, 8, 9]


def test_heartbeats_are_answered_while_a_write_takes_long(node: Node, url: str, queue: RabbitMQ) -> None:
    queue.publish(outgoing(number) for number in range(3))
    with make(url, heartbeat_seconds=2).open() as slow, slow.consume(QUEUE, 3) as consumer:
        messages = held(consumer, 3)
        time.sleep(8)
        consumer.acknowledge(messages)
    assert drain(queue) == []


def test_the_broker_is_restarted_under_a_consumer(node: Node, queue: RabbitMQ) -> None:
    """What was acknowledged stays away, what was held comes again, and the consumer goes on by itself."""
    queue.publish(outgoing(number) for number in range(30))
    node.remember_queues()
    with queue.consume(QUEUE, 10) as consumer:
        messages = held(consumer, 10)
        consumer.acknowledge(messages[:5])
        time.sleep(WRITTEN_SECONDS)
        node.crash()
        with pytest.raises(StoreUnavailable, match=r"lost.*delivers again"):
            consumer.acknowledge(messages[5:])
        with pytest.raises(StoreUnavailable, match="lost"):
            consumer.reject(messages[5], "why")
        consumer.requeue(messages[5:])
        again: list[Message] = []
        while got := consumer.receive(10, wait_seconds=2):
            with pytest.raises(StoreUnavailable, match="lost"):  # void on the new connection too
                consumer.acknowledge([*messages[5:], *got[:1]])  # but for its own
            consumer.acknowledge(got[1:])
            again += got
    assert sorted(bodies(again)) == list(range(5, 30))
    came_before = {message.delivery_id for message in messages[5:]}
    assert {message.deliveries for message in again if message.delivery_id in came_before} == {2}
    assert sum(message.delivery_id in came_before for message in again) == 5
    assert drain(queue) == []
    assert queue.depth(QUEUE).dead == 0


@pytest.mark.parametrize("count", [1, 30, 1_000, 10_007, 50_003])
def test_a_connection_cut_in_a_frame_gives_every_message_in_the_end(url: str, queue: RabbitMQ, count: int) -> None:
    queue.publish(Outgoing(QUEUE, "metrics.a", f"body {number} ".encode() + b"x" * 3_000) for number in range(300))
    seen: set[int] = set()
    settled: set[int] = set()
    with Proxy(url) as proxy, make(proxy.url).open() as through, through.consume(QUEUE, 50) as consumer:
        for cut in range(4):
            proxy.cut_after(count + cut, FROM_ENGINE)
            got = consumer.receive(50, wait_seconds=1)
            assert not settled & set(bodies(got))
            seen |= set(bodies(got))
            try:
                consumer.acknowledge(got)
            except StoreUnavailable:
                continue
            settled |= set(bodies(got))
        assert proxy.cuts >= 1
        while got := consumer.receive(50, wait_seconds=1):
            assert not settled & set(bodies(got))
            seen |= set(bodies(got))
            try:
                consumer.acknowledge(got)
            except StoreUnavailable:  # the last cut
                continue
            settled |= set(bodies(got))
    assert seen == set(range(300))
    assert eventually(lambda: queue.depth(QUEUE).ready == 0)


def test_a_broker_that_stays_away_is_given_up(url: str, queue: RabbitMQ) -> None:
    queue.publish([outgoing(1)])
    with (
        Proxy(url) as proxy,
        make(proxy.url, timeout_seconds=1).open() as through,
        through.consume(QUEUE, 5) as consumer,
    ):
        held(consumer, 1)
        proxy.refuse()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            consumer.receive(5, wait_seconds=1)
        assert 1 <= time.monotonic() - started < 5
        proxy.admit()
        assert [message.deliveries for message in held(consumer, 1)] == [2]
    assert eventually(lambda: queue.depth(QUEUE).ready == 1)


def test_a_connection_that_breaks_again_and_again_is_given_up(url: str, queue: RabbitMQ) -> None:
    over = threading.Event()
    with (
        Proxy(url) as proxy,
        make(proxy.url, timeout_seconds=1).open() as through,
        through.consume(QUEUE, 5) as consumer,
    ):

        def break_it() -> None:
            while not over.wait(0.05):
                proxy.cut()

        breaking = threading.Thread(target=break_it)
        breaking.start()
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                consumer.receive(5, wait_seconds=1)
            assert time.monotonic() - started < 10
        finally:
            over.set()
            breaking.join()
        queue.publish([outgoing(1)])
        assert bodies(held(consumer, 1)) == [1]


def test_a_queue_deleted_under_its_consumer_is_named(queue: RabbitMQ, raw: Any) -> None:
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, 5) as consumer:
        messages = held(consumer, 1)
        raw.queue_delete(QUEUE)
        with pytest.raises(StoreFailed, match=r"no queue 'agent\.metrics'.*migrate up"):
            consumer.receive(5, wait_seconds=5)
        with pytest.raises(StoreUnavailable):
            consumer.acknowledge(messages)
        queue.declare()
        queue.publish([outgoing(2)])
        assert bodies(held(consumer, 1)) == [2]


def test_a_channel_that_the_broker_closes_is_opened_anew(queue: RabbitMQ) -> None:
    """As after consumer_timeout, or an operator's hand."""
    queue.publish([outgoing(1), outgoing(2)])
    with queue.consume(QUEUE, 1) as consumer:
        (first,) = held(consumer, 1)
        session: Any = consumer._session
        session.start(lambda _: session.channel.basic_ack(12345))
        assert eventually(lambda: session.closed_reason is not None)
        with pytest.raises(StoreUnavailable, match="unknown delivery tag 12345"):
            consumer.acknowledge([first])
        (again,) = held(consumer, 1)
        assert (again.delivery_id, again.deliveries) == (first.delivery_id, 2)
        consumer.acknowledge([again])


def test_a_delivery_held_beyond_the_brokers_limit_comes_again(node: Node, queue: RabbitMQ) -> None:
    with node.set({"consumer_timeout": 1_000, "channel_tick_interval": 500}):
        queue.publish([outgoing(1)])
        with queue.consume(QUEUE, 1) as consumer:
            (first,) = held(consumer, 1)
            time.sleep(3)
            with pytest.raises(StoreUnavailable, match=r"delivery acknowledgement .* timed out"):
                consumer.acknowledge([first])
            consumer.acknowledge(held(consumer, 1))


def test_dying_between_dead_letter_and_acknowledgement_leaves_both_with_one_identity(queue: RabbitMQ) -> None:
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, 1) as consumer:
        (first,) = held(consumer, 1)
        with pytest.raises(Killed), killed(Session, "settle"):
            consumer.reject(first, "why")
    ((letter, reason),) = queue.dead_letters(QUEUE)
    (again,) = drain(queue)
    assert (letter.delivery_id, reason) == (again.delivery_id, "why") == (first.delivery_id, "why")
    queue.discard_dead_letters([letter])
    assert queue.dead_letters(QUEUE) == []


def test_a_message_that_kills_its_consumers_is_a_dead_letter(url: str, queue: RabbitMQ) -> None:
    """To the broker a killed process is a connection that is cut."""
    queue.publish([outgoing(1)])
    with Proxy(url) as proxy:
        for _ in range(DELIVERY_LIMIT + 1):
            with make(proxy.url).open() as dying, dying.consume(QUEUE, 1) as consumer:
                held(consumer, 1)
                proxy.cut()
    assert eventually(lambda: queue.depth(QUEUE).dead == 1)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert (letter.body, letter.deliveries) == (b"body 1", DELIVERY_LIMIT + 1)
    assert reason == f"delivered {DELIVERY_LIMIT + 1} times and never settled; the limit is {DELIVERY_LIMIT}"


@pytest.mark.parametrize(("size", "came_before", "ahead"), [(10, False, 280), (500_000, False, 250), (10, True, 250)])
def test_small_messages_are_sent_further_ahead_unless_they_came_before(
    queue: RabbitMQ, size: int, came_before: bool, ahead: int
) -> None:
    """What is sent to one consumer is kept from the others, and counts as delivered if the stores then refuse it."""
    queue.publish(Outgoing(QUEUE, "metrics.a", bytes([n % 256]) * size) for n in range(300))
    if came_before:
        with queue.consume(QUEUE, prefetch=280) as consumer:
            held(consumer, 250)
        assert eventually(lambda: queue.depth(QUEUE).ready == 300)  # what it gave back is there again
    with queue.consume(QUEUE, prefetch=280) as consumer:
        given = held(consumer, ahead)
        assert consumer.receive(300, wait_seconds=0.3) == []
        consumer.acknowledge(given)
        while more := consumer.receive(300, wait_seconds=0.5):
            consumer.acknowledge(more)
            given += more
    got, sent = [message.body[0] for message in given], [n % 256 for n in range(300)]
    # Given back at once, the broker has them in any order.
    assert sorted(got) == sorted(sent) if came_before else got == sent


def test_big_messages_wait_in_the_broker_while_the_caller_is_slow(
    url: str, queue: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefetch of 1,000 messages of 1 MiB took a gigabyte. What is slowed down still answers broker and caller."""
    monkeypatch.setattr(consumer_module, "MAX_WAITING_BYTES", 4_000_000)
    queue.publish(Outgoing(QUEUE, "metrics.a", f"body {number} ".encode() + b"x" * 1_000_000) for number in range(60))
    with make(url, heartbeat_seconds=2).open() as slow, slow.consume(QUEUE, 60) as consumer:
        messages = consumer.receive(1, wait_seconds=5)
        time.sleep(7)
        session: Any = slow and consumer._session
        assert 4_000_000 < session._arrived_bytes < 30_000_000
        started = time.monotonic()
        consumer.acknowledge(messages)
        assert time.monotonic() - started < 1
        started = time.monotonic()
        while len(messages) < 60:
            messages += held(consumer, 1)
        assert time.monotonic() - started < 10
        consumer.acknowledge(messages)
        assert [message.deliveries for message in messages] == [1] * 60
    assert bodies(messages) == list(range(60))
    assert drain(queue) == []


def test_rights_and_virtual_host_go_while_it_runs(node: Node, url: str, queue: RabbitMQ) -> None:
    vhost = urllib.parse.urlsplit(url).path[1:]
    user = urllib.parse.urlsplit(url).username
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, 5) as consumer:
        messages = held(consumer, 1)
        node.ask("PUT", f"permissions/{vhost}/{user}", {"configure": "", "write": "", "read": ""})

        def refused() -> bool:  # the broker remembers for some seconds whom it let in
            try:
                return not make(url).publish([outgoing(2)])
            except StoreRefused:
                return True

        assert eventually(refused)
        with pytest.raises(StoreRefused, match=r"(?i)access.*refused.*permissions"), queue.consume(QUEUE, 1):
            pass
        consumer.acknowledge(messages)
        node.ask("DELETE", f"vhosts/{vhost}")
        with pytest.raises(StoreRefused, match="vhost"):
            consumer.receive(5, wait_seconds=5)
        with pytest.raises(StoreRefused, match="vhost"):
            queue.depth(QUEUE)
    node.ask("PUT", f"vhosts/{vhost}")
