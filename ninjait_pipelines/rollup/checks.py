"""Does device_metrics_hourly say what the metrics store says?"""

from datetime import datetime

import dagster as dg

from ninjait_pipelines.partitions import HOURLY, check_each
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.rollup.assets import device_metrics_hourly, samples_by_hour
from ninjait_pipelines.rollup.hours import HOUR, batches, per_hour, source_tier


@dg.asset_check(asset=device_metrics_hourly, partitions_def=HOURLY, blocking=True)
def samples_are_conserved(
    context: dg.AssetCheckExecutionContext, metrics_store: dg.ResourceParam[MetricsStore], clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Every sample of the metrics store is counted in its hour; a later arrival is a late hour and no loss."""
    now = clickhouse.now()
    hours = hours_of(context)
    rolled_up = samples_by_hour(clickhouse, hours)
    in_store: dict[datetime, tuple[int, int]] = {}
    for together in batches(hours, lambda hour: source_tier(hour, now)):
        windows = metrics_store.aggregate(source_tier(together[0], now), together[0], together[-1] + HOUR, HOUR)
        in_store |= per_hour(windows["time"], windows["samples"])

    def examine(hour: datetime, _: datetime) -> dg.AssetCheckResult:
        stored, counted = in_store.get(hour, (0, 0))[1], rolled_up.get(hour, 0)
        late = stored > counted and _is_late(clickhouse, hour)
        return dg.AssetCheckResult(
            passed=stored == counted or late,
            description=f"{counted} of {stored} samples{', the rest came later' if late else ''}",
            metadata={"samples_rolled_up": counted, "samples_stored": stored, "late": late},
        )

    return check_each(context, examine)


def _is_late(clickhouse: ClickHouse, hour: datetime) -> bool:
    return bool(clickhouse.scalar("SELECT count() FROM late_hours WHERE hour = {hour:DateTime('UTC')}", hour=hour))


@dg.asset_check(asset=device_metrics_hourly, partitions_def=HOURLY)
def sample_shares_are_shares(context: dg.AssetCheckExecutionContext, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Every sample_share is above 0, at most 1, and not more than the row's sample_count gives."""
    hours = hours_of(context)
    rows = clickhouse.rows(sql("rollup/samples_by_hour"), start=hours[0], stop=hours[-1] + HOUR)
    by_hour = {row["hour"]: row for row in rows}

    def examine(hour: datetime, _: datetime) -> dg.AssetCheckResult:
        row = by_hour.get(hour, {"wrong_shares": 0, "mean_share": 0.0})
        return dg.AssetCheckResult(
            passed=row["wrong_shares"] == 0,
            description=f"{row['wrong_shares']} rows have a share that their sample count cannot give",
            metadata={"wrong_rows": row["wrong_shares"], "mean_share": row["mean_share"]},
        )

    return check_each(context, examine)


def hours_of(context: dg.AssetCheckExecutionContext) -> list[datetime]:
    """The starts of the hours of the run, in order."""
    return [HOURLY.time_window_for_partition_key(key).start for key in context.partition_keys]
