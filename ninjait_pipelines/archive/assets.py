"""The daily archive of device_metrics_hourly."""

import time
from typing import Any

import dagster as dg

from ninjait_pipelines.archive.days import write_day
from ninjait_pipelines.archive.objects import ArchiveDamaged, manifest_key
from ninjait_pipelines.automation import FOLLOW_UPSTREAM, fill_missing
from ninjait_pipelines.partitions import DAILY, windows
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import column_schema

DATASET = "device_metrics_hourly"


@dg.asset(
    group_name="archive",
    deps=["device_metrics_hourly"],
    partitions_def=DAILY,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=168),
    automation_condition=FOLLOW_UPSTREAM | fill_missing(),
    kinds={"s3", "parquet"},
    owners=["team:data-engineering"],
    metadata={"dagster/column_schema": column_schema(DATASET)},
)
def device_metrics_archive(context: dg.AssetExecutionContext, clickhouse: ClickHouse, archive: Archive) -> None:
    """device_metrics_hourly of a UTC day as Parquet objects, and a manifest that is written last.

    Late data gives new objects and a new manifest; `write_day` says what happens if the process dies. A day whose
    archive is damaged fails the run after the other days are done, and these count as materialized.
    """
    archived: dict[str, dict[str, Any]] = {}
    damaged: dict[str, ArchiveDamaged] = {}
    for key, start, end in windows(context):
        started = time.perf_counter()
        as_of = clickhouse.now()
        rolled_up = clickhouse.scalar(sql("rollup/rolled_up"), start=start, stop=end)
        rows = clickhouse.arrow(sql("rollup/day"), start=start, stop=end)
        try:
            manifest = write_day(archive, DATASET, start.date(), rows, as_of, rolled_up / 24, clickhouse.now)
        except ArchiveDamaged as error:
            damaged[key] = error
            continue
        archived[key] = {
            "dagster/partition_row_count": manifest.rows,
            "manifest": manifest_key(DATASET, start.date()),
            "objects": len(manifest.objects),
            "bytes": sum(described.bytes for described in manifest.objects),
            "completeness": manifest.completeness,
            "duration_seconds": time.perf_counter() - started,
        }
    if damaged:
        for key, metadata in archived.items():
            context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata))
        for key, reason in damaged.items():
            context.log.error("The day %s was not archived: %s", key, reason)
        raise next(iter(damaged.values()))
    for key, metadata in archived.items():
        context.add_asset_metadata(metadata, partition_key=key)
