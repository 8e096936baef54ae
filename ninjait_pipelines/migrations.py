"""Migrations of PostgreSQL and ClickHouse: which are due, applying them, undoing the newest.

A file `sql/<store>/NNNN_name.sql` has the sections `-- migrate: up` and `-- migrate: down`; a statement ends with `;`
at the end of a line. What was applied stands in each store's table `schema_migrations`, with the file's sha256: an
applied file may not be edited. Only its down section may be corrected, if undoing it was wrong: then the file says
above its sections which sha256 it had, `-- formerly: ...`, and databases that applied it as that take it as it is.

PostgreSQL applies a migration and its row in one transaction. ClickHouse has none, so there a migration is
1. recorded as `started`  (killed here: the next `up` removes what may be there, which is nothing, and applies it)
2. applied, statement by statement  (killed or failed here: its down section removes what it had made; every statement
   of a down section says IF EXISTS, and none needs what a statement of the up section may have failed for)
3. recorded as `applied`  (killed here: as in 2, and nothing can be in the new tables yet)
4. followed by the marts' views, which are made from their storages: so that the next migration may read them, and
   each `up` and `rollback` ends with them  (killed here: a view is as it was, or missing, until the next of these)
Removing never touches a table that was there before: that is checked before 1.
"""

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import LiteralString

import msgspec

from ninjait_pipelines.errors import UserError
from ninjait_pipelines.installation import record_start
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import Table, read_schema
from ninjait_pipelines.resources.clickhouse_versions import refresh_views
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import Store, StoreError, StoreFailed
from ninjait_pipelines.resources.versions import NEWER, problem, too_old
from ninjait_pipelines.settings import DEFAULT_START

STORES = ("postgres", "clickhouse")
# An arbitrary number that nothing else uses for an advisory lock of PostgreSQL.
_LOCK = 6_462_541_093
LONGEST_STATEMENT_SECONDS = 3600
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_SECTION = re.compile(r"^-- migrate: (up|down)[ \t]*$", re.MULTILINE)
_STATEMENT_END = re.compile(r";[ \t]*$", re.MULTILINE)
_FORMERLY = re.compile(r"^-- formerly: ([0-9a-f]{64})$", re.MULTILINE)
_DROPPED_TABLE = re.compile(r"^DROP TABLE IF EXISTS (\w+)", re.MULTILINE)

Report = Callable[[str], None]


class MigrationError(UserError):
    """Migrations that contradict the database, or one that failed; the message names it and the state it left."""


class Migration(msgspec.Struct, frozen=True):
    """A file: `name` is NNNN_name, `sha256` the hash of its bytes, `up` and `down` are its statements.

    `formerly` has the hashes of its earlier states, which differ in the down section only.
    """

    version: int
    name: str
    sha256: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    formerly: tuple[str, ...] = ()

    def is_recorded_by(self, record: "Record") -> bool:
        """Whether the record is of this file, in its present or an earlier state."""
        return record.name == self.name and record.sha256 in (self.sha256, *self.formerly)


class Record(msgspec.Struct, frozen=True):
    """A row of `schema_migrations`. It is not `finished` if a process was killed in the middle of the migration."""

    version: int
    name: str
    sha256: str
    finished: bool
    applied_at: datetime


class State(msgspec.Struct, frozen=True):
    """A line of `ninjait migrate status`; `state` is applied, pending, unfinished, edited or unknown."""

    store: str
    name: str
    state: str
    applied_at: datetime | None


# --- the files, and what is due: nothing here touches a store ---


def load(folder: Path) -> list[Migration]:
    """The migrations of a folder in order. Raises MigrationError for an invalid name, section or number."""
    migrations = [parse(path.name, path.read_bytes()) for path in sorted(folder.glob("*.sql"))]
    for expected, migration in enumerate(migrations, start=1):
        if migration.version != expected:
            raise MigrationError(f"{folder.name}: expected version {expected:04}, found {migration.name}.sql.")
    return migrations


def parse(file_name: str, content: bytes) -> Migration:
    """One migration file."""
    named = _FILE.fullmatch(file_name)
    if not named:
        raise MigrationError(f"{file_name} is not named NNNN_name.sql.")
    head, *sections = _SECTION.split(content.decode())
    if sections[::2] != ["up", "down"] or statements(head):
        raise MigrationError(f"{file_name} must have one section '-- migrate: up', then one '-- migrate: down'.")
    up, down = (statements(section) for section in sections[1::2])
    sha256 = hashlib.sha256(content).hexdigest()
    formerly = tuple(_FORMERLY.findall(head))
    return Migration(int(named[1]), file_name.removesuffix(".sql"), sha256, tuple(up), tuple(down), formerly)


def statements(section: str) -> list[str]:
    """The statements of a section, without their semicolons. Trailing comments are not a statement."""
    parts = (part.strip() for part in _STATEMENT_END.split(section))
    return [part for part in parts if any(line and not line.startswith("--") for line in part.splitlines())]


def due(store: str, migrations: Sequence[Migration], records: Sequence[Record]) -> list[Migration]:
    """The migrations to apply, in order; an unfinished one is among them.

    Raises MigrationError where the files and the database contradict each other.
    """
    recorded = {record.version: record for record in records}
    if unknown := sorted(recorded.keys() - {migration.version for migration in migrations}):
        raise MigrationError(
            f"{store} has {recorded[unknown[0]].name} applied, which sql/{store} does not have: "
            "this checkout is older than the database. Nothing was changed."
        )
    waiting: list[Migration] = []
    for migration in migrations:
        record = recorded.get(migration.version)
        if record is None or not record.finished:
            waiting.append(migration)
        elif waiting:
            raise MigrationError(
                f"{store} has {migration.name} applied, but not {waiting[0].name}. Nothing was changed."
            )
        else:
            _check_unedited(store, migration, record)
    return waiting


def _check_unedited(store: str, migration: Migration, record: Record) -> None:
    if not migration.is_recorded_by(record):
        raise MigrationError(
            f"sql/{store}/{migration.name}.sql was edited after it was applied as {record.name}: its sha256 is "
            f"{migration.sha256}, applied was {record.sha256}. Restore it, and put the change into a new migration."
        )


# --- the two stores ---


class _PostgresTarget:
    title = "PostgreSQL"

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    def records(self) -> list[Record]:
        if not self._postgres.rows(
            "SELECT 1 FROM pg_tables WHERE tablename = 'schema_migrations' AND schemaname = 'public'"
        ):
            return []
        rows = self._postgres.rows("SELECT version, name, sha256, applied_at FROM schema_migrations ORDER BY version")
        return [Record(finished=True, **row) for row in rows]

    def prepare(self) -> None:
        with self._postgres.transaction() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY, name text NOT NULL, "
                "sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )

    def apply(self, migration: Migration) -> None:
        self._in_transaction(
            migration,
            migration.up,
            "INSERT INTO schema_migrations (version, name, sha256) VALUES (%(version)s, %(name)s, %(sha256)s)",
        )

    def revert(self, migration: Migration) -> None:
        self._in_transaction(migration, migration.down, "DELETE FROM schema_migrations WHERE version = %(version)s")

    def finish(self) -> None:
        """Nothing follows from migrations here."""

    def _in_transaction(self, migration: Migration, section: Sequence[str], record: LiteralString) -> None:
        """Runs the statements and records them: both or neither, even if the process is killed."""
        at = 0
        try:
            with self._postgres.transaction() as connection:
                for at, statement in enumerate(section, start=1):  # noqa: B007 -- the number is for the error
                    connection.execute(statement.encode())
                connection.execute(record, msgspec.structs.asdict(migration))
        except StoreError as error:
            raise _failure(self.title, migration, at, section, error, "It was rolled back as a whole") from error


class _ClickHouseTarget:
    title = "ClickHouse"

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse

    def records(self) -> list[Record]:
        try:
            if not self._clickhouse.scalar("EXISTS TABLE schema_migrations"):
                return []
        except StoreFailed as error:
            if not _no_database(error):
                raise
            return []
        rows = self._clickhouse.rows(
            "SELECT version, name, sha256, state = 'applied' AS finished, recorded_at AS applied_at "
            "FROM schema_migrations FINAL WHERE state != 'removed' ORDER BY version"
        )
        return [Record(**{**row, "finished": bool(row["finished"])}) for row in rows]

    def prepare(self) -> None:
        try:
            self._create_table()
        except StoreFailed as error:
            if not _no_database(error):
                raise
            with self._clickhouse.elsewhere(database="default").open() as server:
                server.command(f"CREATE DATABASE IF NOT EXISTS {self._clickhouse.database}")
            self._create_table()

    def _create_table(self) -> None:
        self._clickhouse.command(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            "version UInt32 COMMENT 'NNNN of the file', name String COMMENT 'File name without .sql', "
            "sha256 String COMMENT 'Of the file', "
            "state LowCardinality(String) COMMENT 'started, applied, removing or removed; the last step counts', "
            "step UInt64 COMMENT 'Counts up over all rows', "
            "recorded_at DateTime64(6, 'UTC') DEFAULT now64(6) COMMENT 'When that state was reached') "
            "ENGINE = ReplacingMergeTree(step) ORDER BY version "
            "COMMENT 'Which migrations were applied. Grain: one migration. Read with FINAL.'"
        )

    def apply(self, migration: Migration) -> None:
        at = 0
        if any(record.version == migration.version for record in self.records()):
            self._remove(migration)  # a process was killed in the middle of it: it never was applied
        self._check_creates_only(migration)
        self._record(migration, "started")
        try:
            for at, statement in enumerate(migration.up, start=1):  # noqa: B007 -- the number is for the error
                self._clickhouse.command(statement)
        except StoreError as error:
            raise _failure(self.title, migration, at, migration.up, error, self._clean_up(migration)) from error
        self._record(migration, "applied")
        self.finish()

    def finish(self) -> None:
        """Brings the marts' views up to date: also where nothing was due, and a process was killed before it."""
        refresh_views(self._clickhouse)

    def revert(self, migration: Migration) -> None:
        self._record(migration, "removing")  # killed after this line: the next `up` or `rollback` finishes the removal
        try:
            self._remove(migration)
        except StoreError as error:
            raise MigrationError(
                f"ClickHouse migration {migration.name} is only partly undone: {error} Run rollback again."
            ) from error

    def _clean_up(self, migration: Migration) -> str:
        try:
            self._remove(migration)
        except StoreError as error:
            return f"It could not be cleaned up ({error}); the next 'ninjait migrate up' does that first"
        return "What it had made was removed"

    def _remove(self, migration: Migration) -> None:
        for statement in migration.down:
            self._clickhouse.command(statement)
        self._record(migration, "removed")

    def _check_creates_only(self, migration: Migration) -> None:
        """Clean-up drops the migration's tables: if one existed before, a failed CREATE would delete its data."""
        if unsafe := [one for one in migration.down if "IF EXISTS" not in one.upper() and "DROP" in one.upper()]:
            raise MigrationError(
                f"ClickHouse migration {migration.name}: needs IF EXISTS in its down section: {unsafe[0]}"
            )
        for table in _DROPPED_TABLE.findall("\n".join(migration.down)):
            if self._clickhouse.scalar(
                "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = {n:String}", n=table
            ):
                raise MigrationError(
                    f"ClickHouse migration {migration.name} was not started: its table {table} exists already, "
                    "and undoing the migration would drop it. Nothing was changed."
                )

    def _record(self, migration: Migration, state: str) -> None:
        self._clickhouse.command(
            "INSERT INTO schema_migrations (version, name, sha256, state, step) "
            "SELECT {version:UInt32}, {name:String}, {sha256:String}, {state:String}, max(step) + 1 "
            "FROM schema_migrations",
            version=migration.version,
            name=migration.name,
            sha256=migration.sha256,
            state=state,
        )


def _no_database(error: StoreFailed) -> bool:
    return "UNKNOWN_DATABASE" in str(error)


def _failure(
    title: str, migration: Migration, at: int, section: Sequence[str], error: StoreError, outcome: str
) -> MigrationError:
    return MigrationError(
        f"{title} migration {migration.name} failed at statement {at} of {len(section)}: {error} "
        f"{outcome}; the migrations before it stay applied."
    )


# --- what the command line and the tests call ---


def check_versions(stores: Iterable[Store], report: Report | None = None) -> None:
    """Raises StoreFailed for a store that is too old; reports one whose version cannot be interpreted.

    A store that does not answer is skipped: whatever needs it will fail with its own error.
    """
    say = report or (lambda _: None)
    for store in stores:
        try:
            version = store.server_version() if store.oldest else ""
        except StoreError:
            continue
        oldest = store.oldest_of(version)
        if too_old(version, oldest):
            raise StoreFailed(store.title, store.url, problem(version, oldest), f"Nothing was changed. {NEWER}")
        if words := problem(version, oldest):
            say(f"{store.title} at {store.address}: {words}")


def migrate_up(
    postgres: Postgres,
    clickhouse: ClickHouse,
    report: Report | None = None,
    folder: Path = SQL,
    start: date = DEFAULT_START,
) -> list[str]:
    """Applies what is due in both stores, and returns their names ("postgres/0001_platform").

    Raises StoreFailed where a store is too old, StartMoved where this installation began on another day than `start`,
    and MigrationError where a file and a database contradict each other, all before anything is changed; MigrationError
    at the first migration that fails. Two that run at once wait for each other.
    """
    say = report or (lambda _: None)
    check_versions((postgres, clickhouse), say)
    applied: list[str] = []
    with _patient(postgres, clickhouse) as targets, _locked(postgres, say):
        record_start(postgres, start)
        for target in targets.values():
            target.prepare()
        plan = [
            (store, migration)
            for store, target in targets.items()
            for migration in due(store, load(folder / store), target.records())
        ]
        for store, migration in plan:
            targets[store].apply(migration)
            applied.append(f"{store}/{migration.name}")
            say(f"applied {applied[-1]}")
        for target in targets.values():
            target.finish()
    return applied


def status(postgres: Postgres, clickhouse: ClickHouse, folder: Path = SQL) -> list[State]:
    """Every migration that the folder or a store has. Changes nothing and refuses nothing."""
    found: list[State] = []
    for store, target in _targets(postgres, clickhouse).items():
        files = {migration.version: migration for migration in load(folder / store)}
        records = {record.version: record for record in target.records()}
        for version in sorted(files.keys() | records.keys()):
            found.append(_state(store, files.get(version), records.get(version)))
    return found


def migrated_schema(clickhouse: ClickHouse, folder: Path = SQL) -> dict[str, Table]:
    """The tables and views of ClickHouse after all migrations: of a database that is made for it, and dropped."""
    name = f"{clickhouse.database}_snapshot_{os.getpid()}"
    try:
        with clickhouse.elsewhere(database=name).open() as empty:
            target = _ClickHouseTarget(empty)
            target.prepare()
            for migration in load(folder / "clickhouse"):
                target.apply(migration)
            return read_schema(empty)
    finally:
        clickhouse.command(f"DROP DATABASE IF EXISTS {name}")


def newest(postgres: Postgres, clickhouse: ClickHouse, store: str) -> str | None:
    """The name of the migration that `rollback` would undo."""
    records = _targets(postgres, clickhouse)[store].records()
    return records[-1].name if records else None


def rollback(
    postgres: Postgres, clickhouse: ClickHouse, store: str, report: Report | None = None, folder: Path = SQL
) -> str:
    """Undoes the newest migration of one store, with the data in it, and returns its name.

    Raises MigrationError where there is none, where its file is missing or was edited, or where undoing fails.
    """
    say = report or (lambda _: None)
    with _patient(postgres, clickhouse) as targets, _locked(postgres, say):
        target, migrations = targets[store], load(folder / store)
        records = target.records()
        due(store, migrations, records)
        if not records:
            raise MigrationError(f"{target.title} has no migration to undo.")
        target.revert(migrations[records[-1].version - 1])
        target.finish()
    say(f"undid {store}/{records[-1].name}")
    return records[-1].name


_Targets = dict[str, _PostgresTarget | _ClickHouseTarget]


def _targets(postgres: Postgres, clickhouse: ClickHouse) -> _Targets:
    return {"postgres": _PostgresTarget(postgres), "clickhouse": _ClickHouseTarget(clickhouse)}


@contextmanager
def _patient(postgres: Postgres, clickhouse: ClickHouse) -> Iterator[_Targets]:
    """Both stores over separate connections with long time-outs: rewriting a large table takes longer than a drain may.

    The time-out for a table's lock stays short, because every later query would queue up after the waiting one.
    """
    seconds = LONGEST_STATEMENT_SECONDS
    with ExitStack() as stack:
        patient = postgres.elsewhere(statement_timeout_seconds=seconds, answer_timeout_seconds=seconds + 5)
        opened = stack.enter_context(patient.open())
        yield _targets(opened, stack.enter_context(clickhouse.elsewhere(timeout_seconds=seconds).open()))


def _state(store: str, file: Migration | None, record: Record | None) -> State:
    if record is None:
        assert file is not None
        return State(store, file.name, "pending", None)
    if file is None:
        return State(store, record.name, "unknown", record.applied_at)
    if not record.finished:
        return State(store, file.name, "unfinished", record.applied_at)
    return State(store, file.name, "applied" if file.is_recorded_by(record) else "edited", record.applied_at)


@contextmanager
def _locked(postgres: Postgres, say: Report) -> Iterator[None]:
    """Holds PostgreSQL's advisory lock, which guards both stores. A killed process releases it with its connection."""
    key = {"key": _LOCK}
    if not postgres.rows("SELECT pg_try_advisory_lock(%(key)s) AS taken", key)[0]["taken"]:
        say("another migration is running: waiting for it")
        while not postgres.rows("SELECT pg_try_advisory_lock(%(key)s) AS taken", key)[0]["taken"]:
            time.sleep(0.2)
    try:
        yield
    finally:
        with suppress(StoreError):  # a server that is away has released the lock, and its absence is reported already
            postgres.rows("SELECT pg_advisory_unlock(%(key)s)", key)
