"""A real Telegraf and a real collectd publish into a real RabbitMQ, and a drain takes it from there."""

import dataclasses
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, Period
from ninjait_pipelines.ingest.decode.third_party import MEBIBYTE
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sensors import replay_registered
from ninjait_pipelines.local.stack.servers import SERVERS
from ninjait_pipelines.local.stack.servers import RabbitMQ as Engine
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.interfaces import is_left_out
from ninjait_pipelines.metrics.model import VOLUMES
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import make_drain
from ninjait_pipelines_tests.ingest.samples import ORG, OTHER_DEVICE, OTHER_ORG, SECOND_DEVICE, register_device
from ninjait_pipelines_tests.local.stack.standalone_engine import alone

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

QUEUE = "agent.metrics"
NEW_DEVICE = str(uuid.UUID(int=77))
# The exchange is named as it is: whoever comes first declares it, and all of them declare the same.
TELEGRAF = """
[agent]
  interval = "1s"
  flush_interval = "1s"
  hostname = "{host}"
[[outputs.amqp]]
  brokers = ["amqp://{broker.hostname}:{broker.port}{broker.path}"]
  username = "{broker.username}"
  password = "{broker.password}"
  exchange = "{exchange}"
  exchange_type = "topic"
  exchange_durability = "durable"
  routing_key = "{routing_key}"
  delivery_mode = "persistent"
  data_format = "influx"
[[inputs.cpu]]
[[inputs.mem]]
[[inputs.disk]]
  mount_points = ["/"]
[[inputs.net]]
"""
INPUTS = TELEGRAF[TELEGRAF.index("[[inputs.cpu]]") :]
AGENT = TELEGRAF[: TELEGRAF.index("[[outputs.amqp]]")]
# The Telegraf that is built here has no outputs.http.
TO_THE_RELAY = """
[[outputs.influxdb_v2]]
  urls = ["http://127.0.0.1:{port}"]
  token = "t"
  organization = "o"
  bucket = "b"
"""
COLLECTD = """
Hostname "{host}"
FQDNLookup false
BaseDir "{folder}"
PIDFile "{folder}/pid"
Interval 1
LoadPlugin cpu
<Plugin cpu>
  ReportByCpu false
  ValuesPercentage true
</Plugin>
LoadPlugin memory
LoadPlugin df
<Plugin df>
  MountPoint "/"
</Plugin>
LoadPlugin interface
LoadPlugin amqp
<Plugin amqp>
  <Publish "ninjait">
    Host "{broker.hostname}"
    Port "{broker.port}"
    VHost "/"
    User "{broker.username}"
    Password "{broker.password}"
    Exchange "{exchange}"
    RoutingKey "{routing_key}"
    Persistent true
    Format "JSON"
  </Publish>
</Plugin>
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RabbitMQ]:
    """An empty broker, which knows no exchange yet."""
    with (
        alone(Engine, tmp_path / "rabbitmq") as server,
        RabbitMQ(url=server.settings["RABBITMQ_URL"]).open() as queue,
    ):
        yield queue


@contextmanager
def agent(queue: RabbitMQ, folder: Path, program: str, host: str, routing_key: str) -> Iterator[None]:
    """A Telegraf or a collectd that runs for as long as the block does, and ends by itself then."""
    folder.mkdir()
    file = folder / "agent.conf"
    values = {"host": host, "routing_key": routing_key, "broker": urlsplit(queue.url), "exchange": EVENTS}
    text = TELEGRAF if program == "telegraf" else COLLECTD
    file.write_text(text.format(**values, folder=folder).replace("/%2F", "/"))
    command = {
        "telegraf": [str(SERVERS / "bin" / "telegraf"), "--config", str(file)],
        "collectd": ["/usr/sbin/collectd", "-f", "-C", str(file)],
    }[program]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
            assert process.poll() is None, (folder / "log").read_text()
            process.terminate()
            process.wait(20)
        finally:
            process.kill()
            process.wait()


@contextmanager
def running(command: Sequence[str | Path], folder: Path, name: str, **environment: str) -> Iterator[Path]:
    """A program for as long as the block does; gives its log."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
        try:
            yield log
            assert process.poll() is None, log.read_text()
            process.terminate()
            process.wait(30)
        finally:
            process.kill()
            process.wait()


def waiting(queue: RabbitMQ) -> list[Message]:
    """What is in the queue, left there."""
    ready = queue.depth(QUEUE).ready
    messages: list[Message] = []
    with queue.consume(QUEUE, prefetch=10_000) as consumer:
        while len(messages) < ready:
            messages += consumer.receive(1000, wait_seconds=5)
    return messages


def eventually(true: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.2)
    return true()


def column(decoded: list[Decoded], device: str, field: str) -> list[float]:
    """The readings of a field, in order of their time."""
    rows = [row for one in decoded for row in zip(*one.columns.values(), strict=True)]
    names = next(list(one.columns) for one in decoded if one.columns)
    found = [dict(zip(names, row, strict=True)) for row in rows]
    of_device = sorted((row for row in found if row["device_id"] == device), key=lambda row: row["time"])
    return [row[field] for row in of_device if row[field] is not None]


def system_disk(decoded: list[Decoded], device: str) -> list[float]:
    """The readings of what is in use on /, in order of their time."""
    rows = [row for one in decoded if one.volumes for row in zip(*one.volumes.values(), strict=True)]
    found = [dict(zip(VOLUMES.names, row, strict=True)) for row in rows]
    of_device = sorted((row for row in found if row["device_id"] == device), key=lambda row: row["time"])
    return [row["used"] for row in of_device if row["volume"] in ("/", "root") and row["used"] is not None]


def check_readings(decoded: list[Decoded], device: str) -> None:
    """What was read is what psutil reads, as far as two readers of a busy machine agree."""
    cpu, memory = (column(decoded, device, field) for field in ("cpu", "memory"))
    disk = system_disk(decoded, device)
    assert min(len(cpu), len(memory), len(disk)) >= 3
    assert all(0 <= value <= 100 for value in cpu)
    now = psutil.virtual_memory()
    assert all(0 < value < now.total / MEBIBYTE for value in memory)
    assert abs(memory[-1] - now.used / MEBIBYTE) < 2048
    assert abs(disk[-1] - psutil.disk_usage("/").used / MEBIBYTE) < 2048


def check_counters(decoded: list[Decoded], device: str, before: dict, after: dict) -> set[str]:
    """The counters of every interface lie between what psutil read before and after; which interfaces there were."""
    rows = [row for one in decoded if one.counters for row in zip(*one.counters.values(), strict=True)]
    readings = sorted((row[3:] for row in rows if row[1] == device), key=lambda row: row[:2])
    assert readings
    for interface, _, received, sent in readings:
        assert before[interface].bytes_recv <= received <= after[interface].bytes_recv
        assert before[interface].bytes_sent <= sent <= after[interface].bytes_sent
    for one, later in pairwise(readings):
        assert one[0] != later[0] or (one[2] <= later[2] and one[3] <= later[3])
    return {row[0] for row in readings}


def test_a_real_telegraf_s_readings_reach_the_store_by_a_relay(
    fleet: Stores, settings: Settings, broker: RabbitMQ, tmp_path: Path
) -> None:
    broker.declare()
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    program = [sys.executable, "-m", "ninjait_pipelines.cli", "agent", "--relay", str(port)]
    program += ["--organization", ORG, "--device", SECOND_DEVICE, "--spool", str(tmp_path / "spool")]
    file = tmp_path / "telegraf.conf"
    file.write_text((AGENT + TO_THE_RELAY + INPUTS).format(host="lap-2", port=port))
    telegraf = [SERVERS / "bin" / "telegraf", "--config", file]
    with running(program, tmp_path, "relay", **{**settings, "RABBITMQ_URL": broker.url}) as log:
        assert eventually(lambda: "takes posts" in log.read_text())
        with running(telegraf, tmp_path, "telegraf"):
            assert eventually(lambda: broker.depth(QUEUE).ready > 0)
            time.sleep(5)
    stores = dataclasses.replace(fleet, message_queue=broker)
    summary = make_drain(stores).run(idle_seconds=0.5)
    assert (summary.points_written > 0, summary.points_quarantined, broker.depth(QUEUE).outstanding) == (True, 0, 0)
    now = datetime.now(UTC)
    stored = stores.metrics_store.read(now - timedelta(hours=1), now + timedelta(hours=1), [SECOND_DEVICE])
    assert sum(value is not None for value in stored["memory"].to_pylist()) >= 3
    assert broker.depth("agent.heartbeats").ready >= 2, "it is online, and then offline"


def test_real_agents_are_drained_into_the_stores(fleet: Stores, broker: RabbitMQ, tmp_path: Path) -> None:
    stores = dataclasses.replace(fleet, message_queue=broker)
    with agent(broker, tmp_path / "first", "telegraf", "lap-2", f"metrics.telegraf.{ORG}"):
        time.sleep(3)
    broker.declare()  # Telegraf has declared the exchange, and declared it as we do
    before = psutil.net_io_counters(pernic=True)
    with ExitStack() as agents:
        for name, program, host, routing_key in (
            ("a", "telegraf", "lap-2", f"metrics.telegraf.{ORG}"),
            ("b", "telegraf", "new", f"metrics.telegraf.{ORG}"),
            ("c", "collectd", "lap-1", f"metrics.collectd.{OTHER_ORG}"),
        ):
            agents.enter_context(agent(broker, tmp_path / name, program, host, routing_key))
        time.sleep(7)
    after = psutil.net_io_counters(pernic=True)
    assert eventually(lambda: broker.depth(QUEUE).ready > 60)

    messages = waiting(broker)
    registry, now = load_sender_registry(stores.postgres), datetime.now(UTC)
    decoded = [decode(message, registry, Period.at(now)) for message in messages]
    check_readings(decoded, SECOND_DEVICE)
    check_readings(decoded, OTHER_DEVICE)
    assert check_counters(decoded, SECOND_DEVICE, before, after)
    others = {name for name in before if not is_left_out(name)}
    assert check_counters(decoded, OTHER_DEVICE, before, after) == others
    assert {rejection.reason for one in decoded for rejection in one.rejections} == {"unknown_host"}
    assert {one.organization_id for one in decoded if not one.rejections and one.points} == {ORG, OTHER_ORG}

    summary = make_drain(stores).run(idle_seconds=0.5)
    ledger = stores.clickhouse.rows(
        "SELECT outcome, count() AS n, sum(points) AS points FROM message_ledger GROUP BY 1"
    )
    of_new = [one for one in decoded if one.rejections]
    understood = sum(1 for one in decoded if one.points and not one.rejections)
    assert {row["outcome"]: row["n"] for row in ledger} == {
        "written": understood,
        "not_understood": len(messages) - understood - len(of_new),
        "quarantined": len(of_new),
    }
    assert summary.points == summary.points_written + summary.points_quarantined == sum(one.points for one in decoded)
    assert broker.depth(QUEUE).outstanding == 0
    for device in (SECOND_DEVICE, OTHER_DEVICE):
        stored = stores.metrics_store.read(now - timedelta(hours=1), now + timedelta(hours=1), [device])
        for field in ("cpu", "memory"):
            assert [value for value in stored[field].to_pylist() if value is not None] == column(decoded, device, field)

    with stores.postgres.transaction() as connection:
        register_device(connection, NEW_DEVICE, ORG, "new")
    replayed = replay_registered(stores.mongodb, broker, load_sender_registry(stores.postgres), datetime.now(UTC))
    assert replayed == len(of_new)
    assert make_drain(stores, run_id="run-2").run(idle_seconds=0.5).points_written == summary.points_quarantined
    stored = stores.metrics_store.read(now - timedelta(hours=1), now + timedelta(hours=1), [NEW_DEVICE])
    assert stored["memory"].drop_null().to_pylist()
    assert replay_registered(stores.mongodb, broker, load_sender_registry(stores.postgres), datetime.now(UTC)) == 0
