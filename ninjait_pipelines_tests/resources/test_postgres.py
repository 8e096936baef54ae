"""Transactions and connections of PostgreSQL, and an error of its own."""

import psycopg
import pytest

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
