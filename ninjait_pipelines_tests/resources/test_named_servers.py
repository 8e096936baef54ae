"""The contracts on the servers that the environment names (`pytest --servers`): a staging system, the compose stack.

The same suites run on private servers in rabbitmq/ and influxdb/; here nothing is killed.
"""

import functools
import os
from collections.abc import Iterator

import pytest

from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines_tests.conftest import (
    NAMED,
    drop_organization,
    drop_virtual_host,
    make_organization,
    make_virtual_host,
)
from ninjait_pipelines_tests.resources.metrics_contract import MetricsContract
from ninjait_pipelines_tests.resources.queue_contract import Broker, QueueContract
from ninjait_pipelines_tests.resources.rabbitmq.node import make

if not NAMED:
    pytest.skip("RABBITMQ_URL names no server: the contracts run on private ones only", allow_module_level=True)
pytestmark = pytest.mark.servers
NAME = f"contract_{os.getpid()}"


def not_killed() -> None:
    pytest.skip("a named server is not killed")


class TestQueue(QueueContract):
    @pytest.fixture
    def broker(self) -> Iterator[Broker]:
        yield Broker(functools.partial(make, make_virtual_host(NAMED, NAME)), not_killed)
        drop_virtual_host(NAMED, NAME)


class TestMetrics(MetricsContract):
    @pytest.fixture(scope="class")
    def token(self) -> Iterator[str]:
        yield make_organization(NAMED, NAME)
        drop_organization(NAMED, NAME)

    @pytest.fixture
    def store(self, token: str) -> Iterator[MetricsStore]:
        bucket = f"metrics_{os.urandom(4).hex()}"
        with InfluxDB(url=NAMED["INFLUXDB_URL"], token=token, organization=NAME, bucket=bucket).open() as store:
            store.declare()
            yield store
