"""The local stack that the demo runs on, and the lines that say how far the demo is.

Nothing here may import what imports partitions: they begin on PIPELINE_START, which is set only once the stack is up.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime

from rich.console import Console

from ninjait_pipelines.local.stack.local import HISTORY, LocalStack
from ninjait_pipelines.local.stack.servers import built
from ninjait_pipelines.paths import ROOT


def bring_up(console: Console, seconds: dict[str, float]) -> dict[str, str]:
    """Starts the local stack, sets this process's environment to it, and returns its settings."""
    with step(console, seconds, "stack") as say:
        stack = LocalStack(ROOT / ".ninjait", built())
        settings = stack.up(start=first_day(datetime.now(UTC).date()))
        os.environ.pop("PIPELINE_START", None)  # the shell's may be another installation's
        os.environ.update(settings, DAGSTER_HOME=str(ROOT))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        say(", ".join(what for _, what, _ in stack.places()))
    return settings


def first_day(today: date) -> date:
    """The oldest day that the demo publishes. Partitions begin there, so that no earlier one is shown as missing."""
    return today - HISTORY


@contextmanager
def step(console: Console, seconds: dict[str, float], name: str) -> Iterator[Callable[[str], None]]:
    """A line with a spinner while a step runs, and its result and seconds afterwards."""
    started = time.perf_counter()
    results: list[str] = []
    with console.status(f"{name} ..."):
        yield results.append
    seconds[name] = time.perf_counter() - started
    console.print(f"[green]\u2713[/] {name:<26}{seconds[name]:6.1f} s  [dim]{' '.join(results)}[/]", highlight=False)
