"""Weeks that API calls came for after their reports were computed are reported again."""

import dagster as dg

from ninjait_pipelines.automation import AUTOMATION
from ninjait_pipelines.late_days import late_days_sensor, past_days_schedule
from ninjait_pipelines.reports.assets import past_reports_are_right, weekly_reports
from ninjait_pipelines.reports.weekly import late_weeks

report_late_weeks = dg.define_asset_job(
    "report_late_weeks",
    selection=dg.AssetSelection.assets(weekly_reports),
    tags=AUTOMATION,
    description="Writes the reports of weeks again that API calls came for after they were computed.",
)
check_past_weeks = dg.define_asset_job(
    "check_past_weeks",
    selection=dg.AssetSelection.checks(past_reports_are_right),
    tags=AUTOMATION,
    description="Counts past weeks once more and compares them with their reports.",
)
late_report_weeks = late_days_sensor("late_report_weeks", ["weekly_reports"], report_late_weeks, late=late_weeks)
past_report_weeks = past_days_schedule("past_report_weeks", check_past_weeks, "0 5 * * *", whole=7)
