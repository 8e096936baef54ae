"""Real engines of its own, a queue that is filled, consumers that are started, and one clock for all of them.

The clock is outside of what it measures: it asks the broker how many messages are ready, and starts with the first that
is taken. Of Telegraf, all but its prefetch is done when none is ready any more. The others, whose prefetch may be any,
say when they have acknowledged the last message; they may take all of it at once and do nothing, and gain nothing by
it. Afterwards the store is asked for every point.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pika

from benchmarks import messages, telegraf
from benchmarks.messages import QUEUE, Expected, Load
from ninjait_pipelines.local.stack.local import LocalStack
from ninjait_pipelines.local.stack.servers import SERVERS, built
from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.influxdb import read
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.settings import validate

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 240.0
STORED_SECONDS = 30.0
DISCARD_SECONDS = 3.0
# Looks from outside, at all threads that run or could, whoever holds Python's lock.
SPY = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "--threads", "--function"]
SPY += ["--rate", "500", "--format", "raw", "--output"]


class Failed(Exception):
    """A run that did not do what it was to do: its figure would mean nothing."""


class Run(msgspec.Struct, frozen=True):
    """The result of one run: units per second, and what each process reports of itself."""

    rate: float
    cpu_seconds: float
    reports: list[dict[str, Any]] = []


class Stage:
    """The engines, with the fleet registered; every run has a queue and buckets of its own."""

    def __init__(self, folder: Path, settings: dict[str, str], stores: Stores) -> None:
        self.folder = folder
        self.settings = settings
        self.stores = stores
        self.versions: dict[str, str] = {}
        self._buckets = 0
        self._connection = pika.BlockingConnection(pika.URLParameters(settings["RABBITMQ_URL"] + "?heartbeat=0"))
        self._channel = self._connection.channel()

    def ours(self, load: Load, kind: str, processes: int = 1, stored: bool = True, stacks: Path | None = None) -> Run:
        """Consumers of benchmarks/worker.py drain the load; `stacks` takes what they were found doing."""
        with self._bucket() as settings:
            workers = [self._worker(kind, {**os.environ, **settings}, stacks) for _ in range(processes)]
            try:
                self._fill(load)
                for worker in workers:  # Python has been started and everything imported
                    assert worker.stdout
                    if b"ready\n" not in worker.stdout:
                        raise Failed(f"{kind} did not start")
                before = _cpu_seconds(workers)
                for worker in workers:
                    assert worker.stdin
                    worker.stdin.write(b"go\n")
                    worker.stdin.flush()
                began, _ = self._watch(load, workers)
                reports = [_report(worker, kind) for worker in workers]
            finally:
                for worker in workers:
                    worker.kill()
                    worker.communicate()
            self._check_taken(load, reports)
            if stored:
                self.check_stored(settings["INFLUXDB_BUCKET"], load.ours)
                if kind == "drain":
                    self._check_ledger(load, reports)
        cpu = sum(report["cpu_seconds"] for report in reports) - before
        ended = max(report["ended"] for report in reports)
        return Run(_rate(load, len(load.messages), ended - began), cpu, reports)

    def telegraf(self, load: Load, parts: str, stored: bool = True) -> Run:
        """Telegraf drains the load."""
        with self._bucket() as settings:
            self._fill(load)
            process = telegraf.start(self.folder, parts, settings)
            try:
                began, ended = self._watch(load, [process])
                if stored:
                    self._wait_stored(settings["INFLUXDB_BUCKET"], load.theirs)
                else:
                    time.sleep(DISCARD_SECONDS)
                cpu = _cpu_seconds([process])
                telegraf.stop(process)
            finally:
                process.kill()
                process.wait()
            if said := telegraf.complaints(self.folder):
                raise Failed(f"Telegraf says:{said[0]}")
            if left := self._ready():
                raise Failed(f"Telegraf gave {left} messages back")
        return Run(_rate(load, len(load.messages) - telegraf.PREFETCH, ended - began), cpu)

    @contextmanager
    def _bucket(self) -> Iterator[dict[str, str]]:
        """The settings with a bucket of their own; it is deleted afterwards, and with it the series in its index."""
        self._buckets += 1
        settings = self.settings | {"INFLUXDB_BUCKET": f"run-{self._buckets}"}
        store = self.store(settings)
        store.declare()
        gc.collect()
        try:
            yield settings
        finally:
            api = store.client.buckets_api()
            for tier in Tier:
                api.delete_bucket(api.find_bucket_by_name(store.bucket_of(tier)))
            store.close()

    @contextmanager
    def bucket(self) -> Iterator[InfluxDB]:
        """An InfluxDB with a bucket of its own."""
        with self._bucket() as settings:
            yield self.store(settings)

    def store(self, settings: dict[str, str]) -> InfluxDB:
        return InfluxDB(
            url=settings["INFLUXDB_URL"],
            token=settings["INFLUXDB_TOKEN"],
            organization=settings["INFLUXDB_ORG"],
            bucket=settings["INFLUXDB_BUCKET"],
        )

    def _worker(self, kind: str, environment: dict[str, str], stacks: Path | None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.worker", kind]
        if stacks:
            command = [*SPY, str(stacks), "--", *command]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _fill(self, load: Load) -> None:
        """Declares an empty queue and publishes the load to it."""
        self._channel.queue_delete(QUEUE)
        self.stores.message_queue.declare()
        self.stores.message_queue.publish(load.messages)
        _until(lambda: self._ready() == len(load.messages), 10, "the queue does not show what was published")

    def _ready(self) -> int:
        return int(self._channel.queue_declare(QUEUE, passive=True).method.message_count)

    def _watch(self, load: Load, processes: Sequence[subprocess.Popen[bytes]]) -> tuple[float, float]:
        """(when the first message was taken, when the last was)."""
        began, deadline = 0.0, time.monotonic() + PATIENCE_SECONDS
        while True:
            ready, now = self._ready(), time.monotonic()
            if not began and ready < len(load.messages):
                began = now
            if not ready:
                return began, now
            if now > deadline or any(process.poll() is not None for process in processes):
                raise Failed(f"{ready} messages were left, and the consumer hangs or has ended")
            time.sleep(POLL_SECONDS)

    def _check_taken(self, load: Load, reports: list[dict[str, Any]]) -> None:
        taken = sum(report["messages"] for report in reports)
        if taken != len(load.messages) or self._ready():
            raise Failed(f"{taken} of {len(load.messages)} messages were taken, {self._ready()} are queued")
        rejected = [report["rejected"] for report in reports if "rejected" in report]
        if rejected and sum(rejected) != load.bad:
            raise Failed(f"{sum(rejected)} samples were rejected, and {load.bad} should be")

    def check_stored(self, bucket: str, expected: Expected) -> None:
        """Raises Failed unless a bucket has exactly this."""
        if (found := self.stored(bucket, expected)) != expected:
            raise Failed(f"the store has {found}, and should have {expected}")

    def _check_ledger(self, load: Load, reports: list[dict[str, Any]]) -> None:
        """Every message has its row, and what was refused is held."""
        runs = [report["run_id"] for report in reports]
        held = self.stores.mongodb.database["quarantine"].count_documents({"run_id": {"$in": runs}})
        if held != load.bad:
            raise Failed(f"{held} messages are in quarantine, and {load.bad} should be")
        rows = self.stores.clickhouse.rows(
            "SELECT count() AS messages, sum(points_written) AS points FROM message_deliveries FINAL "
            "WHERE run_id IN {runs:Array(String)}",
            runs=runs,
        )
        if (rows[0]["messages"], rows[0]["points"]) != (len(load.messages), load.samples):
            raise Failed(f"the ledger has {rows[0]} of {len(load.messages)} messages and {load.samples} samples")

    def _wait_stored(self, bucket: str, expected: Expected) -> None:
        problem = f"Telegraf did not store {expected}"
        _until(lambda: self.stored(bucket, expected) == expected, STORED_SECONDS, problem)

    def stored(self, bucket: str, expected: Expected) -> Expected:
        """How many points of each of these fields a bucket has."""
        store, found = cast(InfluxDB, self.stores.metrics_store), {}
        for measurement, field in expected:
            query = f'SELECT count("{field}") FROM "{measurement}"'  # noqa: S608
            counts = [count for _, rows in read.series(store.server, query, bucket) for _, count in rows]
            found[measurement, field] = int(sum(count or 0 for count in counts))
        return found

    def close(self) -> None:
        with contextlib.suppress(pika.exceptions.AMQPError):
            self._connection.close()


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Starts the engines in a folder, and stops them at the end."""
    if built() is None or not telegraf.BINARY.exists():
        raise SystemExit(
            "The benchmark needs RabbitMQ, InfluxDB and Telegraf: make servers builds them (six minutes, once), "
            "make bench-peers builds Telegraf alone (half a minute)."
        )
    stack = LocalStack(folder / "home", SERVERS)
    try:
        settings = stack.up()
        with open_stores(validate(settings)) as stores:
            migrate_up(stores.postgres, stores.clickhouse)
            messages.register(stores.postgres, datetime.now(UTC))
            stores.message_queue.declare()
            stores.metrics_store.declare()
            stage = Stage(folder, settings, stores)
            stage.versions = {engine.name: engine.title for engine in stack.engines()}
            try:
                yield stage
            finally:
                stage.close()
    finally:
        stack.down()


def _rate(load: Load, messages_done: int, seconds: float) -> float:
    if messages_done <= 0:
        raise Failed("there are too few messages: Telegraf holds all of them at once")
    return messages_done / len(load.messages) * load.units / seconds


def _report(worker: subprocess.Popen[bytes], kind: str) -> dict[str, Any]:
    output, _ = worker.communicate(timeout=PATIENCE_SECONDS)
    if worker.returncode:
        raise Failed(f"{kind} ended with {worker.returncode}")
    report: dict[str, Any] = json.loads(next(line for line in output.splitlines() if line.startswith(b"{")))
    return report


def _cpu_seconds(processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """User and system time of living processes."""
    import psutil

    times = [psutil.Process(process.pid).cpu_times() for process in processes]
    return sum(one.user + one.system for one in times)


def _until(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(problem)
        time.sleep(0.1)
