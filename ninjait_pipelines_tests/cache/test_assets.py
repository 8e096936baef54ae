"""The three caches on real stores: what they say, twice, killed half-way, and runs that overtake each other."""

import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from redis.client import Pipeline
from redis.commands.core import Script

from ninjait_pipelines import keys
from ninjait_pipelines.cache import assets
from ninjait_pipelines.keys import as_of_text
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines_tests.cache.caches import ASSETS, CHECKS, H, cached, device
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, EMPTY, HOUR, Fleet, hours, midnight
from ninjait_pipelines_tests.runs import Killed, add, changed, killed, passed, run

NAMES = {asset.key.to_user_string(): asset for asset in ASSETS}


def everything(stores: Stores) -> dict[str, Any]:
    """All keys and values that a reader may see, without as_of and revision."""
    client = stores.dragonfly.client
    found: dict[str, Any] = {}
    for key in sorted(client.scan_iter()):
        if client.type(key) == "zset":
            found[key] = client.zrange(key, 0, -1, withscores=True)
        elif client.type(key) == "string":
            document = cached(stores, key)
            found[key] = document | {"as_of": None} | ({"revision": None} if "revision" in document else {})
    return {key: value for key, value in found.items() if not key.startswith(f"{keys.UPTIME_LEADERBOARD}:2")}


def test_the_device_list(shared_stores: Stores, fleet: Fleet) -> None:
    assert passed(run(shared_stores, *ASSETS, *CHECKS)) == dict.fromkeys(
        (check.check_key.name for check in CHECKS), True
    )
    found = cached(shared_stores, keys.organization_devices(ALPHA))
    assert (found["organization_id"], found["completeness"]) == (str(ALPHA), 1 / 3)
    assert [one["hostname"] for one in found["devices"]] == ["new", "one", "two"]
    new, one, _ = found["devices"]
    assert (one["status"], one["last_seen"]) == ("online", (H + HOUR).isoformat().replace("+00:00", "Z"))
    assert (one["readings"]["cpu"], one["readings"]["memory"], one["readings"]["as_of"]) == (12.5, None, as_of_text(H))
    assert (new["status"], new["last_seen"], new["readings"]) == ("unknown", None, None), "never seen"
    empty = cached(shared_stores, keys.organization_devices(EMPTY))
    assert (empty["devices"], empty["completeness"]) == ([], 1.0)


def test_the_summary(shared_stores: Stores, fleet: Fleet) -> None:
    someone = uuid.uuid4()
    user = {"id": someone, "organization_id": ALPHA, "email": "x", "full_name": "x", "role": "customer"}
    add(shared_stores, "users", [{**user, "created_at": H}])
    ticket = {"organization_id": ALPHA, "created_by": someone, "title": "?", "created_at": H}
    states = (("urgent", "open"), ("urgent", "new"), ("low", "closed"), ("low", "resolved"), ("low", "pending"))
    rows = [{**ticket, "id": uuid.uuid4(), "number": n, "priority": p, "status": s} for n, (p, s) in enumerate(states)]
    add(shared_stores, "tickets", rows)
    alert = {"organization_id": ALPHA, "kind": "disk", "message": "?", "raised_at": H}
    kinds = (("critical", None), ("info", H))
    add(shared_stores, "alerts", [{**alert, "id": uuid.uuid4(), "severity": s, "resolved_at": at} for s, at in kinds])
    run(shared_stores, assets.organization_summaries)
    found = cached(shared_stores, keys.organization_summary(ALPHA))
    assert found["devices"] == {"total": 3, "online": 1, "unknown": 2}
    assert found["completeness"] == 3 / 24
    assert found["window"] == {"start": as_of_text(H - 20 * HOUR), "end": as_of_text(H + 4 * HOUR)}
    assert found["cpu_avg"] == (360 * 10 + 180 * 40) / 540
    assert found["memory_avg"] == 1000.0, "of those that carry it"
    assert found["sample_share"] == (360 + 180 + 180) / (360 + 360 + 240)
    assert found["open_tickets"] == {"urgent": 2, "high": 0, "normal": 0, "low": 1}
    assert found["open_alerts"] == {"critical": 1, "warning": 0, "info": 0}
    beta, empty = (cached(shared_stores, keys.organization_summary(id_)) for id_ in (BETA, EMPTY))
    assert (beta["devices"], beta["sample_share"]) == ({"total": 1, "maintenance": 1}, 1.0), "never more than all"
    assert beta["open_tickets"]["urgent"] == 0
    assert (empty["devices"], empty["cpu_avg"], empty["sample_share"]) == ({"total": 0}, None, None)


def test_the_leaderboard(shared_stores: Stores, fleet: Fleet) -> None:
    run(shared_stores, assets.uptime_leaderboard)
    found = dict(shared_stores.dragonfly.client.zrange(keys.UPTIME_LEADERBOARD, 0, -1, withscores=True))
    assert found == {
        f"{ALPHA}:{device(ALPHA, 'one')}": 1.0,
        f"{ALPHA}:{device(ALPHA, 'two')}": 0.5,
        f"{ALPHA}:{device(ALPHA, 'new')}": 0.75,
        f"{BETA}:{device(BETA, 'other')}": 1.0,
    }
    about = cached(shared_stores, keys.UPTIME_LEADERBOARD_ABOUT)
    assert (about["devices"], about["completeness"]) == (4, 3 / 168)


def test_before_the_first_roll_up(shared_stores: Stores) -> None:
    Fleet(shared_stores).device(ALPHA, "one")
    assert all(passed(run(shared_stores, *ASSETS, *CHECKS)).values())
    found = cached(shared_stores, keys.organization_summary(ALPHA))
    assert (found["completeness"], found["sample_share"], found["window"]["end"]) == (0.0, None, None)
    assert not shared_stores.dragonfly.client.exists(keys.UPTIME_LEADERBOARD)


def test_without_any_organization(shared_stores: Stores) -> None:
    assert all(passed(run(shared_stores, *ASSETS, *CHECKS)).values())


def test_lifetimes(shared_stores: Stores, fleet: Fleet) -> None:
    run(shared_stores, *ASSETS)
    client = shared_stores.dragonfly.client
    assert 290 < client.ttl(keys.organization_devices(ALPHA)) <= 300
    lasting = (keys.organization_summary(ALPHA), keys.UPTIME_LEADERBOARD, keys.UPTIME_LEADERBOARD_ABOUT)
    assert [client.ttl(key) for key in lasting] == [-1, -1, -1]


def test_tenants_stay_apart(shared_stores: Stores, fleet: Fleet) -> None:
    """A reading, heartbeats and samples of Alpha's device in Beta's name are nobody's."""
    run(shared_stores, *ASSETS)
    before = everything(shared_stores)
    two = uuid.uuid5(ALPHA, "two")
    shared_stores.dragonfly.set_if_newer(
        keys.device_latest(two), {"organization_id": str(BETA), "as_of": as_of_text(H)}
    )
    fleet.heartbeat(BETA, two, H + HOUR, "offline")
    fleet.hourly(BETA, two, [H, H + 2 * HOUR])
    run(shared_stores, *ASSETS)
    after = everything(shared_stores)
    del after[keys.device_latest(two)]
    assert after == before
    for organization, foreign in ((ALPHA, "other"), (BETA, "one")):
        texts = [shared_stores.dragonfly.client.get(key(organization)) for key in _document_keys()]
        assert not any(device(BETA if organization == ALPHA else ALPHA, foreign) in str(text) for text in texts)


def _document_keys() -> tuple[Any, ...]:
    return (keys.organization_devices, keys.organization_summary)


def test_twice_the_same(shared_stores: Stores, fleet: Fleet) -> None:
    run(shared_stores, *ASSETS)
    first = everything(shared_stores)
    assert len(first) == 1 + 3 + 3 + 2
    run(shared_stores, *ASSETS)
    assert everything(shared_stores) == first


@pytest.mark.parametrize(
    ("name", "owner", "method", "after"),
    [
        ("device_caches", Script, "__call__", False),
        ("device_caches", Script, "__call__", True),
        ("organization_summaries", Script, "__call__", True),
        ("uptime_leaderboard", Pipeline, "execute", False),
        ("uptime_leaderboard", Pipeline, "execute", True),
        ("uptime_leaderboard", Script, "__call__", True),
    ],
)
def test_killed_half_way_and_again(
    shared_stores: Stores, fleet: Fleet, name: str, owner: type, method: str, after: bool
) -> None:
    run(shared_stores, NAMES[name])
    expected = everything(shared_stores)
    shared_stores.dragonfly.client.delete(*(key for key in expected if not key.startswith("device:")))
    with killed(owner, method, after=after):
        run(shared_stores, NAMES[name], fails=True)
    run(shared_stores, NAMES[name])
    assert everything(shared_stores) == expected


@pytest.mark.parametrize(
    "asset", [assets.device_caches, assets.organization_summaries], ids=lambda asset: str(asset.key)
)
def test_killed_between_two_organizations_and_again(
    shared_stores: Stores, fleet: Fleet, asset: dg.AssetsDefinition
) -> None:
    def dying(self: Dragonfly, values: Any, ttl: timedelta | None = None) -> int:
        shared_stores.dragonfly.set_many_if_newer(list(values)[:1], ttl)
        raise Killed

    dragonfly = changed(shared_stores.dragonfly, set_many_if_newer=dying)
    run(replace(shared_stores, dragonfly=dragonfly), asset, fails=True)
    run(shared_stores, asset)
    again = everything(shared_stores)
    shared_stores.dragonfly.client.delete(*(key for key in again if not key.startswith("device:")))
    run(shared_stores, asset)
    assert everything(shared_stores) == again
    assert len(again) == 4


def test_an_older_run_never_overwrites_a_newer_one(shared_stores: Stores, fleet: Fleet) -> None:
    run(shared_stores, *ASSETS)
    first = everything(shared_stores)
    fleet.device(BETA, "late")
    then: datetime = shared_stores.clickhouse.now() - HOUR
    slow = replace(shared_stores, clickhouse=changed(shared_stores.clickhouse, now=lambda _: then))
    result = run(slow, *ASSETS)
    assert everything(shared_stores) == first
    written = [
        result.asset_materializations_for_node(name)[0].metadata[figure].value
        for name, figure in (("device_caches", "written"), ("organization_summaries", "written"))
    ]
    assert written == [0, 0]
    [board] = result.asset_materializations_for_node("uptime_leaderboard")
    assert board.metadata["switched"].value is False
    run(shared_stores, *ASSETS)
    assert everything(shared_stores) != first


def test_a_window_longer_than_the_data(shared_stores: Stores) -> None:
    """A week of hours as one parameter of a query."""
    fleet = Fleet(shared_stores)
    one = fleet.device(ALPHA, "one")
    when = hours(midnight(9), 200)
    fleet.rolled_up(when)
    fleet.hourly(ALPHA, one, when, 30)
    run(shared_stores, assets.uptime_leaderboard)
    assert shared_stores.dragonfly.client.zscore(keys.UPTIME_LEADERBOARD, f"{ALPHA}:{one}") == 0.25
    assert cached(shared_stores, keys.UPTIME_LEADERBOARD_ABOUT)["completeness"] == 1.0
