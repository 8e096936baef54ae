"""A run that failed permanently becomes an alert: which partition, why, and what depends on it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ninjait_pipelines.partitions import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG
from ninjait_pipelines.resources.mongodb import MongoDB


@dg.run_failure_sensor(
    name="failed_runs",
    monitor_all_code_locations=True,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def failed_runs(context: dg.RunFailureSensorContext, mongodb: MongoDB) -> dg.SkipReason | None:
    """Records an alert in MongoDB's `alerts`, one per run, so that repeating a tick changes nothing.

    It is logged first: Dagster moves on even if MongoDB is down, and the log then still has it.
    """
    run = context.dagster_run
    if run.tags.get("dagster/will_retry") == "true":
        return dg.SkipReason(f"run {run.run_id} will be retried")
    alert = alert_of(context)
    what = " ".join([*alert["steps"], alert["partition"] or ""]).strip() or run.job_name
    affected = ", ".join(alert["affects"]) or "nothing"
    context.log.error(f"{what} failed in run {run.run_id}: {alert['error']} Waiting for it: {affected}.")
    with mongodb.errors():
        mongodb.database.alerts.update_one({"_id": run.run_id}, {"$setOnInsert": alert}, upsert=True)
    return None


def alert_of(context: dg.RunFailureSensorContext) -> dict[str, Any]:
    """The alert: what failed, where, why, and the assets whose data stays old because of it."""
    run = context.dagster_run
    failures = context.get_step_failure_events()
    steps = [str(event.step_key) for event in failures]
    first = run.tags.get(PARTITION_TAG) or run.tags.get(RANGE_START_TAG)
    last = run.tags.get(RANGE_END_TAG, first)
    record = context.instance.get_run_record_by_id(run.run_id)
    return {
        "run_id": run.run_id,
        "job": run.job_name,
        "assets": sorted(key.to_user_string() for key in run.asset_selection or ()),
        "partition": first if first == last else f"{first}...{last}",
        "steps": steps,
        "error": _error(failures) or context.failure_event.message or "the run failed before its first step",
        "affects": downstream(context.repository_def, steps) if context.repository_def else [],
        "raised_at": datetime.fromtimestamp(record.end_time, UTC) if record and record.end_time else None,
        "acknowledged_at": None,
    }


def _error(failures: Sequence[dg.DagsterEvent]) -> str | None:
    """The innermost cause of the first failed step: what a person can act on."""
    errors = [event.step_failure_data.error for event in failures]
    error = next(filter(None, errors), None)
    while error and error.cause:
        error = error.cause
    return error.message.strip() if error else None


def downstream(repository: dg.RepositoryDefinition, steps: Sequence[str]) -> list[str]:
    """Everything that depends on the assets of these steps, or on the assets that these steps check."""
    graph = repository.asset_graph
    failed = {key for key in graph.materializable_asset_keys if key.to_user_string() in steps}
    failed |= {check.asset_key for check in graph.asset_check_keys if check.to_user_string().replace(":", "_") in steps}
    if not failed:
        return []
    affected = dg.AssetSelection.assets(*failed).downstream(include_self=False).resolve(graph)
    return sorted(key.to_user_string() for key in affected - failed)
