"""Brokers for an agent: one that cannot be reached, one that takes everything, and what a real one has."""

from collections.abc import Callable

from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue

AWAY = DragonflyQueue(url="redis://127.0.0.1:1/0")


def into(taken: list[Outgoing]) -> Callable[[list[Outgoing]], int]:
    """A broker that takes everything."""

    def publish(batch: list[Outgoing]) -> int:
        taken.extend(batch)
        return len(batch)

    return publish


def queued(stores: Stores, queue: str = "agent.metrics") -> list[Message]:
    with stores.message_queue.consume(queue, prefetch=10_000) as consumer:
        messages = []
        while batch := consumer.receive(1000, wait_seconds=0.1):
            messages += batch
        consumer.acknowledge(messages)
    return messages
