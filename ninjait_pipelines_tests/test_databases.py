"""A test never gets what another one has left in its databases."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.conftest import drop, fresh
from ninjait_pipelines_tests.databases import OF_MIGRATIONS

Borrowed = Callable[[str], AbstractContextManager[Stores]]


@pytest.fixture
def borrowed(stack: dict[str, str], migrated: str, tmp_path: Path) -> Borrowed:
    """A test's databases for the length of a `with`."""

    @contextmanager
    def borrow(by: str) -> Iterator[Stores]:
        (tmp_path / by).mkdir()
        settings: Settings = fresh(stack, f"test_databases_{by}", tmp_path / by, like=migrated)
        try:
            with open_stores(settings) as stores:
                yield stores
        finally:
            drop(stack, settings)

    return borrow


def identity(stores: Stores) -> str:
    """Other databases of the same name have another one."""
    return str(stores.clickhouse.scalar("SELECT uuid FROM system.databases WHERE name = currentDatabase()"))


def rows(stores: Stores) -> tuple[int, int]:
    """How many rows PostgreSQL and ClickHouse have, without those of migrations."""
    tables = stores.postgres.rows(
        "SELECT oid::regclass::text AS name FROM pg_class WHERE relkind = 'r' "
        "AND relnamespace::regnamespace::text IN ('public', 'audit', 'billing') "
        "AND oid::regclass::text != ALL(%(kept)s)",
        {"kept": list(OF_MIGRATIONS)},
    )
    in_postgres = sum(stores.postgres.rows(f"SELECT count(*) AS n FROM {one['name']}")[0]["n"] for one in tables)
    parts = "system.parts WHERE database = currentDatabase() AND active AND table != 'schema_migrations'"
    return in_postgres, stores.clickhouse.scalar(f"SELECT sum(rows) FROM {parts}")


def in_postgres(statement: str) -> Callable[[Stores], None]:
    def change(stores: Stores) -> None:
        with stores.postgres.transaction() as connection:
            connection.execute(statement.encode())

    return change


def in_clickhouse(statement: str) -> Callable[[Stores], None]:
    return lambda stores: stores.clickhouse.command(statement)


ORGANIZATION = (
    "INSERT INTO organizations (id, slug, name, time_zone, created_at) "
    "VALUES (gen_random_uuid(), 'acme', 'Acme', 'UTC', now())"
)


def test_rows_are_gone_when_databases_are_used_again(borrowed: Borrowed) -> None:
    used = set()
    for by in ("first", "second"):
        with borrowed(by) as stores:
            assert rows(stores) == (0, 0)
            in_postgres(ORGANIZATION)(stores)
            stores.clickhouse.probe()
            assert rows(stores) == (1, 1)
            used.add(identity(stores))
    assert len(used) == 1


@pytest.mark.parametrize(
    "change",
    [
        in_postgres("ALTER TABLE devices ADD COLUMN more text"),
        in_postgres("ALTER TABLE devices ALTER COLUMN name DROP NOT NULL"),
        in_postgres("CREATE INDEX more ON devices (last_seen)"),
        in_postgres("GRANT SELECT ON devices TO public"),
        in_postgres("DELETE FROM time_zones WHERE name = 'Asia/Tokyo'"),
        in_postgres("UPDATE schema_migrations SET sha256 = 'edited' WHERE version = 1"),
        in_clickhouse("ALTER TABLE write_probes ADD COLUMN more String"),
        in_clickhouse("ALTER TABLE write_probes MODIFY COMMENT 'more'"),
        in_clickhouse("DROP VIEW device_metrics_hourly"),
        in_clickhouse("INSERT INTO schema_migrations (version, state, step) VALUES (1, 'removing', 1000)"),
    ],
)
def test_databases_in_which_more_than_rows_has_changed_are_dropped(
    change: Callable[[Stores], None], borrowed: Borrowed
) -> None:
    with borrowed("first") as stores:
        change(stores)
        changed = identity(stores)
    with borrowed("second") as stores:
        assert identity(stores) != changed
        assert migrate_up(stores.postgres, stores.clickhouse) == []
