"""Every migration of every file, stopped in the middle, and back and forth: nothing may be lost or left half-way.

ClickHouse's newest are stopped at every statement. Older ones, which nobody edits, only at their last, where there is
most to remove; with `--clickhouse`, as `make test-servers` has it, they too at every statement, since another engine
may fail at any. PostgreSQL's are stopped after their last: what is rolled back there is rolled back anywhere before.

On an older ClickHouse a statement of 0008 failed, and its down section, which needed the same kind of statement, failed
too: the database was neither as before nor as after, and no command could move it.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ninjait_pipelines.migrations import Migration, MigrationError, load, migrate_up, rollback
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import STORAGE
from ninjait_pipelines.resources.clickhouse_versions import VERSION_OF
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.conftest import drop, fresh

CLICKHOUSE, POSTGRES = load(SQL / "clickhouse"), load(SQL / "postgres")
NEWEST = CLICKHOUSE[-2:]
# What ClickHouse can do in every version, and no way back can do without. That a view can be made as it was is known:
# it has been there.
ALTERATIONS = ("ADD COLUMN", "DROP COLUMN", "MODIFY COLUMN", "MODIFY ORDER", "MODIFY COMMENT")
ALWAYS = {"DROP TABLE", "RENAME TABLE", "DROP VIEW", "CREATE VIEW", *(f"ALTER {action}" for action in ALTERATIONS)}


class Killed(BaseException):
    """The process ends here: nothing in it runs any more."""


class Stop:
    """Where the stores below stop, and how."""

    at: ClassVar[str] = ""
    error: ClassVar[type[BaseException]] = Killed

    @classmethod
    def perhaps(cls, *here: str) -> None:
        if cls.at in here:
            raise Killed if cls.error is Killed else StoreFailed("A store", "http://here", "stopped", "Go on.")


class StoppingClickHouse(ClickHouse):
    """Stops at a statement, or at the record of a state, before it reaches the server. Connected once, for all."""

    def elsewhere(self, **changes: Any) -> "StoppingClickHouse":
        return self

    def close(self) -> None:
        return

    def command(self, statement: str, **parameters: Any) -> None:
        Stop.perhaps(statement, parameters.get("state", ""))
        super().command(statement, **parameters)


class StoppingPostgres(Postgres):
    """Stops before a migration is recorded, the last statement of its transaction."""

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with super().transaction() as connection:
            yield _Stopping(connection)


class _Stopping:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        if isinstance(statement, str):  # a migration's own are bytes
            Stop.perhaps(" ".join(statement.split()[:3]))
        return self._connection.execute(statement, parameters)


@pytest.fixture
def straight(stack: dict[str, str], tmp_path: Path) -> Iterator[Stores]:
    """Empty databases, which nothing stops."""
    yield from _opened(stack, "test_straight", tmp_path)


@pytest.fixture
def stopped(stack: dict[str, str], tmp_path: Path) -> Iterator[Stores]:
    """Empty databases."""
    (tmp_path / "stopped").mkdir()
    yield from _opened(stack, "test_stopped", tmp_path / "stopped")


def _opened(stack: dict[str, str], name: str, folder: Path) -> Iterator[Stores]:
    settings: Settings = fresh(stack, name, folder)
    with open_stores(settings) as stores:
        yield stores
    drop(stack, settings)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of migrations, empty at first; `give` puts files into it."""
    for store in ("postgres", "clickhouse"):
        (tmp_path / "sql" / store).mkdir(parents=True)
    return tmp_path / "sql"


def give(files: Path, store: str, migration: Migration) -> None:
    (files / store / f"{migration.name}.sql").write_bytes((SQL / store / f"{migration.name}.sql").read_bytes())


# --- what the stores hold ---


def schema(clickhouse: ClickHouse) -> dict[str, Any]:
    """Tables and columns, with everything that was declared of them."""
    tables = clickhouse.rows(
        "SELECT name, replaceAll(create_table_query, currentDatabase(), '') AS made_by FROM system.tables "
        "WHERE database = currentDatabase() AND name != 'schema_migrations'"
    )
    columns = clickhouse.rows(
        "SELECT table || '.' || name AS name, type, default_expression, comment FROM system.columns "
        "WHERE database = currentDatabase() AND table != 'schema_migrations'"
    )
    return {row.pop("name"): row for row in (*tables, *columns)}


def postgres_schema(postgres: Postgres) -> list[Any]:
    """Columns, constraints, indexes, functions and triggers; no extension, which stays: it may be of use to others."""
    ours = "n.nspname !~ '^pg_' AND n.nspname != 'information_schema'"
    rows = postgres.rows(
        "SELECT format('%s.%s', c.relname, a.attname) AS name, format_type(a.atttypid, a.atttypmod) AS what "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace "
        f"WHERE {ours} AND NOT a.attisdropped "
        "UNION ALL SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(c.oid) FROM pg_constraint c "
        f"JOIN pg_namespace n ON n.oid = connamespace WHERE {ours} "
        "UNION ALL SELECT p.proname, pg_get_functiondef(p.oid) FROM pg_proc p "
        f"JOIN pg_namespace n ON n.oid = pronamespace WHERE {ours} AND p.prokind IN ('f', 'p') "
        "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e') "
        "UNION ALL SELECT t.tgname, pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE NOT tgisinternal"
    )
    not_migrated = ("schema_migrations", "installation")  # made before the first migration
    return sorted((row["name"], row["what"]) for row in rows if not any(name in row["name"] for name in not_migrated))


def stored(clickhouse: ClickHouse) -> dict[str, list[str]]:
    """The columns of each table that holds rows, without those that are computed."""
    rows = clickhouse.rows(
        "SELECT table, groupArray(name) AS names FROM system.columns WHERE database = currentDatabase() "
        "AND default_kind IN ('', 'DEFAULT') AND table IN (SELECT name FROM system.tables WHERE database = "
        "currentDatabase() AND engine LIKE '%MergeTree' AND name NOT LIKE '%migrations') GROUP BY table ORDER BY table"
    )
    return {row["table"]: row["names"] for row in rows}


def fill(clickhouse: ClickHouse, tables: dict[str, list[str]]) -> None:
    """Three rows in each table, of today, so that no TTL takes them."""
    for table, names in tables.items():
        types = {row["name"]: row["type"] for row in clickhouse.rows(f"DESCRIBE TABLE {table}")}
        values = ", ".join(f"{value_of(types[name])} AS {name}" for name in names)
        clickhouse.command(f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM numbers(3)")


def value_of(type_: str) -> str:
    wrapped = re.fullmatch(r"(?:Nullable|LowCardinality|SimpleAggregateFunction)\((?:\w+, )?(.+)\)", type_)
    if wrapped:
        return value_of(wrapped[1])
    if type_ == "UUID":
        return "toUUID(concat('00000000-0000-4000-8000-00000000000', toString(number)))"
    if type_ == "String":
        return "concat('text ', toString(number))"
    if type_.startswith("DateTime"):
        return "now64(3, 'UTC') - toIntervalSecond(number)"
    return "today()" if type_.startswith("Date") else f"defaultValueOfTypeName($${type_}$$)"


def contents(clickhouse: ClickHouse, tables: dict[str, list[str]]) -> dict[str, tuple[int, int]]:
    """Of each table the number of its rows, and a checksum of these columns; markers of versions are no rows."""
    queries = []
    for table, names in tables.items():
        hashes = f"sum(cityHash64(toString(tuple({', '.join(names)}))))"
        marker = "organization_id = toUUID('00000000-0000-0000-0000-000000000000')" if table.endswith(STORAGE) else "0"
        marker = f"startsWith(slug, '{VERSION_OF}')" if table == f"organizations{STORAGE}" else marker
        queries.append(f"SELECT '{table}' AS name, count() AS n, {hashes} AS sum FROM {table} WHERE NOT ({marker})")
    rows = clickhouse.rows(" UNION ALL ".join(queries) + " SETTINGS final = 1") if queries else []
    return {row["name"]: (row["n"], row["sum"]) for row in rows}


# --- the tests ---


def kinds(statement: str) -> list[str]:
    """What a statement needs of the engine: ALTER ATTACH PARTITION, EXCHANGE TABLES, CREATE VIEW, ..."""
    text = re.sub(r"--.*|'(?:[^']|'')*'", "", statement)
    text = re.sub(r"\b(IF (NOT )?EXISTS|OR REPLACE)\b ?", "", text).strip()
    if not text.startswith("ALTER TABLE"):
        return [" ".join(text.split()[:2])]
    return [f"ALTER {action}" for action in re.findall(r"(?:ALTER TABLE \w+|,)\s+([A-Z]+ [A-Z]+)", text)]


@pytest.mark.parametrize("migration", CLICKHOUSE, ids=lambda one: one.name)
def test_the_way_back_needs_nothing_that_the_way_there_may_fail_on(migration: Migration) -> None:
    """Where an engine does not know a kind of statement, a way back that uses it is none. What an earlier migration did
    on its way there, the engine knows."""
    down, up = (
        {kind for statement in section for kind in kinds(statement)} for section in (migration.down, migration.up)
    )
    earlier = [statement for one in CLICKHOUSE if one.version < migration.version for statement in one.up]
    assert down & up - ALWAYS - {kind for statement in earlier for kind in kinds(statement)} == set()


def stops(migration: Migration, everywhere: bool) -> Iterable[tuple[str, type[BaseException]]]:
    """Where a migration of ClickHouse is stopped, and how: killed and failed in turns, or where most is done."""
    if everywhere or migration in NEWEST:
        return zip((*migration.up, "applied"), cycle((Killed, StoreFailed)), strict=False)
    return (migration.up[-1], StoreFailed), ("applied", Killed)


@pytest.mark.timeout(900)  # on a machine that is busy with much else
def test_clickhouse_is_stopped(straight: Stores, stopped: Stores, files: Path, clickhouse_version: str) -> None:
    """The process is killed at one statement; the next `up` removes what that one left, and fails one further on."""
    place = {name: getattr(stopped.clickhouse, name) for name in ("url", "user", "password", "database")}
    for migration in CLICKHOUSE:
        text = " ".join((*migration.up, *migration.down))
        tables = {
            name: columns for name, columns in stored(stopped.clickhouse).items() if re.search(rf"\b{name}\b", text)
        }
        fill(stopped.clickhouse, tables)
        before = contents(stopped.clickhouse, tables)
        give(files, "clickhouse", migration)
        with StoppingClickHouse(**place).open() as stopping:
            for Stop.at, Stop.error in stops(migration, everywhere=bool(clickhouse_version)):
                with pytest.raises((Killed, MigrationError, StoreFailed)):
                    migrate_up(stopped.postgres, stopping, folder=files)
                if Stop.error is StoreFailed and Stop.at != "applied":
                    assert contents(stopped.clickhouse, tables) == before, f"{migration.name}, stopped at: {Stop.at}"
        rollback(stopped.postgres, stopped.clickhouse, "clickhouse", folder=files)
        assert contents(stopped.clickhouse, tables) == before, f"{migration.name}, taken back"
        migrate_up(stopped.postgres, stopped.clickhouse, folder=files)
        for name in tables.keys() & stored(stopped.clickhouse).keys():
            assert contents(stopped.clickhouse, {name: ["1"]})[name][0] == before[name][0], f"{migration.name}: {name}"
        migrate_up(straight.postgres, straight.clickhouse, folder=files)
        assert schema(stopped.clickhouse) == schema(straight.clickhouse), migration.name


def test_the_databases_of_tests_are_as_migrated_ones(stores: Stores, migrated: str) -> None:
    """They are copies, made by what ClickHouse says of its tables."""
    with stores.clickhouse.elsewhere(database=migrated).open() as original:
        assert schema(stores.clickhouse) == schema(original)
    assert migrate_up(stores.postgres, stores.clickhouse) == []


def test_postgres_is_stopped(straight: Stores, stopped: Stores, files: Path) -> None:
    """It is rolled back as a whole; and every way back leads to where it came from."""
    with StoppingPostgres(url=stopped.postgres.url).open() as stopping:
        for migration in POSTGRES:
            before = postgres_schema(stopped.postgres)
            give(files, "postgres", migration)
            Stop.at, Stop.error = "INSERT INTO schema_migrations", StoreFailed
            with pytest.raises(MigrationError, match=migration.name):
                migrate_up(stopping, stopped.clickhouse, folder=files)
            assert postgres_schema(stopped.postgres) == before, migration.name
            Stop.at = ""
            migrate_up(stopping, stopped.clickhouse, folder=files)
            after = postgres_schema(stopped.postgres)
            Stop.at = "DELETE FROM schema_migrations"
            with pytest.raises(MigrationError, match=migration.name):
                rollback(stopping, stopped.clickhouse, "postgres", folder=files)
            assert postgres_schema(stopped.postgres) == after, migration.name
            Stop.at = ""
            rollback(stopping, stopped.clickhouse, "postgres", folder=files)
            assert postgres_schema(stopped.postgres) == before, migration.name
            migrate_up(stopping, stopped.clickhouse, folder=files)
    migrate_up(straight.postgres, straight.clickhouse, folder=files)
    assert postgres_schema(stopped.postgres) == postgres_schema(straight.postgres)
