"""`MessageQueue`: what the pipeline needs from a broker, implemented on RabbitMQ and on Dragonfly streams.

The contract, which `ninjait_pipelines_tests/resources/queue_contract.py` tests on every implementation:

- A message is confirmed to its publisher only when the broker has stored it safely; a full queue refuses its publisher
  (QueueFull) and drops nothing.
- Delivery is at least once. Messages that a consumer received and did not settle are redelivered: at once after
  `requeue` or when the consumer closes; if it died, as soon as the broker notices the lost connection (RabbitMQ) or
  after `redelivery_seconds` (Dragonfly).
- A message that was delivered more than `delivery_limit` times, or was rejected, moves to the queue's dead letters with
  the reason, and is stored there before it leaves the queue.
- Messages of one queue arrive in the order in which they were published, except for redeliveries.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar, Protocol

import msgspec

from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources.store import Store, StoreError

MAX_SPARES = 10  # times that a message may be blamed for a store's failure before it becomes a dead letter


class QueueFull(StoreError):
    """The queue holds as many messages as it may. The publisher must keep its message and try later."""


class Depth(msgspec.Struct, frozen=True):
    """How many messages wait in a queue (`ready`), are held by consumers (`unsettled`), and are its dead letters.

    `unsettled` is always 0 on RabbitMQ, which requeues what a dead consumer held at once.
    """

    ready: int
    unsettled: int
    dead: int

    @property
    def outstanding(self) -> int:
        """How many messages are published and not settled yet."""
        return self.ready + self.unsettled

    @property
    def empty(self) -> bool:
        """Whether there is nothing for a drain to do. What a dead consumer holds counts, and so do dead letters."""
        return not self.outstanding and not self.dead


class Consumer(Protocol):
    """A reader of one queue. It holds at most `prefetch` unsettled messages; `receive` returns nothing beyond that."""

    def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """Up to `limit` messages; an empty list if none arrived within `wait_seconds`."""

    def stop(self) -> None:
        """Asks for no more messages. `receive` still returns those that have arrived, and they should be settled,
        because a requeue counts as a delivery."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Settles messages that are safely stored: they are redelivered only if connection or broker fail right then.

        Raises StoreUnavailable if the connection that delivered them was lost: they will be redelivered, and `receive`
        may be called again.
        """

    def requeue(self, messages: Sequence[Message]) -> None:
        """Puts messages back into the queue, to be redelivered at once to any consumer."""

    def spare(self, blamed: Message | None = None, reason: str = "") -> None:
        """Resets the delivery count of held messages that are at their last permitted delivery. Called before closing
        because a store failed: a requeue would turn them into dead letters although nothing is wrong with them.

        `blamed` is the message that was being written alone when the store failed, after others had succeeded. After
        `max_spares` such failures it becomes a dead letter with the reason.

        Dying half-way, a message is redelivered, or becomes a dead letter, or is there twice as the same copy.
        """

    def reject(self, message: Message, reason: str) -> None:
        """Moves one message to the dead letters with the reason."""

    def keep_alive(self) -> None:
        """Keeps the unsettled messages from being redelivered. Call it at least every `redelivery_seconds`."""


class MessageQueue(Store):
    """The broker: durable queues named in QUEUES, confirmed publishing, settled consuming."""

    max_spares: ClassVar[int] = MAX_SPARES

    @abstractmethod
    def declare(self, queue: str | None = None) -> None:
        """Creates missing queues and their dead letters: all, or those of one queue. Safe to repeat."""

    @abstractmethod
    def check_declared(self) -> None:
        """Raises StoreFailed for a queue that is missing or differs from what `declare` would create. Creates none."""

    def upgrade(self) -> Iterator[str]:
        """Creates what is missing, and converts what an earlier version declared differently, without losing a message;
        yields a line for each change. Safe to repeat, even after it was killed."""
        self.declare()
        yield from ()

    @abstractmethod
    def publish(self, messages: Iterable[Outgoing]) -> int:
        """Publishes in order; returns how many, once the broker has confirmed every one.

        Raises QueueFull or StoreUnavailable, and StoreFailed for a message that no queue takes. Any of the other
        messages, even later ones, may have been stored: publish all of them again, with their message ids.
        """

    def takes(self, message: Outgoing) -> bool:
        """Whether `publish` would find the message's queue: a broker that routes returns others."""
        return True

    @abstractmethod
    def consume(self, queue: str, prefetch: int, limit: int | None = None) -> AbstractContextManager[Consumer]:
        """A consumer; at the end of the `with` the messages that it did not settle are requeued.

        A broker that sends ahead sends at most `limit` messages in total, because a requeue counts as a delivery.
        """

    @abstractmethod
    def depth(self, queue: str) -> Depth:
        """The queue's depth, without touching a message."""

    @contextmanager
    def watch(self) -> Iterator[Callable[[str], Depth]]:
        """`depth` for a caller that asks again and again: over one connection, where a question needs its own."""
        yield self.depth

    @abstractmethod
    def dead_letters(self, queue: str, limit: int = 100) -> list[tuple[Message, str]]:
        """The oldest dead letters of a queue with their reasons. They stay where they are."""

    @abstractmethod
    def discard_dead_letters(self, messages: Sequence[Message]) -> None:
        """Removes dead letters that have been stored elsewhere (in quarantine)."""
