"""What every `MessageQueue` promises. An implementation subclasses `QueueContract` and brings the fixture `broker`."""

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources.message_queue import MessageQueue, QueueFull
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines_tests.runs import changed

REDELIVERY_SECONDS = 1.0
DELIVERY_LIMIT = 3
MAX_LENGTH = 2_000
QUEUE = "agent.metrics"
# A broker that is killed may forget what was acknowledged in the same moment, and deliver it again.
WRITTEN_SECONDS = 0.5
# A process begins late on a busy machine; one that dies is seen at once.
BEGIN_SECONDS = 150


@dataclass(frozen=True)
class Broker:
    """What an implementation brings: an empty broker of its own.

    `make` gives a new handle each time, with the three settings above, and can be pickled, because a consumer that is
    to be killed lives in a process of its own. `crash` kills the server (SIGKILL) and returns when it answers again.
    """

    make: Callable[[], MessageQueue]
    crash: Callable[[], None]


def outgoing(number: int, queue: str = QUEUE, key: str = "metrics.a") -> Outgoing:
    return Outgoing(queue, key, f"body {number}".encode(), message_id=f"id-{number}")


def bodies(messages: list[Message]) -> list[int]:
    return [int(message.body.split()[1]) for message in messages]


def drain(queue: MessageQueue, wait_seconds: float = 0.3, name: str = QUEUE) -> list[Message]:
    """Everything that comes, acknowledged."""
    taken: list[Message] = []
    with queue.consume(name, prefetch=500) as consumer:
        while got := consumer.receive(500, wait_seconds):
            consumer.acknowledge(got)
            taken += got
    return taken


def eventually(holds: Callable[[], bool], seconds: float = 10) -> bool:
    """Whether it becomes true in time: a broker may count behind what it does."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def hold(make: Callable[[], MessageQueue], limit: int, holding: multiprocessing.synchronize.Event) -> None:
    """A consumer that takes messages and never settles them; it is killed."""
    with make().open() as queue, queue.consume(QUEUE, prefetch=limit) as consumer:
        taken = 0
        while taken < limit:
            taken += len(consumer.receive(limit, wait_seconds=1))
        holding.set()
        time.sleep(60)


def kill_a_consumer_that_holds(broker: Broker, limit: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # a spawned process imports everything anew
    holding = context.Event()
    process = context.Process(target=hold, args=(broker.make, limit, holding))
    process.start()
    try:
        assert eventually(lambda: holding.is_set() or not process.is_alive(), BEGIN_SECONDS), "it does not begin"
        assert holding.is_set(), "the consumer died before it held anything"
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()


class QueueContract:
    """The promises, edges first."""

    @pytest.fixture
    def broker(self) -> Broker:
        raise NotImplementedError("the implementation brings it")

    @pytest.fixture
    def queue(self, broker: Broker) -> Iterator[MessageQueue]:
        with broker.make().open() as queue:
            queue.declare()
            yield queue

    def test_a_queue_that_does_not_exist_is_named_with_those_that_do(self, queue: MessageQueue) -> None:
        with pytest.raises(ValueError, match=r"agent\.metrisc.*agent\.metrics.*platform\.logs"):
            queue.publish([outgoing(1, queue="agent.metrisc")])
        with pytest.raises(ValueError, match=r"agent\.metrisc"), queue.consume("agent.metrisc", 1):
            pass
        with pytest.raises(ValueError, match=r"agent\.metrisc"):
            queue.depth("agent.metrisc")

    def test_declaring_again_keeps_what_is_there(self, queue: MessageQueue) -> None:
        queue.publish([outgoing(1)])
        queue.declare()
        assert bodies(drain(queue)) == [1]

    def test_nothing_to_do_is_nothing_done(self, queue: MessageQueue) -> None:
        assert queue.publish([]) == 0
        with queue.consume(QUEUE, prefetch=1) as consumer:
            consumer.acknowledge([])
            consumer.requeue([])
            consumer.keep_alive()

    def test_receiving_waits_no_longer_than_told(self, queue: MessageQueue) -> None:
        with queue.consume(QUEUE, prefetch=10) as consumer:
            started = time.monotonic()
            assert consumer.receive(10, wait_seconds=0.4) == []
            assert 0.3 < time.monotonic() - started < 1.5
            started = time.monotonic()
            assert consumer.receive(10, wait_seconds=0) == []
            assert time.monotonic() - started < 1

    def test_what_comes_while_one_waits_is_given_at_once(self, broker: Broker, queue: MessageQueue) -> None:
        def publish() -> None:
            with broker.make().open() as other:
                other.publish([outgoing(1)])

        with queue.consume(QUEUE, prefetch=10) as consumer:
            later = threading.Timer(0.3, publish)
            later.start()
            started = time.monotonic()
            got = consumer.receive(10, wait_seconds=20)
            assert time.monotonic() - started < 5
            later.join()
            assert bodies(got) == [1]
            consumer.acknowledge(got)

    def test_messages_come_in_order_with_all_that_they_carry(self, queue: MessageQueue) -> None:
        assert queue.publish(outgoing(number) for number in range(1_500)) == 1_500
        got = drain(queue)
        assert bodies(got) == list(range(1_500))
        assert [message.message_id for message in got] == [f"id-{number}" for number in range(1_500)]
        assert {(m.queue, m.routing_key, m.content_type, m.deliveries) for m in got} == {
            (QUEUE, "metrics.a", "application/json", 1)
        }
        assert len({message.delivery_id for message in got}) == 1_500

    def test_queues_are_apart(self, queue: MessageQueue) -> None:
        queue.publish(
            [
                outgoing(1),
                outgoing(2, "platform.usage", "usage.a"),
                outgoing(3),
                outgoing(4, "platform.usage", "usage.a"),
            ]
        )
        assert bodies(drain(queue, name="platform.usage")) == [2, 4]
        assert bodies(drain(queue)) == [1, 3]

    def test_any_bytes_and_any_text_come_back_as_they_went(self, queue: MessageQueue) -> None:
        sent = Outgoing("platform.logs", "log.größe-日本", bytes(range(256)), "id-é-🚒", "text/plain; charset=utf-8")
        bare = Outgoing("platform.logs", "log.info", b"")
        queue.publish([sent, bare])
        first, second = drain(queue, name="platform.logs")
        assert (first.routing_key, first.body, first.message_id, first.content_type) == (
            sent.routing_key,
            sent.body,
            sent.message_id,
            sent.content_type,
        )
        assert (second.body, second.message_id, second.content_type) == (b"", None, "application/json")

    def test_a_big_body_comes_back_whole(self, queue: MessageQueue) -> None:
        body = os.urandom(10 * 1024 * 1024)
        queue.publish([outgoing(1), Outgoing(QUEUE, "metrics.a", body), outgoing(2)])
        assert [message.body for message in drain(queue, wait_seconds=2)] == [b"body 1", body, b"body 2"]

    def test_publication_time_is_the_brokers_or_none(self, queue: MessageQueue) -> None:
        before = time.time_ns() // 1_000_000
        queue.publish([outgoing(1)])
        (message,) = drain(queue)
        assert (
            message.published_at == 0 or before - 1_000 <= message.published_at <= time.time_ns() // 1_000_000 + 1_000
        )

    def test_no_more_than_prefetch_is_ever_unsettled(self, queue: MessageQueue) -> None:
        queue.publish(outgoing(number) for number in range(20))
        with queue.consume(QUEUE, prefetch=5) as consumer:
            held: list[Message] = []
            while len(held) < 5:
                held += consumer.receive(100, wait_seconds=2)
            assert bodies(held) == [0, 1, 2, 3, 4]
            assert consumer.receive(100, wait_seconds=0.3) == []
            consumer.acknowledge(held[:2])
            more: list[Message] = []
            while len(more) < 2:
                more += consumer.receive(100, wait_seconds=2)
            assert bodies(more) == [5, 6]
            assert consumer.receive(100, wait_seconds=0.3) == []

    def test_what_is_acknowledged_never_comes_again(self, queue: MessageQueue) -> None:
        queue.publish([outgoing(1), outgoing(2)])
        assert bodies(drain(queue)) == [1, 2]
        time.sleep(REDELIVERY_SECONDS + 0.2)
        assert drain(queue) == []
        assert eventually(lambda: queue.depth(QUEUE).outstanding == 0)

    def test_what_is_requeued_comes_at_once_and_counts(self, broker: Broker, queue: MessageQueue) -> None:
        queue.publish([outgoing(1)])
        with broker.make().open() as second, queue.consume(QUEUE, 5) as giver, second.consume(QUEUE, 5) as taker:
            (first,) = giver.receive(5, wait_seconds=5)
            giver.requeue([first])
            (again,) = taker.receive(5, wait_seconds=REDELIVERY_SECONDS / 2) or giver.receive(5, wait_seconds=0)
            assert (first.deliveries, again.deliveries) == (1, 2)
            assert (again.delivery_id, again.body, again.message_id) == (
                first.delivery_id,
                first.body,
                first.message_id,
            )

    def test_closing_gives_back_at_once(self, queue: MessageQueue) -> None:
        queue.publish(outgoing(number) for number in range(4))
        with queue.consume(QUEUE, prefetch=3) as consumer:
            held = consumer.receive(3, wait_seconds=2)
            consumer.acknowledge(held[:1])
        # 3 may have been on its way to the consumer, and given back before the others
        assert sorted(bodies(drain(queue, wait_seconds=REDELIVERY_SECONDS / 2))) == [1, 2, 3]

    def test_an_exception_gives_back_too_and_stays_the_exception(self, queue: MessageQueue) -> None:
        queue.publish([outgoing(1)])

        def fail() -> None:
            with queue.consume(QUEUE, prefetch=3) as consumer:
                consumer.receive(3, wait_seconds=2)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert bodies(drain(queue)) == [1]

    def test_a_consumer_that_stopped_gives_what_has_come_and_no_more(self, queue: MessageQueue) -> None:
        queue.publish([outgoing(n) for n in range(10)])
        with queue.consume(QUEUE, prefetch=4) as consumer:
            given = consumer.receive(1, 2)
            consumer.stop()
            given += consumer.receive(10, 0.3)
            assert 1 <= len(given) <= 4
            consumer.acknowledge(given)
            assert consumer.receive(10, 0.3) == []
        with queue.consume(QUEUE, prefetch=10) as consumer:
            left = consumer.receive(10, 2)
        assert [message.deliveries for message in left] == [1] * (10 - len(given))

    def test_what_a_killed_consumer_held_comes_again(self, broker: Broker, queue: MessageQueue) -> None:
        queue.publish(outgoing(number) for number in range(6))
        kill_a_consumer_that_holds(broker, limit=4)
        got = drain(queue, wait_seconds=REDELIVERY_SECONDS + 1)
        assert sorted(bodies(got)) == [0, 1, 2, 3, 4, 5]
        assert {number: m.deliveries for number, m in zip(bodies(got), got, strict=True)} == dict(
            zip(range(6), (2, 2, 2, 2, 1, 1), strict=True)
        )

    def test_a_sign_of_life_keeps_the_messages(self, broker: Broker, queue: MessageQueue) -> None:
        queue.publish([outgoing(1), outgoing(2)])
        with broker.make().open() as second, queue.consume(QUEUE, 5) as slow, second.consume(QUEUE, 5) as eager:
            held: list[Message] = []
            while len(held) < 2:
                held += slow.receive(5, wait_seconds=2)
            for _ in range(8):
                slow.keep_alive()
                assert eager.receive(5, wait_seconds=REDELIVERY_SECONDS / 4) == []
            slow.acknowledge(held)
        assert drain(queue) == []

    def test_two_consumers_share_without_overlap(self, broker: Broker, queue: MessageQueue) -> None:
        queue.publish(outgoing(number) for number in range(400))
        with broker.make().open() as other, queue.consume(QUEUE, 20) as one, other.consume(QUEUE, 20) as two:
            shares: tuple[list[int], list[int]] = ([], [])
            while sum(map(len, shares)) < 400:
                for consumer, share in zip((one, two), shares, strict=True):
                    got = consumer.receive(20, wait_seconds=2)
                    share += bodies(got)
                    consumer.acknowledge(got)
        assert sorted(shares[0] + shares[1]) == list(range(400))
        assert min(map(len, shares)) > 0

    def test_beyond_the_delivery_limit_is_a_dead_letter(self, queue: MessageQueue) -> None:
        queue.publish([outgoing(1), outgoing(2)])
        seen = []
        with queue.consume(QUEUE, prefetch=1) as consumer:
            while got := consumer.receive(1, wait_seconds=1):
                if bodies(got) == [2]:
                    consumer.acknowledge(got)
                    continue
                seen += got
                consumer.requeue(got)
        assert [message.deliveries for message in seen] == list(range(1, DELIVERY_LIMIT + 2))
        assert eventually(lambda: queue.depth(QUEUE).dead == 1)
        ((letter, reason),) = queue.dead_letters(QUEUE)
        assert "limit" in reason
        assert (letter.queue, letter.routing_key, letter.body, letter.message_id, letter.delivery_id) == (
            QUEUE,
            "metrics.a",
            b"body 1",
            "id-1",
            seen[0].delivery_id,
        )
        assert queue.depth(QUEUE).outstanding == 0

    def test_what_is_spared_at_its_last_delivery_begins_anew_as_the_same_copy(self, queue: MessageQueue) -> None:
        """A store was away, and what its drains gave back for the last time became dead letters."""
        queue.publish([outgoing(1)])
        seen: list[Message] = []
        for time_ in range(1, DELIVERY_LIMIT + 2):
            with queue.consume(QUEUE, prefetch=1) as consumer:
                seen += consumer.receive(1, wait_seconds=2)
                queue.publish([outgoing(time_ + 1)])  # what came less often stays as it is
                consumer.spare()
        assert [(bodies([one]), one.deliveries) for one in seen] == [([1], n) for n in range(1, DELIVERY_LIMIT + 2)]
        with queue.consume(QUEUE, prefetch=500) as consumer:
            got: list[Message] = []
            while more := consumer.receive(500, wait_seconds=0.5):
                got += more
        spared = [message for message in got if bodies([message]) == [1]]
        assert sorted(bodies(got)) == [1, 2, 3, 4, 5]
        assert [message.deliveries for message in spared] == [1]
        assert (spared[0].delivery_id, spared[0].published_at) == (seen[0].delivery_id, seen[0].published_at)
        assert queue.depth(QUEUE).dead == 0

    def test_what_is_to_blame_is_not_spared_for_ever(self, queue: MessageQueue) -> None:
        """A message that took its store down each time was given back for ever. A count that its sender wrote is taken
        for nothing else than its own."""
        queue.publish([outgoing(1), outgoing(2)])
        seen: list[int] = []
        strict = changed(queue, max_spares=2)
        for _ in range(3 * (DELIVERY_LIMIT + 1)):
            with strict.open() as opened, opened.consume(QUEUE, prefetch=2) as consumer:
                held: list[Message] = []
                while len(held) < 2:
                    held += consumer.receive(2, wait_seconds=2)
                seen += [message.deliveries for message in held]
                consumer.spare(next(one for one in held if bodies([one]) == [1]), "it takes its store down")
        assert max(seen) == DELIVERY_LIMIT + 1
        assert eventually(lambda: queue.depth(QUEUE).dead == 1)
        ((letter, reason),) = queue.dead_letters(QUEUE)
        assert (letter.body, letter.message_id, reason) == (b"body 1", "id-1", "it takes its store down")
        assert bodies(drain(queue, wait_seconds=1)) == [2]

    def test_a_rejected_message_is_a_dead_letter_until_it_is_discarded(self, queue: MessageQueue) -> None:
        queue.publish([outgoing(1), outgoing(2), outgoing(3)])
        with queue.consume(QUEUE, prefetch=3) as consumer:
            held: list[Message] = []
            while len(held) < 3:
                held += consumer.receive(3, wait_seconds=2)
            consumer.reject(held[0], "not_json: größe")
            consumer.reject(held[2], "unknown_schema")
            consumer.acknowledge(held[1:2])
        assert drain(queue) == []
        assert eventually(lambda: queue.depth(QUEUE).dead == 2)
        letters = queue.dead_letters(QUEUE)
        assert queue.dead_letters(QUEUE) == letters
        assert [(m.body, m.delivery_id, reason) for m, reason in letters] == [
            (b"body 1", held[0].delivery_id, "not_json: größe"),
            (b"body 3", held[2].delivery_id, "unknown_schema"),
        ]
        assert queue.dead_letters(QUEUE, limit=1) == letters[:1]
        queue.discard_dead_letters([letters[0][0]])
        assert queue.dead_letters(QUEUE) == letters[1:]
        queue.discard_dead_letters([letters[0][0], letters[1][0]])
        assert queue.dead_letters(QUEUE) == []
        assert eventually(lambda: queue.depth(QUEUE).dead == 0)

    def test_a_full_queue_refuses_and_loses_nothing(self, queue: MessageQueue) -> None:
        confirmed: list[int] = []

        def fill() -> None:
            for start in range(0, 3 * MAX_LENGTH, 100):
                queue.publish(outgoing(number) for number in range(start, start + 100))
                confirmed.extend(range(start, start + 100))

        with pytest.raises(QueueFull, match=QUEUE):
            fill()
        assert len(confirmed) >= MAX_LENGTH - 100
        # other queues have room of their own
        assert queue.publish([outgoing(1, "platform.usage", "usage.a")]) == 1
        got = drain(queue)
        assert bodies(got)[: len(confirmed)] == confirmed
        assert queue.publish([outgoing(1)]) == 1

    def test_a_watched_depth_follows_the_queue(self, queue: MessageQueue) -> None:
        with queue.watch() as depth:
            assert depth(QUEUE).empty
            queue.publish([outgoing(number) for number in range(3)])
            assert eventually(lambda: depth(QUEUE).ready == 3)
            assert depth("platform.logs").empty
            drain(queue)
            assert eventually(lambda: depth(QUEUE).empty)
            with pytest.raises(ValueError, match="there is no queue"):
                depth("agent.metrisc")

    def test_depth_counts_what_waits(self, queue: MessageQueue) -> None:
        assert (queue.depth(QUEUE).ready, queue.depth(QUEUE).dead) == (0, 0)
        queue.publish(outgoing(number) for number in range(7))
        assert eventually(lambda: queue.depth(QUEUE).ready == 7)
        assert bodies(drain(queue)) == list(range(7))
        assert eventually(lambda: queue.depth(QUEUE).ready == 0)

    def test_what_is_confirmed_survives_a_crash(self, broker: Broker, queue: MessageQueue) -> None:
        queue.publish(outgoing(number) for number in range(500))
        queue.publish([outgoing(0, "platform.logs", "log.info")])
        broker.crash()
        assert sorted(bodies(drain(queue, wait_seconds=1))) == list(range(500))
        assert bodies(drain(queue, name="platform.logs")) == [0]

    def test_what_was_held_at_a_crash_comes_again(self, broker: Broker, queue: MessageQueue) -> None:
        queue.publish(outgoing(number) for number in range(10))
        with broker.make().open() as dying:
            try:
                with dying.consume(QUEUE, prefetch=4) as consumer:
                    held = consumer.receive(4, wait_seconds=2)
                    consumer.acknowledge(held[:1])
                    time.sleep(WRITTEN_SECONDS)
                    broker.crash()
            except StoreError:
                pass  # an implementation may say that its connection broke; its messages come again all the same
        assert sorted(bodies(drain(queue, wait_seconds=REDELIVERY_SECONDS + 1))) == list(range(1, 10))

    def test_a_crash_while_publishing_loses_nothing_that_was_confirmed(
        self, broker: Broker, queue: MessageQueue
    ) -> None:
        confirmed: list[int] = []

        def publish() -> None:
            with broker.make().open() as publisher:
                for number in range(MAX_LENGTH):
                    try:
                        publisher.publish([outgoing(number)])
                    except StoreError:
                        return  # nobody said that it was taken
                    confirmed.append(number)

        publisher = threading.Thread(target=publish)
        publisher.start()
        assert eventually(lambda: len(confirmed) > 20)
        broker.crash()
        publisher.join(60)
        got = bodies(drain(queue, wait_seconds=1))
        assert set(confirmed) <= set(got)
        assert sorted(set(got)) == list(range(len(set(got))))
