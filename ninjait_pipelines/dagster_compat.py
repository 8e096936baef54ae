"""The names of Dagster that it does not export, each with the reason. Nothing else imports from `dagster._...`.

The pin in pyproject.toml stays below the next minor version, because these may change in it.
"""

import dagster as dg

# AssetCheckResult has no `partition`, so the result of one partition of a range run is recorded as an evaluation, which
# must name the materialization that it is about. `test_dagster_compat` fails once AssetCheckResult has a `partition`.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

# What `dg.define_asset_job` returns, and what sensors and schedules take; only its type has no public name.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob

__all__ = ["AssetJob", "partition_evaluation"]


def partition_evaluation(
    instance: dg.DagsterInstance, spec: dg.AssetCheckSpec, partition: str, result: dg.AssetCheckResult
) -> dg.AssetCheckEvaluation:
    """The result of a check of one partition, as an event."""
    of_partition = dg.AssetRecordsFilter(asset_key=spec.asset_key, asset_partitions=[partition])
    newest = instance.fetch_materializations(of_partition, limit=1).records
    return dg.AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=spec.blocking,
        partition=partition,
        # Without it Dagster takes the result for that of an older materialization, and FOLLOW_UPSTREAM waits.
        target_materialization_data=next((_target(record) for record in newest), None),
    )


def _target(record: dg.EventLogRecord) -> AssetCheckEvaluationTargetMaterializationData:
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )
