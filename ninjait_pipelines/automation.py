"""When partitions are filled automatically, and the runs that Dagster counts as active."""

from datetime import timedelta
from typing import Any

import dagster as dg

from ninjait_pipelines.settings import THRESHOLDS

# Tags of the runs that neither a person nor a message waits for: `dagster.yaml` keeps room beside them.
AUTOMATION = {"ninjait/lane": "automation", "dagster/priority": "5"}
# Without NOT_STARTED: a run whose daemon died before it was queued keeps that status for ever.
ACTIVE_RUN_STATUSES = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def no_dep_failed_its_checks(ignoring: dg.AssetSelection | None = None) -> dg.AutomationCondition:
    """Without this, a missing partition would be computed from one whose blocking check failed."""
    failed = dg.AutomationCondition.any_checks_match(dg.AutomationCondition.check_failed(), blocking_only=True)
    return ~_ignore(dg.AutomationCondition.any_deps_match(failed), ignoring).with_label(
        "a blocking check of a dependency failed"
    )


def _ignore(condition: Any, ignoring: dg.AssetSelection | None) -> Any:
    """A condition on dependencies, without those of `ignoring`."""
    return condition.ignore(ignoring) if ignoring else condition


# A failed partition is retried once an hour: a store that was down for a minute at night must not leave a gap until
# the morning, and what fails for another reason must not fail at every tick.
HOURLY_RETRY = dg.AutomationCondition.cron_tick_passed("10 * * * *").with_label("ten past the hour")


# How far back missing days and weeks are filled.
FILL_LOOKBACK = timedelta(days=THRESHOLDS.fill_lookback_days)


def fill_missing(
    lookback: timedelta = FILL_LOOKBACK, wait_for_missing: bool = True, ignoring: dg.AssetSelection | None = None
) -> dg.AutomationCondition:
    """Fills every gap of the last `lookback`, including gaps from when nothing ran or a run failed.

    `on_cron` would request only the newest partition after a stop.

    wait_for_missing: whether a gap waits until no dependency is missing; ignoring: dependencies that do not matter.
    """
    gap = (
        dg.AutomationCondition.in_latest_time_window(lookback)
        & dg.AutomationCondition.missing()
        & ~dg.AutomationCondition.in_progress()
        & (~dg.AutomationCondition.execution_failed() | HOURLY_RETRY)
    )
    if wait_for_missing:
        gap &= ~_ignore(dg.AutomationCondition.any_deps_missing(), ignoring)
    # Last: Dagster reads all results of a check since the beginning to answer it, and not at all for what is ruled out.
    return (gap & no_dep_failed_its_checks(ignoring)).with_label("fill_missing")


def deps_updated_since_requested(ignoring: dg.AssetSelection | None = None) -> dg.AutomationCondition:
    """A dependency (except `ignoring`) was updated, and nothing has been requested because of it yet.

    eager() forgets an update that arrives while the target is being computed, because the target's own update then
    counts as the response. An hour repaired while its day was being archived would never reach the archive.
    """
    return latched_until_requested(_ignore(dg.AutomationCondition.any_deps_updated(), ignoring))


def latched_until_requested(event: dg.AutomationCondition) -> dg.AutomationCondition:
    """True from the tick on which `event` was true until the target is requested.

    Within one asset Dagster keys this state by the condition's class, not its arguments: two `any_deps_*` conditions
    would share it. Combining one with another condition (`&`) gives it a key of its own.
    """
    answered = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.initial_evaluation()
    return event.since(answered & ~event)


# Recomputes whatever depends on a partition that was recomputed, however old it is.
FOLLOW_UPSTREAM = (
    deps_updated_since_requested()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("follow")
