"""`MessageQueue` on Dragonfly (or Redis, Valkey) streams: one per queue, and one for its dead letters.

A settled message is deleted from its stream, so the stream's length is what is outstanding. How safe a confirmed
message is depends on the server: with `appendonly yes` Redis and Valkey keep it when they are killed; Dragonfly has no
such log and needs a replica.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from typing import Any

import msgspec
import redis
import redis.exceptions
from pydantic import Field

from ninjait_pipelines.messages import LAST_MS, Message, Outgoing
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.message_queue import Depth, MessageQueue, QueueFull
from ninjait_pipelines.resources.store import StoreError, StoreFailed
from ninjait_pipelines.streams import QUEUES

GROUP = "pipeline"
# A consumer that does not exist. It holds requeued messages as if it had held them for a week: anyone may claim them.
GIVEN_BACK = "given-back"
GIVEN_BACK_IDLE_MS = 7 * 24 * 3600 * 1000
# `receive` polls: a blocking read would not see what others requeue, Dragonfly before 1.40 ignores COUNT when it wakes
# one, and a reply after the client's time-out would leave messages held by a consumer that never saw them.
POLL_SECONDS = 0.05
# How long the count of a message's spares is kept.
SPARES_KEPT_SECONDS = 7 * 24 * 3600
BATCH_MESSAGES = 1_000
BATCH_BYTES = 4 * 1024 * 1024

# Adds as many messages as there is room for and returns how many; -1 if the queue is not declared, because XADD would
# create a stream without its group.
# KEYS: stream. ARGV: max_length, then routing_key, message_id, content_type and body of each message.
_PUBLISH = """
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local taken = 0
for i = 2, #ARGV, 4 do
  if taken >= room then break end
  redis.call('XADD', KEYS[1], '*', 'routing_key', ARGV[i], 'message_id', ARGV[i + 1], 'content_type', ARGV[i + 2],
             'body', ARGV[i + 3])
  taken = taken + 1
end
return taken
"""
# Deletes a consumer that holds nothing. If it still held messages, those would stay in the stream and never be
# delivered. (If the consumer does not exist, Dragonfly answers for the whole group.)
# KEYS: stream. ARGV: group, consumer.
_LEAVE = """
local held = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if held[1] and held[1][2] == ARGV[2] then return 0 end
return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
"""


class DragonflyQueue(Dragonfly, MessageQueue):
    """The broker on Dragonfly streams. The client returns bytes, and repeats commands that were not answered, so a
    message may arrive twice.

    with DragonflyQueue(url="redis://:password@127.0.0.1:6379/0").open() as queue:
        queue.publish([Outgoing("agent.metrics", f"metrics.{organization_id}", body)])
        with queue.consume("agent.metrics", prefetch=500) as consumer:
            consumer.acknowledge(consumer.receive(500, wait_seconds=2))
    """

    title = "Message queue (Dragonfly)"

    redelivery_seconds: float = Field(
        default=120,
        gt=0,
        description="A message whose consumer was silent for this long is delivered again, seconds",
    )
    delivery_limit: int = Field(
        default=5, ge=1, description="A message that was delivered more often than this becomes a dead letter"
    )
    max_length: int = Field(
        default=1_000_000,
        ge=1,
        description="Messages that a queue may hold, without settled ones, before it refuses publishers",
    )
    timeout_seconds: float = Field(default=10, gt=0, description="Longest wait for a connection or an answer, seconds")

    _text = False

    def declare(self, queue: str | None = None) -> None:
        with self.errors():
            for name in [queue] if queue else QUEUES:
                try:
                    self.client.xgroup_create(stream_key(name), GROUP, id="0", mkstream=True)
                except redis.exceptions.ResponseError as error:
                    if not str(error).startswith("BUSYGROUP"):
                        raise

    def check_declared(self) -> None:
        with self.errors():
            missing = [name for name in QUEUES if not self.client.exists(stream_key(name))]
        if missing:
            problem = f"there is no queue {', '.join(missing)}"
            raise StoreFailed(self.title, self.url, problem, "Create it: ninjait migrate up.")

    def publish(self, messages: Iterable[Outgoing]) -> int:
        return sum(self._publish(queue, batch) for queue, batch in _batches(messages))

    def _publish(self, queue: str, batch: Sequence[Outgoing]) -> int:
        taken = self._add(queue, batch)
        if taken < 0:  # the server was emptied, or nothing was ever declared
            self.declare()
            taken = self._add(queue, batch)
        if taken < len(batch):
            problem = f"the queue {queue} is full: it holds {self.max_length} messages"
            raise QueueFull(
                self.title, self.url, problem, "Keep the message; is its drain running? See ninjait status."
            )
        return taken

    def _add(self, queue: str, batch: Sequence[Outgoing]) -> int:
        arguments: list[Any] = [self.max_length]
        for message in batch:
            arguments += [message.routing_key, message.message_id or "", message.content_type, message.body]
        with self.errors():
            return self.client.register_script(_PUBLISH)(keys=[stream_key(queue)], args=arguments)

    @contextmanager
    def consume(self, queue: str, prefetch: int, limit: int | None = None) -> Iterator["StreamConsumer"]:
        """Nothing is sent ahead, so `limit` has no effect."""
        consumer = StreamConsumer(self, queue, prefetch)
        try:
            yield consumer
        finally:
            # If the server is unavailable, it redelivers the messages after redelivery_seconds: nothing to report.
            with suppress(StoreError):
                consumer.close()

    def depth(self, queue: str) -> Depth:
        key = stream_key(queue)
        with self.queue_errors(queue), self.client.pipeline() as pipeline:
            pipeline.xlen(key)
            pipeline.xpending(key, GROUP)
            pipeline.xlen(dead_key(queue))
            length, pending, dead = pipeline.execute()
        return Depth(ready=max(0, length - pending["pending"]), unsettled=pending["pending"], dead=dead)

    def dead_letters(self, queue: str, limit: int = 100) -> list[tuple[Message, str]]:
        with self.errors():
            entries: list[Any] = self.client.xrange(dead_key(queue), count=limit)  # type: ignore[assignment]
        return [
            (_dead_letter(queue, *entry), entry[1].get(b"reason", b"").decode(errors="replace")) for entry in entries
        ]

    def discard_dead_letters(self, messages: Sequence[Message]) -> None:
        with self.errors():
            for queue, letters in groupby(messages, key=lambda message: message.queue):
                self.client.xdel(dead_key(queue), *(letter.receipt for letter in letters))

    @contextmanager
    def queue_errors(self, queue: str) -> Iterator[None]:
        """Like `errors`, and explains a missing stream or group."""
        with self.errors():
            try:
                yield
            except redis.exceptions.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                problem = f"there is no queue {queue}: it was not declared yet, or the server was emptied"
                raise StoreFailed(self.title, self.url, problem, "Publishing to it declares it.") from error


class StreamConsumer:
    """A consumer of the group, under a unique name."""

    def __init__(self, broker: DragonflyQueue, queue: str, prefetch: int) -> None:
        self._broker = broker
        self._queue = queue
        self._key = stream_key(queue)
        self._name = uuid.uuid4().hex
        self._prefetch = prefetch
        self._idle_ms = int(broker.redelivery_seconds * 1000)
        self._held: set[str] = set()
        self._final: set[str] = set()  # held messages that become dead letters at the next delivery
        self._stopped = False

    def stop(self) -> None:
        """Messages arrive only when asked for."""
        self._stopped = True

    def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """Returns redeliveries before new messages."""
        room = 0 if self._stopped else min(limit, self._prefetch - len(self._held))
        if room <= 0:
            return []
        deadline = time.monotonic() + wait_seconds
        while True:
            messages = self._redelivered(room)
            if len(messages) < room:
                messages += self._new(room - len(messages))
            self._held.update(message.receipt for message in messages)
            left = deadline - time.monotonic()
            if messages or left <= 0:
                return messages
            time.sleep(min(POLL_SECONDS, left))

    def _new(self, limit: int) -> list[Message]:
        with self._errors():
            streams: Any = self._client.xreadgroup(GROUP, self._name, {self._key: ">"}, count=limit)
        return [_message(self._queue, entry_id, fields, 1) for entry_id, fields in _entries(streams)]

    def _redelivered(self, limit: int) -> list[Message]:
        """Claims what others requeued, or have held for too long. If two claim the same message only the first gets it,
        because a claim resets the idle time."""
        with self._errors():
            rows: Any = self._client.xpending_range(
                self._key, GROUP, min="-", max="+", count=limit + len(self._held), idle=self._idle_ms
            )
            times = {row["message_id"].decode(): row["times_delivered"] for row in rows}
            wanted = [receipt for receipt in times if receipt not in self._held][:limit]
            if not wanted:
                return []
            claimed: Any = self._client.xclaim(self._key, GROUP, self._name, self._idle_ms, wanted)
        messages = [
            _message(self._queue, entry_id, fields, times[entry_id.decode()] + 1)
            for entry_id, fields in claimed
            if entry_id is not None
        ]
        self._final |= {one.receipt for one in messages if one.deliveries > self._broker.delivery_limit}
        return [message for message in messages if not self._beyond_the_limit(message)]

    def _beyond_the_limit(self, message: Message) -> bool:
        delivered, limit = message.deliveries - 1, self._broker.delivery_limit
        if delivered <= limit:
            return False
        self.reject(message, f"delivered {delivered} times and never settled; the limit is {limit}")
        return True

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """One transaction: dying before it, the messages are redelivered; there is no state in between."""
        if not messages:
            return
        receipts = [message.receipt for message in messages]
        with self._errors(), self._client.pipeline() as pipeline:
            pipeline.xack(self._key, GROUP, *receipts)
            pipeline.xdel(self._key, *receipts)
            pipeline.execute()
        self._held.difference_update(receipts)

    def requeue(self, messages: Sequence[Message]) -> None:
        self._requeue([message.receipt for message in messages])

    def spare(self, blamed: Message | None = None, reason: str = "") -> None:
        """One command resets the delivery count of what is held at its last permitted delivery."""
        if blamed and blamed.receipt in self._final & self._held and self._spares(blamed) > self._broker.max_spares:
            self.reject(blamed, reason)
        self._requeue(sorted(self._final & self._held), deliveries=0)

    def _spares(self, message: Message) -> int:
        """How often a message has been spared as the one to blame, including this time."""
        with self._errors(), self._client.pipeline() as pipeline:
            pipeline.hincrby(f"{self._key}:spared", message.receipt, 1)
            pipeline.expire(f"{self._key}:spared", SPARES_KEPT_SECONDS)
            return int(pipeline.execute()[0])

    def _requeue(self, receipts: list[Any], deliveries: int | None = None) -> None:
        if receipts:
            with self._errors():
                # JUSTID leaves the delivery count unchanged.
                self._client.xclaim(
                    self._key,
                    GROUP,
                    GIVEN_BACK,
                    0,
                    receipts,
                    idle=GIVEN_BACK_IDLE_MS,
                    retrycount=deliveries,
                    justid=True,
                )
            self._held.difference_update(receipts)

    def reject(self, message: Message, reason: str) -> None:
        """One transaction: the message is either in its queue or in the dead letters, never in both or neither."""
        letter: dict[Any, Any] = {
            "delivery_id": message.delivery_id,
            "deliveries": message.deliveries,
            "reason": reason,
            **_fields(message),
        }
        with self._errors(), self._client.pipeline() as pipeline:
            pipeline.xadd(dead_key(self._queue), letter)
            pipeline.xack(self._key, GROUP, message.receipt)
            pipeline.xdel(self._key, message.receipt)
            pipeline.execute()
        self._held.discard(message.receipt)

    def keep_alive(self) -> None:
        if self._held:
            with self._errors():
                self._client.xclaim(self._key, GROUP, self._name, 0, list(self._held), justid=True)

    def close(self) -> None:
        """Requeues what is held, and leaves the group."""
        self._requeue(sorted(self._held))
        with self._errors():
            self._client.register_script(_LEAVE)(keys=[self._key], args=[GROUP, self._name])

    @property
    def _client(self) -> redis.Redis:
        return self._broker.client

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self._broker.queue_errors(self._queue):
            yield


def stream_key(queue: str) -> str:
    """The key of a queue's stream; raises ValueError if there is no such queue. The braces keep it and its dead letters
    on the same node of a cluster."""
    if queue not in QUEUES:
        raise ValueError(f"there is no queue {queue!r}; the queues are {', '.join(QUEUES)}")
    return f"queue:{{{queue}}}"


def dead_key(queue: str) -> str:
    """The key of the stream of a queue's dead letters."""
    return f"{stream_key(queue)}:dead"


def _batches(messages: Iterable[Outgoing]) -> Iterator[tuple[str, list[Outgoing]]]:
    """Batches of one queue each, small enough to block the server only for a moment; in order within a queue."""
    waiting: dict[str, list[Outgoing]] = {}
    count = size = 0
    for message in messages:
        stream_key(message.queue)
        if count == BATCH_MESSAGES or (count and size + len(message.body) > BATCH_BYTES):
            yield from waiting.items()
            waiting, count, size = {}, 0, 0
        waiting.setdefault(message.queue, []).append(message)
        count, size = count + 1, size + len(message.body)
    yield from waiting.items()


def _entries(streams: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream that was read; none if nothing was new."""
    if not streams:
        return []
    entries = next(iter(streams.values()))[0] if isinstance(streams, dict) else streams[0][1]
    return list(entries)


_TEXT = (b"routing_key", b"content_type", b"message_id")


def _message(queue: str, entry_id: bytes, fields: dict[bytes, bytes], deliveries: int) -> Message:
    """An entry of another program lacks our fields: it is delivered as it is, and ends up in quarantine."""
    receipt = entry_id.decode(errors="replace")
    text = {name: fields.get(name, b"").decode(errors="replace") for name in _TEXT}
    return Message(
        queue=queue,
        routing_key=text[b"routing_key"],
        body=fields.get(b"body", b""),
        content_type=text[b"content_type"],
        message_id=text[b"message_id"] or None,
        receipt=receipt,
        delivery_id=receipt,
        deliveries=deliveries,
        published_at=_milliseconds(receipt),
    )


def _milliseconds(receipt: str) -> int:
    """When Dragonfly stored it; 0 if its publisher chose another kind of id."""
    milliseconds = receipt.partition("-")[0]
    return int(milliseconds) if milliseconds.isdigit() and int(milliseconds) <= LAST_MS else 0


def _dead_letter(queue: str, entry_id: bytes, fields: dict[bytes, bytes]) -> Message:
    """As it was delivered, except that the receipt is the dead letter's. Another program's lacks our fields."""
    deliveries = fields.get(b"deliveries", b"")
    original = _message(
        queue, fields.get(b"delivery_id", entry_id), fields, int(deliveries) if deliveries.isdigit() else 1
    )
    return msgspec.structs.replace(original, receipt=entry_id.decode())


def _fields(message: Message) -> dict[str, str | bytes]:
    return {
        "routing_key": message.routing_key,
        "message_id": message.message_id or "",
        "content_type": message.content_type,
        "body": message.body,
    }
