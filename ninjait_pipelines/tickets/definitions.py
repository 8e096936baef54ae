"""What Dagster is given of this stage: the service desk's days, and what computes late ones again."""

import dagster as dg

from ninjait_pipelines.tickets.assets import all_assets, all_checks
from ninjait_pipelines.tickets.sensors import (
    check_past_ticket_days,
    compute_late_ticket_days,
    late_ticket_days,
    past_ticket_days,
)

defs = dg.Definitions(
    assets=all_assets,
    asset_checks=all_checks,
    jobs=[compute_late_ticket_days, check_past_ticket_days],
    sensors=[late_ticket_days],
    schedules=[past_ticket_days],
)
