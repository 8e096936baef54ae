"""How fast ingest is, ours and the peers side by side: `ninjait bench`, `make bench`. Not a test: nothing is asserted.

Every contest is one consumer, or several, that empty a queue that was filled before; stage.py has the clock. A round
runs every contest once, so that a noisy minute meets ours and the peers; every other round goes backwards. A row of the
table compares the medians of two contests. Of several peers the fastest counts.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

from rich.console import Console

from benchmarks import messages, raw, report, telegraf
from benchmarks.messages import Load
from benchmarks.report import COST, GROWTH, Figures, Row
from benchmarks.stage import Failed, Stage, staged

STUBBED, TWO_STUBBED = "ours, stubbed", "ours, stubbed, two workers"
DRAIN, TWO_DRAINS = "ours, into InfluxDB", "ours, into InfluxDB, two workers"
LINES, TWO_LINES = "ours, lines", "ours, lines, two workers"
DISCARD, INTO_INFLUXDB = "Telegraf, to discard", "Telegraf, into InfluxDB"
SINGLES = ("pika, BlockingConnection", "pika, SelectConnection")
ROWS = (
    Row("json", "batches of 200 samples, JSON, sinks stubbed", STUBBED, (DISCARD,), 1.0, 1.5),
    Row("json-two", "batches, JSON, sinks stubbed, two workers", TWO_STUBBED, (DISCARD,), 1.5, 2.5),
    Row("influxdb", "batches of 200 samples, JSON, into InfluxDB", DRAIN, (INTO_INFLUXDB,), 1.2, 1.6),
    Row("influxdb-tuned", "batches, JSON, against a Telegraf tuned further", DRAIN, ("Telegraf, tuned",)),
    Row("influxdb-two", "batches, JSON, into InfluxDB, two workers", TWO_DRAINS, (INTO_INFLUXDB,)),
    Row(
        "lines",
        "line protocol from Telegraf fleets, into InfluxDB",
        LINES,
        ("Telegraf, lines, all fields", "Telegraf, lines, our fields only"),
        1.0,
        1.4,
    ),
    Row(
        "lines-two",
        "line protocol, into InfluxDB, two workers",
        TWO_LINES,
        ("Telegraf, lines, all fields", "Telegraf, lines, our fields only"),
    ),
    Row("lines-tuned", "line protocol, against a Telegraf tuned further", LINES, ("Telegraf, lines, tuned",)),
    Row("scaling-stubbed", "two workers against one, JSON, sinks stubbed", TWO_STUBBED, (STUBBED,)),
    Row("scaling", "two workers against one, JSON, into InfluxDB", TWO_DRAINS, (DRAIN,)),
    Row("scaling-lines", "two workers against one, line protocol, into InfluxDB", TWO_LINES, (LINES,)),
    Row("singles", "single-sample messages, sinks stubbed", "ours, single samples, stubbed", SINGLES, 0.75, 1.5),
    Row("singles-influxdb", "single-sample messages, into InfluxDB", "ours, single samples", SINGLES),
    Row("script", "batches, against a plain script", DRAIN, ("a plain script",), 10.0, 15.0),
    Row(
        "script-gathering",
        "batches, against a script that writes a message's Points at once",
        DRAIN,
        ("a script, a write per message",),
    ),
    Row(
        "script-singles",
        "single-sample messages, against a plain script",
        "ours, single samples",
        ("a plain script, single samples",),
        10.0,
        15.0,
    ),
    Row(
        "extras",
        "cost of ledger, quarantine and latest values",
        DRAIN,
        ("ours, into InfluxDB, without them",),
        0.10,
        0.05,
        COST,
    ),
    Row(
        "extras-broken",
        "the same, one message in 20 partly broken",
        "ours, one message in 20 broken",
        ("ours, one in 20 broken, without them",),
        0.10,
        0.05,
        COST,
    ),
    Row("memory", "peak memory, ten times the messages", "ours, some messages", ("ours, ten times",), 1.1, 1.0, GROWTH),
    Row(
        "share",
        "share of the raw InfluxDB write rate",
        DRAIN,
        ("raw writes, one connection", "raw writes, two connections"),
        0.4,
        0.6,
    ),
)


class Loads:
    """The messages of each kind, made when they are first needed; `quick` puts a quarter into each of them."""

    def __init__(self, now: datetime, quick: bool) -> None:
        self._now = now
        self._divisor = 4 if quick else 1

    def _batches(self, count: int, samples: int, broken_every: int = 0) -> Load:
        return messages.batches(count, samples // self._divisor, self._now, broken_every)

    @cached_property
    def many_batches(self) -> Load:
        return self._batches(6_000, messages.SAMPLES)

    @cached_property
    def batches(self) -> Load:
        return self._batches(4_000, messages.SAMPLES)

    @cached_property
    def broken_batches(self) -> Load:
        return self._batches(4_000, messages.SAMPLES, broken_every=20)

    @cached_property
    def few_batches(self) -> Load:
        return self._batches(240, messages.SAMPLES)

    @cached_property
    def fewest_batches(self) -> Load:
        return self._batches(15, messages.SAMPLES)

    @cached_property
    def lines(self) -> Load:
        return messages.line_protocol(2_500, messages.SAMPLES // self._divisor, self._now)

    @cached_property
    def singles(self) -> Load:
        return messages.batches(60_000 // self._divisor, 1, self._now)

    @cached_property
    def few_singles(self) -> Load:
        return messages.batches(3_000 // self._divisor, 1, self._now)

    @cached_property
    def some(self) -> Load:
        return self._batches(15_000, 20)  # more than a drain has under way at once

    @cached_property
    def ten_times(self) -> Load:
        return self._batches(150_000, 20)

    @cached_property
    def raw(self) -> raw.Prepared:
        return raw.prepare(self.batches)


def contests(stage: Stage, loads: Loads) -> dict[str, Callable[[], float]]:
    """Name -> what runs it once, and gives its figure: a rate, or MiB of memory."""

    def ours(load: str, kind: str, processes: int = 1, stored: bool = True) -> float:
        return stage.ours(getattr(loads, load), kind, processes, stored).rate

    def peer(load: str, parts: str, stored: bool = True) -> float:
        return stage.telegraf(getattr(loads, load), parts, stored).rate

    def memory(load: str) -> float:
        return float(stage.ours(getattr(loads, load), "drain").reports[0]["peak_mib"])

    def raw_writes(connections: int) -> float:
        with stage.bucket() as store:
            rate = raw.write(store, loads.raw, connections)
            stage.check_stored(store.bucket, loads.batches.ours)
        return rate

    return {
        STUBBED: partial(ours, "many_batches", "decoding", stored=False),
        DISCARD: partial(peer, "many_batches", telegraf.JSON + telegraf.DISCARD, stored=False),
        TWO_STUBBED: partial(ours, "many_batches", "decoding", 2, stored=False),
        DRAIN: partial(ours, "batches", "drain"),
        INTO_INFLUXDB: partial(peer, "batches", telegraf.JSON + telegraf.INFLUXDB),
        "Telegraf, tuned": partial(peer, "batches", telegraf.JSON + telegraf.TUNED),
        TWO_DRAINS: partial(ours, "batches", "drain", 2),
        "ours, into InfluxDB, without them": partial(ours, "batches", "stores-only"),
        "ours, one message in 20 broken": partial(ours, "broken_batches", "drain"),
        "ours, one in 20 broken, without them": partial(ours, "broken_batches", "stores-only"),
        "raw writes, one connection": partial(raw_writes, 1),
        "raw writes, two connections": partial(raw_writes, 2),
        "a plain script": partial(ours, "fewest_batches", "script"),
        "a script, a write per message": partial(ours, "few_batches", "script-gathering"),
        LINES: partial(ours, "lines", "drain"),
        TWO_LINES: partial(ours, "lines", "drain", 2),
        "Telegraf, lines, all fields": partial(peer, "lines", telegraf.LINES + telegraf.INFLUXDB),
        "Telegraf, lines, our fields only": partial(
            peer, "lines", telegraf.LINES + telegraf.ONLY_OURS + telegraf.INFLUXDB
        ),
        "Telegraf, lines, tuned": partial(peer, "lines", telegraf.LINES + telegraf.ONLY_OURS + telegraf.TUNED),
        "ours, single samples": partial(ours, "singles", "drain"),
        "a plain script, single samples": partial(ours, "few_singles", "script"),
        "pika, BlockingConnection": partial(ours, "singles", "pika-blocking", stored=False),
        "pika, SelectConnection": partial(ours, "singles", "pika-select", stored=False),
        "ours, single samples, stubbed": partial(ours, "singles", "decoding", stored=False),
        "ours, some messages": partial(memory, "some"),
        "ours, ten times": partial(memory, "ten_times"),
    }


def run(
    rounds: int = 5,
    only: Sequence[str] = (),
    quick: bool = False,
    profile: bool = False,
    json_file: str | None = None,
    write_docs: bool = False,
) -> bool:
    """Measures, and prints table and JSON; False where a run failed. See `ninjait bench --help`."""
    unknown = set(only) - {row.name for row in ROWS}
    if unknown:
        raise SystemExit(f"There is no row {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in ROWS)}.")
    if write_docs and (only or quick or profile):
        raise SystemExit("--write-docs takes the whole table at full size: leave --only, --quick and --profile out.")
    console = Console(stderr=json_file == "-", highlight=False, width=None if Console().is_terminal else 150)
    rows = [row for row in ROWS if not only or row.name in only]
    with tempfile.TemporaryDirectory(prefix="ninjait-bench-") as folder, staged(Path(folder)) as stage:
        loads = Loads(datetime.now(UTC), quick)
        if profile:
            for load, kind in (("batches", "drain"), ("lines", "drain"), ("singles", "drain")):
                stacks = Path(folder) / f"{load}.stacks"
                stage.ours(getattr(loads, load), kind, stacks=stacks)
                report.print_profile(console, load, stacks)
            return True
        figures = measure(console, rows, contests(stage, loads), rounds)
        result = report.Result.of(rows, figures, rounds, quick, stage.versions)
    result.print(console)
    if json_file:
        result.write_json(json_file)
    if write_docs:
        result.write_docs()
    return not any(one.problems for one in figures.values())


def measure(
    console: Console, rows: Sequence[Row], all_contests: dict[str, Callable[[], float]], rounds: int
) -> dict[str, Figures]:
    """Every contest that a row needs, once a round."""
    needed = [name for name in all_contests if any(name in (row.ours, *row.peers) for row in rows)]
    figures = {name: Figures() for name in needed}
    for number in range(rounds):
        for name in needed if number % 2 == 0 else reversed(needed):
            began = time.monotonic()
            try:
                figure = all_contests[name]()
            except Failed as problem:
                figures[name].problems.append(str(problem))
                shown = f"failed: {problem}"
            else:
                figures[name].values.append(figure)
                shown = f"{figure:,.0f}"
            console.print(f"round {number + 1} of {rounds}: {name}: {shown}  ({time.monotonic() - began:.0f} s)")
    return figures
