"""Whether the archive still is what its manifests say."""

from datetime import datetime

import dagster as dg

from ninjait_pipelines.archive.assets import DATASET, device_metrics_archive
from ninjait_pipelines.archive.days import verify_day
from ninjait_pipelines.archive.objects import ArchiveDamaged
from ninjait_pipelines.partitions import DAILY, per_partition
from ninjait_pipelines.resources.archive.resource import Archive


@dg.asset_check(asset=device_metrics_archive, partitions_def=DAILY, blocking=True)
def archived_day_is_whole(context: dg.AssetCheckExecutionContext, archive: Archive) -> dg.AssetCheckResult:
    """Reads every object in the day's manifest again: it exists with the same hash, and with as many rows of each
    organization as the manifest says."""

    def examine(start: datetime, _: datetime) -> dg.AssetCheckResult:
        try:
            manifest = verify_day(archive, DATASET, start.date())
        except ArchiveDamaged as damage:
            return dg.AssetCheckResult(passed=False, description=str(damage), metadata={"key": damage.key})
        return dg.AssetCheckResult(passed=True, metadata={"objects": len(manifest.objects), "rows": manifest.rows})

    return per_partition(context, examine)
