"""The weekly report of each organization, and its checks."""

from datetime import datetime
from functools import partial
from typing import Any

import dagster as dg

from ninjait_pipelines.automation import deps_updated_since_requested, fill_missing
from ninjait_pipelines.left_out import LeftOut, nothing_is_left_out
from ninjait_pipelines.marts import Window, check, computed
from ninjait_pipelines.partitions import INCLUDES_CURRENT_PERIOD, WEEKLY
from ninjait_pipelines.reports.weekly import (
    WEEK,
    Report,
    completeness,
    late_weeks,
    name_of,
    publish,
    read_report,
    read_week,
    report,
    report_key,
)
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.dragonfly import Dragonfly

# The whole numbers of a report: means of floats differ in the last digit between runs, and invoices still change.
COUNTED = ("tickets", "api")
UPSTREAM = ("device_metrics_hourly", "ticket_facts", "billing_events", "invoices")
# They have no partitions and are materialized all the time: they ask for no report and hold none up.
ALWAYS_NEW = ("organizations", "devices", "api_calls")
_ALWAYS_NEW = dg.AssetSelection.assets(*ALWAYS_NEW)
# A report says how complete it is, so it waits for nothing: the running week's grows with every hour, and the first
# week of an installation, of which hours are missing for ever, has one too.
_FOLLOW = (
    deps_updated_since_requested(_ALWAYS_NEW)
    & ~dg.AutomationCondition.any_deps_in_progress().ignore(_ALWAYS_NEW)
    & ~dg.AutomationCondition.in_progress()
)
AUTOMATION = (fill_missing(wait_for_missing=False) | _FOLLOW).with_label("weekly")


@computed(
    group_name="reports",
    deps=[*(dg.AssetDep(name, partition_mapping=INCLUDES_CURRENT_PERIOD) for name in UPSTREAM), *ALWAYS_NEW],
    partitions_def=WEEKLY,
    automation_condition=AUTOMATION,
    kinds={"s3", "redis"},
    notices_late_days=True,
)
def weekly_reports(
    window: Window,
    as_of: datetime,
    clickhouse: ClickHouse,
    archive: Archive,
    dragonfly: Dragonfly,
    left_out: LeftOut,
    metadata: dict[str, Any],
) -> int:
    """A report for each organization of a week from Monday, UTC: to the archive, and the latest to Dragonfly."""
    complete = completeness(
        clickhouse.scalar(sql("rollup/rolled_up"), start=window.start, stop=window.end), window.start, as_of
    )
    write = partial(report, week=window.day, as_of=as_of, complete=complete)
    week = list(left_out.each(read_week(clickhouse, *window), name_of, write))
    # The API shows the latest week. A backfill of an older one must not bring it back, not even to an expired key.
    recent = as_of < window.end + WEEK
    published = sum(publish(archive, dragonfly, one, cached=recent) for one in week)
    metadata.update(published=published, completeness=complete)
    return len(week)


weekly_reports_left_nothing_out = nothing_is_left_out(weekly_reports)


@check(weekly_reports)
def every_organization_has_its_report(window: Window, clickhouse: ClickHouse, archive: Archive) -> dg.AssetCheckResult:
    """Each organization of the week has an archived report, its own, with a completeness from 0 to 1."""
    rows = clickhouse.rows(sql("reports/organizations"), start=window.start, stop=window.end)
    reports = {row["organization_id"]: read_report(archive, row["organization_id"], window.day) for row in rows}
    problems = [text for id_, report in reports.items() if (text := _problem(str(id_), str(window.day), report))]
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(problems[:10]),
        metadata={"organizations": len(reports), "problems": len(problems)},
    )


@check(weekly_reports)
def past_reports_are_right(window: Window, clickhouse: ClickHouse, archive: Archive) -> dg.AssetCheckResult:
    """Counted once more, each morning, a past week has the tickets and API calls that its reports have. What came later
    is late, and no loss."""
    write = partial(report, week=window.day, as_of=window.end, complete=0.0)
    problems = []
    for counted in LeftOut().each(read_week(clickhouse, *window), name_of, write):
        id_ = counted["organization_id"]
        held = read_report(archive, id_, window.day) or counted  # what is missing is another check's
        problems += [
            f"{id_} {part}: {held.get(part)} reported, {counted[part]} counted"
            for part in COUNTED
            if held.get(part) != counted[part]
        ]
    late = bool(problems) and window.day in late_weeks(clickhouse)
    said = f"{len(problems)} differ: {'; '.join(problems[:10])}." if problems else "Equal."
    return dg.AssetCheckResult(
        passed=not problems or late,
        description=f"{said}{' It came later; the week repairs itself.' if late else ''}",
        metadata={"differing": len(problems), "late": late},
    )


def _problem(organization: str, week: str, report: Report | None) -> str | None:
    key = report_key(organization, week)
    if report is None:
        return f"{key} is not there, or no report"
    if (report["organization_id"], report["week"]) != (organization, week):
        return f"{key} is the report of {report['organization_id']}, week {report['week']}"
    return None if 0 <= report["completeness"] <= 1 else f"{key} has the completeness {report['completeness']}"
