"""The ingest assets, one per queue: each materialization is one bounded drain, and nothing here is partitioned."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from ninjait_pipelines.ingest.clocks import compare_clocks
from ninjait_pipelines.ingest.drain import Drain
from ninjait_pipelines.ingest.outages import STORE_FAILED
from ninjait_pipelines.ingest.sinks import EventsSink, LogsSink, MetricsSink, Sink
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import column_schema
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError

QUEUE = "ninjait/queue"


class DrainConfig(dg.Config):
    """The bounds of one drain. The next one, which starts within seconds, takes what is left."""

    max_messages: int = Field(default=20_000, ge=1, description="Messages that one drain takes at most")
    max_seconds: float = Field(
        default=45,
        gt=0,
        description="Seconds after which no further batch is received; batches under way are finished. Far below the "
        "time after which a broker redelivers unacknowledged messages",
    )
    idle_seconds: float = Field(
        default=1, ge=0, description="Seconds without a message after which the queue counts as empty"
    )


def clock() -> datetime:
    """The clock of the drains."""
    return datetime.now(UTC)


def _drain_asset(
    name: str, queue: str, store: str, description: str, make_sink: Callable[..., Sink], table: str | None = None
) -> dg.AssetsDefinition:
    """The asset of one queue; `make_sink` gets the log and the stores by name."""
    columns = {"dagster/column_schema": column_schema(table)} if table else {}

    @dg.asset(
        name=name,
        group_name="ingest",
        kinds={store},
        owners=["team:data-engineering"],
        description=f"{description} Materializing it drains the queue {queue} within the bounds of its config.",
        metadata={QUEUE: queue, **columns},
    )
    def drain_queue(
        context: dg.AssetExecutionContext,
        config: DrainConfig,
        message_queue: dg.ResourceParam[MessageQueue],
        metrics_store: dg.ResourceParam[MetricsStore],
        dragonfly: Dragonfly,
        postgres: Postgres,
        clickhouse: ClickHouse,
        mongodb: MongoDB,
    ) -> dg.MaterializeResult:
        begun, started_at = time.perf_counter(), clickhouse.now()
        compare_clocks(clock, clickhouse, postgres, metrics_store)
        sink = make_sink(
            log=context.log, metrics_store=metrics_store, dragonfly=dragonfly, clickhouse=clickhouse, mongodb=mongodb
        )
        drain = Drain(sink, message_queue, postgres, clickhouse, mongodb, context.run_id, clock, context.log)
        try:
            summary = drain.run(config.max_messages, config.max_seconds, config.idle_seconds)
        except StoreError:  # dead letters that it makes are replayed automatically
            context.instance.add_run_tags(context.run_id, {STORE_FAILED: "true"})
            raise
        seconds = time.perf_counter() - begun
        depth = message_queue.depth(queue)
        return dg.MaterializeResult(
            metadata={
                **summary.metadata(),
                "dagster/row_count": summary.points_written,
                "duration_seconds": seconds,
                "points_per_second": summary.points / seconds,
                "remaining_messages": depth.outstanding,
                "remaining_dead_letters": depth.dead,
                "drained_by": context.run_id,
                "started_at": started_at.timestamp(),
            }
        )

    return drain_queue


def _events_asset(name: str, queue: str, table: str, description: str) -> dg.AssetsDefinition:
    """An asset whose events are the rows of one ClickHouse table."""

    def make_sink(clickhouse: ClickHouse, **_: Any) -> Sink:
        return EventsSink(queue, table, clickhouse)

    return _drain_asset(name, queue, "clickhouse", description, make_sink, table)


agent_metrics = _drain_asset(
    "agent_metrics",
    MetricsSink.queue,
    "influxdb",
    "Samples of the agents at full resolution, and the latest of each device in the cache. Grain: device and instant.",
    lambda log, metrics_store, dragonfly, clickhouse, **_: MetricsSink(metrics_store, dragonfly, clickhouse, log),
    "metrics",
)
agent_heartbeats = _events_asset(
    "agent_heartbeats", "agent.heartbeats", "device_heartbeats", "Heartbeats of the agents. Grain: one heartbeat."
)
api_calls = _events_asset(
    "api_calls", "platform.api_calls", "api_calls", "Calls of the platform's API. Grain: one call."
)
usage_reports = _events_asset(
    "usage_reports", "platform.usage", "usage_reports", "Storage and backups as measured. Grain: one measurement."
)
application_logs = _drain_asset(
    "application_logs",
    LogsSink.queue,
    "mongodb",
    "Log entries of the platform's services. Grain: one entry.",
    lambda mongodb, **_: LogsSink(mongodb),
)

BY_QUEUE: dict[str, dg.AssetsDefinition] = {
    "agent.metrics": agent_metrics,
    "agent.heartbeats": agent_heartbeats,
    "platform.api_calls": api_calls,
    "platform.usage": usage_reports,
    "platform.logs": application_logs,
}
