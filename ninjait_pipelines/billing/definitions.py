"""What Dagster is given of this stage: quantities and invoices, and what measures late days again."""

import dagster as dg

from ninjait_pipelines.billing.assets import billing_events, invoices
from ninjait_pipelines.billing.checks import (
    billing_events_left_nothing_out,
    every_contract_is_measured,
    every_organization_has_a_contract,
    invoices_left_nothing_out,
    lines_add_up,
    past_days_are_measured,
    stores_agree,
)
from ninjait_pipelines.billing.sensors import (
    check_past_billing_days,
    late_billing_days,
    measure_late_days,
    past_billing_days,
)

defs = dg.Definitions(
    assets=[billing_events, invoices],
    asset_checks=[
        billing_events_left_nothing_out,
        every_contract_is_measured,
        past_days_are_measured,
        every_organization_has_a_contract,
        invoices_left_nothing_out,
        lines_add_up,
        stores_agree,
    ],
    jobs=[measure_late_days, check_past_billing_days],
    sensors=[late_billing_days],
    schedules=[past_billing_days],
)
