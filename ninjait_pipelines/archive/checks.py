"""Whether the archive still is what its manifests say."""

from collections import Counter
from datetime import datetime

import dagster as dg

from ninjait_pipelines.archive.assets import DATASET, device_metrics_archive
from ninjait_pipelines.archive.days import read_day, verify_day
from ninjait_pipelines.archive.objects import ArchiveDamaged
from ninjait_pipelines.partitions import DAILY, per_partition
from ninjait_pipelines.resources.archive.resource import Archive


@dg.asset_check(asset=device_metrics_archive, partitions_def=DAILY, blocking=True)
def archived_day_is_whole(context: dg.AssetCheckExecutionContext, archive: Archive) -> dg.AssetCheckResult:
    """Reads every object in the day's manifest again: it exists with the same hash and number of rows, and a scan finds
    as many rows of each organization as its object has."""

    def examine(start: datetime, _: datetime) -> dg.AssetCheckResult:
        try:
            manifest = verify_day(archive, DATASET, start.date())
            found = read_day(archive, DATASET, start.date(), ["organization_id"]) if manifest.objects else None
        except ArchiveDamaged as damage:
            return dg.AssetCheckResult(passed=False, description=str(damage), metadata={"key": damage.key})
        described = {one.organization_id: one.rows for one in manifest.objects}
        if (scanned := Counter(found["organization_id"].to_pylist() if found else ())) != described:
            problem = f"a scan finds other rows per organization: {dict(scanned)}, the manifest has {described}"
            return dg.AssetCheckResult(passed=False, description=problem)
        return dg.AssetCheckResult(passed=True, metadata={"objects": len(manifest.objects), "rows": manifest.rows})

    return per_partition(context, examine)
