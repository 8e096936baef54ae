"""The checks of the caches on real stores: each damage turns its own check red."""

from typing import Any

import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.cache.caches import ASSETS, CHECKS
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, EMPTY, Fleet
from ninjait_pipelines_tests.rollup import data
from ninjait_pipelines_tests.runs import passed, run


@pytest.mark.parametrize(
    ("check", "damage"),
    [
        ("device_lists_match", lambda client: client.delete(keys.organization_devices(EMPTY))),
        (
            "device_lists_match",
            lambda client: client.copy(keys.organization_devices(BETA), keys.organization_devices(ALPHA), replace=True),
        ),
        ("summaries_match", lambda client: client.delete(keys.organization_summary(BETA))),
        ("leaderboard_is_whole", lambda client: client.zpopmin(keys.UPTIME_LEADERBOARD)),
        ("leaderboard_is_whole", lambda client: client.zincrby(keys.UPTIME_LEADERBOARD, 1, f"{ALPHA}:x")),
        ("leaderboard_is_whole", lambda client: client.zincrby(keys.UPTIME_LEADERBOARD, 1, _any_member(client))),
        ("leaderboard_is_whole", lambda client: client.delete(keys.UPTIME_LEADERBOARD_ABOUT)),
    ],
)
def test_the_checks_fail(shared_stores: Stores, fleet: Fleet, check: str, damage: Any) -> None:
    [(asset, definition)] = [pair for pair in zip(ASSETS, CHECKS, strict=True) if pair[1].check_key.name == check]
    run(shared_stores, asset)
    damage(shared_stores.dragonfly.client)
    assert not data.check(shared_stores, [asset], [definition])[check].passed


def _any_member(client: Any) -> str:
    return client.zrange(keys.UPTIME_LEADERBOARD, 0, 0)[0]


def test_a_device_registered_since_fails_the_checks_until_the_next_run(shared_stores: Stores, fleet: Fleet) -> None:
    run(shared_stores, *ASSETS)
    fleet.device(EMPTY, "first")
    found = data.check(shared_stores, ASSETS, CHECKS)
    assert [name for name, one in found.items() if not one.passed] == ["device_lists_match", "summaries_match"]
    assert all(passed(run(shared_stores, *ASSETS, *CHECKS)).values())
