"""PostgreSQL: the system of record, and the store of invoices."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.abc import Loader as AnyLoader
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.rows import DictRow, dict_row
from pydantic import Field, PrivateAttr

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
from ninjait_pipelines.urls import options_of


class NoSuchTime:
    """A time or date of PostgreSQL that Python cannot represent: infinity, a year BC or after 9999.

    psycopg raises for it, and every row of the query would be lost. With this value only its own row is: computing with
    it raises, because it compares with nothing, and no column accepts it.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def wrong_times(row: Mapping[str, Any]) -> dict[str, NoSuchTime]:
    """The columns of the row whose value is a NoSuchTime."""
    return {name: value for name, value in row.items() if isinstance(value, NoSuchTime)}


def check_times(row: Mapping[str, Any]) -> None:
    """Raises ValueError naming the columns of the row whose value is a NoSuchTime."""
    if wrong := wrong_times(row):
        columns = ", ".join(f"{name} is {value}" for name, value in wrong.items())
        raise ValueError(f"{columns}: set it to a time from the year 1 to 9999, or to null if there is none")


def _lenient(of: type[AnyLoader]) -> type[Loader]:
    """The same loader, except that it returns NoSuchTime for what Python cannot represent."""

    class Lenient(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = of(oid, context).load

        def load(self, data: Buffer) -> Any:
            try:
                return self._load(data)
            except psycopg.DataError:
                return NoSuchTime(bytes(data).decode())

    return Lenient


TIMES = ("timestamptz", "timestamp", "date")
# Times are in this form whatever the database's own is.
FORM = ("-c timezone=UTC", "-c datestyle=ISO")
# The order of the rows does not matter, and no column is turned into text for it: a third of the time of reading them.
_FINGERPRINT = (
    "SELECT count(*) AS rows, coalesce(bit_xor(hash_record_extended(copied, 0)), 0) AS hash FROM ({query}) AS copied"
)


class BoundedConnection(psycopg.Connection[DictRow]):
    """A connection that waits at most `answer_seconds` for an answer.

    The server's own time-outs need a running server, and TCP's a peer that is gone: a server that was stopped, or whose
    disk hangs, is neither. libpq has no time-out for answers.
    """

    answer_seconds: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Raises OperationalError and closes the connection if no answer comes in time."""
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.answer_seconds or timeout:g} seconds") from error


class Postgres(Store):
    """PostgreSQL through psycopg 3.

    with Postgres(url="postgresql://user:password@host/ninjait").open() as store:
        store.rows("SELECT name FROM organizations WHERE id = %(id)s", {"id": organization_id})
    """

    title = "PostgreSQL"
    oldest = "15"

    url: str = Field(description="postgresql://user:password@host:port/database")
    connect_timeout_seconds: int = Field(default=5, description="Longest wait for a connection, seconds")
    hosts_without_organization: bool = Field(
        default=False, description="A host is looked up among all organizations if its message names none"
    )
    interfaces_left_out: str | None = Field(
        default=None, description="Shell patterns, separated by commas, of the interfaces whose bytes do not count"
    )
    statement_timeout_seconds: int = Field(default=40, description="Longest run of one statement, seconds")
    lock_timeout_seconds: int = Field(default=20, description="Longest wait of a statement for a lock, seconds")
    answer_timeout_seconds: float = Field(
        default=45,
        description="Longest wait for an answer from a server that hangs, seconds; more than the statement's",
    )

    _client: BoundedConnection | None = PrivateAttr(default=None)

    def _ping(self) -> tuple[str, int | None]:
        row = self.rows(
            "SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS size"
        )
        return row[0]["version"], row[0]["size"]

    def probe(self) -> None:
        """Only checks whether it is read-only, because no drain writes to it."""
        if self.rows("SELECT current_setting('transaction_read_only') AS read_only")[0]["read_only"] == "on":
            raise self._read_only("it is read-only")

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[DictRow]:
        """The rows of a query as dicts. Retried while the server is unavailable, so for reads only.

        A time that Python cannot represent is a NoSuchTime.
        """
        return self.call(lambda: self._connection().execute(query.encode(), parameters).fetchall())

    def copy_out(self, query: str, unless: str | None = None) -> tuple[str, memoryview | None]:
        """The fingerprint of a query and its rows, no two of which may be equal; and the rows, or None where the
        fingerprint is `unless`. Both are of one snapshot: what is committed between them is in neither.

        The rows are CSV: UTF-8, with a header, a null without quotes and an empty text with them. Retried while the
        server is unavailable.
        """
        return self.call(lambda: self._copy_out(query, unless))

    def _copy_out(self, query: str, unless: str | None) -> tuple[str, memoryview | None]:
        connection = self._connection()
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            [found] = connection.execute(_FINGERPRINT.format(query=query).encode()).fetchall()
            of_query = hashlib.sha256(query.encode()).hexdigest()[:8]
            fingerprint = f"{of_query}-{found['rows']}-{found['hash'] % 2**64:016x}"
            return fingerprint, None if fingerprint == unless else _received(connection, query, found["rows"])

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection inside a transaction: committed at the end, rolled back by an exception."""
        with self.errors():
            connection = self._connection()
            with connection.transaction():
                yield connection

    def _connection(self) -> psycopg.Connection[DictRow]:
        if self._client is None or self._client.closed:
            limits = {"statement_timeout": self.statement_timeout_seconds, "lock_timeout": self.lock_timeout_seconds}
            self._client = BoundedConnection.connect(
                self.url,
                **_tls(self.url, self.ca_file),
                row_factory=dict_row,
                autocommit=True,
                connect_timeout=self.connect_timeout_seconds,
                # The kernel also notices a dead peer between statements.
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                options=" ".join([*(f"-c {name}={value}s" for name, value in limits.items()), *FORM]),
                application_name="ninjait-pipelines",
            )
            self._client.answer_seconds = self.answer_timeout_seconds
            adapters = self._client.adapters
            for name in TIMES:
                if loader := adapters.get_loader(adapters.types[name].oid, Format.TEXT):
                    adapters.register_loader(name, _lenient(loader))
        return self._client

    def _translate(self, error: Exception) -> StoreError | None:
        match error:
            case psycopg.OperationalError():
                self.close()  # the connection may be broken
                return self._operational_error(error)
            case psycopg.errors.ReadOnlySqlTransaction():
                self.close()  # the server may have become a standby: connecting again may find the primary
                return self._read_only(error)
            case psycopg.errors.InsufficientPrivilege():
                advice = "Check the rights of DATABASE_URL's user: sql/roles/postgres.sql lists what it needs."
                return StoreRefused(self.title, self.url, error, advice)
            case psycopg.errors.UndefinedTable():
                return StoreFailed(self.title, self.url, error, "Bring the schema up to date: ninjait migrate up.")
            case psycopg.Error():
                return StoreFailed(self.title, self.url, error, "See PostgreSQL's message above.")
        return None

    def _operational_error(self, error: psycopg.OperationalError) -> StoreError:
        if untrusted := tls_failure(self.title, self.url, error, "DATABASE_URL", "DATABASE_CA_FILE"):
            return untrusted
        if is_out_of_space(error) or isinstance(error, psycopg.errors.DiskFull):
            return OutOfSpace(self.title, self.url, error)
        if any(reason in str(error) for reason in ("authentication failed", "does not exist", "permission denied")):
            return StoreRefused(self.title, self.url, error, "Check DATABASE_URL.")
        return StoreUnavailable(self.title, self.url, error, SEE_STATUS)

    def _read_only(self, problem: object) -> StoreUnavailable:
        return StoreUnavailable(
            self.title, self.url, problem, "It is a standby, or was made read-only: has the primary moved?"
        )


def _received(connection: psycopg.Connection[DictRow], query: str, rows: int) -> memoryview:
    """The rows of a query as CSV. They are counted, because only psycopg can receive the end of a COPY; what libpq has
    already received is taken from it without psycopg's wait for each row, which costs as much as all the rest."""
    received, missing = io.BytesIO(), 1 + rows  # the header is one
    statement = f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER, ENCODING 'UTF8')"
    with connection.cursor().copy(statement.encode()) as copied:
        while row := copied.read():
            received.write(row)
            missing -= 1
            while missing > 0 and (found := connection.pgconn.get_copy_data(1))[0]:
                size, row = found
                if size < 0 and (why := connection.pgconn.get_result()):
                    raise psycopg.errors.error_from_result(why)
                received.write(row)
                missing -= 1
    return received.getbuffer()


def _tls(url: str, ca_file: str | None) -> dict[str, Any]:
    """Verifies certificate and host name with this authority, unless the URL has another sslmode.

    Without an authority the URL decides; if it has no sslmode, libpq uses TLS if it can, and verifies nothing.
    """
    options = options_of(url)
    if ca_file is None or options.get("sslmode") == "disable":
        return {}
    ours = {"sslmode": "verify-full", "sslrootcert": ca_file}
    return {name: value for name, value in ours.items() if name not in options}
