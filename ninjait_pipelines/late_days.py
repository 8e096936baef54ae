"""Days that receive data after they were computed are computed again: what tickets, billing and reports share.

Writers of events note their hours in `touched_events`; a mart's rows or `computed_days` have the time at which a day
was computed; the view `late_days` compares the two. It is the state: a missed tick or a failed run changes nothing.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from ninjait_pipelines.automation import ACTIVE_RUN_STATUSES
from ninjait_pipelines.dagster_compat import AssetJob
from ninjait_pipelines.partitions import FIRST_WEEK, START, range_tags
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.settings import THRESHOLDS

DAY = timedelta(days=1)
LONGEST = 168
# How far back days are compared with their source once a day.
COMPARED = timedelta(days=THRESHOLDS.compared_days)


def note_events(clickhouse: ClickHouse, kind: str, events: Sequence[tuple[str, datetime]], run_id: str) -> None:
    """Notes the hours of stored events, given as (organization, time).

    Called after the events are written: dying before, their messages are redelivered and noted then.
    """
    counted: dict[tuple[str, datetime], int] = {}
    for organization, moment in events:
        key = (organization, moment.replace(minute=0, second=0, microsecond=0))
        counted[key] = counted.get(key, 0) + 1
    columns = {
        "organization_id": [organization for organization, _ in counted],
        "kind": [kind] * len(counted),
        "hour": pa.array([hour for _, hour in counted], pa.timestamp("s", "UTC")),
        "events": pa.array(list(counted.values()), pa.uint32()),
        "run_id": [run_id] * len(counted),
    }
    clickhouse.insert("touched_events", pa.table(columns))


def record_day(clickhouse: ClickHouse, asset: str, day: date, as_of: datetime) -> None:
    """Records that a day was computed from data as of `as_of`. Dying before: it is late, and computed again."""
    columns = {"asset": [asset], "day": pa.array([day], pa.date32())}
    clickhouse.insert("computed_days", pa.table(columns | {"as_of": pa.array([as_of], pa.timestamp("us", "UTC"))}))


def ranges(days: Sequence[date]) -> list[tuple[date, date]]:
    """Days as ranges of consecutive days, both ends included, oldest first."""
    found: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if found and day - found[-1][1] == DAY and day - found[-1][0] < LONGEST * DAY:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def late_days_of(clickhouse: ClickHouse, assets: Sequence[str]) -> list[date]:
    """The late days of some marts."""
    query = "SELECT DISTINCT day FROM late_days WHERE asset IN {assets:Array(String)}"
    return [row["day"] for row in clickhouse.rows(query, assets=list(assets))]


def late_days_sensor(
    name: str,
    assets: Sequence[str],
    job: AssetJob,
    find: Callable[[dg.SensorEvaluationContext, ClickHouse, Any], None] | None = None,
    resources: frozenset[str] = frozenset({"clickhouse"}),
    late: Callable[[ClickHouse, Sequence[str]], list[date]] = late_days_of,
) -> dg.SensorDefinition:
    """The sensor that starts `job` for late days of some marts; `find` first looks for changes that were not noted."""

    @dg.sensor(
        name=name,
        job=job,
        minimum_interval_seconds=120,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys=set(resources),
        description=f"Computes the days of {', '.join(assets)} again that received data after they were computed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        clickhouse: ClickHouse = context.resources.clickhouse
        if find:
            find(context, clickhouse, context.resources)
        if context.instance.get_runs_count(dg.RunsFilter(job_name=job.name, statuses=ACTIVE_RUN_STATUSES)):
            return dg.SkipReason("late days are being computed")
        days = late(clickhouse, assets)
        if not days:
            return dg.SkipReason("no late days")
        slot = retry_slot(clickhouse.now())
        return dg.SensorResult([_request(first, last, slot) for first, last in ranges(days)])

    return sensor


def retry_slot(now: datetime, minutes: int = THRESHOLDS.repair_retry_minutes) -> int:
    """A part of a run key, which Dagster launches only once: a repair that failed, or during which more arrived, is
    tried again after `minutes`, but not at every tick."""
    return int(now.timestamp() // (60 * minutes))


def _request(first: date, last: date, slot: int) -> dg.RunRequest:
    tags = day_range(first, last)
    return dg.RunRequest(run_key="/".join([*tags.values(), str(slot)]), tags=tags)


def day_range(first: date, last: date) -> dict[str, str]:
    """The tags of a run over these days, both ends included."""
    return range_tags(first.isoformat(), last.isoformat())


def past_days_schedule(name: str, job: AssetJob, cron: str, whole: int = 1) -> dg.ScheduleDefinition:
    """Checks all days of COMPARED except the last two once a day, so that a later loss turns red.

    whole: days per partition; with 7, the weeks from Monday that ended at least a day ago.
    """

    @dg.schedule(name=name, job=job, cron_schedule=cron, default_status=dg.DefaultScheduleStatus.RUNNING)
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        today = context.scheduled_execution_time.astimezone(UTC).date()
        first, last = (
            day - (day.toordinal() - 1) % whole * DAY for day in (today - COMPARED, today - (1 + whole) * DAY)
        )
        first = max(first, (FIRST_WEEK if whole == 7 else START).date())
        return dg.RunRequest(tags=day_range(first, last)) if first <= last else dg.SkipReason("nothing is over yet")

    return schedule


def is_late(clickhouse: ClickHouse, asset: str, day: date) -> bool:
    """Whether the day is late, so that it will be computed again."""
    query = "SELECT count() FROM late_days WHERE asset = {asset:String} AND day = {day:Date}"
    return bool(clickhouse.scalar(query, asset=asset, day=day))


def midnight(day: date) -> datetime:
    """The first instant of a UTC day."""
    return datetime.combine(day, time(), UTC)
