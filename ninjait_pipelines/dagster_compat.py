"""The names of Dagster that it does not export, each with the reason. Nothing else imports from `dagster._...`.

The pin in pyproject.toml stays below the next minor version, because these may change in it.
"""

from collections.abc import Iterator, Mapping

import dagster as dg

# AssetCheckResult has no `partition`, so the result of one partition of a range run is recorded as an evaluation, which
# must name the materialization that it is about. `test_dagster_compat` fails once AssetCheckResult has a `partition`.
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

# What `dg.define_asset_job` returns, and what sensors and schedules take; only its type has no public name.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition as AssetJob

__all__ = ["AssetJob", "partition_evaluations"]


def partition_evaluations(
    instance: dg.DagsterInstance, spec: dg.AssetCheckSpec, results: Mapping[str, dg.AssetCheckResult]
) -> Iterator[dg.AssetCheckEvaluation]:
    """The results of a check, by partition, as events."""
    newest = _newest(instance, spec.asset_key, list(results))
    for partition, result in results.items():
        yield dg.AssetCheckEvaluation(
            asset_key=spec.asset_key,
            check_name=spec.name,
            passed=result.passed,
            metadata=result.metadata,
            severity=result.severity,
            description=result.description,
            blocking=spec.blocking,
            partition=partition,
            # Without it Dagster takes the result for that of an older materialization, and FOLLOW_UPSTREAM waits.
            target_materialization_data=_target(newest[partition]) if partition in newest else None,
        )


def _newest(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partitions: list[str]
) -> dict[str | None, dg.EventLogRecord]:
    """The newest materialization of each partition: by one query if a run has just made all of them."""
    found: dict[str | None, dg.EventLogRecord] = {}

    def look_for(some: list[str]) -> None:
        of = dg.AssetRecordsFilter(asset_key=asset_key, asset_partitions=some)
        for record in instance.fetch_materializations(of, limit=len(some)).records:  # newest first
            found.setdefault(record.partition_key, record)

    look_for(partitions)
    for partition in set(partitions) - found.keys():
        look_for([partition])
    return found


def _target(record: dg.EventLogRecord) -> AssetCheckEvaluationTargetMaterializationData:
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )
