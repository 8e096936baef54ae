"""Checks of the reference copies: the same number of rows in PostgreSQL and in ClickHouse."""

import dagster as dg

from ninjait_pipelines.left_out import latest, nothing_is_left_out
from ninjait_pipelines.reference import assets
from ninjait_pipelines.resources.clickhouse import ClickHouse
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
left_nothing_out = [
    nothing_is_left_out(asset) for asset in (assets.organizations, assets.users, assets.devices, assets.contracts)
]
