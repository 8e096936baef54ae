"""A drain: one bounded pass from a queue to its stores, the same for all queues. It may die anywhere and lose nothing.

1. Receive a batch.            Dying here: the broker gives it to the next drain.
2. Decode it.                  As above; nothing has been written.
3. Write the good points.      As above; written again, they replace themselves (see the sinks, also for 3b to 3d).
4. Quarantine the bad ones.    As above; the document's id is the copy's, so MongoDB or its spool has it once.
5. Record it in the ledger.    As above; the row's key is the copy's, so it counts once.
6. Acknowledge.                Dying before: everything above is repeated. After: it is done.

Several batches are under way at once, in the order in which they arrived: while one is decoded (1, 2), the one before
it is written (3a), and the one before that is recorded (3b to 5). So no store waits for another, and of two points with
one key the one received last is written last, except for redelivered messages (see below).

An outage uses up no deliveries. Before anything is received, every store is asked whether it takes a write. When one
fails later, the drain stops receiving and waits for it with the messages in hand; after `store_wait_seconds` they
are requeued. The broker may count that as a delivery, but never as the last one (`Consumer.spare`). The exception is a
message that was being written alone each time, while others went through: it takes the store down with it.

Isolating poison messages: a copy delivered for the third time either killed the drains before or was in a batch with
the message that did. Such redelivered copies go through the steps in groups, smaller with each delivery, and finally
alone; on every other delivery in reverse order, so that those behind a poison message get past it too. A copy that
fails where another one succeeds is rejected and becomes a dead letter at once; if nothing succeeds, the broker's
delivery limit decides. If it was a store that failed, the copy is rejected only after it fails again between two
successful writes of another message. Dead letters end in quarantine, like all bad input.
"""

import gc
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ninjait_pipelines.ingest.decode.message import decode, decode_nothing
from ninjait_pipelines.ingest.decode.model import HOST_REASONS, Decoded, Period, SenderRegistry
from ninjait_pipelines.ingest.decode.third_party import size_of
from ninjait_pipelines.ingest.ledger import Batch, ledger_rows, outcome_of
from ninjait_pipelines.ingest.quarantine.hold import hold_messages, prepare_quarantine
from ninjait_pipelines.ingest.quarantine.usage import Room
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sinks import Hour, Record, Sink
from ninjait_pipelines.ingest.stages import Stages, StoreWait
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.message_queue import MAX_SPARES, Consumer, MessageQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError, StoreUnavailable

BATCH_MESSAGES = 4000
# Memory that a batch may take, apart from its last receive: as much as the largest legal bodies need.
BATCH_BYTES = 24 * 1024 * 1024
# The first batch; each one after it may be twice as large. So InfluxDB does not wait for a whole batch to be decoded.
FIRST_BATCH_BYTES = 2 * 1024 * 1024
RECEIVE_MESSAGES = 25
# Messages that the broker may send ahead: enough for all stages, and few for one drain to keep from another.
PREFETCH = 16_000
# How long a thread may keep the interpreter. The others need it after every wait for the network, and wait this long.
SWITCH_SECONDS = 0.0005
# How long a drain waits for stores that fail under way. With a store's longest time-out (40 s, and the waits between
# its retries) this stays below the 120 s after which Dragonfly gives a silent consumer's messages to others.
STORE_WAIT_SECONDS = 45.0
DEAD_LETTERS_AT_ONCE = 25
# Up to here a copy is processed with its batch; beyond, it is isolated.
BATCHED_DELIVERIES = 2
# Delivery -> (messages per group at least, groups at most). There are few groups even for thousands of copies, which
# may have been redelivered only because stores were down, and must be done before the next outage.
ISOLATION_GROUPS = {3: (64, 16), 4: (8, 32)}
LATER_ISOLATION_GROUPS = (1, 250)
# Reasons that may be due to a registry that was read too early.
UNREGISTERED = {"unknown_organization", "unknown_device", "device_of_another_organization", *HOST_REASONS}


@dataclass
class DrainSummary:
    """What a drain did. Points are samples of metrics, or events.

    bodies_not_kept: quarantined messages that only the ledger has, because their organization's share was full.
    """

    messages: int = 0
    messages_quarantined: int = 0
    bodies_not_kept: int = 0
    messages_not_understood: int = 0
    dead_letters: int = 0
    points: int = 0
    points_written: int = 0
    points_quarantined: int = 0
    unknown_fields: int = 0
    bytes: int = 0
    hours: set[Hour] = field(default_factory=set)
    _counted: set[str] = field(default_factory=set, repr=False)

    def add(self, batch: Batch, hours: set[Hour]) -> None:
        """Counts a batch that has been recorded. A copy delivered twice within this drain counts once."""
        copies = {message.delivery_id: (message, decoded) for message, decoded in batch}
        batch = [copies[name] for name in copies.keys() - self._counted]
        self._counted |= copies.keys()
        self.messages += len(batch)
        for message, decoded in batch:
            rejected = decoded.points_rejected if decoded.rejections else 0
            self.messages_quarantined += bool(decoded.rejections)
            self.messages_not_understood += outcome_of(decoded) == "not_understood"
            self.points += decoded.points
            self.points_written += decoded.points - rejected
            self.points_quarantined += rejected
            self.unknown_fields += decoded.unknown_fields
            self.bytes += len(message.body)
        self.hours |= hours

    def metadata(self) -> dict[str, int]:
        """The counts, for the run's metadata. Duplicates are not known here: the view message_ledger derives them."""
        counts = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        return counts | {"hours_touched": len({hour for _, hour in self.hours})}


@dataclass(frozen=True)
class Drain:
    """A drain of the sink's queue, with the stores that every drain needs beside the sink's own."""

    sink: Sink
    message_queue: MessageQueue
    postgres: Postgres
    clickhouse: ClickHouse
    mongodb: MongoDB
    run_id: str
    clock: Callable[[], datetime]
    log: logging.Logger
    room: Room = field(default_factory=Room, init=False)
    batch_messages: int = BATCH_MESSAGES
    prefetch: int = PREFETCH
    dead_letters_at_once: int = DEAD_LETTERS_AT_ONCE
    isolation_groups: Mapping[int, tuple[int, int]] = field(default_factory=lambda: ISOLATION_GROUPS)
    store_wait_seconds: float = STORE_WAIT_SECONDS
    sleep: Callable[[float], None] = time.sleep
    when_available: StoreWait = field(init=False)
    # The last message that was written and recorded, or empty.
    last_done: list[tuple[Message, Decoded]] = field(default_factory=list, init=False)
    # The redelivered message that is being processed alone, or empty.
    isolated: list[Message] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "when_available", StoreWait(self.store_wait_seconds, self.log, self.sleep))

    def run(self, max_messages: int = 20_000, max_seconds: float = 45, idle_seconds: float = 1) -> DrainSummary:
        """Drains until the queue has been empty for `idle_seconds` or a bound is reached.

        After `max_seconds` it requests no more messages, and finishes those that the broker has already sent.
        Raises StoreError if a store is down or refuses a write; unacknowledged messages are then requeued.
        """
        started = self.clock()
        self._prepare()
        half_time = started + timedelta(seconds=max_seconds / 2)
        summary = DrainSummary(dead_letters=self._move_dead_letters(max_messages, half_time))
        registry = load_sender_registry(self.postgres)
        batch_bytes = FIRST_BATCH_BYTES
        with (
            tuned_interpreter(),
            self.message_queue.consume(self.sink.queue, self.prefetch, max_messages) as consumer,
            self._sparing(consumer),
            Stages(self._write, self._record_batch, lambda: self._keep_waiting(consumer)) as stages,
        ):
            while True:
                if self.when_available.began or (self.clock() - started).total_seconds() >= max_seconds:
                    consumer.stop()
                room = min(max_messages - summary.messages - stages.messages, self.batch_messages)
                messages = _receive(consumer, room, batch_bytes, 0 if stages.under_way else idle_seconds)
                batch_bytes = min(2 * batch_bytes, BATCH_BYTES)
                if not messages and not stages.under_way:
                    break
                redelivered = [message for message in messages if message.deliveries > BATCHED_DELIVERIES]
                others = [message for message in messages if message.deliveries <= BATCHED_DELIVERIES]
                for part in _parts(others):
                    while stages.under_way and stages.full:
                        self._acknowledge(consumer, *stages.take(), summary)
                    now = self.clock()
                    batch, registry = self._decode_all(part, registry, now)
                    stages.put(batch, now)
                if not others and stages.under_way:
                    self._acknowledge(consumer, *stages.take(), summary)
                while stages.under_way and (redelivered or stages.full):
                    self._acknowledge(consumer, *stages.take(), summary)
                registry = self._isolate(consumer, redelivered, registry, summary)
        summary.bodies_not_kept = len(self.room.left_out)
        return summary

    def _prepare(self) -> None:
        """Probes every store before anything is received: an outage must not use up the messages' deliveries.

        A probe writes, because a store without disk space still answers. MongoDB may be down unless the sink needs it:
        the quarantine has a spool.
        """
        # Only its own queue: another one that exists with other arguments must not stop this drain.
        self.message_queue.declare(self.sink.queue)
        organizations = {row["id"] for row in self.postgres.rows("SELECT id::text AS id FROM organizations")}
        self._probe_stores()
        self.room.begin(prepare_quarantine(self.mongodb, self.clock(), self.log), organizations)

    def _probe_stores(self) -> None:
        """Raises StoreError if a store that every message needs does not take a write."""
        self.clickhouse.probe()
        self.sink.prepare()

    @contextmanager
    def _sparing(self, consumer: Consumer) -> Iterator[None]:
        """Keeps messages that are requeued because a store failed from becoming dead letters."""
        try:
            yield
        except StoreError as failure:
            blamed = self.isolated[0] if self.isolated and self.last_done else None
            reason = f"it was being written alone {MAX_SPARES + 1} times when a store failed: {failure}"
            try:
                consumer.spare(blamed, reason)
            except StoreError as error:
                self.log.warning("Messages that are requeued now may become dead letters: %s", error)
            raise

    def _keep_waiting(self, consumer: Consumer) -> None:
        """Tells the broker that messages are still being processed, and receives no more once a store has failed."""
        if self.when_available.began:
            consumer.stop()
        consumer.keep_alive()

    def _decode_all(
        self, messages: Sequence[Message], registry: SenderRegistry, now: datetime
    ) -> tuple[Batch, SenderRegistry]:
        """Decodes a batch. Messages of unknown senders are decoded again with a new registry, which is returned.

        A device may have been registered a second ago, and have sent its first sample since.
        """
        period = Period.at(now)
        gc.disable()  # it would walk everything decoded so far, none of which is garbage
        try:
            batch = [(message, self._decode(message, registry, period)) for message in messages]
        finally:
            gc.enable()
        if not any(_is_unregistered(decoded) for _, decoded in batch):
            return batch, registry
        registry = self.when_available(lambda: load_sender_registry(self.postgres))
        return [
            (message, self._decode(message, registry, period) if _is_unregistered(decoded) else decoded)
            for message, decoded in batch
        ], registry

    def _write(self, batch: Batch, now: datetime) -> Record:
        before = [decoded.rejections for _, decoded in batch]

        def write() -> Record:
            for (_, decoded), rejections in zip(batch, before, strict=True):  # a failed attempt may have added some
                decoded.rejections = rejections
            return self.sink.write([decoded for _, decoded in batch], self.run_id, now)

        return self.when_available(write)

    def _record_batch(self, batch: Batch, now: datetime, record_points: Record) -> set[Hour]:
        """Steps 3b to 5; returns the hours that the points touch."""

        def record() -> set[Hour]:
            hours = record_points()
            rejected = [(message, decoded) for message, decoded in batch if decoded.rejections]
            not_kept = hold_messages(self.mongodb, rejected, self.run_id, now, self.log, self.room)
            self.clickhouse.insert("message_deliveries", ledger_rows(batch, self.run_id, not_kept=not_kept))
            return hours

        return self.when_available(record)

    def _acknowledge(self, consumer: Consumer, batch: Batch, hours: set[Hour], summary: DrainSummary) -> None:
        summary.add(batch, hours)
        self.last_done[:] = next(([pair] for pair in reversed(batch) if pair[1].columns), self.last_done)
        try:
            consumer.acknowledge([message for message, _ in batch])
        except StoreUnavailable as error:
            self.log.warning("%d messages were not acknowledged and will be redelivered: %s", len(batch), error)
        consumer.keep_alive()

    def _decode(self, message: Message, registry: SenderRegistry, period: Period) -> Decoded:
        """A message that makes the decoder itself fail is bad input like any other: its batch must go on."""
        try:
            return decode(message, registry, period)
        except Exception as error:  # not hidden: logged, quarantined with its reason, and reported by a check
            self.log.exception("Decoding %s failed: a bug in the decoder", message.copy_id)
            return decode_nothing(message, f"decoder_failed:{type(error).__name__}")

    def _process(
        self, consumer: Consumer, messages: Sequence[Message], registry: SenderRegistry, summary: DrainSummary
    ) -> SenderRegistry:
        """All steps of one batch while no other is under way; returns the registry that was used."""
        now = self.clock()
        batch, registry = self._decode_all(messages, registry, now)
        self._acknowledge(consumer, batch, self._record_batch(batch, now, self._write(batch, now)), summary)
        return registry

    def _isolate(
        self, consumer: Consumer, redelivered: Sequence[Message], registry: SenderRegistry, summary: DrainSummary
    ) -> SenderRegistry:
        """Processes redelivered messages in groups; a group that fails is halved, down to single messages.

        Raises StoreError if a store takes nothing at all.
        """
        failures: list[tuple[Message, Exception]] = []
        store_failures: list[tuple[Message, StoreError]] = []
        todo = deque(_groups(redelivered, self.isolation_groups))
        while todo:
            group = todo.popleft()
            self.isolated[:] = group if len(group) == 1 else []
            try:
                registry = self._process(consumer, group, registry, summary)
            except Exception as error:
                if isinstance(error, StoreError):
                    self._probe_stores()
                if len(group) > 1:
                    middle = len(group) // 2
                    todo.extendleft((group[middle:], group[:middle]))
                elif not isinstance(error, StoreError):
                    failures.append((group[0], error))
                elif store_failures and not summary.messages:  # a second message fails and none succeeded: the store
                    raise
                else:
                    store_failures.append((group[0], error))
        if failures and not summary.messages:  # nothing succeeded: it may not be the messages, so a person must look
            raise failures[0][1]
        for message, failure in failures:
            self._reject(consumer, message, failure)
        for message, store_failure in store_failures:
            self.isolated[:] = [message]
            self._retry_alone(consumer, message, store_failure, registry, summary)
        self.isolated.clear()
        return registry

    def _retry_alone(
        self,
        consumer: Consumer,
        message: Message,
        failure: StoreError,
        registry: SenderRegistry,
        summary: DrainSummary,
    ) -> None:
        """Rejects a message if its store fails again between two successful writes; raises if those fail too."""
        if not self.last_done:
            raise failure
        self._repeat_last()
        try:
            self._process(consumer, [message], registry, summary)
        except StoreError as error:
            self._repeat_last()
            self._reject(consumer, message, error)

    def _repeat_last(self) -> None:
        """Writes and records once more what succeeded before, which changes nothing. Raises if it no longer does."""
        now = self.clock()
        self._record_batch(self.last_done, now, self._write(self.last_done, now))

    def _reject(self, consumer: Consumer, message: Message, failure: Exception) -> None:
        self.log.error("%s becomes a dead letter: %s", message.copy_id, failure)
        consumer.reject(message, f"{type(failure).__name__}: {failure}")

    def _move_dead_letters(self, limit: int, until: datetime) -> int:
        """Moves dead letters into quarantine, where people look: held, recorded, then removed from the broker.

        Dying between any two of these: they are still dead letters, and moving them again replaces the same documents.
        """
        moved = 0
        while moved < limit and (
            letters := self.message_queue.dead_letters(self.sink.queue, self.dead_letters_at_once)
        ):
            batch = [(message, decode_nothing(message, "dead_letter", reason)) for message, reason in letters]
            not_kept = hold_messages(self.mongodb, batch, self.run_id, self.clock(), self.log, self.room)
            rows = ledger_rows(batch, self.run_id, outcome="dead_lettered", not_kept=not_kept)
            self.clickhouse.insert("message_deliveries", rows)
            self.message_queue.discard_dead_letters([message for message, _ in letters])
            moved += len(letters)
            if self.clock() >= until:
                break
        return moved


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Switches threads often, and excludes everything older than the messages from garbage collection."""
    seconds = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(seconds)


def _groups(
    redelivered: Sequence[Message], groups: Mapping[int, tuple[int, int]] = ISOLATION_GROUPS
) -> Iterator[Sequence[Message]]:
    """Messages delivered least often first; on every other delivery in reverse order."""
    for count in sorted({message.deliveries for message in redelivered}):
        alike = [message for message in redelivered if message.deliveries == count][:: 1 if count % 2 else -1]
        min_size, max_groups = groups.get(count, LATER_ISOLATION_GROUPS)
        size = max(min_size, math.ceil(len(alike) / max_groups))
        for first in range(0, len(alike), size):
            yield from _parts(alike[first : first + size])


def _parts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages in as few parts as hold one and a half times BATCH_BYTES each, or one message.

    RECEIVE_MESSAGES arrive at once, and compressed ones are large once they are read. The half is because a usual
    batch is a little beyond its bound, and that little would be a batch of its own.
    """
    part: list[Message] = []
    size = 0
    for message in messages:
        room = size_of(message.body)
        if part and size + room > BATCH_BYTES * 3 // 2:
            yield part
            part, size = [], 0
        part.append(message)
        size += room
    if part:
        yield part


def _is_unregistered(decoded: Decoded) -> bool:
    return any(rejection.reason in UNREGISTERED for rejection in decoded.rejections)


def _receive(consumer: Consumer, limit: int, max_bytes: int, idle_seconds: float) -> list[Message]:
    """A batch of what is there, bounded in messages and bytes; empty if nothing arrives within `idle_seconds`."""
    batch: list[Message] = []
    size = 0
    while len(batch) < limit and size < max_bytes:
        asked = min(limit - len(batch), RECEIVE_MESSAGES)
        received = consumer.receive(asked, 0 if batch else idle_seconds)
        batch += received
        size += sum(size_of(message.body) for message in received)
        if len(received) < asked:
            break
    return batch
