"""The ingest assets, one for each queue: each materialization is one bounded drain, and nothing here is partitioned."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from ninjait_pipelines.ingest.drain import Drain, Summary
from ninjait_pipelines.ingest.sinks import EventsSink, LogsSink, MetricsSink, Sink
from ninjait_pipelines.resources.clickhouse import ClickHouse, column_schema
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres

QUEUE = "ninjait/queue"


class DrainConfig(dg.Config):
    """The bounds of one drain. Whatever is left is for the next one, which starts within seconds."""

    most_messages: int = Field(default=20_000, ge=1, description="Messages that it takes at most")
    most_seconds: float = Field(
        default=45,
        gt=0,
        description="Seconds after which it takes no further batch; a batch under way is finished. Far below the time "
        "after which a broker gives unsettled messages to others",
    )
    idle_seconds: float = Field(
        default=1, ge=0, description="Seconds that it waits for another message before it takes the queue for empty"
    )


def clock() -> datetime:
    """The clock of the drains."""
    return datetime.now(UTC)


def metadata(
    summary: Summary, seconds: float, started: datetime, run_id: str, message_queue: MessageQueue, queue: str
) -> dict[str, dg.MetadataValue]:
    """What a drain says of itself in Dagster. Duplicates are not known here: the view message_ledger derives them."""
    depth = message_queue.depth(queue)
    return {
        "dagster/row_count": dg.MetadataValue.int(summary.points_written),
        "messages": dg.MetadataValue.int(summary.messages),
        "messages_quarantined": dg.MetadataValue.int(summary.messages_quarantined),
        "dead_letters": dg.MetadataValue.int(summary.dead_letters),
        "points": dg.MetadataValue.int(summary.points),
        "points_written": dg.MetadataValue.int(summary.points_written),
        "points_quarantined": dg.MetadataValue.int(summary.points_quarantined),
        "unknown_fields": dg.MetadataValue.int(summary.unknown_fields),
        "bytes": dg.MetadataValue.int(summary.bytes),
        "hours_touched": dg.MetadataValue.int(len({hour for _, hour in summary.hours})),
        "duration_seconds": dg.MetadataValue.float(seconds),
        "points_per_second": dg.MetadataValue.float(summary.points / seconds),
        "remaining_messages": dg.MetadataValue.int(depth.outstanding),
        "remaining_dead_letters": dg.MetadataValue.int(depth.dead),
        "drained_by": dg.MetadataValue.text(run_id),
        "started_at": dg.MetadataValue.float(started.timestamp()),
    }


def _drain(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    sink: Sink,
    message_queue: MessageQueue,
    postgres: Postgres,
    clickhouse: ClickHouse,
    mongodb: MongoDB,
) -> dg.MaterializeResult:
    started, at = time.perf_counter(), clickhouse.now()
    drain = Drain(sink, message_queue, postgres, clickhouse, mongodb, context.run_id, clock, context.log)
    summary = drain.run(config.most_messages, config.most_seconds, config.idle_seconds)
    seconds = time.perf_counter() - started
    return dg.MaterializeResult(metadata=metadata(summary, seconds, at, context.run_id, message_queue, sink.queue))


def _ingest_asset(
    queue: str, kinds: set[str], description: str, table: str | None = None
) -> Callable[..., dg.AssetsDefinition]:
    """What the five have in common."""
    columns = {"dagster/column_schema": column_schema(table)} if table else {}
    return dg.asset(
        group_name="ingest",
        kinds=kinds,
        owners=["team:data-engineering"],
        description=f"{description} Materializing it drains the queue {queue}, within bounds.",
        metadata={QUEUE: queue, **columns},
    )


@_ingest_asset(
    MetricsSink.queue,
    {"influxdb"},
    "Samples of the agents at full resolution, and the latest of each device in the cache. Grain: device and instant.",
    "metrics",
)
def agent_metrics(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    message_queue: dg.ResourceParam[MessageQueue],
    metrics_store: dg.ResourceParam[MetricsStore],
    dragonfly: Dragonfly,
    postgres: Postgres,
    clickhouse: ClickHouse,
    mongodb: MongoDB,
) -> dg.MaterializeResult:
    sink = MetricsSink(metrics_store, dragonfly, clickhouse, context.log)
    return _drain(context, config, sink, message_queue, postgres, clickhouse, mongodb)


@_ingest_asset(LogsSink.queue, {"mongodb"}, "Log entries of the platform's services. Grain: one entry.")
def application_logs(
    context: dg.AssetExecutionContext,
    config: DrainConfig,
    message_queue: dg.ResourceParam[MessageQueue],
    postgres: Postgres,
    clickhouse: ClickHouse,
    mongodb: MongoDB,
) -> dg.MaterializeResult:
    return _drain(context, config, LogsSink(mongodb), message_queue, postgres, clickhouse, mongodb)


def _events(name: str, queue: str, table: str, description: str) -> dg.AssetsDefinition:
    """An asset whose events are the rows of one ClickHouse table."""

    def drain_events(
        context: dg.AssetExecutionContext,
        config: DrainConfig,
        message_queue: dg.ResourceParam[MessageQueue],
        postgres: Postgres,
        clickhouse: ClickHouse,
        mongodb: MongoDB,
    ) -> dg.MaterializeResult:
        sink = EventsSink(queue, table, clickhouse)
        return _drain(context, config, sink, message_queue, postgres, clickhouse, mongodb)

    drain_events.__name__ = name
    return _ingest_asset(queue, {"clickhouse"}, description, table)(drain_events)


agent_heartbeats = _events(
    "agent_heartbeats", "agent.heartbeats", "device_heartbeats", "Heartbeats of the agents. Grain: one heartbeat."
)
api_calls = _events("api_calls", "platform.api_calls", "api_calls", "Calls of the platform's API. Grain: one call.")
usage_reports = _events(
    "usage_reports", "platform.usage", "usage_reports", "Storage and backups as measured. Grain: one measurement."
)

BY_QUEUE: dict[str, dg.AssetsDefinition] = {
    "agent.metrics": agent_metrics,
    "agent.heartbeats": agent_heartbeats,
    "platform.api_calls": api_calls,
    "platform.usage": usage_reports,
    "platform.logs": application_logs,
}
