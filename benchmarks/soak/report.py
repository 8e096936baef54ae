"""The report of a soak: its figures, printed and as JSON."""

import statistics
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.soak.accounts import QUEUE, Accounts
from benchmarks.soak.chart import draw
from benchmarks.soak.watch import BIN, Soak
from ninjait_pipelines.resources import Stores

MAX_EMPTYING = 240.0
OVER_TIME = """
SELECT toUnixTimestamp(toStartOfInterval(recorded_at, toIntervalSecond({bin:UInt32}))) AS at, count() AS messages,
    sum(points) AS samples, quantiles(0.5, 0.99)(dateDiff('millisecond', published_at, recorded_at) / 1000) AS lag
FROM message_deliveries FINAL WHERE queue = {queue:String} GROUP BY at ORDER BY at
"""
console = Console()


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
