"""What reports is compared with what is billed, a local month at a time: the mart, its check, and `findings`, which the
command `reconcile` shows.

Rating decides what a finding is and what it costs. This module gathers what that needs, and finds organizations that
have no agreement at all.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any
from uuid import UUID

import dagster as dg

from ninjait_pipelines import automation, partitions
from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.local_time import month_window, next_month
from ninjait_pipelines.billing.measure import BATCH
from ninjait_pipelines.billing.rating.agreement import Agreement
from ninjait_pipelines.billing.rating.reconciliation import of_organization
from ninjait_pipelines.billing.stored_usage import usage_of
from ninjait_pipelines.left_out import LeftOut, nothing_is_left_out
from ninjait_pipelines.marts import Rows, Window, check, mart
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

NONE = UUID(int=0)
Finding = dict[str, Any]


@mart(
    group_name="billing",
    kinds={"postgres", "python"},
    partitions_def=partitions.MONTHLY,
    deps=["invoices"],
    automation_condition=(
        automation.deps_updated_since_requested()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.in_progress()
    ),
)
def billing_reconciliation(window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: LeftOut) -> Rows:
    """Devices that are billed and silent, report and are not billed, or are billed twice, with days and money. Grain:
    organization, month, agreement, finding, device and product."""
    return findings(postgres, clickhouse, window.day, left_out=left_out)


billing_reconciliation_left_nothing_out = nothing_is_left_out(billing_reconciliation)


@check(billing_reconciliation)
def devices_and_bills_fit(window: Window, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Warns of devices that are billed and silent, that report and are not billed, or that are billed twice: how many,
    and what they cost."""
    rows = clickhouse.rows(sql("billing/reconciled"), month=window.day)
    said = [
        f"{row['finding']}: devices {row['devices']}, days {row['days']}"
        + (f", {row['currency']} {_plain(row['amount'])}" if row["amount"] else "")
        for row in rows
    ]
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(said) or "None.",
        metadata={"findings": sum(row["findings"] for row in rows)},
    )


reconciliation_assets = [billing_reconciliation]
reconciliation_checks = [billing_reconciliation_left_nothing_out, devices_and_bills_fit]


def findings(
    postgres: Postgres,
    clickhouse: ClickHouse,
    month: date,
    organization: str | None = None,
    left_out: LeftOut | None = None,
) -> list[Finding]:
    """The rows of the mart, without as_of, of a local month (its first day), of all organizations or of one."""
    left_out = left_out or LeftOut()
    agreements = agreements_in_force(postgres, month, next_month(month), left_out)
    agreements = [one for one in agreements if organization in (None, one.organization_id)]
    # A month ends everywhere within a day after it ends in UTC.
    given = {"month": month, "next_month": next_month(month), "end": month_window(month, "Etc/GMT+12")[1]}
    organizations = postgres.rows(sql("billing/reconciled_organizations"), {**given, "organization_id": organization})
    known = {row["organization_id"]: row for row in organizations}
    rows = list(_of_agreements(postgres, clickhouse, month, agreements, known, left_out))
    without = [row for row in organizations if not row["has_agreement"]]
    return rows + list(_without_agreement(clickhouse, month, without, left_out))


def _of_agreements(
    postgres: Postgres,
    clickhouse: ClickHouse,
    month: date,
    agreements: Sequence[Agreement],
    known: Mapping[str, Mapping[str, Any]],
    left_out: LeftOut,
) -> Iterator[Finding]:
    used = usage_of(postgres, clickhouse, agreements, month, next_month(month)) if agreements else {}

    def examine(own: list[Agreement]) -> list[Finding]:
        deactivated_at = known.get(own[0].organization_id, {}).get("deactivated_at")
        if deactivated_at is not None and not isinstance(deactivated_at, datetime):
            raise ValueError(f"deactivated_at is {deactivated_at}: set it to a time from the year 1 to 9999")
        found = of_organization([(one, used[one.id]) for one in own], month, deactivated_at)
        return [_row(agreement, month, finding) for agreement, finding in found]

    by_organization = [list(own) for _, own in groupby(agreements, lambda one: one.organization_id)]
    for rows in left_out.each(by_organization, lambda own: f"organization {own[0].organization_id}", examine):
        yield from rows


def _row(agreement: Agreement, month: date, finding: Any) -> Finding:
    return {
        "organization_id": UUID(agreement.organization_id),
        "month": month,
        "agreement_id": UUID(agreement.id),
        "finding": finding.finding,
        "device_id": UUID(finding.device_id) if finding.device_id else NONE,
        "product": finding.product or "",
        "days": finding.days,
        "amount": finding.amount,
        "currency": agreement.currency,
    }


def _without_agreement(
    clickhouse: ClickHouse, month: date, organizations: Sequence[Mapping[str, Any]], left_out: LeftOut
) -> Iterator[Finding]:
    zones: dict[tuple[str, datetime, datetime], list[str]] = defaultdict(list)

    def place(row: Mapping[str, Any]) -> None:
        zones[row["time_zone"], *month_window(month, row["time_zone"])].append(row["organization_id"])

    list(left_out.each(organizations, "organization {organization_id}".format_map, place))
    nothing = {"month": month, "agreement_id": NONE, "product": "", "amount": Decimal(0), "currency": ""}
    for (zone, start, end), ids in sorted(zones.items()):
        for batch in (ids[at : at + BATCH] for at in range(0, len(ids), BATCH)):
            given = {"organizations": batch, "time_zone": zone, "start": start, "end": end}
            for row in clickhouse.rows(sql("billing/reporting_devices"), **given):
                yield {**row, **nothing, "finding": "without_agreement"}


def _plain(amount: Decimal) -> str:
    """Without the zeros that the column adds to cents."""
    return f"{amount:.2f}" if amount == amount.quantize(Decimal("0.01")) else f"{amount:f}"
