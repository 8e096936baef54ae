"""One drain against two on the same amount of messages, in turn."""

import itertools
import os
import statistics
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.soak.accounts import QUEUE
from benchmarks.soak.load import HOUR, context
from benchmarks.worker import make_drain
from ninjait_pipelines.ingest.sinks import Record
from ninjait_pipelines.local.fleet import simulate
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import validate

SCALING_MESSAGES, SCALING_ROUNDS = 5_000, 3
_runs = itertools.count(1)
console = Console()


class Nowhere:
    """A sink that takes everything and keeps nothing: what is left is the broker, the decoder and the ledger."""

    queue = QUEUE

    def prepare(self) -> None:
        """There is nothing to prepare."""

    def write(self, *_: Any) -> Record:
        return set


def scaling(stores: Stores, settings: dict[str, str], until: float) -> dict[str, Any]:
    """A fixed amount, drained by one and by two in turn: into the stores, and with a sink that keeps nothing.

    The last round begins before `until`, by time.monotonic().
    """
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 24 * HOUR
    fleet = simulate.read_fleet(stores.postgres, before=start)
    options = simulate.Options(seed=2, interval=1, samples_per_message=200, broken=0, duplicates=0, resent=0, away=0)
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
    """`count` drains empty the queue. They begin together, with their stores open."""
    ready, go = context.Barrier(count + 1), context.Event()
    names = [f"scaling-{next(_runs)}" for _ in range(count)]
    used: Any = context.Array("d", count)
    processes = [
        context.Process(target=drain_all, args=(settings, name, stubbed, ready, go, used, slot), daemon=True)
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
    with open_stores(validate(settings)) as stores:
        drain = make_drain(stores, run_id, Nowhere() if stubbed else None)
        ready.wait(60)
        go.wait()
        before = time.process_time()
        drain.run(max_messages=10**9, max_seconds=600, idle_seconds=1)
        used[slot] = time.process_time() - before
