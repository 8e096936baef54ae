"""Checks of the billing assets, by day and by month: nobody forgotten, and the same cents everywhere."""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import dagster as dg

from ninjait_pipelines import partitions
from ninjait_pipelines.billing.assets import billing_events, contracts_in_force, events_of_day, invoices
from ninjait_pipelines.billing.invoice import KINDS
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.late_days import is_late
from ninjait_pipelines.left_out import nothing_is_left_out
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

billing_events_left_nothing_out = nothing_is_left_out(billing_events)
invoices_left_nothing_out = nothing_is_left_out(invoices)
# Invoice id -> (total, sum of its lines), in one store.
Totals = Mapping[UUID, tuple[Decimal, Decimal]]


@dg.asset_check(
    asset=billing_events,
    partitions_def=partitions.DAILY,
    blocking=True,
    description="Every organization with a contract in force has all its quantities for the day, and no other has any. "
    "Without those that were left out.",
)
def every_contract_is_measured(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Compares PostgreSQL's contracts with the rows of the day."""

    def examine(start: datetime, _: datetime) -> dg.AssetCheckResult:
        day = start.date()
        expected = {contract.organization_id for contract in contracts_in_force(postgres, day, day + DAY)}
        query = (
            "SELECT organization_id, count() AS kinds FROM billing_quantities WHERE local_day = {day:Date} GROUP BY 1"
        )
        found = {row["organization_id"]: row["kinds"] for row in clickhouse.rows(query, day=day)}
        wrong = [str(id_) for id_ in expected | found.keys() if found.get(id_, 0) != len(KINDS) * (id_ in expected)]
        return dg.AssetCheckResult(
            passed=not wrong,
            description=f"{len(wrong)} organizations lack quantities or have too many: {_some(wrong)}"
            if wrong
            else "None.",
            metadata={"organizations_with_contract": len(expected), "organizations_measured": len(found)},
        )

    return partitions.per_partition(context, examine)


@dg.asset_check(
    asset=billing_events,
    partitions_def=partitions.DAILY,
    description="Measured once more, a past day has what is billed. What came later is late, and no loss.",
)
def past_days_are_measured(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Compares quantity by quantity, of the organizations that have both."""

    def examine(start: datetime, _: datetime) -> dg.AssetCheckResult:
        day = start.date()
        query = "SELECT organization_id, kind, quantity FROM billing_quantities WHERE local_day = {day:Date}"
        billed = {(row["organization_id"], row["kind"]): row["quantity"] for row in clickhouse.rows(query, day=day)}
        wrong = [
            f"{row['organization_id']} {row['kind']}: {billed[key]} billed, {row['quantity']} measured"
            for row in events_of_day(postgres, clickhouse, day)
            if (key := (row["organization_id"], row["kind"])) in billed and billed[key] != row["quantity"]
        ]
        late = bool(wrong) and is_late(clickhouse, "billing_events", day)
        said = f"{len(wrong)} quantities differ: {_some(wrong)}" if wrong else "Equal."
        return dg.AssetCheckResult(
            passed=not wrong or late,
            description=f"{said}{' It came later; the day repairs itself.' if late else ''}",
            metadata={"quantities": len(billed), "differing": len(wrong), "late": late},
        )

    return partitions.per_partition(context, examine)


@dg.asset_check(
    asset=billing_events,
    partitions_def=partitions.DAILY,
    description="Warns of active organizations without a contract in force: nothing is measured or billed for them.",
)
def every_organization_has_a_contract(
    context: dg.AssetCheckExecutionContext, postgres: Postgres
) -> dg.AssetCheckResult:
    """Names them."""

    def examine(start: datetime, end: datetime) -> dg.AssetCheckResult:
        rows = postgres.rows(sql("billing/unbilled_organizations"), {"day": start.date(), "end": end})
        return dg.AssetCheckResult(
            passed=not rows,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"Without a contract: {_some([row['name'] for row in rows])}" if rows else "None.",
            metadata={"organizations_without_contract": len(rows)},
        )

    return partitions.per_partition(context, examine)


@dg.asset_check(
    asset=invoices,
    partitions_def=partitions.MONTHLY,
    blocking=True,
    description="Of every invoice, in each store, the lines add up to the total, to the cent.",
)
def lines_add_up(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Adds them up in both stores."""

    def examine(start: datetime, _: datetime) -> dg.AssetCheckResult:
        month = start.date()
        stores = {
            "PostgreSQL": totals_in_postgres(postgres, month),
            "ClickHouse": totals_in_clickhouse(clickhouse, month),
        }
        wrong = [
            f"{name} {id_}: lines {lines}, total {total}"
            for name, totals in stores.items()
            for id_, (total, lines) in totals.items()
            if total != lines
        ]
        return dg.AssetCheckResult(
            passed=not wrong,
            description=f"{len(wrong)} invoices do not add up: {_some(wrong)}" if wrong else "All add up.",
            metadata={f"invoices_{name.lower()}": len(totals) for name, totals in stores.items()},
        )

    return partitions.per_partition(context, examine)


@dg.asset_check(
    asset=invoices,
    partitions_def=partitions.MONTHLY,
    blocking=True,
    description="PostgreSQL and ClickHouse have the same invoices, equal to the cent.",
)
def stores_agree(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Compares invoice by invoice: total, and sum of the lines."""

    def examine(start: datetime, _: datetime) -> dg.AssetCheckResult:
        record = totals_in_postgres(postgres, start.date())
        copy = totals_in_clickhouse(clickhouse, start.date())
        wrong = [
            f"{id_}: {record.get(id_)}, {copy.get(id_)}"
            for id_ in record.keys() | copy.keys()
            if record.get(id_) != copy.get(id_)
        ]
        return dg.AssetCheckResult(
            passed=not wrong,
            description=f"{len(wrong)} invoices differ (total, lines): {_some(wrong)}. Rerun the month."
            if wrong
            else "Equal.",
            metadata={"invoices": len(record), "total_of_all": str(sum(total for total, _ in record.values()))},
        )

    return partitions.per_partition(context, examine)


def totals_in_postgres(postgres: Postgres, month: date) -> Totals:
    """The system of record's totals of a month; month: its first day."""
    rows = postgres.rows(sql("billing/totals_postgres"), {"month": month})
    return {row["id"]: (row["total"], row["lines"]) for row in rows}


def totals_in_clickhouse(clickhouse: ClickHouse, month: date) -> Totals:
    """The copy's totals of a month; month: its first day."""
    rows = clickhouse.rows(sql("billing/totals_clickhouse"), month=month)
    return {row["id"]: (row["total"], row["lines"]) for row in rows}


def _some(names: list[str], limit: int = 10) -> str:
    return ", ".join(sorted(names)[:limit]) + (", ..." if len(names) > limit else "")
