"""Ingest under load: `make soak`. Publishers outrun the drains, servers and drains are killed; nothing may be lost.

On a stack of its own (RabbitMQ and InfluxDB from `make servers`), bounded in time:
1. A first fill of the queue, drained by one drain alone, says how many samples a second that is: the rate.
2. For `--minutes`, publishers send more than the rate, and much more in bursts: single samples, batches of 200, and
   some that are days late; a twentieth broken, a twentieth twice. Two drains are started again and again, as the sensor
   starts them. Every server is restarted and drains are killed meanwhile, at moments that follow from `--seed`.
3. The publishers stop, the drains empty the queue, and the accounts are compared: what was published, the ledger, the
   points in the store, the quarantine. Anything that does not balance is printed, and the exit code is 1.
4. One drain against two on the same amount, in turn (`--scaling`: nothing but that).

    python -m benchmarks.soak --minutes 2 --chart soak.svg
"""

import argparse
import contextlib
import functools
import itertools
import json
import logging
import math
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import urllib3
from rich.console import Console
from rich.table import Table

from benchmarks.worker import make_drain
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION
from ninjait_pipelines.ingest.quarantine.hold import move_spooled
from ninjait_pipelines.ingest.sinks import Record
from ninjait_pipelines.local.fleet import simulate
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.stack.local import LocalStack, find, stop
from ninjait_pipelines.local.stack.servers import SERVERS, built
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.metrics.model import FIELDS, Tier
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.message_queue import QueueFull
from ninjait_pipelines.resources.store import StoreError, StoreUnavailable
from ninjait_pipelines.settings import Settings, validate

QUEUE = "agent.metrics"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DRAINS = 2
# In seconds. A burst and the lull behind it, and how much of what one drain does alone each has: always more than it.
PHASE, BURST, LULL = 30.0, 1.6, 1.1
TICK, WATCHED_EVERY, BIN = 0.05, 2.0, 5
AFTER_FAILURE = 5.0  # the sensor waits a minute; here the next drain meets the same outage
MAX_EMPTYING = 240.0
FILL_SAMPLES = 300_000
BROKEN, TWICE = 0.05, 0.05  # shares of the messages
CHUNK = 250
# Of the oversized bodies, a megabyte each, one in so many: they would be most of the traffic else.
OVERSIZED = 20
MAX_QUEUED_A_MINUTE = 15_000
FAILED, CRASHED = 1, 70
SERVERS_OF_INGEST = ("rabbitmq", "influxdb", "clickhouse", "postgres", "mongodb", "dragonfly")
LETTERS = {engine: engine[0].upper() for engine in SERVERS_OF_INGEST}
SENT = pa.schema(
    dict.fromkeys(("message_id", "outcome"), pa.string())
    | dict.fromkeys(("row", "confirmed", "unconfirmed", "points", "bad_points"), pa.uint64())
)
POINTS = pa.schema(
    dict.fromkeys(("tier", "organization_id", "device_id"), pa.string())
    | {"hour": pa.timestamp("s", "UTC"), "points": pa.int64(), "total": pa.float64()}
)
# The ledger against the publishers, message by message.
UNBALANCED = """
SELECT multiIf(
    confirmed = 0, 'in the ledger, and never published',
    copies = 0, 'published, and not in the ledger',
    copies < confirmed, 'with copies missing from the ledger',
    copies > confirmed + unconfirmed, 'with more copies in the ledger than were published',
    counted != 1, 'counted other than once',
    became = 'dead_lettered', '',
    became != meant, concat(became, ' instead of ', meant),
    written != points, 'with another number of points written',
    meant = 'partly_quarantined' AND refused != bad, 'with another number of points quarantined',
    '') AS problem, count() AS messages, toString(any(if(confirmed > 0, sent.message_id, had.message_id))) AS example
FROM (
    SELECT message_id, anyIf(outcome, outcome != 'duplicate') AS meant, sum(soak_sent.confirmed) AS confirmed,
        sum(soak_sent.unconfirmed) AS unconfirmed, max(soak_sent.points) AS points, max(bad_points) AS bad
    FROM soak_sent FINAL GROUP BY message_id
) AS sent
FULL OUTER JOIN (
    SELECT message_id, count() AS copies, countIf(outcome != 'duplicate') AS counted,
        anyIf(outcome, outcome != 'duplicate') AS became, anyIf(points_written, outcome != 'duplicate') AS written,
        anyIf(points_quarantined, outcome != 'duplicate') AS refused
    FROM message_ledger WHERE queue = {queue:String} GROUP BY message_id
) AS had ON had.message_id = sent.message_id
GROUP BY problem HAVING problem != ''
"""
OVER_TIME = """
SELECT toUnixTimestamp(toStartOfInterval(recorded_at, toIntervalSecond({bin:UInt32}))) AS at, count() AS messages,
    sum(points) AS samples, quantiles(0.5, 0.99)(dateDiff('millisecond', published_at, recorded_at) / 1000) AS lag
FROM message_deliveries FINAL WHERE queue = {queue:String} GROUP BY at ORDER BY at
"""
_context = multiprocessing.get_context("forkserver")
_runs = itertools.count(1)
console = Console()


class Stream(NamedTuple):
    """What one publisher sends: its share of the samples, and how it groups and times them."""

    name: str
    share: float
    samples_a_message: int
    interval: int
    windows: tuple[simulate.Window, ...]


def streams(now: datetime) -> tuple[Stream, ...]:
    """Most samples come in batches, most messages are single samples; of the messages, about one in a hundred is late:
    half of these by days, half by so many that they go to a lower tier."""
    now = now.replace(second=0, microsecond=0)
    recent = (simulate.Window(now - 24 * HOUR, now),)
    late = tuple(simulate.Window(now - days * DAY, now - (days - 1) * DAY) for days in (5, 12))
    return (
        Stream("batches", 0.96, 200, 4, recent),
        Stream("singles", 0.03, 1, 5, recent),
        Stream("late", 0.01, 20, 10, late),
    )


# --- the publishers ---


class Shared(NamedTuple):
    """What the publishers and the main process tell each other."""

    rate: Any  # samples a second of one drain; 0 until it is known
    began: Any  # time.monotonic() of the beginning; the same clock in all processes
    samples: Any  # confirmed, by stream
    unconfirmed: Any
    filled: Any  # semaphore: the first fill is in the queue
    go: Any
    stop: Any


class Publisher:
    """Publishes a stream, again and again where the broker does not confirm it, and keeps account of it in files."""

    def __init__(self, stores: Stores, number: int, stream: Stream, folder: Path, random_seed: int, shared: Shared):
        simulate.SAMPLES_PER_MESSAGE = stream.samples_a_message
        self.stores, self.number, self.stream, self.folder, self.shared = stores, number, stream, folder, shared
        options = simulate.Options(
            seed=random_seed, interval=stream.interval, broken=BROKEN, duplicates=TWICE, resent=0.01, away=0
        )
        fleet = own_devices(simulate.read_fleet(stores.postgres, before=stream.windows[-1].start), number)
        sources = [simulate.simulate(fleet, window, options) for window in stream.windows]
        self.messages = (
            published
            for turn in zip(*sources, strict=False)
            for published in turn
            if published.message.queue == QUEUE and wanted(published)
        )
        self.now = datetime.now(UTC)
        self.rows: list[tuple[Any, ...]] = []
        self.row = itertools.count(number << 40)
        # (tier, organization, device, hour) -> points, and the sum of all their fields
        self.points: dict[tuple[str, str, str, int], list[float]] = defaultdict(lambda: [0, 0.0])

    def run(self) -> None:
        """The first fill, then bursts and lulls until it is told to stop."""
        self.send(int(FILL_SAMPLES * self.stream.share / self.stream.samples_a_message))
        self.shared.filled.release()
        self.shared.go.wait()
        owed, last = 0.0, time.monotonic()
        while not self.shared.stop.is_set():
            time.sleep(TICK)
            now = time.monotonic()
            a_second = self.a_second(now - self.shared.began.value)
            # What it could not send while the broker was away or full it sends later, as far as an agent keeps it.
            owed = min(owed + (now - last) * a_second, 10 * a_second)
            last = now
            self.send(int(owed))
            owed -= int(owed)
        self.close()

    def close(self) -> None:
        """What has to be in the stores, to files."""
        self.write()
        keys = [(*key[:3], datetime.fromtimestamp(key[3], UTC), *value) for key, value in self.points.items()]
        pq.write_table(table_of(keys, POINTS), self.folder / f"points-{self.number}.parquet")

    def a_second(self, seconds: float) -> float:
        """Messages a second at this moment."""
        part = BURST if int(seconds // PHASE) % 2 == 0 else LULL
        return float(self.shared.rate.value) * part * self.stream.share / self.stream.samples_a_message

    def send(self, count: int) -> None:
        """Publishes the next messages, however often that takes."""
        while count > 0 and not self.shared.stop.is_set():
            chunk = list(itertools.islice(self.messages, min(count, CHUNK)))
            if not chunk:
                raise SystemExit(f"the window of {self.stream.name} is used up: make it longer")
            count -= len(chunk)
            tries = self.send_chunk([published.message for published in chunk])
            for published in chunk:
                self.record(published, tries)
            with self.shared.samples.get_lock():
                self.shared.samples[self.number] += sum(one.points + one.resent_points for one in chunk)
            if len(self.rows) >= 50_000:
                self.write()

    def send_chunk(self, messages: Sequence[Outgoing]) -> int:
        """Returns how often it was tried in vain; each time some of it may have been taken."""
        for tries in itertools.count():
            try:
                self.stores.message_queue.publish(messages)
                return tries
            except (QueueFull, StoreUnavailable):
                with self.shared.unconfirmed.get_lock():
                    self.shared.unconfirmed[self.number] += 1
                time.sleep(0.5)
        raise AssertionError

    def record(self, published: simulate.Published, tries: int) -> None:
        """One confirmed copy, and those of which nobody knows."""
        points = published.points + published.resent_points
        row = (published.message.message_id, published.outcome, next(self.row), 1, tries, points, published.bad_points)
        self.rows.append(row)
        if published.points:
            self.count_points(published)

    def count_points(self, published: simulate.Published) -> None:
        """The good samples, as the sender knows them: the product's decoder is not asked."""
        body = published.message.body
        if published.kind in ("nan", "infinite"):
            body = body.replace(b":NaN", b":null").replace(b":1e999", b":null")
        envelope = as_dict(body)
        good = envelope["samples"]
        if published.kind in simulate.BAD_SAMPLES:
            changed, bad = simulate.BAD_SAMPLES[published.kind]
            bad = None if isinstance(bad, msgspec.Raw) else bad
            good = [one for one in good if type(one[changed]) is not type(bad) or one[changed] != bad]
        assert len(good) == published.points, published.kind
        for sample in good:
            at = sample["timestamp"]
            second = at / 1000 if isinstance(at, int) else datetime.fromisoformat(at).timestamp()
            tier = Tier.RAW if self.now.timestamp() - second < 7 * 86_400 else Tier.FIVE_MINUTES
            key = (str(tier), envelope["organization_id"], envelope["device_id"], int(second // 3600) * 3600)
            counted = self.points[key]
            counted[0] += 1
            counted[1] += sum(sample.get(name, 0) for name in FIELDS)

    def write(self) -> None:
        """What was published so far to a file, so that memory stays what it is."""
        path = self.folder / f"sent-{self.number}-{next(self.row)}.parquet"
        pq.write_table(table_of(self.rows, SENT), path)
        self.rows = []


as_dict = msgspec.json.Decoder(dict[str, Any]).decode


def publish(
    settings: dict[str, str], number: int, stream: Stream, folder: Path, random_seed: int, shared: Shared
) -> None:
    """The process of one publisher."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open_stores(Settings(settings)) as stores:
        Publisher(stores, number, stream, folder, random_seed, shared).run()


def own_devices(fleet: Sequence[simulate.Organization], number: int) -> list[simulate.Organization]:
    """A part of each organization's devices, so that no two publishers make the same point: most send batches."""
    parts = [slice(0, -100), slice(-100, -50), slice(-50, None)]
    return [msgspec.structs.replace(one, devices=one.devices[parts[number]]) for one in fleet]


def wanted(published: simulate.Published) -> bool:
    """All but most of the oversized, and their duplicates with them."""
    message = published.message
    return len(message.body) <= simulate.MAX_BYTES or uuid.UUID(message.message_id).int % OVERSIZED == 0


def table_of(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Rows as a table."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [[] for _ in schema]
    return pa.table([pa.array(column, one.type) for column, one in zip(columns, schema, strict=True)], schema=schema)


# --- the drains ---


class Nowhere:
    """A sink that takes everything and keeps nothing: what is left is the broker, the decoder and the ledger."""

    queue = QUEUE

    def prepare(self) -> None:
        """There is nothing to prepare."""

    def write(self, *_: Any) -> Record:
        return set


def drain_once(settings: dict[str, str], run_id: str, log: Path) -> None:
    """The process of one drain, with the bounds of a drain in production."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(filename=log, level=logging.WARNING, format=f"%(asctime)s {run_id} %(message)s")
    try:
        with open_stores(Settings(settings)) as stores:
            make_drain(stores, run_id).run()
    except StoreError as error:
        logging.error("failed: %s", error)
        os._exit(FAILED)
    except BaseException:
        logging.exception("crashed")
        os._exit(CRASHED)


@dataclass
class Drains:
    """The drains that run, started again as they end; the main thread's alone."""

    settings: dict[str, str]
    log: Path
    running: list[ForkServerProcess | None] = field(default_factory=lambda: [None] * DRAINS)
    not_before: list[float] = field(default_factory=lambda: [0.0] * DRAINS)
    ended: Counter[str] = field(default_factory=Counter)
    killed: set[int] = field(default_factory=set)

    def tend(self, limit: int = DRAINS) -> None:
        """Notes those that have ended, and starts others in their place, `most` in all."""
        for slot, process in enumerate(self.running):
            if process is not None and not process.is_alive():
                self._note(slot, process)
                self.running[slot] = process = None
            if process is None and slot < limit and time.monotonic() >= self.not_before[slot]:
                arguments = (self.settings, f"soak-{next(_runs)}", self.log)
                process = self.running[slot] = _context.Process(target=drain_once, args=arguments)
                process.start()

    def _note(self, slot: int, process: ForkServerProcess) -> None:
        known = {0: "ended", FAILED: "failed", -signal.SIGKILL: "killed"}
        how = known.get(process.exitcode or 0, "crashed")
        if how == "killed" and process.pid not in self.killed:
            how = "crashed"
        self.ended[how] += 1
        if how in ("failed", "crashed"):
            self.not_before[slot] = time.monotonic() + AFTER_FAILURE

    def kill(self, slot: int) -> bool:
        process = self.running[slot]
        if process is None or not process.is_alive() or process.pid is None:
            return False
        self.killed.add(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        return True

    def idle(self) -> bool:
        return not any(process is not None and process.is_alive() for process in self.running)

    def finish(self, seconds: float = 90) -> None:
        """Lets those that run come to their end."""
        deadline = time.monotonic() + seconds
        while not self.idle() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.tend(0)


# --- what goes wrong meanwhile ---


class Event(NamedTuple):
    """At this second of the soak: a drain is killed, or a server is killed or stopped, and started after a while."""

    at: float
    what: str  # the name of an engine, or "drain"
    kill: bool = True
    away: float = 0.0


def schedule(seconds: float, chance: random.Random) -> list[Event]:
    """Every server at least once, one after the other, and a drain for each half minute; none near the end."""
    first, last = 0.06 * seconds, 0.92 * seconds

    def moments(count: int) -> Iterator[float]:
        width = (last - first) / count
        return (first + width * (number + 0.6 * chance.random()) for number in range(count))

    engines = [*LETTERS] * max(1, round(seconds / 600))
    chance.shuffle(engines)
    servers = [
        Event(at, engine, chance.random() < 0.5, chance.uniform(1, 5))
        for at, engine in zip(moments(len(engines)), engines, strict=True)
    ]
    return sorted(servers + [Event(at, "drain") for at in moments(max(4, round(seconds / 30)))])


class Mark(NamedTuple):
    """Something that happened, for the chart."""

    at: float
    what: str
    until: float


def restart(stack: LocalStack, event: Event) -> None:
    """Ends a server, by kill -9 or its own way, and starts it again; it keeps its place."""
    engine = next(one for one in stack.engines() if one.name == event.what)
    process = find(engine)
    if process is None:
        raise SystemExit(f"{event.what} does not run: it died by itself")
    before = stack.settings()
    if event.kill:
        process.kill()
        process.wait(30)
    else:
        stop(process, engine.stop_signal)
    time.sleep(event.away)
    stack.up()
    if stack.settings() != before:
        raise SystemExit(f"somebody took the port of {event.what} while it was away: run it again")


# --- watching ---


class Seen(NamedTuple):
    """A look at everything: seconds of the soak, messages queued, MiB by process, published so far."""

    at: float
    queued: int | None
    memory: dict[str, float]
    published: int


class Watch(threading.Thread):
    """Looks every two seconds, until it is told to stop. A broker that is away has no depth."""

    def __init__(self, stack: LocalStack, stores: Stores, drains: Drains, shared: Shared) -> None:
        super().__init__(name="watch", daemon=True)
        self.stack, self.stores, self.drains, self.shared = stack, stores, drains, shared
        self.seen: list[Seen] = []
        self.ended = threading.Event()
        self.found: dict[str, psutil.Process | None] = {}

    def run(self) -> None:
        while not self.ended.wait(WATCHED_EVERY):
            at = time.monotonic() - self.shared.began.value
            memory = {f"drain {slot + 1}": resident(one) for slot, one in enumerate(list(self.drains.running))}
            for engine in self.stack.engines():
                process = self.found.get(engine.name)
                if process is None or not process.is_running():
                    process = self.found[engine.name] = find(engine)
                memory[engine.name] = resident(process, *children(process))
            published = sum(self.shared.samples)
            try:
                queued = self.stores.message_queue.depth(QUEUE).ready
            except StoreError:
                queued = None
            self.seen.append(Seen(at, queued, {name: size for name, size in memory.items() if size}, published))


def children(process: psutil.Process | None) -> list[psutil.Process]:
    try:
        return process.children(recursive=True) if process else []
    except psutil.Error:
        return []


def resident(*processes: Any) -> float:
    """MiB of memory that are theirs, shared pages by their share."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process is not None and process.pid is not None:
                total += psutil.Process(process.pid).memory_full_info().pss / 2**20
    return total


# --- the soak ---


@dataclass
class Soak:
    """What was seen of one soak."""

    seconds: float
    rate: float
    emptied_after: float | None
    ended: Counter[str]
    marks: list[Mark]
    seen: list[Seen]
    unconfirmed: int
    began_at: float  # seconds since 1970


def soak(stack: LocalStack, stores: Stores, folder: Path, minutes: float, random_seed: int, max_queued: int) -> Soak:
    """Fills, soaks and empties; what was published is in files in the folder."""
    settings, seconds = stack.settings() or {}, minutes * 60
    limit_queue(settings, max_queued)
    chance = random.Random(random_seed)  # noqa: S311
    planned = streams(datetime.now(UTC))
    shared = Shared(
        rate=_context.Value("d", 0.0),
        began=_context.Value("d", 0.0),
        samples=_context.Array("Q", len(planned)),
        unconfirmed=_context.Array("Q", len(planned)),
        filled=_context.Semaphore(0),
        go=_context.Event(),
        stop=_context.Event(),
    )
    publishers = [
        _context.Process(target=publish, args=(settings, number, stream, folder, random_seed, shared), daemon=True)
        for number, stream in enumerate(planned)
    ]
    for publisher in publishers:
        publisher.start()
    for _ in publishers:
        if not shared.filled.acquire(timeout=120):
            raise SystemExit("the publishers did not fill the queue")
    drains = Drains(settings, folder / "drains.log")
    shared.rate.value = first_rate(stores, drains)
    console.print(
        f"one drain alone: {shared.rate.value:,.0f} samples/s; now {minutes:g} minutes, bursts of {BURST:g} times that"
    )
    watch = Watch(stack, stores, drains, shared)
    began_at = time.time()
    shared.began.value = began = time.monotonic()
    shared.go.set()
    watch.start()
    marks = disturb(stack, drains, schedule(seconds, chance), began, seconds, chance)
    shared.stop.set()
    while any(publisher.is_alive() for publisher in publishers):  # until the broker has confirmed their last batch
        drains.tend()
        time.sleep(0.05)
    if codes := [publisher.exitcode for publisher in publishers if publisher.exitcode != 0]:
        raise SystemExit(f"a publisher ended with {codes[0]}: nobody knows what it sent")
    emptied = empty(stores, drains)
    emptied_after = time.monotonic() - began - seconds if emptied else None
    watch.ended.set()
    watch.join()
    return Soak(
        seconds, shared.rate.value, emptied_after, drains.ended, marks, watch.seen, sum(shared.unconfirmed), began_at
    )


def limit_queue(settings: dict[str, str], limit: int) -> None:
    """Lowers what the queue holds by a policy: then it is full within the soak, and refuses its publishers."""
    url = urllib3.util.parse_url(settings["RABBITMQ_MANAGEMENT_URL"])
    definition = {"pattern": f"^{QUEUE}$", "definition": {"max-length": limit}, "apply-to": "queues"}
    answer = urllib3.request(
        "PUT",
        url._replace(auth=None, path="/api/policies/%2F/soak").url,
        json=definition,
        headers=urllib3.make_headers(basic_auth=url.auth),
    )
    if answer.status >= 300:
        raise SystemExit(f"RabbitMQ does not take the policy: {answer.status}")


def first_rate(stores: Stores, drains: Drains) -> float:
    """Empties the first fill with one drain; samples a second, from its first row of the ledger to its last."""
    while stores.message_queue.depth(QUEUE).ready or not drains.idle():
        drains.tend(1)
        time.sleep(0.1)
    drains.finish()
    row = stores.clickhouse.rows(
        "SELECT sum(points) AS samples, min(recorded_at) AS first, max(recorded_at) AS last FROM message_deliveries"
    )[0]
    return float(row["samples"] / (row["last"] - row["first"]).total_seconds())


def disturb(
    stack: LocalStack, drains: Drains, events: Sequence[Event], began: float, seconds: float, chance: random.Random
) -> list[Mark]:
    """Keeps the drains running for so long, and lets happen what is planned; a restart takes its own time."""
    marks: list[Mark] = []
    left = {kind: deque(event for event in events if (event.what == "drain") is kind) for kind in (True, False)}
    failure: list[BaseException] = []

    def servers() -> None:
        try:
            for event in left[False]:
                time.sleep(max(0.0, event.at - (time.monotonic() - began)))
                at = time.monotonic() - began
                restart(stack, event)
                until = time.monotonic() - began
                marks.append(Mark(at, event.what, until))
                how = "killed" if event.kill else "stopped"
                console.print(f"{at:5.0f} s  {event.what} {how}, there again after {until - at:.1f} s")
        except BaseException as error:  # noqa: BLE001 -- raised below
            failure.append(error)

    thread = threading.Thread(target=servers, name="restarts", daemon=True)
    thread.start()
    while (now := time.monotonic() - began) < seconds or thread.is_alive():
        drains.tend()
        if left[True] and now >= left[True][0].at and drains.kill(chance.randrange(DRAINS)):
            left[True].popleft()
            marks.append(Mark(now, "drain", now))
        if failure:
            raise failure[0]
        time.sleep(0.05)
    return sorted(marks)


def empty(stores: Stores, drains: Drains) -> bool:
    """Drains until nothing is queued, held by a drain or dead; False if that takes too long."""
    deadline = time.monotonic() + MAX_EMPTYING
    while time.monotonic() < deadline:
        depth = stores.message_queue.depth(QUEUE)
        if depth.outstanding or depth.dead:
            drains.tend()
        elif drains.idle():
            drains.tend(0)
            return True
        time.sleep(0.2)
    drains.finish()
    return False


# --- the accounts ---


@dataclass
class Accounts:
    """What was published against what is there; `problems` is empty where it balances."""

    published: dict[str, int]  # confirmed copies
    unconfirmed: int  # copies beside them that the broker may have taken
    ledger: dict[str, int]
    problems: list[str]


def account(stores: Stores, folder: Path) -> Accounts:
    """Compares the publishers' files with every store. May be repeated."""
    move_spooled(stores.mongodb, datetime.now(UTC))
    load_sent(stores, folder)
    problems = [
        f"{row['messages']} messages {row['problem']}, such as {row['example']}"
        for row in stores.clickhouse.rows(UNBALANCED, queue=QUEUE)
    ]
    depth = stores.message_queue.depth(QUEUE)
    if depth.outstanding or depth.dead:
        problems.append(f"{depth.outstanding} messages are still queued, and {depth.dead} dead letters")
    expected = pa.concat_tables(pq.read_table(file) for file in folder.glob("points-*.parquet"))
    problems += [*wrong_points(stores, expected), *wrong_hours(stores, expected), *wrong_quarantine(stores)]
    ledger = stores.clickhouse.rows(
        "SELECT outcome, count() AS n FROM message_ledger WHERE queue = {queue:String} GROUP BY outcome", queue=QUEUE
    )
    sent = stores.clickhouse.rows(
        "SELECT outcome, sum(confirmed) AS n, sum(unconfirmed) AS u FROM soak_sent FINAL GROUP BY outcome"
    )
    published = {row["outcome"]: row["n"] for row in sent}
    became = {row["outcome"]: row["n"] for row in ledger}
    return Accounts(published, sum(row["u"] for row in sent), became, problems)


def load_sent(stores: Stores, folder: Path) -> None:
    """The publishers' rows into ClickHouse, where they are joined with the ledger; loaded again, they replace
    themselves."""
    stores.clickhouse.command(
        "CREATE TABLE IF NOT EXISTS soak_sent (message_id UUID, outcome String, row UInt64, confirmed UInt32, "
        "unconfirmed UInt32, points UInt32, bad_points UInt32) ENGINE = ReplacingMergeTree ORDER BY (message_id, row)"
    )
    for file in sorted(folder.glob("sent-*.parquet")):
        stores.clickhouse.insert("soak_sent", pq.read_table(file))


def wrong_points(stores: Stores, expected: pa.Table) -> Iterator[str]:
    """Every good sample once, and no other: points by device and hour, and the sum of all their fields.

    The points of a dead letter may be in the store or not: its drains died somewhere between.
    """
    dead = stores.clickhouse.scalar(
        "SELECT sum(points) FROM (SELECT message_id, max(points) AS points FROM soak_sent FINAL GROUP BY message_id) "
        "WHERE message_id IN (SELECT message_id FROM message_ledger WHERE outcome = 'dead_lettered')"
    )
    missing = 0
    for tier in (Tier.RAW, Tier.FIVE_MINUTES):
        rows = [row for row in expected.to_pylist() if row["tier"] == tier]
        want = {(row["organization_id"], row["device_id"], row["hour"]): (row["points"], row["total"]) for row in rows}
        hours = [row["hour"] for row in rows]
        have = {key: value for hour in set(hours) for key, value in stored(stores, tier, hour).items()}
        for key in sorted(want.keys() | have.keys()):
            (points, total), (there, sum_there) = want.get(key, (0, 0.0)), have.get(key, (0, 0.0))
            missing += max(points - there, 0)
            if there > points or (points > there and not dead):
                yield f"{tier}: {there} points instead of {points} of device {key[1]} in the hour {key[2]:%d %H:%M}"
            elif there == points and not math.isclose(total, sum_there, rel_tol=1e-11):
                yield f"{tier}: other values of device {key[1]} in the hour {key[2]:%d %H:%M}: {sum_there} for {total}"
    if missing > dead > 0:
        yield f"{missing} points are missing, of which {dead} may be in dead letters"


def stored(stores: Stores, tier: Tier, hour: datetime) -> dict[tuple[str, str, datetime], Any]:
    """(organization, device, hour) -> points, and the sum of all their fields."""
    windows = stores.metrics_store.aggregate(tier, hour, hour + HOUR, HOUR)
    total = functools.reduce(pc.add, (pc.fill_null(windows[f"{name}_sum"], 0.0) for name in FIELDS)).to_pylist()
    keys = zip(*(windows[name].to_pylist() for name in ("organization_id", "device_id", "time")), strict=True)
    samples = map(int, windows["samples"].to_pylist())
    return dict(zip(keys, zip(samples, total, strict=True), strict=True))


def wrong_hours(stores: Stores, expected: pa.Table) -> Iterator[str]:
    """The hours that ingest says it touched are those that have points."""
    rows = stores.clickhouse.rows("SELECT DISTINCT toString(organization_id) AS organization, hour FROM touched_hours")
    have = {(row["organization"], row["hour"]) for row in rows}
    want = {(row["organization_id"], row["hour"]) for row in expected.to_pylist()}
    if have != want:
        yield f"{len(want - have)} hours have points and were not touched, {len(have - want)} the other way round"


def wrong_quarantine(stores: Stores) -> Iterator[str]:
    """What the ledger calls bad is what is held, copy by copy."""
    bad = "outcome NOT IN ('written', 'not_understood')"
    rows = stores.clickhouse.rows(f"SELECT queue, delivery_id FROM message_deliveries FINAL WHERE {bad}")  # noqa: S608
    want = {f"{row['queue']}/{row['delivery_id']}" for row in rows}
    have = {document["_id"] for document in stores.mongodb.database[COLLECTION].find({}, {"_id": 1})}
    if want - have:
        yield f"{len(want - have)} copies are not in quarantine, such as {min(want - have)}"
    if have - want:
        yield f"{len(have - want)} copies are in quarantine without a row of the ledger, such as {min(have - want)}"


# --- the report ---


def report(stores: Stores, result: Soak, accounts: Accounts, chart: Path | None) -> dict[str, Any]:
    """Table, chart and the figures of the JSON."""
    parts = over_time(stores, result.began_at)
    lag = stores.clickhouse.rows(
        "SELECT quantiles(0.5, 0.99)(dateDiff('millisecond', published_at, recorded_at) / 1000) AS lag, "
        "count() AS messages, sum(points) AS samples FROM message_deliveries FINAL "
        "WHERE recorded_at >= {since:DateTime64(3, 'UTC')}",
        since=datetime.fromtimestamp(result.began_at, UTC),
    )[0]
    took = result.seconds + (result.emptied_after or MAX_EMPTYING)
    memory: dict[str, list[float]] = defaultdict(list)
    for seen in result.seen:
        for name, size in seen.memory.items():
            memory[name.partition(" ")[0]].append(size)
    figures: dict[str, Any] = {
        "minutes": result.seconds / 60,
        "samples_a_second_one_drain_alone": round(result.rate),
        "messages_a_second": round(lag["messages"] / took),
        "samples_a_second": round(lag["samples"] / took),
        "lag_seconds_p50": round(lag["lag"][0], 1),
        "lag_seconds_p99": round(lag["lag"][1], 1),
        "max_queued": max((seen.queued for seen in result.seen if seen.queued is not None), default=0),
        "emptied_after_seconds": result.emptied_after and round(result.emptied_after, 1),
        "publishes_refused_or_cut_off": result.unconfirmed,
        "memory_mib_median_and_most": {
            name: f"{statistics.median(sizes):.0f} / {max(sizes):.0f}" for name, sizes in memory.items()
        },
        "drains": dict(result.ended),
        "restarts": dict(Counter(mark.what for mark in result.marks)),
        "published": accounts.published,
        "copies_that_the_broker_may_have_taken_beside": accounts.unconfirmed,
        "ledger": accounts.ledger,
        "problems": accounts.problems,
    }
    if chart:
        draw(result, parts, chart)
    return figures


def over_time(stores: Stores, began_at: float) -> list[dict[str, Any]]:
    """The ledger in bins of time: seconds of the soak, messages, samples, lag."""
    rows = stores.clickhouse.rows(OVER_TIME, queue=QUEUE, bin=BIN)
    return [row | {"at": row["at"] - began_at + BIN / 2} for row in rows if row["at"] >= began_at]


def draw(result: Soak, parts: Sequence[dict[str, Any]], path: Path) -> None:
    """Three panels over the minutes of the soak. The same figures give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    settings: Any = {"svg.hashsalt": "soak", "svg.fonttype": "path", "font.size": 11, "axes.spines.top": False}
    with mpl.rc_context(settings):
        figure, (rate, queue, memory) = plt.subplots(3, 1, figsize=(10, 9), sharex=True, layout="constrained")
        minutes = [seen.at / 60 for seen in result.seen]
        published = [0.0] + [
            (later.published - earlier.published) / (later.at - earlier.at) / 1000
            for earlier, later in itertools.pairwise(result.seen)
        ]
        at = [row["at"] / 60 for row in parts]
        rate.step(minutes, published, color="#c8c8c8", linewidth=1.5, label="published")
        rate.plot(at, [row["samples"] / BIN / 1000 for row in parts], color="#1f6fb4", label="recorded by the drains")
        rate.set_ylabel("thousand samples/s")
        queued = [float("nan") if seen.queued is None else seen.queued / 1000 for seen in result.seen]
        queue.fill_between(minutes, queued, color="#f2c48d", label="queued")
        queue.set_ylabel("thousand messages queued")
        lag = queue.twinx()
        lag.plot(at, [row["lag"][1] for row in parts], color="#8e2f5c", label="lag, p99")
        lag.plot(at, [row["lag"][0] for row in parts], color="#8e2f5c", linestyle=":", label="lag, p50")
        lag.set_ylabel("seconds from publisher to ledger")
        lag.set_ylim(0, 1.2 * lag.get_ylim()[1])
        colours = {
            "drain 1": "#1f6fb4",
            "drain 2": "#7fb2dd",
            "rabbitmq": "#e07b00",
            "influxdb": "#8e2f5c",
            "clickhouse": "#c9a400",
        }
        for name, colour in colours.items():
            sizes = [seen.memory.get(name, float("nan")) for seen in result.seen]
            memory.plot(minutes, sizes, color=colour, label=name)
        memory.set_ylabel("MiB of memory")
        memory.set_xlabel(
            "minutes; servers restarted: "
            + ", ".join(f"{letter} {name}" for name, letter in LETTERS.items())
            + "; x: a drain was killed"
        )
        for axes in (rate, queue, memory):
            axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
            axes.margins(x=0.01)
            for mark in result.marks:
                if mark.what != "drain":
                    axes.axvspan(mark.at / 60, mark.until / 60, color="#d94c4c", alpha=0.25, linewidth=0)
        for mark in result.marks:
            letter, height, above = LETTERS.get(mark.what, "x"), 1.01, "bottom"
            if mark.what == "drain":
                height, above = -0.02, "top"
            rate.annotate(letter, (mark.at / 60, height), xycoords=("data", "axes fraction"), ha="center", va=above)
        handles = [axes.get_legend_handles_labels() for axes in (queue, lag)]
        rate.legend(loc="upper right", frameon=False, ncols=2)
        queue.legend(
            [*handles[0][0], *handles[1][0]], [*handles[0][1], *handles[1][1]], loc="upper left", frameon=False
        )
        memory.legend(loc="upper left", frameon=False, ncols=5)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def print_soak(figures: dict[str, Any]) -> None:
    """The figures, and whether all is accounted for."""
    table = Table(title="Soak", title_justify="left", show_header=False)
    for name, value in figures.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items())
        if name != "problems":
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int | float) else str(value))
    console.print(table)
    for problem in figures["problems"][:20]:
        console.print(f"[red]not balanced:[/] {problem}")
    if len(figures["problems"]) > 20:
        console.print(f"[red]and {len(figures['problems']) - 20} more[/]")
    if dead := figures["ledger"].get("dead_lettered"):
        console.print(
            f"[yellow]{dead} messages became dead letters[/], and wait in quarantine: the kills alone explain few"
        )
    if not figures["problems"]:
        console.print("[green]balanced:[/] every message and every sample is accounted for")


# --- one drain against two ---

SCALING_MESSAGES, SCALING_ROUNDS = 5_000, 3


def scaling(stores: Stores, settings: dict[str, str], until: float) -> dict[str, Any]:
    """A fixed amount, drained by one and by two in turn: into the stores, and with a sink that keeps nothing.

    The last round begins before `until`, by time.monotonic().
    """
    simulate.SAMPLES_PER_MESSAGE = 200
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 24 * HOUR
    fleet = simulate.read_fleet(stores.postgres, before=start)
    options = simulate.Options(seed=2, interval=1, broken=0, duplicates=0, resent=0, away=0)
    everything = simulate.simulate(fleet, simulate.Window(start, start + 12 * HOUR), options)
    batches = (published.message for published in everything if published.message.queue == QUEUE)
    found: dict[tuple[bool, int], list[Scaled]] = defaultdict(list)
    rounds = 0
    while not rounds or (rounds < SCALING_ROUNDS and time.monotonic() < until):
        rounds += 1
        for stubbed, count in itertools.product((False, True), (1, 2)):
            stores.message_queue.publish(itertools.islice(batches, SCALING_MESSAGES))
            found[stubbed, count].append(drain_together(stores, settings, count, stubbed))
    table = Table(title=f"{SCALING_MESSAGES:,} batches of 200; medians of {rounds}", title_justify="left")
    for column in ("sink", "drains", "samples/s", "of one drain", "cores busy in drains", "of all cores"):
        table.add_column(column, justify="left" if column == "sink" else "right")
    figures: dict[str, Any] = {"rounds": rounds}
    for (stubbed, count), runs in sorted(found.items()):
        middle = Scaled(*(statistics.median(values) for values in zip(*runs, strict=True)))
        name = "stubbed" if stubbed else "stores"
        alone = statistics.median(run.samples_a_second for run in found[stubbed, 1])
        ratio = middle.samples_a_second / alone
        busy = f"{middle.cores_of_all:.2f} of {os.cpu_count()}"
        table.add_row(
            name, str(count), f"{middle.samples_a_second:,.0f}", f"{ratio:.2f}x", f"{middle.cores_of_drains:.2f}", busy
        )
        figures[f"{name}_{count}"] = {
            "ratio": round(ratio, 2),
            **{key: round(value, 2) for key, value in middle._asdict().items()},
        }
    console.print(table)
    return figures


class Scaled(NamedTuple):
    """One run: its rate, and the processor time that was used in a second of it."""

    samples_a_second: float
    cores_of_drains: float
    cores_of_all: float


def drain_together(stores: Stores, settings: dict[str, str], count: int, stubbed: bool) -> Scaled:
    """So many drains empty the queue. They begin together, with their stores open."""
    ready, go = _context.Barrier(count + 1), _context.Event()
    names = [f"scaling-{next(_runs)}" for _ in range(count)]
    used: Any = _context.Array("d", count)
    processes = [
        _context.Process(target=drain_all, args=(settings, name, stubbed, ready, go, used, slot), daemon=True)
        for slot, name in enumerate(names)
    ]
    for process in processes:
        process.start()
    ready.wait(60)
    began, before = datetime.now(UTC), psutil.cpu_times()
    go.set()
    for process in processes:
        process.join(300)
        if process.exitcode != 0:
            raise SystemExit(f"a drain ended with {process.exitcode}")
    after = psutil.cpu_times()
    row = stores.clickhouse.rows(
        "SELECT sum(points) AS samples, max(recorded_at) AS last FROM message_deliveries FINAL "
        "WHERE run_id IN {names:Array(String)}",
        names=names,
    )[0]
    seconds = (row["last"] - began).total_seconds()
    idle = sum(getattr(after, name) - getattr(before, name) for name in ("idle", "iowait"))
    # With the second that the drains wait before they end.
    everything = (datetime.now(UTC) - began).total_seconds()
    all_cores = (os.cpu_count() or 1) - idle / everything
    return Scaled(row["samples"] / seconds, sum(used) / seconds, all_cores)


def drain_all(settings: dict[str, str], run_id: str, stubbed: bool, ready: Any, go: Any, used: Any, slot: int) -> None:
    """The process of one of them."""
    with open_stores(Settings(settings)) as stores:
        drain = make_drain(stores, run_id, Nowhere() if stubbed else None)
        ready.wait(60)
        go.wait()
        before = time.process_time()
        drain.run(max_messages=10**9, max_seconds=600, idle_seconds=1)
        used[slot] = time.process_time() - before


# --- the command ---


def prepare(stores: Stores) -> None:
    """Migrated stores, and a fleet of some thousand devices: the demo's organizations with each device 45 times."""
    migrate_up(stores.postgres, stores.clickhouse)
    seed(stores.postgres, "demo", datetime.now(UTC).date())
    with stores.postgres.transaction() as connection:
        connection.execute(
            "INSERT INTO devices (id, organization_id, name, kind, os_version, created_at, retired_at) "
            "SELECT gen_random_uuid(), organization_id, name || '-' || copy, kind, "
            "os_version, created_at, retired_at FROM devices, generate_series(1, 44) AS copy"
        )
    stores.message_queue.declare()


def main() -> None:
    parser = argparse.ArgumentParser(description="Ingest under load, with restarts and kills; nothing may be lost.")
    parser.add_argument("--minutes", type=float, default=10, help="how long the publishers send")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random")
    parser.add_argument("--chart", type=Path, help="write the chart to this SVG")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--most-queued", type=int, help="messages that the queue holds before it refuses publishers")
    parser.add_argument("--scaling", action="store_true", help="only one drain against two")
    given = parser.parse_args()
    if not built():
        raise SystemExit("RabbitMQ and InfluxDB are missing: make servers")
    figures: dict[str, Any] = {}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder) / "home", SERVERS)
        try:
            settings = stack.up()
            with open_stores(validate(settings)) as stores:
                prepare(stores)
                # A clean stop has RabbitMQ write its list of queues: killed before, 3.10 forgets who leads them.
                restart(stack, Event(0, "rabbitmq", kill=False))
                if not given.scaling:
                    limit = given.max_queued or int(MAX_QUEUED_A_MINUTE * given.minutes)
                    result = soak(stack, stores, Path(folder), given.minutes, given.seed, limit)
                    figures = report(stores, result, account(stores, Path(folder)), given.chart)
                    print_soak(figures)
                    if result.ended["crashed"]:
                        figures["problems"].append("drains crashed")
                        console.print((Path(folder) / "drains.log").read_text()[-5000:])
                figures["scaling"] = scaling(stores, settings, begun + (given.minutes + 3.5) * 60)
        finally:
            stack.down()
    console.print_json(json.dumps(figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(bool(figures.get("problems")))


if __name__ == "__main__":
    main()
