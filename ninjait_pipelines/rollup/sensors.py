"""Each hour is rolled up when it is due, late hours are rolled up again, and the last week is checked once a day."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import dagster as dg

from ninjait_pipelines.automation import ACTIVE_RUN_STATUSES, AUTOMATION
from ninjait_pipelines.late_days import retry_slot
from ninjait_pipelines.metrics.model import HOUR, RETENTION, Tier
from ninjait_pipelines.partitions import HOURLY, PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG, START, range_tags
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.rollup.assets import HOURLY_ROWS, LOOKBACK, ROLLUP
from ninjait_pipelines.rollup.checks import hour_is_accounted_for
from ninjait_pipelines.rollup.hours import LateRange, condense, in_turn
from ninjait_pipelines.settings import THRESHOLDS

roll_up_hour = dg.define_asset_job(
    "roll_up_hour",
    selection=dg.AssetSelection.assets(*ROLLUP),
    tags=AUTOMATION | {"dagster/priority": "7"},  # before what automation has queued
    description="Rolls up the hour that ended last.",
)
roll_up_late_hours = dg.define_asset_job(
    "roll_up_late_hours",
    selection=dg.AssetSelection.assets(*ROLLUP),
    tags=AUTOMATION,
    description="Rolls up the hours again that received data after their roll-up.",
)
check_last_week = dg.define_asset_job(
    "check_last_week",
    selection=dg.AssetSelection.checks(hour_is_accounted_for),
    tags=AUTOMATION,
    description="Compares ledger, metrics store and device_metrics_hourly once more, hour by hour.",
)


@dg.sensor(
    job=roll_up_late_hours,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    name="late_hours",
)
def late_hours(context: dg.SensorEvaluationContext, clickhouse: ClickHouse) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Rolls up late hours again until ClickHouse no longer lists them; what depends on them follows.

    There is no cursor: the view late_hours is the state, so a missed tick, a failed run or a replayed queue change
    nothing. Hours of an active run are left to it. A sender that touches every other hour of two years makes thousands
    of ranges: few are queued at once (LATE_HOURS_MAX_RUNS), and other senders' hours do not wait for all of them.
    """
    now = clickhouse.now()
    late = {row["hour"]: row["touched_at"] for row in clickhouse.rows(sql("rollup/late_hours"), **_bounds(now))}
    busy = busy_hours(context.instance)
    ranges = condense({hour: touched_at for hour, touched_at in late.items() if hour not in busy})
    if not ranges:
        yield dg.SkipReason(f"{len(late)} late hours, all of them being rolled up" if late else "no late hours")
    under_way = dg.RunsFilter(job_name=roll_up_late_hours.name, statuses=ACTIVE_RUN_STATUSES)
    limit = THRESHOLDS.late_hours_max_runs
    room = max(limit - context.instance.get_runs_count(under_way), 0)
    if ranges and not room:
        yield dg.SkipReason(f"{len(ranges)} ranges of late hours wait: {limit} are being rolled up")
    for late_range in in_turn(ranges)[:room]:
        yield _request(late_range, now)


def _bounds(now: datetime) -> dict[str, datetime]:
    oldest = max(START, now - RETENTION[Tier.ONE_HOUR])
    return {"oldest": oldest, "known_since": (now - LOOKBACK).replace(minute=0, second=0, microsecond=0)}


def _request(late: LateRange, now: datetime) -> dg.RunRequest:
    """Dagster remembers a run key for ever and never launches it twice.

    So the key has the range, its newest arrival (another arrival is another repair), and the slot for a retry.
    `asset_selection` is explicit, because automation reacts to an update unless the same run also targets the
    downstream assets.
    """
    tags = _range(late.first, late.last)
    return dg.RunRequest(
        run_key="/".join([*tags.values(), late.touched_at.isoformat(), str(retry_slot(now))]),
        asset_selection=[dg.AssetKey(name) for name in ROLLUP],
        tags=tags,
    )


def _range(first: datetime, last: datetime) -> dict[str, str]:
    keys = [HOURLY.get_partition_key_for_timestamp(moment.timestamp()) for moment in (first, last)]
    return range_tags(*keys)


@dg.schedule(
    job=roll_up_hour,
    cron_schedule=f"{THRESHOLDS.rollup_grace_minutes} * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    name="every_hour",
)
def every_hour(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Rolls up the hour that ended last, in the second in which it is due; automation would take up to half a minute.

    Automation fills the hour if this run fails, or if nothing ran when it was due.
    """
    hour = context.scheduled_execution_time.astimezone(UTC).replace(minute=0, second=0, microsecond=0) - HOUR
    if hour < START:
        return dg.SkipReason("no hour is over yet")
    if hour in busy_hours(context.instance):
        return dg.SkipReason("the hour is being rolled up")
    return request_hour(hour)


def request_hour(hour: datetime) -> dg.RunRequest:
    """The request for the three roll-ups of one hour."""
    key = HOURLY.get_partition_key_for_timestamp(hour.timestamp())
    return dg.RunRequest(partition_key=key, asset_selection=[dg.AssetKey(name) for name in ROLLUP])


@dg.schedule(
    job=check_last_week,
    cron_schedule="20 4 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    name="last_week",
)
def last_week(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """Checks every hour of full resolution except the last two, so that a later loss turns its hour red within a day.

    It runs the check that compares all three stores. The other check blocks: a store that is down at night would hold
    up everything that depends on a whole week.
    """
    now = context.scheduled_execution_time
    first, last = max(START, now - RETENTION[Tier.RAW] + HOUR), now - 2 * HOUR
    return dg.RunRequest(tags=_range(first, last)) if first <= last else dg.SkipReason("no hour is over yet")


def busy_hours(instance: dg.DagsterInstance) -> set[datetime]:
    """The hours that active runs will roll up."""
    runs = instance.get_runs(dg.RunsFilter(statuses=ACTIVE_RUN_STATUSES))
    return {hour for run in runs if _rolls_up(run) for hour in hours_of(run.tags)}


def _rolls_up(run: dg.DagsterRun) -> bool:
    return run.job_name in (roll_up_hour.name, roll_up_late_hours.name) or dg.AssetKey(HOURLY_ROWS) in (
        run.asset_selection or ()
    )


def hours_of(tags: Mapping[str, str]) -> Iterator[datetime]:
    """The hours named by a run's partition tags."""
    first = tags.get(RANGE_START_TAG) or tags.get(PARTITION_TAG)
    last = tags.get(RANGE_END_TAG) or first
    if first and last:
        hour = HOURLY.time_window_for_partition_key(first).start
        end = HOURLY.time_window_for_partition_key(last).end
        while hour < end:
            yield hour
            hour += HOUR
