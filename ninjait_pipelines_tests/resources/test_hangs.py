"""A store that hangs: stopped, on a disk that does not answer, behind a cable that was drawn. Nobody waits for ever."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from ninjait_pipelines.resources import stores_from
from ninjait_pipelines.resources.archive import bucket
from ninjait_pipelines.resources.archive import resource as archive
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreUnavailable, retrying
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.proxy import Proxy
from ninjait_pipelines_tests.resources.store_helpers import use
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["module_stores", "settings", "shared_stores"]

pytestmark = pytest.mark.usefixtures("retries_at_once")
# Dagster gives a sensor's tick 60 seconds.
SENSOR_SECONDS = 60
SHORT = {
    "timeout_seconds": 1,
    "connect_timeout_seconds": 1,
    "answer_timeout_seconds": 1,
    "max_wait_seconds": 1,
    "statement_timeout_seconds": 30,
}
VARIABLES = {
    "dragonfly": "DRAGONFLY_URL",
    "clickhouse": "CLICKHOUSE_URL",
    "postgres": "DATABASE_URL",
    "mongodb": "MONGODB_URL",
}


def variable(settings: Settings, name: str) -> str:
    if name == "message_queue":
        return "RABBITMQ_URL" if "RABBITMQ_URL" in settings else "DRAGONFLY_URL"
    if name == "metrics_store":
        return "INFLUXDB_URL" if "INFLUXDB_URL" in settings else "CLICKHOUSE_URL"
    return VARIABLES[name]


def use_it(store: Any) -> None:
    if isinstance(store, MessageQueue):
        store.declare()
    elif isinstance(store, InfluxDB):
        store.probe()
    else:
        use(store)


@contextmanager
def through_a_proxy(settings: Settings, name: str, **fields: Any) -> Iterator[tuple[Any, Proxy]]:
    setting = variable(settings, name)
    with Proxy(settings[setting]) as proxy:
        store = getattr(stores_from({**settings, setting: proxy.url}.__getitem__, settings), name)
        short = {field: value for field, value in (SHORT | fields).items() if field in type(store).model_fields}
        with store.model_copy(update=short).open() as opened:
            yield opened, proxy


@pytest.mark.parametrize("name", ["message_queue", "metrics_store", *VARIABLES])
def test_a_store_that_falls_silent_under_way_is_given_up(settings: Settings, shared_stores: Any, name: str) -> None:
    """PostgreSQL was stopped (SIGSTOP), and a drain waited for it without end: its server could keep no time-out of its
    own, and its machine acknowledged every packet."""
    shared_stores.metrics_store.declare()
    with through_a_proxy(settings, name) as (store, proxy):
        use_it(store)
        proxy.pause()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            use_it(store)
        assert time.monotonic() - began < 30
        proxy.resume()
        use_it(store)


def test_nothing_waits_longer_than_a_sensor_may(settings: Settings) -> None:
    """Connecting and one answer; no try is begun 30 seconds after the first one."""
    for store in stores_from(settings.__getitem__, settings).all().values():
        bounds = {name: getattr(store, name) for name in type(store).model_fields if "timeout_seconds" in name}
        assert bounds
        assert sum(bounds.get(name, 0) for name in ("connect_timeout_seconds", "timeout_seconds")) < SENSOR_SECONDS
        assert max(bounds.values()) < SENSOR_SECONDS - 10


@pytest.mark.parametrize(
    ("use", "requests"),
    [
        (Archive._ping, 1),
        (lambda one: one.read("k"), 1),
        (lambda one: one.write("k", b"1"), 1),
        (lambda one: one.scan(["k"]), 2),
    ],
    ids=["ping", "read", "write", "scan"],
)
def test_s3_that_is_silent_is_asked_as_often_as_we_say(
    monkeypatch: pytest.MonkeyPatch, use: Any, requests: int
) -> None:
    """boto3 and Arrow each waited three times for one answer: with 30 seconds each, a run's step hung for minutes."""
    once = partial(retrying, attempts=1)
    for module in (archive, bucket):
        monkeypatch.setattr(module, "retrying", once)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        keys = {"access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}
        with Archive(url="s3://b/p", endpoint_url=address, timeout_seconds=1, **keys).open() as store:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                use(store)
            assert time.monotonic() - began < requests + 1.7


@pytest.fixture
def postgres(settings: Settings) -> Iterator[Postgres]:
    with Postgres(url=settings["DATABASE_URL"], answer_timeout_seconds=1).open() as store:
        yield store


def test_a_backend_that_is_stopped_is_given_up_in_a_query_and_in_a_transaction(postgres: Postgres) -> None:
    pid = postgres.rows("SELECT pg_backend_pid() AS pid")[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        assert postgres.rows("SELECT 1 AS one") == [{"one": 1}], "another connection is tried"
    finally:
        os.kill(pid, signal.SIGCONT)

    def change_while_it_is_stopped() -> None:
        with postgres.transaction() as connection:
            (pid,) = connection.execute("SELECT pg_backend_pid() AS pid").fetchall()
            os.kill(pid["pid"], signal.SIGSTOP)
            try:
                connection.execute("CREATE TABLE half (x int)")
            finally:
                os.kill(pid["pid"], signal.SIGCONT)

    with pytest.raises(StoreUnavailable, match="no answer within 1 second"):
        change_while_it_is_stopped()
    assert postgres.rows("SELECT to_regclass('half') AS found") == [{"found": None}]


def test_a_lock_is_not_waited_for_without_end(postgres: Postgres) -> None:
    impatient = postgres.model_copy(update={"lock_timeout_seconds": 1, "answer_timeout_seconds": 20})

    def wait_for_it() -> None:
        with impatient.open(), impatient.transaction() as waiting:
            waiting.execute("SELECT * FROM organizations")

    with postgres.transaction() as connection:
        connection.execute("LOCK TABLE organizations")
        with pytest.raises(StoreUnavailable, match="lock timeout"):
            wait_for_it()
