"""A fleet's messages in a real broker, drains in processes of their own, and what must hold after all faults."""

import contextlib
import itertools
import math
import multiprocessing
import os
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from benchmarks.soak.accounts import Book, account
from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.local.fleet import simulate
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.stack.local import LocalStack, find
from ninjait_pipelines.local.stack.servers import RabbitMQ
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.rollup.assets import roll_up
from ninjait_pipelines.settings import Settings, validate
from ninjait_pipelines_tests.ingest.conftest import make_drain

QUEUE = "agent.metrics"
HOUR = timedelta(hours=1)
# Small, so that a fault falls between batches as often as into one.
BATCH_MESSAGES = 50
_context = multiprocessing.get_context("forkserver")
_runs = itertools.count(1)


@dataclass
class World:
    """One broker, its stores, and what was published to it."""

    stack: LocalStack
    settings: Settings
    stores: Stores
    sent: list[simulate.Published]
    window: simulate.Window

    def kill(self, engine: str) -> None:
        """kill -9 of an engine of the local stack."""
        process = next(find(one) for one in self.stack.engines() if one.name == engine)
        assert process is not None, f"{engine} does not run"
        process.kill()

    def remember_queues(self) -> None:
        """Has the broker write its list of queues, which it does some seconds late: without it RabbitMQ 3.10 forgets,
        when it is killed, who leads a queue that was declared just before."""
        node = next(engine for engine in self.stack.engines() if engine.name == "rabbitmq")
        assert isinstance(node, RabbitMQ)
        command = [str(node.binary().parent / "rabbitmqctl"), "-n", "ninjait@localhost", "eval"]
        subprocess.run(
            [*command, "[dets:sync(Table) || Table <- dets:all()]."],
            env={**os.environ, **node.environment()},
            check=True,
            capture_output=True,
        )

    def heal(self) -> None:
        """Starts what was killed."""
        self.stack.up()

    def drain(self, settings: Settings | None = None, **how: Any) -> "Drain":
        """A drain in a process of its own, under way."""
        return Drain(settings or self.settings, f"run-{next(_runs)}", **how)

    def drain_until_empty(self, seconds: float = 120) -> None:
        """Drains in this process, as the sensor would start them, until the queue is empty."""
        deadline, problem = time.monotonic() + seconds, ""
        while True:
            assert time.monotonic() < deadline, f"still queued, {problem}"
            try:
                make_drain(self.stores, run_id=f"run-{next(_runs)}").run(idle_seconds=0.5)
                depth = self.stores.message_queue.depth(QUEUE)
            except StoreError as error:
                problem = str(error)
                time.sleep(0.5)
                continue
            if not depth.outstanding and not depth.dead:
                return

    def verify(self) -> None:
        """Every message once in the store or in quarantine, and every figure as it was published."""
        self.drain_until_empty()
        expected = Counter(published.outcome for published in self.sent)
        rows = self.stores.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
        assert {row["outcome"]: row["n"] for row in rows} == dict(expected)
        points = self.expected_points()
        assert len(points) == sum(published.points for published in self.sent)
        stored = self.stores.metrics_store.read(self.window.start, self.window.end + HOUR)
        assert stored.num_rows == len(points)
        for name in FIELDS:
            sent = [fields[name] for fields in points.values() if fields[name] is not None]
            assert math.fsum(stored[name].drop_null().to_pylist()) == math.fsum(sent), name
        held = "SELECT delivery_id FROM message_deliveries FINAL WHERE outcome != 'written'"
        ids = [f"{QUEUE}/{row['delivery_id']}" for row in self.stores.clickhouse.rows(held)]
        assert self.stores.mongodb.count_ids(COLLECTION, ids) == len(ids)
        assert len(list(query.select(self.stores.mongodb, state=None))) == len(ids)
        self._verify_hours(len(points))
        assert self._problems() == []

    def _problems(self) -> list[str]:
        """What the accounts of `make soak` find: message by message, and by device and hour."""
        book = Book(datetime.now(UTC))
        for published in self.sent:
            book.add(published)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            book.write_sent(folder / "sent-0.parquet")
            book.write_points(folder / "points-0.parquet")
            return account(self.stores, folder).problems

    def _verify_hours(self, points: int) -> None:
        """The hours that ingest says it touched are all that have points, and roll up to all of them."""
        rows = self.stores.clickhouse.rows("SELECT DISTINCT hour FROM touched_hours ORDER BY hour")
        hours = [row["hour"].replace(tzinfo=UTC) for row in rows]
        rolled = [
            one
            for hour in hours
            for one in roll_up([hour], self.stores.metrics_store, self.stores.clickhouse, self.stores.clickhouse.now())
        ]
        assert sum(one.samples for one in rolled) == points
        assert self.stores.clickhouse.scalar("SELECT sum(sample_count) FROM device_metrics_hourly") == points

    def expected_points(self) -> dict[tuple[str, int], dict[str, float]]:
        """(device, milliseconds) -> the fields of every good sample that was published."""
        registry, period = load_sender_registry(self.stores.postgres), Period.at(datetime.now(UTC))
        points = {}
        for published in self.sent:
            columns = decode(_delivered(published.message), registry, period).columns
            for row, time_ms in enumerate(columns.get("time", ())):
                points[columns["device_id"][row], time_ms] = {name: columns[name][row] for name in FIELDS}
        return points


def _delivered(message: Outgoing) -> Message:
    return Message(
        message.queue, message.routing_key, message.body, message.content_type, message.message_id, "", "", 1, 0
    )


@contextlib.contextmanager
def world(stack: LocalStack, settings: Settings, random_seed: int = 1, hours: int = 6) -> Iterator[World]:
    """A small fleet whose last hours are in the queue, with broken, repeated and resent messages among them."""
    end = datetime.now(UTC).replace(second=0, microsecond=0)
    window = simulate.Window(end - hours * HOUR, end)
    with open_stores(settings) as stores:
        seed(stores.postgres, "demo", end.date())
        fleet = simulate.read_fleet(stores.postgres, before=window.start, max_devices=6)
        options = simulate.Options(seed=random_seed, broken=0.05, duplicates=0.05, resent=0.05, away=0)
        everything = simulate.simulate(fleet, window, options)
        sent = [published for published in everything if published.message.queue == QUEUE]
        stores.message_queue.declare()
        stores.message_queue.publish(published.message for published in sent)
        yield World(stack, settings, stores, sent, window)


class Drain:
    """A drain as a process. At the end of the step `die_after` it kills itself; it rests `slow` seconds a batch, and
    waits `patience` seconds for a broker that is away."""

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        *,
        die_after: str | None = None,
        slow: float = 0,
        limit: int = 20_000,
        patience: float = 10,
    ) -> None:
        self._began = _context.Event()
        arguments = (dict(settings), run_id, die_after, slow, limit, patience, self._began)
        self.process: ForkServerProcess = _context.Process(target=_drain, args=arguments)
        self.process.start()

    def began(self, seconds: float = 150) -> "Drain":
        """Returns once it has written its first batch; a process that begins takes long on a busy machine."""
        assert self._began.wait(seconds), "the drain wrote nothing"
        return self

    def kill(self) -> None:
        if self.process.pid and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(30)

    def wait(self, seconds: float = 150) -> int | None:
        """Its exit code: 0, 1 where it failed with an error of a store, -9 where it was killed."""
        self.process.join(seconds)
        if self.process.is_alive():
            self.kill()
            raise AssertionError("the drain hangs")
        return self.process.exitcode


# Where a drain can be made to die: name -> what runs to its end just before.
STEPS: dict[str, Callable[[Stores], tuple[Any, str, str | None]]] = {
    "receive": lambda stores: (drain_module, "_receive", None),
    "metrics store": lambda stores: (type(stores.metrics_store), "write", None),
    "hours": lambda stores: (type(stores.clickhouse), "insert", "touched_hours"),
    "Dragonfly": lambda stores: (type(stores.dragonfly), "set_many_if_newer", None),
    "quarantine": lambda stores: (type(stores.mongodb), "insert_new", COLLECTION),
    "ledger": lambda stores: (type(stores.clickhouse), "insert", "message_deliveries"),
    "acknowledgement": lambda stores: (drain_module.Drain, "_acknowledge", None),
}


def _drain(
    settings: dict[str, str], run_id: str, die_after: str | None, slow: float, limit: int, patience: float, began: Any
) -> None:
    with open_stores(validate(settings)) as stores:
        _after(drain_module.DrainSummary, "add", None, lambda: (began.set(), time.sleep(slow)))
        if die_after:
            _after(*STEPS[die_after](stores), lambda: os.kill(os.getpid(), signal.SIGKILL))
        try:
            broker = stores.message_queue.model_copy(update={"timeout_seconds": patience})
            few = {"batch_messages": BATCH_MESSAGES, "prefetch": 4 * BATCH_MESSAGES}
            make_drain(stores, run_id=run_id, message_queue=broker, **few).run(max_messages=limit, idle_seconds=1)
        except StoreError as error:
            print(f"{run_id}: {error}")
            raise SystemExit(1) from None


def _after(owner: Any, name: str, argument: str | None, then: Callable[[], Any]) -> None:
    """Lets something happen each time that a step has ended (where it was called with this argument)."""
    step = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        if argument is None or argument in args:
            then()
        return result

    setattr(owner, name, wrapped)


def preload(modules: Sequence[str] = (__name__,)) -> None:
    """Imports once for all drains: a fork costs a tenth of a second, these imports two."""
    _context.set_forkserver_preload(list(modules))
