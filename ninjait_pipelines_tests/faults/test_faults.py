"""Faults on the real servers: afterwards every message is once in the store or in quarantine, and no sum is off."""

import time
from collections.abc import Callable

import pytest

from ninjait_pipelines_tests.faults.world import STEPS, World

pytestmark = pytest.mark.servers
MakeWorld = Callable[..., World]


def test_without_any_fault(make_world: MakeWorld) -> None:
    """What the others are measured by: the world's own figures hold."""
    make_world().verify()


def test_the_broker_is_killed_and_restarted_while_draining(make_world: MakeWorld) -> None:
    world = make_world()
    drain = world.drain(slow=0.2).began()
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
