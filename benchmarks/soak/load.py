"""The load: publishers that send a simulated fleet's messages faster than one drain drains them."""

import itertools
import multiprocessing
import signal
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.soak.accounts import QUEUE, Book
from ninjait_pipelines.local.fleet import simulate
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.message_queue import QueueFull
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.settings import validate

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
# Seconds of a burst, and of the lull after it; how many times the rate of one drain each sends: always more than it.
PHASE, BURST, LULL = 30.0, 1.6, 1.1
TICK = 0.05
FILL_SAMPLES = 300_000
BROKEN, TWICE = 0.05, 0.05  # shares of the messages
CHUNK = 250
# One in so many oversized bodies is sent, a megabyte each: all of them would be most of the traffic.
OVERSIZED = 20
context = multiprocessing.get_context("forkserver")


class Stream(NamedTuple):
    """What one publisher sends: its share of the samples, and how it groups and times them."""

    name: str
    share: float
    samples_per_message: int
    interval: int
    windows: tuple[simulate.Window, ...]


def streams(now: datetime) -> tuple[Stream, ...]:
    """Most samples come in batches, most messages are single samples. About one message in a hundred is late: half of
    these by 5 days, half by 12, so that they go to a lower tier."""
    now = now.replace(second=0, microsecond=0)
    recent = (simulate.Window(now - 24 * HOUR, now),)
    late = tuple(simulate.Window(now - days * DAY, now - (days - 1) * DAY) for days in (5, 12))
    return (
        Stream("batches", 0.96, 200, 4, recent),
        Stream("singles", 0.03, 1, 5, recent),
        Stream("late", 0.01, 20, 10, late),
    )


class Shared(NamedTuple):
    """What the publishers and the main process share."""

    rate: Any  # samples per second of one drain; 0 until it is known
    began: Any  # time.monotonic() of the beginning; the same clock in all processes
    samples: Any  # confirmed, by stream
    unconfirmed: Any
    filled: Any  # semaphore: the first fill is in the queue
    go: Any
    stop: Any


class Publisher:
    """Publishes a stream, again and again where the broker does not confirm it, and keeps account of it in files."""

    def __init__(
        self,
        stores: Stores,
        number: int,
        stream: Stream,
        folder: Path,
        random_seed: int,
        shared: Shared,
        broken: float = BROKEN,
        duplicates: float = TWICE,
    ) -> None:
        self.stores, self.number, self.stream, self.folder, self.shared = stores, number, stream, folder, shared
        options = simulate.Options(
            seed=random_seed,
            interval=stream.interval,
            samples_per_message=stream.samples_per_message,
            broken=broken,
            duplicates=duplicates,
            resent=0.01,
            away=0,
        )
        fleet = own_devices(simulate.read_fleet(stores.postgres, before=stream.windows[-1].start), number)
        sources = [simulate.simulate(fleet, window, options) for window in stream.windows]
        self.messages = (
            published
            for turn in zip(*sources, strict=False)
            for published in turn
            if published.message.queue == QUEUE and wanted(published)
        )
        self.book = Book(datetime.now(UTC), number << 40)
        self.files = itertools.count()

    def run(self) -> None:
        """The first fill, then bursts and lulls until `stop` is set."""
        self.send(int(FILL_SAMPLES * self.stream.share / self.stream.samples_per_message))
        self.shared.filled.release()
        self.shared.go.wait()
        owed, last = 0.0, time.monotonic()
        while not self.shared.stop.is_set():
            time.sleep(TICK)
            now = time.monotonic()
            per_second = self.per_second(now - self.shared.began.value)
            # What could not be sent while the broker was away or full is sent later, as far as an agent keeps it.
            owed = min(owed + (now - last) * per_second, 10 * per_second)
            last = now
            self.send(int(owed))
            owed -= int(owed)
        self.close()

    def close(self) -> None:
        """Writes what must be in the stores to files."""
        self.write()
        self.book.write_points(self.folder / f"points-{self.number}.parquet")

    def per_second(self, seconds: float) -> float:
        """Messages per second at this moment."""
        part = BURST if int(seconds // PHASE) % 2 == 0 else LULL
        return float(self.shared.rate.value) * part * self.stream.share / self.stream.samples_per_message

    def send(self, count: int) -> None:
        """Publishes the next messages, however often that takes."""
        while count > 0 and not self.shared.stop.is_set():
            chunk = list(itertools.islice(self.messages, min(count, CHUNK)))
            if not chunk:
                raise SystemExit(f"the window of {self.stream.name} is used up: make it longer")
            count -= len(chunk)
            tries = self.send_chunk([published.message for published in chunk])
            for published in chunk:
                self.book.add(published, tries)
            with self.shared.samples.get_lock():
                self.shared.samples[self.number] += sum(one.points + one.resent_points for one in chunk)
            if len(self.book.rows) >= 50_000:
                self.write()

    def send_chunk(self, messages: Sequence[Outgoing]) -> int:
        """Returns the number of failed attempts, each of which may have published some of it."""
        for tries in itertools.count():
            try:
                self.stores.message_queue.publish(messages)
                return tries
            except (QueueFull, StoreUnavailable):
                with self.shared.unconfirmed.get_lock():
                    self.shared.unconfirmed[self.number] += 1
                time.sleep(0.5)
        raise AssertionError

    def write(self) -> None:
        """Writes what was published so far to a file, so that memory does not grow."""
        self.book.write_sent(self.folder / f"sent-{self.number}-{next(self.files)}.parquet")


def publish(
    settings: dict[str, str], number: int, stream: Stream, folder: Path, random_seed: int, shared: Shared
) -> None:
    """The process of one publisher."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open_stores(validate(settings)) as stores:
        Publisher(stores, number, stream, folder, random_seed, shared).run()


def own_devices(fleet: Sequence[simulate.Organization], number: int) -> list[simulate.Organization]:
    """A part of each organization's devices, so that no two publishers make the same point: most send batches."""
    parts = [slice(0, -100), slice(-100, -50), slice(-50, None)]
    return [msgspec.structs.replace(one, devices=one.devices[parts[number]]) for one in fleet]


def wanted(published: simulate.Published) -> bool:
    """All but most oversized messages and their duplicates."""
    message = published.message
    return len(message.body) <= simulate.MAX_BYTES or uuid.UUID(message.message_id).int % OVERSIZED == 0
