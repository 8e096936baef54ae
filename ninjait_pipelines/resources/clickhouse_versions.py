"""How versions of a mart are stored, fenced and read: decided here and nowhere else.

The mart `x` is stored in the table `x_versions`; a view `x`, which `migrate up` generates, shows readers what counts.
The comment of the table ends by saying what a version is of:

    Versions: by row.             rows of one sort key, of which the newest counts; none is ever taken away
    Versions: whole.              the whole mart
    Versions: by <expression>.    the rows of one value of the expression (a slice), as a day or an hour
    ... where <condition>.        of which readers see these rows only, and no marker, whose numbers are all 0

A version of a slice, or of the whole, is written once, in one block with a marker for each slice: a row of no
organization (all zeros; of organizations, one with a slug that none can have) that says which version of which slice
this is. The view shows no markers, and of a slice with several only the rows of the newest one's version: readers see
the newest whole version, and an older run that writes late changes nothing. Rows that were written by hand have no
marker, and are seen while their slice has at most one; migration 0023 gave one to each slice of before 0.4.0.

No reader needs FINAL for that: it merges whatever was written in pieces, which costs up to forty times the read itself.
With each query a view reads the markers of all slices: a short range at the front of the sort key. Where no slice has
two, which is nearly always, the rest of the condition is constant. Markers and rows are read from one snapshot: from
two, a reader would see a slice twice, or not at all, while a run replaces it.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.resources.clickhouse_schema import (
    EPOCH,
    STORAGE,
    Database,
    Table,
    read_schema,
    snapshot,
    written_columns,
)

NOBODY = UUID(int=0)
VERSION_OF = "version of "
# The default since ClickHouse 26.1; before, each subquery has a snapshot of its own.
ONE_SNAPSHOT = "enable_shared_storage_snapshot_in_query = 1"
_DECLARED = re.compile(r" Versions: (?:by row|whole|by (?P<slice>.+?))(?: where (?P<shown>.+))?\.$")


class Versions(msgspec.Struct, frozen=True):
    """What a version is of: rows with one sort key, the whole mart, or a slice; `shown`: the rows that readers see."""

    by_row: bool = False
    slice: str | None = None
    shown: str | None = None


def declared(comment: str) -> Versions | None:
    """What the comment of a storage says; None where it says nothing, as before migration 0021."""
    found = _DECLARED.search(comment)
    return Versions(" Versions: by row" in comment, found["slice"], found["shown"]) if found else None


def versions_of(mart: str) -> Versions:
    """A mart that is written slice by slice, or whole."""
    found = declared(snapshot()[f"{mart}{STORAGE}"].comment)
    if found is None or found.by_row:
        raise KeyError(f"the comment of {mart}{STORAGE} does not say what is replaced: 'Versions: by day.'")
    return found


def sliced_marts() -> list[str]:
    """The marts that `replace_slice` writes."""
    storages = {name: declared(table.comment) for name, table in snapshot().items() if name.endswith(STORAGE)}
    return [name.removesuffix(STORAGE) for name, versions in storages.items() if versions and not versions.by_row]


# --- writing ---


def slices_from(mart: str, start: datetime) -> list[date]:
    """The slice that a window from `start` on fills, a day or an hour; none of a mart that is replaced whole."""
    expression = versions_of(mart).slice
    column = written_columns(mart).get(expression or "")
    return [start if column and column.type.startswith("DateTime") else start.date()] if expression else []


def refuse_marker(row: Mapping[str, Any]) -> None:
    """Raises ValueError for a row that the view would take for a marker."""
    slug, owner = str(row.get("slug", "")), str(row.get("organization_id", ""))
    if slug.startswith(VERSION_OF) or owner == str(NOBODY):
        raise ValueError(f"{slug or owner!r} is what versions of slices are called")


def refuse_markers(rows: pa.Table) -> None:
    """Raises ValueError if the view would take any of the rows for a marker."""
    names = rows.column_names
    if "slug" in names and pc.any(pc.starts_with(rows["slug"], VERSION_OF)).as_py():
        raise ValueError(f"a slug begins with {VERSION_OF!r}, as versions of slices are called")
    if "organization_id" in names and pc.any(pc.equal(rows["organization_id"], str(NOBODY))).as_py():
        raise ValueError(f"an organization_id is {NOBODY}, as versions of slices have it")


_EMPTY: dict[pa.DataType, Any] = {
    pa.string(): "",
    pa.bool_(): False,
    pa.date32(): EPOCH.date(),
    pa.timestamp("s", "UTC"): EPOCH,
    pa.timestamp("ms", "UTC"): EPOCH,
}  # all others: 0


def token(mart: str, as_of: datetime, slices: Sequence[date]) -> str:
    """What a version is called: whatever is inserted under one name is inserted once."""
    named = " ".join((mart, as_of.isoformat(), *(slice_.isoformat() for slice_ in slices)))
    return hashlib.sha256(named.encode()).hexdigest()


def with_markers(mart: str, rows: pa.Table, as_of: datetime, slices: Sequence[date]) -> pa.Table:
    """The rows as of a version, and a marker of each slice that says so."""
    marker = _marker_row(mart, rows.schema, as_of)
    column = re.sub(r"\w+\((\w+)\)", r"\1", versions_of(mart).slice or "")
    markers = [marker | {column: _as_of_column(rows.schema.field(column).type, slice_)} for slice_ in slices]
    together = pa.concat_tables([rows, pa.Table.from_pylist(markers or [marker], schema=rows.schema)])
    return together.append_column("as_of", pa.repeat(pa.scalar(as_of, pa.timestamp("us", "UTC")), len(together)))


def _marker_row(mart: str, schema: pa.Schema, as_of: datetime) -> dict[str, Any]:
    """Belongs to no organization; its other ids derive from the version, so that markers do not replace each other."""
    types = {name: column.type for name, column in written_columns(mart).items()}
    version = str(UUID(int=(as_of - EPOCH) // timedelta(microseconds=1)))
    row = {one.name: _EMPTY.get(one.type, 0) for one in schema if not types[one.name].startswith("Nullable")}
    row |= {name: version for name, of in types.items() if of == "UUID"}
    row |= {name: f"{VERSION_OF}{as_of:%Y-%m-%d %H:%M:%S.%f}" for name in ("slug", "kind") if name in types}
    return row | ({"organization_id": str(NOBODY)} if "organization_id" in types else {})


def _as_of_column(type_: pa.DataType, slice_: date) -> date:
    """A slice as its column has it: of a day in a column of instants, the first one."""
    if pa.types.is_timestamp(type_) and not isinstance(slice_, datetime):
        return datetime.combine(slice_, time(), UTC)
    return slice_


def in_slices(mart: str, slices: Sequence[date]) -> tuple[str, dict[str, Any]]:
    """The condition that a row lies in these slices, and its parameters."""
    expression = versions_of(mart).slice
    if expression is None:
        return "1", {}
    type_ = "DateTime('UTC')" if isinstance(slices[0], datetime) else "Date"
    return f"{expression} IN {{slices:Array({type_})}}", {"slices": list(slices)}


def state_query(mart: str, where: str) -> str:
    """For some slices: `fence`, the oldest version that counts in any of them; the markers and rows before it, which no
    reader sees; the newest version, and the server's clock."""
    storage, marker = f"{mart}{STORAGE}", _marker(snapshot()[f"{mart}{STORAGE}"])
    return (
        f"WITH (SELECT min(newest) FROM (SELECT max(as_of) AS newest FROM {storage} "  # noqa: S608
        f"WHERE {marker} AND {where} GROUP BY {versions_of(mart).slice or 'tuple()'})) AS fence "
        f"SELECT fence, countIf({marker} AND as_of < fence) AS markers, "
        f"countIf(as_of < fence) - markers AS rows, max(as_of) AS newest, now64(6, 'UTC') AS now "
        f"FROM {storage} WHERE {where}"
    )


def _marker(storage: Table) -> str:
    """The condition that a row is a marker."""
    if storage.column("organization_id"):
        return f"organization_id = toUUID('{NOBODY}')"
    return f"startsWith(slug, '{VERSION_OF}')"


# --- reading ---


def refresh_views(database: Database) -> list[str]:
    """Makes the view of each storage that declares its versions, where it is not there or differs; returns their names.

    A view whose storage is gone is dropped. Dying between two: each view is right or as it was, and the next call makes
    the others.
    """
    tables = read_schema(database)
    selects = {
        name.removesuffix(STORAGE): _select(name.removesuffix(STORAGE), table, versions)
        for name, table in tables.items()
        if name.endswith(STORAGE) and (versions := declared(table.comment))
    }
    views = {mart: _view(tables[f"{mart}{STORAGE}"]) for mart in selects}
    unchanged = _unchanged(database, selects)
    changed = [mart for mart, view in views.items() if mart not in unchanged or tables[mart] != view]
    for mart in changed:
        database.command(_statement(mart, views[mart], selects[mart]))
    for mart in _orphans(database, tables):
        database.command(f"DROP VIEW IF EXISTS {mart}")
    return changed


def _select(mart: str, storage: Table, versions: Versions) -> str:
    columns = f"SELECT {', '.join(column.name for column in storage.columns)} FROM {mart}{STORAGE}"  # noqa: S608
    if versions.by_row:
        return f"{columns} FINAL" + (f" WHERE {versions.shown}" if versions.shown else "")
    shown = versions.shown or f"NOT ({_marker(storage)})"
    return f"{columns} WHERE {shown} AND ({_fence(mart, storage, versions)}) SETTINGS {ONE_SNAPSHOT}"


def _fence(mart: str, storage: Table, versions: Versions) -> str:
    """The condition that a row's version is its slice's newest; what is the same for all rows comes first."""
    slice_ = versions.slice
    markers = f"FROM {mart}{STORAGE} WHERE {_marker(storage)}"
    if slice_ is None:
        return f"(SELECT count() <= 1 {markers}) OR as_of = (SELECT max(as_of) {markers})"
    several = f"{markers} GROUP BY {slice_} HAVING count() > 1"
    return (
        f"(SELECT count() = uniqExact({slice_}) {markers}) "
        f"OR {slice_} NOT IN (SELECT {slice_} {several}) "
        f"OR ({slice_}, as_of) IN (SELECT {slice_}, max(as_of) {several})"
    )


def _view(storage: Table) -> Table:
    columns = tuple(msgspec.structs.replace(column, has_default=False) for column in storage.columns)
    return Table(_DECLARED.sub("", storage.comment), columns)


def _statement(mart: str, view: Table, select: str) -> str:
    columns = ", ".join(f"{column.name} {column.type} COMMENT {_text(column.comment)}" for column in view.columns)
    return f"CREATE OR REPLACE VIEW {mart} ({columns}) AS {select} COMMENT {_text(view.comment)}"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _unchanged(database: Database, selects: Mapping[str, str]) -> set[str]:
    """The views that are there and read as they should."""
    if not selects:
        return set()
    query = "SELECT arrayMap(query -> formatQuerySingleLine(query), {queries:Array(String)})"
    wanted = dict(zip(selects, database.scalar(query, queries=list(selects.values())), strict=True))
    made = database.rows(
        "SELECT name, replaceAll(as_select, currentDatabase() || '.', '') AS reads FROM system.tables "
        "WHERE database = currentDatabase() AND engine = 'View'"
    )
    return {row["name"] for row in made if row["reads"] == wanted.get(row["name"])}


def _orphans(database: Database, tables: Mapping[str, Table]) -> list[str]:
    """Views of storages that are gone."""
    rows = database.rows(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'View' "
        "AND position(as_select, '.' || name || {storage:String}) > 0",
        storage=STORAGE,
    )
    return [row["name"] for row in rows if f"{row['name']}{STORAGE}" not in tables]
