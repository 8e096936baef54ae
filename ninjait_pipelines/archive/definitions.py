"""What Dagster is given of this stage: the days in the cold archive."""

import dagster as dg

from ninjait_pipelines.archive.assets import device_metrics_archive
from ninjait_pipelines.archive.checks import archived_day_is_whole

defs = dg.Definitions(
    assets=[device_metrics_archive],
    asset_checks=[archived_day_is_whole],
)
