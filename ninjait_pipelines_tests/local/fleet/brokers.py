"""Brokers for an agent: one that cannot be reached, and one that takes everything."""

from collections.abc import Callable

from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue

AWAY = DragonflyQueue(url="redis://127.0.0.1:1/0")


def into(taken: list[Outgoing]) -> Callable[[list[Outgoing]], int]:
    """A broker that takes everything."""

    def publish(batch: list[Outgoing]) -> int:
        taken.extend(batch)
        return len(batch)

    return publish
