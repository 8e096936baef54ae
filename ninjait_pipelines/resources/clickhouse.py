"""ClickHouse: hourly rollups, events, marts, ledgers. Marts are written by `replace_slice` and read through views."""

import functools
import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from clickhouse_connect.driver.query import QueryResult
from pydantic import Field, PrivateAttr

from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources.clickhouse_schema import STORAGE, mart_columns
from ninjait_pipelines.resources.clickhouse_versions import in_slices, state_query, token, with_markers
from ninjait_pipelines.resources.store import (
    SEE_STATUS,
    OutOfSpace,
    Store,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    tls_failure,
)

T = TypeVar("T")
# Markers of older versions that may accumulate in a slice: deleting them costs more than keeping a few.
MAX_MARKERS = 20
# One block, which no server cuts into several or collects with others'; each name of a block is taken once. It is not
# searched for rows of equal keys, which no version has: half the insert's cost.
AT_ONCE: dict[str, Any] = {"min_insert_block_size_rows": 1_000_000_000, "min_insert_block_size_bytes": 0}
AT_ONCE |= {"async_insert": 0, "insert_deduplicate": 1, "optimize_on_insert": 0}
# Far more than clocks under NTP differ, and far less than a version in the future could do harm with.
MAX_APART = timedelta(seconds=60)
SEE_MESSAGE = "See ClickHouse's message above."
UNAVAILABLE = (StoreUnavailable, SEE_STATUS)
REFUSED = (StoreRefused, "Check CLICKHOUSE_USER and CLICKHOUSE_PASSWORD.")
# ClickHouse's error codes; all others are StoreFailed. Temporary ones: too many queries at once, memory limit reached,
# table read-only, too few replicas, no Keeper, object storage unavailable, shutting down, query cancelled, time-outs.
PASSING = ("159", "202", "209", "210", "225", "236", "241", "242", "252", "279")
PASSING_TOO = ("285", "286", "319", "394", "425", "439", "473", "499", "999")
NO_SPACE = "243"
# Errors of files, of the system and of S3, whose message may say that a disk is full; others quote values.
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
# The client logs every error that it also raises; each becomes a StoreError, and would be reported twice.
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
        """The official client, connected at first use; without a session, so that queries do not wait for each other.

        Connecting is not retried here, but as part of what is retried as a whole, by `rows` and the others.
        """
        if self._client is None:
            with self.errors():
                # Not through `dsn`, which treats https:// as plain HTTP unless the port is 443 or 8443.
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
            # Not from system.parts, which requires a separate right.
            "SELECT version() AS version, (SELECT sum(total_bytes) FROM system.tables "
            "WHERE database = currentDatabase()) AS size"
        )[0]
        return row["version"], row["size"] or 0

    def server_version(self) -> str:
        """The server's version; the database need not exist."""
        with self.elsewhere(database="default").open() as server:
            return str(server.scalar("SELECT version()"))

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """The result as a list of dicts, for small results; UUIDs are UUID, decimals Decimal, times aware."""
        return list(self._query(query, parameters).named_results())

    def scalar(self, query: str, **parameters: Any) -> Any:
        """The first column of the only row."""
        return self._query(query, parameters).result_rows[0][0]

    def arrow(self, query: str, **parameters: Any) -> pa.Table:
        """The result as an Arrow table; UUIDs are text. Select them so: before 26.4 it takes two queries otherwise."""
        try:
            return _uuids_as_text(self._arrow(query, parameters))
        except StoreFailed as error:
            if "The type 'UUID'" not in str(error):
                raise
        columns = self.rows(f"DESCRIBE ({query})", **parameters)
        ids = [f"toString({one['name']}) AS {one['name']}" for one in columns if "UUID" in one["type"]]
        return self._arrow(f"SELECT * REPLACE ({', '.join(ids)}) FROM ({query})", parameters)  # noqa: S608

    def _arrow(self, query: str, parameters: Mapping[str, Any]) -> pa.Table:
        return self.call(lambda: self.client.query_arrow(query, parameters=dict(parameters), use_strings=True))

    def command(self, statement: str, **parameters: Any) -> None:
        """Runs a statement without a result. Not retried: the caller knows whether it may run twice."""
        client = self.call(lambda: self.client)
        with self.errors():
            client.command(statement, parameters=parameters)

    def insert(self, table: str, rows: pa.Table, once: str = "") -> None:
        """Inserts a table by the names of its columns, UUIDs as text.

        once: a name under which the table takes these rows once, all of them visible together; otherwise the server
        writes about a million at a time. Retried, even after a time-out that may have followed the write, so without a
        name `table` must treat a row inserted twice as one row. Raises ValueError for a column of bytes: see
        `check_no_bytes`.
        """
        check_no_bytes(rows.schema)
        settings = {**AT_ONCE, "insert_deduplication_token": once} if once else None
        if rows.num_rows:
            self.call(lambda: self.client.insert_arrow(table, rows, settings=settings))

    def probe(self) -> None:
        """Writes one row, which replaces itself."""
        self.insert("write_probes", pa.table({"probed_by": ["pipeline"]}))

    def now(self) -> datetime:
        """ClickHouse's clock, UTC, in microseconds: the only clock for versions and touches.

        Raises StoreFailed if it differs from this machine's clock by more than MAX_APART: a version in the future would
        hide every later one, and a version in the past would be hidden itself.
        """
        before = clock()
        there: datetime = self.scalar("SELECT now64(6, 'UTC')")
        after = clock()
        if not before - MAX_APART <= there <= after + MAX_APART:
            problem = f"its clock shows {there:%Y-%m-%d %H:%M:%S} UTC, this machine's {after:%Y-%m-%d %H:%M:%S}"
            raise StoreFailed(self.title, self.url, problem, "Correct the wrong one (NTP); docs/runbook.md, Clocks.")
        return there

    def replace_slice(self, table: str, rows: pa.Table, as_of: datetime, slices: Sequence[date] = ()) -> int:
        """Makes `rows` the entire content of some slices of a mart, and returns their number.

        table: the mart's name (how it is stored: clickhouse_versions.py); slices: days or hours, none for a mart that
        is replaced as a whole; as_of: the version, taken by `now()` before the sources were read.

        1. Insert the new version, with a marker for each slice, as one block: readers see all of it or none of it, and
           from then on no older version, even if an older run writes after this one.
           Dying before: the old version stays. Dying after: the new one is there.
        2. Delete what no reader sees any more. Dying before: it takes up space until the next version.

        Raises StoreFailed if a version exists that lies in the future: readers see that one instead of this one.
        """
        storage = f"{table}{STORAGE}"
        version = with_markers(table, mart_columns(table, rows), as_of, slices)
        self.insert(storage, version, once=token(table, as_of, slices))
        where, parameters = in_slices(table, slices)
        # If a newer run was faster, this version stays in its slices, unseen, until their next version.
        [found] = self.rows(state_query(table, where), **parameters)
        if found["newest"] > max(found["now"] + MAX_APART, as_of):
            problem = f"{table} has a version of {found['newest']:%Y-%m-%d %H:%M} UTC, which hides all others"
            raise StoreFailed(self.title, self.url, problem, "docs/runbook.md, Clocks, says how to remove it.")
        if found["rows"] or found["markers"] > MAX_MARKERS:
            self._delete(storage, where, found["fence"], parameters)
        return rows.num_rows

    def _delete(self, table: str, where: str, before: datetime, parameters: Mapping[str, Any]) -> None:
        statement = f"DELETE FROM {table} WHERE {where} AND as_of < {{before:DateTime64(6, 'UTC')}}"  # noqa: S608
        self.call(lambda: self.client.command(statement, parameters={**parameters, "before": before}))

    def _query(self, query: str, parameters: Mapping[str, Any]) -> QueryResult:
        return self.call(lambda: self.client.query(query, parameters=dict(parameters), tz_mode="aware"))

    def _translate(self, error: Exception) -> StoreError | None:
        match error:
            case DatabaseError():  # includes OperationalError
                untrusted = tls_failure(self.title, self.url, error, "CLICKHOUSE_URL", "CLICKHOUSE_CA_FILE")
                return untrusted or self._server_error(error)
            case ClickHouseError():
                return StoreFailed(self.title, self.url, error, SEE_MESSAGE)
        return None

    def _server_error(self, error: DatabaseError) -> StoreError:
        text = str(error)
        code, status = (re.search(pattern, text) for pattern in (r"[Cc]ode: (\d+)", r"HTTP status (\d+)"))
        of_files = code is None or code[1] in OF_FILES
        if (code and code[1] == NO_SPACE) or (of_files and is_out_of_space(text)):
            return OutOfSpace(self.title, self.url, text)
        if code is None:
            # No answer, or not ClickHouse's: a proxy whose server is unavailable, or another server.
            kind, advice = BY_STATUS.get(status[1] if status else "", UNAVAILABLE)
        else:
            kind, advice = BY_CODE.get(code[1], (StoreFailed, SEE_MESSAGE))
        return kind(self.title, self.url, text, advice)


def check_no_bytes(schema: pa.Schema) -> None:
    """Raises ValueError naming the first column that holds bytes.

    ClickHouse before 26.1 refuses bytes for a UUID, 26.1 to 26.3 store a wrong UUID without an error, later versions
    store the right one: so ids are sent as text. None of our tables has a column that needs bytes.
    """
    for field in schema:
        if _holds_bytes(field.type):
            raise ValueError(f"column {field.name} is {field.type}: send it as text: that is how ClickHouse reads ids")


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


def _uuids_as_text(table: pa.Table) -> pa.Table:
    for index, field in enumerate(table.schema):
        if field.type == pa.uuid():
            text = [None if value is None else str(value) for value in table[index].to_pylist()]
            table = table.set_column(
                index, pa.field(field.name, pa.string(), field.nullable), pa.array(text, pa.string())
            )
    return table
