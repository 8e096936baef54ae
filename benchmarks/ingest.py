"""How fast ingest is, against limits measured in the same run: `make bench`. Not a test: nothing is asserted.

- decode: the drain's decoder against `json.loads` of the same bytes, which checks nothing.
- drain: queue -> decode -> store -> ledger -> acknowledge, against the metrics store's bare write of the same points,
  and against the queue's bare drain of the same messages.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ninjait_pipelines.fleet import simulate
from ninjait_pipelines.fleet.seed import seed
from ninjait_pipelines.ingest.decode import Period, decode
from ninjait_pipelines.ingest.drain import Drain, load_registry
from ninjait_pipelines.ingest.sinks import MetricsSink
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.message_queue import Message
from ninjait_pipelines.settings import validate
from ninjait_pipelines.stack.local import LocalStack

QUEUE = "agent.metrics"
ROUNDS = 5


def main() -> None:
    """Starts a stack of its own, measures, prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder) / "home")
        try:
            with open_stores(validate(stack.up())) as stores:
                measure(stores)
        finally:
            stack.down()


def measure(stores: Stores) -> None:
    """Every line is the median of ROUNDS; the limits are measured in turn with what they limit."""
    now = datetime.now(UTC)
    migrate_up(stores.postgres, stores.clickhouse)
    seed(stores.postgres, "demo", now.date())
    stores.message_queue.declare()
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=9)
    fleet = simulate.read_fleet(stores.postgres, before=start)
    options = simulate.Options(broken=0, duplicates=0, resent=0, away=0)
    window = simulate.Window(start, start + timedelta(hours=8))
    outgoing = [p.message for p in simulate.simulate(fleet, window, options) if p.message.queue == QUEUE]
    seconds: dict[str, list[float]] = {}
    samples = 0
    for _ in range(ROUNDS):
        messages = bare_drain(stores, outgoing, seconds)
        samples = decoding(stores, messages, now, seconds)
        whole_drain(stores, outgoing, seconds)
    report(samples, len(outgoing), {name: statistics.median(values) for name, values in seconds.items()})


def bare_drain(stores: Stores, outgoing: list, seconds: dict[str, list[float]]) -> list[Message]:
    """Receives and acknowledges everything, and looks at nothing."""
    stores.message_queue.publish(outgoing)
    received: list[Message] = []

    def drain() -> None:
        with stores.message_queue.consume(QUEUE, prefetch=1000) as consumer:
            while batch := consumer.receive(1000, 0):
                consumer.acknowledge(batch)
                received.extend(batch)

    timed(seconds, "queue, bare", drain)
    return received


def decoding(stores: Stores, messages: list[Message], now: datetime, seconds: dict[str, list[float]]) -> int:
    """Decodes, parses without any check, and writes the points without anything around it; returns the samples."""
    import json

    registry, period = load_registry(stores.postgres), Period.at(now)
    timed(seconds, "json.loads", lambda: [json.loads(message.body) for message in messages])
    decoded = timed(seconds, "decode", lambda: [decode(message, registry, period) for message in messages])
    sink = MetricsSink(stores.metrics_store, stores.dragonfly, stores.clickhouse, logging.getLogger("benchmark"))
    timed(seconds, "store, bare", lambda: sink.write(decoded, "benchmark", now))
    return sum(found.points_accepted for found in decoded)


def whole_drain(stores: Stores, outgoing: list, seconds: dict[str, list[float]]) -> None:
    """The drain as Dagster runs it, without Dagster."""
    log = logging.getLogger("benchmark")
    stores.message_queue.publish(outgoing)
    sink = MetricsSink(stores.metrics_store, stores.dragonfly, stores.clickhouse, log)
    drain = Drain(
        sink,
        stores.message_queue,
        stores.postgres,
        stores.clickhouse,
        stores.mongodb,
        "benchmark",
        lambda: datetime.now(UTC),
        log,
    )
    timed(seconds, "whole drain", lambda: drain.run(most_messages=10**6, most_seconds=600, idle_seconds=0))


def timed(seconds: dict[str, list[float]], name: str, work: Callable):
    started = time.perf_counter()
    result = work()
    seconds.setdefault(name, []).append(time.perf_counter() - started)
    return result


def report(samples: int, messages: int, median: dict[str, float]) -> None:
    """Rates, and the ratio to the limit of each."""
    table = Table(title=f"{messages:,} messages, {samples:,} samples, median of {ROUNDS}", title_justify="left")
    for column in ("work", "seconds", "samples/s", "of its limit"):
        table.add_column(column, justify="left" if column == "work" else "right")
    limits = {"decode": "json.loads", "whole drain": "store, bare"}
    for name, value in median.items():
        limit = limits.get(name)
        ratio = f"{median[limit] / value:.2f}x {limit}" if limit else ""
        table.add_row(name, f"{value:.2f}", f"{samples / value:,.0f}", ratio)
    Console().print(table)


if __name__ == "__main__":
    main()
