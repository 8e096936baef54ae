"""A run that failed for good becomes an alert: which partition, why, and what depends on it."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
    WILL_RETRY_TAG,
)

from ninjait_pipelines.resources.mongodb import MongoDB

Context = dg.RunFailureSensorContext


@dg.run_failure_sensor(
    name="failed_runs",
    monitor_all_code_locations=True,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def failed_runs(context: Context, mongodb: MongoDB) -> dg.SkipReason | None:
    """Records an alert in MongoDB's `alerts`, one a run: a tick that is repeated writes the same document.

    It is logged first: Dagster moves on even when MongoDB is away, and the log then still has it.
    """
    if context.dagster_run.tags.get(WILL_RETRY_TAG) == "true":
        return dg.SkipReason(f"run {context.dagster_run.run_id} will be retried")
    alert = alert_of(context)
    context.log.error(summary(alert))
    with mongodb.errors():
        mongodb.database.alerts.replace_one({"_id": alert["_id"]}, alert, upsert=True)
    return None


def alert_of(context: Context) -> dict[str, Any]:
    """The alert: what failed, where, why, and the assets whose data stays old because of it."""
    run = context.dagster_run
    failures = context.get_step_failure_events()
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    return {
        "_id": run.run_id,
        "run_id": run.run_id,
        "job": run.job_name,
        "assets": assets,
        "partition": partition_of(run),
        "steps": [event.step_key for event in failures],
        "error": _error(context, failures),
        "affects": downstream(context, failures),
        "raised_at": datetime.fromtimestamp(_failed_at(context), UTC),
        "acknowledged_at": None,
    }


def partition_of(run: dg.DagsterRun) -> str | None:
    """The partition or "first...last" of the run; None where it has none."""
    first = run.tags.get(PARTITION_NAME_TAG) or run.tags.get(ASSET_PARTITION_RANGE_START_TAG)
    last = run.tags.get(ASSET_PARTITION_RANGE_END_TAG) or first
    return first if first == last else f"{first}...{last}"


def _failed_at(context: Context) -> float:
    stats = context.instance.get_run_stats(context.dagster_run.run_id)
    return float(getattr(stats, "end_time", None) or 0.0)


def _error(context: Context, failures: list[dg.DagsterEvent] | Any) -> str:
    """The innermost cause of the first failed step: what a person can act on. Else what Dagster says of the run."""
    for event in failures:
        error = event.step_failure_data.error
        while error and error.cause:
            error = error.cause
        if error:
            return error.message.strip()
    return context.failure_event.message or "the run failed before its first step"


def downstream(context: Context, failures: list[dg.DagsterEvent] | Any) -> list[str]:
    """Everything that depends on the assets of the failed steps, however far down."""
    if context.repository_def is None:
        return []
    graph = context.repository_def.asset_graph
    names = {str(event.step_key).split(".")[0] for event in failures}
    failed = {key for key in graph.materializable_asset_keys if key.to_user_string() in names}
    affected = {
        key for name in failed for key in dg.AssetSelection.assets(name).downstream(include_self=False).resolve(graph)
    }
    return sorted(key.to_user_string() for key in affected - failed)


def summary(alert: dict[str, Any]) -> str:
    """The alert in one line."""
    where = f" {alert['partition']}" if alert["partition"] else ""
    affects = f" Waiting for it: {', '.join(alert['affects'])}." if alert["affects"] else ""
    steps = ", ".join(alert["steps"]) or alert["job"]
    return f"{steps}{where} failed in run {alert['run_id']}: {alert['error']}{affects}"
