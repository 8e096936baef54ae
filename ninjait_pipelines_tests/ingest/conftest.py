"""Fixtures of the ingest tests: many small tests on one set of databases."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ninjait_pipelines.cli import app
from ninjait_pipelines.ingest.assets import make_sink
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, Period
from ninjait_pipelines.ingest.drain import Drain
from ninjait_pipelines.ingest.ledger import ledger_rows
from ninjait_pipelines.ingest.sinks import Sink
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.settings import Settings
from ninjait_pipelines.streams import STREAMS
from ninjait_pipelines_tests.ingest.samples import NOW, REGISTRY, TOPICS, register
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["module_stores", "settings", "shared_stores"]

LOG = logging.getLogger("test")
# Those that samples.py has messages for.
TABLES = {one.queue: one.table for one in STREAMS if one.store == "clickhouse" and one.queue in TOPICS}
MakeDrain = Callable[..., Drain]


@pytest.fixture
def fleet(shared_stores: Stores) -> Stores:
    """The stores, with the organizations and devices of samples.py in PostgreSQL."""
    register(shared_stores.postgres)
    return shared_stores


@pytest.fixture
def ninjait(fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command with the test's settings."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return run


def metrics_url(settings: Settings) -> str:
    """The setting that names the server of the metrics store."""
    return "INFLUXDB_URL" if "INFLUXDB_URL" in settings else "CLICKHOUSE_URL"


def idle_seconds(stores: Stores) -> float:
    """For how long nothing may come before a queue counts as empty: RabbitMQ sends, and takes a moment to begin."""
    return 0.3 if isinstance(stores.message_queue, RabbitMQ) else 0.05


def sink_of(stores: Stores, queue: str) -> Sink:
    """The sink of a queue, as the assets make it."""
    [stream] = [stream for stream in STREAMS if stream.queue == queue]
    return make_sink(stream, LOG, **stores.all())


def make_drain(stores: Stores, queue: str = "agent.metrics", **changes: object) -> Drain:
    """A drain of a queue; `changes` replace its stores, sink or clock."""
    parts = {
        "sink": sink_of(stores, queue),
        "message_queue": stores.message_queue,
        "postgres": stores.postgres,
        "clickhouse": stores.clickhouse,
        "mongodb": stores.mongodb,
        "run_id": "run-1",
        "clock": lambda: datetime.now(UTC),
        "log": LOG,
        "store_wait_seconds": 0,
    }
    return Drain(**parts | changes)  # type: ignore[arg-type]


def drained(stores: Stores, queue: str = "agent.metrics") -> Any:
    """What became of what a queue holds."""
    return make_drain(stores, queue).run(idle_seconds=idle_seconds(stores))


def lines(*bodies: Any) -> bytes:
    """Bodies as `ninjait publish` reads them; bytes stay as they are."""
    return b"".join((body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n" for body in bodies)


def ledger_row(delivered: Message, decoded: Decoded | None = None) -> dict[str, Any]:
    """A message's row of the ledger."""
    decoded = decoded or decode(delivered, REGISTRY, Period.at(NOW))
    [row] = ledger_rows([(delivered, decoded)], "run").to_pylist()
    return row
