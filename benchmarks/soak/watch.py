"""Looks at a soak while it runs: messages queued, memory of the processes, and the result."""

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil

from benchmarks.soak.accounts import QUEUE
from benchmarks.soak.faults import Drains, Mark
from benchmarks.soak.load import Shared
from ninjait_pipelines.local.stack.local import LocalStack, find
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.store import StoreError

WATCHED_EVERY = 2.0
BIN = 5  # seconds of the report's figures over time


class Seen(NamedTuple):
    """A look at everything: seconds of the soak, messages queued, MiB by process, published so far."""

    at: float
    queued: int | None
    memory: dict[str, float]
    published: int


class Watch(threading.Thread):
    """Looks every two seconds until `ended` is set. A broker that is away has no depth."""

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
    """MiB of memory of these processes, shared pages counted by their share."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process is not None and process.pid is not None:
                total += psutil.Process(process.pid).memory_full_info().pss / 2**20
    return total


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
