"""Checks of measured days: no organization left out, and what is stored is what is measured."""

import dagster as dg

from ninjait_pipelines.billing.assets import billing_events, contracts_in_force, events_of_day
from ninjait_pipelines.billing.invoice import KINDS
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.left_out import nothing_is_left_out
from ninjait_pipelines.marts import Window, check, none_of, some_of
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

billing_events_left_nothing_out = nothing_is_left_out(billing_events)


@check(billing_events, blocking=True)
def every_contract_is_measured(window: Window, postgres: Postgres, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Every organization with a contract in force has all its quantities for the day, and no other has any. Without
    those that were left out."""
    day = window.day
    expected = {contract.organization_id for contract in contracts_in_force(postgres, day, day + DAY)}
    query = "SELECT organization_id, count() AS kinds FROM billing_quantities WHERE local_day = {day:Date} GROUP BY 1"
    found = {row["organization_id"]: row["kinds"] for row in clickhouse.rows(query, day=day)}
    wrong = [str(id_) for id_ in expected | found.keys() if found.get(id_, 0) != len(KINDS) * (id_ in expected)]
    counted = {"organizations_with_contract": len(expected), "organizations_measured": len(found)}
    return none_of(wrong, "organizations lack quantities or have too many", metadata=counted)


@check(billing_events, unless_late=True)
def past_days_are_measured(window: Window, postgres: Postgres, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Measured once more, a past day has what is billed. What came later is late, and no loss."""
    # Quantity by quantity, of the organizations that have both.
    query = "SELECT organization_id, kind, quantity FROM billing_quantities WHERE local_day = {day:Date}"
    billed = {(row["organization_id"], row["kind"]): row["quantity"] for row in clickhouse.rows(query, day=window.day)}
    wrong = [
        f"{row['organization_id']} {row['kind']}: {billed[key]} billed, {row['quantity']} measured"
        for row in events_of_day(postgres, clickhouse, window.day)
        if (key := (row["organization_id"], row["kind"])) in billed and billed[key] != row["quantity"]
    ]
    return none_of(wrong, "quantities differ", metadata={"quantities": len(billed), "differing": len(wrong)})


@check(billing_events)
def every_organization_has_a_contract(window: Window, postgres: Postgres) -> dg.AssetCheckResult:
    """Warns of active organizations without a contract in force: nothing is measured or billed for them."""
    rows = postgres.rows(sql("billing/unbilled_organizations"), {"day": window.day, "end": window.end})
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Without a contract: {some_of(row['name'] for row in rows)}" if rows else "None.",
        metadata={"organizations_without_contract": len(rows)},
    )


all_checks = [
    billing_events_left_nothing_out,
    every_contract_is_measured,
    past_days_are_measured,
    every_organization_has_a_contract,
]
