"""PostgreSQL: the system of record, and where invoices are kept."""

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
    OutOfSpace,
    Store,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    retrying,
    tls_failure,
)
from ninjait_pipelines.urls import options_of


class NoSuchTime:
    """A time or date that PostgreSQL holds and Python has none for: infinity, a year BC or after 9999.

    psycopg raises for it, and with it goes every row of the read. Instead whoever computes with this value raises,
    which leaves out its own row: it compares with nothing, and no column takes it.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def wrong_times(row: Mapping[str, Any]) -> dict[str, NoSuchTime]:
    """The columns of the row that hold a NoSuchTime."""
    return {name: value for name, value in row.items() if isinstance(value, NoSuchTime)}


def check_times(row: Mapping[str, Any]) -> None:
    """Raises ValueError naming the columns of the row that hold a NoSuchTime."""
    if wrong := wrong_times(row):
        said = ", ".join(f"{name} is {value}" for name, value in wrong.items())
        raise ValueError(f"{said}: set it to a time from the year 1 to 9999, or to null if there is none")


def _lenient(of: type[AnyLoader]) -> type[Loader]:
    """A loader like this one that gives NoSuchTime for what it has no value for."""

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


class BoundedConnection(psycopg.Connection[DictRow]):
    """A connection that waits for an answer for `answer_seconds` at most.

    The server's own time-outs need a server that runs, and TCP's a peer that is gone: one that was stopped, or whose
    disk hangs, is neither. libpq knows no time-out for an answer.
    """

    answer_seconds: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Raises OperationalError, with the connection closed, where no answer came in time."""
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
    hosts_without_organization: str = Field(
        default="off", description="on: hosts are found among those of all organizations where a message names none"
    )
    interfaces_left_out: str | None = Field(
        default=None, description="Shell patterns, separated by commas, of the interfaces whose bytes do not count"
    )
    statement_timeout_seconds: int = Field(default=40, description="Longest run of one statement, seconds")
    lock_timeout_seconds: int = Field(default=20, description="Longest wait of a statement for a lock, seconds")
    answer_timeout_seconds: float = Field(
        default=45, description="Longest wait for an answer, of a server that hangs; above the statement's, seconds"
    )

    _client: BoundedConnection | None = PrivateAttr(default=None)

    def _ping(self) -> tuple[str, int | None]:
        row = self.rows(
            "SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS size"
        )
        return row[0]["version"], row[0]["size"]

    def probe(self) -> None:
        """Asks whether it is read-only; no drain writes to it."""
        if self.rows("SELECT current_setting('transaction_read_only') AS read_only")[0]["read_only"] == "on":
            raise self._read_only("it is read-only")

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[DictRow]:
        """The rows of a query as dicts. Retried when the server is away, so for reads only.

        A time that Python has none for is a NoSuchTime.
        """

        def once() -> list[DictRow]:
            with self._errors():
                return self._connection().execute(query.encode(), parameters).fetchall()

        return retrying()(once)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection inside a transaction: committed at the end, rolled back by an exception."""
        with self._errors():
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
                # A peer that is gone is noticed by the kernel too, in between statements.
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
                options=" ".join([*(f"-c {name}={value}s" for name, value in limits.items()), "-c timezone=UTC"]),
                application_name="ninjait-pipelines",
            )
            self._client.answer_seconds = self.answer_timeout_seconds
            adapters = self._client.adapters
            for name in TIMES:
                if loader := adapters.get_loader(adapters.types[name].oid, Format.TEXT):
                    adapters.register_loader(name, _lenient(loader))
        return self._client

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.OperationalError as error:
            self.close()
            if failed := tls_failure(self.title, self.url, error, "DATABASE_URL", "DATABASE_CA_FILE"):
                raise failed from error
            if is_out_of_space(error) or isinstance(error, psycopg.errors.DiskFull):
                raise OutOfSpace(self.title, self.url, error) from error
            if any(words in str(error) for words in ("authentication failed", "does not exist", "permission denied")):
                raise StoreRefused(self.title, self.url, error, "Check DATABASE_URL.") from error
            raise StoreUnavailable(self.title, self.url, error, "See what runs with: ninjait status.") from error
        except psycopg.errors.ReadOnlySqlTransaction as error:
            self.close()  # it may be a standby by now: whoever connects anew may find the primary
            raise self._read_only(error) from error
        except psycopg.errors.InsufficientPrivilege as error:
            advice = "Check the rights of DATABASE_URL's user: sql/roles/postgres.sql says which it needs."
            raise StoreRefused(self.title, self.url, error, advice) from error
        except psycopg.errors.UndefinedTable as error:
            raise StoreFailed(
                self.title, self.url, error, "Bring the schema up to date: ninjait migrate up."
            ) from error
        except psycopg.Error as error:
            raise StoreFailed(self.title, self.url, error, "Read PostgreSQL's words above.") from error

    def _read_only(self, problem: object) -> StoreUnavailable:
        return StoreUnavailable(self.title, self.url, problem, "It is a standby, or was set so: has the primary moved?")


def _tls(url: str, ca_file: str | None) -> dict[str, Any]:
    """The certificate and its host name verified by this authority, unless the URL says another sslmode.

    Without one what the URL says; where it says nothing, libpq takes TLS where the server has it, and verifies nothing.
    """
    options = options_of(url)
    if ca_file is None or options.get("sslmode") == "disable":
        return {}
    ours = {"sslmode": "verify-full", "sslrootcert": ca_file}
    return {name: value for name, value in ours.items() if name not in options}
