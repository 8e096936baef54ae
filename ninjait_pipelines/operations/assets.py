"""`store_health`: what an on-call engineer asks first, in the UI and with its history."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg
import msgspec
from pydantic import Field

from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.audit import delete_resolved
from ninjait_pipelines.ingest.quarantine.hold import move_spooled
from ninjait_pipelines.ingest.quarantine.query import QuarantineFilter
from ninjait_pipelines.ingest.quarantine.reasons import DEAD_LETTER
from ninjait_pipelines.installation import recorded_start, start_problem
from ninjait_pipelines.operations import audit_logs
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.partitions import START
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError, StoreStatus
from ninjait_pipelines.settings import THRESHOLDS
from ninjait_pipelines.streams import QUEUES

# Organizations that the check names.
NAMED = 20


class HealthConfig(dg.Config):
    """What the checks of store_health look back on."""

    not_kept_hours: int = Field(
        default=24, ge=1, description="Hours for which `bodies_are_kept` reports a body that was not kept"
    )


DEFAULT = HealthConfig()
STORES = [field.name for field in fields(Stores)]


@dg.asset(
    group_name="operations",
    required_resource_keys=set(STORES),
    check_specs=[
        dg.AssetCheckSpec(
            "stores_are_up",
            asset="store_health",
            description="Fails naming the stores that are down, as a warning where all of them are "
            "optional. It also warns of what waits in the quarantine's spool, and of whose share of it "
            f"is {THRESHOLDS.quarantine_warn_percent} % full.",
        ),
        dg.AssetCheckSpec(
            "no_dead_letters_wait",
            asset="store_health",
            description="Fails while dead letters wait, in the broker or in quarantine. Those that an outage made are "
            "replayed automatically when it is over; the others wait for a person: ninjait quarantine list.",
        ),
        dg.AssetCheckSpec(
            "pipeline_start_is_unchanged",
            asset="store_health",
            description="Fails where PIPELINE_START is not the day on which this installation began: partitions with "
            "data would be hidden, or partitions shown as missing that never could exist.",
        ),
        dg.AssetCheckSpec(
            "bodies_are_kept",
            asset="store_health",
            description="Fails naming each organization of whose bad messages the quarantine did not keep all bodies "
            f"in the last {DEFAULT.not_kept_hours} hours (`not_kept_hours`), because its share was full: they can "
            "never be replayed.",
        ),
    ],
    automation_condition=dg.AutomationCondition.on_cron("*/15 * * * *"),
    kinds={"python"},
    owners=["team:data-engineering"],
)
def store_health(context: dg.AssetExecutionContext, config: HealthConfig) -> dg.MaterializeResult:
    """State, version, latency and size of every store, after these have been tidied: what waits in the quarantine's
    spool is moved, what was replayed or discarded 30 days ago is deleted, and so are
    audit logs older than AUDIT_KEPT_DAYS.

    A store that is down fails the check, not the asset.
    """
    started = time.perf_counter()
    mongodb = context.resources.mongodb
    tidied = _tidy(context, mongodb, context.resources.postgres)
    statuses = check_all({name: getattr(context.resources, name) for name in STORES})
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(statuses),
            "stores": dg.MetadataValue.table([_table_record(status) for status in statuses]),
            **tidied,
            "duration_seconds": time.perf_counter() - started,
        },
        check_results=[
            stores_are_up(statuses),
            _dead_letters(context.resources.message_queue, mongodb),
            _bodies(context.resources.clickhouse, config.not_kept_hours),
            _start(context.resources.postgres),
        ],
    )


def _start(postgres: Postgres) -> dg.AssetCheckResult:
    try:
        problem = start_problem(START.date(), recorded_start(postgres))
    except StoreError as error:
        problem = f"The recorded day could not be read: {error}"
    return dg.AssetCheckResult(
        check_name="pipeline_start_is_unchanged",
        passed=problem is None,
        description=problem or f"Partitions begin on {START:%Y-%m-%d}.",
    )


def _bodies(clickhouse: ClickHouse, hours: int) -> dg.AssetCheckResult:
    try:
        since = clickhouse.now() - timedelta(hours=hours)
        return bodies_are_kept(clickhouse.rows(sql("ingest/bodies_not_kept"), since=since), hours)
    except StoreError as error:
        said = f"They could not be counted: {error}"
        return dg.AssetCheckResult(check_name="bodies_are_kept", passed=False, description=said)


def bodies_are_kept(lost: Sequence[Mapping[str, Any]], hours: int = DEFAULT.not_kept_hours) -> dg.AssetCheckResult:
    """Fails as an error: lost bodies can never be replayed, and only a person can stop the loss.

    lost: the rows of ingest/bodies_not_kept.sql.
    """
    who = [f"{_name(one['organization_id'])} {one['messages']} ({one['bytes']} bytes)" for one in lost[:NAMED]]
    said = f"Bodies of bad messages were not kept in the last {hours} hours, as their share of the quarantine "
    said += f"was full. {len(lost)} lost some: {'; '.join(who)}. Fix the sender, and make room: ninjait quarantine "
    said += "list --organization ID, then replay or discard."
    return dg.AssetCheckResult(
        check_name="bodies_are_kept",
        passed=not lost,
        description=said if lost else "The body of every bad message was kept.",
        metadata={"organizations": len(lost), "messages": sum(one["messages"] for one in lost)},
    )


def _name(organization: UUID) -> str:
    return f"the organization {organization}" if organization.int else "senders of no known organization"


def _dead_letters(message_queue: MessageQueue, mongodb: MongoDB) -> dg.AssetCheckResult:
    try:
        message_queue.declare()
        waiting = {queue: message_queue.depth(queue).dead for queue in QUEUES}
        return no_dead_letters_wait(waiting, query.count(mongodb, selection=QuarantineFilter(reason=DEAD_LETTER)))
    except StoreError as error:
        return dg.AssetCheckResult(
            check_name="no_dead_letters_wait", passed=False, description=f"They could not be counted: {error}"
        )


def no_dead_letters_wait(in_broker: Mapping[str, int], held: int) -> dg.AssetCheckResult:
    """Fails while a dead letter waits: a message that was sent and is in no store."""
    queues = [f"{count} in {queue}.dead" for queue, count in in_broker.items() if count]
    where = [*queues, *([f"{held} in quarantine"] if held else [])]
    return dg.AssetCheckResult(
        check_name="no_dead_letters_wait",
        passed=not where,
        description=f"Dead letters wait: {', '.join(where)}. See: ninjait quarantine list" if where else "None waits.",
        metadata={"in_broker": sum(in_broker.values()), "held": held},
    )


def stores_are_up(statuses: Sequence[StoreStatus]) -> dg.AssetCheckResult:
    """Which stores are down and what that means, and which are up but need attention."""
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


def _tidy(context: dg.AssetExecutionContext, mongodb: MongoDB, postgres: Postgres) -> dict[str, int]:
    """How many messages or rows each step took. None of them keeps the health from being shown."""
    now = datetime.now(UTC)
    steps = {
        "spooled_messages_moved": lambda: move_spooled(mongodb, now),
        "resolved_messages_deleted": lambda: delete_resolved(mongodb, now),
        "audit_logs_deleted": lambda: audit_logs.delete_expired(postgres, THRESHOLDS.audit_kept_days),
    }
    done = dict.fromkeys(steps, 0)
    for name, step in steps.items():
        try:
            done[name] = step()
        except StoreError as error:
            context.log.warning("%s: 0, because of: %s", name, error)
    return done


def _table_record(status: StoreStatus) -> dg.TableRecord:
    columns = msgspec.to_builtins(status)
    return dg.TableRecord({name: "" if value is None else value for name, value in columns.items()})
