"""The partitions of the graph (UTC, half open) and when they are filled by themselves."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

# Fixed, never computed from the clock: a start that moves would change the meaning of every key.
START = datetime(2026, 1, 1, tzinfo=UTC)

HOURLY = dg.HourlyPartitionsDefinition(start_date=START, timezone="UTC")
DAILY = dg.DailyPartitionsDefinition(start_date=START, timezone="UTC")
# The running week and month exist too, so that a draft can be seen before its end.
WEEKLY = dg.WeeklyPartitionsDefinition(start_date=datetime(2026, 1, 5, tzinfo=UTC), day_offset=1, timezone="UTC", end_offset=1)
MONTHLY = dg.MonthlyPartitionsDefinition(start_date=START, timezone="UTC", end_offset=1)

RUNNING = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
# A local day D of any time zone lies inside [D - 1 day, D + 2 days) of UTC.
LOCAL_DAY = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=1, allow_nonexistent_upstream_partitions=True)


def windows(context: dg.AssetExecutionContext) -> Iterator[tuple[str, datetime, datetime]]:
    """(partition key, start, end) of each partition of the run, in order; start and end are UTC, end exclusive."""
    definition = context.assets_def.partitions_def
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        raise TypeError(f"{context.asset_key.to_user_string()} has no time windows: {definition}")
    for key in context.partition_keys:
        window = definition.time_window_for_partition_key(key)
        yield key, window.start, window.end


def catch_up(lookback: timedelta) -> dg.AutomationCondition:
    """Fills every gap of the last `lookback`, also those of a time when nothing ran; a failure waits for a person.

    `on_cron` would only ever ask for the newest partition after a stop.
    """
    return (
        dg.AutomationCondition.missing()
        & dg.AutomationCondition.in_latest_time_window(lookback_delta=lookback)
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.execution_failed()
    ).with_label("catch_up")


# What depends on a partition that was computed again is computed again too, however old it is.
FOLLOW = (
    dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("follow")
