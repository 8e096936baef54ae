"""One bad row, reading or entry stops no other device and no other organization: it is named, or replaced."""

from math import nan
from uuid import UUID

import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.cache.checks import left_nothing_out
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.cache.caches import ASSETS, CHECKS, H, cached, device, reading
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, EMPTY, Fleet
from ninjait_pipelines_tests.runs import left_out, passed, run, spoil

NOTHING_OUT = [check.check_key.name for check in left_nothing_out]


def warm(stores: Stores, red: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> dict[str, str]:
    """Runs the caches: asset -> what it left out. All checks pass but those that say so of the assets
    `red`, and those in `missing`."""
    result = run(stores, *ASSETS, *CHECKS, *left_nothing_out)
    found = passed(result)
    names = [asset.key.to_user_string() for asset in ASSETS]
    assert {name: found[f"{name}_left_nothing_out"] for name in names} == {name: name not in red for name in names}
    # An organization that was left out altogether has no entry, and the other check says so too.
    assert [name for name in (check.check_key.name for check in CHECKS) if not found[name]] == list(missing)
    return {name: left_out(result, name) for name in names}


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 BC"])
def test_a_device_without_a_time_that_there_is(shared_stores: Stores, fleet: Fleet, moment: str) -> None:
    """psycopg raised for it, and nobody had a device list, a summary or a leaderboard any more."""
    spoil(shared_stores, "devices", f"UPDATE devices SET created_at = '{moment}' WHERE name = 'two'")
    said = warm(shared_stores, red=("device_caches", "organization_summaries", "uptime_leaderboard"))
    assert all(
        f"device {device(ALPHA, 'two')} (ValueError: registered_at is {moment.split()[0]}" in words
        for words in said.values()
    )
    listed = cached(shared_stores, keys.organization_devices(ALPHA))["devices"]
    assert [one["hostname"] for one in listed] == ["new", "one"]
    assert cached(shared_stores, keys.organization_summary(ALPHA))["devices"]["total"] == 2
    assert cached(shared_stores, keys.organization_summary(BETA))["devices"]["total"] == 1
    assert shared_stores.dragonfly.client.zcard(keys.UPTIME_LEADERBOARD) == 3


def test_an_organization_of_no_time_has_its_caches(shared_stores: Stores, fleet: Fleet) -> None:
    """What is not asked for stops nothing."""
    spoil(shared_stores, "organizations", f"UPDATE organizations SET created_at = 'infinity' WHERE id = '{EMPTY}'")
    odd = {"name": "x" * 2**20, "slug": "../x"}
    with shared_stores.postgres.transaction() as connection:
        connection.execute("UPDATE organizations SET name = %(name)s, slug = %(slug)s WHERE slug = 'Beta'", odd)
    warm(shared_stores)
    assert cached(shared_stores, keys.organization_devices(EMPTY))["devices"] == []


@pytest.mark.parametrize("value", ["no document", "[1]", "7", "null", '{"as_of": 1}', "{"])
def test_what_is_no_document_is_replaced(shared_stores: Stores, fleet: Fleet, value: str) -> None:
    """A value of somebody else's under one key failed every run of all caches."""
    client = shared_stores.dragonfly.client
    client.set(keys.device_latest(device(ALPHA, "one")), value)
    client.set(keys.organization_devices(ALPHA), value)
    client.rpush(keys.organization_summary(BETA), value)
    client.set(keys.UPTIME_LEADERBOARD_ABOUT, value)
    client.set(keys.UPTIME_LEADERBOARD, value)
    warm(shared_stores)
    one = cached(shared_stores, keys.organization_devices(ALPHA))["devices"][1]
    assert (one["hostname"], one["readings"] is None or one["readings"]["cpu"]) in (("one", True), ("one", None))
    assert cached(shared_stores, keys.organization_summary(BETA))["devices"]["total"] == 1
    assert client.zcard(keys.UPTIME_LEADERBOARD) == 4
    reading(shared_stores, ALPHA, UUID(device(ALPHA, "one")), cpu=99.0)
    warm(shared_stores)
    assert cached(shared_stores, keys.organization_devices(ALPHA))["devices"][1]["readings"]["cpu"] == 99.0


def test_a_share_that_is_no_number(shared_stores: Stores, fleet: Fleet) -> None:
    """Redis refused NaN as a score, and with it everybody's leaderboard."""
    fleet.hourly(BETA, UUID(device(BETA, "other")), [H], sample_share=nan)
    said = warm(shared_stores, ("organization_summaries", "uptime_leaderboard"), missing=("summaries_match",))
    assert f"device {device(BETA, 'other')} (ValueError: sample_share" in said["uptime_leaderboard"]
    assert f"organization {BETA} (ValueError: sample_share" in said["organization_summaries"]
    assert shared_stores.dragonfly.client.zcard(keys.UPTIME_LEADERBOARD) == 3
    assert cached(shared_stores, keys.organization_summary(ALPHA))["devices"]["total"] == 3
