"""The ingest assets, one per queue: each materialization is one bounded drain, and nothing here is partitioned."""

import time
from datetime import UTC, datetime
from logging import Logger
from typing import Any

import dagster as dg
from pydantic import Field

from ninjait_pipelines.ingest.clocks import compare_clocks
from ninjait_pipelines.ingest.drain import STORE_WAIT_SECONDS, Drain
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
from ninjait_pipelines.streams import STREAMS, Stream

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
    store_wait_seconds: float = Field(
        default=STORE_WAIT_SECONDS,
        ge=0,
        le=60,
        description="Seconds that a drain waits altogether for stores that fail while it runs; then its messages are "
        "requeued. At most 60: with a store's time-out it must stay below the 120 seconds after which Dragonfly gives "
        "a silent consumer's messages to others",
    )


def clock() -> datetime:
    """The clock of the drains."""
    return datetime.now(UTC)


def make_sink(stream: Stream, log: Logger, **stores: Any) -> Sink:
    """Where the stream's messages go; stores: by their names."""
    match stream.store:
        case "metrics":
            return MetricsSink(stores["metrics_store"], stores["dragonfly"], stores["clickhouse"], log)
        case "clickhouse":
            return EventsSink(stream, stores["clickhouse"])
        case "mongodb":
            return LogsSink(stores["mongodb"])


KINDS = {"metrics": "influxdb", "clickhouse": "clickhouse", "mongodb": "mongodb"}


def _drain_asset(stream: Stream) -> dg.AssetsDefinition:
    """The asset of one stream."""
    columns = {} if stream.store == "mongodb" else {"dagster/column_schema": column_schema(stream.table)}

    @dg.asset(
        name=stream.asset,
        group_name="ingest",
        kinds={KINDS[stream.store]},
        owners=["team:data-engineering"],
        description=f"{stream.description} Materializing it drains the queue {stream.queue} within the bounds of its "
        "config.",
        metadata={QUEUE: stream.queue, **columns},
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
            stream,
            context.log,
            metrics_store=metrics_store,
            dragonfly=dragonfly,
            clickhouse=clickhouse,
            mongodb=mongodb,
        )
        drain = Drain(
            sink,
            message_queue,
            postgres,
            clickhouse,
            mongodb,
            context.run_id,
            clock,
            context.log,
            store_wait_seconds=config.store_wait_seconds,
        )
        try:
            summary = drain.run(config.max_messages, config.max_seconds, config.idle_seconds)
        except StoreError:  # dead letters that it makes are replayed automatically
            context.instance.add_run_tags(context.run_id, {STORE_FAILED: "true"})
            raise
        seconds = time.perf_counter() - begun
        depth = message_queue.depth(stream.queue)
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


BY_QUEUE = {stream.queue: _drain_asset(stream) for stream in STREAMS}
drains = list(BY_QUEUE.values())
agent_metrics, application_logs = BY_QUEUE["agent.metrics"], BY_QUEUE["platform.logs"]
