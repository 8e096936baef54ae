"""One private stack of real servers, whose engines are killed; a world of its own for each test."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ninjait_pipelines.local.stack.local import LocalStack
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import open_stores
from ninjait_pipelines_tests.conftest import SERVERS, drop, fresh
from ninjait_pipelines_tests.faults.world import World, preload, world

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """The stack. It is healed before each test, whatever the one before has killed."""
    preload()
    stack = LocalStack(tmp_path_factory.mktemp("faults") / "home", SERVERS)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture
def make_world(private: LocalStack, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds; all are removed at the end."""
    with ExitStack() as opened:

        def make(random_seed: int = 1, hours: int = 6) -> World:
            found = private.up()
            settings = fresh(found, f"faults_{next(_numbers)}", tmp_path)
            opened.callback(lambda: drop(private.up(), settings))
            with open_stores(settings) as stores:
                migrate_up(stores.postgres, stores.clickhouse)
            return opened.enter_context(world(private, settings, random_seed, hours))

        yield make
