"""`ninjait status`: what is down, away or never was up, and what to do about it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ninjait_pipelines.cli import app
from ninjait_pipelines.cli import status as status_command
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import REQUIRED, Settings
from ninjait_pipelines_tests.cli.forked import in_a_pipe


def test_status_names_what_is_down_and_what_brings_it_up(settings: Settings) -> None:
    up = in_a_pipe("status", "--json", env=settings)
    assert (up.returncode, {store["ok"] for store in json.loads(up.stdout)}) == (0, {True})
    assert all(store["version"] for store in json.loads(up.stdout))
    down = in_a_pipe("status", "--seconds", "4", env={**settings, "CLICKHOUSE_URL": "http://127.0.0.1:1"})
    assert down.returncode == 1
    names = "ClickHouse" if "INFLUXDB_URL" in settings else "Metrics store (ClickHouse), ClickHouse"
    assert f"down: {names}. The local stack comes up with: ninjait up" in down.stderr
    assert settings["CLICKHOUSE_PASSWORD"] not in down.stdout + down.stderr
    assert "Unexpected Http Driver Exception" not in down.stderr  # the client's own, placeless words


def test_status_says_what_an_optional_store_that_is_away_means(
    ninjait: Any, fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spool(fleet.mongodb).put([{"_id": f"queue/{n}", "body": b"bad", "summary": "[]"} for n in (1, 2)], "run")
    waiting = ninjait("status")
    assert (waiting.exit_code, "2 messages wait there" in waiting.stderr) == (0, True)
    monkeypatch.setenv("MONGODB_URL", re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", settings["MONGODB_URL"]))
    away = ninjait("status", "--seconds", "1")
    assert away.exit_code == 1
    (line,) = [line for line in away.stdout.splitlines() if line.startswith("MongoDB")]
    assert line.split()[1] == "away"
    assert "Quarantine goes to the spool" in away.stderr
    found = {one["store"]: one for one in json.loads(ninjait("status", "--seconds", "1", "--json").stdout)}
    mongodb, optional = found["MongoDB"], {name for name, one in found.items() if one["optional"]}
    assert optional == {"MongoDB"} | ({"Dragonfly"} if "RABBITMQ_URL" in settings else set())
    assert mongodb["spooled_messages"] == 2
    assert mongodb["spooled_bytes"] > 20


def test_status_of_a_stack_that_was_never_started_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in REQUIRED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(status_command, "LOCAL_STACK", tmp_path)
    result = CliRunner().invoke(app, ["status"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["ninjait: the local stack was never started; start it with: ninjait up"]


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_are_for_people(count: int | None, text: str) -> None:
    assert status_command.size(count) == text
