"""The asset of measured days: what every agreement's items used on local days, and what that costs."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg

from ninjait_pipelines import automation, partitions
from ninjait_pipelines.billing.agreements import agreements_in_force, device_terms
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.billing.measure import MAX_DAYS, MeasuredDays, store_days
from ninjait_pipelines.billing.quantities import measured_days, quantity_rows, registered, reporting, terms_of
from ninjait_pipelines.billing.rating.agreement import Agreement, Item
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import Done, Window, computed_together, content, declared
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.postgres import Postgres

# How far back a changed agreement or device is applied automatically; older months are a person's decision.
CORRECTED = timedelta(days=62)
DRAINS = dg.AssetSelection.assets("api_calls", "usage_reports")
REFERENCE = dg.AssetSelection.assets("agreements", "device_terms")

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
AGREEMENTS_CHANGED = (
    automation.latched_until_requested(
        dg.AutomationCondition.in_latest_time_window(lookback_delta=CORRECTED)
        & dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).allow(REFERENCE)
    )
    & ~dg.AutomationCondition.missing()
    & ~dg.AutomationCondition.in_progress()
)
NAME, QUANTITIES = "billing_events", "billing_quantities"


@computed_together(
    declared(
        NAME,
        QUANTITIES,
        "Billable quantities of every agreement: device_days, usage_days and, from these, billing_quantities, whose "
        "rows are counted here. The partition is the label of the local day: 2026-03-01 is 1 March in Auckland and in "
        "Denver. Grain: organization and local day; of billing_quantities agreement, local day and item.",
        group_name="billing",
        kinds={"clickhouse", "postgres", "python"},
        deps=[
            dg.AssetDep("device_metrics_hourly", partition_mapping=partitions.LOCAL_DAY),
            "api_calls",
            "usage_reports",
            "agreements",
            "device_terms",
        ],
        automation_condition=(
            automation.fill_missing(ignoring=DRAINS | REFERENCE) | FOLLOW_UPSTREAM | AGREEMENTS_CHANGED
        ),
    ),
    partitions_def=partitions.DAILY,
)
def billing_events(windows: list[Window], postgres: Postgres, clickhouse: ClickHouse) -> Iterator[Done]:
    """Measures the days of a run together, a month at a time."""
    # A day in the west ends up to 12 hours after the UTC day of its name: until then its completeness is below 1, and
    # each further hour that is rolled up computes it again. For API calls and usage reports that come after the day was
    # over everywhere, the sensor late_billing_days does.
    for days in _together(windows):
        started, left_out = time.perf_counter(), LeftOut()
        counts = measure_windows(postgres, clickhouse, days, left_out)
        seconds = {"duration_seconds": (time.perf_counter() - started) / len(days)}
        for window in days:
            rows, complete = counts[window.day]
            metadata = {"complete_rows": complete, **left_out.metadata(), **seconds}
            yield Done(NAME, window.start, rows, metadata)


def _together(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Consecutive days, at most MAX_DAYS at a time."""
    for _, group in itertools.groupby(enumerate(windows), lambda pair: pair[1].start - pair[0] * DAY):
        days = [window for _, window in group]
        yield from (days[at : at + MAX_DAYS] for at in range(0, len(days), MAX_DAYS))


def measure_windows(
    postgres: Postgres, clickhouse: ClickHouse, windows: Sequence[Window], left_out: LeftOut
) -> dict[date, tuple[int, int]]:
    """Local day -> how many rows it has, and how many of them are complete.

    1. Take the version, before anything is read: what comes later makes its day late.
    2. Replace device_days and usage_days, as `store_days` says. Dying in it: the days are still late or missing.
    3. Replace billing_quantities. Dying before: as above, and it is older than what it is made from. After: the days
       are of this version.
    """
    as_of = clickhouse.now()
    days = [window.day for window in windows]
    agreements = agreements_in_force(postgres, days[0], days[-1] + DAY, left_out)
    measured = store_days(clickhouse, agreements, days[0], days[-1] + DAY, as_of)
    rows = quantities_of_days(postgres, agreements, measured, days[0], days[-1] + DAY, left_out)
    table = content(QUANTITIES, rows, left_out)
    clickhouse.replace_slice(QUANTITIES, table, as_of, days)
    stored: dict[date, int] = defaultdict(int)
    complete: dict[date, int] = defaultdict(int)
    for day, share in zip(table["local_day"].to_pylist(), table["completeness"].to_pylist(), strict=True):
        stored[day] += 1
        complete[day] += share == 1
    return {day: (stored[day], complete[day]) for day in days}


def quantities_of_days(
    postgres: Postgres,
    agreements: Sequence[Agreement],
    measured: MeasuredDays,
    first: date,
    end: date,
    left_out: LeftOut | None = None,
) -> list[dict[str, Any]]:
    """The rows of billing_quantities, without as_of, of the local days [first, end); an agreement that cannot be
    computed, such as one with two terms of one device on a day, is left out and named."""
    left_out = left_out or LeftOut()
    name = "organization {0.organization_id}, agreement {0.id}".format
    devices = device_terms(postgres, {one.organization_id for one in agreements})

    def terms(one: Agreement) -> tuple[Agreement, Any]:
        return one, terms_of(one, devices.get(one.organization_id, []))

    held = list(left_out.each(agreements, name, terms))
    reported = reporting(
        measured.devices,
        ((one, item, of) for one, of in held for item in one.items if item.measured_by == "reporting"),
    )
    usage, days = measured_days(measured.usage), [first + number * DAY for number in range((end - first).days)]

    def rows(one: tuple[Agreement, Any]) -> list[dict[str, Any]]:
        agreement, of = one

        def counts(item: Item) -> Any:
            of_reporting = item.measured_by == "reporting"
            return reported[agreement.id, item.key] if of_reporting else registered(of, item, days)

        return list(quantity_rows(agreement, counts, usage, first, end))

    return [row for own in left_out.each(held, lambda one: name(one[0]), rows) for row in own]


all_assets = [billing_events]
