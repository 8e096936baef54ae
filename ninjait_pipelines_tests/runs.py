"""How tests run assets: through Dagster, with the real stores, for a partition or a range; and how they kill a run."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from ninjait_pipelines.partitions import range_tags
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.store import Store

_idle: list[dg.DagsterInstance] = []  # empty ones, for the next run that brings none


@contextlib.contextmanager
def empty_instance() -> Iterator[dg.DagsterInstance]:
    """An ephemeral instance without runs, events and files. To make one costs half of a small run: emptied, it serves
    again. One with sensors or a daemon is a test's own."""
    instance = _idle.pop() if _idle else dg.DagsterInstance.ephemeral()
    try:
        yield instance
    finally:
        instance.wipe()
        shutil.rmtree(instance.storage_directory(), ignore_errors=True)
        _idle.append(instance)


class Killed(Exception):
    """The process died here."""


def run(
    stores: Stores,
    *definitions: dg.AssetsDefinition | dg.AssetChecksDefinition,
    key: str | None = None,
    span: tuple[str, str] | None = None,
    instance: dg.DagsterInstance | None = None,
    fails: bool = False,
    config: Mapping[str, Any] | None = None,
    only: Sequence[str] = (),
) -> dg.ExecuteInProcessResult:
    """One run of these assets and checks: of a partition `key`, or of the range `span` (both ends included).

    config: asset -> its config, as in the launchpad; only: names of assets, where several are computed together.
    """
    checks = [one for one in definitions if isinstance(one, dg.AssetChecksDefinition)]
    with empty_instance() if instance is None else contextlib.nullcontext(instance) as place:
        result = dg.materialize(
            definitions,
            selection=dg.AssetSelection.assets(*only) | dg.AssetSelection.checks(*checks) if only else None,
            resources=stores.all(),
            partition_key=key,
            tags=range_tags(*span) if span else None,
            instance=place,
            run_config={"ops": {name: {"config": values} for name, values in (config or {}).items()}},
            raise_on_error=not fails,
        )
    assert result.success is not fails
    return result


@contextlib.contextmanager
def killed(owner: type, method: str, call: int = 1, after: bool = False) -> Iterator[None]:
    """Inside the `with`, the process dies at the `call`-th call of a method: before it does anything, or `after` it."""
    real = getattr(owner, method)
    calls = 0

    def dying(self: Any, *arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            raise Killed(f"before {method} number {call}")
        result = real(self, *arguments, **keywords)
        if calls == call:
            raise Killed(f"after {method} number {call}")
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, dying)
        yield
    assert calls >= call, f"{method} was called {calls} times: nothing was killed"


def changed(store: Store, **methods: Any) -> Any:
    """The same store with some methods replaced, as Dagster takes it: an instance of a class of its own."""
    kind = type(store)
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **methods})(**store.model_dump())


def lose_a_row(table: str, rows: pa.Table) -> pa.Table:
    """The first row of every mart."""
    return rows.slice(1)


def faulty(stores: Stores, fault: Callable[[str, pa.Table], pa.Table] = lose_a_row) -> Stores:
    """The stores, with a ClickHouse that writes what `fault` makes of a mart's rows."""

    def replace_slice(self: ClickHouse, table: str, rows: pa.Table, *version: Any) -> int:
        return ClickHouse.replace_slice(self, table, fault(table, rows), *version)

    return replace(stores, clickhouse=changed(stores.clickhouse, replace_slice=replace_slice))


def content(stores: Stores, view: str) -> list[tuple[Any, ...]]:
    """All rows of a ClickHouse view, sorted, without as_of: what a rerun must give again."""
    rows = stores.clickhouse.rows(f"SELECT * EXCEPT (as_of) FROM {view}")
    return sorted((tuple(row.values()) for row in rows), key=repr)


def passed(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    """Check name -> whether it passed; of a range run, the result of the whole run."""
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def add(stores: Stores, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Inserts rows into a PostgreSQL table."""
    if rows:
        names = list(rows[0])
        values = ", ".join(f"%({name})s" for name in names)
        with stores.postgres.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})".encode(), rows)


def spoil(stores: Stores, table: str, change: str) -> None:
    """Changes rows of a PostgreSQL table to what its constraints refuse: they are older than these and its triggers,
    as after a `migrate up` of a database that had them."""
    constraints = "SELECT conname AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint"
    of_table = f"WHERE conrelid = '{table}'::regclass AND contype IN ('c', 'f')"
    with stores.postgres.transaction() as connection:
        found = connection.execute(f"{constraints} {of_table}".encode()).fetchall()
        for one in found:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {one['name']}".encode())
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        connection.execute(change.encode())
        connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
        for one in found:
            definition = one["definition"].removesuffix(" NOT VALID")
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {one['name']} {definition} NOT VALID".encode())


def left_out(result: dg.ExecuteInProcessResult, asset: str) -> str:
    """What a run left out of an asset: its metadata and its check say the same."""
    [event] = result.asset_materializations_for_node(asset)
    [check] = [one for one in result.get_asset_check_evaluations() if one.check_name == f"{asset}_left_nothing_out"]
    names = str(event.metadata["left_out_names"].value)
    assert check.passed is (not names)
    assert names in str(check.description)
    return names
