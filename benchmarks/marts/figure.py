"""What a measurement is, and how ours and its limit are measured in one run, in turn."""

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import psutil


class Figure(msgspec.Struct, frozen=True):
    """A row of the table: `ours` (median, least and most) beside what limits it, and what the ratio must be.

    `limit` is the median of the limit or peer of the same run, and `ratio` is ours divided by it. Bound and aim are of
    the ratio, or of ours where there is no limit. Less is better, unless `at_least`. What was measured at several sizes
    (devices, rows) has several rows of one name, and is a bar of the chart.
    """

    name: str
    work: str
    ours: float
    least: float
    most: float
    unit: str = "s"
    limit_name: str = ""
    limit: float | None = None
    ratio: float | None = None
    bound: float | None = None
    aim: float | None = None
    at_least: bool = False
    size: int | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the bound is reached; None where there is none."""
        if self.bound is None:
            return None
        return self.reaches(self.bound)

    def reaches(self, wanted: float) -> bool:
        """Whether the ratio, or ours where there is no limit, is at least or at most what is wanted."""
        found = self.ours if self.ratio is None else self.ratio
        return found >= wanted if self.at_least else found <= wanted


class Cost(NamedTuple):
    """Seconds of one call: by the clock, of our processor time (children that have ended included), and of servers."""

    wall: float
    cpu: float
    servers: float

    @property
    def all_cpu(self) -> float:
        return self.cpu + self.servers


def cost(call: Callable[[], object], servers: Iterable[psutil.Process] = ()) -> Cost:
    """What a call costs. (A server's processor time is counted in hundredths of a second.)"""
    servers = list(servers)
    of_servers, own, started = sum(map(_cpu, servers)), _own_cpu(), time.perf_counter()
    call()
    wall, own = time.perf_counter() - started, _own_cpu() - own
    return Cost(wall, own, sum(map(_cpu, servers)) - of_servers)


def _own_cpu() -> float:
    """This process's and its ended children's; the living ones are the engines that it started."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _cpu(process: psutil.Process) -> float:
    """A server's, with its living processes: PostgreSQL has one per connection."""
    seconds = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def in_turn(
    rounds: int, calls: Mapping[str, Callable[[], object]], servers: Iterable[psutil.Process] = ()
) -> dict[str, list[Cost]]:
    """The cost of each call in each round. They alternate, so that a noisy minute meets all of them; a first round is
    not counted."""
    found: dict[str, list[Cost]] = {name: [] for name in calls}
    servers = list(servers)
    for number in range(rounds + 1):
        for name, call in calls.items():
            one = cost(call, servers)
            if number:
                found[name].append(one)
    return found


def figure(
    name: str,
    work: str,
    ours: Sequence[float],
    limit_name: str = "",
    limit: Sequence[float] = (),
    unit: str = "s",
    bound: float | None = None,
    aim: float | None = None,
    at_least: bool = False,
    size: int | None = None,
) -> Figure:
    """A figure from the values of all rounds, ours and the limit's."""
    median = statistics.median(ours)
    of_limit = statistics.median(limit) if limit else None
    ratio = median / of_limit if of_limit else None
    return Figure(
        name, work, median, min(ours), max(ours), unit, limit_name, of_limit, ratio, bound, aim, at_least, size
    )
