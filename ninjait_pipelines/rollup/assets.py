"""The three hourly assets, in the order in which an hour passes through them: 5 minutes, 1 hour, ClickHouse.

device_metrics_hourly comes last although a young hour is made from full resolution: an older hour is made from a lower
tier, which must have been brought up to date first.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg
import msgspec
import pyarrow as pa

from ninjait_pipelines.automation import fill_missing
from ninjait_pipelines.metrics.model import HOUR, RETENTION, WIDTH, Tier
from ninjait_pipelines.partitions import HOURLY, windows
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import column_schema
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines.rollup.hours import (
    SamplesLost,
    batches,
    fewer,
    hourly_rows,
    per_hour,
    source_tier,
    still_whole,
)
from ninjait_pipelines.settings import THRESHOLDS

# Older hours have no full resolution to be made from.
LOOKBACK = RETENTION[Tier.RAW]
# An hour's last samples are still on their way when it ends: rolled up at once, every hour would be rolled up twice.
# Written as "not between :00 and :05", so that gaps are filled at once, at whatever minute Dagster starts.
_GRACE = ~dg.AutomationCondition.cron_tick_passed("0 * * * *").since(
    dg.AutomationCondition.cron_tick_passed(f"{THRESHOLDS.rollup_grace_minutes} * * * *")
)
# It has no partitions and is materialized every few seconds: it neither starts a roll-up nor holds one up.
_AGENT_METRICS = dg.AssetSelection.assets("agent_metrics")
# None of the three has FOLLOW_UPSTREAM: they are requested in one tick, and the sensor late_hours requests all three
# again. Dagster would take a range run's update of one for a new update upstream of the next, and run it three times.
CATCH_UP = fill_missing(LOOKBACK, ignoring=_AGENT_METRICS) & _GRACE
# A week of hours per run: what one run may lose by dying, and what Dagster records in a few seconds.
WEEK = dg.BackfillPolicy.multi_run(max_partitions_per_run=168)
# How often a run fills an hour again that other runs fill at the same time. After that the hour is left as late.
MAX_ROUNDS = 3
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dg.asset(
    group_name="rollup",
    deps=["agent_metrics"],
    partitions_def=HOURLY,
    backfill_policy=WEEK,
    automation_condition=CATCH_UP,
    kinds={"influxdb"},
    owners=["team:data-engineering"],
    metadata={"dagster/column_schema": column_schema("metrics_5m")},
)
def device_metrics_5m(
    context: dg.AssetExecutionContext, metrics_store: dg.ResourceParam[MetricsStore], clickhouse: ClickHouse
) -> None:
    """Full resolution -> 5-minute aggregates. Grain: device and 5 minutes with at least one sample."""
    _fill(context, metrics_store, clickhouse, Tier.RAW, Tier.FIVE_MINUTES)


@dg.asset(
    group_name="rollup",
    deps=[device_metrics_5m],
    partitions_def=HOURLY,
    backfill_policy=WEEK,
    automation_condition=CATCH_UP,
    kinds={"influxdb"},
    owners=["team:data-engineering"],
    metadata={"dagster/column_schema": column_schema("metrics_1h")},
)
def device_metrics_1h(
    context: dg.AssetExecutionContext, metrics_store: dg.ResourceParam[MetricsStore], clickhouse: ClickHouse
) -> None:
    """5-minute aggregates -> 1-hour aggregates. Grain: device and hour with at least one sample."""
    _fill(context, metrics_store, clickhouse, Tier.FIVE_MINUTES, Tier.ONE_HOUR)


def _fill(
    context: dg.AssetExecutionContext, store: MetricsStore, clickhouse: ClickHouse, source: Tier, target: Tier
) -> None:
    keys = {start: key for key, start, _ in windows(context)}
    started = time.perf_counter()
    written = bring_up_to_date(store, clickhouse, source, target, list(keys))
    seconds = (time.perf_counter() - started) / len(keys)
    for hour, key in keys.items():
        rows = {"dagster/partition_row_count": written.get(hour, 0), "source_expired": hour not in written}
        context.add_asset_metadata(rows | {"duration_seconds": seconds}, partition_key=key)


def bring_up_to_date(
    store: MetricsStore, clickhouse: ClickHouse, source: Tier, target: Tier, hours: Sequence[datetime]
) -> dict[datetime, int]:
    """Fills a tier and records its version; returns the rows written per hour, as `fill_tier` does.

    1. Record the start of the run before it reads: what arrives from now on makes the hours late. Dying here: an hour
       that another run filled meanwhile is late for a quarter of an hour, because this run may have overwritten it.
    2. Read and write. Dying in it: as above; a rerun writes the same windows.
    3. Record the end of the run. Dying before: as above. After: the hours have this version.
    4. If another run of an hour ended meanwhile, either may have overwritten the other: the run that sees this, the
       last to end, fills the hour again. Dying before: the hour is late.
    """
    written: dict[datetime, int] = {}
    again = hours
    for _ in range(MAX_ROUNDS):
        as_of = clickhouse.now()
        _record_tier_run(clickhouse, again, target, as_of, NEVER)
        written |= fill_tier(store, source, target, again, as_of)
        _record_tier_run(clickhouse, again, target, as_of, clickhouse.now())
        again = _disturbed(clickhouse, again, target, as_of)
        if not again:
            break
    return written


def _record_tier_run(
    clickhouse: ClickHouse, hours: Sequence[datetime], target: Tier, as_of: datetime, done_at: datetime
) -> None:
    columns = {
        "hour": pa.array(hours, pa.timestamp("s", "UTC")),
        "tier": [str(target)] * len(hours),
        "as_of": pa.array([as_of] * len(hours), pa.timestamp("us", "UTC")),
        "done_at": pa.array([done_at] * len(hours), pa.timestamp("us", "UTC")),
    }
    clickhouse.insert("rolled_up_tiers", pa.table(columns))


def _disturbed(clickhouse: ClickHouse, hours: Sequence[datetime], target: Tier, as_of: datetime) -> list[datetime]:
    """The hours of which another run ended after this one began."""
    rows = clickhouse.rows(sql("rollup/disturbed"), hours=list(hours), tier=str(target), as_of=as_of)
    return [row["hour"] for row in rows]


def fill_tier(
    store: MetricsStore, source: Tier, target: Tier, hours: Sequence[datetime], now: datetime
) -> dict[datetime, int]:
    """Aggregates hours of one tier into the next, oldest first; returns the rows written per hour.

    Dying half-way: a rerun replaces what was written. Hours whose source has begun to expire are left out and stay as
    they are: half an hour's samples would replace the whole hour.
    """
    written = {hour: 0 for hour in hours if still_whole(source, hour, now)}
    for together in batches(list(written), lambda _: None):
        aggregates = store.aggregate(source, together[0], together[-1] + HOUR, WIDTH[target])
        if refused := store.write_aggregates(target, aggregates):
            problem = f"it refused {len(refused)} windows of {target}, the first with: {refused[0].message}"
            raise StoreFailed(store.title, store.address, problem, "Mend the tier, then rerun the partition.")
        written |= {hour: rows for hour, (rows, _) in per_hour(aggregates["time"], aggregates["samples"]).items()}
    return written


@dg.asset(
    group_name="rollup",
    deps=[device_metrics_1h],
    partitions_def=HOURLY,
    backfill_policy=WEEK,
    automation_condition=CATCH_UP,
    kinds={"clickhouse"},
    owners=["team:data-engineering"],
    metadata={"dagster/column_schema": column_schema("device_metrics_hourly")},
)
def device_metrics_hourly(
    context: dg.AssetExecutionContext, metrics_store: dg.ResourceParam[MetricsStore], clickhouse: ClickHouse
) -> None:
    """Metrics store -> ClickHouse. Grain: device and hour with at least one sample."""
    # Before the first read: what arrives from now on makes its hour late, so that it is rolled up again.
    as_of = clickhouse.now()
    keys = {start: key for key, start, _ in windows(context)}
    for done in roll_up(list(keys), metrics_store, clickhouse, as_of):
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": done.rows,
                "samples": done.samples,
                "source_tier": str(done.tier),
                "duration_seconds": done.seconds,
            },
            partition_key=keys[done.hour],
        )


class RolledUp(msgspec.Struct, frozen=True):
    """The result of one hour."""

    hour: datetime
    tier: Tier
    rows: int
    samples: int
    seconds: float


def roll_up(
    hours: list[datetime], metrics_store: MetricsStore, clickhouse: ClickHouse, as_of: datetime
) -> list[RolledUp]:
    """Rolls up consecutive hours, oldest first. Tiers expire by `as_of` too.

    Raises HourExpired, SamplesLost, StoreError; the rows of the hours that failed stay as they were.

    1. Read and replace a few hours at a time. Dying here: they are still missing or late, and are done again.
    2. Count what ClickHouse has now. Dying here: as above.
    3. Record the hours as rolled up. From here on only a later arrival makes them late.
    """
    before = samples_by_hour(clickhouse, hours)
    done = [
        hour
        for together in batches(hours, lambda hour: source_tier(hour, as_of))
        for hour in _roll_up_batch(together, before, metrics_store, clickhouse, as_of)
    ]
    expected = {hour.hour: hour.samples for hour in done}
    _refuse_loss(expected, samples_by_hour(clickhouse, hours), hours, "ClickHouse after the write")
    clickhouse.insert("rolled_up_hours", _rollup_log(done, as_of))
    return done


def _roll_up_batch(
    hours: list[datetime],
    before: dict[datetime, int],
    metrics_store: MetricsStore,
    clickhouse: ClickHouse,
    as_of: datetime,
) -> list[RolledUp]:
    started = time.perf_counter()
    tier, stop = source_tier(hours[0], as_of), hours[-1] + HOUR
    rows = hourly_rows(metrics_store.aggregate(tier, hours[0], stop, HOUR), tier)
    found = per_hour(rows["timestamp"], rows["sample_count"])
    samples = {hour: found[hour][1] for hour in found}
    _refuse_loss(before, samples, hours, f"{metrics_store.title} ({tier})")
    clickhouse.replace_slice("device_metrics_hourly", rows, as_of, hours)
    seconds = (time.perf_counter() - started) / len(hours)
    return [RolledUp(hour, tier, *found.get(hour, (0, 0)), seconds) for hour in hours]


def samples_by_hour(clickhouse: ClickHouse, hours: list[datetime]) -> dict[datetime, int]:
    """Samples of each of these consecutive hours that has rows in device_metrics_hourly."""
    rows = clickhouse.rows(sql("rollup/samples_by_hour"), start=hours[0], stop=hours[-1] + HOUR)
    return {row["hour"]: row["samples"] for row in rows}


def _refuse_loss(before: dict[datetime, int], after: dict[datetime, int], hours: list[datetime], where: str) -> None:
    """An expired tier or a different metrics store reads as empty; believing it would delete good rows."""
    if lost := fewer(before, after, hours):
        raise SamplesLost(
            f"{where} has fewer samples than were rolled up: {'; '.join(lost[:5])}. Nothing was deleted. If they were "
            "deleted on purpose, delete the hour's rows from device_metrics_hourly_versions, then rerun."
        )


def _rollup_log(done: list[RolledUp], as_of: datetime) -> pa.Table:
    return pa.table(
        {
            "hour": pa.array([hour.hour for hour in done], pa.timestamp("s", "UTC")),
            "as_of": pa.array([as_of] * len(done), pa.timestamp("us", "UTC")),
            "source_tier": [str(hour.tier) for hour in done],
            "row_count": pa.array([hour.rows for hour in done], pa.uint32()),
        }
    )
