"""The reference copies and their checks: one function makes each copy, from a query and a table of the same name."""

import time

import dagster as dg

from ninjait_pipelines.left_out import MAX_NAMED, last_metadata, nothing_is_left_out
from ninjait_pipelines.marts import OWNERS, check, some_of
from ninjait_pipelines.reference.copies import copy
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import column_schema
from ninjait_pipelines.resources.postgres import Postgres


def reference_copy(table: str, description: str) -> dg.AssetsDefinition:
    """The asset that copies sql/queries/reference/<table>.sql from PostgreSQL over ClickHouse's <table>, as copies.py
    says."""

    @dg.asset(
        name=table,
        description=description,
        owners=OWNERS,
        group_name="reference",
        kinds={"clickhouse", "postgres"},
        automation_condition=dg.AutomationCondition.on_cron("@hourly"),
        metadata={"dagster/column_schema": column_schema(table)},
        required_resource_keys={"clickhouse", "postgres"},
    )
    def copied(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        started = time.perf_counter()
        last = last_metadata(context.instance, context.asset_key, partition=None)
        done = copy(table, context.resources.postgres, context.resources.clickhouse, last)
        metadata = {**done.metadata, "duration_seconds": time.perf_counter() - started}
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(done.data_version))

    return copied


# PostgreSQL's table, where it is not the one of that name. Contracts of 0.4.0 have become agreements.
ORIGINS = {
    "agreements": "billing.agreements",
    "contracts": "billing.agreements",
    "device_terms": "billing.device_terms",
}


def row_count(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """A blocking check of one copy. A row that came between copy and check fails it once; the next copy passes."""
    table = asset.key.to_user_string()
    origin = ORIGINS.get(table, table)
    description = f"PostgreSQL and ClickHouse have as many {table}."

    @check(asset, name=f"{table}_row_count", description=description, blocking=True)
    def as_many(postgres: Postgres, clickhouse: ClickHouse, left_out: int) -> dg.AssetCheckResult:
        source = postgres.rows(f"SELECT count(*) AS n FROM {origin}")[0]["n"]  # noqa: S608 -- the asset's own name
        copy = clickhouse.scalar(f"SELECT count() FROM {table}")  # noqa: S608
        return dg.AssetCheckResult(
            passed=source == copy + left_out,
            description=f"PostgreSQL has {source} {table}, ClickHouse {copy}; {left_out} were left out.",
            metadata={"postgres_rows": source, "clickhouse_rows": copy},
        )

    return as_many


organizations = reference_copy(
    "organizations", "Customers of the platform, as PostgreSQL has them. Grain: organization."
)
users = reference_copy("users", "People who sign in, without their e-mail address. Grain: user.")
devices = reference_copy("devices", "Monitored machines, as PostgreSQL has them. Grain: device.")
contracts = reference_copy(
    "contracts", "Agreements by the columns of contracts, with the plan of the newest item. Grain: agreement."
)
agreements = reference_copy("agreements", "What is agreed, with a hash of all its items and prices. Grain: agreement.")
device_terms = reference_copy(
    "device_terms", "Whose each device is, of which class, from when to when. Grain: term of a device."
)

COPIES = [organizations, users, devices, contracts, agreements, device_terms]
row_counts = [row_count(copy) for copy in COPIES]
left_nothing_out = [nothing_is_left_out(copy) for copy in COPIES]


@check(organizations)
def rows_keep_the_constraints(postgres: Postgres) -> dg.AssetCheckResult:
    """No row of PostgreSQL, of any table, is one that is older than the constraint that would refuse it. Some such rows
    are on no day, and in no run: an event of a ticket at infinity."""
    problems = []
    for constraint in postgres.rows(sql("reference/constraints_not_valid")):
        broken = "SELECT id::text AS id FROM {relation} WHERE NOT ({condition})".format_map(constraint)
        if rows := postgres.rows(f"{broken} ORDER BY id LIMIT {MAX_NAMED + 1}"):
            ids = some_of((row["id"] for row in rows), MAX_NAMED)
            problems.append("{name}: {relation} {ids} (must be {condition})".format_map({**constraint, "ids": ids}))
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems) or "All rows keep the constraints.",
        metadata={"constraints_broken": len(problems)},
    )
