"""Whether device_metrics_hourly agrees with the metrics store and the ledger."""

import time
from collections.abc import Iterator
from datetime import datetime

import dagster as dg

from ninjait_pipelines.metrics.model import HOUR, Tier, tier_of
from ninjait_pipelines.partitions import HOURLY, per_partition
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.rollup.assets import HOURLY_ROWS, samples_by_hour
from ninjait_pipelines.rollup.hours import batches, hours_at_once, source_tier

# Longer than a drain takes from its first point in the store until it notes the hours that it touched.
TOUCHED_AFTER_SECONDS = 5.0
# A metrics store counts a large fleet's samples of so many hours in a fraction of its time-out.
HOURS_COUNTED_AT_ONCE = 24
# What a device sends in an hour: the ledger is asked for as many hours at once as are rolled up at once.
SAMPLES_PER_ROW = 120


@dg.asset_check(asset=HOURLY_ROWS, partitions_def=HOURLY, blocking=True)
def samples_are_conserved(
    context: dg.AssetCheckExecutionContext, metrics_store: dg.ResourceParam[MetricsStore], clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """ClickHouse and the tiers of the metrics store have the same number of samples of the hour, beginning with the
    finest tier that still takes points of it. A later arrival makes the hour late and is no loss."""
    now = clickhouse.now()
    hours = hours_of(context)
    unsettled = _Unsettled(clickhouse, hours, now)
    rolled_up = samples_by_hour(clickhouse, hours)
    in_tiers = _stored_in_tiers(metrics_store, clickhouse, hours, now)
    unsettled.ask()

    def examine(hour: datetime, _: datetime) -> dg.AssetCheckResult:
        counted = rolled_up.get(hour, 0)
        stored, *lower = in_tiers[hour].values()
        others = [counted, *lower]
        passed = all(samples == stored for samples in others)
        late = not passed and all(samples <= stored for samples in others) and unsettled.has(hour)
        said = f"{counted} of {stored} samples{_in_tiers(in_tiers[hour])}"
        return dg.AssetCheckResult(
            passed=passed or late,
            description=f"{said}{', the rest came later' if late else ''}",
            metadata={
                "samples_rolled_up": counted,
                "samples_stored": stored,
                "late": late,
                **{f"samples_in_{tier}": samples for tier, samples in in_tiers[hour].items()},
            },
        )

    return per_partition(context, examine)


@dg.asset_check(asset=HOURLY_ROWS, partitions_def=HOURLY)
def hour_is_accounted_for(
    context: dg.AssetCheckExecutionContext, metrics_store: dg.ResourceParam[MetricsStore], clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """The ledger, all tiers and device_metrics_hourly have the same number of points of the hour.

    Only for hours that full resolution takes points for: of older hours the stores have aggregates, but no points. A
    missing ledger row shows up as missing points, so it goes unnoticed when no points depend on it alone: duplicates,
    points that another message also delivered, fully quarantined messages, events, and samples that arrived more than 7
    days late.
    """
    now = clickhouse.now()
    hours = hours_of(context)
    unsettled = _Unsettled(clickhouse, hours, now)
    # The store is read last because it is written first: it has all that the others have, unless it lost something.
    rolled_up = samples_by_hour(clickhouse, hours)
    compared_hours = [hour for hour in hours if tier_of(hour, now) is Tier.RAW]
    at_once = hours_at_once(max(rolled_up.values(), default=0) // SAMPLES_PER_ROW)
    few = batches(compared_hours, lambda _: None, at_once)
    in_ledger = {hour: row for together in few for hour, row in _recorded(clickhouse, together)}
    in_tiers = _stored_in_tiers(metrics_store, clickhouse, compared_hours, now)
    unsettled.ask()

    def examine(hour: datetime, _: datetime) -> dg.AssetCheckResult:
        if hour not in in_tiers:
            return dg.AssetCheckResult(passed=True, description="older than full resolution: not compared")
        of_ledger = in_ledger.get(hour, {"points": 0, "messages_without_instants": 0})
        stored, *lower = in_tiers[hour].values()
        recorded, counted = of_ledger["points"], rolled_up.get(hour, 0)
        unknown = of_ledger["messages_without_instants"]
        compared = {counted, *lower} | ({recorded} if not unknown else set())
        late = stored > min(compared) and stored >= max(compared) and unsettled.has(hour)
        said = f"{recorded} points in the ledger, {stored} in {metrics_store.title}, {counted} in device_metrics_hourly"
        said += _in_tiers(in_tiers[hour])
        if unknown:
            said += f"; {unknown} messages were recorded before the ledger kept instants: it was not compared"
        return dg.AssetCheckResult(
            passed=compared == {stored} or late,
            description=f"{said}{'; the rest came later' if late else ''}",
            metadata={"points_recorded": recorded, "points_stored": stored, "points_rolled_up": counted, "late": late},
        )

    return per_partition(context, examine)


def _stored(metrics_store: MetricsStore, tier: Tier, hours: list[datetime]) -> dict[datetime, int]:
    """The number of samples in a tier for each of these consecutive hours that has any."""
    return metrics_store.count_samples(tier, hours[0], hours[-1] + HOUR)


def _stored_in_tiers(
    metrics_store: MetricsStore, clickhouse: ClickHouse, hours: list[datetime], now: datetime
) -> dict[datetime, dict[Tier, int]]:
    """The number of samples per hour and tier, beginning with the finest tier that still takes points of the hour.

    Lower tiers that have not been filled yet are left out.
    """
    query = "SELECT DISTINCT hour, tier FROM rolled_up_tiers WHERE hour IN {hours:Array(DateTime('UTC'))}"
    filled = {(row["hour"], row["tier"]) for row in clickhouse.rows(query, hours=hours)}
    found: dict[datetime, dict[Tier, int]] = {hour: {} for hour in hours}
    for together in batches(hours, lambda hour: source_tier(hour, now), HOURS_COUNTED_AT_ONCE):
        source, *lower = list(Tier)[list(Tier).index(source_tier(together[0], now)) :]
        for tier in (source, *lower):
            stored = _stored(metrics_store, tier, together)
            for hour in together:
                if tier is source or hour in stored or (hour, str(tier)) in filled:
                    found[hour][tier] = stored.get(hour, 0)
    return found


def _in_tiers(stored: dict[Tier, int]) -> str:
    """The tiers that differ from the first one, as text."""
    first = next(iter(stored.values()))
    return "".join(f", {samples} in {tier}" for tier, samples in stored.items() if samples != first)


def _recorded(clickhouse: ClickHouse, hours: list[datetime]) -> Iterator[tuple[datetime, dict[str, int]]]:
    """The ledger's counts for each of these consecutive hours that has any."""
    bounds = {"start": hours[0], "stop": hours[-1] + HOUR, "recorded_since": hours[0] - HOUR}
    for row in clickhouse.rows(sql("rollup/ledger_by_hour"), **bounds):
        yield row.pop("hour"), row


class _Unsettled:
    """The hours in which the stores may differ for now: late hours, and those whose roll-up began after `since`.

    Queried before and after the stores are read: a late hour may be repaired in between, and that run checks it.
    """

    def __init__(self, clickhouse: ClickHouse, hours: list[datetime], since: datetime) -> None:
        self._clickhouse = clickhouse
        self._bounds = {"start": hours[0], "stop": hours[-1] + HOUR, "since": since}
        self._hours: set[datetime] = set()
        self._waited = False
        self.ask()

    def ask(self) -> None:
        """Adds the hours that are unsettled now."""
        window = "hour >= {start:DateTime('UTC')} AND hour < {stop:DateTime('UTC')}"
        late = f"SELECT hour FROM late_hours WHERE {window}"  # noqa: S608
        repaired = f"SELECT hour FROM rolled_up_hours WHERE {window} AND as_of > {{since:DateTime64(6, 'UTC')}}"  # noqa: S608
        rows = self._clickhouse.rows(f"{late} UNION DISTINCT {repaired}", **self._bounds)
        self._hours |= {row["hour"] for row in rows}

    def has(self, hour: datetime) -> bool:
        """Whether the hour is unsettled. Before the first no it waits and queries again: a drain notes the hours of its
        points only once all of them are written."""
        if hour not in self._hours and not self._waited:
            time.sleep(TOUCHED_AFTER_SECONDS)
            self._waited = True
            self.ask()
        return hour in self._hours


@dg.asset_check(asset=HOURLY_ROWS, partitions_def=HOURLY)
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

    return per_partition(context, examine)


@dg.asset_check(asset=HOURLY_ROWS, partitions_def=HOURLY)
def devices_have_one_sender(context: dg.AssetCheckExecutionContext, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Names devices that several machines or agents write as: two under one host name, or two agents on one device.

    A warning: nothing is counted twice, but one of two machines is missing from the figures.
    """
    hours = hours_of(context)
    rows = clickhouse.rows(sql("rollup/several_senders"), start=hours[0], stop=hours[-1] + HOUR)
    by_hour = {row["hour"]: row for row in rows}

    def examine(hour: datetime, _: datetime) -> dg.AssetCheckResult:
        row = by_hour.get(hour, {"devices": 0, "examples": []})
        return dg.AssetCheckResult(
            passed=not row["devices"],
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{row['devices']} devices have several senders {', '.join(map(str, row['examples']))}".strip(),
            metadata={"devices": row["devices"]},
        )

    return per_partition(context, examine)


def hours_of(context: dg.AssetCheckExecutionContext) -> list[datetime]:
    """The starts of the hours of the run, in order."""
    return [HOURLY.time_window_for_partition_key(key).start for key in context.partition_keys]
