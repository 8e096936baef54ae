"""Which servers are too old: how they word their versions, and what is said before anything is changed."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ninjait_pipelines.cli import app
from ninjait_pipelines.migrations import check_versions, migrate_up
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores, stores_from
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines.resources.versions import numbers, problem, too_old
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.conftest import drop, fresh

_numbers = itertools.count(1)
KINDS = (ClickHouse, Dragonfly, DragonflyQueue, InfluxDB, MongoDB, Postgres, RabbitMQ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("26.9.2.1", (26, 9, 2, 1)),
        ("25.8.2.29-lts", (25, 8, 2, 29)),
        ("25.3.14.14.altinitystable", (25, 3, 14, 14)),
        ("v2.7.12", (2, 7, 12)),
        ("2.8.0", (2, 8, 0)),
        ("16.2", (16, 2)),
        ("16.2 (Debian 16.2-1.pgdg120+2)", (16, 2)),
        ("PostgreSQL 15.14 on x86_64-pc-linux-gnu, compiled by gcc 12.2.0", (15, 14)),
        ("18beta1", (18,)),
        ("18", (18,)),
        ("v18", (18,)),
        ("4.0.5", (4, 0, 5)),
        ("3.13.7+deb", (3, 13, 7)),
        ("df-v1.40.0", (1, 40, 0)),
        ("7.0.23-ent", (7, 0, 23)),
        ("", None),
        ("dev", None),
        ("nightly", None),
        ("2026-11-30", None),
        ("dfdb8c1", None),
    ],
)
def test_the_version_in_a_servers_words(text: str, expected: tuple[int, ...] | None) -> None:
    assert numbers(text) == expected


@pytest.mark.parametrize(
    ("version", "oldest", "old"),
    [
        ("24.8.4.1", "25.8", True),
        ("25.7.9.9", "25.8", True),
        ("25.8.2.1", "25.8", False),
        ("25.10.1.1", "25.8", False),
        ("v2.6.1", "2.7", True),
        ("v2.7.0", "2.7", False),
        ("14.19 (Debian 14.19-1)", "15", True),
        ("15.0", "15", False),
        ("18", "15", False),
        ("3.9.29", "3.10", True),
        ("3.10.8", "3.10", False),
        ("4.0.5", "3.10", False),
        ("dev", "2.7", False),
        ("", "2.7", False),
        ("S3 (AmazonS3)", "", False),
    ],
)
def test_which_versions_are_too_old(version: str, oldest: str, old: bool) -> None:
    assert too_old(version, oldest) == old


def test_what_cannot_be_compared_is_said_and_not_refused() -> None:
    assert "reports version 'dev', which cannot be compared with 2.7" in problem("dev", "2.7")
    assert problem("2.7.12", "2.7") == problem("S3 (AmazonS3)", "") == ""


def test_dragonfly_counts_in_another_way_than_redis() -> None:
    store = Dragonfly(url="redis://127.0.0.1:1/0")
    assert [store.oldest_of(version) for version in ("df-v1.39.0", "6.0.16", "8.1.0")] == ["1.40", "6.2", "6.2"]


def test_the_oldest_versions_are_those_of_the_documents() -> None:
    page = (ROOT / "docs" / "contracts.md").read_text().partition("## Servers")[2].partition("\n## ")[0]
    for kind in KINDS:
        assert f"| {kind.oldest}" in page, kind
    assert f"Dragonfly {Dragonfly.oldest_dragonfly}" in page


@pytest.fixture
def empty_settings(stack: dict[str, str], tmp_path: Path) -> Iterator[Settings]:
    """Settings that name databases with nothing in them."""
    settings = fresh(stack, f"test_versions_{next(_numbers)}", tmp_path)
    yield settings
    drop(stack, settings)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a kind of store demand a version, one that no server has yet."""

    def make(kind: type[Any], oldest: str = "99.1") -> None:
        monkeypatch.setattr(kind, "oldest", oldest)

    return make


@pytest.mark.parametrize("kind", [ClickHouse, Postgres])
def test_migrate_up_refuses_a_server_that_is_too_old_before_its_first_statement(
    empty_settings: Settings, old: Any, kind: type[Any]
) -> None:
    """On ClickHouse 24.8 a migration stopped half-way, with seven applied before it and nothing that worked."""
    old(kind)
    stores: Stores = stores_from(empty_settings.__getitem__, empty_settings)
    with stores.postgres.open(), stores.clickhouse.open():
        with pytest.raises(
            StoreFailed, match=r"version .* is too old, the oldest supported is 99\.1.*Nothing was changed"
        ):
            migrate_up(stores.postgres, stores.clickhouse)
        assert stores.clickhouse.rows("SHOW TABLES") == []
        assert stores.postgres.rows("SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []


def test_the_command_refuses_any_store_that_is_too_old(
    empty_settings: Settings, old: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in empty_settings.items():
        monkeypatch.setenv(name, value)
    old(MongoDB)
    done = CliRunner().invoke(app, ["migrate", "up"])
    assert done.exit_code == 1
    assert "is too old, the oldest supported is 99.1. Nothing was changed." in str(done.exception)
    stores = stores_from(empty_settings.__getitem__, empty_settings)
    with stores.clickhouse.open():
        assert stores.clickhouse.rows("SHOW TABLES") == []


class DevelopmentServer(Postgres):
    def server_version(self) -> str:
        return "devel"


def test_a_server_that_says_nothing_comparable_is_migrated() -> None:
    said: list[str] = []
    check_versions([DevelopmentServer(url="postgresql://127.0.0.1:1/x")], said.append)
    assert ["reports version 'devel'" in line for line in said] == [True]


def test_status_says_which_store_is_too_old_and_exits_with_1(
    settings: Settings, stores: Stores, old: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that the pipeline could do without: MongoDB answers, so that nothing goes to the spool."""
    stores.metrics_store.declare()
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert CliRunner().invoke(app, ["status"]).exit_code == 0
    old(MongoDB)
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 1
    assert "too old" in shown.stdout
    assert "is too old, the oldest supported is 99.1. Which versions are supported: docs/" in shown.stderr
    assert "spool" not in shown.stderr
    assert CliRunner().invoke(app, ["status", "--json"]).exit_code == 1
    [status] = [one for one in check_all(stores.all()) if not one.ok]
    assert (status.store, status.optional, status.oldest) == ("MongoDB", False, "99.1")
    old(MongoDB, "7.0")
    monkeypatch.setattr(Postgres, "_ping", lambda _: ("devel", None))
    shown = CliRunner().invoke(app, ["status"])
    assert (shown.exit_code, "reports version 'devel', which cannot be compared" in shown.stderr) == (0, True)
