"""ClickHouse: hourly rollups, events, marts, ledgers. Every mart is written by `replace_slice` and read by its view."""

import functools
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import clickhouse_connect
import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from clickhouse_connect.driver.query import QueryResult
from pydantic import Field, PrivateAttr

from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.postgres import check_times
from ninjait_pipelines.resources.store import (
    OutOfSpace,
    Store,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    retrying,
    tls_failure,
)
from ninjait_pipelines.settings import SQL

T = TypeVar("T")
# The marts, and what a slice of each is: a column or expression; None where a mart is replaced whole. The views of
# sql/clickhouse hide the rows of a slice that are older than its newest marker.
SLICES = {
    "organizations": None,
    "users": None,
    "devices": None,
    "contracts": None,
    "device_metrics_hourly": "timestamp",
    "ticket_events": "toDate(timestamp)",
    "ticket_facts": "day",
    "technician_performance": "day",
    "billing_events": "local_day",
    "invoices": "period_starts_on",
    "invoice_lines": "period_starts_on",
}
# Markers of older versions that a slice may have before they are deleted: a deletion costs more than they do.
MAX_MARKERS = 20
# Far more than clocks that are kept by NTP differ, and far less than what is believed to be of the future.
MAX_APART = timedelta(seconds=60)
NOBODY = UUID(int=0)
# The first of these columns that a mart has names a row that is left out.
KEYS = ("id", "event_id", "ticket_id", "organization_id")
VERSION_OF = "version of "
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WORDS = "Read ClickHouse's words above."
UNAVAILABLE = (StoreUnavailable, "See what runs with: ninjait status.")
REFUSED = (StoreRefused, "Check CLICKHOUSE_USER and CLICKHOUSE_PASSWORD.")
# ClickHouse's error codes; all others are StoreFailed. Those that pass: too many queries at once, memory limit of the
# moment, table read-only, too few replicas, no Keeper, object storage away, shutting down, a query that was cancelled,
# time-outs.
PASSING = ("159", "202", "209", "210", "225", "236", "241", "242", "252", "279")
PASSING_TOO = ("285", "286", "319", "394", "425", "439", "473", "499", "999")
NO_SPACE = "243"
# Those of files, of the system and of S3, whose words may say that a disk is full; others quote values.
OF_FILES = ("74", "75", "76", "425", "499", "1001")
BY_CODE: dict[str, tuple[type[StoreError], str]] = {
    **dict.fromkeys((*PASSING, *PASSING_TOO), UNAVAILABLE),
    **dict.fromkeys(("164", "497", "516"), REFUSED),
    "60": (StoreFailed, "Bring the schema up to date: ninjait migrate up."),
    "81": (StoreFailed, "Does the database of CLICKHOUSE_DATABASE exist?"),
}
BY_STATUS: dict[str, tuple[type[StoreError], str]] = {
    **dict.fromkeys(("401", "403"), REFUSED),
    **dict.fromkeys(("400", "404", "405"), (StoreFailed, "Is CLICKHOUSE_URL the address of a ClickHouse?")),
}
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
# The client logs every error that it raises, without time and place; it reaches the reader as ours.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)


def clock() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


class ClickHouse(Store):
    """ClickHouse through clickhouse-connect (HTTP).

    with ClickHouse(url="http://127.0.0.1:8123", user="ninjait", password="...", database="ninjait").open() as store:
        store.rows("SELECT timestamp, cpu_avg FROM device_metrics_hourly WHERE device_id = {id:UUID}", id=device_id)
    """

    title = "ClickHouse"
    oldest = "25.8"

    url: str = Field(description="HTTP interface, http(s)://host:port; without a port 8123, with TLS 8443")
    user: str = Field(description="User")
    password: str = Field(description="Password")
    database: str = Field(description="Database that the migrations were applied to")
    timeout_seconds: int = Field(default=40, description="Longest wait for an answer, or a sign of one, seconds")
    connect_timeout_seconds: int = Field(default=5, description="Longest wait for a connection, seconds")

    _client: Client | None = PrivateAttr(default=None)

    @property
    def client(self) -> Client:
        """The official client, connected at first use; without a session, so that no query waits for another.

        Connecting is not retried here: what is worth a retry is retried as a whole, by `rows` and the others.
        """
        if self._client is None:
            with self._errors():
                # Not by its `dsn`, which takes https:// for plain HTTP unless the port is 443 or 8443.
                parts = urlsplit(self.url)
                self._client = clickhouse_connect.get_client(
                    interface=parts.scheme,
                    host=parts.hostname,
                    port=parts.port or (8443 if parts.scheme == "https" else 8123),
                    secure=parts.scheme == "https",
                    ca_cert=self.ca_file,
                    username=self.user,
                    password=self.password,
                    database=self.database,
                    connect_timeout=self.connect_timeout_seconds,
                    send_receive_timeout=self.timeout_seconds,
                    autogenerate_session_id=False,
                    query_retries=0,
                )
        return self._client

    def _ping(self) -> tuple[str, int | None]:
        row = self.rows(
            # Not of system.parts, for which a server wants a right of its own.
            "SELECT version() AS version, (SELECT sum(total_bytes) FROM system.tables "
            "WHERE database = currentDatabase()) AS size"
        )[0]
        return row["version"], row["size"] or 0

    def server_version(self) -> str:
        """Of the server; the database need not be there."""
        with self.elsewhere(database="default").open() as server:
            return str(server.scalar("SELECT version()"))

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The result as a list of dicts; UUIDs are UUID, decimals Decimal, times aware. For small results."""
        return list(self._query(query, parameters).named_results())

    def scalar(self, query: str, **parameters: Any) -> Any:
        """The first column of the only row."""
        return self._query(query, parameters).result_rows[0][0]

    def arrow(self, query: str, **parameters: Any) -> pa.Table:
        """The result as an Arrow table; UUIDs are text. Ask for them as text: before 26.4 they are asked for twice."""
        try:
            return _uuids_as_text(self._arrow(query, parameters))
        except StoreFailed as error:
            if "The type 'UUID'" not in str(error):
                raise
        columns = self.rows(f"DESCRIBE ({query})", **parameters)
        ids = [f"toString({one['name']}) AS {one['name']}" for one in columns if "UUID" in one["type"]]
        return self._arrow(f"SELECT * REPLACE ({', '.join(ids)}) FROM ({query})", parameters)  # noqa: S608

    def _arrow(self, query: str, parameters: Mapping[str, Any]) -> pa.Table:
        return self._retried(lambda: self.client.query_arrow(query, parameters=dict(parameters), use_strings=True))

    def command(self, statement: str, **parameters: Any) -> None:
        """Runs a statement that gives no rows. Not retried: the caller knows whether it may run twice."""
        client = self._retried(lambda: self.client)
        with self._errors():
            client.command(statement, parameters=parameters)

    def insert(self, table: str, rows: pa.Table, at_once: bool = False) -> None:
        """Inserts a table by the names of its columns, UUIDs as text.

        at_once: they become visible together, where the server otherwise writes a million at a time.
        Retried after a time-out that may have come after the write, so `table` must be one in which the same row twice
        is one row. Raises ValueError for a column of bytes: see `check_no_bytes`.
        """
        check_no_bytes(rows.schema)
        settings = {"min_insert_block_size_rows": 1_000_000_000, "min_insert_block_size_bytes": 0} if at_once else None
        if rows.num_rows:
            self._retried(lambda: self.client.insert_arrow(table, rows, settings=settings))

    def probe(self) -> None:
        """One row, which replaces itself."""
        self.insert("write_probes", pa.table({"probed_by": ["pipeline"]}))

    def now(self) -> datetime:
        """ClickHouse's clock, UTC, in microseconds: the one clock by which versions and touches are compared.

        Raises StoreFailed where it and this machine's clock are more than MAX_APART from each other: of a version that
        is of the future every later one would be hidden, and one of the past would be hidden itself.
        """
        before = clock()
        there: datetime = self.scalar("SELECT now64(6, 'UTC')")
        after = clock()
        if not before - MAX_APART <= there <= after + MAX_APART:
            problem = f"its clock says {there:%Y-%m-%d %H:%M:%S} UTC, this machine's {after:%Y-%m-%d %H:%M:%S}"
            raise StoreFailed(self.title, self.url, problem, "Set the wrong one right (NTP); docs/runbook.md, Clocks.")
        return there

    def replace_slice(self, table: str, rows: pa.Table, as_of: datetime, slices: Sequence[date] = ()) -> int:
        """Makes `rows` the whole content of some slices of a mart (see SLICES), and returns how many there are.

        table: the mart's name, its storage being `<table>_versions`; slices: days or hours, none for a mart that is
        replaced whole; as_of: the version, taken by `now()` before the sources were read.

        1. Insert the new version, with a marker for each slice, as one block: readers see all of it or nothing of it,
           and from then on nothing of an older version, even where an older run writes later than this one.
           Dying before: the old version. Dying after: the new one.
        2. Delete what no reader sees any more. Dying before: it takes space until the next version.

        Raises StoreFailed where a version is there that lies in the future: readers see that one, and not this.
        """
        storage = f"{table}_versions"
        self.insert(storage, _with_markers(table, rows, as_of, slices), at_once=True)
        where, parameters = _in_slices(table, slices)
        # Of slices in which a newer run was faster, what this one wrote stays, unseen, until their next version.
        [found] = self.rows(
            f"WITH (SELECT min(newest) FROM (SELECT max(as_of) AS newest FROM {storage} "  # noqa: S608
            f"WHERE {_marker(table)} AND {where} GROUP BY {SLICES[table] or 'tuple()'})) AS fence "
            f"SELECT fence, countIf({_marker(table)} AND as_of < fence) AS markers, "
            f"countIf(as_of < fence) - markers AS rows, max(as_of) AS newest, now64(6, 'UTC') AS now "
            f"FROM {storage} FINAL WHERE {where}",
            **parameters,
        )
        if found["newest"] > max(found["now"] + MAX_APART, as_of):
            problem = f"{table} has a version of {found['newest']:%Y-%m-%d %H:%M} UTC, which hides all others"
            raise StoreFailed(self.title, self.url, problem, "docs/runbook.md, Clocks, says how to remove it.")
        if found["rows"] or found["markers"] > MAX_MARKERS:
            self._delete(storage, where, found["fence"], parameters)
        return rows.num_rows

    def _delete(self, table: str, where: str, before: datetime, parameters: Mapping[str, Any]) -> None:
        statement = f"DELETE FROM {table} WHERE {where} AND as_of < {{before:DateTime64(6, 'UTC')}}"  # noqa: S608
        self._retried(lambda: self.client.command(statement, parameters={**parameters, "before": before}))

    def _query(self, query: str, parameters: Mapping[str, Any]) -> QueryResult:
        return self._retried(lambda: self.client.query(query, parameters=dict(parameters), tz_mode="aware"))

    def _retried(self, call: Callable[[], T]) -> T:
        def once() -> T:
            with self._errors():
                return call()

        return retrying()(once)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:  # among them OperationalError
            if failed := tls_failure(self.title, self.url, error, "CLICKHOUSE_URL", "CLICKHOUSE_CA_FILE"):
                raise failed from error
            raise self._error(error) from error
        except ClickHouseError as error:
            raise StoreFailed(self.title, self.url, error, WORDS) from error

    def _error(self, error: Exception) -> StoreError:
        text = str(error)
        code, status = (re.search(pattern, text) for pattern in (r"[Cc]ode: (\d+)", r"HTTP status (\d+)"))
        of_files = code is None or code[1] in OF_FILES
        if (code and code[1] == NO_SPACE) or (of_files and is_out_of_space(text)):
            return OutOfSpace(self.title, self.url, text)
        if code is None:
            # No answer, or not one of ClickHouse's: a proxy that says that its server is away, or another server.
            kind, advice = BY_STATUS.get(status[1] if status else "", UNAVAILABLE)
        else:
            kind, advice = BY_CODE.get(code[1], (StoreFailed, WORDS))
        return kind(self.title, self.url, text, advice)


def check_no_bytes(schema: pa.Schema) -> None:
    """Raises ValueError naming the first column that holds bytes.

    ClickHouse before 26.1 refuses bytes for a UUID, 26.1 to 26.3 store another UUID without an error, later ones
    store the right one: ids travel as text. No table of ours has a column that needs bytes.
    """
    for field in schema:
        if _holds_bytes(field.type):
            raise ValueError(f"column {field.name} is {field.type}: send it as text, as ClickHouse reads ids as text")


def _holds_bytes(type_: pa.DataType) -> bool:
    if isinstance(type_, pa.BaseExtensionType):  # pa.uuid() is 16 bytes
        return _holds_bytes(type_.storage_type)
    if pa.types.is_dictionary(type_):
        return _holds_bytes(type_.value_type)
    if pa.types.is_nested(type_):
        return any(_holds_bytes(type_.field(at).type) for at in range(type_.num_fields))
    return any(kind(type_) for kind in _BYTES)


@functools.cache
def sql(name: str) -> str:
    """The query sql/queries/<name>.sql."""
    return (SQL / "queries" / f"{name}.sql").read_text()


_TABLE = re.compile(r"CREATE (?:TABLE|(?:OR REPLACE )?VIEW) (\w+) \(\n(.*?)\n\)", re.S)
_COLUMN = re.compile(r"^    (\w+) (.+?)(?: DEFAULT .+?)? COMMENT '((?:[^']|'')*)',?$", re.M)


@functools.cache
def _columns() -> dict[str, list[tuple[str, str, str]]]:
    files = sorted((SQL / "clickhouse").glob("*.sql"))
    tables = (found for file in files for found in _TABLE.findall(file.read_text().split("-- migrate: down")[0]))
    return {table: _COLUMN.findall(body) for table, body in tables}


def column_schema(table: str) -> dg.TableSchema:
    """The columns of a table or view with types and comments, as the migrations declare them, for Dagster's UI."""
    columns = [dg.TableColumn(name, type_, comment.replace("''", "'")) for name, type_, comment in _columns()[table]]
    return dg.TableSchema(columns)


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
_EMPTY: dict[pa.DataType, Any] = {
    pa.string(): "",
    pa.bool_(): False,
    pa.date32(): EPOCH.date(),
    pa.timestamp("s", "UTC"): EPOCH,
    pa.timestamp("ms", "UTC"): EPOCH,
}  # all others: 0


def mart_rows(table: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (column -> value; ids as UUID or text, money as Decimal) as `replace_slice` takes them for this mart.

    Raises KeyError for a column that a row lacks, and ValueError (pyarrow.ArrowInvalid is one) for a value that the
    column does not hold, as a Decimal with more places.
    """
    schema = _schema(table)
    return _held([{name: _plain(row[name]) for name in schema.names} for row in rows], schema)


def _schema(table: str) -> pa.Schema:
    """Of what a caller writes: `as_of` is added by `replace_slice`."""
    return pa.schema([(name, _arrow_type(type_)) for name, type_, _ in _columns()[table] if name != "as_of"])


def mart_table(table: str, rows: Iterable[Mapping[str, Any]] | pa.Table, left_out: LeftOut) -> pa.Table:
    """What a mart can hold of these rows, as `replace_slice` takes it; rows that it cannot hold are left out.

    Rows by columns (an Arrow table) are taken or refused as a whole: `mart_columns`.
    """
    if isinstance(rows, pa.Table):
        return mart_columns(table, rows)
    rows = list(rows)
    try:
        _check(table, rows)
    except Exception:  # noqa: BLE001 -- each row by itself says which it is
        key = next(name for name in KEYS if name in rows[0])

        def checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
            _check(table, [row])
            return row

        rows = list(left_out.each(rows, lambda row: f"{table} {row[key]}", checked))
    return mart_rows(table, rows)


def mart_columns(table: str, columns: pa.Table) -> pa.Table:
    """The same of columns: in the table's order and types. Raises KeyError, pyarrow.ArrowInvalid as `mart_rows`."""
    schema = _schema(table)
    return columns.select(schema.names).cast(schema)


def _check(table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises what `mart_rows` raises, and ValueError for a row that the mart's view would hide: see `_marker`."""
    for row in rows:
        check_times(row)
        slug, owner = str(row.get("slug", "")), str(row.get("organization_id", ""))
        if slug.startswith(VERSION_OF) or owner == str(NOBODY):
            raise ValueError(f"{slug or owner!r} is what versions of slices are called")
    mart_rows(table, rows)


def _held(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows in the columns' types. ClickHouse's dates begin in 1970, and an Arrow of a date knows no end."""
    made = pa.Table.from_pylist(rows, schema=schema)
    for field in schema:
        first, last = HELD.get(field.type, (None, None))
        if first and len(made):
            found = pc.min_max(made[field.name]).as_py()
            if found["min"] is not None and not first <= found["min"] <= found["max"] <= last:
                raise ValueError(f"{field.name} from {found['min']} to {found['max']}: it holds {first} to {last}")
    return made


def slice_at(table: str, start: datetime) -> date:
    """The slice of a mart that a window from `start` on fills: an hour, or a day."""
    return start if SLICES[table] == "timestamp" else start.date()


def _with_markers(table: str, rows: pa.Table, as_of: datetime, slices: Sequence[date]) -> pa.Table:
    """The rows as of a version, and a marker of each slice that says so."""
    marker = _marker_row({name: type_ for name, type_, _ in _columns()[table]}, rows.schema, as_of)
    column = re.sub(r"\w+\((\w+)\)", r"\1", SLICES[table] or "")
    markers = [marker | {column: _as_of_column(rows.schema.field(column).type, slice_)} for slice_ in slices]
    together = pa.concat_tables([rows, pa.Table.from_pylist(markers or [marker], schema=rows.schema)])
    return together.append_column("as_of", pa.array([as_of] * len(together), pa.timestamp("us", "UTC")))


def _marker_row(columns: Mapping[str, str], schema: pa.Schema, as_of: datetime) -> dict[str, Any]:
    """Of nobody; its other ids are made from the version, so that markers do not replace each other."""
    version = str(UUID(int=(as_of - EPOCH) // timedelta(microseconds=1)))
    row = {one.name: _EMPTY.get(one.type, 0) for one in schema if not columns[one.name].startswith("Nullable")}
    row |= {name: version for name, of in columns.items() if of == "UUID"}
    row |= {name: f"{VERSION_OF}{as_of:%Y-%m-%d %H:%M:%S.%f}" for name in ("slug", "kind") if name in columns}
    return row | ({"organization_id": str(NOBODY)} if "organization_id" in columns else {})


def _as_of_column(type_: pa.DataType, slice_: date) -> date:
    """A slice as its column has it: of a day in a column of instants, the first one."""
    if pa.types.is_timestamp(type_) and not isinstance(slice_, datetime):
        return datetime.combine(slice_, time(), UTC)
    return slice_


def _marker(table: str) -> str:
    """The condition that a row of a mart's storage is a marker; as in the views."""
    return f"startsWith(slug, '{VERSION_OF}')" if table == "organizations" else f"organization_id = toUUID('{NOBODY}')"


def _in_slices(table: str, slices: Sequence[date]) -> tuple[str, dict[str, Any]]:
    """The condition that a row lies in these slices, and its parameters."""
    if SLICES[table] is None:
        return "1", {}
    type_ = "DateTime('UTC')" if isinstance(slices[0], datetime) else "Date"
    return f"{SLICES[table]} IN {{slices:Array({type_})}}", {"slices": list(slices)}


def _arrow_type(type_: str) -> pa.DataType:
    bare = re.sub(r"^(?:Nullable|LowCardinality)\((.+)\)$", r"\1", type_)
    if decimal := re.fullmatch(r"Decimal\((\d+), (\d+)\)", bare):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return _ARROW[bare]


def _uuids_as_text(table: pa.Table) -> pa.Table:
    for index, field in enumerate(table.schema):
        if field.type == pa.uuid():
            text = [None if value is None else str(value) for value in table[index].to_pylist()]
            table = table.set_column(
                index, pa.field(field.name, pa.string(), field.nullable), pa.array(text, pa.string())
            )
    return table


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value
