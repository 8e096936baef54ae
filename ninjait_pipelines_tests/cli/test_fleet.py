"""`ninjait seed`, `agent` and `simulate`: what they print, ask and refuse."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from ninjait_pipelines.cli import fleet as commands
from ninjait_pipelines.local.fleet.agent import Spool
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.fleet.simulate import Window
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.samples import DEVICE, ORG
from ninjait_pipelines_tests.local.fleet.brokers import queued

NOW = datetime(2026, 5, 4, 12, 30, 45, tzinfo=UTC)
YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture
def agent(ninjait: Any) -> Iterator[Any]:
    """`ninjait agent` in this process, whose own signals come back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda *options: ninjait("agent", *options)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_seed_fills_and_asks_before_it_deletes(ninjait: Any, shared_stores: Stores) -> None:
    def organizations() -> int:
        return len(shared_stores.postgres.rows("SELECT 1 FROM organizations WHERE slug IN ('north', 'south')"))

    seeded = ninjait("seed", "--environment", "testing", "--json")
    assert seeded.exit_code == 0, seeded.output
    assert json.loads(seeded.output)["rows"]["organizations"] == organizations() == 2
    assert ninjait("seed", "--environment", "testing").output.endswith("; 0 of these rows are new\n")
    assert ninjait("seed", "--environment", "testing", "--clean", stdin=b"n\n").exit_code != 0
    assert organizations() == 2
    assert ninjait("seed", "--environment", "testing", "--clean", "--yes").exit_code == 0
    assert organizations() == 0
    assert ninjait("seed", "--environment", "production").exit_code == 2


def test_simulate_says_what_it_published(ninjait: Any, shared_stores: Stores) -> None:
    with shared_stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM devices")
    nobody = ninjait("simulate", "--hours", "1")
    assert nobody.exit_code == 1
    assert "ninjait seed" in nobody.output
    seed(shared_stores.postgres, "testing", YESTERDAY.date())
    said = ninjait("simulate", "--from", YESTERDAY.isoformat(), "--hours", "2", "--json")
    assert said.exit_code == 0, said.output
    for queue, tally in json.loads(said.output)["queues"].items():
        assert shared_stores.message_queue.depth(queue).ready == tally["messages"]
    table = ninjait("simulate", "--hours", "0.5", "--organization", "north")
    assert table.exit_code == 0
    assert "agent.metrics" in table.output
    for wrong in (["--hours", "1", "--from", "tomorrow"], ["--organization", "nowhere"], ["--from", "2199-01-01"]):
        assert ninjait("simulate", *wrong).exit_code == 1


@pytest.mark.parametrize(
    ("start", "first", "last"),
    [
        (None, "2026-05-04T11:30", "2026-05-04T12:30"),
        ("2026-05-01", "2026-05-01T00:00", "2026-05-01T01:00"),
        ("2026-05-01T02:00:00+02:00", "2026-05-01T00:00", "2026-05-01T01:00"),
        ("2026-05-04T11:30:45Z", "2026-05-04T11:30:45", "2026-05-04T12:30:45"),
    ],
)
def test_the_window_is_in_utc_and_ends_by_now(start: str | None, first: str, last: str) -> None:
    expected = Window(*(datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in (first, last)))
    assert commands._window(start, HOUR, NOW) == expected


def test_a_window_that_ends_in_the_future_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Ingest would quarantine its samples."""
    with pytest.raises(typer.Exit):
        commands._window("2026-05-04T11:30:46Z", HOUR, NOW)
    assert "the window ends at 2026-05-04 12:30 UTC, in the future" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--organization", ORG), "name this device with --device, or let --register make it one"),
        (("--organization", "north"), "--organization must be a UUID, not 'north'."),
        (("--organization", ORG, "--device", "lap-1"), "--device must be a UUID, not 'lap-1'."),
        (("--organization", "nowhere", "--register"), "no organization 'nowhere'"),
        (("--organization", ORG, "--device", DEVICE, "--relay", "host:x"), "--relay 'host:x' is not [HOST:]PORT"),
    ],
)
def test_an_agent_that_is_not_told_who_it_is_says_what_is_missing(
    agent: Any, options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    refused = agent(*options, "--once", "--spool", str(tmp_path))
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert says in refused.stderr


def test_one_reading_is_delivered(agent: Any, fleet: Stores, tmp_path: Path) -> None:
    delivered = agent("--organization", ORG, "--device", DEVICE, "--once", "--spool", str(tmp_path))
    assert delivered.exit_code == 0, delivered.output
    [message] = queued(fleet)
    body = json.loads(message.body)
    assert (body["organization_id"], body["device_id"], len(body["samples"])) == (ORG, DEVICE, 1)
    assert message.routing_key == f"metrics.{ORG}"


def test_a_spool_or_a_port_that_is_taken_is_one_line(agent: Any, tmp_path: Path) -> None:
    me = ("--organization", ORG, "--device", str(uuid.UUID(DEVICE)), "--spool", str(tmp_path))
    with Spool(tmp_path):
        taken = agent(*me, "--once")
    assert (taken.exit_code, "--spool" in taken.stderr, len(taken.stderr.splitlines())) == (1, True, 1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        refused = agent(*me, "--relay", place)
    assert refused.exit_code == 1
    assert refused.stderr == f"ninjait: nothing can be taken on {place}: Address already in use\n"


def _until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_agent_reports_until_it_is_told_to_stop(shared_stores: Stores, settings: Settings, tmp_path: Path) -> None:
    seed(shared_stores.postgres, "testing", date(2026, 5, 20))
    command = [sys.executable, "-m", "ninjait_pipelines.cli", "agent", "--organization", "north", "--register"]
    command += ["--interval", "1", "--spool", str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True)
    _until(lambda: shared_stores.message_queue.depth("agent.metrics").ready >= 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    statuses = [json.loads(message.body)["status"] for message in queued(shared_stores, "agent.heartbeats")]
    assert statuses == ["online", "offline"]
    metrics = [json.loads(message.body)["samples"][0]["timestamp"] for message in queued(shared_stores)]
    assert metrics == sorted(set(metrics))
