"""`DragonflyQueue` keeps the queue's contract; then what is its own."""

import functools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources.dragonfly_queue import GROUP, DragonflyQueue, dead_key, stream_key
from ninjait_pipelines.resources.message_queue import MessageQueue, QueueFull
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines_tests.resources.dragonfly_server import Server
from ninjait_pipelines_tests.resources.queue_contract import (
    DELIVERY_LIMIT,
    MAX_LENGTH,
    QUEUE,
    REDELIVERY_SECONDS,
    Broker,
    QueueContract,
    bodies,
    drain,
    eventually,
    kill_a_consumer_that_holds,
    outgoing,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("dragonfly"))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def broker(server: Server) -> Broker:
    with server.client() as client:
        client.flushall()
    return Broker(functools.partial(_make, server.url), server.crash)


def _make(url: str, **settings: Any) -> DragonflyQueue:
    promised = {"redelivery_seconds": REDELIVERY_SECONDS, "delivery_limit": DELIVERY_LIMIT, "max_length": MAX_LENGTH}
    return DragonflyQueue(url=url, **{**promised, **settings})


@pytest.fixture
def queue(broker: Broker) -> Iterator[MessageQueue]:
    with broker.make().open() as queue:
        queue.declare()
        yield queue


class TestContract(QueueContract):
    @pytest.fixture
    def broker(self, broker: Broker) -> Broker:
        return broker


def test_depth_counts_what_consumers_hold(queue: MessageQueue) -> None:
    queue.publish(outgoing(number) for number in range(7))
    with queue.consume(QUEUE, prefetch=3) as consumer:
        held: list[Message] = []
        while len(held) < 3:
            held += consumer.receive(3, wait_seconds=2)
        assert eventually(lambda: (queue.depth(QUEUE).ready, queue.depth(QUEUE).unsettled) == (4, 3))
        assert queue.depth(QUEUE).outstanding == 7


def test_a_killed_consumers_messages_wait_for_redelivery_seconds(
    server: Server, broker: Broker, queue: MessageQueue
) -> None:
    queue.publish(outgoing(number) for number in range(3))
    kill_a_consumer_that_holds(broker, limit=3)
    with _make(server.url, redelivery_seconds=600).open() as patient:
        assert drain(patient, wait_seconds=0) == []
    assert bodies(drain(queue, wait_seconds=REDELIVERY_SECONDS + 0.5)) == [0, 1, 2]


def test_a_consumer_is_not_given_again_what_it_holds_itself(queue: MessageQueue) -> None:
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, prefetch=5) as consumer:
        held = consumer.receive(5, wait_seconds=1)
        time.sleep(REDELIVERY_SECONDS + 0.1)
        assert consumer.receive(5, wait_seconds=0) == []
        consumer.acknowledge(held)


def test_who_took_too_long_may_still_acknowledge(broker: Broker, queue: MessageQueue) -> None:
    """The slow drain has written its rows by then: its acknowledgement settles the message for both."""
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, 5) as slow, queue.consume(QUEUE, 5) as eager:
        held = slow.receive(5, wait_seconds=1)
        taken = eager.receive(5, wait_seconds=REDELIVERY_SECONDS + 1)
        assert bodies(taken) == [1]
        slow.acknowledge(held)
        eager.acknowledge(taken)
    assert drain(queue, wait_seconds=REDELIVERY_SECONDS + 0.2) == []


def test_a_message_that_kills_its_consumer_again_and_again_is_a_dead_letter(broker: Broker, server: Server) -> None:
    """A poison message that kills the process is never requeued: only the count of deliveries ends its loop."""
    with _make(server.url, redelivery_seconds=0.05, delivery_limit=2).open() as queue:
        queue.declare()
        queue.publish([outgoing(1)])
        for expected in (1, 2, 3):
            with _make(server.url, redelivery_seconds=0.05).open() as dying:
                # Entered and never left, as by a process that was killed.
                (message,) = dying.consume(QUEUE, 1).__enter__().receive(1, wait_seconds=2)
            assert message.deliveries == expected
        with queue.consume(QUEUE, 1) as consumer:
            assert consumer.receive(1, wait_seconds=0.3) == []
        ((letter, reason),) = queue.dead_letters(QUEUE)
    assert (letter.body, letter.deliveries) == (b"body 1", 4)
    assert reason == "delivered 3 times and never settled; the limit is 2"


def test_what_somebody_else_put_into_the_streams_stops_nothing(server: Server, queue: MessageQueue) -> None:
    """An entry without our fields among the dead letters stopped every drain of its queue; an id of its own choice gave
    a time of publication that no store takes."""
    with server.client() as client:
        client.xadd(dead_key(QUEUE), {"x": "y"})
        client.xadd(dead_key(QUEUE), {"deliveries": "-5", "delivery_id": b"\xff", "reason": b"\xff", "body": "b"})
        client.xadd(stream_key(QUEUE), {"routing_key": b"\xff", "body": "body 1"}, id=f"{2**63}-1")
    letters = [letter for letter, _ in queue.dead_letters(QUEUE)]
    assert [(one.body, one.deliveries, one.routing_key) for one in letters] == [(b"", 1, ""), (b"b", 1, "")]
    queue.discard_dead_letters(letters)
    assert queue.dead_letters(QUEUE) == []
    (message,) = drain(queue)
    assert (message.body, message.published_at) == (b"body 1", 0)


def test_consumers_leave_no_name_behind_but_where_they_hold_messages(server: Server, queue: MessageQueue) -> None:
    queue.publish([outgoing(1), outgoing(2)])
    with queue.consume(QUEUE, prefetch=5) as consumer:
        consumer.acknowledge(consumer.receive(1, wait_seconds=1))
        consumer.receive(1, wait_seconds=1)
    with server.client() as client:
        (left,) = client.xinfo_consumers(stream_key(QUEUE), GROUP)
        assert (left["name"], left["pending"]) == ("given-back", 1)


def test_leaving_never_takes_a_message_along(server: Server, queue: MessageQueue) -> None:
    """A reply that is lost on its way leaves messages with a consumer that does not know of them. XGROUP DELCONSUMER
    would drop them from the group: in the stream for ever, delivered to nobody."""
    queue.publish([outgoing(1)])
    with queue.consume(QUEUE, prefetch=5) as consumer:
        assert bodies(consumer.receive(5, wait_seconds=1)) == [1]
        consumer._held.clear()  # type: ignore[attr-defined]
    assert bodies(drain(queue, wait_seconds=REDELIVERY_SECONDS + 0.5)) == [1]


def test_an_emptied_server_is_declared_again_by_the_next_publisher(server: Server, queue: MessageQueue) -> None:
    with server.client() as client:
        client.flushall()
    with pytest.raises(StoreFailed, match=r"no queue agent\.metrics.*declares it"):
        queue.depth(QUEUE)
    with queue.consume(QUEUE, prefetch=1) as consumer, pytest.raises(StoreFailed, match=r"no queue agent\.metrics"):
        consumer.receive(1, wait_seconds=1)
    assert queue.publish([outgoing(1)]) == 1
    assert bodies(drain(queue)) == [1]


def test_the_limit_is_exact_and_what_fitted_was_taken(server: Server, broker: Broker) -> None:
    with _make(server.url, max_length=5).open() as queue:
        with pytest.raises(QueueFull, match=r"agent\.metrics is full: it holds 5 messages"):
            queue.publish(outgoing(number) for number in range(8))
        assert queue.depth(QUEUE).ready == 5
        assert bodies(drain(queue)) == [0, 1, 2, 3, 4]


@pytest.fixture
def full_memory(server: Server, broker: Broker) -> Iterator[None]:
    with server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


@pytest.mark.usefixtures("full_memory")
def test_full_memory_is_worth_a_retry_and_says_so(broker: Broker) -> None:
    with broker.make().open() as queue, pytest.raises(StoreUnavailable, match="raise maxmemory"):
        queue.publish([outgoing(1)])


def test_a_replica_takes_nothing_and_says_why(server: Server, queue: MessageQueue) -> None:
    with server.client() as client:
        client.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(StoreUnavailable, match="has the primary moved"):
                queue.publish([outgoing(1)])
        finally:
            client.replicaof("NO", "ONE")


def test_a_refused_password_is_not_retried_nor_shown(server: Server) -> None:
    started = time.monotonic()
    with DragonflyQueue(url=server.url.replace("secret", "wrong-one")).open() as queue:
        with pytest.raises(
            StoreRefused, match=r"Dragonfly at redis://127\.0\.0\.1:\d+/0.*Check DRAGONFLY_URL"
        ) as refused:
            queue.publish([outgoing(1)])
        assert "wrong-one" not in str(refused.value)
        assert time.monotonic() - started < 1
        assert not queue.status().ok


def test_what_somebody_else_put_into_the_stream_does_not_stop_it(server: Server, queue: MessageQueue) -> None:
    """An entry without our fields once failed every receive, and its batch mates with it, at each redelivery again."""
    with server.client() as client:
        client.xadd(stream_key(QUEUE), {"note": "by hand"})
    queue.publish([outgoing(1)])
    assert [message.body for message in drain(queue)] == [b"", outgoing(1).body]
