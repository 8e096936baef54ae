"""Queues of 0.3.0 in RabbitMQ become queues of today, with all that they hold: `ninjait migrate up`.

Until 0.3.0 the broker gave a dead letter its queue's name as routing key, and whose it had been stood in a header that
its publisher could write. A queue's arguments cannot be changed, so each queue is made anew under its name. Its
messages wait in a second queue meanwhile, `<queue>.moving`, which takes what is published in its stead.

1. Declare the second queue, and move to it what the first one holds.
2. Bind the second one to the events' exchange, then take the first one's bindings away, and move what came meanwhile.
3. Delete the first one, which is empty and takes nothing, and declare it anew.
4. As 1 and 2, back again; delete the second one.

Dying anywhere, all messages are in one of the two queues, some perhaps in both, as the same copies; the next `upgrade`
sees which of the two are there, and goes on. Copies that are moved while others are published come after these.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions

from ninjait_pipelines.messages import QUEUES
from ninjait_pipelines.resources.message_queue import QueueFull
from ninjait_pipelines.resources.rabbitmq.errors import DIFFERS, TITLE, errors
from ninjait_pipelines.resources.store import StoreFailed

if TYPE_CHECKING:
    from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ

OLD_DEAD = "ninjait.dead"
LIMITS = ("x-delivery-limit", "x-max-length")
# What was routed to a queue before its bindings went may come a moment later, and what the broker is making a dead
# letter of is in no queue that can be counted.
SETTLE_SECONDS = 1.0


def upgrade(broker: "RabbitMQ") -> Iterator[str]:
    """Declares what is missing and moves what 0.3.0 declared; a line for each queue that was moved.

    Raises StoreFailed where a queue has consumers: whoever holds a message of it would give it back to nobody.
    """
    with errors(broker.url):
        old = [queue for queue in QUEUES if _is_old(broker, queue)]
        begun = {queue for queue in QUEUES if _count(broker, moving(queue)) is not None}
        for queue in old:
            _check_unused(broker, queue)
            with _channel(broker) as channel:
                channel.queue_declare(moving(queue), durable=True, arguments={"x-queue-type": "quorum"})
            _transfer(broker, queue, moving(queue), QUEUES[queue])
        _retire(broker, {queue: moving(queue) for queue in old})
    broker.declare()
    with errors(broker.url):
        back = {moving(queue): queue for queue in QUEUES if queue in begun.union(old)}
        moved = {queue: _transfer(broker, source, queue, QUEUES[queue]) for source, queue in back.items()}
        _retire(broker, back)
        _remove_old_exchange(broker)
    for queue, count in moved.items():
        yield f"{queue} was made anew with its {count} messages; its dead letters keep their routing keys."


def moving(queue: str) -> str:
    """The queue that stands in for another one while that is made anew."""
    return f"{queue}.moving"


def _exchange(queue: str) -> str:
    """An exchange that leads to this queue, whatever the routing key, which so stays what it was."""
    return f"ninjait.to.{queue}"


@contextmanager
def _channel(broker: "RabbitMQ") -> Iterator[Any]:
    from ninjait_pipelines.resources.rabbitmq.resource import parameters

    connection = pika.BlockingConnection(
        parameters(broker.url, broker.timeout_seconds, broker.heartbeat_seconds, broker.ca_file)
    )
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def _count(broker: "RabbitMQ", queue: str) -> int | None:
    """How many messages a queue holds; None where it does not exist."""
    with _channel(broker) as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise
            return None


def _is_old(broker: "RabbitMQ", queue: str) -> bool:
    """Whether 0.3.0 declared it: the broker takes a declaration of what is there, and refuses any other.

    The limits were a setting then too, and may have been others: the broker says what they are, one a refusal.
    """
    if _count(broker, queue) is None:
        return False
    old = {**broker.arguments(queue), "x-dead-letter-exchange": OLD_DEAD, "x-dead-letter-routing-key": queue}
    for _ in range(1 + len(LIMITS)):
        with _channel(broker) as channel:
            try:
                channel.queue_declare(queue, durable=True, arguments=old)
                return True
            except pika.exceptions.ChannelClosedByBroker as error:
                if error.reply_code != 406:
                    raise
                differs = DIFFERS.search(error.reply_text)
                if not differs or differs[1] not in LIMITS or not differs[5].isdigit():
                    return False
                old[differs[1]] = int(differs[5])
    return False


def _check_unused(broker: "RabbitMQ", queue: str) -> None:
    with _channel(broker) as channel:
        consumers = channel.queue_declare(queue, passive=True).method.consumer_count
    if consumers:
        problem = f"{consumers} consumers read the queue {queue}, which has to be made anew"
        advice = (
            "Stop the drains of the earlier version (Dagster's daemon), then: ninjait migrate up. Publishers may go on."
        )
        raise StoreFailed(TITLE, broker.url, problem, advice)


def _transfer(broker: "RabbitMQ", source: str, target: str, keys: tuple[str, ...]) -> int:
    """Moves everything, and has the target take what is published from then on; how many messages were moved."""
    from ninjait_pipelines.resources.rabbitmq.resource import EVENTS

    with _channel(broker) as channel:
        channel.exchange_declare(_exchange(target), "fanout", durable=True)
        channel.queue_bind(target, _exchange(target))
        moved = _move(broker, channel, source, target)
        for key in keys:
            channel.queue_bind(target, EVENTS, key)
        for key in keys:
            channel.queue_unbind(source, EVENTS, key)
        return moved + _move(broker, channel, source, target)


def _retire(broker: "RabbitMQ", targets: Mapping[str, str]) -> None:
    """Deletes queues (source -> target) that take nothing any more, once what was on its way to them has been moved."""
    if targets:
        time.sleep(SETTLE_SECONDS)
    for source, target in targets.items():
        _check_unused(broker, source)
        with _channel(broker) as channel:
            _move(broker, channel, source, target)
            channel.queue_delete(source)
            channel.exchange_delete(_exchange(target))


def _move(broker: "RabbitMQ", channel: Any, source: str, target: str) -> int:
    """Publishes each message to the target as it is, and acknowledges it then: dying between, it is in both."""
    moved = 0
    while True:
        method, properties, body = channel.basic_get(source)
        if method is None:
            return moved
        (properties.headers or {}).pop("x-delivery-count", None)
        # The broker would check whether we are this user, and throw away what has waited beyond its expiry.
        properties.user_id = properties.expiration = None
        try:
            channel.basic_publish(_exchange(target), method.routing_key, body, properties, mandatory=True)
        except pika.exceptions.NackError:
            problem = f"the queue {target} takes no more; {source} keeps the rest"
            raise QueueFull(TITLE, broker.url, problem, "Let drains make room, then: ninjait migrate up.") from None
        channel.basic_ack(method.delivery_tag)
        moved += 1


def _remove_old_exchange(broker: "RabbitMQ") -> None:
    """0.3.0's exchange of dead letters, which no queue of today names. One that somebody else has bound stays."""
    from ninjait_pipelines.resources.rabbitmq.resource import dead_queue

    with _channel(broker) as channel:
        try:
            for queue in QUEUES:
                channel.queue_unbind(dead_queue(queue), OLD_DEAD, queue)
            channel.exchange_delete(OLD_DEAD, if_unused=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code not in (404, 406):
                raise
