"""The relay: what it has answered with 204 reaches the store, whoever is away and whatever is killed."""

import gzip
import http.client
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ninjait_pipelines.local.fleet import relay
from ninjait_pipelines.local.fleet.agent import MIB, Agent, Spool, keep_and_deliver
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines_tests.local.fleet.brokers import AWAY, into

ORGANIZATION = str(uuid.UUID(int=1))
LINE = b"cpu,cpu=cpu-total,host=lap-1 usage_idle=80 1764460800000000000\n"
LIST = json.dumps([{"plugin": "memory", "type": "memory", "values": [1]}]).encode()


def quiet(_: str) -> None:
    """A report that nobody reads."""


@contextmanager
def listening(folder: Path, max_bytes: int = 64 * MIB) -> Iterator[tuple[Spool, Any]]:
    """A spool, and what posts to its relay and gives the status."""
    with Spool(folder, max_bytes) as spool, relay.listening(("127.0.0.1", 0), spool, ORGANIZATION, quiet) as port:

        def post(path: str, body: Any, **headers: str) -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("POST", path, body, named, encode_chunked=not isinstance(body, bytes))
            answer = connection.getresponse()
            answer.read()
            connection.close()
            return answer.status

        yield spool, post


def delivered(spool: Spool) -> list[Outgoing]:
    taken: list[Outgoing] = []
    spool.deliver(into(taken))
    return taken


def test_what_is_posted_while_the_broker_is_away_is_delivered_by_the_next_process(tmp_path: Path) -> None:
    """Telegraf's own output lost 45 seconds while the broker was away, and nine batches at a full queue."""
    agent = Agent(uuid.UUID(ORGANIZATION), uuid.UUID(int=2))
    with listening(tmp_path) as (spool, post):
        stop = threading.Event()
        arguments = (agent, spool, AWAY, stop, quiet, lambda: datetime.now(UTC), 0.05)
        running = threading.Thread(target=relay.run, args=arguments)
        running.start()
        assert [post("/api/v2/write", LINE), post("/collectd", LIST)] == [204, 204]
        stop.set()
        running.join(60)
    with Spool(tmp_path) as spool:
        messages = [one for one in delivered(spool) if one.queue == "agent.metrics"]
        assert spool.empty
    assert [(one.routing_key, one.body, one.content_type) for one in messages] == [
        (f"metrics.telegraf.{ORGANIZATION}", LINE, "text/plain"),
        (f"metrics.collectd.{ORGANIZATION}", LIST, "application/json"),
    ]


def test_it_reaches_a_real_queue_and_the_device_is_online(tmp_path: Path, stack: dict[str, str]) -> None:
    with DragonflyQueue(url=stack["DRAGONFLY_URL"]).open() as queue, listening(tmp_path) as (spool, post):
        queue.declare()
        assert post("/write?precision=ns", LINE) == 204
        assert keep_and_deliver(spool, queue, [], quiet)
        with queue.consume("agent.metrics", 10) as consumer:
            got = consumer.receive(10, 2)
            consumer.acknowledge(got)
        assert [one.body for one in got] == [LINE]
        queue.client.flushdb()


def test_a_full_spool_keeps_nothing_of_a_post_and_says_so(tmp_path: Path) -> None:
    with listening(tmp_path, max_bytes=2_000) as (spool, post):
        assert post("/api/v2/write", LINE) == 204
        assert post("/api/v2/write", LINE * 100) == 503
        assert len(spool) == 1


def test_packed_and_chunked_posts_are_unpacked(tmp_path: Path) -> None:
    with listening(tmp_path) as (spool, post):
        assert post("/api/v2/write", gzip.compress(LINE, mtime=0), Content_Encoding="gzip") == 204
        assert post("/telegraf", iter([LINE[:10], LINE[10:]])) == 204
        assert [one.body for one in delivered(spool)] == [LINE, LINE]


def test_a_long_post_is_cut_at_lines_and_each_time_alike(tmp_path: Path) -> None:
    body = LINE * 20_000
    parts = relay.messages_of("telegraf", ORGANIZATION, body)
    assert b"".join(part.body for part in parts) == body
    assert all(len(part.body) <= relay.MESSAGE_BYTES and part.body.endswith(b"\n") for part in parts)
    assert all(part.body.count(b"\n") <= 10_000 for part in parts)
    assert relay.messages_of("telegraf", ORGANIZATION, body) == parts
    with listening(tmp_path) as (spool, post):
        assert post("/api/v2/write", body) == 204
        assert len(spool) == len(parts) == 6


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/elsewhere", LINE, {}, 404),
        ("/write?precision=s", LINE, {}, 400),
        ("/write", LINE, {"Origin": "https://evil.example"}, 403),
        ("/write", LINE, {"Sec_Fetch_Site": "cross-site"}, 403),
        ("/write", b"no gzip", {"Content_Encoding": "gzip"}, 400),
        ("/write", gzip.compress(LINE, mtime=0)[:-4], {"Content_Encoding": "gzip"}, 400),
        ("/write", gzip.compress(bytes(17 * MIB), mtime=0), {"Content_Encoding": "gzip"}, 413),
        ("/collectd", b"[" + b" " * MIB + b"]", {}, 413),
        ("/write", b"x" * (MIB + 1), {}, 413),
    ],
)
def test_what_cannot_be_taken_is_refused_and_not_kept(
    tmp_path: Path, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    with listening(tmp_path) as (spool, post):
        assert post(path, body, **headers) == status
        assert spool.empty


def test_posts_during_a_delivery_are_kept(tmp_path: Path) -> None:
    """What is confirmed is taken out by a new file: what came meanwhile is in it."""
    with listening(tmp_path) as (spool, post):
        assert post("/write", LINE) == 204
        taken: list[Outgoing] = []

        def publish(messages: list[Outgoing]) -> int:
            if not taken:
                assert post("/write", LINE * 2) == 204
            taken.extend(messages)
            return len(messages)

        spool.deliver(publish)
        assert [one.body for one in [*taken, *delivered(spool)]] == [LINE, LINE * 2]


@pytest.mark.parametrize(
    ("text", "address"),
    [("8186", ("127.0.0.1", 8186)), ("10.0.0.1:1", ("10.0.0.1", 1))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert relay.address_of(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "1:99999"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|invalid literal"):
        relay.address_of(text)
