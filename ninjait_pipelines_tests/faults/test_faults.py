"""Faults on the real servers: afterwards every message is once in the store or in quarantine, and no sum is off."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.cache.assets import device_caches
from ninjait_pipelines.keys import as_of_text
from ninjait_pipelines.settings import validate
from ninjait_pipelines_tests.faults.world import STEPS, World
from ninjait_pipelines_tests.proxy import FROM_ENGINE, TO_ENGINE, Proxy
from ninjait_pipelines_tests.resources.http_proxy import HttpProxy
from ninjait_pipelines_tests.runs import run

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
MakeWorld = Callable[..., World]


def test_without_any_fault(make_world: MakeWorld) -> None:
    """What the others are measured by: the world's own figures hold."""
    make_world().verify()


def test_the_broker_is_killed_and_restarted_while_draining(make_world: MakeWorld) -> None:
    world = make_world()
    world.remember_queues()
    drain = world.drain(slow=0.2, patience=120).began()  # a broker takes long to come back on a busy machine
    world.kill("rabbitmq")
    time.sleep(1)
    world.heal()
    assert drain.wait() == 0, "the drain reconnects and goes on"
    world.verify()


def test_influxdb_is_killed_and_restarted_while_it_is_written(make_world: MakeWorld) -> None:
    world = make_world()
    drain = world.drain(slow=0.2).began()
    world.kill("influxdb")
    time.sleep(1)
    world.heal()
    assert drain.wait() in (0, 1)
    world.verify()


@pytest.mark.parametrize("step", STEPS)
def test_the_drain_is_killed_after_each_step(make_world: MakeWorld, step: str) -> None:
    world = make_world(hours=3)
    assert world.drain(die_after=step).wait() == -9
    world.verify()


def test_two_drains_compete(make_world: MakeWorld) -> None:
    world = make_world()
    drains = [world.drain(slow=0.05), world.drain(slow=0.05)]
    assert [drain.wait() for drain in drains] == [0, 0]
    runs = world.stores.clickhouse.rows("SELECT run_id, count() AS n FROM message_deliveries FINAL GROUP BY run_id")
    assert len(runs) == 2, f"one of them took everything: {runs}"
    world.verify()


def test_one_of_two_drains_is_killed(make_world: MakeWorld) -> None:
    world = make_world()
    one, other = world.drain(slow=0.1).began(), world.drain(slow=0.1).began()
    one.kill()
    assert other.wait() == 0
    world.verify()


@pytest.mark.parametrize(("count", "direction"), [(1, FROM_ENGINE), (100_001, FROM_ENGINE), (10, TO_ENGINE)])
@pytest.mark.parametrize("name", ["RABBITMQ_URL", "INFLUXDB_URL"])
def test_a_connection_is_cut_in_the_middle_of_a_frame(
    make_world: MakeWorld, name: str, count: int, direction: str
) -> None:
    world = make_world(hours=3)
    with Proxy(world.settings[name]) as proxy:
        drain = world.drain(validate({**world.settings, name: proxy.url}), slow=0.2).began()
        proxy.cut_after(count if name == "RABBITMQ_URL" else min(count, 50), direction)
        assert drain.wait() == 0, "it connects again and goes on"
        assert proxy.cuts
    world.verify()


def test_influxdb_answers_503_for_ten_seconds(make_world: MakeWorld) -> None:
    """The drain waits as it is told, its messages stay unacknowledged, and it goes on by itself."""
    world = make_world(hours=3)
    with HttpProxy(world.settings["INFLUXDB_URL"]).running() as proxy:
        until = time.monotonic() + 10

        def busy(method: str, path: str) -> tuple[int, dict[str, str]] | None:
            writes = path.startswith("/api/v2/write") and time.monotonic() < until
            return (503, {"Retry-After": "2"}) if writes else None

        proxy.instead = busy
        began = time.monotonic()
        assert world.drain(validate({**world.settings, "INFLUXDB_URL": proxy.url})).wait() == 0
        assert time.monotonic() - began > 8
        refused = [path for _, path in proxy.requests if path.startswith("/api/v2/write")]
        assert len(refused) < 40, "it does not storm a server that asks to wait"
    world.verify()


def test_the_answers_of_influxdb_are_lost_after_it_has_written(make_world: MakeWorld) -> None:
    world = make_world(hours=3)
    with HttpProxy(world.settings["INFLUXDB_URL"]).running() as proxy:
        drain = world.drain(validate({**world.settings, "INFLUXDB_URL": proxy.url}), slow=0.1).began()
        proxy.lose_answers = 2
        assert drain.wait() == 0
    world.verify()


def test_dragonfly_is_away_during_a_drain_and_is_repaired_from_the_store(make_world: MakeWorld) -> None:
    world = make_world(hours=3)
    world.kill("dragonfly")
    assert world.drain().wait() == 0, "it is a cache: metrics go on without it"
    world.heal()
    world.verify()
    young = (datetime.now(UTC) - timedelta(minutes=14)).timestamp() * 1000
    newest: dict[str, int] = {}
    for device, moment in world.expected_points():
        newest[device] = max(newest.get(device, 0), moment)
    newest = {device: moment for device, moment in newest.items() if moment > young}
    assert newest
    run(world.stores, device_caches)
    for device, moment in newest.items():
        cached = json.loads(world.stores.dragonfly.client.get(keys.device_latest(device)) or "{}")
        assert cached["as_of"] == as_of_text(datetime.fromtimestamp(moment / 1000, UTC))


def test_mongodb_is_away_during_a_drain_and_gets_its_quarantine_afterwards(make_world: MakeWorld) -> None:
    world = make_world(hours=3)
    world.kill("mongodb")
    assert world.drain().wait() == 0, "what is bad waits in the spool"
    assert world.stores.mongodb.status().ok is False
    world.heal()
    world.verify()
