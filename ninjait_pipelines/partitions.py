"""The partitions of the graph (UTC, half open) and when they are filled by themselves."""

import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.definitions.declarative_automation.operators import AndAutomationCondition

# Backfill policies and mappings to partitions that do not exist yet are beta in the Dagster that requirements.txt pins.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

# Fixed, never computed from the clock: a start that moves would change the meaning of every key.
START = datetime(2024, 1, 1, tzinfo=UTC)

HOURLY = dg.HourlyPartitionsDefinition(start_date=START, timezone="UTC")
DAILY = dg.DailyPartitionsDefinition(start_date=START, timezone="UTC")
# The running week and month exist too, so that a draft can be seen before its end.
WEEKLY = dg.WeeklyPartitionsDefinition(start_date=START, day_offset=1, timezone="UTC", end_offset=1)
MONTHLY = dg.MonthlyPartitionsDefinition(start_date=START, timezone="UTC", end_offset=1)

# The tags of runs that nobody asked for and no message waits for: `dagster.yaml` leaves room beside them.
AUTOMATION = {"ninjait/lane": "automation", "dagster/priority": "5"}

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


# Without this a partition that is still missing would be computed from one whose blocking check has failed.
NO_DEP_FAILED_ITS_CHECKS = ~dg.AutomationCondition.any_deps_match(
    dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
).with_label("a blocking check of a dependency failed")


# A partition that failed is tried again once an hour: a store that was away for a minute at night must not leave a gap
# until somebody wakes up, and what fails for another reason must not fail at every tick.
HOURLY_RETRY = dg.AutomationCondition.cron_tick_passed("10 * * * *").with_label("ten past the hour")


def fill_missing(lookback: timedelta) -> AndAutomationCondition:
    """Fills every gap of the last `lookback`, also those of a time when nothing ran, or when what ran failed.

    `on_cron` would only ever ask for the newest partition after a stop.
    """
    return (
        dg.AutomationCondition.missing()
        & dg.AutomationCondition.in_latest_time_window(lookback_delta=lookback)
        & ~dg.AutomationCondition.any_deps_missing()
        & NO_DEP_FAILED_ITS_CHECKS
        & ~dg.AutomationCondition.in_progress()
        & (~dg.AutomationCondition.execution_failed() | HOURLY_RETRY)
    ).with_label("catch_up")


def deps_updated_since_requested(ignoring: dg.AssetSelection | None = None) -> dg.AutomationCondition:
    """A dependency (but for `ignoring`) was updated, and nothing was requested because of it yet.

    eager() forgets an update that comes while the target is being computed: the target's own update then counts as the
    answer to it. An hour repaired while its day was being archived would never reach the archive.
    """
    updated = dg.AutomationCondition.any_deps_updated()
    return latched_until_requested(updated.ignore(ignoring) if ignoring else updated)


def latched_until_requested(event: dg.AutomationCondition) -> dg.AutomationCondition:
    """True from the tick on which `event` was true until the target is requested.

    Dagster tells two of these of one asset apart by the kind of `event` alone, not by what is in it: two any_deps_...
    would share one memory. Joined with something else by `&`, the second is another kind.
    """
    answered = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.initial_evaluation()
    return event.since(answered & ~event)


# What depends on a partition that was computed again is computed again too, however old it is.
FOLLOW_UPSTREAM = (
    deps_updated_since_requested()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("follow")


def per_partition(
    context: dg.AssetCheckExecutionContext, examine: Callable[[datetime, datetime], dg.AssetCheckResult]
) -> dg.AssetCheckResult:
    """The result of a partitioned check: `examine(start, end)` of each partition of the run.

    Dagster records the result of a range run for no partition at all, so that FOLLOW would wait for ever. Here each
    partition's result is recorded by itself; the one returned has failed when one of them has, and names them.
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
    for key, result in results.items():
        context.op_execution_context.log_event(_evaluation(context, spec, key, result))  # type: ignore[arg-type]
    failed = {key: result for key, result in results.items() if not result.passed}
    worst = max(failed.values(), key=lambda result: result.severity == dg.AssetCheckSeverity.ERROR, default=None)
    return dg.AssetCheckResult(
        passed=not failed,
        severity=worst.severity if worst else dg.AssetCheckSeverity.ERROR,
        description="; ".join(f"{key}: {result.description}" for key, result in failed.items()),
    )


def _evaluation(
    context: dg.AssetCheckExecutionContext, spec: dg.AssetCheckSpec, key: str, result: dg.AssetCheckResult
) -> dg.AssetCheckEvaluation:
    of_partition = dg.AssetRecordsFilter(asset_key=spec.asset_key, asset_partitions=[key])
    newest = context.instance.fetch_materializations(of_partition, limit=1).records
    return dg.AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=spec.blocking,
        partition=key,
        # Without it Dagster takes the result for that of an older materialization, and FOLLOW waits.
        target_materialization_data=next((_target(record) for record in newest), None),
    )


def _target(record: dg.EventLogRecord) -> AssetCheckEvaluationTargetMaterializationData:
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )
