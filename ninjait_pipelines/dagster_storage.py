"""Dagster's storage in PostgreSQL over connections that are kept; `dagster.yaml` names it.

Dagster's own class signs in for every statement, and asks before most of them which tables and columns it has: that was
most of the daemon's processor time at rest.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import dagster as dg
import sqlalchemy
from dagster_postgres import DagsterPostgresStorage

# Kept by a process; its threads open more while they need them.
KEPT = 3
# A connection is not used beyond this age: one that a firewall forgot while it was idle would hang.
MAX_AGE_SECONDS = 60
# Methods of the storages that ask whether a table, a column or an index is there yet: until they say yes.
ASKED_ONCE = (
    "has_asset_key_col",
    "has_backfill_id_column",
    "has_backfill_tags_table",
    "has_bulk_action_job_name_column",
    "has_bulk_actions_selector_cols",
    "has_built_index",
    "has_run_stats_index_cols",
    "has_secondary_index",
    "has_secondary_index_table",
    "_has_asset_daemon_asset_evaluations_table",
    "_has_instigators_table",
)


class PooledPostgresStorage(DagsterPostgresStorage):
    """All instances of a process share one pool: a code location makes an instance per sensor and tick.

    A kept connection is tried before it is used: after a restart of PostgreSQL it is replaced, and where PostgreSQL is
    away, Dagster tries to connect for as long as it did without a pool.
    """

    def __init__(self, postgres_url: str, inst_data: Any = None) -> None:
        _create_tables(postgres_url)
        super().__init__(postgres_url, should_autocreate_tables=False, inst_data=inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _pool(postgres_url)
            for name in ASKED_ONCE:
                if method := getattr(storage, name, None):
                    setattr(storage, name, _asked_once(postgres_url, method))

    @classmethod
    def config_type(cls) -> Any:
        """What `config` of dagster.yaml may have."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "PooledPostgresStorage":
        """Dagster makes it of `config`."""
        return cls(config_value["postgres_url"], inst_data)


def _asked_once(url: str, method: Callable[..., bool]) -> Callable[..., bool]:
    """The method, which asks the database no more in this process once it has said yes.

    A no is asked again: another process, or `dagster instance migrate`, may be adding what is missing.
    """

    def answer(*arguments: Any) -> bool:
        names = tuple(argument for argument in arguments if isinstance(argument, str))  # the other is a connection
        key = (url, method.__qualname__, *names)
        if key not in _found and method(*arguments):
            _found.add(key)
        return key in _found

    return answer


_found: set[tuple[str, ...]] = set()


@cache
def _create_tables(url: str) -> None:
    """Dagster's tables, if they are missing; a process looks once."""
    DagsterPostgresStorage(url)


@cache
def _pool(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=KEPT,
        max_overflow=-1,
        pool_pre_ping=True,
        pool_recycle=MAX_AGE_SECONDS,
    )
