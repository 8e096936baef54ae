"""The roll-up with a schedule that requests another hour every minute, as `every_hour` does once an hour.

Nothing else is automated: all that a new installation fills first would stand before the hour in the queue of runs.
"""

from datetime import UTC

import dagster as dg

from benchmarks.marts.processes import hour_of
from ninjait_pipelines.build import build_defs
from ninjait_pipelines.rollup import definitions as rollup
from ninjait_pipelines.rollup.sensors import request_hour, roll_up_hour


@dg.schedule(job=roll_up_hour, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def every_minute(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Requests the hour of its minute."""
    return request_hour(hour_of(context.scheduled_execution_time.astimezone(UTC)))


def _with_stores() -> dg.Definitions:
    everything = build_defs()
    stores = dg.Definitions(schedules=[every_minute], resources=everything.resources, executor=everything.executor)
    return dg.Definitions.merge(rollup.defs, stores)


defs = _with_stores()
