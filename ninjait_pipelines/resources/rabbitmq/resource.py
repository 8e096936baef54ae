"""`MessageQueue` on RabbitMQ: a topic exchange, and for each queue a quorum queue and another for its dead letters.

The broker must have exactly what `topology` declares: a queue with different arguments is an error that names them; it
is never deleted or declared again.

The publisher, each consumer and each question have a connection of their own. A connection has its own thread, so that
heartbeats are answered while a caller is busy for minutes, and many messages can be in flight at once. A lost
connection is never repaired: callers connect again. What a lost consumer held is redelivered to any consumer, and its
receipts are void. During an alarm the broker reads nothing from a publisher, but must still hear the others.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any

from pydantic import Field, PrivateAttr

from ninjait_pipelines.messages import Message, Outgoing, fits
from ninjait_pipelines.resources.message_queue import Depth, MessageQueue
from ninjait_pipelines.resources.rabbitmq import topology, upgrade
from ninjait_pipelines.resources.rabbitmq.connection import Connection, ConnectionSettings
from ninjait_pipelines.resources.rabbitmq.consumer import RabbitConsumer
from ninjait_pipelines.resources.rabbitmq.errors import TITLE, differences, errors
from ninjait_pipelines.resources.rabbitmq.messages import Envelope, dead_letter, properties_of
from ninjait_pipelines.resources.rabbitmq.publisher import Publisher
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS, dead_queue, known
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines.streams import QUEUES

PROBE_KEY = "ninjait.write_probe"
PROBE_SECONDS = 2.0


class RabbitMQ(MessageQueue):
    """The broker through pika. Several threads may use it; they take turns to publish.

    with RabbitMQ(url="amqp://user:password@127.0.0.1:5672/virtual-host").open() as queue:
        queue.declare()
        queue.publish([Outgoing("agent.metrics", f"metrics.{organization_id}", body)])
        with queue.consume("agent.metrics", prefetch=500) as consumer:
            consumer.acknowledge(consumer.receive(500, wait_seconds=2))
    """

    title = "Message queue (RabbitMQ)"
    oldest = "3.10"

    url: str = Field(description="amqp://user:password@host:port/virtual-host; amqps:// with TLS, and ?cafile= there")
    delivery_limit: int = Field(
        default=5, ge=1, description="A message that was delivered more often than this becomes a dead letter"
    )
    max_length: int = Field(
        default=1_000_000, ge=1, description="Messages that a queue may hold before it refuses publishers"
    )
    timeout_seconds: float = Field(default=10, gt=0, description="Longest wait for a connection or an answer, seconds")
    heartbeat_seconds: int = Field(
        default=30, ge=1, description="A connection that was silent for this long is dropped, seconds"
    )

    _client: Publisher | None = PrivateAttr(default=None)
    _publishing: Any = PrivateAttr(default_factory=threading.RLock)

    @property
    def _settings(self) -> ConnectionSettings:
        return ConnectionSettings(self.url, self.timeout_seconds, self.heartbeat_seconds, self.ca_file)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A connection to ask questions on. Closing it requeues what was being inspected."""
        with errors(self.url):
            connection = Connection(self._settings)
            try:
                yield connection
            finally:
                connection.close()

    def _ping(self) -> tuple[str, int | None]:
        with self._connection() as connection:
            return connection.server_version, None

    def declare(self, queue: str | None = None) -> None:
        """Adds bindings, never removes any. Raises StoreFailed for a queue with different arguments, and leaves it as
        it is.

        A user without the right to configure gets StoreFailed if something is missing."""
        queues = [queue] if queue else [*QUEUES]
        try:
            with differences(self.url), self._connection() as connection:
                topology.declare(connection, {name: self._arguments(name) for name in queues})
        except StoreRefused:  # in production the pipeline's own user may not configure: the owner has declared it
            with self._connection() as connection:
                topology.check_declared(connection, queues)

    def check_declared(self) -> None:
        with self._connection() as connection:
            topology.check_declared(connection, QUEUES)
        self.declare()  # creates nothing now: it compares

    def _arguments(self, queue: str) -> dict[str, Any]:
        return topology.queue_arguments(queue, self.delivery_limit, self.max_length)

    def upgrade(self, settle_seconds: float = upgrade.SETTLE_SECONDS) -> Iterator[str]:
        yield from upgrade.upgrade(self._settings, self._arguments, self.declare, settle_seconds)

    def publish(self, messages: Iterable[Outgoing]) -> int:
        return self._publish(
            Envelope(EVENTS, message.routing_key, message.body, properties_of(message), known(message.queue))
            for message in messages
        )

    def takes(self, message: Outgoing) -> bool:
        return fits(message.queue, message.routing_key)

    def publish_dead_letter(self, message: Message, reason: str) -> None:
        """Publishes a message to the dead letters, with all that `dead_letters` returns."""
        self._publish(iter([Envelope.of_dead_letter(dead_queue(message.queue), message, reason)]))

    def _publish(self, envelopes: Iterator[Envelope]) -> int:
        with self._publishing:
            publisher = self._client  # another thread may close it
            if publisher is None or publisher.closed_reason:
                self.close()
                with errors(self.url):
                    publisher = self._client = Publisher(self._settings, self.max_length)
            return publisher.publish(envelopes)

    @contextmanager
    def consume(self, queue: str, prefetch: int, limit: int | None = None) -> Iterator[RabbitConsumer]:
        consumer = RabbitConsumer(
            self._settings,
            known(queue),
            min(prefetch, limit or prefetch),
            limit,
            delivery_limit=self.delivery_limit,
            max_spares=self.max_spares,
            publish=self._publish,
        )
        try:
            consumer.session()
            yield consumer
        finally:
            consumer.close()

    def depth(self, queue: str) -> Depth:
        """Raises StoreUnavailable for a queue that only looks empty."""
        with self._connection() as connection:
            ready, dead = (self._count(connection, name) for name in (known(queue), dead_queue(queue)))
        return Depth(ready=ready, unsettled=0, dead=dead)

    @contextmanager
    def watch(self) -> Iterator[Callable[[str], Depth]]:
        """Depths as the broker reports them: a queue that only looks empty is one that is empty, unlike in `depth`."""
        with self._connection() as connection:

            def depth(queue: str) -> Depth:
                ready, dead = (_reported(connection, name) for name in (known(queue), dead_queue(queue)))
                return Depth(ready=ready, unsettled=0, dead=dead)

            yield depth

    def _count(self, connection: Connection, name: str) -> int:
        """The number of messages in a queue, verified if it is 0.

        A queue whose leader is gone, after a full disk, reports 0 while the broker runs on, and does not answer a get
        at all. An empty queue answers at once. A message that arrives at just that moment is requeued.
        """
        count = _reported(connection, name)
        if count:
            return count
        try:
            with errors(self.url):
                for _ in connection.basic_get_many(name, 1):
                    count += 1
                    connection.send("basic_nack", 0, multiple=True, requeue=True)
        except StoreUnavailable as error:
            problem = f"the queue {name} looks empty, and gives no answer: is its leader gone, after a full disk?"
            advice = (
                f"Its messages are still there. docs/runbook.md, A queue that looks empty. The broker says: {error}"
            )
            raise StoreUnavailable(TITLE, self.url, problem, advice) from error
        return count

    def probe(self) -> None:
        """Publishes a message that no queue takes, which the broker returns unless an alarm blocks publishers; and asks
        whether every queue is there."""
        impatient = self.elsewhere(timeout_seconds=min(self.timeout_seconds, PROBE_SECONDS))
        unwanted = properties_of(Outgoing(next(iter(QUEUES)), PROBE_KEY, b""))
        with impatient.open():
            for _ in range(2):  # even during an alarm the broker answers the first message on a connection
                with suppress(StoreFailed, StoreRefused):
                    impatient._publish(iter([Envelope(EVENTS, PROBE_KEY, b"", unwanted, "")]))
        with self._connection() as connection:
            for queue in QUEUES:
                for name in (queue, dead_queue(queue)):
                    self._count(connection, name)

    def dead_letters(self, queue: str, limit: int = 100) -> list[tuple[Message, str]]:
        """Two callers at the same time may each see only a part."""
        with self._connection() as connection:
            letters = connection.basic_get_many(dead_queue(queue), limit)
            found = [dead_letter(queue, *letter, self.delivery_limit) for letter in letters]
            connection.send("basic_nack", 0, multiple=True, requeue=True)
        return found

    def discard_dead_letters(self, messages: Sequence[Message]) -> None:
        """Dying half-way, those that have not been acknowledged are requeued, and are still dead letters."""
        with self._connection() as connection:
            for queue, letters in groupby(messages, key=lambda message: message.queue):
                wanted = [letter.receipt for letter in letters]
                receipts, left = set(wanted), len(wanted)  # several dead letters may be the same copy
                # The oldest are those that were inspected; those that another caller holds may stand before them.
                for method, properties, body in connection.basic_get_many(dead_queue(queue), left + 100):
                    if dead_letter(queue, method, properties, body, self.delivery_limit)[0].receipt in receipts:
                        left -= 1
                        connection.send("basic_ack", method.delivery_tag)
                    if not left:
                        break
                connection.send("basic_nack", 0, multiple=True, requeue=True)


def _reported(connection: Connection, name: str) -> int:
    count: int = connection.call("queue_declare", name, passive=True).method.message_count
    return count
