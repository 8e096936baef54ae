"""What Dagster is given of this stage: the stores' health, and alerts."""

import dagster as dg

from ninjait_pipelines.operations.assets import store_health
from ninjait_pipelines.operations.sensors import failed_runs

defs = dg.Definitions(
    assets=[store_health],
    sensors=[failed_runs],
)
