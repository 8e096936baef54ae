"""What Dagster is given of this stage: the hours, and what rolls up late ones again."""

import dagster as dg

from ninjait_pipelines.rollup.assets import device_metrics_hours
from ninjait_pipelines.rollup.checks import (
    devices_have_one_sender,
    hour_is_accounted_for,
    sample_shares_are_shares,
    samples_are_conserved,
)
from ninjait_pipelines.rollup.sensors import (
    check_last_week,
    every_hour,
    last_week,
    late_hours,
    roll_up_hour,
    roll_up_late_hours,
)

defs = dg.Definitions(
    assets=[device_metrics_hours],
    asset_checks=[samples_are_conserved, hour_is_accounted_for, sample_shares_are_shares, devices_have_one_sender],
    jobs=[roll_up_hour, roll_up_late_hours, check_last_week],
    sensors=[late_hours],
    schedules=[every_hour, last_week],
)
