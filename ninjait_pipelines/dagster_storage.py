"""Dagster's storage in PostgreSQL over connections that are kept; `dagster.yaml` names it.

Dagster's own class signs in for every statement, dozens of times per second: that was half of the daemon's processor
time at rest.
"""

from functools import cache
from typing import Any

import dagster as dg
import sqlalchemy
from dagster_postgres import DagsterPostgresStorage

# Kept by a process; its threads open more while they need them.
KEPT = 3
# A connection is not used beyond this age: one that a firewall forgot while it was idle would hang.
MAX_AGE_SECONDS = 60


class PooledPostgresStorage(DagsterPostgresStorage):
    """All instances of a process share one pool: a code location makes an instance per sensor and tick.

    A kept connection is tried before it is used: after a restart of PostgreSQL it is replaced, and where PostgreSQL is
    away, Dagster tries to connect for as long as it did without a pool.
    """

    def __init__(self, postgres_url: str, inst_data: Any = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _pool(postgres_url)

    @classmethod
    def config_type(cls) -> Any:
        """What `config` of dagster.yaml may have."""
        return {"postgres_url": dg.StringSource}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "PooledPostgresStorage":
        """Dagster makes it of `config`."""
        return cls(config_value["postgres_url"], inst_data)


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
