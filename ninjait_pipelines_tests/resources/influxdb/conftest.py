"""Fixtures of the InfluxDB tests: one server, and buckets per test."""

from collections.abc import Iterator

import pytest

from ninjait_pipelines.local.stack import servers
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines_tests.local.stack.standalone_engine import alone
from ninjait_pipelines_tests.resources.http_proxy import HttpProxy
from ninjait_pipelines_tests.resources.influxdb.helpers import GIVEN, SETTINGS, opened


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """url, token and organization of a real server: the given one, or one of our own."""
    if GIVEN["url"]:
        yield GIVEN
        return
    with alone(servers.InfluxDB, tmp_path_factory.mktemp("influxdb") / "influxdb") as engine:
        yield {name: engine.settings[setting] for name, setting in SETTINGS.items()}


@pytest.fixture
def store(server: dict[str, str]) -> Iterator[InfluxDB]:
    with opened(server) as store:
        yield store


@pytest.fixture
def proxy(server: dict[str, str]) -> Iterator[HttpProxy]:
    with HttpProxy(server["url"]).running() as proxy:
        yield proxy
