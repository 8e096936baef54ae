"""What has not changed since the last run is renewed, not made again: it must be what a new one would be."""

import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from redis.commands.core import Script

from ninjait_pipelines import keys
from ninjait_pipelines.cache import assets
from ninjait_pipelines.cache.checks import left_nothing_out
from ninjait_pipelines.metrics.model import FIELDS, POINTS
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.cache.caches import ASSETS, H, cached, device, reading
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, EMPTY, HOUR, Fleet
from ninjait_pipelines_tests.runs import changed, killed, left_out, run, spoil

ORGANIZATIONS = (ALPHA, BETA, EMPTY)
LISTS = [keys.organization_devices(id_) for id_ in ORGANIZATIONS]
SUMMARIES = [keys.organization_summary(id_) for id_ in ORGANIZATIONS]


def at(stores: Stores, minutes: int) -> Stores:
    """The stores so many minutes after the next full hour: drains have long cached what they recorded."""
    start = stores.clickhouse.now().replace(minute=0, second=0, microsecond=0) + HOUR
    then: datetime = start + timedelta(minutes=minutes)
    return replace(stores, clickhouse=changed(stores.clickhouse, now=lambda _: then))


def metadata(stores: Stores, asset: Any) -> dict[str, Any]:
    name = asset.key.to_user_string()
    [event] = run(stores, asset).asset_materializations_for_node(name)
    return {key: value.value for key, value in event.metadata.items()}


def all_of(stores: Stores, names: list[str]) -> list[dict[str, Any]]:
    return [cached(stores, name) | {"as_of": ""} for name in names]


def test_an_unchanged_list_is_renewed(shared_stores: Stores, fleet: Fleet) -> None:
    first = metadata(at(shared_stores, 1), assets.device_caches)
    assert (first["written"], first["unchanged"]) == (3, 0)
    before, made = all_of(shared_stores, LISTS), cached(shared_stores, LISTS[0])["as_of"]
    for name in LISTS:
        shared_stores.dragonfly.client.expire(name, 10)
    second = metadata(at(shared_stores, 5), assets.device_caches)
    assert (second["written"], second["unchanged"], second["dagster/row_count"]) == (0, 3, 3)
    assert all_of(shared_stores, LISTS) == before
    renewed = cached(shared_stores, LISTS[0])["as_of"]
    assert datetime.fromisoformat(renewed) - datetime.fromisoformat(made) == timedelta(minutes=4)
    assert all(shared_stores.dragonfly.client.ttl(name) > 290 for name in LISTS)
    metadata(at(shared_stores, 3), assets.device_caches)
    assert cached(shared_stores, LISTS[0])["as_of"] == renewed, "an older run came later"
    assert metadata(at(shared_stores, 65), assets.device_caches)["written"] == 3, "every hour all of them"


def _expired(stores: Stores, fleet: Fleet) -> None:
    stores.dragonfly.client.delete(LISTS[1])


def _heartbeat(stores: Stores, fleet: Fleet) -> None:
    fleet.heartbeat(BETA, uuid.UUID(device(BETA, "other")), H + HOUR, "offline")


def _registered(stores: Stores, fleet: Fleet) -> None:
    fleet.device(BETA, "new")


def _renamed(stores: Stores, fleet: Fleet) -> None:
    with stores.postgres.transaction() as connection:
        connection.execute("UPDATE devices SET name = 'renamed' WHERE organization_id = %s", (BETA,))


def _retired(stores: Stores, fleet: Fleet) -> None:
    with stores.postgres.transaction() as connection:
        connection.execute("UPDATE devices SET retired_at = now() WHERE organization_id = %s", (BETA,))


def _read(stores: Stores, fleet: Fleet) -> None:
    reading(stores, BETA, uuid.UUID(device(BETA, "other")), cpu=1.0)


def _copied(stores: Stores, fleet: Fleet) -> None:
    stores.dragonfly.client.copy(LISTS[0], LISTS[1], replace=True)


@pytest.mark.parametrize("change", [_expired, _heartbeat, _registered, _renamed, _retired, _read, _copied])
def test_only_the_list_that_changed_is_made_again(shared_stores: Stores, fleet: Fleet, change: Any) -> None:
    run(at(shared_stores, 1), assets.device_caches)
    change(shared_stores, fleet)
    found = metadata(at(shared_stores, 5), assets.device_caches)
    assert (found["written"], found["unchanged"]) == (1, 2)
    after = all_of(shared_stores, LISTS)
    shared_stores.dragonfly.client.delete(*LISTS)
    run(at(shared_stores, 9), assets.device_caches)
    assert all_of(shared_stores, LISTS) == after


def test_a_list_made_while_a_drain_was_caching_is_made_again(shared_stores: Stores, fleet: Fleet) -> None:
    """The drain had recorded the reading and not cached it yet: the list would lack it until the next message."""
    now = shared_stores.clickhouse.now()
    just_now = replace(shared_stores, clickhouse=changed(shared_stores.clickhouse, now=lambda _: now))
    for _ in range(2):
        assert metadata(just_now, assets.device_caches)["written"] >= 1
        assert cached(shared_stores, LISTS[0])["revision"] == ""


def test_a_dragonfly_that_lost_its_data_has_all_of_it_after_a_run(shared_stores: Stores, fleet: Fleet) -> None:
    for asset in ASSETS:
        run(at(shared_stores, 1), asset)
    before = all_of(shared_stores, [*LISTS, *SUMMARIES])
    latest = keys.device_latest(device(ALPHA, "one"))
    value = shared_stores.dragonfly.client.get(latest)
    shared_stores.dragonfly.client.flushdb()
    shared_stores.dragonfly.client.set(latest, value)
    for asset in ASSETS:
        run(at(shared_stores, 5), asset)
    assert all_of(shared_stores, [*LISTS, *SUMMARIES]) == before
    assert shared_stores.dragonfly.client.zcard(keys.UPTIME_LEADERBOARD) == 4


def test_a_longer_look_back_repairs_lists_that_did_not_change(shared_stores: Stores, fleet: Fleet) -> None:
    """Dragonfly lost its data; a run has made the list again, without the reading of a device that is silent now."""
    silent, hour_ago = device(ALPHA, "two"), shared_stores.clickhouse.now() - HOUR
    columns = {"organization_id": [str(ALPHA)], "device_id": [silent]}
    point = {"time": [hour_ago], **{name: [None] for name in FIELDS}, "cpu": [3.0]}
    shared_stores.metrics_store.write(pa.table(columns | point).select(POINTS.names).cast(POINTS))
    moment = pa.array([hour_ago], pa.timestamp("ms", "UTC"))
    shared_stores.clickhouse.insert("device_sightings", pa.table(columns | {"last_seen": moment, "cpu_at": moment}))
    for minutes in (1, 5):
        run(at(shared_stores, minutes), assets.device_caches)
    assert cached(shared_stores, LISTS[0])["devices"][2]["readings"] is None
    run(at(shared_stores, 9), assets.device_caches, config={"device_caches": {"latest_minutes": 300}})
    assert cached(shared_stores, LISTS[0])["devices"][2]["readings"]["cpu"] == 3.0
    run(at(shared_stores, 13), assets.device_caches)
    assert cached(shared_stores, LISTS[0])["devices"][2]["readings"]["cpu"] == 3.0, "it is in the cache now"


def test_killed_after_renewing_and_again(shared_stores: Stores, fleet: Fleet) -> None:
    run(at(shared_stores, 1), assets.device_caches)
    _renamed(shared_stores, fleet)
    with killed(Script, "__call__", after=True):
        run(at(shared_stores, 5), assets.device_caches, fails=True)
    assert metadata(at(shared_stores, 5), assets.device_caches)["written"] == 1
    assert cached(shared_stores, LISTS[1])["devices"][0]["hostname"] == "renamed"


def test_every_run_names_what_it_leaves_out(shared_stores: Stores, fleet: Fleet) -> None:
    """The check reads the last run: it would turn green as soon as nothing changes."""
    spoil(shared_stores, "devices", "UPDATE devices SET created_at = 'infinity' WHERE name = 'two'")
    for minutes in (1, 5):
        result = run(at(shared_stores, minutes), *ASSETS, *left_nothing_out)
        for asset in ASSETS:
            assert device(ALPHA, "two") in left_out(result, asset.key.to_user_string()), minutes


def test_a_summary_keeps_the_figures_of_hours_that_did_not_change(shared_stores: Stores, fleet: Fleet) -> None:
    assert metadata(at(shared_stores, 1), assets.organization_summaries)["unchanged"] == 0
    before = all_of(shared_stores, SUMMARIES)
    again = metadata(at(shared_stores, 5), assets.organization_summaries)
    assert (again["written"], again["unchanged"]) == (3, 3)
    assert all_of(shared_stores, SUMMARIES) == before
    fleet.heartbeat(BETA, uuid.UUID(device(BETA, "other")), H + HOUR, "offline")
    assert metadata(at(shared_stores, 9), assets.organization_summaries)["unchanged"] == 3
    assert cached(shared_stores, SUMMARIES[1])["devices"] == {"total": 1, "offline": 1}, (
        "the devices are always counted"
    )
    fleet.device(BETA, "silent")
    assert metadata(at(shared_stores, 13), assets.organization_summaries)["unchanged"] == 2
    assert cached(shared_stores, SUMMARIES[1])["sample_share"] == 0.5


def _another_hour(fleet: Fleet) -> None:
    fleet.rolled_up([H + 4 * HOUR])
    fleet.hourly(BETA, uuid.UUID(device(BETA, "other")), [H + 4 * HOUR], 60, cpu_avg=90.0)


def _an_hour_again(fleet: Fleet) -> None:
    """Late data: the same hours, a newer version of one."""
    fleet.hourly(BETA, uuid.UUID(device(BETA, "other")), [H], 30, cpu_avg=90.0)
    fleet.rolled_up([H])


@pytest.mark.parametrize("change", [_another_hour, _an_hour_again])
def test_a_roll_up_makes_the_figures_of_hours_anew(shared_stores: Stores, fleet: Fleet, change: Any) -> None:
    for asset in (assets.organization_summaries, assets.uptime_leaderboard):
        run(at(shared_stores, 1), asset)
    mean = cached(shared_stores, SUMMARIES[1])["cpu_avg"]
    change(fleet)
    assert metadata(at(shared_stores, 5), assets.organization_summaries)["unchanged"] == 0
    assert metadata(at(shared_stores, 5), assets.uptime_leaderboard)["unchanged"] is False
    assert cached(shared_stores, SUMMARIES[1])["cpu_avg"] > mean
    after, board = all_of(shared_stores, SUMMARIES), _board(shared_stores)
    shared_stores.dragonfly.client.flushdb()
    for asset in (assets.organization_summaries, assets.uptime_leaderboard):
        run(at(shared_stores, 9), asset)
    assert (all_of(shared_stores, SUMMARIES), _board(shared_stores)) == (after, board)


def _board(stores: Stores) -> dict[Any, float]:
    return dict(stores.dragonfly.client.zrange(keys.UPTIME_LEADERBOARD, 0, -1, withscores=True))


def test_an_unchanged_leaderboard_is_confirmed(shared_stores: Stores, fleet: Fleet) -> None:
    assert metadata(at(shared_stores, 1), assets.uptime_leaderboard)["unchanged"] is False
    first = cached(shared_stores, keys.UPTIME_LEADERBOARD_ABOUT)
    again = metadata(at(shared_stores, 5), assets.uptime_leaderboard)
    assert (again["unchanged"], again["dagster/row_count"]) == (True, 4)
    about = cached(shared_stores, keys.UPTIME_LEADERBOARD_ABOUT)
    assert about["as_of"] > first["as_of"]
    assert about | {"as_of": ""} == first | {"as_of": ""}
    board = _board(shared_stores)
    shared_stores.dragonfly.client.zpopmin(keys.UPTIME_LEADERBOARD)
    assert metadata(at(shared_stores, 9), assets.uptime_leaderboard)["unchanged"] is False
    assert _board(shared_stores) == board
    shared_stores.dragonfly.client.set(keys.UPTIME_LEADERBOARD, "something else")
    assert metadata(at(shared_stores, 13), assets.uptime_leaderboard)["unchanged"] is False
    assert _board(shared_stores) == board
