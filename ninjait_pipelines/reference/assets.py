"""The reference copies: one function makes all four, from a query and a table of the same name."""

import hashlib
import time

import dagster as dg

from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse, column_schema, convertible, mart_rows, sql
from ninjait_pipelines.resources.postgres import Postgres


def reference_copy(table: str, description: str) -> dg.AssetsDefinition:
    """The asset that copies sql/queries/reference/<table>.sql from PostgreSQL over ClickHouse's <table>, whole.

    A read that fails raises before anything is replaced. A read that is empty empties the copy: that is what
    PostgreSQL says; the check `<table>_row_count` says so too if it is not. The data version is a hash of the rows,
    so that only a copy that differs counts as a change downstream.
    """

    @dg.asset(
        name=table,
        group_name="reference",
        kinds={"postgres", "clickhouse"},
        owners=["team:data-engineering"],
        description=description,
        metadata={"dagster/column_schema": column_schema(table)},
        automation_condition=dg.AutomationCondition.on_cron("@hourly"),
    )
    def copy(postgres: Postgres, clickhouse: ClickHouse) -> dg.MaterializeResult:
        started = time.perf_counter()
        as_of = clickhouse.now()
        rows = postgres.rows(sql(f"reference/{table}"))
        # Dying in here: replace_slice says what is seen; the next hour's copy, or a rerun, heals it.
        left_out = LeftOut()
        count = clickhouse.replace_slice(table, mart_rows(table, convertible(table, rows, left_out)), as_of)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": count,
                "duration_seconds": time.perf_counter() - started,
                **left_out.metadata(),
            },
            data_version=dg.DataVersion(hashlib.sha256(repr(rows).encode()).hexdigest()),
        )

    return copy


organizations = reference_copy(
    "organizations", "Customers of the platform, as PostgreSQL has them. Grain: organization."
)
users = reference_copy("users", "People who sign in, without their e-mail address. Grain: user.")
devices = reference_copy("devices", "Monitored machines, as PostgreSQL has them. Grain: device.")
contracts = reference_copy("contracts", "Contracts with the price plan that they were signed for. Grain: contract.")
