"""Does every organization have its report?"""

import json
from datetime import datetime
from typing import Any

import dagster as dg

from ninjait_pipelines.partitions import WEEKLY, check_each
from ninjait_pipelines.reports.assets import weekly_reports
from ninjait_pipelines.reports.weekly import report_key
from ninjait_pipelines.resources.archive import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql


@dg.asset_check(asset=weekly_reports, partitions_def=WEEKLY)
def every_organization_has_its_report(
    context: dg.AssetCheckExecutionContext, clickhouse: ClickHouse, archive: Archive
) -> dg.AssetCheckResult:
    """Each organization of the week has an archived report, its own, with a completeness from 0 to 1."""

    def examine(start: datetime, end: datetime) -> dg.AssetCheckResult:
        week = start.date().isoformat()
        rows = clickhouse.rows(sql("reports/organizations"), start=start, stop=end)
        expected = [{"organization_id": str(row["organization_id"]), "week": week} for row in rows]
        problems = [f"{report_key(one)} {problem}" for one in expected if (problem := _problem(archive, one))]
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(problems[:10]),
            metadata={"organizations": len(expected), "problems": len(problems)},
        )

    return check_each(context, examine)


def _problem(archive: Archive, expected: dict[str, Any]) -> str | None:
    if not archive.exists(report_key(expected)):
        return "is not there"
    report = json.loads(archive.read(report_key(expected)))
    if any(report[name] != value for name, value in expected.items()):
        return f"is the report of {report['organization_id']}, week {report['week']}"
    return None if 0 <= report["completeness"] <= 1 else f"has the completeness {report['completeness']}"
