"""`MessageQueue` on RabbitMQ: a topic exchange, and for each queue a quorum queue and another for its dead letters.

What the code declares is what must be there: a queue that was declared with other arguments is an error that names
them, never deleted or declared anew. Publishing has a connection of its own, because the broker reads nothing from a
publisher while an alarm lasts, and must still hear questions; so has each consumer.

A consumer whose connection or channel is lost (the broker was restarted, a node failed over, a delivery was held beyond
the broker's consumer_timeout) connects anew at its next `receive`. What it held is delivered again, to whoever asks:
its receipts are void.
"""

import concurrent.futures
import hashlib
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby, takewhile
from typing import Any

import msgspec
import pika
import pika.exceptions
from pydantic import Field, PrivateAttr

from ninjait_pipelines.resources.amqp import TITLE, Channel, Link, errors, resolve, text
from ninjait_pipelines.resources.message_queue import QUEUES, Depth, Message, MessageQueue, Outgoing, QueueFull
from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreUnavailable

EVENTS = "ninjait.events"
DEAD = "ninjait.dead"
# Headers of ours. A message of somebody else has none of them, and is read all the same.
DELIVERY_ID, PUBLISHED_MS = "ninjait-delivery-id", "ninjait-published-ms"
REASON, ROUTING_KEY, DELIVERIES = "ninjait-reason", "ninjait-routing-key", "ninjait-deliveries"
MOST_REASON = 1_000  # characters; all headers go into one frame
# Each look at a dead letter gives it back, which counts as a delivery: RabbitMQ 4 drops it after 20 if nothing is said,
# 3.x knows no word for "never".
LOOKS = 1_000_000_000
# What may be under way to the broker unconfirmed: WINDOW chunks of either bound.
CHUNK_MESSAGES = 250
CHUNK_BYTES = 1024 * 1024
WINDOW = 4
# A batch is full once nothing has come for so long.
LINGER_SECONDS = 0.02
RECONNECT_SECONDS = 0.25
_VALUE = r"(?:the value )?'?(.+?)'?(?: of type '\w+')?"
_DIFFERS = re.compile(
    rf"inequivalent arg '(.+?)' for (\w+) '(.+?)' in vhost '.*?': received {_VALUE} but current is {_VALUE}(?:\"\)|$)"
)


class RabbitMQ(MessageQueue):
    """The broker through pika. It may be used by several threads; one publishes at a time.

    with RabbitMQ(url="amqp://user:password@127.0.0.1:5672/virtual-host").open() as queue:
        queue.declare()
        queue.publish([Outgoing("agent.metrics", f"metrics.{organization_id}", body)])
        with queue.consume("agent.metrics", prefetch=500) as consumer:
            consumer.acknowledge(consumer.receive(500, wait_seconds=2))
    """

    title = "Message queue (RabbitMQ)"

    url: str = Field(description="amqp://user:password@host:port/virtual-host; amqps:// with TLS, and ?cafile= there")
    delivery_limit: int = Field(
        default=5, ge=1, description="A message that was delivered more often than this becomes a dead letter"
    )
    max_length: int = Field(
        default=1_000_000, ge=1, description="Messages that a queue holds; then it refuses publishers"
    )
    timeout_seconds: float = Field(default=10, gt=0, description="Longest wait for a connection or an answer, seconds")
    heartbeat_seconds: int = Field(
        default=30, ge=1, description="A connection on which nothing was heard for so long is given up"
    )

    _client: Link | None = PrivateAttr(default=None)
    _publisher: "Publisher | None" = PrivateAttr(default=None)
    _connecting: Any = PrivateAttr(default_factory=threading.RLock)
    _publishing: Any = PrivateAttr(default_factory=threading.RLock)

    def connect(self) -> Link:
        """A new connection; whoever asks for it closes it."""
        return Link(self.url, self.timeout_seconds, self.heartbeat_seconds)

    def _channel_of(self, connected: Callable[[], Link]) -> Channel:
        """A channel; that the link was lost unnoticed shows here, and is mended once."""
        try:
            return Channel(connected())
        except (pika.exceptions.AMQPError, OSError):
            return Channel(connected())

    def _questions(self) -> Link:
        with self._connecting:
            if self._client is None or self._client.lost:
                self._client = self.connect()
            return self._client

    @contextmanager
    def channel(self) -> Iterator[Channel]:
        """A channel of the connection for questions, closed at the end; unsettled messages are given back then."""
        with errors(self.url):
            channel = self._channel_of(self._questions)
            try:
                yield channel
            finally:
                channel.close()

    def _ping(self) -> tuple[str, int | None]:
        with self.channel() as channel:
            return channel.link.server_version, None

    def close(self) -> None:
        super().close()
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.link.close()

    def declare(self) -> None:
        """Bindings are added, never removed. Raises StoreFailed for a queue with other arguments; it stays as it is."""
        with self._differences(), self.channel() as channel:
            channel.call("exchange_declare", exchange=EVENTS, exchange_type="topic", durable=True)
            channel.call("exchange_declare", exchange=DEAD, exchange_type="direct", durable=True)
            for queue, keys in QUEUES.items():
                # The dead letters' queue first: there is never a queue whose dead letters have nowhere to go.
                for name, exchange, bindings in ((dead_queue(queue), DEAD, (queue,)), (queue, EVENTS, keys)):
                    channel.call("queue_declare", queue=name, durable=True, arguments=self._arguments(queue, name))
                    for key in bindings:
                        channel.call("queue_bind", queue=name, exchange=exchange, routing_key=key)

    def _arguments(self, queue: str, name: str) -> dict[str, Any]:
        if name != queue:
            return {"x-queue-type": "quorum", "x-delivery-limit": LOOKS}
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": self.delivery_limit,
            "x-max-length": self.max_length,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": DEAD,
            "x-dead-letter-routing-key": queue,
            "x-dead-letter-strategy": "at-least-once",
        }

    @contextmanager
    def _differences(self) -> Iterator[None]:
        try:
            yield
        except StoreFailed as error:
            differs = _DIFFERS.search(str(error.__cause__))
            if not differs:
                raise
            argument, kind, name, ours, theirs = differs.groups()
            problem = f"the {kind} {name} was declared with another {argument}: it has {theirs}, and ours is {ours}"
            advice = (
                f"It was left as it is. Drain it, delete it (rabbitmqctl delete_queue {name}), and: ninjait migrate up."
            )
            raise StoreFailed(TITLE, self.url, problem, advice) from error

    def publish(self, messages: Iterable[Outgoing]) -> int:
        with self._publishing, errors(self.url):
            return self._ready_publisher().publish(_envelope(message) for message in messages)

    def bury(self, message: Message, reason: str) -> None:
        """Publishes a message to the dead letters, with what `dead_letters` gives back."""
        headers = {REASON: reason[:MOST_REASON], ROUTING_KEY: message.routing_key, DELIVERIES: message.deliveries}
        properties = _properties(
            message.content_type, message.message_id, message.delivery_id, message.published_at, headers
        )
        with self._publishing, errors(self.url):
            self._ready_publisher().publish(
                iter([Envelope(DEAD, message.queue, message.body, properties, message.queue)])
            )

    def _ready_publisher(self) -> "Publisher":
        if self._publisher is None or self._publisher.lost:
            if self._publisher is not None:
                self._publisher.link.close()
            self._publisher = Publisher(self.url, self.connect(), self.max_length)
        return self._publisher

    @contextmanager
    def consume(self, queue: str, prefetch: int) -> Iterator["RabbitConsumer"]:
        consumer = RabbitConsumer(self, known(queue), prefetch)
        try:
            yield consumer
        finally:
            consumer.close()

    def depth(self, queue: str) -> Depth:
        with self.channel() as channel:
            ready, dead = (
                channel.call("queue_declare", queue=name, passive=True).method.message_count
                for name in (known(queue), dead_queue(queue))
            )
        return Depth(ready=ready, unsettled=0, dead=dead)

    def dead_letters(self, queue: str, most: int = 100) -> list[tuple[Message, str]]:
        """Two who look at once may each see a part."""
        with self.channel() as channel:
            found = [self._dead_letter(queue, *got[1:]) for got in _gets(channel, queue, most)]
            channel.ask(lambda reply: _give_back_all(channel, reply))
        return found

    def discard_dead_letters(self, messages: Sequence[Message]) -> None:
        """Dying in between: what has not been acknowledged is given back, and is a dead letter still."""
        with self.channel() as channel:
            for queue, letters in groupby(messages, key=lambda message: message.queue):
                wanted = {letter.receipt for letter in letters}
                # They are the oldest, which were looked at; those of another who looks at once may stand before them.
                for method, properties, body in _gets(channel, queue, len(wanted) + 100):
                    receipt = self._dead_letter(queue, properties, body)[0].receipt
                    if receipt in wanted:
                        wanted.remove(receipt)
                        channel.acknowledge(method.delivery_tag)
                    if not wanted:
                        break
                channel.ask(lambda reply: _give_back_all(channel, reply))

    def _dead_letter(self, queue: str, properties: Any, body: bytes) -> tuple[Message, str]:
        """As it was delivered, but that the receipt is the dead letter's."""
        headers = properties.headers or {}
        if REASON in headers and "x-death" not in headers:  # with it, the broker had it last
            key, reason, deliveries = text(headers.get(ROUTING_KEY)), text(headers[REASON]), headers.get(DELIVERIES)
        else:
            key, reason = _death(headers, self.delivery_limit)
            deliveries = self.delivery_limit + 1
        deliveries = deliveries if isinstance(deliveries, int) else 1
        message = _message(queue, key, properties, body, receipt="", deliveries=deliveries)
        return msgspec.structs.replace(message, receipt=message.delivery_id), reason


class Envelope(msgspec.Struct, frozen=True):
    """A message on its way to the broker; `queue` is where it is meant to end."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    queue: str


class _Chunk(msgspec.Struct, eq=False):
    """Messages that are under way together, and what first went wrong with one of them."""

    reply: Any
    left: int
    problem: StoreError | None = None


class Publisher:
    """A connection that publishes: a window of messages is under way, each confirmed by the broker for itself."""

    def __init__(self, url: str, link: Link, max_length: int) -> None:
        self.link = link
        self._url = url
        self._max_length = max_length
        self._count = 0
        self._unconfirmed: dict[int, tuple[_Chunk, str]] = {}  # sequence number -> (its chunk, the queue)
        self._returned: StoreError | None = None
        try:
            self._channel = Channel(link)
            self._channel.ask(self._confirm)
        except BaseException:
            link.close()
            raise

    @property
    def lost(self) -> Exception | None:
        return self._channel.lost

    def _confirm(self, reply: Any) -> None:
        self._channel.raw.add_on_return_callback(self._on_return)
        self._channel.raw.confirm_delivery(self._on_confirm, callback=lambda _: resolve(reply))

    def publish(self, envelopes: Iterator[Envelope]) -> int:
        """How many were confirmed. Before anything is raised, what is under way is waited for."""
        under_way: deque[Any] = deque()
        count = 0
        try:
            for chunk in _chunks(envelopes):
                under_way.append(self._send(chunk))
                count += len(chunk)
                if len(under_way) == WINDOW:
                    self.link.wait(under_way.popleft())
        finally:
            # With the first of them failing for the connection all of them do, at once.
            concurrent.futures.wait(under_way, self.link.timeout_seconds)
            for reply in under_way:
                self.link.wait(reply)
        return count

    def _send(self, envelopes: list[Envelope]) -> Any:
        def work(reply: Any) -> None:
            chunk = _Chunk(reply, len(envelopes))
            for envelope in envelopes:
                self._channel.raw.basic_publish(
                    envelope.exchange, envelope.routing_key, envelope.body, envelope.properties, mandatory=True
                )
                self._count += 1
                self._unconfirmed[self._count] = (chunk, envelope.queue)

        return self._channel.start(work)

    def _on_return(self, _channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        """No queue wants the message. The broker says so first, and then confirms it."""
        problem = (
            f"no queue takes a message with the routing key {text(method.routing_key)} ({text(method.reply_text)})"
        )
        self._returned = StoreFailed(TITLE, self._url, problem, "Are the queues declared? ninjait migrate up.")

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if method.multiple:
            tags = list(takewhile(lambda tag: tag <= method.delivery_tag, self._unconfirmed))
        else:
            tags = [method.delivery_tag]
        for tag in tags:
            chunk, queue = self._unconfirmed.pop(tag)
            problem, self._returned = self._returned, None
            if isinstance(method, pika.spec.Basic.Nack):
                words = f"the queue {queue} takes no more: it holds {self._max_length} messages, or its nodes are down"
                problem = QueueFull(
                    TITLE, self._url, words, "Keep the message; is its drain running? See ninjait status."
                )
            chunk.problem = chunk.problem or problem
            chunk.left -= 1
            if not chunk.left:
                resolve(chunk.reply, error=chunk.problem)


class RabbitConsumer:
    """A consumer on a connection of its own; another one, of the next generation, when that is lost."""

    def __init__(self, broker: RabbitMQ, queue: str, prefetch: int) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._generation = 0
        self._session: Session | None = None
        self._connected()

    def _connected(self) -> "Session":
        """The session; where it was lost, a new one, tried for `timeout_seconds`."""
        deadline = time.monotonic() + self._broker.timeout_seconds
        while self._session is None or self._session.lost:
            self.close()
            self._generation += 1
            try:
                with errors(self._broker.url):
                    self._session = Session(self._broker.connect(), self._queue, self._prefetch, self._generation)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RECONNECT_SECONDS)
        return self._session

    def receive(self, most: int, wait_seconds: float) -> list[Message]:
        """Where the connection is lost it is made anew, and waited on as long again; but not for ever."""
        deadline = time.monotonic() + wait_seconds + self._broker.timeout_seconds
        while True:
            session = self._connected()
            messages = session.take(most, wait_seconds)
            if messages or not session.lost:
                return messages
            if time.monotonic() > deadline:
                raise self._lost(session.lost)

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Dying before the broker has it, they come again. Its answer says that it has; it writes it a moment later."""
        for session, tags in self._alive(messages):
            self._settle(session.acknowledge, tags)

    def requeue(self, messages: Sequence[Message]) -> None:
        """What was lost with its connection has been given back already."""
        with suppress(StoreUnavailable):
            for session, tags in self._alive(messages):
                self._settle(session.requeue, tags)

    def reject(self, message: Message, reason: str) -> None:
        """Published to the dead letters, then acknowledged.

        Dying in between, it is a dead letter and comes again too, with the same delivery_id.
        """
        for session, tags in self._alive([message]):
            self._broker.bury(message, reason)
            self._settle(session.acknowledge, tags)

    def keep_alive(self) -> None:
        """Nothing: the connection's thread answers the broker. A delivery may be held for the broker's
        consumer_timeout, 30 minutes if nothing is set."""

    def _alive(self, messages: Sequence[Message]) -> "Iterator[tuple[Session, set[int]]]":
        """The session with the tags of the messages that are its own; raises StoreUnavailable after that for others."""
        session = self._session
        mine: set[int] = set()
        for message in messages:
            generation, _, tag = message.receipt.partition(":")
            if session is not None and not session.lost and int(generation) == session.generation:
                mine.add(int(tag))
        if session is not None and mine:
            yield session, mine
        if len(mine) < len({message.receipt for message in messages}):
            raise self._lost(session.lost if session is not None else None)

    def _settle(self, settle: Callable[[set[int]], None], tags: set[int]) -> None:
        try:
            with errors(self._broker.url):
                settle(tags)
        except StoreError as error:  # the channel was closed, for whatever reason
            raise self._lost(error.__cause__) from error

    def _lost(self, why: BaseException | None) -> StoreUnavailable:
        problem = f"the connection of the consumer was lost{f': {why}' if why else ''}"
        return StoreUnavailable(TITLE, self._broker.url, problem, "The broker delivers again what it held.")

    def close(self) -> None:
        """Gives back what is held."""
        session, self._session = self._session, None
        if session is not None:
            session.link.close()


class Session:
    """One connection of a consumer, until it is lost: what has come, and what the caller holds of it."""

    def __init__(self, link: Link, queue: str, prefetch: int, generation: int) -> None:
        self.link = link
        self.generation = generation
        self._queue = queue
        self._prefetch = prefetch
        self._come: deque[tuple[Any, Any, bytes]] = deque()
        self._held: dict[int, None] = {}  # in order; touched by the caller only
        self._arrival = threading.Condition()
        self._wanted = 1
        try:
            self._channel = Channel(link, self._wake)
            self._channel.call("basic_qos", prefetch_count=prefetch)
            self._channel.ask(self._consume)
        except BaseException:
            link.close()
            raise

    @property
    def lost(self) -> Exception | None:
        return self._channel.lost

    def _consume(self, reply: Any) -> None:
        self._channel.raw.add_on_cancel_callback(self._on_cancel)
        self._channel.raw.basic_consume(self._queue, self._on_message, callback=lambda _: resolve(reply))

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        with self._arrival:
            self._come.append((method, properties, body))
            if len(self._come) >= self._wanted:
                self._arrival.notify()

    def _on_cancel(self, _frame: Any) -> None:
        """The queue was deleted, or its node went: consuming anew says which."""
        self._channel.lose(ConnectionError(f"the broker cancelled the consumer of {self._queue}"))

    def _wake(self) -> None:
        with self._arrival:
            self._arrival.notify()

    def take(self, most: int, wait_seconds: float) -> list[Message]:
        """What has come, up to `most`: waits for the first, and then while more keep coming.

        What came before the connection was lost is left out: it comes again.
        """
        most = min(most, self._prefetch - len(self._held))
        with self._arrival:
            if most > 0:
                self._wait_for(1, max(wait_seconds, LINGER_SECONDS))
            before = 0
            while before < len(self._come) < most and not self.lost:
                before = len(self._come)
                self._wait_for(most, LINGER_SECONDS)
            if self.lost:
                return []
            taken = [self._come.popleft() for _ in range(min(most, len(self._come)))]
        self._held.update((method.delivery_tag, None) for method, _, _ in taken)
        return [self._delivered(*one) for one in taken]

    def _wait_for(self, count: int, seconds: float) -> None:
        self._wanted = count
        self._arrival.wait_for(lambda: len(self._come) >= count or self.lost is not None, seconds)

    def _delivered(self, method: Any, properties: Any, body: bytes) -> Message:
        counted = (properties.headers or {}).get("x-delivery-count")
        return _message(
            self._queue,
            text(method.routing_key),
            properties,
            body,
            receipt=f"{self.generation}:{method.delivery_tag}",
            deliveries=1 + (counted if isinstance(counted, int) else 0),
        )

    def acknowledge(self, tags: set[int]) -> None:
        """The oldest ones that are held, as far as they are all among `tags`, with one word."""
        oldest = list(takewhile(tags.__contains__, self._held))
        single = [tag for tag in self._held if tag in tags][len(oldest) :]

        def work() -> None:
            if oldest:
                self._channel.raw.basic_ack(oldest[-1], multiple=True)
            for tag in single:
                self._channel.raw.basic_ack(tag)

        self._settle([*oldest, *single], work)

    def requeue(self, tags: set[int]) -> None:
        """By `reject`, not `nack`: since RabbitMQ 4.3 only that counts as a delivery."""
        known_tags = [tag for tag in self._held if tag in tags]

        def work() -> None:
            for tag in known_tags:
                self._channel.raw.basic_reject(tag, requeue=True)

        self._settle(known_tags, work)

    def _settle(self, tags: list[int], work: Callable[[], None]) -> None:
        """Nothing answers an acknowledgement. The question that follows it on the channel does."""

        def settle_and_ask(reply: Any) -> None:
            work()
            self._channel.raw.queue_declare(self._queue, passive=True, callback=lambda _: resolve(reply))

        self._channel.ask(settle_and_ask)
        for tag in tags:
            del self._held[tag]


def known(queue: str) -> str:
    """The queue; ValueError where there is none of this name."""
    if queue not in QUEUES:
        raise ValueError(f"there is no queue {queue!r}; the queues are {', '.join(QUEUES)}")
    return queue


def dead_queue(queue: str) -> str:
    """The queue of a queue's dead letters."""
    return f"{known(queue)}.dead"


def _envelope(message: Outgoing) -> Envelope:
    now = time.time_ns() // 1_000_000
    properties = _properties(message.content_type, message.message_id, uuid.uuid4().hex, now, {})
    return Envelope(EVENTS, message.routing_key, message.body, properties, known(message.queue))


def _properties(
    content_type: str, message_id: str | None, delivery_id: str, published_at: int, headers: dict[str, Any]
) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type=content_type,
        message_id=message_id,
        delivery_mode=2,
        timestamp=published_at // 1000 or None,
        headers={DELIVERY_ID: delivery_id, PUBLISHED_MS: published_at, **headers},
    )


def _chunks(envelopes: Iterator[Envelope]) -> Iterator[list[Envelope]]:
    chunk: list[Envelope] = []
    size = 0
    for envelope in envelopes:
        chunk.append(envelope)
        size += len(envelope.body)
        if len(chunk) == CHUNK_MESSAGES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _message(queue: str, routing_key: str, properties: Any, body: bytes, receipt: str, deliveries: int) -> Message:
    headers = properties.headers or {}
    message_id = text(properties.message_id) or None
    seconds = properties.timestamp if isinstance(properties.timestamp, int) else 0
    published_at, delivery_id = headers.get(PUBLISHED_MS), headers.get(DELIVERY_ID)
    if not isinstance(delivery_id, str):
        delivery_id = content_id(message_id, seconds, routing_key, body)
    return Message(
        queue=queue,
        routing_key=routing_key,
        body=body,
        content_type=text(properties.content_type),
        message_id=message_id,
        receipt=receipt,
        delivery_id=delivery_id,
        deliveries=deliveries,
        published_at=published_at if isinstance(published_at, int) else seconds * 1000,
    )


def content_id(message_id: str | None, seconds: int, routing_key: str, body: bytes) -> str:
    """Names a copy whose publisher did not: copies that are equal in all of this are one copy."""
    head = "\0".join((message_id or "", str(seconds), routing_key, ""))
    return hashlib.sha256(head.encode() + body).hexdigest()[:32]


def _death(headers: dict[str, Any], delivery_limit: int) -> tuple[str, str]:
    """(routing key, reason) of what the broker itself made a dead letter."""
    deaths = headers.get("x-death")
    if not deaths:
        return "", "somebody put it among the dead letters"
    why = text(deaths[0].get("reason"))
    keys = deaths[0].get("routing-keys") or [""]
    if why == "delivery_limit":
        why = f"delivered {delivery_limit + 1} times and never settled; the limit is {delivery_limit}"
    return text(keys[0]), why


def _gets(channel: Channel, queue: str, most: int) -> Iterator[tuple[Any, Any, bytes]]:
    """The oldest dead letters of a queue; they are held until they are settled or the channel is closed."""
    for _ in range(most):
        got = channel.get(dead_queue(queue))
        if got is None:
            return
        yield got


def _give_back_all(channel: Channel, reply: Any) -> None:
    """In their order. The question after it is answered when that is done."""
    channel.raw.basic_nack(0, multiple=True, requeue=True)
    channel.raw.basic_qos(prefetch_count=0, callback=lambda _: resolve(reply))
