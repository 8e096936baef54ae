"""The fixtures of the whole suite: one local stack a session, and databases of its own for each test."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import OPTIONAL, REQUIRED, Settings, validate

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_shell() -> Iterator[None]:
    """A test never reaches a store that the developer's shell points at."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*REQUIRED, *OPTIONAL, "DAGSTER_HOME", "DAGSTER_DATABASE_URL"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A local stack in a folder of its own: its settings as environment variables."""
    from ninjait_pipelines.stack.local import LocalStack

    stack = LocalStack(tmp_path_factory.mktemp("stack") / "home")
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture
def settings(stack: dict[str, str], tmp_path: Path) -> Iterator[Settings]:
    """Settings that name fresh, migrated databases, an empty key space and an empty archive."""
    number = next(_numbers)
    settings = fresh(stack, f"test_{os.getpid()}_{number}", number, tmp_path)
    from ninjait_pipelines.migrations import migrate_up

    try:
        with open_stores(settings) as stores:
            migrate_up(stores.postgres, stores.clickhouse)
        yield settings
    finally:
        _drop(stack, settings)


def fresh(stack: dict[str, str], name: str, number: int, folder: Path) -> Settings:
    """Settings for databases called `name`, empty; Dragonfly's is one of fifteen, emptied."""
    with open_stores(validate(stack)) as stores:
        stores.clickhouse.command(f"CREATE DATABASE {name}")
    with psycopg.connect(stack["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    archive = folder / "archive"
    archive.mkdir()
    settings = validate(
        {
            **stack,
            "DATABASE_URL": _with_database(stack["DATABASE_URL"], name),
            "MONGODB_URL": _with_database(stack["MONGODB_URL"], name),
            "DRAGONFLY_URL": _with_database(stack["DRAGONFLY_URL"], str(number % 15 + 1)),
            "CLICKHOUSE_DATABASE": name,
            "ARCHIVE_URL": archive.as_uri(),
        }
    )
    with open_stores(settings) as stores:
        stores.dragonfly.client.flushdb()
    return settings


def _with_database(url: str, name: str) -> str:
    base, _, query = url.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")


def _drop(stack: dict[str, str], settings: Settings) -> None:
    name = settings["CLICKHOUSE_DATABASE"]
    with open_stores(validate(stack)) as stores:
        stores.clickhouse.command(f"DROP DATABASE IF EXISTS {name}")
        stores.mongodb.database.client.drop_database(name)
    with psycopg.connect(stack["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def stores(settings: Settings) -> Iterator[Stores]:
    """The stores of `settings`, opened."""
    with open_stores(settings) as opened:
        opened.message_queue.declare()
        yield opened
