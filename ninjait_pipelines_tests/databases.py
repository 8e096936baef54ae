"""The databases of tests in PostgreSQL and ClickHouse: made empty, or with the tables of migrated ones.

To make ClickHouse's tables one by one takes it most of a second. So a copy of the migrated databases is used again:
the test that is done gives it back, and the next one gets it empty, provided that only rows have changed in it. One
whose tables, views, functions, rights or rows of migrations were touched, or in which something still runs, is
dropped.
"""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from graphlib import TopologicalSorter
from typing import Any

import psycopg
from psycopg import sql

from ninjait_pipelines.resources import open_stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.settings import validate

# What migrations write, not tests
OF_MIGRATIONS = (
    *("schema_migrations", "installation", "time_zones", "billing.currencies"),
    *("billing.plan_items", "billing.plans", "billing.price_versions", "billing.prices", "billing.products"),
)
# What tests add to the plan `standard` and its products; published prices cannot be deleted otherwise.
_ADDED = """
    DELETE FROM billing.plan_items WHERE plan_id NOT IN (SELECT id FROM billing.plans WHERE name = 'standard');
    DELETE FROM billing.plans WHERE name != 'standard';
    DELETE FROM billing.price_versions WHERE price_id NOT IN (SELECT id FROM billing.prices WHERE name = 'standard');
    DELETE FROM billing.prices WHERE name != 'standard';
    DELETE FROM billing.products WHERE name NOT IN ('base_fee', 'devices', 'storage', 'backup', 'api_calls');
"""
_CATALOGS = ("attribute", "attrdef", "constraint", "enum", "extension", "policy", "proc", "rewrite", "trigger", "type")
_made_by: dict[str, list[str]] = {}  # databases that are copied -> the statements that make ClickHouse's tables
_numbers = itertools.count(1)
_copies: dict[str, Any] = {}  # a copy -> its schema when it was made
_spare: list[str] = []  # copies that nobody uses, empty


def take(stack: dict[str, str], name: str, like: str | None = None) -> str:
    """The name of empty databases: of new ones called `name`; or of a copy of those called `like`, by its own name,
    since it outlives the test."""
    if like and _spare:
        return _spare.pop()
    name = f"{like}_{next(_numbers)}" if like else name
    create(stack, name, like)
    if like:
        with _opened(stack, name) as (connection, clickhouse):
            _copies[name] = _schema(connection, clickhouse)
    return name


def give_back(stack: dict[str, str], name: str) -> None:
    """Ends the use of what `take` has given."""
    with suppress(StoreError, psycopg.Error):  # what cannot be emptied is dropped
        if name in _copies and _emptied(stack, name):
            _spare.append(name)
            return
    _copies.pop(name, None)
    drop(stack, name)


def drop_spare(stack: dict[str, str]) -> None:
    while _spare:
        drop(stack, _spare.pop())


def create(stack: dict[str, str], name: str, like: str | None = None) -> None:
    """New databases: empty ones, or copies of those that are called `like`, which nobody may use now."""
    copied = sql.SQL(" TEMPLATE {}").format(sql.Identifier(like)) if like else sql.SQL("")
    with psycopg.connect(stack["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + copied)
    with open_stores(validate(stack)) as stores:
        stores.clickhouse.command(f"CREATE DATABASE {name}")
        if like:
            _copy_tables(stores.clickhouse, like, name)


def _copy_tables(clickhouse: ClickHouse, like: str, name: str) -> None:
    """Tables and views as ClickHouse itself says that they are made, and what is recorded of migrations."""
    if like not in _made_by:
        query = "SELECT name, create_table_query AS made_by FROM system.tables WHERE database = {like:String}"
        made_by = {row["name"]: row["made_by"] for row in clickhouse.rows(query, like=like)}
        reads = {one: set(re.findall(rf"\b{like}\.(\w+)", text)) - {one} for one, text in made_by.items()}
        _made_by[like] = [made_by[one] for one in TopologicalSorter(reads).static_order()]
    for statement in _made_by[like]:
        clickhouse.command(statement.replace(f"{like}.", f"{name}."))
    clickhouse.command(f"INSERT INTO {name}.schema_migrations SELECT * FROM {like}.schema_migrations")


def drop(stack: dict[str, str], name: str) -> None:
    with open_stores(validate(stack)) as stores:
        stores.clickhouse.command(f"DROP DATABASE IF EXISTS {name}")
    with psycopg.connect(stack["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def with_path(url: str, name: str) -> str:
    """A URL of another database of the same server."""
    base, _, query = url.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")


def empty_postgres(connection: psycopg.Connection[Any]) -> None:
    """Deletes all rows but those of migrations, and lets sequences begin anew."""
    tables = connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid::regclass::text != ALL(%s) "
        "AND pg_relation_size(oid) > 0 AND relnamespace::regnamespace::text !~ '^pg_' "
        "AND relnamespace::regnamespace::text != %s",
        [list(OF_MIGRATIONS), "information_schema"],
    ).fetchall()
    # What refuses to be emptied, such as issued documents, does so by triggers.
    connection.execute("SET session_replication_role = replica")
    if tables:
        names = ", ".join(str(next(iter(row.values() if isinstance(row, dict) else row))) for row in tables)
        connection.execute(f"TRUNCATE {names} RESTART IDENTITY CASCADE".encode())
    connection.execute(_ADDED)
    connection.execute("RESET session_replication_role")


def empty_clickhouse(clickhouse: ClickHouse) -> None:
    """Deletes all rows but those of migrations."""
    tables = "SELECT DISTINCT table FROM system.parts WHERE database = currentDatabase() AND active"
    for row in clickhouse.rows(f"{tables} AND table != 'schema_migrations'"):
        clickhouse.command(f"TRUNCATE TABLE {row['table']} SYNC")


def _emptied(stack: dict[str, str], name: str) -> bool:
    """Empties the databases, unless more than rows has changed, or something is still at work there."""
    with _opened(stack, name) as (connection, clickhouse):
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid != pg_backend_pid()",
            [name],
        )
        empty_postgres(connection)
        running = "SELECT count() FROM system.processes WHERE current_database = currentDatabase()"
        if clickhouse.scalar(running) > 1:  # this query is one of them
            return False
        empty_clickhouse(clickhouse)
        return bool(_schema(connection, clickhouse) == _copies[name])


@contextmanager
def _opened(stack: dict[str, str], name: str) -> Iterator[tuple[psycopg.Connection[Any], ClickHouse]]:
    """Both databases. To connect to ClickHouse costs as much as ten queries: once for all that is asked."""
    with (
        psycopg.connect(with_path(stack["DATABASE_URL"], name), autocommit=True) as connection,
        open_stores(validate({**stack, "CLICKHOUSE_DATABASE": name})) as stores,
    ):
        yield connection, stores.clickhouse


def _schema(connection: psycopg.Connection[Any], clickhouse: ClickHouse) -> tuple[Any, ...]:
    """What is not rows, and the rows of migrations.

    PostgreSQL's definitions are rows of catalogs: who changes one writes it anew, with a higher xmin.
    """
    catalogs = " UNION ALL ".join(
        f"SELECT 'pg_{one}', count(*)::text, max(xmin::text::bigint)::text FROM pg_{one}" for one in _CATALOGS
    )
    tables = "relname, relkind, relacl::text, reloptions, relrowsecurity, relnamespace"
    in_postgres = [
        connection.execute(query.encode()).fetchall()
        for query in (
            catalogs,
            f"SELECT {tables} FROM pg_class WHERE relpersistence != 't' ORDER BY oid",
            "SELECT nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY 1",
            "SELECT setrole, setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase "
            "WHERE datname = current_database() ORDER BY 1",
            *(f"TABLE {one}" for one in OF_MIGRATIONS),
        )
    ]
    in_clickhouse = clickhouse.rows(
        "SELECT name, uuid, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name"
    )
    records = clickhouse.rows("SELECT * FROM schema_migrations ORDER BY step")
    return in_postgres, in_clickhouse, records
