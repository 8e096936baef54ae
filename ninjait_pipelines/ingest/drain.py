"""A drain: one bounded walk from a queue to its stores, the same for all queues. It may die anywhere and lose nothing.

1. Receive a batch.            Dying here: the broker gives it to the next drain.
2. Decode it.                  As above; nothing has been written.
3. Write the good points.      As above; written again, each replaces itself (see the sinks, also for 3b to 3d).
4. Quarantine the bad ones.    As above; the document's id is the copy's, so it is held once, in MongoDB or its spool.
5. Record it in the ledger.    As above; the row's key is the copy's, so it counts once.
6. Acknowledge.                Dying before: all of it happens once more. After: it is done.

Several batches are under way at once, in the order in which they came: while one is decoded (1, 2), the one before it
is written (3a), and the one before that is recorded (3b to 5). So no store waits for another, and of two points with
one key the one that was received last is written last, suspects apart (see below).

An outage is not the messages' fault. Before anything is received every store is asked whether it takes a write. One
that fails under way is waited for with the messages in hand, while nothing more is received; after HOLD_SECONDS they
are given back, which the broker may count, but never for the last time (`Consumer.spare`). Only a message that was
being written alone each time, while others went through, is given back for the last time at last: it takes the store
down with it.

A copy that comes for the third time is under suspicion: it killed the drains before, or stood beside the one that did.
It goes through these steps with some others, each further time with fewer, and at last alone; every other time from the
last to the first, so that those behind the culprit get past it too. Where another one went through and it did not, it
is the culprit, and becomes a dead letter at once; otherwise the broker's delivery limit makes it one. Where it was a
store that failed, it must fail once more, and another one go through both before that and after. Dead letters end in
quarantine, like all bad input.
"""

import gc
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential_jitter

from ninjait_pipelines.ingest import quarantine
from ninjait_pipelines.ingest.decode.message import (
    HOST_REASONS,
    Decoded,
    Period,
    SenderRegistry,
    decode,
    decode_nothing,
)
from ninjait_pipelines.ingest.decode.third_party import size_of
from ninjait_pipelines.ingest.ledger import Batch, ledger_rows, outcome_of
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sinks import Hour, Record, Sink
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.message_queue import MAX_SPARES, Consumer, MessageQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError, StoreUnavailable

T = TypeVar("T")
BATCH_MESSAGES = 4000
# What a batch may take of memory, but for one receive: as much as the largest legal bodies make.
BATCH_BYTES = 8 * 1024 * 1024
RECEIVE_MESSAGES = 100
# What the broker may send ahead: enough for all stages, and little for one drain to keep from another.
PREFETCH = 16_000
# How long a thread may keep Python to itself. The others wait for the network again and again, and each time for this.
SWITCH_SECONDS = 0.0005
# Batches that are written, recorded, or wait for their acknowledgement, while the next one is received and decoded.
MAX_UNDER_WAY = 3
# For how long a drain waits for stores that fail under way. With the longest time-out of one (40 s, and waits between
# its tries) this stays below the 120 s after which Dragonfly gives a silent consumer's messages to others.
HOLD_SECONDS = 45.0
KEEP_ALIVE_SECONDS = 5.0
DEAD_LETTERS = 25
SUSPECT_AFTER_DELIVERIES = 2
# How suspects go together, by how often they have come: at least so many, in at most so many groups.
# Thousands may have come so often only because servers went away, and are to be done before the next one goes.
SUSPECTS = {3: (64, 16), 4: (8, 32)}
LATER_SUSPECTS = (1, 250)
# What a registry that was read a moment ago may be wrong about.
UNREGISTERED = {"unknown_organization", "unknown_device", "device_of_another_organization", *HOST_REASONS}


@dataclass
class Summary:
    """What a drain did. Points are samples of metrics, or events; `bodies_not_kept` of the messages in quarantine are
    in the ledger only, because the share of who sent them is full."""

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
    _counted: set[str] = field(default_factory=set)

    def add(self, batch: Batch, hours: set[Hour]) -> None:
        """Counts a batch that has been recorded; a copy that came a second time within this drain counts once."""
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


@dataclass(frozen=True)
class Drain:
    """The stores that every drain needs, beside those of its sink."""

    sink: Sink
    message_queue: MessageQueue
    postgres: Postgres
    clickhouse: ClickHouse
    mongodb: MongoDB
    run_id: str
    clock: Callable[[], datetime]
    log: logging.Logger
    room: quarantine.Room = field(default_factory=quarantine.Room, init=False)
    hold_seconds: float = HOLD_SECONDS
    sleep: Callable[[float], None] = time.sleep
    hold: "Hold" = field(init=False)
    # The last message that went through, if one did.
    proven: list[tuple[Message, Decoded]] = field(default_factory=list, init=False)
    # The suspect that is being tried alone, if one is.
    alone: list[Message] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hold", Hold(self.hold_seconds, self.log, self.sleep))

    def run(self, max_messages: int = 20_000, max_seconds: float = 45, idle_seconds: float = 1) -> Summary:
        """Drains until the queue has been empty for `idle_seconds`, or one of the bounds is reached.

        After `max_seconds` it asks for no more, and ends with what the broker has sent already.
        Raises StoreError where a store is away or refuses; what was not acknowledged is given back then.
        """
        started = self.clock()
        self._prepare()
        half_time = started + timedelta(seconds=max_seconds / 2)
        summary = Summary(dead_letters=self._move_dead_letters(max_messages, half_time))
        registry = load_sender_registry(self.postgres)
        with (
            tuned_interpreter(),
            self.message_queue.consume(self.sink.queue, PREFETCH, max_messages) as consumer,
            self._sparing(consumer),
            _Stages(self._write, self._record, lambda: self._wait_with(consumer)) as stages,
        ):
            while True:
                if self.hold.began or (self.clock() - started).total_seconds() >= max_seconds:
                    consumer.stop()
                room = max_messages - summary.messages - stages.messages
                messages = _receive(consumer, room, 0 if stages.under_way else idle_seconds)
                if not messages and not stages.under_way:
                    break
                suspects = [message for message in messages if message.deliveries > SUSPECT_AFTER_DELIVERIES]
                others = [message for message in messages if message.deliveries <= SUSPECT_AFTER_DELIVERIES]
                for part in _parts(others):
                    while stages.under_way and stages.full:
                        self._acknowledge(consumer, *stages.take(), summary)
                    now = self.clock()
                    batch, registry = self._decode_all(part, registry, now)
                    stages.put(batch, now)
                if not others and stages.under_way:
                    self._acknowledge(consumer, *stages.take(), summary)
                while stages.under_way and (suspects or stages.full):
                    self._acknowledge(consumer, *stages.take(), summary)
                registry = self._process_suspects(consumer, suspects, registry, summary)
        summary.bodies_not_kept = len(self.room.left_out)
        return summary

    def _prepare(self) -> None:
        """Asks every store before anything is received: an outage must not use up the messages' deliveries.

        Whether it answers is not enough: one that is out of disk space does. Without MongoDB the drain goes on, unless
        its sink needs it: its quarantine has a spool.
        """
        self.message_queue.declare(
            self.sink.queue
        )  # not the others: one that is declared otherwise stops its own drain
        organizations = {row["id"] for row in self.postgres.rows("SELECT id::text AS id FROM organizations")}
        self._ask_to_write()
        self.room.begin(quarantine.prepare(self.mongodb, self.clock(), self.log), organizations)

    def _ask_to_write(self) -> None:
        """Raises a StoreError where a store that every message needs takes no write."""
        self.clickhouse.probe()
        self.sink.prepare()

    @contextmanager
    def _sparing(self, consumer: Consumer) -> Iterator[None]:
        """Where a store fails, what is given back becomes no dead letter by it."""
        try:
            yield
        except StoreError as failure:
            blamed = self.alone[0] if self.alone and self.proven else None
            words = f"it alone was being written {MAX_SPARES + 1} times when a store failed: {failure}"
            try:
                consumer.spare(blamed, words)
            except StoreError as error:
                self.log.warning("What is given back now may become dead letters: %s", error)
            raise

    def _wait_with(self, consumer: Consumer) -> None:
        """While a batch is under way: its messages are still being worked on, and a store that fails gets no more."""
        if self.hold.began:
            consumer.stop()
        consumer.keep_alive()

    def _decode_all(
        self, messages: Sequence[Message], registry: SenderRegistry, now: datetime
    ) -> tuple[Batch, SenderRegistry]:
        """Decodes a batch; once more with the registry of now what comes from somebody whom the given one did not know.

        A device may have been registered a second ago, and have sent its first sample since.
        """
        period = Period.at(now)
        gc.disable()  # it would look through what stays: all that has been decoded so far
        try:
            batch = [(message, self._decode(message, registry, period)) for message in messages]
        finally:
            gc.enable()
        if not any(_is_unregistered(decoded) for _, decoded in batch):
            return batch, registry
        registry = self.hold(lambda: load_sender_registry(self.postgres))
        return [
            (message, self._decode(message, registry, period) if _is_unregistered(decoded) else decoded)
            for message, decoded in batch
        ], registry

    def _write(self, batch: Batch, now: datetime) -> Record:
        before = [decoded.rejections for _, decoded in batch]

        def write() -> Record:
            for (_, decoded), rejections in zip(batch, before, strict=True):  # a try that failed may have added some
                decoded.rejections = rejections
            return self.sink.write([decoded for _, decoded in batch], self.run_id, now)

        return self.hold(write)

    def _record(self, batch: Batch, now: datetime, rest: Record) -> set[Hour]:
        def record() -> set[Hour]:
            hours = rest()
            rejected = [(message, decoded) for message, decoded in batch if decoded.rejections]
            not_kept = quarantine.hold(self.mongodb, rejected, self.run_id, now, self.log, self.room)
            self.clickhouse.insert("message_deliveries", ledger_rows(batch, self.run_id, not_kept=not_kept))
            return hours

        return self.hold(record)

    def _acknowledge(self, consumer: Consumer, batch: Batch, hours: set[Hour], summary: Summary) -> None:
        summary.add(batch, hours)
        self.proven[:] = next(([one] for one in reversed(batch) if one[1].columns), self.proven)
        try:
            consumer.acknowledge([message for message, _ in batch])
        except StoreUnavailable as error:
            self.log.warning("%d messages were not acknowledged and will come again: %s", len(batch), error)
        consumer.keep_alive()

    def _decode(self, message: Message, registry: SenderRegistry, period: Period) -> Decoded:
        """A message that our own code stumbles over is bad input like any other: it must not take its batch along."""
        try:
            return decode(message, registry, period)
        except Exception as error:  # not hidden: logged, quarantined with its reason, and seen by a check
            self.log.exception("Decoding %s failed: a bug in the decoder", quarantine.document_id(message))
            return decode_nothing(message, f"decoder_failed:{type(error).__name__}")

    def _process(
        self, consumer: Consumer, messages: Sequence[Message], registry: SenderRegistry, summary: Summary
    ) -> SenderRegistry:
        """All steps of one batch, with no other under way."""
        now = self.clock()
        batch, registry = self._decode_all(messages, registry, now)
        self._acknowledge(consumer, batch, self._record(batch, now, self._write(batch, now)), summary)
        return registry

    def _process_suspects(
        self,
        consumer: Consumer,
        suspects: Sequence[Message],
        registry: SenderRegistry,
        summary: Summary,
    ) -> SenderRegistry:
        """In groups; one that fails is tried by halves. Raises StoreError for a store that takes nothing of anybody."""
        failures: list[tuple[Message, Exception]] = []
        doubted: list[tuple[Message, StoreError]] = []
        todo = deque(_groups(suspects))
        while todo:
            group = todo.popleft()
            self.alone[:] = group if len(group) == 1 else []
            try:
                registry = self._process(consumer, group, registry, summary)
            except Exception as error:
                if isinstance(error, StoreError):
                    self._ask_to_write()
                if len(group) > 1:
                    middle = len(group) // 2
                    todo.extendleft((group[middle:], group[:middle]))
                elif not isinstance(error, StoreError):
                    failures.append((group[0], error))
                elif doubted and not summary.messages:  # it takes a write, and none of these: it is not the messages
                    raise
                else:
                    doubted.append((group[0], error))
        if failures and not summary.messages:  # nothing went through: perhaps it is not the messages; let a person see
            raise failures[0][1]
        for message, failure in failures:
            self._reject(consumer, message, failure)
        for doubt in doubted:
            self.alone[:] = [doubt[0]]
            self._judge(consumer, *doubt, registry, summary)
        self.alone.clear()
        return registry

    def _judge(
        self, consumer: Consumer, message: Message, failure: StoreError, registry: SenderRegistry, summary: Summary
    ) -> None:
        """Rejects a message for which a store failed, if that is to blame on it and not on the store: raises then."""
        if not self.proven:
            raise failure
        self._repeat()
        try:
            self._process(consumer, [message], registry, summary)
        except StoreError as error:
            self._repeat()
            self._reject(consumer, message, error)

    def _repeat(self) -> None:
        """Does once more what went through before, which changes nothing. Raises where it no longer does."""
        now = self.clock()
        self._record(self.proven, now, self._write(self.proven, now))

    def _reject(self, consumer: Consumer, message: Message, failure: Exception) -> None:
        self.log.error("%s becomes a dead letter: %s", quarantine.document_id(message), failure)
        consumer.reject(message, f"{type(failure).__name__}: {failure}")

    def _move_dead_letters(self, limit: int, until: datetime) -> int:
        """Moves dead letters into quarantine, where people look: held, recorded, then removed from the broker.

        Dying between any two of these: they are still dead letters, and are moved again onto themselves.
        """
        moved = 0
        while moved < limit and (letters := self.message_queue.dead_letters(self.sink.queue, DEAD_LETTERS)):
            batch = [(message, decode_nothing(message, "dead_letter", words)) for message, words in letters]
            not_kept = quarantine.hold(self.mongodb, batch, self.run_id, self.clock(), self.log, self.room)
            rows = ledger_rows(batch, self.run_id, outcome="dead_lettered", not_kept=not_kept)
            self.clickhouse.insert("message_deliveries", rows)
            self.message_queue.discard_dead_letters([message for message, _ in letters])
            moved += len(letters)
            if self.clock() >= until:
                break
        return moved


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Has Python's threads change places often, and its collector leave alone what was there before the messages."""
    seconds = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(seconds)


class Hold:
    """Waits for stores that fail under way: all waits of one drain end `seconds` after the first failure.

    For StoreUnavailable only, which passes. Steps may be done twice, so each is simply done again.
    """

    def __init__(self, seconds: float, log: logging.Logger, sleep: Callable[[float], None]) -> None:
        self._seconds = seconds
        self._log = log
        self._sleep = sleep
        self._until: float | None = None

    @property
    def began(self) -> bool:
        """Whether a store has failed."""
        return self._until is not None

    def __call__(self, step: Callable[[], T]) -> T:
        """What the step gives. Raises its StoreUnavailable once it has been waited for long enough."""
        tries = Retrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=self._is_over,
            wait=wait_exponential_jitter(initial=1, max=10),
            before_sleep=lambda state: self._log.warning("A store fails, and is waited for: %s", _error(state)),
            sleep=self._sleep,
            reraise=True,
        )
        return tries(step)

    def _is_over(self, _: object) -> bool:
        if self._until is None:
            self._until = time.monotonic() + self._seconds
        return time.monotonic() >= self._until


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


class _Stages:
    """The batches under way. What goes wrong with one is raised where it is taken; what runs ends first."""

    def __init__(
        self,
        write: Callable[[Batch, datetime], Record],
        record: Callable[[Batch, datetime, Record], set[Hour]],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self._write = write
        self._record = record
        self._meanwhile = meanwhile
        self._writer = ThreadPoolExecutor(1, "write")
        self._recorder = ThreadPoolExecutor(1, "record")
        self._written: Future[Record] | None = None  # the last of each, of whichever batch
        self._recorded: Future[set[Hour]] | None = None
        self.under_way: deque[tuple[Batch, Future[set[Hour]]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown(cancel_futures=True)
        self._recorder.shutdown()  # whatever was written is recorded: its queue may be gone, and with it the next try

    @property
    def messages(self) -> int:
        """How many are under way."""
        return sum(len(batch) for batch, _ in self.under_way)

    @property
    def full(self) -> bool:
        """Whether the oldest batch has to be taken before another one is put; it may be before."""
        return len(self.under_way) == MAX_UNDER_WAY or self.under_way[0][1].done()

    def put(self, batch: Batch, now: datetime) -> None:
        """Has it written, and then recorded."""
        written = self._writer.submit(_after, self._written, lambda: self._write(batch, now))
        recorded = self._recorder.submit(_after, self._recorded, lambda: self._record(batch, now, written.result()))
        self._written, self._recorded = written, recorded
        self.under_way.append((batch, recorded))

    def take(self) -> tuple[Batch, set[Hour]]:
        """The oldest, once it has been recorded; `meanwhile` is called every few seconds."""
        batch, recorded = self.under_way.popleft()
        while not wait([recorded], KEEP_ALIVE_SECONDS).done:
            self._meanwhile()
        return batch, recorded.result()


def _after(before: Future[Any] | None, step: Callable[[], T]) -> T:
    """A step, unless the same one of the batch before failed: a store that hangs is waited for once, not ever again."""
    if before:
        before.result()
    return step()


def _groups(suspects: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Those that came least often first; every other time from the last to the first."""
    for came in sorted({message.deliveries for message in suspects}):
        some = [message for message in suspects if message.deliveries == came][:: 1 if came % 2 else -1]
        least, groups = SUSPECTS.get(came, LATER_SUSPECTS)
        together = max(least, math.ceil(len(some) / groups))
        for first in range(0, len(some), together):
            yield from _parts(some[first : first + together])


def _parts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The messages in as few parts as hold twice BATCH_BYTES each, or a single message: what is packed is large once it
    is read, and a hundred messages come at once. Twice, because a usual batch is a little beyond its bound, and that
    little would be a batch of its own."""
    part: list[Message] = []
    size = 0
    for message in messages:
        room = size_of(message.body)
        if part and size + room > 2 * BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(message)
        size += room
    if part:
        yield part


def _is_unregistered(decoded: Decoded) -> bool:
    return any(rejection.reason in UNREGISTERED for rejection in decoded.rejections)


def _receive(consumer: Consumer, limit: int, idle_seconds: float) -> list[Message]:
    """A batch: what is there, bounded in messages and bytes; an empty list once nothing came for `idle_seconds`."""
    limit = min(limit, BATCH_MESSAGES)
    batch: list[Message] = []
    size = 0
    while len(batch) < limit and size < BATCH_BYTES:
        asked = min(limit - len(batch), RECEIVE_MESSAGES)
        received = consumer.receive(asked, 0 if batch else idle_seconds)
        batch += received
        size += sum(size_of(message.body) for message in received)
        if len(received) < asked:
            break
    return batch
