"""Dagster's storage as dagster.yaml names it, on a real PostgreSQL: connections are kept, shared and replaced."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import psycopg
import pytest
import sqlalchemy
import yaml

from ninjait_pipelines import dagster_storage
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.settings import Settings

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def instance(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    url = settings["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg2://", 1)
    monkeypatch.setenv("DAGSTER_DATABASE_URL", url)
    storage = yaml.safe_load((ROOT / "dagster.yaml").read_text())["storage"]
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides={"storage": storage}) as instance:
        yield instance
    dagster_storage._pool(url).dispose()


@pytest.fixture
def watcher(settings: Settings) -> Iterator[psycopg.Connection]:
    with psycopg.connect(settings["DATABASE_URL"], autocommit=True) as connection:
        yield connection


def backends(watcher: psycopg.Connection) -> set[int]:
    return {pid for (pid,) in watcher.execute(BACKENDS)}


def test_one_connection_serves_all_instances_of_a_process(
    instance: dg.DagsterInstance, watcher: psycopg.Connection
) -> None:
    """A code location makes an instance per sensor and tick: a pool for each would use up PostgreSQL's connections."""
    instance.get_runs_count()
    found = backends(watcher)
    assert len(found) == 1
    for _ in range(3):
        with dg.DagsterInstance.from_ref(instance.get_ref()) as another:
            assert another.get_runs_count() == 0
            assert another.get_asset_keys() == []
            assert another.all_instigator_state() == []
    assert backends(watcher) == found


def test_the_list_of_tables_is_read_once(instance: dg.DagsterInstance) -> None:
    """At every tick each of the three storages read it, and most statements asked for columns first."""
    statements: list[str] = []

    def use(used: dg.DagsterInstance) -> None:
        assert used.get_run_records() == []
        assert used.all_instigator_state() == []
        used.report_runless_asset_event(dg.AssetMaterialization("mart"))
        assert used.get_asset_records([dg.AssetKey("mart")])

    use(instance)
    pool = dagster_storage._pool(instance.event_log_storage.postgres_url)  # type: ignore[attr-defined]
    sqlalchemy.event.listen(pool, "before_cursor_execute", lambda *event: statements.append(event[2]))
    with dg.DagsterInstance.from_ref(instance.get_ref()) as another:
        use(another)
    assert statements
    assert not [statement for statement in statements if "pg_catalog" in statement]


def test_a_connection_that_a_restart_ended_is_replaced(
    instance: dg.DagsterInstance, watcher: psycopg.Connection
) -> None:
    instance.get_runs_count()
    for pid in (before := backends(watcher)):
        watcher.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    assert instance.get_runs_count() == 0
    assert not backends(watcher) & before


def test_many_threads_wait_for_none_and_few_connections_stay(
    instance: dg.DagsterInstance, watcher: psycopg.Connection
) -> None:
    """The daemon's threads, each in a statement."""
    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(lambda _: instance.get_runs_count(), range(60))) == [0] * 60
    deadline = time.monotonic() + 5  # a connection that was closed still ends on PostgreSQL's side
    while len(backends(watcher)) > dagster_storage.KEPT and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 1 <= len(backends(watcher)) <= dagster_storage.KEPT


def test_what_a_run_reports_is_found_by_another_instance(instance: dg.DagsterInstance) -> None:
    instance.report_runless_asset_event(dg.AssetMaterialization("mart", partition="2026-01-01"))
    with dg.DagsterInstance.from_ref(instance.get_ref()) as another:
        assert another.get_materialized_partitions(dg.AssetKey("mart")) == {"2026-01-01"}
