"""Drains without Dragonfly, and refreshes without a store: they go on, and what was missing is repaired afterwards."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.cache import assets
from ninjait_pipelines.cache.assets import device_caches
from ninjait_pipelines.ingest.drain import DrainSummary
from ninjait_pipelines.ingest.sinks import MetricsSink
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import LOG, idle_seconds, make_drain, metrics_url
from ninjait_pipelines_tests.ingest.deaths import (
    empty,
    proxied,
)
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
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
from ninjait_pipelines_tests.resources.dragonfly_server import Server
from ninjait_pipelines_tests.runs import changed, run

# Samples are as old as the suite, which may run for longer than the quarter of an hour that the caches look back on.
LOOK_BACK = {"device_caches": {"latest_minutes": 180}}
AT_ONCE = pytest.mark.usefixtures("retries_at_once")


def drained(stores: Stores, long_bodies: bool = False, **changes: Any) -> DrainSummary:
    """A drain, which waits for RabbitMQ to send bodies of many megabytes if there are some."""
    waited = 2.0 if long_bodies else idle_seconds(stores)
    return make_drain(stores, clock=lambda: NOW, **changes).run(idle_seconds=waited)


@contextmanager
def mute() -> Iterator[tuple[str, list[Any]]]:
    """(URL of a server that accepts connections and never says a word, those that it accepted)."""
    accepted: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    accepted.append(server.accept())
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://:x@127.0.0.1:{server.getsockname()[1]}/0", accepted
        server.shutdown(socket.SHUT_RDWR)


def cached_in(fleet: Stores, dragonfly: Dragonfly) -> MetricsSink:
    return MetricsSink(fleet.metrics_store, dragonfly, fleet.clickhouse, LOG)


@AT_ONCE
def test_a_dragonfly_that_hangs_costs_one_time_out_a_drain_and_then_one_try_a_pause(fleet: Stores) -> None:
    bodies = [outgoing("agent.metrics", metrics(sample(n))) for n in range(1, 101)]
    fleet.message_queue.publish(bodies)
    with mute() as (url, accepted), Dragonfly(url=url, timeout_seconds=1).open() as dragonfly:
        sink = cached_in(fleet, dragonfly)
        started = time.monotonic()
        assert drained(fleet, batch_messages=10, sink=sink).messages == 100
        assert 1 <= time.monotonic() - started < 4
        assert len(accepted) == 1
        fleet.message_queue.publish(bodies[:30])
        drained(fleet, batch_messages=10, sink=sink)
        assert len(accepted) == 1
        dragonfly._breaker.reset_timeout = 0
        fleet.message_queue.publish(bodies[:10])
        drained(fleet, batch_messages=10, sink=sink)
        assert len(accepted) == 2
    assert fleet.clickhouse.scalar("SELECT count() FROM message_ledger") == 140


@AT_ONCE
def test_the_breaker_closes_once_the_store_answers(fleet: Stores, tmp_path: Path) -> None:
    server = Server(tmp_path / "dragonfly")
    with Dragonfly(url=server.url, timeout_seconds=1).open() as dragonfly:
        dragonfly._breaker.reset_timeout = 0.2
        server.stop()
        with pytest.raises(StoreUnavailable), dragonfly.optional():
            dragonfly.set_many_if_newer([("key", {"as_of": "1"})])
        with pytest.raises(StoreUnavailable, match="is not asked until then"), dragonfly.optional():
            pytest.fail("the store was asked")
        server.start()
        time.sleep(0.25)
        for as_of in ("1", "2"):
            with dragonfly.optional():
                assert dragonfly.set_many_if_newer([("key", {"as_of": as_of})]) == 1
        with pytest.raises(ZeroDivisionError), dragonfly.optional():
            raise ZeroDivisionError
        with dragonfly.optional():  # our own bug said nothing about the store
            assert dragonfly.client.ping()
    server.stop()


def latest(dragonfly: Dragonfly) -> dict[str, Any]:
    found = sorted(dragonfly.client.scan_iter("device:*"))
    return {key: dragonfly.client.get(key) for key in found}


@AT_ONCE
def test_a_dragonfly_that_died_during_a_drain_is_repaired_from_the_store(fleet: Stores, tmp_path: Path) -> None:
    """It dies after the second of four batches, comes back empty, and has afterwards what it would have had."""
    devices = (DEVICE, SECOND_DEVICE)
    bodies = [metrics(sample(60 - n, cpu=n, memory=n * 1.5), device_id=devices[n % 2]) for n in range(20)]
    fleet.message_queue.publish([outgoing("agent.metrics", body) for body in bodies])
    server = Server(tmp_path / "dragonfly")
    try:
        with Dragonfly(url=server.url, timeout_seconds=1).open() as dragonfly:
            batches = iter(range(1, 100))

            class Dying(MetricsSink):
                def write(self, *arguments: Any) -> Any:
                    record = super().write(*arguments)
                    if next(batches) == 2:
                        server.stop()
                    return record

            sink = Dying(fleet.metrics_store, dragonfly, fleet.clickhouse, LOG)
            assert drained(fleet, batch_messages=5, sink=sink).points_written == 20
            (tmp_path / "dragonfly" / "appendonly.aof").unlink()
            server.start()
            assert latest(dragonfly) == {}
            dragonfly.set_if_newer(newer := keys.device_latest("another"), {"as_of": "9", "kept": True})
            result = run(replace(fleet, dragonfly=dragonfly), device_caches, config=LOOK_BACK)
            repaired = latest(dragonfly)
        (event,) = result.asset_materializations_for_node("device_caches")
        assert event.metadata["latest_written"].value == 2
        assert json.loads(repaired.pop(newer))["kept"]
    finally:
        server.stop()
    empty(fleet)
    fleet.message_queue.publish([outgoing("agent.metrics", body) for body in bodies])
    drained(fleet, batch_messages=5)
    assert repaired == latest(fleet.dragonfly)
    assert [json.loads(text)["cpu"] for text in repaired.values()] in ([18, 19], [19, 18])


@AT_ONCE
def test_the_repair_keeps_newer_values_and_joins_readings_that_came_apart(fleet: Stores) -> None:
    """Of an agent that sends each field by itself the cache has what the whole reading says."""
    fleet.message_queue.publish(
        [
            outgoing("agent.metrics", metrics(sample(30, cpu=5))),
            outgoing(
                "agent.metrics", metrics({"timestamp": sample(90)["timestamp"], "cpu": 7}, device_id=SECOND_DEVICE)
            ),
            outgoing(
                "agent.metrics", metrics({"timestamp": sample(80)["timestamp"], "memory": 9}, device_id=SECOND_DEVICE)
            ),
        ]
    )
    drained(fleet)
    newer = json.loads(str(fleet.dragonfly.client.get(keys.device_latest(DEVICE)))) | {"cpu": 99.0}
    newer["as_of"] = (NOW + timedelta(minutes=1)).isoformat(timespec="microseconds")
    fleet.dragonfly.set_if_newer(keys.device_latest(DEVICE), newer)
    run(fleet, device_caches, config=LOOK_BACK)
    first, second = (
        json.loads(str(fleet.dragonfly.client.get(keys.device_latest(one)))) for one in (DEVICE, SECOND_DEVICE)
    )
    assert first == newer
    assert (second["cpu"], second["memory"], second["uptime"]) == (7, 9, None)
    assert second["as_of"] == (NOW - timedelta(seconds=80)).isoformat(timespec="microseconds")


def asked(stores: Stores) -> tuple[Stores, list[list[str]]]:
    """The stores, and the devices that the metrics store is asked for, query by query."""
    queries: list[list[str]] = []
    latest_ = type(stores.metrics_store).latest

    def latest(self: Any, start: Any, stop: Any, device_ids: Any = ()) -> Any:
        queries.append(list(device_ids))
        return latest_(self, start, stop, device_ids)

    return replace(stores, metrics_store=changed(stores.metrics_store, latest=latest)), queries


@AT_ONCE
@pytest.mark.parametrize("pieces", [("network_in", "memory"), ("memory", "network_in"), ("uptime", "cpu")])
def test_only_devices_that_lack_something_are_asked_for(fleet: Stores, pieces: tuple[str, str]) -> None:
    """The pieces of one reading, in two messages: the later one replaces the other in the cache."""
    whole = metrics(sample(30, cpu=5))
    parts = [metrics({"timestamp": sample(40)["timestamp"], name: 7}, device_id=SECOND_DEVICE) for name in pieces]
    for body in (whole, *parts):
        fleet.message_queue.publish([outgoing("agent.metrics", body)])
        drained(fleet)
    watched, queries = asked(fleet)
    for _ in range(2):
        run(watched, device_caches, config=LOOK_BACK)
        found = json.loads(str(fleet.dragonfly.client.get(keys.device_latest(SECOND_DEVICE))))
        assert [found[name] for name in pieces] == [7, 7]
    assert queries == [[SECOND_DEVICE]], "not once it is whole"
    fleet.dragonfly.client.delete(keys.device_latest(DEVICE))
    run(watched, device_caches, config=LOOK_BACK)
    assert queries[1:] == [[DEVICE]]
    assert json.loads(str(fleet.dragonfly.client.get(keys.device_latest(DEVICE))))["cpu"] == 5


@AT_ONCE
def test_of_very_many_devices_all_are_read_at_once(fleet: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "DEVICES_AT_ONCE", 1)
    devices = (DEVICE, SECOND_DEVICE)
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(30), device_id=one)) for one in devices])
    drained(fleet)
    watched, queries = asked(fleet)
    for limit, expected in ((2, [[DEVICE], [SECOND_DEVICE]]), (1, [[]])):
        monkeypatch.setattr(assets, "MAX_ASKED", limit)
        fleet.dragonfly.client.flushdb()
        queries.clear()
        run(watched, device_caches, config=LOOK_BACK)
        assert sorted(queries) == sorted(expected)
        assert fleet.dragonfly.client.exists(*map(keys.device_latest, devices)) == 2


@AT_ONCE
def test_device_lists_are_written_without_the_metrics_store(fleet: Stores, settings: Settings) -> None:
    with proxied(settings, metrics_url(settings)) as (through, proxy), open_stores(through) as cut_off:
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            cut_off.metrics_store.read(NOW - timedelta(hours=1), NOW)
        run(replace(fleet, metrics_store=cut_off.metrics_store), device_caches, config=LOOK_BACK)
    assert fleet.dragonfly.client.exists(*fleet.dragonfly.client.keys("api:devices:*")) == 2


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
        run(fleet, device_caches, config=LOOK_BACK)
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

        def latest(self, start: Any, stop: Any, device_ids: Any = ()) -> Any:
            return read_before

    with Behind(**store.model_dump()).open() as behind:
        run(replace(fleet, metrics_store=behind), device_caches, config=LOOK_BACK)
    (key,) = fleet.dragonfly.client.keys("device:*")
    assert json.loads(str(fleet.dragonfly.client.get(key)))["cpu"] == 2
