"""The drains, and what goes wrong meanwhile: drains are killed, servers are killed or stopped, and started again."""

import itertools
import logging
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from benchmarks.soak.load import context
from benchmarks.worker import make_drain
from ninjait_pipelines.local.stack.local import LocalStack, find, stop
from ninjait_pipelines.resources import open_stores
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.settings import validate

DRAINS = 2
AFTER_FAILURE = 5.0  # seconds; the sensor waits a minute, here the next drain meets the same outage
FAILED, CRASHED = 1, 70
SERVERS_OF_INGEST = ("rabbitmq", "influxdb", "clickhouse", "postgres", "mongodb", "dragonfly")
LETTERS = {engine: engine[0].upper() for engine in SERVERS_OF_INGEST}
_runs = itertools.count(1)
console = Console()


def drain_once(settings: dict[str, str], run_id: str, log: Path) -> None:
    """The process of one drain, with the bounds of a drain in production."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(filename=log, level=logging.WARNING, format=f"%(asctime)s {run_id} %(message)s")
    try:
        with open_stores(validate(settings)) as stores:
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
        """Records those that have ended, and starts others in their place, `limit` in all."""
        for slot, process in enumerate(self.running):
            if process is not None and not process.is_alive():
                self._note(slot, process)
                self.running[slot] = process = None
            if process is None and slot < limit and time.monotonic() >= self.not_before[slot]:
                arguments = (self.settings, f"soak-{next(_runs)}", self.log)
                process = self.running[slot] = context.Process(target=drain_once, args=arguments)
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
        raise SystemExit(f"{event.what} does not run: it died on its own")
    before = stack.settings()
    if event.kill:
        process.kill()
        process.wait(30)
    else:
        stop(process, engine.stop_signal)
    time.sleep(event.away)
    stack.up()
    if stack.settings() != before:
        raise SystemExit(f"the port of {event.what} was taken while it was away: run it again")


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
