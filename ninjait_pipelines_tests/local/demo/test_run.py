"""The whole graph on RabbitMQ, InfluxDB and S3: the demo, twice, every figure held against another store's."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from ninjait_pipelines.local.demo.report import Report
from ninjait_pipelines.local.demo.run import run
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import Settings

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


def test_the_whole_graph_and_again(
    on_servers: bool, settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert on_servers, "on the local stack from wheels this is `make demo`; here: pytest --servers"
    for name, value in {**settings, "DAGSTER_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    stores.metrics_store.declare()
    seed(stores.postgres, "demo", datetime.now(UTC).date())
    for _ in range(2):
        console = Console(file=io.StringIO(), width=200)
        report = Report(console, stores, run(console, stores, {}))
        assert report.show(), report.wrong
        assert report.checks > 20
    carried = console.file.getvalue()  # type: ignore[attr-defined]
    for engine in ("RabbitMQ", "InfluxDB", "s3://"):
        assert engine in carried
