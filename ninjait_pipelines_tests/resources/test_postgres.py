"""Transactions, connections and copies of PostgreSQL, and an error of its own."""

from typing import Any

import psycopg
import pytest

from ninjait_pipelines.resources import postgres as module
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable
from ninjait_pipelines_tests.resources.store_helpers import opened


def test_postgres_rolls_back_what_fails_half_way(stack: dict[str, str]) -> None:
    with opened(stack, "postgres") as postgres:
        with postgres.transaction() as connection:
            connection.execute("CREATE TEMPORARY TABLE kept (n integer PRIMARY KEY)")

        def insert_twice() -> None:
            with postgres.transaction() as connection:
                connection.execute("INSERT INTO kept VALUES (1)")
                connection.execute("INSERT INTO kept VALUES (1)")

        with pytest.raises(StoreFailed, match="duplicate key"):
            insert_twice()
        assert postgres.rows("SELECT count(*) AS n FROM kept") == [{"n": 0}]


def test_postgres_opens_a_new_connection_after_a_broken_one(stack: dict[str, str]) -> None:
    with opened(stack, "postgres") as postgres, opened(stack, "postgres") as other:
        first = postgres.rows("SELECT pg_backend_pid() AS pid")[0]["pid"]
        other.rows("SELECT pg_terminate_backend(%(pid)s)", {"pid": first})
        assert postgres.rows("SELECT pg_backend_pid() AS pid")[0]["pid"] != first


def test_a_standby_is_worth_a_retry() -> None:
    """PostgreSQL failed over: its old primary refused writes, as if they were wrong."""
    with pytest.raises(StoreUnavailable, match="has the primary moved"), Postgres(url="postgresql://u@h:1/d").errors():
        raise psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction")


def test_rows_and_their_fingerprint_are_of_one_moment(stack: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that were committed between the two would be taken for those of the fingerprint, and then for unchanged."""
    with opened(stack, "postgres") as postgres, opened(stack, "postgres") as other:
        with other.transaction() as connection:
            connection.execute("CREATE TABLE moments AS SELECT 1 AS n")
        received = module._received

        def late(*arguments: Any) -> memoryview:
            with other.transaction() as connection:
                connection.execute("INSERT INTO moments VALUES (2)")
            return received(*arguments)

        try:
            with monkeypatch.context() as patch:
                patch.setattr(module, "_received", late)
                first, rows = postgres.copy_out("SELECT n FROM moments")
            assert bytes(rows or b"") == b"n\n1\n"
            second, rows = postgres.copy_out("SELECT n FROM moments", unless=first)
            assert bytes(rows or b"") == b"n\n1\n2\n"
            assert postgres.copy_out("SELECT n FROM moments", unless=second) == (second, None)
            assert postgres.copy_out("SELECT n FROM moments WHERE n < 3")[0] != second
        finally:
            with other.transaction() as connection:
                connection.execute("DROP TABLE moments")


@pytest.mark.parametrize("rows", [0, 1, 2, 10_000])
def test_a_copy_has_all_rows_and_the_connection_goes_on(stack: dict[str, str], rows: int) -> None:
    with opened(stack, "postgres") as postgres:
        query = f"SELECT n, repeat('x', 1 + n % 100) AS x FROM generate_series(1, {rows}) AS n"
        for _ in range(2):
            _, csv = postgres.copy_out(query)
            lines = [f"{n},{'x' * (1 + n % 100)}" for n in range(1, rows + 1)]
            assert bytes(csv or b"").decode().splitlines() == ["n,x", *lines]
        assert postgres.rows("SELECT 1 AS one") == [{"one": 1}]


def test_a_copy_that_fails_half_way_raises_what_the_server_says(stack: dict[str, str]) -> None:
    bad = "CASE WHEN current_query() LIKE 'COPY%' AND n = 40000 THEN 0 ELSE 1 END"
    with opened(stack, "postgres") as postgres:
        with pytest.raises(StoreFailed, match="division by zero"):
            postgres.copy_out(f"SELECT n, 1 / ({bad}) AS x FROM generate_series(1, 50000) AS n")
        assert postgres.rows("SELECT 1 AS one") == [{"one": 1}]
