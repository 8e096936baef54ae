"""Days of billing that calls or reports came for after they were measured are measured again; invoices follow."""

import dagster as dg

from ninjait_pipelines.automation import AUTOMATION
from ninjait_pipelines.billing.assets import billing_events
from ninjait_pipelines.billing.checks import past_days_are_measured
from ninjait_pipelines.late_days import late_days_sensor, past_days_schedule

measure_late_days = dg.define_asset_job(
    "measure_late_days",
    selection=dg.AssetSelection.assets(billing_events),
    tags=AUTOMATION,
    description="Measures days again that API calls or usage reports came for after they were measured.",
)
check_past_billing_days = dg.define_asset_job(
    "check_past_billing_days",
    selection=dg.AssetSelection.checks(past_days_are_measured),
    tags=AUTOMATION,
    description="Measures past days once more and compares them with what is billed, day by day.",
)
late_billing_days = late_days_sensor("late_billing_days", ["billing_events"], measure_late_days)
past_billing_days = past_days_schedule("past_billing_days", check_past_billing_days, "50 4 * * *")
