"""Drains of a test, what they leave in the stores, and stores that fail for a poison message."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ninjait_pipelines import keys
from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines.ingest.drain import DrainSummary
from ninjait_pipelines.ingest.sinks import MetricsSink, Record, Sink
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain, sink_of
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    SECOND_DEVICE,
    as_published,
    outgoing,
)


def run(stores: Stores, queue: str = "agent.metrics", **changes: Any) -> DrainSummary:
    return make_drain(stores, queue, **changes).run(idle_seconds=idle_seconds(stores))


def publish(stores: Stores, *bodies: Any, queue: str = "agent.metrics", **fields: Any) -> None:
    stores.message_queue.publish([outgoing(queue, body, **fields) for body in bodies])


def ledger(stores: Stores) -> dict[str, int]:
    rows = stores.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    return {row["outcome"]: row["n"] for row in rows}


def points(stores: Stores, hours: float = 2) -> list[dict[str, Any]]:
    return stores.metrics_store.read(NOW - timedelta(hours=hours), NOW + timedelta(hours=1)).to_pylist()


def drained(stores: Stores, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Any:
    return make_drain(stores, clock=now).run(idle_seconds=idle_seconds(stores))


def publish_messages(stores: Stores, *messages: Message) -> None:
    stores.message_queue.publish([as_published(one) for one in messages])


def points_of(stores: Stores, device: str = SECOND_DEVICE) -> list[dict[str, Any]]:
    return stores.metrics_store.read(NOW - timedelta(hours=2), NOW + timedelta(hours=1), [device]).to_pylist()


def held(stores: Stores) -> list[dict[str, Any]]:
    return list(stores.mongodb.database["quarantine"].find({"state": "held"}).sort("_id", 1))


def outstanding(stores: Stores, queue: str = "agent.metrics") -> tuple[int, int]:
    depth = stores.message_queue.depth(queue)
    return depth.outstanding, depth.dead


class Broken:
    """A sink that fails as it is told."""

    queue = "agent.metrics"

    def __init__(self, sink: MetricsSink, fails: Any) -> None:
        self._sink = sink
        self._fails = fails

    def prepare(self) -> None:
        self._sink.prepare()

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        self._fails(decoded)
        return self._sink.write(decoded, run_id, now)


def poisoned(decoded: Sequence[Decoded]) -> None:
    if any(13.0 in one.columns.get("cpu", []) for one in decoded):
        raise ZeroDivisionError("a bug of ours, at cpu 13")


class Faulty:
    """A store some of whose methods are replaced by what they are told; `del store.method` mends it."""

    def __init__(self, store: Any, **methods: Callable[..., Any]) -> None:
        self._store = store
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def sink_with(stores: Stores, **faulty: Any) -> Sink:
    """The sink of the metrics queue on these stores, some of which are replaced."""
    return sink_of(dataclasses.replace(stores, **faulty), "agent.metrics")


def latest(stores: Stores, device: str = DEVICE) -> dict[str, Any]:
    return json.loads(str(stores.dragonfly.client.get(keys.device_latest(device))))
