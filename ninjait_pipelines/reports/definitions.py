"""What Dagster is given of this stage: the weekly reports, and what writes late ones again."""

import dagster as dg

from ninjait_pipelines.reports.assets import (
    every_organization_has_its_report,
    past_reports_are_right,
    weekly_reports,
    weekly_reports_left_nothing_out,
)
from ninjait_pipelines.reports.sensors import check_past_weeks, late_report_weeks, past_report_weeks, report_late_weeks

defs = dg.Definitions(
    assets=[weekly_reports],
    asset_checks=[weekly_reports_left_nothing_out, every_organization_has_its_report, past_reports_are_right],
    jobs=[report_late_weeks, check_past_weeks],
    sensors=[late_report_weeks],
    schedules=[past_report_weeks],
)
