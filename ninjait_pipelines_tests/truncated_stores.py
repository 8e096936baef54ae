"""`settings` and `shared_stores` for folders of many small tests: databases of a module, emptied for each test.

A folder's conftest.py imports these fixtures. Its `settings` override those of the whole suite.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pika
import pytest

from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.influxdb.resource import ALWAYS, InfluxDB
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.settings import Settings
from ninjait_pipelines.streams import QUEUES
from ninjait_pipelines_tests import conftest
from ninjait_pipelines_tests.databases import empty_clickhouse, empty_postgres


@pytest.fixture(scope="module")
def module_stores(
    stack: dict[str, str], migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Stores]]:
    name = f"module_{os.getpid()}_{next(conftest._numbers)}"
    settings = conftest.fresh(stack, name, tmp_path_factory.mktemp("module"), like=migrated)
    try:
        with open_stores(settings) as stores:
            stores.metrics_store.declare()
            yield settings, stores
    finally:
        conftest.drop(stack, settings)


@contextmanager
def rabbitmq_channel(broker: RabbitMQ) -> Iterator[Any]:
    """A channel of a connection of its own."""
    with closing(pika.BlockingConnection(pika.URLParameters(broker.url))) as connection:
        yield connection.channel()


@pytest.fixture
def settings(module_stores: tuple[Settings, Stores]) -> Settings:
    """The settings of the module's databases."""
    return module_stores[0]


@pytest.fixture
def shared_stores(module_stores: tuple[Settings, Stores]) -> Stores:
    """The module's stores, emptied."""
    settings, stores = module_stores
    with stores.postgres.transaction() as connection:
        empty_postgres(connection)
    empty_clickhouse(stores.clickhouse)
    stores.dragonfly.client.flushdb()
    for collection in stores.mongodb.database.list_collection_names():
        stores.mongodb.database[collection].delete_many({})
    shutil.rmtree(settings["QUARANTINE_SPOOL"], ignore_errors=True)
    for key in stores.archive.list_keys(""):
        stores.archive.delete(key)
    broker, metrics = stores.message_queue, stores.metrics_store
    broker.declare()
    if isinstance(broker, RabbitMQ):
        with rabbitmq_channel(broker) as channel:
            for queue in QUEUES:
                channel.queue_purge(queue)
                channel.queue_purge(f"{queue}.dead")
    if isinstance(metrics, InfluxDB):
        for tier in Tier:
            start, stop = ALWAYS
            metrics.client.delete_api().delete(start, stop, "", metrics.bucket_of(tier), metrics.organization)
    return stores
