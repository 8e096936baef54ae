"""`ninjait publish`, from a file to the queue."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ninjait_pipelines.resources
from ninjait_pipelines.cli import queue as commands
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.message_queue import QueueFull
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.streams import QUEUES
from ninjait_pipelines_tests.ingest.conftest import drained, lines
from ninjait_pipelines_tests.ingest.samples import EVENTS, ORG, metrics, outgoing, sample
from ninjait_pipelines_tests.truncated_stores import rabbitmq_channel


def test_publish_a_file_and_standard_input(ninjait: Any, fleet: Stores, tmp_path: Path) -> None:
    file = tmp_path / "messages.jsonl"
    file.write_bytes(lines(metrics(sample(60)), b"", metrics(sample(30))))
    result = ninjait("publish", "agent.metrics", str(file), "--json")
    assert (result.exit_code, json.loads(result.stdout)["confirmed"]) == (0, 2)
    result = ninjait("publish", "platform.logs", stdin=lines(EVENTS["platform.logs"]))
    assert (result.exit_code, result.stdout) == (0, "platform.logs: the broker confirmed 1 message\n")
    assert (drained(fleet).points_written, drained(fleet, "platform.logs").points_written) == (2, 1)


def test_publish_stops_at_the_first_line_that_is_not_json_and_says_how_many_went(ninjait: Any, fleet: Stores) -> None:
    """In its second batch."""
    good = commands.BATCH + 1
    bad = lines(*(metrics(sample(1 + n)) for n in range(good)), b"cpu=5", metrics(sample(good + 1)))
    result = ninjait("publish", "agent.metrics", stdin=bad)
    assert result.exit_code == 1
    assert f"confirmed {good} messages" in result.stdout
    assert f"line {good + 1} is not JSON" in result.stderr
    assert drained(fleet).messages == good
    assert ninjait("publish", "agent.metrics", "--raw", stdin=bad).exit_code == 0
    assert drained(fleet).points_written == good + 1
    assert [document["reasons"][0]["reason"] for document in query.select(fleet.mongodb)] == ["not_json"]


@contextmanager
def full(stores: Stores) -> Iterator[Stores]:
    """The stores, with a broker whose queue of metrics is full."""
    broker: Any = stores.message_queue
    with type(broker)(url=broker.url, max_length=1).open() as small:
        delete_queues(broker)
        small.declare()
        with suppress(QueueFull):
            for _ in range(10):
                small.publish([outgoing("agent.metrics", metrics(sample()))])
        yield replace(stores, message_queue=small)
    delete_queues(broker)


def delete_queues(broker: Any) -> None:
    """RabbitMQ learns how much a queue may hold when that is declared; Dragonfly at each message."""
    if isinstance(broker, RabbitMQ):
        with rabbitmq_channel(broker) as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)


def test_publish_refuses_what_has_no_routing_key_no_queue_no_file_and_a_full_queue(
    ninjait: Any, fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = lines({"schema": "ninjait.metrics.v1"})
    assert "line 1 has no organization_id" in ninjait("publish", "agent.metrics", stdin=nobody).stderr
    given = ninjait("publish", "agent.metrics", "--routing-key", f"metrics.{ORG}", stdin=nobody)
    assert given.exit_code == 0
    assert "there is no queue agent.metric;" in ninjait("publish", "agent.metric", stdin=b"").stderr
    assert "No such file" in ninjait("publish", "agent.metrics", "missing.jsonl").stderr
    with full(fleet) as stores:
        monkeypatch.setattr(ninjait_pipelines.resources, "open_stores", lambda _: nullcontext(stores))
        refused = ninjait("publish", "agent.metrics", "--json", stdin=lines(metrics(sample())))
    assert refused.exit_code == 1
    assert "the queue agent.metrics" in refused.stderr
    assert "holds 1 messages" in refused.stderr
    assert json.loads(refused.stdout)["confirmed"] == 0
