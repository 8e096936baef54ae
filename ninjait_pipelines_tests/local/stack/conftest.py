"""One running stack for the module tests that only use it, and one of its own for each test that stops or kills."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from ninjait_pipelines.local.stack.local import LocalStack
from ninjait_pipelines_tests.local.stack.raw_http import Raw


@pytest.fixture(scope="session")
def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    stack = LocalStack(tmp_path_factory.mktemp("shared-stack"))
    stack.up()
    yield stack
    stack.delete()


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[LocalStack]:
    stack = LocalStack(tmp_path / "home")
    yield stack
    stack.delete()


def connect(settings: dict[str, str], **options: object) -> Client:
    address = urlsplit(settings["CLICKHOUSE_URL"])
    login = {"username": settings["CLICKHOUSE_USER"], "password": settings["CLICKHOUSE_PASSWORD"]}
    place = {"host": address.hostname, "port": address.port, "database": settings["CLICKHOUSE_DATABASE"]}
    return clickhouse_connect.get_client(**{**place, **login, **options})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def settings(shared_stack: LocalStack) -> dict[str, str]:
    return shared_stack.up()


@pytest.fixture
def client(settings: dict[str, str]) -> Iterator[Client]:
    with connect(settings) as client:
        yield client


@pytest.fixture
def table(client: Client) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:8]}"
    client.command(f"CREATE TABLE {name} (n UInt64, s String) ENGINE = MergeTree ORDER BY n")
    yield name
    client.command(f"DROP TABLE {name}")


@pytest.fixture
def raw(settings: dict[str, str]) -> Raw:
    return Raw(settings)
