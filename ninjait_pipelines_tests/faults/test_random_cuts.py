"""A hundred worlds with faults at random, each from a seed: `make test-faults`, or `-k seed17` for one of them."""

import random
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from ninjait_pipelines.settings import validate
from ninjait_pipelines_tests.faults.world import STEPS, World
from ninjait_pipelines_tests.proxy import FROM_ENGINE, TO_ENGINE, Proxy

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
PROXIED = ("RABBITMQ_URL", "INFLUXDB_URL", "CLICKHOUSE_URL", "DRAGONFLY_URL", "MONGODB_URL")


@pytest.mark.parametrize("seed", range(100), ids=lambda seed: f"seed{seed}")
def test_random_cuts(make_world: Callable[..., World], seed: int) -> None:
    """Two drains compete, one of which dies at some step in half of the worlds; meanwhile one to three connections are
    cut somewhere in a frame. In every tenth world an engine is killed too."""
    chance = random.Random(seed)
    world = make_world(random_seed=seed, hours=2)
    engine = chance.choice(["rabbitmq", "influxdb", "clickhouse", "dragonfly", "mongodb"]) if seed % 10 == 0 else None
    if engine == "rabbitmq":
        world.remember_queues()
    with ExitStack() as opened:
        proxies = {name: opened.enter_context(Proxy(world.settings[name])) for name in PROXIED}
        through = validate({**world.settings, **{name: proxy.url for name, proxy in proxies.items()}})
        dies = chance.choice([None, chance.choice(list(STEPS))])
        drains = [world.drain(through, slow=0.02), world.drain(through, slow=0.02, die_after=dies)]
        for _ in range(chance.randint(1, 3)):
            time.sleep(chance.uniform(0, 1))
            proxy = proxies[chance.choice(PROXIED)]
            proxy.cut_after(chance.randrange(1, 60_000), chance.choice([TO_ENGINE, FROM_ENGINE]))
        if engine:
            world.kill(engine)
            time.sleep(chance.uniform(0, 1))
            world.heal()
        codes = [drain.wait() for drain in drains]
        assert set(codes) <= {0, 1, -9}, codes
    world.verify()
