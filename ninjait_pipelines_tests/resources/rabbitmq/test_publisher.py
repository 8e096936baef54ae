"""Publishing: what is confirmed is never lost, and every refusal is named."""

import threading
import time
from collections.abc import Iterator

import pytest

from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import OutOfSpace, StoreFailed, StoreUnavailable
from ninjait_pipelines_tests.proxy import TO_ENGINE, Proxy
from ninjait_pipelines_tests.resources.queue_contract import (
    QUEUE,
    bodies,
    drain,
    outgoing,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import Node, held, make

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def test_nothing_wants_the_message_is_the_publishers_error(queue: RabbitMQ) -> None:
    with pytest.raises(StoreFailed, match=r"routing key elsewhere\.a .*NO_ROUTE.*migrate up"):
        queue.publish([outgoing(1), outgoing(2, key="elsewhere.a"), outgoing(3)])
    assert queue.publish([outgoing(4)]) == 1
    assert {1, 4} <= set(bodies(drain(queue)))


def test_nothing_is_declared_is_the_publishers_error(url: str) -> None:
    with make(url).open() as queue:
        with pytest.raises(StoreFailed, match=r"no exchange 'ninjait\.events'.*migrate up"):
            queue.publish([outgoing(1)])
        with pytest.raises(StoreFailed, match=r"no queue 'agent\.metrics'.*migrate up"):
            queue.depth(QUEUE)
        with pytest.raises(StoreFailed, match=r"no queue 'agent\.metrics'"), queue.consume(QUEUE, 1):
            pass
        queue.declare()
        assert queue.publish([outgoing(1)]) == 1


def test_a_routing_key_that_is_too_long_harms_no_other(queue: RabbitMQ) -> None:
    with pytest.raises(StoreFailed, match="longer than 255 bytes"):
        queue.publish([outgoing(1), outgoing(2, key="metrics." + "a" * 300)])
    assert queue.publish([outgoing(3)]) == 1
    assert bodies(drain(queue))[-1] == 3


def test_several_threads_publish(queue: RabbitMQ) -> None:
    def publish(start: int) -> None:
        queue.publish(outgoing(number) for number in range(start, start + 300))

    workers = [threading.Thread(target=publish, args=(start,)) for start in range(0, 1_200, 300)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert sorted(bodies(drain(queue))) == list(range(1_200))


def test_an_alarm_blocks_publishers_and_nobody_else(node: Node, url: str, queue: RabbitMQ) -> None:
    queue.publish(outgoing(number) for number in range(10))
    with make(url, timeout_seconds=2).open() as publisher, queue.consume(QUEUE, 20) as consumer:
        publisher.publish([outgoing(10)])
        node.control("set_vm_memory_high_watermark", "0.00001")
        try:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match="alarm on the broker blocks its publishers"):
                publisher.publish([outgoing(11)])
            assert 1.5 < time.monotonic() - started < 8
            # what drains the broker goes on
            messages = held(consumer, 11)
            consumer.acknowledge(messages[:5])
            assert publisher.depth(QUEUE).ready == 0
            status = publisher.status()
            assert (status.ok, "an alarm on the broker blocks its publishers (low on memory)" in status.problem) == (
                False,
                True,
            )
            later = threading.Timer(1, lambda: node.control("set_vm_memory_high_watermark", "0.4"))
            later.start()
            waiting = make(url, timeout_seconds=30)
            assert waiting.publish([outgoing(12)]) == 1
            waiting.close()
            later.join()
        finally:
            node.control("set_vm_memory_high_watermark", "0.4")
        consumer.acknowledge(messages[5:])
    assert publisher.publish([outgoing(13)]) == 1
    publisher.close()
    assert set(bodies(drain(queue))) - {11} == {12, 13}


def test_a_full_disk_is_called_that(node: Node, url: str, queue: RabbitMQ) -> None:
    node.control("set_disk_free_limit", "999999GB")
    try:
        with make(url, timeout_seconds=2).open() as publisher, pytest.raises(OutOfSpace, match="low on disk"):
            publisher.publish([outgoing(1)])
        assert "out of disk space" in queue.status().problem
    finally:
        node.control("set_disk_free_limit", "50MB")


@pytest.mark.parametrize("count", [1, 7, 50, 4_097, 100_001, 300_000])
def test_a_connection_cut_in_a_frame_loses_nothing_that_was_confirmed(url: str, queue: RabbitMQ, count: int) -> None:
    confirmed: list[int] = []
    with Proxy(url) as proxy, make(proxy.url).open() as publisher:
        publisher.publish([outgoing(-1)])
        proxy.cut_after(count, TO_ENGINE)
        for number in range(0, 400, 20):
            batch = [
                Outgoing(QUEUE, "metrics.a", f"body {one} ".encode() + b"x" * 3000)
                for one in range(number, number + 20)
            ]
            try:
                publisher.publish(batch)
            except StoreUnavailable:
                continue
            confirmed += range(number, number + 20)
        assert proxy.cuts == 1
    assert 340 <= len(confirmed) < 400
    assert set(confirmed) <= set(bodies(drain(queue)))


def test_a_message_above_the_brokers_size_is_named(node: Node, queue: RabbitMQ) -> None:
    with node.set({"max_message_size": 1_000}):
        queue.publish([outgoing(1)])
        with make(queue.url).open() as other:  # the broker reads the setting once for each channel
            with pytest.raises(StoreFailed, match=r"message size.*1000.*max_message_size"):
                other.publish([outgoing(2), Outgoing(QUEUE, "metrics.a", b"x" * 1_001)])
            assert other.publish([outgoing(3)]) == 1
    assert {1, 3} <= set(bodies(drain(queue)))


def test_what_the_callers_iterator_raises_stays_what_it_is(queue: RabbitMQ) -> None:
    def reading() -> Iterator[Outgoing]:
        yield outgoing(1)
        raise FileNotFoundError("events.jsonl")

    with pytest.raises(FileNotFoundError, match=r"events\.jsonl"):
        queue.publish(reading())
    assert queue.publish([outgoing(2)]) == 1


def test_a_lone_surrogate_is_the_publishers_error(queue: RabbitMQ) -> None:
    with pytest.raises(StoreFailed, match="surrogates"):
        queue.publish([outgoing(1, key="metrics.\ud83d")])
    assert queue.publish([outgoing(2)]) == 1


def test_closing_ends_a_publish_that_waits(url: str, queue: RabbitMQ) -> None:
    with Proxy(url) as proxy, make(proxy.url, timeout_seconds=30).open() as slow:
        slow.publish([outgoing(1)])
        proxy.pause()
        ended: list[BaseException] = []

        def publish() -> None:
            try:
                slow.publish([outgoing(2)])
            except StoreUnavailable as error:
                ended.append(error)

        publishing = threading.Thread(target=publish)
        publishing.start()
        time.sleep(0.3)
        slow.close()
        publishing.join(5)
        assert ["connection was closed" in str(error) for error in ended] == [True]
