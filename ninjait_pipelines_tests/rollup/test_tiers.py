"""Each tier has its own watermark: whatever comes between two steps, or from two runs at once, reaches all tiers."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.metrics.model import FIELDS, WIDTH, Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.rollup import assets, checks
from ninjait_pipelines.rollup.assets import ROLLUP as NAMES
from ninjait_pipelines_tests.interleaved import Paused
from ninjait_pipelines_tests.rollup.data import (
    CHECKS,
    HOUR,
    OTHER_DEVICE,
    ROLLUP,
    check,
    hourly,
    key,
    midnight,
    points,
    roll_up,
    touch,
)
from ninjait_pipelines_tests.rollup.ticks import tick
from ninjait_pipelines_tests.runs import passed, run

pytestmark = pytest.mark.usefixtures("no_drain_is_under_way")
H = midnight(2)
QUARTER = timedelta(seconds=15)


def samples(stores: Stores, hour: datetime = H) -> list[int]:
    """Of the hour, in each tier and in ClickHouse."""
    rows = sum(row["sample_count"] for row in hourly(stores) if row["timestamp"] == hour)
    return [*(samples_in(stores, tier, hour) for tier in Tier), rows]


def samples_in(stores: Stores, tier: Tier, hour: datetime = H) -> int:
    return int(sum(stores.metrics_store.aggregate(tier, hour, hour + HOUR, HOUR)["samples"].to_pylist()))


def late(stores: Stores) -> list[datetime]:
    return [row["hour"] for row in stores.clickhouse.rows("SELECT hour FROM late_hours ORDER BY hour")]


@pytest.mark.parametrize("steps", [1, 2])
def test_points_that_come_between_two_steps_of_a_roll_up_reach_every_tier(
    shared_stores: Stores, instance: dg.DagsterInstance, steps: int
) -> None:
    """They were in full resolution and in ClickHouse, in neither tier for ever, and late_hours was empty."""
    shared_stores.metrics_store.write(points(H, 60))
    touch(shared_stores, H)
    run(shared_stores, *ROLLUP, only=NAMES[:steps], key=key(H))
    shared_stores.metrics_store.write(points(H + QUARTER, 40))
    touch(shared_stores, H)
    result = run(shared_stores, *ROLLUP, *CHECKS, only=NAMES[steps:], key=key(H))
    assert samples(shared_stores)[0] == samples(shared_stores)[-1] == 100
    assert samples(shared_stores)[1] == 60
    assert passed(result)["samples_are_conserved"], "it repairs itself"
    assert late(shared_stores) == [H]
    [request] = tick(shared_stores, instance).run_requests
    assert request.tags["dagster/asset_partition_range_start"] == key(H)
    roll_up(shared_stores, H)
    assert samples(shared_stores) == [100] * 4
    assert late(shared_stores) == []


def test_one_read_gives_what_three_runs_give_to_the_last_bit(shared_stores: Stores) -> None:
    chance = random.Random(11)
    for hour in (H, H + HOUR):
        values = {name: [chance.uniform(0, 1e9) for _ in range(120)] for name in FIELDS}
        shared_stores.metrics_store.write(points(hour, **values))
        shared_stores.metrics_store.write(points(hour, device=OTHER_DEVICE, cpu=[chance.random() for _ in range(120)]))

    def found() -> list[Any]:
        lower = [shared_stores.metrics_store.aggregate(tier, H, H + 2 * HOUR, WIDTH[tier]) for tier in WIDTH]
        return [*lower, hourly(shared_stores)]

    for name in NAMES:
        run(shared_stores, *ROLLUP, only=[name], span=(key(H), key(H + HOUR)))
    one_by_one = found()
    assert [len(tier) for tier in one_by_one] == [48, 4, 4]
    for _ in range(2):
        roll_up(shared_stores, H, H + HOUR)
        assert found() == one_by_one


def test_rows_that_cannot_be_replaced_leave_the_tiers_filled(
    shared_stores: Stores, instance: dg.DagsterInstance
) -> None:
    """As with a run of its own for each: the next hour's tiers are right, and only device_metrics_hourly has failed."""
    shared_stores.metrics_store.write(points(H, 60))
    roll_up(shared_stores, H)
    shared_stores.metrics_store.delete([points(H)["device_id"][0].as_py()])
    shared_stores.metrics_store.write(points(H, 10))
    shared_stores.metrics_store.write(points(H + HOUR, 20))
    failed = run(shared_stores, *ROLLUP, span=(key(H), key(H + HOUR)), instance=instance, fails=True)
    done = {event.materialization.asset_key for event in failed.get_asset_materialization_events()}
    assert done == {dg.AssetKey(name) for name in NAMES[:2]}
    assert samples(shared_stores) == [10, 10, 10, 60]
    assert samples(shared_stores, H + HOUR) == [20, 20, 20, 0]


def test_tiers_that_lack_points_which_nobody_announced_fail_the_check(shared_stores: Stores) -> None:
    shared_stores.metrics_store.write(points(H, 60))
    roll_up(shared_stores, H)
    shared_stores.metrics_store.write(points(H + QUARTER, 40))
    run(shared_stores, *ROLLUP, only=["device_metrics_hourly"], key=key(H))
    assert samples(shared_stores) == [100, 60, 60, 100]
    found = check(shared_stores, ROLLUP, [checks.samples_are_conserved, checks.hour_is_accounted_for], key(H))
    assert {name: one.passed for name, one in found.items()} == dict.fromkeys(found, False)
    assert "60 in metrics_5m" in found["samples_are_conserved"].description


def test_an_older_hour_is_compared_from_the_tier_that_takes_its_points(shared_stores: Stores) -> None:
    old = midnight(9)
    shared_stores.metrics_store.write_aggregates(
        Tier.FIVE_MINUTES,
        shared_stores.metrics_store.aggregate(Tier.RAW, H, H + HOUR, timedelta(minutes=5)).slice(0, 0),
    )
    assert passed(roll_up(shared_stores, old))["samples_are_conserved"]


def test_a_tier_that_was_filled_after_the_next_one_read_it_makes_the_hour_late(shared_stores: Stores) -> None:
    shared_stores.metrics_store.write(points(H, 60))
    touch(shared_stores, H)
    roll_up(shared_stores, H)
    shared_stores.metrics_store.write(points(H + QUARTER, 40))
    run(shared_stores, *ROLLUP, only=["device_metrics_5m"], key=key(H))
    assert late(shared_stores) == [H]
    run(shared_stores, *ROLLUP, only=NAMES[1:], key=key(H))
    assert late(shared_stores) == []
    assert samples(shared_stores) == [100] * 4


def fill(stores: Stores) -> Paused:
    """A run that fills the 5-minute tier of H, step by step."""

    def fill_tier(run: Paused) -> None:
        metrics = run.pausing(stores.metrics_store, "aggregate", "write_aggregates")
        clickhouse = run.pausing(stores.clickhouse, "insert", "rows")
        assets.bring_up_to_date(metrics, clickhouse, Tier.RAW, Tier.FIVE_MINUTES, [H])

    return Paused(fill_tier)


def together(stores: Stores) -> Paused:
    """A run that rolls up H from one read, step by step."""

    def roll_up_together(run: Paused) -> None:
        metrics = run.pausing(stores.metrics_store, "first_tiers", "write_aggregates")
        of_hour = assets.RollUp(metrics, run.pausing(stores.clickhouse, "insert", "rows", "replace_slice"))
        of_hour.from_one_read([H])
        of_hour.finish()

    return Paused(roll_up_together)


STEPS = 5  # record, read, write, record, look for others


@pytest.fixture
def rolled_up(shared_stores: Stores) -> Stores:
    shared_stores.metrics_store.write(points(H, 30))
    touch(shared_stores, H)
    together(shared_stores).finish()
    return shared_stores


@pytest.mark.parametrize("first", range(STEPS))
def test_two_runs_of_one_hour_end_as_one_after_the_other(rolled_up: Stores, first: int) -> None:
    """The older one, held up before its write, put its windows over the newer one's: points were gone from the tier."""
    count = 30
    for second in range(STEPS):
        runs = fill(rolled_up), fill(rolled_up)
        for _ in range(first):
            runs[0].step()
        count += 1
        rolled_up.metrics_store.write(points(H + timedelta(seconds=count), 1))
        touch(rolled_up, H)
        for _ in range(second):
            runs[1].step()
        for one in runs:
            one.finish()
        assert samples_in(rolled_up, Tier.FIVE_MINUTES) == count, f"{first} steps of the one, {second} of the other"


@pytest.mark.parametrize("at", range(STEPS))
def test_a_run_that_dies_beside_another_leaves_the_hour_right_or_late(rolled_up: Stores, at: int) -> None:
    slow, fast = fill(rolled_up), fill(rolled_up)
    for _ in range(min(at, 2)):
        slow.step()
    rolled_up.metrics_store.write(points(H + QUARTER, 40))
    touch(rolled_up, H)
    fast.finish()
    for _ in range(2, at):
        slow.step()
    slow.step(alive=False)
    run(rolled_up, *ROLLUP, only=NAMES[1:], key=key(H))
    assert samples(rolled_up) == [70] * 4 or late(rolled_up) == [H]


# Count what there was, record, read, write 5 minutes, record, write the hour, record, replace rows, look for others
# twice, count what there is, record.
ALL_STEPS = 12


@pytest.mark.parametrize("first", [2, 4, 6, 8])
def test_two_runs_from_one_read_end_as_one_after_the_other(rolled_up: Stores, first: int) -> None:
    count = 30
    for second in (3, 5, 8):
        runs = together(rolled_up), together(rolled_up)
        for _ in range(first):
            runs[0].step()
        count += 1
        rolled_up.metrics_store.write(points(H + timedelta(seconds=count), 1))
        touch(rolled_up, H)
        for _ in range(second):
            runs[1].step()
        for one in runs:
            one.finish()
        assert samples(rolled_up) == [count] * 4, f"{first} steps of the one, {second} of the other"


@pytest.mark.parametrize(("at", "other"), [*((at, together) for at in range(1, ALL_STEPS)), (4, fill), (6, fill)])
def test_a_run_from_one_read_that_dies_beside_another_leaves_the_hour_right_or_late(
    rolled_up: Stores, at: int, other: Callable[[Stores], Paused]
) -> None:
    slow, fast = together(rolled_up), other(rolled_up)
    for _ in range(min(at, 3)):
        slow.step()
    rolled_up.metrics_store.write(points(H + QUARTER, 40))
    touch(rolled_up, H)
    fast.finish()
    for _ in range(3, at):
        slow.step()
    slow.step(alive=False)
    assert samples(rolled_up) == [70] * 4 or late(rolled_up) == [H]
    roll_up(rolled_up, H)
    assert samples(rolled_up) == [70] * 4
