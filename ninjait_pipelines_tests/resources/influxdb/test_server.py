"""What is sent over a network is compressed; on one machine that would only take CPU time."""

from datetime import UTC, datetime

import pytest

from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.influxdb.server import Server
from ninjait_pipelines_tests.resources.influxdb.helpers import sample
from ninjait_pipelines_tests.resources.metrics_contract import HOUR, points


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_the_same_machine_needs_no_compression(host: str) -> None:
    assert not server_at(host).compresses


@pytest.mark.parametrize("host", ["influxdb", "10.0.0.7", "[fd00::1]", "localhost.example.com", "192.168.127.1"])
def test_a_network_does(host: str) -> None:
    assert server_at(host).compresses


@pytest.mark.servers
@pytest.mark.parametrize("compresses", [True, False])
def test_either_way_the_server_has_every_point(store: InfluxDB, compresses: bool) -> None:
    now = datetime.now(UTC)
    store.server.compresses = compresses
    assert store.write(points([sample(now - HOUR) for _ in range(100)])) == []
    assert store.read(now - 2 * HOUR, now).num_rows == 100


def server_at(host: str) -> Server:
    return Server(f"http://{host}:8086", "token", "organization", 1, 1, None)
