"""`MessageQueue` on RabbitMQ: a topic exchange, and for each queue a quorum queue and another for its dead letters.

What the code declares is what must be there: a queue that was declared with other arguments is an error that names
them, never deleted or declared anew.

A question has a connection of its own, that lasts as long as the question; so have a publisher and each consumer. Each
is a `Link`, with a thread of its own, so that heartbeats are answered while a caller is busy for minutes, and so that
many messages can be under way at once. It is used until it is lost, never mended: whoever needs another one connects
anew. What a lost consumer held is delivered again, to whoever asks: its receipts are void. The broker reads nothing
from a publisher while an alarm lasts, and must still hear the others.
"""

import concurrent.futures
import functools
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from itertools import groupby, takewhile
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec
import pika
import pika.exceptions
from pydantic import Field, PrivateAttr

from ninjait_pipelines.messages import QUEUES, Message, Outgoing, fits
from ninjait_pipelines.resources.message_queue import MAX_SPARES, Depth, MessageQueue, QueueFull
from ninjait_pipelines.resources.rabbitmq import upgrade as rabbitmq_upgrade
from ninjait_pipelines.resources.rabbitmq.errors import TITLE, differences, errors
from ninjait_pipelines.resources.rabbitmq.frames import Delivery, ReceivingConnection
from ninjait_pipelines.resources.rabbitmq.messages import (
    DELIVERY_ID,
    anew,
    dead_letter,
    delivered,
    letter_properties,
    properties_of,
    spares,
    text,
)
from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreRefused, StoreUnavailable

EVENTS = "ninjait.events"
# Each look at a dead letter gives it back. Until RabbitMQ 4.3 that counts as a delivery, and RabbitMQ 4 drops a message
# after 20 if nothing is said. -1 means no limit on RabbitMQ 4, but on 3.10 it drops the message that is given back
# first; and without a limit what is given back goes to the end of the queue, so that the next look would see others.
DEAD_LETTER_DELIVERY_LIMIT = 1_000_000_000
# What may be under way to the broker unconfirmed: WINDOW chunks of either bound.
CHUNK_MESSAGES = 250
CHUNK_BYTES = 1024 * 1024
WINDOW = 4
# What may wait here for a slow caller; beyond it the broker is read at SLOW_BYTES a second only, and giants faster: no
# pause is longer than SLOW_SECONDS, well within a heartbeat. The prefetch counts messages, whatever their size.
MAX_WAITING_BYTES = 64 * 1024 * 1024
SLOW_BYTES = 1024 * 1024
SLOW_SECONDS = 10.0
# A consumer begins with FIRST_PREFETCH messages. If they come for the first time, it asks for more ahead where they are
# small: for AHEAD_BYTES of them. What is sent to one consumer is kept from the others, and counts as delivered if it
# dies: so where a store refuses them, thousands are sent once, and a few at a time from then on.
FIRST_PREFETCH = 250
AHEAD_BYTES = 48 * 1024 * 1024
LINGER_SECONDS = 0.02  # a batch is full once nothing has come for so long
MAX_LINGER_SECONDS = 0.2
PROBE_KEY = "ninjait.write_probe"
PROBE_SECONDS = 2.0
RECONNECT_SECONDS = 0.25
CLOSE_SECONDS = 2.0


class RabbitMQ(MessageQueue):
    """The broker through pika. It may be used by several threads; one publishes at a time.

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
        default=1_000_000, ge=1, description="Messages that a queue holds; then it refuses publishers"
    )
    timeout_seconds: float = Field(default=10, gt=0, description="Longest wait for a connection or an answer, seconds")
    heartbeat_seconds: int = Field(
        default=30, ge=1, description="A connection on which nothing was heard for so long is given up"
    )

    _client: "Publisher | None" = PrivateAttr(default=None)
    _publishing: Any = PrivateAttr(default_factory=threading.RLock)

    @contextmanager
    def _questions(self) -> Iterator["Link"]:
        """A link to ask on, closed at the end; it gives back then what was being looked at."""
        with errors(self.url):
            link = Link(self)
            try:
                yield link
            finally:
                link.close()

    def _ping(self) -> tuple[str, int | None]:
        with self._questions() as link:
            return link.server_version, None

    def declare(self, queue: str | None = None) -> None:
        """Bindings are added, never removed. Raises StoreFailed for a queue with other arguments; it stays as it is."""
        with self._or_found_declared(queue), differences(self.url), self._questions() as link:
            link.call("exchange_declare", EVENTS, exchange_type="topic", durable=True)
            for name in [queue] if queue else QUEUES:
                # The dead letters' queue first: there is never a queue whose dead letters have nowhere to go.
                self._declare_dead(link, dead_queue(name))
                link.call("queue_declare", name, durable=True, arguments=self.arguments(name))
                for key in QUEUES[name]:
                    link.call("queue_bind", name, EVENTS, key)

    @contextmanager
    def _or_found_declared(self, queue: str | None) -> Iterator[None]:
        """A user that may not configure, as the pipeline's own in production, is content with what the owner declared.
        Raises StoreFailed where something is missing."""
        try:
            yield
        except StoreRefused:
            with self._questions() as link:
                link.call("exchange_declare", EVENTS, passive=True)
                for name in [queue] if queue else QUEUES:
                    link.call("queue_declare", name, passive=True)
                    link.call("queue_declare", dead_queue(name), passive=True)

    def _declare_dead(self, link: "Link", name: str) -> None:
        """The dead letters of one queue, and the exchange of the same name that leads to them whatever their routing
        key is: it stays as it was published, so nobody has to believe a header that says what it had been."""
        link.call("exchange_declare", name, exchange_type="fanout", durable=True)
        link.call(
            "queue_declare",
            name,
            durable=True,
            arguments={"x-queue-type": "quorum", "x-delivery-limit": DEAD_LETTER_DELIVERY_LIMIT},
        )
        link.call("queue_bind", name, name, "")

    def arguments(self, queue: str) -> dict[str, Any]:
        """Those of a queue."""
        return {
            "x-queue-type": "quorum",
            "x-delivery-limit": self.delivery_limit,
            "x-max-length": self.max_length,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": dead_queue(queue),
            "x-dead-letter-strategy": "at-least-once",
        }

    def upgrade(self) -> Iterator[str]:
        yield from rabbitmq_upgrade.upgrade(self)

    def publish(self, messages: Iterable[Outgoing]) -> int:
        return self._send(
            Envelope(EVENTS, one.routing_key, one.body, properties_of(one), known(one.queue)) for one in messages
        )

    def takes(self, message: Outgoing) -> bool:
        return fits(message.queue, message.routing_key)

    def publish_anew(self, queue: str, deliveries: Iterable[tuple[Delivery, int | None]]) -> None:
        """Publishes delivered messages as the same copies, by the way that they came, some with a count of spares."""
        fresh = (anew(delivery, spared) for delivery, spared in deliveries)
        self._send(Envelope(EVENTS, key, body, properties, queue) for key, body, properties in fresh)

    def publish_dead_letter(self, message: Message, reason: str) -> None:
        """Publishes a message to the dead letters, with what `dead_letters` gives back."""
        exchange, properties = dead_queue(message.queue), letter_properties(message, reason)
        letter = Envelope(exchange, message.routing_key, message.body, properties, message.queue)
        self._send(iter([letter]))

    def _send(self, envelopes: Iterator["Envelope"]) -> int:
        with self._publishing:
            publisher = self._client  # another thread may close it
            if publisher is None or publisher.lost:
                self.close()
                with errors(self.url):
                    publisher = self._client = Publisher(self)
            return publisher.publish(envelopes)

    @contextmanager
    def consume(self, queue: str, prefetch: int, limit: int | None = None) -> Iterator["RabbitConsumer"]:
        consumer = RabbitConsumer(self, known(queue), min(prefetch, limit or prefetch), limit)
        try:
            consumer.session()
            yield consumer
        finally:
            consumer.close()

    def depth(self, queue: str) -> Depth:
        """Raises StoreUnavailable for a queue that only looks empty."""
        with self._questions() as link:
            ready, dead = (self._count(link, name) for name in (known(queue), dead_queue(queue)))
        return Depth(ready=ready, unsettled=0, dead=dead)

    def _count(self, link: "Link", name: str) -> int:
        """The messages of a queue. Of one whose leader is gone, after a full disk, the broker says 0, and runs on.

        Such a queue gives no message either, not even none; of an empty one nothing is taken by asking. One that comes
        in just that moment is given back.
        """
        count: int = link.call("queue_declare", name, passive=True).method.message_count
        if count:
            return count
        try:
            with errors(self.url):
                for _ in link.gets(name, 1):
                    count += 1
                    link.tell("basic_nack", 0, multiple=True, requeue=True)
        except StoreUnavailable as error:
            problem = f"the queue {name} looks empty, and gives no answer: is its leader gone, after a full disk?"
            advice = (
                f"Its messages are still there. docs/runbook.md, A queue that looks empty. The broker says: {error}"
            )
            raise StoreUnavailable(TITLE, self.url, problem, advice) from error
        return count

    def probe(self) -> None:
        """A message that no queue wants, which the broker gives back unless an alarm blocks its publishers; and whether
        each queue is there."""
        impatient = self.model_copy(update={"timeout_seconds": min(self.timeout_seconds, PROBE_SECONDS)})
        impatient._client = None
        unwanted = properties_of(Outgoing(next(iter(QUEUES)), PROBE_KEY, b""))
        with impatient.open():
            for _ in range(2):  # the broker still answers the first one of a connection, and reads no further one
                with suppress(StoreFailed, StoreRefused):
                    impatient._send(iter([Envelope(EVENTS, PROBE_KEY, b"", unwanted, "")]))
        with self._questions() as link:
            for queue in QUEUES:
                for name in (queue, dead_queue(queue)):
                    self._count(link, name)

    def dead_letters(self, queue: str, limit: int = 100) -> list[tuple[Message, str]]:
        """Two who look at once may each see a part."""
        with self._questions() as link:
            found = [dead_letter(queue, *got, self.delivery_limit) for got in link.gets(dead_queue(queue), limit)]
            link.tell("basic_nack", 0, multiple=True, requeue=True)
        return found

    def discard_dead_letters(self, messages: Sequence[Message]) -> None:
        """Dying in between: what has not been acknowledged is given back, and is a dead letter still."""
        with self._questions() as link:
            for queue, of_queue in groupby(messages, key=lambda message: message.queue):
                letters = list(of_queue)
                wanted, left = {letter.receipt for letter in letters}, len(letters)  # several may be one copy
                # They are the oldest, which were looked at; those of another who looks at once may stand before them.
                for method, properties, body in link.gets(dead_queue(queue), left + 100):
                    if dead_letter(queue, method, properties, body, self.delivery_limit)[0].receipt in wanted:
                        left -= 1
                        link.tell("basic_ack", method.delivery_tag)
                    if not left:
                        break
                link.tell("basic_nack", 0, multiple=True, requeue=True)


class Link:
    """An open connection, its one channel, and the thread that serves them. Callers hand the thread work, and wait.

    `lost` is why it is of no more use; then everyone who waits is told. What an heir needs it has before Link.__init__.
    """

    connection_class: Callable[..., Any] = pika.SelectConnection

    def __init__(self, broker: RabbitMQ) -> None:
        self.lost: Exception | None = None
        self._alarm = ""
        self.channel: Any = None
        self.url = broker.url
        self._timeout_seconds = broker.timeout_seconds
        self._lock = threading.Lock()
        self._replies: set[Future[Any]] = set()
        opened = self._expected()
        self._connection: Any = self.connection_class(
            parameters(broker.url, broker.timeout_seconds, broker.heartbeat_seconds, broker.ca_file),
            on_open_callback=lambda connection: connection.channel(
                on_open_callback=lambda channel: self._on_channel(channel, opened)
            ),
            on_open_error_callback=self._on_lost,
            on_close_callback=self._on_lost,
        )
        self._connection.add_on_connection_blocked_callback(self._on_blocked)
        self._thread = threading.Thread(target=self._serve, name="rabbitmq", daemon=True)
        try:
            self._thread.start()
            # pika's own limits end it, per address that the host's name has; this one only if they do not.
            opened.result(5 * broker.timeout_seconds)
        except BaseException:
            self.close()
            raise

    def _serve(self) -> None:
        """The thread. Whatever goes wrong in it is told to everyone who waits."""
        try:
            self._connection.ioloop.start()
        except Exception as error:  # noqa: BLE001 -- told to those who wait
            self.lose(ConnectionError(f"{type(error).__name__}: {error}"))
        finally:
            self.lose(ConnectionError("the connection was closed"))
            self._connection.ioloop.close()

    def _on_channel(self, channel: Any, opened: "Future[Any]") -> None:
        self.channel = channel
        channel.add_on_close_callback(lambda _, reason: self.lose(reason))
        self.prepare(opened)

    def prepare(self, opened: "Future[Any]") -> None:
        """What is done in the thread before the link is open."""
        resolve(opened)

    def _on_blocked(self, _: Any, frame: Any) -> None:
        """An alarm lasts; pika gives the connection up later."""
        self._alarm = text(frame.method.reason)

    def _on_lost(self, _: Any, reason: Exception) -> None:
        self.lose(reason)
        self._connection.ioloop.stop()

    def lose(self, reason: Exception) -> None:
        """The link is of no more use: fails those who wait."""
        if isinstance(reason, pika.exceptions.ConnectionBlockedTimeout):
            reason = pika.exceptions.ConnectionBlockedTimeout(self._alarm)
        with self._lock:
            self.lost = self.lost or reason
            replies, self._replies = self._replies, set()
        for reply in replies:
            resolve(reply, error=self.lost)

    def _expected(self) -> "Future[Any]":
        reply: Future[Any] = Future()
        with self._lock:
            if self.lost:
                raise self.lost
            self._replies.add(reply)
        reply.add_done_callback(self._forget)
        return reply

    def _forget(self, reply: "Future[Any]") -> None:
        with self._lock:
            self._replies.discard(reply)

    def start(self, work: Callable[["Future[Any]"], object]) -> "Future[Any]":
        """Has the thread do `work`, which is given the future that it, or a callback of it, resolves."""
        reply = self._expected()

        def run() -> None:
            try:
                work(reply)
            except Exception as error:  # noqa: BLE001 -- raised where the reply is waited for
                resolve(reply, error=error)

        self._connection.ioloop.add_callback_threadsafe(run)
        return reply

    def wait(self, reply: "Future[Any]") -> Any:
        """The reply; a link on which none comes in time is given up, by pika a second before where an alarm is why."""
        if not concurrent.futures.wait([reply], self._timeout_seconds + 1).done:
            self.lose(ConnectionError(f"no answer within {self._timeout_seconds:g} seconds"))
            threading.Thread(target=self.close, name="rabbitmq closing", daemon=True).start()
        return reply.result()

    def call(self, method: str, *arguments: Any, **more: Any) -> Any:
        """One of the channel's methods that the broker answers, such as queue_declare; the answer's method frame."""

        def work(reply: "Future[Any]") -> None:
            getattr(self.channel, method)(*arguments, **more, callback=lambda frame: resolve(reply, frame))

        return self.wait(self.start(work))

    def tell(self, method: str, *arguments: Any, **more: Any) -> None:
        """One that nothing answers, such as basic_ack."""
        self.start(lambda reply: resolve(reply, getattr(self.channel, method)(*arguments, **more)))

    def gets(self, queue: str, limit: int) -> Iterator[tuple[Any, Any, bytes]]:
        """(method, properties, body) of the queue's oldest messages; they are held until they are settled."""

        def work(reply: "Future[Any]") -> None:
            self.channel.basic_get(queue, callback=lambda _, *message: resolve(reply, message))
            # Answered after it: then there was none.
            self.channel.basic_qos(callback=lambda _: resolve(reply, ()))

        for _ in range(limit):
            message = self.wait(self.start(work))
            if not message:
                return
            yield message

    @property
    def server_version(self) -> str:
        return text(self._connection.server_properties.get("version"))

    def close(self) -> None:
        """Closes the connection, and ends its thread; those who wait are told.

        A broker that does not answer is not waited for: without the thread's heartbeats it gives the connection up too.
        """
        self.lose(ConnectionError("the connection was closed"))
        loop = self._connection.ioloop
        for work in (self._say_goodbye, loop.stop):
            if self._thread.is_alive():
                loop.add_callback_threadsafe(work)
                self._thread.join(CLOSE_SECONDS)

    def _say_goodbye(self) -> None:
        with suppress(pika.exceptions.ConnectionWrongStateError):
            self._connection.close()


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


class Publisher(Link):
    """A link that publishes: a window of messages is under way, each confirmed by the broker for itself."""

    def __init__(self, broker: RabbitMQ) -> None:
        self._max_length = broker.max_length
        self._count = 0
        self._unconfirmed: dict[int, tuple[_Chunk, Envelope]] = {}  # by sequence number
        self._returned: dict[str, StoreError] = {}  # by delivery_id
        super().__init__(broker)

    def prepare(self, opened: "Future[Any]") -> None:
        self.channel.add_on_return_callback(self._on_return)
        self.channel.confirm_delivery(self._on_confirm, callback=lambda _: resolve(opened))

    def publish(self, envelopes: Iterator[Envelope]) -> int:
        """How many were confirmed. What an iterator of the caller's raises stays what it is."""
        under_way: deque[Future[Any]] = deque()
        count = 0
        for chunk in _chunks(envelopes):
            with errors(self.url):
                under_way.append(self._send(chunk))
                count += len(chunk)
                if len(under_way) == WINDOW:
                    self.wait(under_way.popleft())
        with errors(self.url):
            for reply in under_way:
                self.wait(reply)
        return count

    def _send(self, envelopes: list[Envelope]) -> "Future[Any]":
        def work(reply: "Future[Any]") -> None:
            chunk = _Chunk(reply, len(envelopes))
            for envelope in envelopes:
                self.channel.basic_publish(
                    envelope.exchange, envelope.routing_key, envelope.body, envelope.properties, mandatory=True
                )
                self._count += 1
                self._unconfirmed[self._count] = (chunk, envelope)

        return self.start(work)

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """No queue wants the message. The broker says so first, and then confirms it."""
        problem = (
            f"no queue takes a message with the routing key {text(method.routing_key)} ({text(method.reply_text)})"
        )
        advice = "Are the queues declared? ninjait migrate up."
        self._returned[_mark(properties)] = StoreFailed(TITLE, self.url, problem, advice)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if method.multiple:
            tags = list(takewhile(lambda tag: tag <= method.delivery_tag, self._unconfirmed))
        else:
            tags = [method.delivery_tag]
        for tag in tags:
            chunk, envelope = self._unconfirmed.pop(tag)
            problem = self._returned.pop(_mark(envelope.properties), None)
            if isinstance(method, pika.spec.Basic.Nack):
                words = f"the queue {envelope.queue} takes no more: it holds {self._max_length} messages"
                words += ", or its nodes are down"
                advice = "Keep the message; is its drain running? See ninjait status."
                problem = QueueFull(TITLE, self.url, words, advice)
            chunk.problem = chunk.problem or problem
            chunk.left -= 1
            if not chunk.left:
                resolve(chunk.reply, error=chunk.problem)


class RabbitConsumer:
    """A consumer through a session; another one, of the next generation, when that is lost."""

    def __init__(self, broker: RabbitMQ, queue: str, prefetch: int, limit: int | None) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._left = limit  # of the messages that may be sent, those that have not been settled
        self._generation = 0
        self._session: Session | None = None
        self._stopped = False

    def session(self) -> "Session":
        """The session; where it was lost, a new one, tried for `timeout_seconds`."""
        deadline = time.monotonic() + self._broker.timeout_seconds
        while self._session is None or self._session.lost:
            self.close()
            self._generation += 1
            try:
                with errors(self._broker.url):
                    first = min(FIRST_PREFETCH, self._prefetch)
                    self._session = Session(self._broker, self._queue, first, self._generation)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RECONNECT_SECONDS)
        return self._session

    def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """Where the connection is lost it is made anew, and waited on as long again; but not for ever."""
        deadline = time.monotonic() + wait_seconds + self._broker.timeout_seconds
        while True:
            if self._stopped and (self._session is None or self._session.lost):
                return []
            session = self.session()
            messages = session.take(limit, 0 if self._stopped else wait_seconds)
            if messages or not session.lost:
                self._widen(session, messages)
                return messages
            if time.monotonic() > deadline:
                raise self._lost()

    def _widen(self, session: "Session", messages: Sequence[Message]) -> None:
        """Once a session, by the size of the first messages, if nobody has stumbled over them before. Not later: what
        the broker sends for a settled message, while it consumes anew, would be overtaken by what comes after it."""
        if self._stopped or session.widened or not messages:
            return
        session.widened = True
        if any(message.deliveries > 1 for message in messages):
            return
        wanted = AHEAD_BYTES * len(messages) // (1 + sum(len(message.body) for message in messages))
        wanted = min(wanted, self._prefetch, self._prefetch if self._left is None else self._left)
        if wanted > session.prefetch:
            with suppress(StoreError), errors(self._broker.url):  # a lost session is made anew by the next `receive`
                session.widen(wanted - session.prefetch)

    def stop(self) -> None:
        stopped, self._stopped = self._stopped, True
        if self._session is not None and not stopped:
            with suppress(StoreError), errors(self._broker.url):  # what a lost session held comes again
                self._session.cancel()

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Nothing answers an acknowledgement, and nothing waits for it: the broker has it by the time `close` is done.

        Dying before that, or losing the connection, they come again.
        """
        self._settle(messages)

    def requeue(self, messages: Sequence[Message]) -> None:
        """What was lost with its connection has been given back already."""
        with suppress(StoreUnavailable):
            self._settle(messages, again=True)

    def spare(self, blamed: Message | None = None, reason: str = "") -> None:
        """Published anew, behind the others, and then acknowledged: the broker counts every return.

        Dying in between, both are there, with the same delivery_id. What a lost connection held is given back already.
        """
        self.stop()
        session = self._session
        if session is None or session.lost:
            return
        with errors(self._broker.url):
            last = session.last_chances()
            spared: dict[str, int] = {}
            if blamed and blamed.receipt in last:
                spared[blamed.receipt] = spares(last[blamed.receipt]) + 1
                if spared[blamed.receipt] > MAX_SPARES:
                    del last[blamed.receipt]
                    self.reject(blamed, reason)
            self._broker.publish_anew(self._queue, [(one, spared.get(receipt)) for receipt, one in last.items()])
            session.settle(set(last), again=False)

    def reject(self, message: Message, reason: str) -> None:
        """Published to the dead letters, then acknowledged.

        Dying in between, it is a dead letter and comes again too, with the same delivery_id.
        """
        if self._own([message]):
            self._broker.publish_dead_letter(message, reason)
        self._settle([message])

    def keep_alive(self) -> None:
        """Nothing: the connection's thread answers the broker. A delivery may be held for the broker's
        consumer_timeout, 30 minutes if nothing is set."""

    def _own(self, messages: Sequence[Message]) -> set[str]:
        """The receipts of the messages that came by this session."""
        if self._session is None or self._session.lost:
            return set()
        generation = self._session.generation
        return {message.receipt for message in messages if message.receipt.startswith(generation)}

    def _settle(self, messages: Sequence[Message], again: bool = False) -> None:
        """Raises StoreUnavailable where some of them went with a session that was lost, after the others."""
        if self._left is not None:
            self._left -= len(messages)
            if self._session is not None and self._left < self._session.prefetch:  # each of them has another one sent
                self.stop()
        receipts = self._own(messages)
        try:
            if self._session is not None and receipts:
                with errors(self._broker.url):
                    self._session.settle(receipts, again)
        except StoreError as error:  # the channel was closed, for whatever reason
            raise self._lost() from error
        if len(receipts) < len({message.receipt for message in messages}):
            raise self._lost()

    def _lost(self) -> StoreUnavailable:
        why = f": {self._session.lost}" if self._session is not None and self._session.lost else ""
        problem = f"the connection of the consumer was lost{why}"
        return StoreUnavailable(TITLE, self._broker.url, problem, "The broker delivers again what it held.")

    def close(self) -> None:
        """Gives back what is held."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


class Session(Link):
    """A link that consumes: what has come, and what the caller holds of it."""

    def __init__(self, broker: RabbitMQ, queue: str, prefetch: int, generation: int) -> None:
        self.generation = f"{generation}:"  # the receipts begin with it
        self._queue = queue
        self.prefetch = prefetch
        self.widened = False  # or never to be
        self._come: list[Message] = []
        self._bytes = 0  # of what has come
        self._held: dict[str, None] = {}  # receipts, in order; touched by the caller only
        self._last: dict[str, Delivery] = {}  # by receipt: what becomes a dead letter where it is given back
        self._delivery_limit = broker.delivery_limit
        self._changed = threading.Condition()
        self._wanted = 1
        self.connection_class = functools.partial(ReceivingConnection, self._on_deliveries)
        super().__init__(broker)

    def prepare(self, opened: "Future[Any]") -> None:
        self.channel.add_on_cancel_callback(self._on_cancel)
        self._connection.read_much()
        self._consume(opened, self.prefetch)

    def _consume(self, reply: "Future[Any]", prefetch: int) -> None:
        self.channel.basic_qos(prefetch_count=prefetch)
        self._tag = self.channel.basic_consume(self._queue, self._on_pikas, callback=lambda _: resolve(reply))

    def widen(self, more: int) -> None:
        """Consumes anew, `more` ahead; what has come stays, and is settled as before."""
        self.prefetch += more
        self.wait(
            self.start(
                lambda reply: self.channel.basic_cancel(self._tag, callback=lambda _: self._consume(reply, more))
            )
        )

    def cancel(self) -> None:
        """What has been sent before the broker's answer has come by then."""
        self.call("basic_cancel", self._tag)

    def _on_cancel(self, _frame: Any) -> None:
        """The queue was deleted, or its node went: consuming anew says which."""
        self.lose(ConnectionError(f"the broker cancelled the consumer of {self._queue}"))

    def _on_pikas(self, *_: Any) -> None:
        self.lose(ConnectionError("the broker sent what cannot be read"))

    def _on_deliveries(self, deliveries: list[Delivery]) -> None:
        come = [delivered(self._queue, self.generation, one) for one in deliveries]
        size = sum(len(message.body) for message in come)
        last = {
            message.receipt: delivery
            for message, delivery in zip(come, deliveries, strict=True)
            if message.deliveries > self._delivery_limit
        }
        with self._changed:
            self._last |= last
            self._come += come
            self._bytes += size
            if len(self._come) >= self._wanted:
                self._changed.notify()
            if self._bytes > MAX_WAITING_BYTES:  # the caller is slow: so is the thread, but for what it is asked
                seconds = min(size / SLOW_BYTES, SLOW_SECONDS)
                self._changed.wait_for(lambda: self._bytes <= MAX_WAITING_BYTES or self._replies or self.lost, seconds)

    def lose(self, reason: Exception) -> None:
        super().lose(reason)
        self._notify()

    def start(self, work: Callable[["Future[Any]"], object]) -> "Future[Any]":
        reply = super().start(work)
        self._notify()
        return reply

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def take(self, limit: int, wait_seconds: float) -> list[Message]:
        """What has come, up to `most`: waits for the first, and then while more keep coming.

        What came before the connection was lost is left out: it comes again.
        """
        limit = min(limit, self.prefetch - len(self._held))
        with self._changed:
            if limit > 0:
                self._wait_for(1, max(wait_seconds, LINGER_SECONDS))
            before, deadline = 0, time.monotonic() + MAX_LINGER_SECONDS
            while before < len(self._come) < limit and not self.lost and time.monotonic() < deadline:
                before = len(self._come)
                self._wait_for(limit, LINGER_SECONDS)
            if self.lost:
                return []
            taken = self._come[:limit]
            del self._come[:limit]
            self._bytes -= sum(len(message.body) for message in taken)
            self._changed.notify_all()
        self._held.update(dict.fromkeys(message.receipt for message in taken))
        return taken

    def last_chances(self) -> dict[str, Delivery]:
        """What is held for the last time, by receipt; what has come, and nobody has taken yet, is held from now on."""
        with self._changed:
            self._held.update(dict.fromkeys(message.receipt for message in self._come))
            self._come.clear()
            return {receipt: delivery for receipt, delivery in self._last.items() if receipt in self._held}

    def _wait_for(self, count: int, seconds: float) -> None:
        self._wanted = count
        self._changed.wait_for(lambda: len(self._come) >= count or self.lost, seconds)

    def settle(self, receipts: set[str], again: bool) -> None:
        """Acknowledges what is held of these: the oldest, as far as all of them are meant, with one word.

        Or has it come `again`, by `reject`, not `nack`: since RabbitMQ 4.3 only that counts as a delivery.
        """
        held = [receipt for receipt in self._held if receipt in receipts]
        oldest = 0 if again else sum(1 for _ in takewhile(receipts.__contains__, self._held))
        tags = [int(receipt.removeprefix(self.generation)) for receipt in held[max(oldest - 1, 0) :]]

        def work(reply: "Future[Any]") -> None:
            if oldest:
                self.channel.basic_ack(tags.pop(0), multiple=True)
            for tag in tags:
                self.channel.basic_reject(tag, requeue=True) if again else self.channel.basic_ack(tag)
            if again:  # nothing answers these; the question that follows them is answered when they are done
                self.channel.queue_declare(self._queue, passive=True, callback=lambda _: resolve(reply))
            else:
                resolve(reply)

        reply = self.start(work)
        if again:
            self.wait(reply)
        with self._changed:
            for receipt in held:
                del self._held[receipt]
                self._last.pop(receipt, None)  # with the bytes of its body


def known(queue: str) -> str:
    """The queue; ValueError where there is none of this name."""
    if queue not in QUEUES:
        raise ValueError(f"there is no queue {queue!r}; the queues are {', '.join(QUEUES)}")
    return queue


def _mark(properties: Any) -> str:
    """The copy's own id; what somebody else published has none, and is only ever published anew."""
    return str((properties.headers or {}).get(DELIVERY_ID, ""))


def dead_queue(queue: str) -> str:
    """The queue of a queue's dead letters."""
    return f"{known(queue)}.dead"


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


def resolve(reply: "Future[Any]", result: Any = None, error: BaseException | None = None) -> None:
    """Gives a reply its result, unless whoever waited has been told otherwise already."""
    with suppress(InvalidStateError):
        reply.set_exception(error) if error is not None else reply.set_result(result)


def parameters(
    url: str, timeout_seconds: float, heartbeat_seconds: int, ca_file: str | None = None
) -> pika.URLParameters:
    """What pika needs to connect. `?cafile=` names the authority that signed an amqps:// server's certificate, as
    `ca_file` does."""
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        cafile = query.pop("cafile", ca_file)
        found = pika.URLParameters(urlunsplit(parts._replace(query=urlencode(query))))
        if cafile and found.ssl_options:
            found.ssl_options = pika.SSLOptions(ssl.create_default_context(cafile=cafile))
    except (ValueError, TypeError, OSError) as error:
        raise StoreFailed(TITLE, url, error, "Check RABBITMQ_URL.") from error
    found.heartbeat = heartbeat_seconds
    found.socket_timeout = found.stack_timeout = timeout_seconds
    # Then pika gives the connection up: the broker reads nothing from it, so it could not even be closed in order.
    found.blocked_connection_timeout = timeout_seconds
    found.client_properties = {"connection_name": "ninjait-pipelines"}
    return found
