"""What ClickHouse's tables are after all migrations, from the snapshot in sql/clickhouse/schema.json.

`make generated` writes the snapshot and a test compares it with a migrated database, so that definitions load
without a connection and no column is unknown to them.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import dagster as dg
import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.paths import SQL

SNAPSHOT = SQL / "clickhouse" / "schema.json"
STORAGE = "_versions"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Database(Protocol):
    """What is asked of ClickHouse here; resources/clickhouse.py has it, and imports this module."""

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]: ...

    def scalar(self, query: str, **parameters: Any) -> Any: ...

    def command(self, statement: str, **parameters: Any) -> None: ...


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column; `has_default`: a row may lack it."""

    name: str
    type: str
    comment: str
    has_default: bool = False


class Table(msgspec.Struct, frozen=True):
    """A table or view."""

    comment: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        """The column of this name."""
        return next((column for column in self.columns if column.name == name), None)


def read_schema(database: Database) -> dict[str, Table]:
    """The tables and views of a database."""
    columns: dict[str, list[Column]] = {}
    for row in database.rows(
        "SELECT table, name, type, comment, default_kind != '' AS has_default FROM system.columns "
        "WHERE database = currentDatabase() AND table != 'schema_migrations' ORDER BY table, position"
    ):
        columns.setdefault(row["table"], []).append(
            Column(row["name"], row["type"], row["comment"], bool(row["has_default"]))
        )
    comments = database.rows("SELECT name, comment FROM system.tables WHERE database = currentDatabase()")
    return {
        row["name"]: Table(row["comment"], tuple(columns[row["name"]])) for row in comments if row["name"] in columns
    }


def write_snapshot(tables: Mapping[str, Table], path: Path = SNAPSHOT) -> None:
    """Writes the snapshot, a line for each column, so that a review shows what a migration changes."""
    lines = []
    for name, table in sorted(tables.items()):
        columns = ",\n".join(f"      {msgspec.json.encode(column).decode()}" for column in table.columns)
        lines.append(
            f'  {json.dumps(name)}: {{\n    "comment": {msgspec.json.encode(table.comment).decode()},\n'
            f'    "columns": [\n{columns}\n    ]\n  }}'
        )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


@functools.cache
def snapshot() -> dict[str, Table]:
    """The tables and views by name."""
    return msgspec.json.decode(SNAPSHOT.read_bytes(), type=dict[str, Table])


def column_schema(table: str) -> dg.TableSchema:
    """The columns of a table or view with types and comments, for Dagster's UI."""
    return dg.TableSchema(
        [dg.TableColumn(column.name, column.type, column.comment) for column in snapshot()[table].columns]
    )


# --- rows as Arrow, in the types of a table ---

_ARROW = {
    "UUID": pa.string(),
    "String": pa.string(),
    "Bool": pa.bool_(),
    "Date": pa.date32(),
    "DateTime('UTC')": pa.timestamp("s", "UTC"),
    "DateTime64(3, 'UTC')": pa.timestamp("ms", "UTC"),
    "Float64": pa.float64(),
    "UInt8": pa.uint8(),
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
}
# The first and last value of a column of ClickHouse, of those whose Arrow type holds more.
HELD: dict[pa.DataType, tuple[Any, Any]] = {
    pa.date32(): (date(1970, 1, 1), date(2149, 6, 6)),
    pa.timestamp("s", "UTC"): (EPOCH, datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)),
    pa.timestamp("ms", "UTC"): (datetime(1900, 1, 1, tzinfo=UTC), datetime(2299, 12, 31, 23, 59, 59, tzinfo=UTC)),
}


def written_columns(mart: str) -> dict[str, Column]:
    """The columns of a mart's storage that its writer gives: all but `as_of`."""
    return {column.name: column for column in snapshot()[f"{mart}{STORAGE}"].columns if column.name != "as_of"}


def mart_rows(mart: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (column -> value; ids as UUID or text, money as Decimal) as `replace_slice` takes them for this mart.

    Raises KeyError for a column that the table does not have, or that a row lacks and the table has no default for; and
    ValueError (pyarrow.ArrowInvalid is one) for a value that the column does not hold, as a Decimal with more places.
    """
    rows = list(rows)
    names = _given(mart, rows)
    schema = _schema(mart, names)
    columns = [pa.array(_column(rows, field), field.type) for field in schema]
    return _held(pa.Table.from_arrays(columns, schema=schema))


def mart_columns(mart: str, columns: pa.Table) -> pa.Table:
    """The same of a table by columns."""
    names = _checked(mart, columns.column_names)
    return _held(columns.select(names).cast(_schema(mart, names)))


def _given(mart: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    alike = {frozenset(row) for row in rows}
    if len(alike) > 1:
        differing = frozenset.union(*alike) - frozenset.intersection(*alike)
        raise KeyError(f"{mart}: some rows lack {', '.join(sorted(differing))}")
    return _checked(mart, next(iter(alike), written_columns(mart)))


def _checked(mart: str, names: Iterable[str]) -> list[str]:
    """The names in the table's order."""
    columns, names = written_columns(mart), set(names)
    if unknown := sorted(names - columns.keys()):
        raise KeyError(f"{mart} has no column {', '.join(unknown)}: add it by a migration")
    if missing := [name for name, column in columns.items() if name not in names and not column.has_default]:
        raise KeyError(f"rows of {mart} lack {', '.join(missing)}")
    return [name for name in columns if name in names]


def _schema(mart: str, names: Iterable[str]) -> pa.Schema:
    columns = written_columns(mart)
    return pa.schema([(name, arrow_type(columns[name].type)) for name in names])


def arrow_type(type_: str) -> pa.DataType:
    """The Arrow type in which values of a ClickHouse type are sent."""
    bare = re.sub(r"^(?:Nullable|LowCardinality)\((.+)\)$", r"\1", type_)
    if decimal := re.fullmatch(r"Decimal\((\d+), (\d+)\)", bare):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return _ARROW[bare]


def _held(table: pa.Table) -> pa.Table:
    """The table itself. ClickHouse's dates begin in 1970, and an Arrow of a date knows no end."""
    for field in table.schema:
        first, last = HELD.get(field.type, (None, None))
        if first and len(table):
            found = pc.min_max(table[field.name]).as_py()
            if found["min"] is not None and not first <= found["min"] <= found["max"] <= last:
                raise ValueError(f"{field.name} from {found['min']} to {found['max']}: it holds {first} to {last}")
    return table


def _column(rows: Sequence[Mapping[str, Any]], field: pa.Field) -> list[Any]:
    """The values of a column; ids as text."""
    values = [row[field.name] for row in rows]
    return (
        [str(value) if isinstance(value, UUID) else value for value in values] if field.type == pa.string() else values
    )
