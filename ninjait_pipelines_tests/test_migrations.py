"""Migrations: what the planning refuses, and what the real stores hold after a failure, a kill and a race."""

import itertools
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ninjait_pipelines import migrations
from ninjait_pipelines.migrations import MigrationError, Record, due, load, migrate_up, parse, rollback, statements
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.reference.assets import organizations, rows_keep_the_constraints
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.store import StoreError, StoreFailed
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.conftest import drop, fresh
from ninjait_pipelines_tests.runs import passed, run

_numbers = itertools.count(1)


@pytest.fixture
def empty(stack: dict[str, str], tmp_path: Path) -> Iterator[Settings]:
    """Settings that name an empty PostgreSQL database and an empty ClickHouse database."""
    settings = fresh(stack, f"test_migrations_{next(_numbers)}", tmp_path)
    yield settings
    drop(stack, settings)


@pytest.fixture
def pair(empty: Settings) -> Iterator[Stores]:
    with open_stores(empty) as stores:
        yield stores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of migrations with one harmless migration for each store."""
    folder = tmp_path / "sql"
    for store in migrations.STORES:
        (folder / store).mkdir(parents=True)
    write(folder, "postgres/0001_first", "CREATE TABLE first (id int);", "DROP TABLE first;")
    write(folder, "clickhouse/0001_first", table("first"), "DROP TABLE IF EXISTS first;")
    return folder


def write(folder: Path, name: str, up: str, down: str) -> None:
    (folder / f"{name}.sql").write_text(f"-- a file\n\n-- migrate: up\n{up}\n\n-- migrate: down\n{down}\n")


def table(name: str) -> str:
    return f"CREATE TABLE {name} (id UInt64) ENGINE = MergeTree ORDER BY id;"


def tables(stores: Stores) -> set[str]:
    names = stores.clickhouse.rows("SELECT name FROM system.tables WHERE database = currentDatabase()")
    return {row["name"] for row in names} - {"schema_migrations"}


def pg_tables(stores: Stores) -> set[str]:
    names = stores.postgres.rows("SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'audit', 'billing')")
    return {row["tablename"] for row in names} - {"schema_migrations", "installation"}


def states(stores: Stores, folder: Path) -> dict[str, str]:
    return {f"{s.store}/{s.name}": s.state for s in migrations.status(stores.postgres, stores.clickhouse, folder)}


# --- planning ---


def test_a_statement_ends_at_a_line_end_and_a_rest_of_comments_is_none() -> None:
    section = (
        "-- why\nCREATE TABLE a (x text DEFAULT 'a;b');\n\n-- next\nCREATE TABLE b (\n  y int\n) ;  \n-- the end\n"
    )
    assert statements(section) == [
        "-- why\nCREATE TABLE a (x text DEFAULT 'a;b')",
        "-- next\nCREATE TABLE b (\n  y int\n)",
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("1_first.sql", "-- migrate: up\n-- migrate: down\n", "not named NNNN_name.sql"),
        ("0001_First.sql", "-- migrate: up\n-- migrate: down\n", "not named NNNN_name.sql"),
        ("0001_first.sql", "CREATE TABLE a (x int);\n", "one section"),
        ("0001_first.sql", "-- migrate: up\n", "one section"),
        ("0001_first.sql", "-- migrate: down\n-- migrate: up\n", "one section"),
        ("0001_first.sql", "-- migrate: up\n-- migrate: up\n-- migrate: down\n", "one section"),
        ("0001_first.sql", "SELECT 1;\n-- migrate: up\n-- migrate: down\n", "one section"),
    ],
)
def test_a_file_that_cannot_be_right_is_named(name: str, content: str, words: str) -> None:
    with pytest.raises(MigrationError, match=words) as error:
        parse(name, content.encode())
    assert name in str(error.value)


def test_a_gap_and_a_number_used_twice_are_named(folder: Path) -> None:
    write(folder, "postgres/0003_third", "SELECT 1;", "SELECT 1;")
    with pytest.raises(MigrationError, match=r"expected version 0002, found 0003_third\.sql"):
        load(folder / "postgres")
    write(folder, "postgres/0001_zweite", "SELECT 1;", "SELECT 1;")
    with pytest.raises(MigrationError, match=r"expected version 0002, found 0001_zweite\.sql"):
        load(folder / "postgres")


def recorded(number: int, name: str, content: bytes, finished: bool = True) -> Record:
    return Record(number, name, parse(f"{name}.sql", content).sha256, finished, datetime(2026, 1, 1, tzinfo=UTC))


FIRST = parse("0001_first.sql", b"-- migrate: up\n-- migrate: down\n")
SECOND = parse("0002_second.sql", b"-- migrate: up\n-- migrate: down\n")
CONTENT = b"-- migrate: up\n-- migrate: down\n"


def test_what_is_due_is_what_is_not_recorded_and_what_is_unfinished() -> None:
    first, unfinished = recorded(1, "0001_first", CONTENT), recorded(2, "0002_second", CONTENT, finished=False)
    assert due("postgres", [FIRST, SECOND], []) == [FIRST, SECOND]
    assert due("postgres", [FIRST, SECOND], [first]) == [SECOND]
    assert due("clickhouse", [FIRST, SECOND], [first, unfinished]) == [SECOND]


def test_an_edited_migration_is_refused_with_both_checksums() -> None:
    edited = parse("0001_first.sql", CONTENT + b"\n-- a note\n")
    with pytest.raises(MigrationError, match=r"sql/postgres/0001_first\.sql was edited") as error:
        due("postgres", [edited], [recorded(1, "0001_first", CONTENT)])
    assert edited.sha256 in str(error.value)
    assert FIRST.sha256 in str(error.value)


def test_a_file_whose_way_back_was_mended_says_what_it_was_and_is_the_one_that_was_applied() -> None:
    """The down section of an applied file was wrong, and mending it made every database's `migrate up` refuse."""
    mended = parse("0001_first.sql", f"-- why\n-- formerly: {FIRST.sha256}\n".encode() + CONTENT)
    assert due("clickhouse", [mended], [recorded(1, "0001_first", CONTENT)]) == []
    other = recorded(1, "0001_first", CONTENT + b"-- another\n")
    with pytest.raises(MigrationError, match=r"0001_first\.sql was edited"):
        due("clickhouse", [mended], [other])
    below = parse("0001_first.sql", CONTENT + f"-- formerly: {FIRST.sha256}\n".encode())
    assert below.formerly == (), "only above its sections"


def test_databases_of_earlier_versions_have_applied_0008() -> None:
    """Of 0.3.0, by the sha256 that stands in its databases."""
    of_0_3_0 = "28df0859dbaf086dc15421c6953f06828805ef2eead8d5a66243f4dccef14ae6"
    [counters] = [one for one in load(SQL / "clickhouse") if one.version == 8]
    record = Record(8, "0008_counters", of_0_3_0, True, datetime(2026, 1, 1, tzinfo=UTC))
    assert counters.is_recorded_by(record)


def test_an_applied_migration_without_a_file_is_named() -> None:
    with pytest.raises(MigrationError, match=r"0002_second applied, which sql/clickhouse does not have"):
        due("clickhouse", [FIRST], [recorded(1, "0001_first", CONTENT), recorded(2, "0002_second", CONTENT)])


def test_a_gap_among_the_applied_is_named() -> None:
    with pytest.raises(MigrationError, match="has 0002_second applied, but not 0001_first"):
        due("postgres", [FIRST, SECOND], [recorded(2, "0002_second", CONTENT)])


# --- the stores ---


def test_all_migrations_apply_once_undo_completely_and_apply_again(pair: Stores) -> None:
    pair.clickhouse.command(f"DROP DATABASE {pair.clickhouse.database}")
    pair.clickhouse.close()
    assert set(states(pair, SQL).values()) == {"pending"}
    applied = migrate_up(pair.postgres, pair.clickhouse)
    assert applied == [
        f"{store}/{path.stem}" for store in migrations.STORES for path in sorted((SQL / store).glob("*.sql"))
    ]
    assert migrate_up(pair.postgres, pair.clickhouse) == []
    before = tables(pair), pg_tables(pair)
    for name in reversed(applied):
        assert rollback(pair.postgres, pair.clickhouse, name.split("/")[0]) == name.split("/")[1]
    assert (tables(pair), pg_tables(pair)) == (set(), set())
    with pytest.raises(MigrationError, match="no migration to undo"):
        rollback(pair.postgres, pair.clickhouse, "clickhouse")
    assert migrate_up(pair.postgres, pair.clickhouse) == applied
    assert (tables(pair), pg_tables(pair)) == before


def test_rows_that_a_new_constraint_would_refuse_stop_no_migration(pair: Stores, tmp_path: Path) -> None:
    """They stay, and are named by a check; from now on the door is shut. What is sound is validated."""
    later = [path.name for path in (SQL / "postgres").glob("*.sql") if path.name >= "0008"]
    shutil.copytree(SQL, older := tmp_path / "older", ignore=shutil.ignore_patterns(*later))
    migrate_up(pair.postgres, pair.clickhouse, folder=older)
    old = "INSERT INTO organizations SELECT gen_random_uuid(), 'a', 'a', 'UTC', 'infinity'"
    with pair.postgres.transaction() as connection:
        connection.execute(old.encode())
    migrate_up(pair.postgres, pair.clickhouse)
    assert set(states(pair, SQL).values()) == {"applied"}
    valid = "SELECT conname AS name, convalidated AS is_valid FROM pg_constraint WHERE contype = 'c'"
    found = {row["name"]: row["is_valid"] for row in pair.postgres.rows(valid)}
    assert {name for name in found if not found[name]} == {"organizations_name_no_version", "organizations_times"}
    assert {"users_times", "contracts_times", "price_plans_numbers"} <= found.keys()
    result = run(pair, organizations, rows_keep_the_constraints)
    assert passed(result) == {"rows_keep_the_constraints": False}
    with pytest.raises(StoreError, match="organizations_times"), pair.postgres.transaction() as connection:
        connection.execute(old.replace("'a'", "'b'").encode())


def test_a_failed_postgres_migration_leaves_nothing_and_says_where_it_stopped(pair: Stores, folder: Path) -> None:
    write(
        folder,
        "postgres/0002_second",
        "CREATE TABLE second (id int);\nCREATE TABLE first (id int);",
        "DROP TABLE second;",
    )
    with pytest.raises(MigrationError, match=r"0002_second failed at statement 2 of 2: .*\"first\" already exists"):
        migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    assert pg_tables(pair) == {"first"}
    assert states(pair, folder)["postgres/0002_second"] == "pending"
    assert tables(pair) == set(), "the second store is not touched after a failure in the first"
    write(folder, "postgres/0002_second", "CREATE TABLE second (id int);", "DROP TABLE second;")
    assert migrate_up(pair.postgres, pair.clickhouse, folder=folder) == [
        "postgres/0002_second",
        "clickhouse/0001_first",
    ]


def test_a_failed_clickhouse_migration_leaves_nothing_and_says_where_it_stopped(pair: Stores, folder: Path) -> None:
    down = "DROP TABLE IF EXISTS third;\nDROP TABLE IF EXISTS second;"
    write(folder, "clickhouse/0002_second", f"{table('second')}\n{table('second')}\n{table('third')}", down)
    with pytest.raises(MigrationError, match=r"0002_second failed at statement 2 of 3: .*already exists.*was removed"):
        migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    assert tables(pair) == {"first"}
    assert states(pair, folder)["clickhouse/0002_second"] == "pending"
    write(folder, "clickhouse/0002_second", f"{table('second')}\n{table('third')}", down)
    assert migrate_up(pair.postgres, pair.clickhouse, folder=folder) == ["clickhouse/0002_second"]


def test_cleaning_up_never_drops_a_table_that_was_there_before(pair: Stores, folder: Path) -> None:
    """A migration that creates an existing table fails; its down section would then have dropped that table's data."""
    migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    pair.clickhouse.command("INSERT INTO first SELECT 7")
    write(folder, "clickhouse/0002_again", table("first"), "DROP TABLE IF EXISTS first;")
    with pytest.raises(MigrationError, match=r"0002_again was not started: its table first exists already"):
        migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    assert pair.clickhouse.scalar("SELECT id FROM first") == 7
    assert states(pair, folder)["clickhouse/0002_again"] == "pending"


def test_a_down_section_that_could_not_run_twice_is_refused(pair: Stores, folder: Path) -> None:
    write(folder, "clickhouse/0002_second", table("second"), "DROP TABLE second;")
    with pytest.raises(MigrationError, match="0002_second: needs IF EXISTS"):
        migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    assert tables(pair) == {"first"}


_MIGRATE = """
import json, pathlib, sys
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import open_stores
from ninjait_pipelines.settings import validate
with open_stores(validate(json.loads(sys.stdin.read()))) as stores:
    migrate_up(stores.postgres, stores.clickhouse, folder=pathlib.Path(sys.argv[1]))
"""


def _until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 150  # a process that begins takes long on a busy machine
    while not condition():
        assert process.poll() is None, "the migrating process ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("store", migrations.STORES)
def test_a_migration_killed_in_the_middle_is_removed_and_applied_by_the_next(
    pair: Stores, empty: Settings, folder: Path, store: str
) -> None:
    migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    rows = "SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1;"
    slow = "SELECT pg_sleep(60);" if store == "postgres" else rows
    create = "CREATE TABLE second (id int);" if store == "postgres" else table("second")
    write(folder, f"{store}/0002_second", f"{create}\n{slow}", "DROP TABLE IF EXISTS second;")
    process = subprocess.Popen([sys.executable, "-c", _MIGRATE, str(folder)], stdin=subprocess.PIPE, text=True)
    assert process.stdin
    process.stdin.write(json.dumps(dict(empty)))
    process.stdin.close()
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND datname = current_database()"
    _until(lambda: "second" in tables(pair) or bool(pair.postgres.rows(sleeping)), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pair.postgres.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'")
    assert states(pair, folder)[f"{store}/0002_second"] == {"postgres": "pending", "clickhouse": "unfinished"}[store]
    write(folder, f"{store}/0002_second", create, "DROP TABLE IF EXISTS second;")
    assert migrate_up(pair.postgres, pair.clickhouse, folder=folder) == [f"{store}/0002_second"]
    assert set(states(pair, folder).values()) == {"applied"}


def test_a_rollback_that_stopped_in_the_middle_is_finished_by_the_next_up(pair: Stores, folder: Path) -> None:
    down = "DROP TABLE IF EXISTS second;\nSELECT throwIf(1);"
    write(folder, "clickhouse/0002_second", table("second"), down)
    migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    with pytest.raises(MigrationError, match="0002_second is only partly undone"):
        rollback(pair.postgres, pair.clickhouse, "clickhouse", folder=folder)
    assert states(pair, folder)["clickhouse/0002_second"] == "unfinished"
    write(folder, "clickhouse/0002_second", table("second"), "DROP TABLE IF EXISTS second;")
    assert migrate_up(pair.postgres, pair.clickhouse, folder=folder) == ["clickhouse/0002_second"]


def test_two_at_once_apply_each_migration_once(empty: Settings) -> None:
    def migrate(_: int) -> list[str]:
        with open_stores(empty) as stores:
            return migrate_up(stores.postgres, stores.clickhouse)

    with ThreadPoolExecutor(2) as pool:
        applied = sorted(pool.map(migrate, range(2)), key=len)
    assert applied[0] == []
    assert len(applied[1]) == sum(1 for store in migrations.STORES for _ in (SQL / store).glob("*.sql"))


def test_a_statement_may_take_longer_than_a_drain_waits(pair: Stores, folder: Path) -> None:
    """Rewriting a large table is no outage; a migration that was given up half-way would begin again each time."""
    write(folder, "postgres/0002_second", "SELECT pg_sleep(1.5);", "SELECT 1;")
    write(folder, "clickhouse/0002_second", "SELECT sleep(1.5);", "SELECT 1;")
    short = {"statement_timeout_seconds": 1, "answer_timeout_seconds": 1}
    hasty = pair.clickhouse.elsewhere(timeout_seconds=1)
    with pair.postgres.elsewhere(**short).open() as postgres, hasty.open() as clickhouse:
        assert len(migrate_up(postgres, clickhouse, folder=folder)) == 4


def test_a_second_migration_waits_as_long_as_the_first_one_takes(pair: Stores, folder: Path) -> None:
    """With the time-outs of a drain it gave up after 20 seconds, with an error about a lock."""
    said: list[str] = []
    pair.postgres.rows("SELECT pg_advisory_lock(%(key)s)", {"key": migrations._LOCK})
    short = {"statement_timeout_seconds": 1, "answer_timeout_seconds": 1, "lock_timeout_seconds": 1}
    first_ends = threading.Timer(1.5, pair.postgres.close)
    with pair.postgres.elsewhere(**short).open() as second:
        first_ends.start()
        assert len(migrate_up(second, pair.clickhouse, said.append, folder=folder)) == 2
    first_ends.join()
    assert said[0] == "another migration is running: waiting for it"


# --- what the migrations declare ---


def test_every_table_view_and_column_of_clickhouse_has_a_comment(stores: Stores) -> None:
    without = stores.clickhouse.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND comment = '' "
        "UNION ALL SELECT table || '.' || name FROM system.columns WHERE database = currentDatabase() AND comment = ''"
    )
    assert without == []


def test_a_view_has_exactly_the_columns_of_its_storage(stores: Stores) -> None:
    columns: dict[str, list[tuple[str, str, str]]] = {}
    for row in stores.clickhouse.rows(
        "SELECT table, name, type, comment FROM system.columns "
        "WHERE database = currentDatabase() ORDER BY table, position"
    ):
        columns.setdefault(row["table"], []).append((row["name"], row["type"], row["comment"]))
    storages = [name for name in columns if name.endswith("_versions")]
    assert storages
    for storage in storages:
        assert columns[storage.removesuffix("_versions")] == columns[storage]


def test_every_table_of_clickhouse_says_why_it_is_sorted_and_partitioned_so() -> None:
    for path in (SQL / "clickhouse").glob("*.sql"):
        for before in re.split(r"^CREATE TABLE", path.read_text(), flags=re.MULTILINE)[:-1]:
            comment = before.rstrip().rsplit("\n\n", 1)[-1]
            assert "--" in comment.splitlines()[-1], f"{path.name}: a table without its reason: {comment[-80:]}"


# --- the command ---


def test_looking_at_what_is_declared_creates_nothing(empty: Settings) -> None:
    """`migrate status` created the queues and buckets that it was asked about, and called them ok."""
    with open_stores(empty) as fresh_stores:
        migrate_up(fresh_stores.postgres, fresh_stores.clickhouse)
        for _ in range(2):
            with pytest.raises(StoreFailed, match=r"no queue agent\.metrics, |no exchange .*migrate up"):
                fresh_stores.message_queue.check_declared()
        fresh_stores.message_queue.declare()
        fresh_stores.message_queue.check_declared()
        if "INFLUXDB_URL" in empty:
            for _ in range(2):
                with pytest.raises(StoreFailed, match="there is no bucket metrics, "):
                    fresh_stores.metrics_store.check_declared()
            fresh_stores.metrics_store.declare()
        fresh_stores.metrics_store.check_declared()
