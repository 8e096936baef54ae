"""`store_health`: what an on-call engineer asks first, in the UI and with its history."""

import time

import dagster as dg

from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources.archive import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import Store, StoreStatus


@dg.asset(
    group_name="operations",
    check_specs=[
        dg.AssetCheckSpec("stores_are_up", asset="store_health", description="Fails naming the stores that are down.")
    ],
    automation_condition=dg.AutomationCondition.on_cron("*/15 * * * *"),
    kinds={"python"},
    owners=["team:data-engineering"],
)
def store_health(
    message_queue: dg.ResourceParam[MessageQueue],
    metrics_store: dg.ResourceParam[MetricsStore],
    dragonfly: Dragonfly,
    clickhouse: ClickHouse,
    postgres: Postgres,
    mongodb: MongoDB,
    archive: Archive,
) -> dg.MaterializeResult:
    """State, version, latency and size of every store. A store that is down fails the check, not the asset."""
    started = time.perf_counter()
    stores: dict[str, Store] = {
        "message_queue": message_queue,
        "metrics_store": metrics_store,
        "dragonfly": dragonfly,
        "clickhouse": clickhouse,
        "postgres": postgres,
        "mongodb": mongodb,
        "archive": archive,
    }
    statuses = check_all(stores)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(statuses),
            "stores": dg.MetadataValue.table([_record(status) for status in statuses]),
            "duration_seconds": time.perf_counter() - started,
        },
        check_results=[_check(statuses)],
    )


def _check(statuses: list[StoreStatus]) -> dg.AssetCheckResult:
    down = [status for status in statuses if not status.ok]
    return dg.AssetCheckResult(
        check_name="stores_are_up",
        passed=not down,
        description=" ".join(status.problem for status in down) or "All stores answer.",
        metadata={"down": [status.store for status in down]},
    )


def _record(status: StoreStatus) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "store": status.store,
            "state": "up" if status.ok else "down",
            "version": status.version,
            "latency_seconds": status.latency_seconds or 0.0,
            "size_bytes": status.size_bytes or 0,
            "address": status.address,
            "problem": status.problem,
        }
    )
