"""The partitions of the graph: UTC, half open."""

import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta

import dagster as dg

from ninjait_pipelines.dagster_compat import partition_evaluations
from ninjait_pipelines.settings import pipeline_start

# Backfill policies and mappings to partitions that do not exist yet are beta in the Dagster that requirements.txt pins.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

# Fixed at installation, never computed from the clock: see installation.py. Definitions load without a store, so this
# is the setting; `migrate up`, `ninjait status` and a check of `store_health` compare it with the recorded day.
START = datetime.combine(pipeline_start(), time(), UTC)
# The week and the month that the start is in exist too: their reports and invoices say which days they cover.
FIRST_WEEK = START - timedelta(days=START.weekday())
FIRST_MONTH = START.replace(day=1)

HOURLY = dg.HourlyPartitionsDefinition(start_date=START, timezone="UTC")
DAILY = dg.DailyPartitionsDefinition(start_date=START, timezone="UTC")
# The current week and month exist too, so that a draft can be seen before they end.
WEEKLY = dg.WeeklyPartitionsDefinition(start_date=FIRST_WEEK, day_offset=1, timezone="UTC", end_offset=1)
MONTHLY = dg.MonthlyPartitionsDefinition(start_date=FIRST_MONTH, timezone="UTC", end_offset=1)

# Tags by which Dagster's runs name their partitions, the last one included.
PARTITION_TAG = "dagster/partition"
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"

INCLUDES_CURRENT_PERIOD = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
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


def per_partition(
    context: dg.AssetCheckExecutionContext, examine: Callable[[datetime, datetime], dg.AssetCheckResult]
) -> dg.AssetCheckResult:
    """The result of a partitioned check: `examine(start, end)` for each partition of the run.

    Dagster records the result of a range run for no partition at all, so FOLLOW_UPSTREAM would wait for ever. Here each
    partition's result is recorded separately; the one returned fails if any of them failed, and names those.
    """
    (spec,) = context.check_specs
    definition = spec.partitions_def
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        raise TypeError(f"{spec.name} has no time windows: {definition}")
    results = {}
    for key in context.partition_keys:
        window = definition.time_window_for_partition_key(key)
        results[key] = examine(window.start, window.end)
    if context.has_partition_key:
        return results[context.partition_key]
    for evaluation in partition_evaluations(context.instance, spec, results):
        context.op_execution_context.log_event(evaluation)  # type: ignore[arg-type]
    failed = {key: result for key, result in results.items() if not result.passed}
    worst = max(failed.values(), key=lambda result: result.severity == dg.AssetCheckSeverity.ERROR, default=None)
    return dg.AssetCheckResult(
        passed=not failed,
        severity=worst.severity if worst else dg.AssetCheckSeverity.ERROR,
        description="; ".join(f"{key}: {result.description}" for key, result in failed.items()),
    )


def range_tags(first: str, last: str) -> dict[str, str]:
    """The tags of a run over these partitions, both ends included."""
    return {RANGE_START_TAG: first, RANGE_END_TAG: last}
