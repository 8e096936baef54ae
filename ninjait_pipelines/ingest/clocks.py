"""A drain and its stores agree on the time, or nothing is received.

A drain chooses the tier of a point, and what lies in the future, by its own clock; late hours and expiry follow the
stores' clocks. A drain eight days ahead wrote points beside the windows of their hours, where they counted twice.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from ninjait_pipelines.resources.clickhouse import MAX_APART, ClickHouse
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.postgres import Postgres

OURS = "this machine"


class ClocksDiffer(Exception):
    """Clocks are too far apart; nothing was taken from the queue."""


def compare_clocks(
    clock: Callable[[], datetime], clickhouse: ClickHouse, postgres: Postgres, metrics_store: MetricsStore
) -> None:
    """Raises ClocksDiffer, naming both clocks, if ours and the stores' differ by more than MAX_APART."""
    asked = {
        clickhouse.title: clickhouse.now,
        postgres.title: lambda: postgres.rows("SELECT clock_timestamp() AS now")[0]["now"],
        metrics_store.title: metrics_store.now,
    }
    ahead = {name: ahead_of_ours(clock, theirs) for name, theirs in asked.items()}
    ours = clock()
    refuse_apart({OURS: ours} | {name: ours + by for name, by in ahead.items()})


def ahead_of_ours(clock: Callable[[], datetime], theirs: Callable[[], datetime]) -> timedelta:
    """How far another clock is ahead of ours, at least. It was read between two readings of ours, so that a slow answer
    does not count as a difference."""
    before, there, after = clock(), theirs(), clock()
    return min(there - before, timedelta(0)) + max(there - after, timedelta(0))


def refuse_apart(clocks: Mapping[str, datetime]) -> None:
    """As `compare_clocks`, for clocks (by name) that were read at one moment."""
    first, last = min(clocks, key=lambda name: clocks[name]), max(clocks, key=lambda name: clocks[name])
    apart = clocks[last] - clocks[first]
    if apart > MAX_APART:
        said = "; ".join(f"{name} shows {moment:%Y-%m-%d %H:%M:%S} UTC" for name, moment in clocks.items())
        raise ClocksDiffer(
            f"The clock of {last} is {apart} ahead of that of {first} (at most {MAX_APART.seconds} s are allowed): "
            f"{said}. Nothing was taken from the queue. Correct the wrong clock (NTP), and drains go on."
        )
