"""`settings` and `stores` for folders of many small tests: databases migrated once a module, emptied for each test.

A folder's conftest.py imports these fixtures; they stand before those of the whole suite.
"""

import os
from collections.abc import Iterator

import pytest
from influxdb_client import InfluxDBClient

from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.metrics_store import Tier
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests import conftest


@pytest.fixture(scope="module")
def module_stores(stack: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Stores]]:
    name = f"module_{os.getpid()}_{next(conftest._numbers)}"
    settings = conftest.fresh(stack, name, tmp_path_factory.mktemp("module"))
    try:
        with open_stores(settings) as stores:
            migrate_up(stores.postgres, stores.clickhouse)
            stores.message_queue.declare()
            stores.metrics_store.declare()
            yield settings, stores
    finally:
        conftest.drop(stack, settings)


@pytest.fixture
def settings(module_stores: tuple[Settings, Stores]) -> Settings:
    """The settings of the module's databases."""
    return module_stores[0]


@pytest.fixture
def stores(module_stores: tuple[Settings, Stores]) -> Stores:
    """The module's stores, emptied."""
    settings, stores = module_stores
    with stores.postgres.transaction() as connection:
        connection.execute("TRUNCATE organizations, price_plans CASCADE")
    tables = "SELECT name FROM system.tables WHERE database = currentDatabase() AND total_rows > 0"
    for row in stores.clickhouse.rows(f"{tables} AND engine LIKE '%MergeTree' AND name NOT LIKE '%migrations%'"):
        stores.clickhouse.command(f"TRUNCATE TABLE {row['name']}")
    stores.dragonfly.client.flushdb()
    stores.mongodb.database.alerts.delete_many({})
    for key in stores.archive.list_keys(""):
        stores.archive.delete(key)
    if "INFLUXDB_URL" in settings:
        with InfluxDBClient(settings["INFLUXDB_URL"], settings["INFLUXDB_TOKEN"], settings["INFLUXDB_ORG"]) as client:
            for tier in Tier:
                client.delete_api().delete("1970-01-01T00:00:00Z", "2200-01-01T00:00:00Z", "", bucket=tier)
    return stores
