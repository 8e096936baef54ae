"""Consuming: a consumer that survives lost connections, by one session after another."""

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import takewhile
from typing import Any

from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources.rabbitmq.connection import Connection, ConnectionSettings, resolve
from ninjait_pipelines.resources.rabbitmq.errors import TITLE, errors
from ninjait_pipelines.resources.rabbitmq.frames import Delivery, ReceivingConnection
from ninjait_pipelines.resources.rabbitmq.messages import Envelope, delivered, republished, times_spared
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS, dead_queue
from ninjait_pipelines.resources.store import StoreError, StoreUnavailable

# What may wait in memory for a slow caller. Beyond it, reading from the broker slows down to SLOW_BYTES per second, but
# no pause is longer than SLOW_SECONDS, well within a heartbeat. The prefetch alone limits messages, not their size.
MAX_WAITING_BYTES = 64 * 1024 * 1024
SLOW_BYTES = 1024 * 1024
SLOW_SECONDS = 10.0
# A session starts with a prefetch of FIRST_PREFETCH. If its first messages are new and small, the prefetch is raised to
# AHEAD_BYTES of them. What is sent to one consumer is withheld from the others and counts as delivered if it dies: so
# when a store refuses messages, thousands have been sent once, and redeliveries come a few at a time.
FIRST_PREFETCH = 250
AHEAD_BYTES = 108 * 1024 * 1024
LINGER_SECONDS = 0.02  # a batch is complete once nothing has arrived for this long
MAX_LINGER_SECONDS = 0.2
RECONNECT_SECONDS = 0.25


class RabbitConsumer:
    """A consumer of one queue. When its session's connection is lost, a session of the next generation replaces it.

    `publish` sends envelopes to the broker: dead letters, and messages that are spared.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        queue: str,
        prefetch: int,
        limit: int | None,
        delivery_limit: int,
        max_spares: int,
        publish: Callable[[Iterator[Envelope]], object],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._prefetch = prefetch
        self._delivery_limit = delivery_limit
        self._max_spares = max_spares
        self._publish = publish
        self._left = limit  # how many more messages may be settled
        self._generation = 0
        self._session: Session | None = None
        self._stopped = False

    def session(self) -> "Session":
        """The current session; replaces a lost one, retrying for `timeout_seconds`."""
        deadline = time.monotonic() + self._settings.timeout_seconds
        while self._session is None or self._session.closed_reason:
            self.close()
            self._generation += 1
            try:
                with errors(self._settings.url):
                    first = min(FIRST_PREFETCH, self._prefetch)
                    self._session = Session(self._settings, self._queue, first, self._generation, self._delivery_limit)
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RECONNECT_SECONDS)
        return self._session

    def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """After a lost connection it reconnects and waits as long again; if that keeps happening, it raises."""
        deadline = time.monotonic() + wait_seconds + self._settings.timeout_seconds
        while True:
            if self._stopped and (self._session is None or self._session.closed_reason):
                return []
            session = self.session()
            messages = session.take(limit, 0 if self._stopped else wait_seconds)
            if messages or not session.closed_reason:
                self._raise_prefetch(session, messages)
                return messages
            if time.monotonic() > deadline:
                raise self._connection_lost()

    def _raise_prefetch(self, session: "Session", messages: Sequence[Message]) -> None:
        """Raises the prefetch once per session, sized by the first messages, and only if none is a redelivery.

        It must happen before the first acknowledgement: resubscribing later lets newer messages overtake those that the
        broker sends to replace acknowledged ones.
        """
        if self._stopped or session.prefetch_is_final or not messages:
            return
        session.prefetch_is_final = True
        if any(message.deliveries > 1 for message in messages):
            return
        wanted = AHEAD_BYTES * len(messages) // (1 + sum(len(message.body) for message in messages))
        wanted = min(wanted, self._prefetch, self._prefetch if self._left is None else self._left)
        if wanted > session.prefetch:
            with suppress(StoreError), errors(self._settings.url):  # the next `receive` replaces a lost session
                session.raise_prefetch(wanted - session.prefetch)

    def stop(self) -> None:
        stopped, self._stopped = self._stopped, True
        if self._session is not None and not stopped:
            with suppress(StoreError), errors(self._settings.url):  # what a lost session held is redelivered
                self._session.cancel()

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Does not wait: the broker confirms no acknowledgement, but has received all of them when `close` returns.

        If the process dies or the connection is lost before that, the messages are redelivered.
        """
        self._settle(messages)

    def requeue(self, messages: Sequence[Message]) -> None:
        """What was held on a lost connection is back in the queue already."""
        with suppress(StoreUnavailable):
            self._settle(messages, requeue=True)

    def spare(self, blamed: Message | None = None, reason: str = "") -> None:
        """Republishes the messages at the back of the queue, then acknowledges them: every requeue would count.

        Dying in between, both are there, with the same delivery_id. What a lost connection held is back in the queue.
        """
        self.stop()
        session = self._session
        if session is None or session.closed_reason:
            return
        with errors(self._settings.url):
            final = session.final_deliveries()
            spared: dict[str, int] = {}
            if blamed and blamed.receipt in final:
                spared[blamed.receipt] = times_spared(final[blamed.receipt]) + 1
                if spared[blamed.receipt] > self._max_spares:
                    del final[blamed.receipt]
                    self.reject(blamed, reason)
            fresh = (republished(delivery, spared.get(receipt)) for receipt, delivery in final.items())
            self._publish(Envelope(EVENTS, key, body, properties, self._queue) for key, body, properties in fresh)
            session.settle(set(final), requeue=False)

    def reject(self, message: Message, reason: str) -> None:
        """Publishes the message to the dead letters, then acknowledges it.

        Dying in between, it is a dead letter and is also redelivered, with the same delivery_id.
        """
        if self._own_receipts([message]):
            self._publish(iter([Envelope.of_dead_letter(dead_queue(message.queue), message, reason)]))
        self._settle([message])

    def keep_alive(self) -> None:
        """Does nothing: the connection's thread sends heartbeats. A delivery may be held as long as the broker's
        consumer_timeout allows, by default 30 minutes."""

    def _own_receipts(self, messages: Sequence[Message]) -> set[str]:
        """The receipts of the messages that the current session delivered."""
        if self._session is None or self._session.closed_reason:
            return set()
        generation = self._session.generation
        return {message.receipt for message in messages if message.receipt.startswith(generation)}

    def _settle(self, messages: Sequence[Message], requeue: bool = False) -> None:
        """Settles the current session's messages; then raises StoreUnavailable if others came from a lost session."""
        if self._left is not None:
            self._left -= len(messages)
            if self._session is not None and self._left < self._session.prefetch:  # settling makes the broker send more
                self.stop()
        receipts = self._own_receipts(messages)
        try:
            if self._session is not None and receipts:
                with errors(self._settings.url):
                    self._session.settle(receipts, requeue)
        except StoreError as error:  # the channel was closed, for whatever reason
            raise self._connection_lost() from error
        if len(receipts) < len({message.receipt for message in messages}):
            raise self._connection_lost()

    def _connection_lost(self) -> StoreUnavailable:
        reason = self._session.closed_reason if self._session is not None else None
        problem = "the connection of the consumer was lost" + (f": {reason}" if reason else "")
        return StoreUnavailable(TITLE, self._settings.url, problem, "The broker delivers again what it held.")

    def close(self) -> None:
        """Gives back what is held."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


class Session(Connection):
    """A connection that consumes: the messages that have arrived, and those that the caller holds unsettled."""

    def __init__(
        self, settings: ConnectionSettings, queue: str, prefetch: int, generation: int, delivery_limit: int
    ) -> None:
        self.generation = f"{generation}:"  # prefix of the receipts
        self.prefetch = prefetch
        self.prefetch_is_final = False
        self._queue = queue
        self._delivery_limit = delivery_limit
        self._arrived: list[Message] = []
        self._arrived_bytes = 0
        self._held: dict[str, None] = {}  # receipts, in order; only the caller's thread touches it
        self._final: dict[str, Delivery] = {}  # by receipt: messages that become dead letters if they are requeued
        self._changed = threading.Condition()
        self._wanted = 1
        self.connection_class = functools.partial(ReceivingConnection, self._on_deliveries)
        super().__init__(settings)

    def prepare(self, opened: "Future[Any]") -> None:
        self.channel.add_on_cancel_callback(self._on_cancel)
        self._pika.read_large_pieces()
        self._consume(opened, self.prefetch)

    def _consume(self, reply: "Future[Any]", prefetch: int) -> None:
        self.channel.basic_qos(prefetch_count=prefetch)
        self._tag = self.channel.basic_consume(
            self._queue, self._on_delivery_by_pika, callback=lambda _: resolve(reply)
        )

    def raise_prefetch(self, more: int) -> None:
        """Subscribes again with `more` messages ahead; those that have arrived stay, and are settled as before."""
        self.prefetch += more
        self.wait(
            self.start(
                lambda reply: self.channel.basic_cancel(self._tag, callback=lambda _: self._consume(reply, more))
            )
        )

    def cancel(self) -> None:
        """Returns when everything that the broker sent before its answer has arrived."""
        self.call("basic_cancel", self._tag)

    def _on_cancel(self, _frame: Any) -> None:
        """The queue was deleted, or its node went down: subscribing again tells which."""
        self.fail(ConnectionError(f"the broker cancelled the consumer of {self._queue}"))

    def _on_delivery_by_pika(self, *_: Any) -> None:
        """Our reader takes all deliveries; what reaches pika was malformed."""
        self.fail(ConnectionError("the broker sent what cannot be read"))

    def _on_deliveries(self, deliveries: list[Delivery]) -> None:
        messages = [delivered(self._queue, self.generation, delivery) for delivery in deliveries]
        size = sum(len(message.body) for message in messages)
        final = {
            message.receipt: delivery
            for message, delivery in zip(messages, deliveries, strict=True)
            if message.deliveries > self._delivery_limit
        }
        with self._changed:
            self._final |= final
            self._arrived += messages
            self._arrived_bytes += size
            if len(self._arrived) >= self._wanted:
                self._changed.notify()
            if self._arrived_bytes > MAX_WAITING_BYTES:  # the caller is slow: pause, unless it asks for something
                seconds = min(size / SLOW_BYTES, SLOW_SECONDS)
                self._changed.wait_for(self._may_read, seconds)

    def _may_read(self) -> bool:
        return self._arrived_bytes <= MAX_WAITING_BYTES or bool(self._replies) or self.closed_reason is not None

    def fail(self, reason: Exception) -> None:
        super().fail(reason)
        self._notify()

    def start(self, work: Callable[["Future[Any]"], object]) -> "Future[Any]":
        reply = super().start(work)
        self._notify()
        return reply

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def take(self, limit: int, wait_seconds: float) -> list[Message]:
        """Up to `limit` messages that have arrived: waits for the first, then as long as more keep arriving.

        Gives none if the connection is lost: they will be redelivered.
        """
        limit = min(limit, self.prefetch - len(self._held))
        with self._changed:
            if limit > 0:
                self._wait_for(1, max(wait_seconds, LINGER_SECONDS))
            before, deadline = 0, time.monotonic() + MAX_LINGER_SECONDS
            while before < len(self._arrived) < limit and not self.closed_reason and time.monotonic() < deadline:
                before = len(self._arrived)
                self._wait_for(limit, LINGER_SECONDS)
            if self.closed_reason:
                return []
            taken = self._arrived[:limit]
            del self._arrived[:limit]
            self._arrived_bytes -= sum(len(message.body) for message in taken)
            self._changed.notify_all()
        self._held.update(dict.fromkeys(message.receipt for message in taken))
        return taken

    def final_deliveries(self) -> dict[str, Delivery]:
        """What is held at its last permitted delivery, by receipt. Messages not taken yet are held too from
        now on."""
        with self._changed:
            self._held.update(dict.fromkeys(message.receipt for message in self._arrived))
            self._arrived.clear()
            return {receipt: delivery for receipt, delivery in self._final.items() if receipt in self._held}

    def _wait_for(self, count: int, seconds: float) -> None:
        self._wanted = count
        self._changed.wait_for(lambda: len(self._arrived) >= count or self.closed_reason is not None, seconds)

    def settle(self, receipts: set[str], requeue: bool) -> None:
        """Acknowledges those of the receipts that are held; a run of them that begins at the oldest, by one method.

        Or requeues them, by `reject` rather than `nack`: since RabbitMQ 4.3 only that counts as a delivery.
        """
        held = [receipt for receipt in self._held if receipt in receipts]
        oldest = 0 if requeue else sum(1 for _ in takewhile(receipts.__contains__, self._held))
        tags = [int(receipt.removeprefix(self.generation)) for receipt in held[max(oldest - 1, 0) :]]

        def work(reply: "Future[Any]") -> None:
            if oldest:
                self.channel.basic_ack(tags.pop(0), multiple=True)
            for tag in tags:
                self.channel.basic_reject(tag, requeue=True) if requeue else self.channel.basic_ack(tag)
            if requeue:  # the broker does not answer a reject; the answer to what follows means that all are processed
                self.channel.queue_declare(self._queue, passive=True, callback=lambda _: resolve(reply))
            else:
                resolve(reply)

        reply = self.start(work)
        if requeue:
            self.wait(reply)
        with self._changed:
            for receipt in held:
                del self._held[receipt]
                self._final.pop(receipt, None)  # it keeps the body in memory
