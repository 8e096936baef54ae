"""`store_health`: what an on-call engineer asks first, in the UI and with its history."""

import time
from dataclasses import fields

import dagster as dg
import msgspec

from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.store import StoreStatus

STORES = [field.name for field in fields(Stores)]


@dg.asset(
    group_name="operations",
    required_resource_keys=set(STORES),
    check_specs=[
        dg.AssetCheckSpec("stores_are_up", asset="store_health", description="Fails naming the stores that are down.")
    ],
    automation_condition=dg.AutomationCondition.on_cron("*/15 * * * *"),
    kinds={"python"},
    owners=["team:data-engineering"],
)
def store_health(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """State, version, latency and size of every store. A store that is down fails the check, not the asset."""
    started = time.perf_counter()
    statuses = check_all({name: getattr(context.resources, name) for name in STORES})
    down = [status for status in statuses if not status.ok]
    check = dg.AssetCheckResult(
        check_name="stores_are_up",
        passed=not down,
        description=" ".join(status.problem for status in down) or "All stores answer.",
        metadata={"down": [status.store for status in down]},
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(statuses),
            "stores": dg.MetadataValue.table([_record(status) for status in statuses]),
            "duration_seconds": time.perf_counter() - started,
        },
        check_results=[check],
    )


def _record(status: StoreStatus) -> dg.TableRecord:
    columns = msgspec.to_builtins(status)
    return dg.TableRecord({name: "" if value is None else value for name, value in columns.items()})
