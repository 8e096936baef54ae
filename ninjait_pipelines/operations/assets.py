"""`store_health`: what an on-call engineer asks first, in the UI and with its history."""

import time
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime

import dagster as dg
import msgspec

from ninjait_pipelines.ingest.quarantine import delete_settled, move_spooled
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError, StoreStatus

STORES = [field.name for field in fields(Stores)]


@dg.asset(
    group_name="operations",
    required_resource_keys=set(STORES),
    check_specs=[
        dg.AssetCheckSpec(
            "stores_are_up",
            asset="store_health",
            description="Fails naming the stores that are down, as a warning where all of them are optional, and where "
            "the quarantine is full. It also warns of what waits in its spool, and when it is 80 % full.",
        )
    ],
    automation_condition=dg.AutomationCondition.on_cron("*/15 * * * *"),
    kinds={"python"},
    owners=["team:data-engineering"],
)
def store_health(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """State, version, latency and size of every store, after the quarantine has been tidied: what waits in its spool is
    moved, and what was replayed or discarded 30 days ago is deleted.

    A store that is down fails the check, not the asset.
    """
    started = time.perf_counter()
    moved, deleted = _tidy_quarantine(context, context.resources.mongodb)
    statuses = check_all({name: getattr(context.resources, name) for name in STORES})
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(statuses),
            "stores": dg.MetadataValue.table([_record(status) for status in statuses]),
            "spooled_copies_moved": moved,
            "settled_copies_deleted": deleted,
            "duration_seconds": time.perf_counter() - started,
        },
        check_results=[stores_are_up(statuses)],
    )


def stores_are_up(statuses: Sequence[StoreStatus]) -> dg.AssetCheckResult:
    """What is down and what that means, and what is up but not as it should be."""
    down = [status for status in statuses if not status.ok]
    said = [text for status in statuses for text in (status.problem, status.note) if text]
    required = any(not status.optional for status in down)
    return dg.AssetCheckResult(
        check_name="stores_are_up",
        passed=not said,
        severity=dg.AssetCheckSeverity.ERROR if required else dg.AssetCheckSeverity.WARN,
        description=" ".join(said) or "All stores answer.",
        metadata={"down": [status.store for status in down]},
    )


def _tidy_quarantine(context: dg.AssetExecutionContext, mongodb: MongoDB) -> tuple[int, int]:
    """(copies moved, copies deleted). Neither keeps the health from being shown."""
    done = []
    for tidy in (move_spooled, delete_settled):
        try:
            done.append(tidy(mongodb, datetime.now(UTC)))
        except StoreError as error:
            context.log.warning("The quarantine was not tidied by %s: %s", tidy.__name__, error)
            done.append(0)
    return done[0], done[1]


def _record(status: StoreStatus) -> dg.TableRecord:
    columns = msgspec.to_builtins(status)
    return dg.TableRecord({name: "" if value is None else value for name, value in columns.items()})
