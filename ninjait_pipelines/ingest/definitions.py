"""What Dagster is given of this stage: the drains, their checks, and what starts them."""

import dagster as dg

from ninjait_pipelines.ingest.assets import drains
from ninjait_pipelines.ingest.checks import all_checks
from ninjait_pipelines.ingest.sensors import after_outage, drain_jobs, drains_by_depth, registered_hosts

defs = dg.Definitions(
    assets=drains,
    asset_checks=all_checks,
    jobs=drain_jobs,
    sensors=[drains_by_depth, registered_hosts, after_outage],
)
