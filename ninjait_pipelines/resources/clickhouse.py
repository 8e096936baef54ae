"""ClickHouse: hourly rollups, events, marts, ledgers. Every mart is written by `replace_slice` and read by its view."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import clickhouse_connect
import dagster as dg
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from pydantic import Field, PrivateAttr

from ninjait_pipelines.resources.store import Store, StoreError, StoreFailed, StoreRefused, StoreUnavailable, retrying
from ninjait_pipelines.settings import SQL, without_password

AUTHENTICATION_FAILED = ("516", "497")
# Server-side states that pass: too many queries at once, memory limit of the moment, table read-only, timeouts.
PASSING = ("159", "202", "209", "210", "241", "242", "252", "425")


class ClickHouse(Store):
    """ClickHouse through clickhouse-connect (HTTP).

    with ClickHouse(url="http://127.0.0.1:8123", user="ninjait", password="...", database="ninjait").open() as store:
        store.rows("SELECT hour, cpu_avg FROM device_metrics_hourly WHERE device_id = {id:UUID}", id=device_id)
    """

    title = "ClickHouse"

    url: str = Field(description="HTTP interface, http(s)://host:port")
    user: str = Field(description="User")
    password: str = Field(description="Password")
    database: str = Field(description="Database that the migrations were applied to")
    timeout_seconds: int = Field(default=60, description="Longest wait for an answer, seconds")
    connect_timeout_seconds: int = Field(default=5, description="Longest wait for a connection, seconds")

    _client: Client | None = PrivateAttr(default=None)

    @property
    def address(self) -> str:
        return without_password(self.url)

    @property
    def client(self) -> Client:
        """The official client, connected at first use; without a session, so that no query waits for another.

        Connecting is not retried here: what is worth a retry is retried as a whole, by `rows` and the others.
        """
        if self._client is None:
            with self._errors():
                self._client = self._connect()
        return self._client

    def _connect(self) -> Client:
        return clickhouse_connect.get_client(
            dsn=self.url,
            username=self.user,
            password=self.password,
            database=self.database,
            connect_timeout=self.connect_timeout_seconds,
            send_receive_timeout=self.timeout_seconds,
            autogenerate_session_id=False,
            query_retries=0,
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ping(self) -> tuple[str, int | None]:
        row = self.rows(
            "SELECT version() AS version, (SELECT sum(bytes_on_disk) FROM system.parts WHERE active "
            "AND database = currentDatabase()) AS size"
        )[0]
        return row["version"], row["size"] or 0

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The result as a list of dicts; UUIDs are UUID, decimals Decimal, times aware. For small results."""
        result = self._retried(lambda: self.client.query(query, parameters=parameters, tz_mode="aware"))
        return list(result.named_results())

    def scalar(self, query: str, **parameters: Any) -> Any:
        """The first column of the only row."""
        return self._retried(lambda: self.client.query(query, parameters=parameters, tz_mode="aware")).result_rows[0][0]

    def arrow(self, query: str, **parameters: Any) -> pa.Table:
        """The result as an Arrow table; UUIDs are text."""
        return _uuids_as_text(
            self._retried(lambda: self.client.query_arrow(query, parameters=parameters, use_strings=True))
        )

    def command(self, statement: str, **parameters: Any) -> None:
        """Runs a statement that gives no rows. Not retried: the caller knows whether it may run twice."""
        client = self._retried(lambda: self.client)
        with self._errors():
            client.command(statement, parameters=parameters)

    def insert(self, table: str, rows: pa.Table) -> None:
        """Inserts a table by the names of its columns, UUIDs as text.

        Retried after a time-out that may have come after the write, so `table` must be one in which the same row twice
        is one row.
        """
        if rows.num_rows:
            self._retried(lambda: self.client.insert_arrow(table, rows))

    def now(self) -> datetime:
        """ClickHouse's clock, UTC, in microseconds: the one clock by which versions and touches are compared."""
        return self.scalar("SELECT now64(6, 'UTC')")

    def replace_slice(self, table: str, rows: pa.Table, where: str, as_of: datetime, **parameters: Any) -> int:
        """Makes `rows` the whole content of a slice of a mart, and returns how many there are.

        table: the mart's name, its storage being `<table>_versions`; where: the slice, with {name:Type} placeholders
        bound from `parameters`; as_of: the version, taken by `now()` before the sources were read.

        1. Insert the new version. Dying here: the view shows new rows, and ghosts beside them until a rerun.
        2. Delete rows that the new version has not replaced. Dying before: as above; the rerun's version is newer still.
        """
        storage = f"{table}_versions"
        versions = pa.array([as_of] * rows.num_rows, pa.timestamp("us", "UTC"))
        self.insert(storage, rows.append_column("as_of", versions))
        ghosts = f"({where}) AND as_of < {{as_of:DateTime64(6, 'UTC')}}"
        parameters["as_of"] = as_of
        if self.scalar(f"SELECT count() FROM {storage} FINAL WHERE {ghosts}", **parameters):  # noqa: S608
            self._retried(lambda: self.client.command(f"DELETE FROM {storage} WHERE {ghosts}", parameters=parameters))  # noqa: S608
        return rows.num_rows

    def _retried(self, call: Any) -> Any:
        for attempt in retrying():
            with attempt, self._errors():
                return call()
        raise AssertionError("unreachable: retrying either returns or raises")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:  # among them OperationalError
            raise self._error(error) from error
        except ClickHouseError as error:
            raise StoreFailed(self.title, self.url, error, "Read ClickHouse's words above.") from error

    def _error(self, error: Exception) -> StoreError:
        text = str(error)
        code = (re.search(r"[Cc]ode:?\s*(\d+)", text) or [None, ""])[1]
        if code in AUTHENTICATION_FAILED or "HTTP 401" in text or "HTTP 403" in text:
            return StoreRefused(self.title, self.url, text, "Check CLICKHOUSE_USER and CLICKHOUSE_PASSWORD.")
        if code == "81":
            return StoreFailed(self.title, self.url, text, "Does the database of CLICKHOUSE_DATABASE exist?")
        if code == "60":
            return StoreFailed(self.title, self.url, text, "Bring the schema up to date: ninjait migrate up.")
        if code in PASSING or not code:
            return StoreUnavailable(self.title, self.url, text, "See what runs with: ninjait status.")
        return StoreFailed(self.title, self.url, text, "Read ClickHouse's words above.")


@functools.cache
def sql(name: str) -> str:
    """The query sql/queries/<name>.sql."""
    return (SQL / "queries" / f"{name}.sql").read_text()


_TABLE = re.compile(r"CREATE (?:TABLE|VIEW) (\w+) \(\n(.*?)\n\)", re.S)
_COLUMN = re.compile(r"^    (\w+) (.+?)(?: DEFAULT .+?)? COMMENT '((?:[^']|'')*)',?$", re.M)


@functools.cache
def _columns() -> dict[str, list[tuple[str, str, str]]]:
    files = sorted((SQL / "clickhouse").glob("*.sql"))
    tables = (found for file in files for found in _TABLE.findall(file.read_text()))
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
    "UInt16": pa.uint16(),
    "UInt32": pa.uint32(),
    "UInt64": pa.uint64(),
}


def mart_rows(table: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (column -> value; ids as UUID or text, money as Decimal) as `replace_slice` takes them for this mart.

    Raises KeyError for a column that a row lacks, pyarrow.ArrowInvalid for a Decimal with more places than the column.
    """
    schema = pa.schema([(name, _arrow_type(type_)) for name, type_, _ in _columns()[table] if name != "as_of"])
    return pa.Table.from_pylist([{name: _plain(row[name]) for name in schema.names} for row in rows], schema=schema)


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
