"""`MessageQueue`: what the pipeline asks of a broker. RabbitMQ and Dragonfly streams implement it alike.

The contract, which `ninjait_pipelines_tests/resources/queue_contract.py` holds every implementation to:

- A message is confirmed to its publisher only when the broker has it safely; a queue that is full refuses its
  publisher (QueueFull) rather than drop anything.
- Delivery is at least once. What a consumer received and did not settle comes again: at once after `requeue` or after
  the consumer closed; when it died, as soon as the broker sees its connection go (RabbitMQ) or after
  `redelivery_seconds` (Dragonfly).
- A message that was delivered more than `delivery_limit` times, or was rejected, goes to the queue's dead letters with
  the reason, and is acknowledged there before it leaves the queue.
- Messages of one queue arrive in the order in which they were published, but for those that come again.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources.store import Store, StoreError

MAX_SPARES = 10


class QueueFull(StoreError):
    """The queue holds as many messages as it may. The publisher keeps its message and tries later."""


class Depth(msgspec.Struct, frozen=True):
    """How many messages wait in a queue (`ready`), are held by consumers (`unsettled`), and are its dead letters.

    `unsettled` is 0 where the broker does not say: RabbitMQ gives what a dead consumer held back at once.
    """

    ready: int
    unsettled: int
    dead: int

    @property
    def outstanding(self) -> int:
        """What has been published and is not settled yet."""
        return self.ready + self.unsettled


class Consumer(Protocol):
    """One reader of one queue. It holds at most `prefetch` unsettled messages; `receive` gives nothing beyond that."""

    def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """Up to `most` messages; an empty list when none came within `wait_seconds`."""

    def stop(self) -> None:
        """Asks for no more messages. What has come already is still given by `receive`, and should be settled: to give
        it back would count as a delivery."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Settles messages that are safely stored: they come again only if the connection or the broker goes at once.

        Raises StoreUnavailable where they were lost before; they come again then, and `receive` may be called on.
        """

    def requeue(self, messages: Sequence[Message]) -> None:
        """Gives messages back, to be delivered again at once, to whoever asks."""

    def spare(self, blamed: Message | None = None, reason: str = "") -> None:
        """Before it is closed because a store failed: what it holds for the last time begins anew, as if it had not
        been delivered yet. To give it back then would make dead letters of what nothing is wrong with.

        `blamed` is the one that was being written alone when the store failed, after others had gone through: it is
        counted, and becomes a dead letter with the reason instead of beginning anew more than MAX_SPARES times.

        Dying half-way: it comes again, or becomes a dead letter, or there are two of one and the same copy.
        """

    def reject(self, message: Message, reason: str) -> None:
        """Moves one message to the dead letters with the reason."""

    def keep_alive(self) -> None:
        """Says that the unsettled messages are still being worked on. Call it within `redelivery_seconds`."""


class MessageQueue(Store):
    """The broker: durable queues named in QUEUES, confirmed publishing, settled consuming."""

    @abstractmethod
    def declare(self, queue: str | None = None) -> None:
        """Creates what is missing of the queues, or of one with its dead letters. Safe to repeat."""

    def upgrade(self) -> Iterator[str]:
        """Declares what is missing, and puts what an earlier version declared otherwise into today's form, without
        losing a message; a line for each thing that it did. Safe to repeat, also after it was killed."""
        self.declare()
        yield from ()

    @abstractmethod
    def publish(self, messages: Iterable[Outgoing]) -> int:
        """Publishes in order and returns how many, once the broker has confirmed every one.

        Raises QueueFull or StoreUnavailable, and StoreFailed for a message that no queue wants. The messages beside the
        one that failed may have been taken, those after it too: publish all of them again, with their message ids.
        """

    def takes(self, message: Outgoing) -> bool:
        """Whether `publish` finds the message's queue: a broker that routes gives others back."""
        return True

    @abstractmethod
    def consume(self, queue: str, prefetch: int, limit: int | None = None) -> AbstractContextManager[Consumer]:
        """A consumer; at the end of the `with` what it did not settle is given back.

        A broker that sends ahead sends no more than `most` messages in all: what is given back counts as delivered.
        """

    @abstractmethod
    def depth(self, queue: str) -> Depth:
        """The queue's depth, without touching a message."""

    @abstractmethod
    def dead_letters(self, queue: str, limit: int = 100) -> list[tuple[Message, str]]:
        """The oldest dead letters of a queue with their reasons, left where they are."""

    @abstractmethod
    def discard_dead_letters(self, messages: Sequence[Message]) -> None:
        """Removes dead letters that have been stored elsewhere (in quarantine)."""
