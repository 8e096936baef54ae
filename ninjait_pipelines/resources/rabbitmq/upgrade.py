"""Brings queues that 0.3.0 declared up to date, with everything in them: `ninjait migrate up`.

Until 0.3.0 the broker gave a dead letter its queue's name as routing key, and only a header that the publisher could
forge named its organization. A queue's arguments cannot be changed, so each queue is deleted and declared again. In the
meantime its messages are in a second queue, `<queue>.moving`, which also takes what is published.

1. Declare the second queue, and move the first one's messages to it.
2. Bind the second queue to the events exchange, remove the first one's bindings, and move what arrived in between.
3. Delete the first queue, which is empty and receives nothing, and declare it again.
4. Do 1 and 2 in the opposite direction; delete the second queue.

Dying anywhere, every message is in one of the two queues, perhaps in both as the same copy; the next `upgrade` finds
out which of the two exist, and continues. Messages that are published during a move may overtake those being moved.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pika
import pika.exceptions

from ninjait_pipelines.resources.message_queue import QueueFull
from ninjait_pipelines.resources.rabbitmq.connection import ConnectionSettings
from ninjait_pipelines.resources.rabbitmq.errors import DIFFERS, TITLE, errors
from ninjait_pipelines.resources.rabbitmq.frames import LenientConnection
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS, dead_queue
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines.streams import QUEUES

OLD_DEAD = "ninjait.dead"
LIMITS = ("x-delivery-limit", "x-max-length")
# A message routed before the bindings were removed may arrive a moment later, and while the broker moves a message to
# the dead letters no queue counts it.
SETTLE_SECONDS = 1.0


def upgrade(
    settings: ConnectionSettings,
    arguments: Callable[[str], dict[str, Any]],
    declare: Callable[[], None],
    settle_seconds: float = SETTLE_SECONDS,
) -> Iterator[str]:
    """Declares what is missing and replaces what 0.3.0 declared; yields a line for each queue that was replaced.

    arguments: those of a queue today; declare: declares all queues; settle_seconds: the wait for late arrivals.

    Raises StoreFailed if a queue has consumers: what they hold could not be requeued once the queue is gone.
    """
    with errors(settings.url):
        old = [queue for queue in QUEUES if _is_old(settings, queue, arguments(queue))]
        begun = {queue for queue in QUEUES if _count(settings, moving(queue)) is not None}
        for queue in old:
            _check_unused(settings, queue)
            with _channel(settings) as channel:
                channel.queue_declare(moving(queue), durable=True, arguments={"x-queue-type": "quorum"})
            _transfer(settings, queue, moving(queue), QUEUES[queue])
        _retire(settings, {queue: moving(queue) for queue in old}, settle_seconds)
    declare()
    with errors(settings.url):
        back = {moving(queue): queue for queue in QUEUES if queue in begun.union(old)}
        moved = {queue: _transfer(settings, source, queue, QUEUES[queue]) for source, queue in back.items()}
        _retire(settings, back, settle_seconds)
        _remove_old_exchange(settings)
    for queue, count in moved.items():
        yield f"{queue} was replaced, with its {count} messages; its dead letters now keep their routing keys."


def moving(queue: str) -> str:
    """The queue that stands in for another one while that one is replaced."""
    return f"{queue}.moving"


def _exchange(queue: str) -> str:
    """An exchange that leads to this queue, whatever the routing key, so that messages keep theirs."""
    return f"ninjait.to.{queue}"


@contextmanager
def _channel(settings: ConnectionSettings) -> Iterator[Any]:
    connection = pika.BlockingConnection(settings.parameters(), _impl_class=LenientConnection)
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def _count(settings: ConnectionSettings, queue: str) -> int | None:
    """How many messages a queue holds; None if it does not exist."""
    with _channel(settings) as channel:
        try:
            return int(channel.queue_declare(queue, passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise
            return None


def _is_old(settings: ConnectionSettings, queue: str, arguments: Mapping[str, Any]) -> bool:
    """Whether 0.3.0 declared it: the broker accepts a declaration that equals the queue's, and refuses any other.

    The limits were settings then too, perhaps with other values: each refusal reveals one of them.
    """
    if _count(settings, queue) is None:
        return False
    old = {**arguments, "x-dead-letter-exchange": OLD_DEAD, "x-dead-letter-routing-key": queue}
    for _ in range(1 + len(LIMITS)):
        with _channel(settings) as channel:
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


def _check_unused(settings: ConnectionSettings, queue: str) -> None:
    with _channel(settings) as channel:
        consumers = channel.queue_declare(queue, passive=True).method.consumer_count
    if consumers:
        problem = f"{consumers} consumers read the queue {queue}, which has to be replaced"
        advice = (
            "Stop the earlier version's drains (Dagster's daemon), then: ninjait migrate up. Publishers may continue."
        )
        raise StoreFailed(TITLE, settings.url, problem, advice)


def _transfer(settings: ConnectionSettings, source: str, target: str, keys: tuple[str, ...]) -> int:
    """Moves everything, and routes to the target from then on; returns how many messages were moved."""
    with _channel(settings) as channel:
        channel.exchange_declare(_exchange(target), "fanout", durable=True)
        channel.queue_bind(target, _exchange(target))
        moved = _move(settings, channel, source, target)
        for key in keys:
            channel.queue_bind(target, EVENTS, key)
        for key in keys:
            channel.queue_unbind(source, EVENTS, key)
        return moved + _move(settings, channel, source, target)


def _retire(settings: ConnectionSettings, targets: Mapping[str, str], settle_seconds: float) -> None:
    """Deletes queues (source -> target) that no longer receive anything, once late arrivals have been moved."""
    if targets:
        time.sleep(settle_seconds)
    for source, target in targets.items():
        _check_unused(settings, source)
        with _channel(settings) as channel:
            _move(settings, channel, source, target)
            channel.queue_delete(source)
            channel.exchange_delete(_exchange(target))


def _move(settings: ConnectionSettings, channel: Any, source: str, target: str) -> int:
    """Publishes each message to the target unchanged, then acknowledges it: dying in between, it is in both."""
    moved = 0
    while True:
        method, properties, body = channel.basic_get(source)
        if method is None:
            return moved
        (properties.headers or {}).pop("x-delivery-count", None)
        # The broker would refuse a user_id other than ours, and drop messages that have waited beyond their expiry.
        properties.user_id = properties.expiration = None
        try:
            channel.basic_publish(_exchange(target), method.routing_key, body, properties, mandatory=True)
        except pika.exceptions.NackError:
            problem = f"the queue {target} takes no more; {source} keeps the rest"
            advice = "Let the drains make room, then: ninjait migrate up."
            raise QueueFull(TITLE, settings.url, problem, advice) from None
        channel.basic_ack(method.delivery_tag)
        moved += 1


def _remove_old_exchange(settings: ConnectionSettings) -> None:
    """Deletes 0.3.0's dead-letter exchange, which no queue uses any more; if another queue is bound to it, it stays."""
    with _channel(settings) as channel:
        try:
            for queue in QUEUES:
                channel.queue_unbind(dead_queue(queue), OLD_DEAD, queue)
            channel.exchange_delete(OLD_DEAD, if_unused=True)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code not in (404, 406):
                raise
