"""Publishing with confirms: a window of messages in flight, each confirmed by the broker."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import takewhile
from typing import Any

import msgspec
import pika

from ninjait_pipelines.resources.message_queue import QueueFull
from ninjait_pipelines.resources.rabbitmq.connection import Connection, ConnectionSettings, resolve
from ninjait_pipelines.resources.rabbitmq.errors import TITLE, errors
from ninjait_pipelines.resources.rabbitmq.messages import DELIVERY_ID, Envelope, text
from ninjait_pipelines.resources.store import StoreError, StoreFailed

# At most WINDOW chunks are in flight unconfirmed; a chunk ends at either bound.
CHUNK_MESSAGES = 250
CHUNK_BYTES = 1024 * 1024
WINDOW = 4


class _Chunk(msgspec.Struct, eq=False):
    """Messages sent together, and the first problem with any of them."""

    reply: Any
    unconfirmed: int
    problem: StoreError | None = None


class Publisher(Connection):
    """A connection that publishes. The broker reads nothing from it while an alarm is on, so nothing else uses it."""

    def __init__(self, settings: ConnectionSettings, max_length: int) -> None:
        self._max_length = max_length
        self._count = 0
        self._unconfirmed: dict[int, tuple[_Chunk, Envelope]] = {}  # by sequence number
        self._returned: dict[str, StoreError] = {}  # by delivery_id
        super().__init__(settings)

    def prepare(self, opened: "Future[Any]") -> None:
        self.channel.add_on_return_callback(self._on_return)
        self.channel.confirm_delivery(self._on_confirm, callback=lambda _: resolve(opened))

    def publish(self, envelopes: Iterator[Envelope]) -> int:
        """Returns how many were confirmed. Errors that the caller's iterator raises pass through unchanged."""
        in_flight: deque[Future[Any]] = deque()
        count = 0
        for chunk in _chunks(envelopes):
            with errors(self.url):
                in_flight.append(self._send_chunk(chunk))
                count += len(chunk)
                if len(in_flight) == WINDOW:
                    self.wait(in_flight.popleft())
        with errors(self.url):
            for reply in in_flight:
                self.wait(reply)
        return count

    def _send_chunk(self, envelopes: list[Envelope]) -> "Future[Any]":
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
        """No queue takes the message. The broker returns it before it confirms it."""
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
                problem = self._refused_by(envelope.queue)
            chunk.problem = chunk.problem or problem
            chunk.unconfirmed -= 1
            if not chunk.unconfirmed:
                resolve(chunk.reply, error=chunk.problem)

    def _refused_by(self, queue: str) -> QueueFull:
        problem = f"the queue {queue} takes no more: it holds {self._max_length} messages, or its nodes are down"
        return QueueFull(TITLE, self.url, problem, "Keep the message; is its drain running? See ninjait status.")


def _mark(properties: Any) -> str:
    """The copy's own id. Third-party messages have none, but those are only ever republished."""
    return str((properties.headers or {}).get(DELIVERY_ID, ""))


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
