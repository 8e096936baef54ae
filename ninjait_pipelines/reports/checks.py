"""Does every organization have its report?"""

from datetime import datetime
from functools import partial

import dagster as dg

from ninjait_pipelines.left_out import LeftOut, nothing_is_left_out
from ninjait_pipelines.partitions import WEEKLY, check_each
from ninjait_pipelines.reports.assets import weekly_reports
from ninjait_pipelines.reports.weekly import Report, late_weeks, name_of, read_report, read_week, report, report_key
from ninjait_pipelines.resources.archive import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql

# Of a report, what is whole numbers: means of floats are not the same to the last digit, and invoices go on.
COUNTED = ("tickets", "api")
weekly_reports_left_nothing_out = nothing_is_left_out(weekly_reports)


@dg.asset_check(asset=weekly_reports, partitions_def=WEEKLY)
def every_organization_has_its_report(
    context: dg.AssetCheckExecutionContext, clickhouse: ClickHouse, archive: Archive
) -> dg.AssetCheckResult:
    """Each organization of the week has an archived report, its own, with a completeness from 0 to 1."""

    def examine(start: datetime, end: datetime) -> dg.AssetCheckResult:
        rows = clickhouse.rows(sql("reports/organizations"), start=start, stop=end)
        found = {row["organization_id"]: read_report(archive, row["organization_id"], start.date()) for row in rows}
        problems = [text for id_, report in found.items() if (text := _problem(str(id_), str(start.date()), report))]
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(problems[:10]),
            metadata={"organizations": len(found), "problems": len(problems)},
        )

    return check_each(context, examine)


@dg.asset_check(asset=weekly_reports, partitions_def=WEEKLY)
def past_reports_are_right(
    context: dg.AssetCheckExecutionContext, clickhouse: ClickHouse, archive: Archive
) -> dg.AssetCheckResult:
    """Counted once more, each morning, a past week has the tickets and API calls that its reports have. What came later
    is late, and no loss."""

    def examine(start: datetime, end: datetime) -> dg.AssetCheckResult:
        write = partial(report, week=start.date(), as_of=end, complete=0.0)
        problems = []
        for counted in LeftOut().each(read_week(clickhouse, start, end), name_of, write):
            id_ = counted["organization_id"]
            held = read_report(archive, id_, start.date()) or counted  # what is missing is another check's
            problems += [
                f"{id_} {part}: {held.get(part)} reported, {counted[part]} counted"
                for part in COUNTED
                if held.get(part) != counted[part]
            ]
        late = bool(problems) and start.date() in late_weeks(clickhouse)
        said = f"{len(problems)} differ: {'; '.join(problems[:10])}." if problems else "Equal."
        return dg.AssetCheckResult(
            passed=not problems or late,
            description=f"{said}{' It came later; the week repairs itself.' if late else ''}",
            metadata={"differing": len(problems), "late": late},
        )

    return check_each(context, examine)


def _problem(organization: str, week: str, report: Report | None) -> str | None:
    key = report_key(organization, week)
    if report is None:
        return f"{key} is not there, or no report"
    if (report["organization_id"], report["week"]) != (organization, week):
        return f"{key} is the report of {report['organization_id']}, week {report['week']}"
    return None if 0 <= report["completeness"] <= 1 else f"{key} has the completeness {report['completeness']}"
