"""Checks of the reference copies: the same number of rows in PostgreSQL and in ClickHouse, and only sound ones."""

import dagster as dg

from ninjait_pipelines.left_out import MOST_NAMED, latest, nothing_is_left_out
from ninjait_pipelines.reference import assets
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres


def row_count(asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """A blocking check of one copy. A row that came between copy and check fails it once; the next copy passes."""
    table = asset.key.to_user_string()

    @dg.asset_check(
        asset=asset,
        name=f"{table}_row_count",
        blocking=True,
        description=f"PostgreSQL and ClickHouse have as many {table}.",
    )
    def check(
        context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
    ) -> dg.AssetCheckResult:
        source = postgres.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"]  # noqa: S608 -- the asset's own name
        copy = clickhouse.scalar(f"SELECT count() FROM {table}")  # noqa: S608
        left_out, _ = latest(context.instance, asset.key, None)
        return dg.AssetCheckResult(
            passed=source == copy + left_out,
            description=f"PostgreSQL has {source} {table}, ClickHouse {copy}; {left_out} were left out.",
            metadata={"postgres_rows": source, "clickhouse_rows": copy},
        )

    return check


organizations_row_count = row_count(assets.organizations)
users_row_count = row_count(assets.users)
devices_row_count = row_count(assets.devices)
contracts_row_count = row_count(assets.contracts)


@dg.asset_check(
    asset=assets.organizations,
    description="No row of PostgreSQL, of any table, is one that is older than the constraint that would refuse it.",
)
def rows_keep_the_constraints(postgres: Postgres) -> dg.AssetCheckResult:
    """Names the rows that break a constraint which `migrate up` could not validate. Some are on no day, and in no run:
    an event of a ticket at infinity."""
    problems = []
    for constraint in postgres.rows(sql("reference/constraints_not_valid")):
        broken = "SELECT id::text AS id FROM {relation} WHERE NOT ({condition})".format_map(constraint)
        if rows := postgres.rows(f"{broken} ORDER BY id LIMIT {MOST_NAMED + 1}"):
            ids = ", ".join(row["id"] for row in rows[:MOST_NAMED]) + (", ..." if len(rows) > MOST_NAMED else "")
            problems.append("{name}: {relation} {ids} (must be {condition})".format_map({**constraint, "ids": ids}))
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems) or "All rows keep the constraints.",
        metadata={"constraints_broken": len(problems)},
    )


left_nothing_out = [
    nothing_is_left_out(asset) for asset in (assets.organizations, assets.users, assets.devices, assets.contracts)
]
