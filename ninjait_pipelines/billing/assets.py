"""The asset of measured days: billable quantities by local day."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import dagster as dg

from ninjait_pipelines import automation, partitions
from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.invoice import KINDS, Contract, costs_of_day
from ninjait_pipelines.billing.local_time import DAY, day_window, hours_of
from ninjait_pipelines.billing.measure import store_days
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import Rows, Window, mart
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres, check_times

# So many organizations a query: their ids and windows go along as parameters, and a server limits the size of those.
BATCH = 1000
# How far back a changed contract or time zone is applied automatically; older months are a person's decision.
CORRECTED = timedelta(days=62)
DRAINS = dg.AssetSelection.assets("api_calls", "usage_reports")
REFERENCE = dg.AssetSelection.assets("contracts", "organizations")

# Unlike automation.FOLLOW_UPSTREAM this does not wait for what is missing upstream: every row says how complete it is,
# and the first day after installation has hours that never were. Only the partitioned upstreams count: the drains and
# the hourly copies have no partitions, so that each of their updates would ask for every day there is.
FOLLOW_UPSTREAM = (
    automation.deps_updated_since_requested(ignoring=DRAINS | REFERENCE)
    & automation.no_dep_failed_its_checks()
    & ~dg.AutomationCondition.any_deps_in_progress().ignore(DRAINS | REFERENCE)
    & ~dg.AutomationCondition.in_progress()
)
# The data version of a copy changes only when its rows do.
CONTRACTS_CHANGED = (
    automation.latched_until_requested(
        dg.AutomationCondition.in_latest_time_window(lookback_delta=CORRECTED)
        & dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).allow(REFERENCE)
    )
    & ~dg.AutomationCondition.missing()
    & ~dg.AutomationCondition.in_progress()
)


@mart(
    table="billing_quantities",
    group_name="billing",
    kinds={"postgres", "python"},
    partitions_def=partitions.DAILY,
    deps=[
        dg.AssetDep("device_metrics_hourly", partition_mapping=partitions.LOCAL_DAY),
        "api_calls",
        "usage_reports",
        "organizations",
        "contracts",
    ],
    automation_condition=automation.fill_missing(ignoring=DRAINS | REFERENCE) | FOLLOW_UPSTREAM | CONTRACTS_CHANGED,
)
def billing_events(
    window: Window,
    as_of: datetime,
    postgres: Postgres,
    clickhouse: ClickHouse,
    left_out: LeftOut,
    metadata: dict[str, Any],
) -> Rows:
    """Billable quantities of every organization with a contract. The partition is the label of the local day:
    2026-03-01 is 1 March in Auckland and in Denver. Grain: organization and local day; of billing_quantities, which
    invoices are made from and whose rows are counted here, also kind."""
    # A day in the west ends up to 12 hours after the UTC day of its name: until then its completeness is below 1, and
    # each further hour that is rolled up computes it again. For API calls and usage reports that come after the day was
    # over everywhere, the sensor late_billing_days does.
    agreements = agreements_in_force(postgres, window.day, window.day + DAY, left_out)
    store_days(clickhouse, agreements, window.day, window.day + DAY, as_of)
    events = list(events_of_day(postgres, clickhouse, window.day, left_out))
    metadata["complete_rows"] = sum(event["completeness"] == 1 for event in events)
    return events


all_assets = [billing_events]


def contracts_in_force(
    postgres: Postgres, first_day: date, end_day: date, left_out: LeftOut | None = None
) -> list[Contract]:
    """The contracts in force on a local day of [first_day, end_day), from the system of record itself: its hourly copy
    may be of before a correction. An organization without a time zone that there is has no local days: it is left out.
    """
    rows = postgres.rows(sql("billing/contracts"), {"first_day": first_day, "end_day": end_day})
    return list((left_out or LeftOut()).each(rows, lambda row: f"organization {row['organization_id']}", _contract))


def _contract(row: Mapping[str, Any]) -> Contract:
    check_times(row)
    ZoneInfo(row["time_zone"])
    return Contract(*(row[name] for name in Contract._fields))


def events_of_day(
    postgres: Postgres, clickhouse: ClickHouse, day: date, left_out: LeftOut | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of billing_quantities, without as_of, of a local day: of every organization with a contract in force."""
    in_force = contracts_in_force(postgres, day, day + DAY, left_out)
    for batch in (in_force[i : i + BATCH] for i in range(0, len(in_force), BATCH)):
        windows = [day_window(day, contract.time_zone) for contract in batch]
        measured = _measure(clickhouse, batch, windows)
        for contract, window in zip(batch, windows, strict=True):
            yield from events_of(contract, day, window, measured[contract.organization_id])


def events_of(
    contract: Contract, day: date, window: tuple[datetime, datetime], measured: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The four rows of one organization's local day; measured: its row of sql/queries/billing/quantities.sql."""
    values = (measured["devices"], measured["storage_gb"], measured["backup_gb"], measured["api_calls"])
    quantities = {kind: Decimal(value) for kind, value in zip(KINDS, values, strict=True)}
    costs = costs_of_day(contract, day, quantities)
    for kind, unit in KINDS.items():
        yield {
            "organization_id": contract.organization_id,
            "local_day": day,
            "kind": kind,
            "quantity": quantities[kind],
            "unit": unit,
            "cost": costs[kind],
            "base_fee": costs["base_fee"],
            "currency": contract.currency,
            "contract_id": contract.id,
            "price_plan_id": contract.price_plan_id,
            "price_plan_version": contract.price_plan_version,
            "window_start": window[0],
            "window_end": window[1],
            "completeness": measured["hours"] / len(hours_of(*window)),
        }


def _measure(
    clickhouse: ClickHouse, batch: Sequence[Contract], windows: Sequence[tuple[datetime, datetime]]
) -> dict[UUID, dict[str, Any]]:
    first, last = min(start for start, _ in windows), max(end for _, end in windows)
    rows = clickhouse.rows(
        sql("billing/quantities"),
        organizations=[str(contract.organization_id) for contract in batch],
        starts=[start for start, _ in windows],
        ends=[end for _, end in windows],
        first=first,
        last=last,
        first64=first,
        last64=last,
    )
    return {row["organization_id"]: row for row in rows}
