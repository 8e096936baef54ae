"""Optional stores that hang, go at the worst moment, or come back: what a drain costs then, and what is there after."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.cache.assets import device_caches
from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.ingest.drain import DrainSummary
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import make_drain
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    SECOND_DEVICE,
    as_published,
    line,
    metrics,
    outgoing,
    sample,
    telegraf,
)
from ninjait_pipelines_tests.ingest.test_drain_dies import impatient
from ninjait_pipelines_tests.proxy import Proxy
from ninjait_pipelines_tests.runs import run


def drained(stores: Stores, **changes: Any) -> DrainSummary:
    return make_drain(stores, clock=lambda: NOW, **changes).run(idle_seconds=0.05)


@contextmanager
def through_proxy(settings: Settings) -> Iterator[tuple[Stores, Proxy]]:
    """The stores, with a proxy before MongoDB."""
    with Proxy(settings["MONGODB_URL"]) as proxy:
        through = Settings(settings | {"MONGODB_URL": proxy.url})
        with open_stores(through) as stores:
            yield impatient(stores), proxy


def outcomes(stores: Stores) -> list[tuple[str, int]]:
    rows = stores.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome ORDER BY outcome")
    return [(row["outcome"], row["n"]) for row in rows]


def test_a_mongodb_that_stops_answering_costs_one_time_out_a_drain(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay open and say nothing: not refused, so only a time-out tells."""
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 10)
    with through_proxy(settings) as (stores, proxy):
        stores.mongodb.database["quarantine"].find_one({})
        proxy.pause()
        fleet.message_queue.publish([outgoing("agent.metrics", b"x" * n) for n in range(1, 101)])
        started = time.monotonic()
        assert drained(stores).messages == 100
        assert time.monotonic() - started < 8  # one time-out of an answer is 3 seconds here
        proxy.resume()
    assert Spool(fleet.mongodb).waiting()[0] == 100
    assert drained(fleet).messages == 0
    assert fleet.mongodb.database["quarantine"].count_documents({}) == 100


def test_mongodb_that_hangs_in_the_middle_of_a_drain(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was given last it may have taken, though it never said so: that is held once all the same."""
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 10)
    fleet.message_queue.publish([outgoing("agent.metrics", b"x" * n) for n in range(1, 51)])
    with through_proxy(settings) as (stores, proxy):
        inserts = iter(range(100))

        class HangsAtTheThirdBatch(MongoDB):
            def insert_new(self, collection: str, documents: Any) -> None:
                if documents and next(inserts) == 2:
                    proxy.pause()
                super().insert_new(collection, documents)

        started = time.monotonic()
        assert drained(stores, mongodb=HangsAtTheThirdBatch(**stores.mongodb.model_dump())).messages == 50
        assert time.monotonic() - started < 15
        proxy.resume()  # the request that was given up reaches MongoDB now
        assert Spool(fleet.mongodb).waiting()[0] == 30
        drained(fleet)
        time.sleep(0.2)
    assert fleet.mongodb.database["quarantine"].count_documents({}) == 50
    assert outcomes(fleet) == [("quarantined", 50)]


def test_mongodb_goes_between_the_quarantine_and_the_ledger(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was held before it went is not spooled as well, and what comes after is."""
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 1)
    fleet.message_queue.publish([outgoing("agent.metrics", b"one"), outgoing("agent.metrics", b"two")])
    with through_proxy(settings) as (stores, proxy):

        class MongoDBGoesBeforeTheLedger(ClickHouse):
            def insert(self, table: str, *arguments: Any, **options: Any) -> Any:
                if table == "message_deliveries":
                    proxy.refuse()
                return super().insert(table, *arguments, **options)

        with MongoDBGoesBeforeTheLedger(**stores.clickhouse.model_dump()).open() as clickhouse:
            assert drained(stores, clickhouse=clickhouse).messages_quarantined == 2
    assert fleet.mongodb.database["quarantine"].count_documents({}) == 1
    assert Spool(fleet.mongodb).waiting()[0] == 1
    assert outcomes(fleet) == [("quarantined", 2)]


def test_a_spool_that_cannot_be_used_matters_only_while_mongodb_is_away(fleet: Stores, settings: Settings) -> None:
    folder = Spool(fleet.mongodb).folder
    folder.parent.mkdir(parents=True)
    folder.touch()  # a file where the folder should be
    fleet.message_queue.publish([outgoing("agent.metrics", b"bad"), outgoing("agent.metrics", metrics(sample()))])
    assert drained(fleet).messages_quarantined == 1
    with through_proxy(settings) as (stores, proxy):
        proxy.refuse()
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            drained(stores)
        (status,) = check_all({"mongodb": stores.mongodb})
    assert (status.ok, status.optional, status.spooled_copies) == (False, True, None)
    assert "Not a directory" in status.note


def test_threads_that_share_a_store_pay_for_one_time_out_together() -> None:
    """Of those that wait already each pays its own; whoever comes after them asks no more."""
    dead = Dragonfly(url="redis://127.0.0.1:1/0")
    reached: list[int] = []

    def ask() -> None:
        try:
            with dead.optional():
                reached.append(1)
                raise StoreUnavailable(dead.title, dead.url, "no answer", "")
        except StoreUnavailable:
            return

    counts = []
    for _ in range(2):
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts.append(len(reached))
    assert 1 <= counts[0] == counts[1] <= 8


def test_what_telegraf_s_hosts_last_said_reaches_the_cache(fleet: Stores) -> None:
    """Their readings come in pieces, so no drain knows a whole one: the refresh puts them together."""
    pieces = [
        telegraf(line("cpu", "usage_idle=90", 40, cpu="cpu-total"), organization=ORG),
        telegraf(line("mem", f"used={2**20}i", 40), line("net", "bytes_recv=5i", 40, interface="eth0")),
        telegraf(line("disk", f"used={2**21}i", 70, path="/"), organization=ORG),
        telegraf(line("mem", f"used={2**22}i", 20 * 60)),
    ]
    fleet.message_queue.publish([as_published(one) for one in pieces])
    drained(fleet)
    key = keys.device_latest(SECOND_DEVICE)
    assert fleet.dragonfly.client.get(key) is None
    for _ in range(2):
        run(fleet, device_caches)
        found = json.loads(str(fleet.dragonfly.client.get(key)))
        assert found == {
            "organization_id": ORG,
            "device_id": SECOND_DEVICE,
            "as_of": (NOW - timedelta(seconds=40)).isoformat(timespec="microseconds"),
            "cpu": 10.0,
            "memory": 1.0,
            "disk_used": 2.0,
            "network_in": None,
            "network_out": None,
            "uptime": None,
            "memory_total": None,
            "disk_total": None,
            "disk_free": None,
        }
    listed = json.loads(str(fleet.dragonfly.client.get(keys.organization_devices(ORG))))  # type: ignore[arg-type]
    [device] = [one for one in listed["devices"] if one["device_id"] == SECOND_DEVICE]
    assert device["readings"]["cpu"] == 10.0


def test_a_refresh_that_read_before_a_drain_wrote_takes_nothing_away(fleet: Stores) -> None:
    """The store was read, then a drain cached a newer sample, then the refresh wrote what it had read."""
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(60, cpu=1)))])
    drained(fleet)
    store = fleet.metrics_store
    read_before = store.latest(NOW - timedelta(minutes=15), NOW + timedelta(minutes=5))
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(30, cpu=2)))])
    drained(fleet)

    class Behind(type(store)):  # type: ignore[misc]
        """The same store, as it was."""

        def latest(self, start: Any, stop: Any) -> Any:
            return read_before

    with Behind(**store.model_dump()).open() as behind:
        run(replace(fleet, metrics_store=behind), device_caches)
    (key,) = fleet.dragonfly.client.keys("device:*")
    assert json.loads(str(fleet.dragonfly.client.get(key)))["cpu"] == 2
