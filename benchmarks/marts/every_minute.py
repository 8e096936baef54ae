"""The definitions with a schedule that rolls up another hour every minute, as `every_hour` does once an hour."""

from datetime import UTC

import dagster as dg

from benchmarks.marts.processes import hour_of
from ninjait_pipelines.build import build_defs
from ninjait_pipelines.rollup.sensors import request_hour, roll_up_hour


@dg.schedule(job=roll_up_hour, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING)
def every_minute(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Requests the hour of its minute."""
    return request_hour(hour_of(context.scheduled_execution_time.astimezone(UTC)))


defs = dg.Definitions.merge(build_defs(), dg.Definitions(schedules=[every_minute]))
