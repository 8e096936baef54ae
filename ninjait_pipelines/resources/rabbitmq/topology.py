"""What the broker must have: one topic exchange for all messages, and per queue a quorum queue and its dead letters."""

from collections.abc import Iterable, Mapping
from typing import Any

from ninjait_pipelines.resources.rabbitmq.connection import Connection
from ninjait_pipelines.streams import QUEUES

EVENTS = "ninjait.events"
# Inspecting dead letters requeues them, and before RabbitMQ 4.3 a requeue counts as a delivery. RabbitMQ 4 drops a
# message after 20 deliveries by default; -1 disables that limit, but 3.10 takes -1 for 0. Without any limit, requeued
# messages go to the back of the queue, and the next inspection would see different ones. Hence a very large limit.
DEAD_LETTER_DELIVERY_LIMIT = 1_000_000_000


def known(queue: str) -> str:
    """The queue's name; raises ValueError if there is no such queue."""
    if queue not in QUEUES:
        raise ValueError(f"there is no queue {queue!r}; the queues are {', '.join(QUEUES)}")
    return queue


def dead_queue(queue: str) -> str:
    """The queue of a queue's dead letters, and the exchange that leads to it."""
    return f"{known(queue)}.dead"


def queue_arguments(queue: str, delivery_limit: int, max_length: int) -> dict[str, Any]:
    """The arguments a queue is declared with."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-max-length": max_length,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": dead_queue(queue),
        "x-dead-letter-strategy": "at-least-once",
    }


def declare(connection: Connection, arguments: Mapping[str, dict[str, Any]]) -> None:
    """Declares queues (name -> arguments) with their bindings and dead letters."""
    connection.call("exchange_declare", EVENTS, exchange_type="topic", durable=True)
    for queue in arguments:
        # Dead letters first: there must never be a queue whose dead letters have nowhere to go.
        _declare_dead_letters(connection, dead_queue(queue))
        connection.call("queue_declare", queue, durable=True, arguments=arguments[queue])
        for key in QUEUES[queue]:
            connection.call("queue_bind", queue, EVENTS, key)


def _declare_dead_letters(connection: Connection, name: str) -> None:
    """A queue, and a fanout exchange of the same name: a dead letter keeps the routing key it was published with, so
    no header has to be trusted for it."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": DEAD_LETTER_DELIVERY_LIMIT}
    connection.call("exchange_declare", name, exchange_type="fanout", durable=True)
    connection.call("queue_declare", name, durable=True, arguments=arguments)
    connection.call("queue_bind", name, name, "")


def check_declared(connection: Connection, queues: Iterable[str]) -> None:
    """Raises the broker's error if something is missing; needs no right to configure."""
    connection.call("exchange_declare", EVENTS, passive=True)
    for queue in queues:
        connection.call("queue_declare", queue, passive=True)
        connection.call("queue_declare", dead_queue(queue), passive=True)
