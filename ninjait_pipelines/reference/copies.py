"""One copy of a table of PostgreSQL in ClickHouse: made whole, and only where PostgreSQL has something else.

1. Take the version from ClickHouse's clock.
2. Read the fingerprint of PostgreSQL's rows and, where it is not the last run's, the rows, from one snapshot. What is
   committed later gives the next run another fingerprint.
3. Where it is the last run's, look whether readers still see what that run wrote: its version, and as many rows. If so,
   the run ends. If not, the rows are read: the copy was truncated, restored from a backup, or replaced by a run that
   died before it was recorded.
4. Replace the copy. Dying before: the old copy stays, and the next run makes the new one. Dying after: the next run
   finds a version that none has recorded, in step 3, or another fingerprint.

The fingerprint has 64 bits, and step 3 does not look into the rows. So nothing is trusted for longer than a day: then
the copy is made in any case.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import content
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import arrow_type, written_columns
from ninjait_pipelines.resources.postgres import Postgres

TRUSTED_FOR = timedelta(days=1)
# A block is converted as a whole; Arrow takes no larger ones.
MAX_BLOCK_BYTES = 2**30
# PostgreSQL's times have microseconds.
IN_FULL = pa.timestamp("us", "UTC")
UNITS = {"s": "second", "ms": "millisecond"}
ROWS = "dagster/row_count"


class Copied(msgspec.Struct, frozen=True):
    """What a run records. `data_version` changes with PostgreSQL's rows; `metadata` is the next run's `last`."""

    data_version: str
    metadata: dict[str, Any]


def copy(table: str, postgres: Postgres, clickhouse: ClickHouse, last: Mapping[str, Any]) -> Copied:
    """Makes ClickHouse's table what sql/queries/reference/<table>.sql is in PostgreSQL.

    A read that fails raises before anything is replaced. A read that is empty empties the copy: that is what
    PostgreSQL says.
    """
    as_of, query = clickhouse.now(), sql(f"reference/{table}").rstrip()
    fingerprint, csv = postgres.copy_out(query, unless=last.get("fingerprint"))
    if csv is None and _is_as_written(clickhouse, table, as_of, last):
        kept = {name: last[name] for name in (ROWS, "copied_at", "fingerprint")}
        return Copied(fingerprint, {**kept, "unchanged": True, **LeftOut().metadata()})
    if csv is None:
        fingerprint, csv = postgres.copy_out(query)
        assert csv is not None
    left_out, found = LeftOut(), {"copied_at": as_of.isoformat(), "unchanged": False}
    try:
        rows = content(table, _typed(table, csv), left_out)
        found["fingerprint"] = fingerprint
    except ValueError:  # a row that cannot be stored: converted one by one, it is left out and named
        by_row = sorted(postgres.rows(query), key=lambda row: str(row["id"]))
        rows = content(table, by_row, left_out)
        # Read later than the fingerprint: without one, the next run makes the copy again.
        fingerprint = hashlib.sha256(repr(by_row).encode()).hexdigest()
    count = clickhouse.replace_slice(table, rows, as_of)
    return Copied(fingerprint, {ROWS: count, **found, **left_out.metadata()})


def _is_as_written(clickhouse: ClickHouse, table: str, as_of: datetime, last: Mapping[str, Any]) -> bool:
    """Step 3. An empty copy is of no version, and made again."""
    written = datetime.fromisoformat(last["copied_at"])
    query = f"SELECT count() AS rows, min(as_of) AS oldest, max(as_of) AS newest FROM {table}"  # noqa: S608
    [found] = clickhouse.rows(query)
    as_written = {"rows": last[ROWS], "oldest": written, "newest": written}
    return found == as_written and timedelta(0) <= as_of - written < TRUSTED_FOR


def _typed(table: str, csv: memoryview) -> pa.Table:
    """The rows in the types of the table, times cut to its precision. Raises ValueError if one has a value that is none
    of its type, as infinity."""
    types = {name: arrow_type(column.type) for name, column in written_columns(table).items()}
    read = pa_csv.read_csv(
        pa.py_buffer(csv),
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=min(len(csv), MAX_BLOCK_BYTES)),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: IN_FULL if pa.types.is_timestamp(of) else of for name, of in types.items()},
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return pa.table({name: _cut(read[name], types.get(name)) for name in read.column_names})


def _cut(column: pa.ChunkedArray, type_: pa.DataType | None) -> pa.ChunkedArray:
    if not isinstance(type_, pa.TimestampType):
        return column
    return pc.floor_temporal(column, unit=UNITS[type_.unit]).cast(type_)
