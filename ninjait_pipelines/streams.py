"""The streams of messages: queue and routing keys of each, the contract of its messages, and where they are stored.

A stream is declared here, and its table by a migration. Queues and bindings, the drain's asset with its sensor and its
checks, the commands and the tables of docs/contracts.md follow from that.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import msgspec

from ninjait_pipelines.contract import (
    DEVICE,
    METRICS,
    Contract,
    Field,
    choice,
    decimal_text,
    document,
    identifier,
    integer,
    number,
    text,
)


class Stream(msgspec.Struct, frozen=True):
    """One stream.

    asset: the drain's; description: what its rows are, and their grain; table: where the store keeps them, a table of
    ClickHouse with a column for each field of the contract, or a collection; keys: the routing keys, where they are not
    the contract's topic and one word: `*` stands for one word, `#` for any number of words; days_follow: days are
    computed from its events, and once more when one comes late (see the view late_days).
    """

    queue: str
    asset: str
    description: str
    contract: Contract
    store: Literal["metrics", "clickhouse", "mongodb"]
    table: str
    keys: tuple[str, ...] = ()
    days_follow: bool = False

    @property
    def routing_keys(self) -> tuple[str, ...]:
        """Those that the queue is bound by."""
        return self.keys or (f"{self.contract.topic}.*",)


STREAMS = [
    Stream(
        queue="agent.metrics",
        asset="agent_metrics",
        description="Samples of the agents at full resolution, and the latest of each device in the cache. "
        "Grain: device and instant.",
        contract=METRICS,
        store="metrics",
        table="metrics",
        keys=("metrics.*", "metrics.telegraf.#", "metrics.collectd.#"),
    ),
    Stream(
        queue="agent.heartbeats",
        asset="agent_heartbeats",
        description="Heartbeats of the agents. Grain: one heartbeat.",
        contract=Contract(
            "heartbeat",
            {
                "status": Field(partial(choice, allowed=("online", "offline", "maintenance"))),
                "agent_version": Field(partial(text, limit=100)),
                "os_version": Field(partial(text, limit=200)),
                "uptime_seconds": Field(partial(integer, minimum=0, limit=2**53), required=False),
            },
            device=DEVICE,
        ),
        store="clickhouse",
        table="device_heartbeats",
    ),
    Stream(
        queue="platform.api_calls",
        asset="api_calls",
        description="Calls of the platform's API. Grain: one call.",
        contract=Contract(
            "api_call",
            {
                "endpoint": Field(partial(text, limit=500)),
                "method": Field(partial(text, limit=20)),
                "status_code": Field(partial(integer, minimum=100, limit=599)),
                "response_time_ms": Field(number),
                "user_id": Field(identifier, required=False),
            },
        ),
        store="clickhouse",
        table="api_calls",
        days_follow=True,
    ),
    Stream(
        queue="platform.usage",
        asset="usage_reports",
        description="Storage and backups as measured. Grain: one measurement.",
        contract=Contract("usage", {"storage_gb": Field(decimal_text), "backup_gb": Field(decimal_text)}),
        store="clickhouse",
        table="usage_reports",
        days_follow=True,
    ),
    Stream(
        queue="platform.logs",
        asset="application_logs",
        description="Log entries of the platform's services. Grain: one entry.",
        contract=Contract(
            "log",
            {
                "level": Field(partial(choice, allowed=("debug", "info", "warning", "error", "critical"))),
                "service": Field(partial(text, limit=200)),
                "message": Field(partial(text, limit=100_000, minimum=0)),
                "error": Field(document, required=False),
            },
            routed_by="level",
            device=Field(identifier, required=False),
        ),
        store="mongodb",
        table="application_logs",
    ),
]
QUEUES: Mapping[str, tuple[str, ...]] = {stream.queue: stream.routing_keys for stream in STREAMS}
CONTRACTS: Mapping[str, Contract] = {stream.queue: stream.contract for stream in STREAMS}
