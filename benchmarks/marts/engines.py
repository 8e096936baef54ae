"""Real engines in a folder of their own, migrated and empty, and the processes whose processor time is counted."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from ninjait_pipelines.local.stack.local import LocalStack, find
from ninjait_pipelines.local.stack.servers import SERVERS
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import validate


class Engines(NamedTuple):
    """The stores, their settings (environment variables), and each engine's process by its name."""

    stores: Stores
    settings: dict[str, str]
    processes: dict[str, psutil.Process]


@contextmanager
def started() -> Iterator[Engines]:
    """Starts the engines (the real servers, where `make servers` has built them), and stops them at the end."""
    with tempfile.TemporaryDirectory(prefix="ninjait-bench-") as folder:
        stack = LocalStack(Path(folder) / "home", SERVERS)
        try:
            settings = stack.up()
            with open_stores(validate(settings)) as stores:
                migrate_up(stores.postgres, stores.clickhouse)
                stores.message_queue.declare()
                stores.metrics_store.declare()
                found = {engine.name: find(engine) for engine in stack.engines()}
                yield Engines(stores, settings, {name: process for name, process in found.items() if process})
        finally:
            stack.down()
