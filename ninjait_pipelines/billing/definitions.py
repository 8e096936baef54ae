"""What Dagster is given of this stage: quantities and invoices, and what measures late days again."""

import dagster as dg

from ninjait_pipelines.billing.assets import all_assets
from ninjait_pipelines.billing.checks import all_checks
from ninjait_pipelines.billing.document_checks import all_document_checks
from ninjait_pipelines.billing.documents import finalise_invoices, finalise_monthly, invoices
from ninjait_pipelines.billing.reconciliation import reconciliation_assets, reconciliation_checks
from ninjait_pipelines.billing.sensors import (
    check_past_billing_days,
    late_billing_days,
    measure_late_days,
    past_billing_days,
)

defs = dg.Definitions(
    assets=[*all_assets, invoices, *reconciliation_assets],
    asset_checks=[*all_checks, *all_document_checks, *reconciliation_checks],
    jobs=[measure_late_days, check_past_billing_days, finalise_invoices],
    sensors=[late_billing_days],
    schedules=[past_billing_days, finalise_monthly],
)
