"""Checks of measured days: no agreement left out, and what is stored is what is measured."""

import dagster as dg

from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.assets import billing_events, quantities_of_days
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.billing.measure import measure_days
from ninjait_pipelines.left_out import nothing_is_left_out
from ninjait_pipelines.marts import Window, check, none_of, some_of
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

billing_events_left_nothing_out = nothing_is_left_out(billing_events)


@check(billing_events, blocking=True)
def every_agreement_is_measured(
    window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: int
) -> dg.AssetCheckResult:
    """Every agreement in force has each of its items for the day, and no other has any. Without as many agreements as
    were left out, which another check names."""
    day = window.day
    expected = {
        (one.id, item.key)
        for one in agreements_in_force(postgres, day, day + DAY)
        for item in one.items
        if item.holds(day) and (item.kind != "one_off" or item.from_ == day)
    }
    query = "SELECT agreement_id, item FROM billing_quantities WHERE local_day = {day:Date} AND item != ''"
    found = {(str(row["agreement_id"]), row["item"]) for row in clickhouse.rows(query, day=day)}
    lacking = {agreement for agreement, _ in expected} - {agreement for agreement, _ in found}
    known = lacking if len(lacking) <= left_out else set()
    wrong = [f"{agreement} {item}" for agreement, item in expected ^ found if agreement not in known]
    counted = {"items_agreed": len(expected), "items_measured": len(found)}
    return none_of(wrong, "items lack quantities or have too many", metadata=counted)


@check(billing_events, unless_late=True)
def past_days_are_measured(window: Window, postgres: Postgres, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Measured once more, a past day has what is billed. What came later is late, and no loss."""
    # Quantity by quantity, of the items that have both.
    query = "SELECT agreement_id, item, quantity FROM billing_quantities WHERE local_day = {day:Date}"
    billed = {
        (str(row["agreement_id"]), row["item"]): row["quantity"] for row in clickhouse.rows(query, day=window.day)
    }
    first, end = window.day, window.day + DAY
    agreements = agreements_in_force(postgres, first, end)
    measured = measure_days(clickhouse, agreements, first, end, clickhouse.now())
    wrong = [
        f"{row['agreement_id']} {row['product']}: {billed[key]} billed, {row['quantity']} measured"
        for row in quantities_of_days(postgres, agreements, measured, first, end)
        if (key := (row["agreement_id"], row["item"])) in billed and billed[key] != row["quantity"]
    ]
    return none_of(wrong, "quantities differ", metadata={"quantities": len(billed), "differing": len(wrong)})


@check(billing_events)
def every_organization_has_an_agreement(window: Window, postgres: Postgres) -> dg.AssetCheckResult:
    """Warns of active organizations without an agreement in force: nothing is measured or billed for them."""
    rows = postgres.rows(sql("billing/unbilled_organizations"), {"day": window.day, "end": window.end})
    return dg.AssetCheckResult(
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Without an agreement: {some_of(row['name'] for row in rows)}" if rows else "None.",
        metadata={"organizations_without_agreement": len(rows)},
    )


all_checks = [
    billing_events_left_nothing_out,
    every_agreement_is_measured,
    past_days_are_measured,
    every_organization_has_an_agreement,
]
