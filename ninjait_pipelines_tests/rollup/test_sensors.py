"""Late hours repair themselves: the sensor's real ticks, the runs it asks for, and what follows them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.archive.assets import device_metrics_archive
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.rollup.assets import ROLLUP as NAMES
from ninjait_pipelines.rollup.sensors import every_hour, roll_up_hour, roll_up_late_hours
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.rollup.data import (
    HOUR,
    OTHER_ORGANIZATION,
    ROLLUP,
    hourly,
    key,
    midnight,
    points,
    roll_up,
    touch,
)
from ninjait_pipelines_tests.rollup.ticks import inert, tick
from ninjait_pipelines_tests.runs import changed, run

H = midnight(2)


def test_nothing_late_asks_for_nothing(shared_stores: Stores, instance: dg.DagsterInstance) -> None:
    touch(shared_stores, H)
    roll_up(shared_stores, H)
    result = tick(shared_stores, instance)
    assert (result.run_requests, result.skip_message) == ([], "no late hours")


def test_late_hours_are_rolled_up_again_in_one_run(shared_stores: Stores, instance: dg.DagsterInstance) -> None:
    shared_stores.metrics_store.write(points(H, 60))
    roll_up(shared_stores, H, H + 2 * HOUR)
    shared_stores.metrics_store.write(points(H + timedelta(seconds=15), 30))
    shared_stores.metrics_store.write(points(H + HOUR, 10))
    touch(shared_stores, H, H + HOUR)
    [request] = tick(shared_stores, instance).run_requests
    assert request.asset_selection == [dg.AssetKey(name) for name in NAMES]
    first, last = request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"]
    assert (first, last) == (key(H), key(H + HOUR))
    assert tick(shared_stores, instance).run_requests[0].run_key == request.run_key, (
        "Dagster would launch it at every tick"
    )
    run(shared_stores, *ROLLUP, span=(first, last))
    assert [row["sample_count"] for row in hourly(shared_stores)] == [90, 10]
    assert tick(shared_stores, instance).run_requests == []


def test_the_job_rolls_up_all_three(shared_stores: Stores, instance: dg.DagsterInstance) -> None:
    assets = [*ROLLUP, device_metrics_archive]
    definitions = dg.Definitions(assets=assets, jobs=[roll_up_late_hours], resources=shared_stores.all())
    tags = {"dagster/asset_partition_range_start": key(H), "dagster/asset_partition_range_end": key(H + HOUR)}
    result = definitions.resolve_job_def("roll_up_late_hours").execute_in_process(tags=tags, instance=instance)
    events = result.get_asset_materialization_events()
    done = {(event.materialization.asset_key, event.materialization.partition) for event in events}
    assert done == {(dg.AssetKey(name), hour) for name in NAMES for hour in (key(H), key(H + HOUR))}


def test_more_arrivals_and_a_later_quarter_of_an_hour_are_other_runs(
    shared_stores: Stores, instance: dg.DagsterInstance
) -> None:
    """A run key is remembered for ever: a repair that failed would never be tried again."""
    roll_up(shared_stores, H)
    touch(shared_stores, H)
    keys = [tick(shared_stores, instance).run_requests[0].run_key]
    touch(shared_stores, H)
    keys.append(tick(shared_stores, instance).run_requests[0].run_key)
    later = datetime.now(UTC) + timedelta(minutes=16)
    with changed(shared_stores.clickhouse, now=lambda _: later).open() as of_later:
        keys.append(tick(replace(shared_stores, clickhouse=of_later), instance).run_requests[0].run_key)
    assert len(set(keys)) == 3


def test_hours_of_a_run_under_way_are_left_to_it(shared_stores: Stores, instance: dg.DagsterInstance) -> None:
    roll_up(shared_stores, H, H + 2 * HOUR)
    touch(shared_stores, H, H + HOUR, H + 2 * HOUR)
    tags = {"dagster/asset_partition_range_start": key(H), "dagster/asset_partition_range_end": key(H + HOUR)}
    instance.add_run(
        dg.DagsterRun(job_name="roll_up_late_hours", tags=tags, status=dg.DagsterRunStatus.STARTED, run_id="a" * 36)
    )
    [request] = tick(shared_stores, instance).run_requests
    assert request.tags["dagster/asset_partition_range_start"] == key(H + 2 * HOUR)


def test_whoever_touches_thousands_of_hours_holds_up_nobody_else_s(
    shared_stores: Stores, instance: dg.DagsterInstance
) -> None:
    """A sample for every other hour of two years made 8,760 runs, the oldest first, each tick ten more of them."""
    quiet = H - 60 * HOUR
    roll_up(shared_stores, quiet)
    roll_up(shared_stores, H)
    touch(shared_stores, quiet, H, organization=OTHER_ORGANIZATION)
    touch(shared_stores, *(midnight(12) - 2 * n * HOUR for n in range(40)))
    asked = [
        request.tags["dagster/asset_partition_range_start"] for request in tick(shared_stores, instance).run_requests
    ]
    assert (len(asked), asked[0]) == (10, key(H))
    assert key(quiet) in asked
    for number in range(10):
        if number == 8:
            assert len(tick(shared_stores, instance).run_requests) == 2
        run_id = str(number) * 36
        instance.add_run(dg.DagsterRun(roll_up_late_hours.name, run_id, status=dg.DagsterRunStatus.STARTED))
    result = tick(shared_stores, instance)
    assert (result.run_requests, "wait: 10 are being rolled up" in result.skip_message) == ([], True)


TICK = """
import dagster as dg
from ninjait_pipelines.resources import open_stores
from ninjait_pipelines.settings import load
from ninjait_pipelines_tests.rollup.ticks import tick

with open_stores(load()) as stores, dg.DagsterInstance.ephemeral() as instance:
    print(len(tick(stores, instance).run_requests))
"""


def test_what_on_call_turns_in_the_environment_takes_effect_in_the_sensor(
    shared_stores: Stores, settings: Settings
) -> None:
    touch(shared_stores, *(midnight(12) - 2 * n * HOUR for n in range(4)))

    def asked(**turned: str) -> int:
        """Runs that a tick of a code location with this environment requests."""
        environment = {**os.environ, **settings, **turned}
        done = subprocess.run([sys.executable, "-c", TICK], env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert (asked(), asked(LATE_HOURS_MAX_RUNS="3")) == (4, 3)


def test_an_hour_too_old_to_be_caught_up_is_rolled_up_for_the_first_time(
    shared_stores: Stores, instance: dg.DagsterInstance
) -> None:
    """A laptop comes back after a month: no schedule looks that far back, and its hours were never rolled up."""
    old = midnight(30)
    touch(shared_stores, old, midnight(3))
    [request] = tick(shared_stores, instance).run_requests
    assert request.tags["dagster/asset_partition_range_start"] == key(old)


@pytest.fixture
def on_disk(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance that a schedule can open again by its reference."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


class Clock:
    """Automation conditions evaluated at moments of our choice, one tick after the other."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: Any = None
        self.assets = [inert(asset) for asset in (*ROLLUP, device_metrics_archive)]
        self.definitions = dg.Definitions(assets=self.assets)

    def requests(self, moment: datetime) -> dict[str, list[str]]:
        result = dg.evaluate_automation_conditions(
            self.definitions, instance=self.instance, cursor=self.cursor, evaluation_time=moment
        )
        self.cursor = result.cursor
        names = [spec.key.to_user_string() for asset in self.assets for spec in asset.specs]
        asked = {name: sorted(map(str, result.get_requested_partitions(dg.AssetKey(name)))) for name in names}
        return {name: keys for name, keys in asked.items() if keys}

    def done(self, requests: dict[str, list[str]]) -> None:
        """Runs what was requested, which is one range of the same partitions for each asset."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        for first, last in {(keys[0], keys[-1]) for keys in requests.values()}:
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
            assets = [dg.AssetKey(name) for name, keys in requests.items() if (keys[0], keys[-1]) == (first, last)]
            job.execute_in_process(asset_selection=assets, instance=self.instance, tags=tags)


NOON = midnight(1) + 12 * HOUR
ALL = [*NAMES]


def test_a_start_at_any_minute_catches_up_a_week_at_once_though_nothing_was_ingested(
    instance: dg.DagsterInstance,
) -> None:
    asked = Clock(instance).requests(NOON + timedelta(minutes=7))
    assert list(asked) == ALL, "all three in one tick, hence in one run"
    assert {len(keys) for keys in asked.values()} == {168}
    assert asked["device_metrics_hourly"][-1] == key(NOON - HOUR)


def test_an_hour_is_rolled_up_five_minutes_after_its_end_once(
    instance: dg.DagsterInstance, on_disk: dg.DagsterInstance
) -> None:
    """The schedule requests it, and automation finds nothing to fill."""
    clock = Clock(instance)
    clock.done(clock.requests(NOON + timedelta(minutes=7)))
    clock.done(clock.requests(NOON + timedelta(minutes=8)))  # the archive of the days that became whole
    for seconds in (3610, 3700, 3890):
        assert clock.requests(NOON + timedelta(seconds=seconds)) == {}, "the last samples are still on their way"
    [request] = scheduled(on_disk, NOON + timedelta(minutes=65))
    assert clock.requests(NOON + timedelta(seconds=3905)) == {}, "it would be rolled up twice"
    assert (request.partition_key, request.asset_selection) == (key(NOON), [dg.AssetKey(name) for name in ALL])
    clock.done({name: [str(request.partition_key)] for name in ALL})
    instance.report_runless_asset_event(dg.AssetMaterialization("agent_metrics"))
    for seconds in (3940, 3965, 4000):
        assert clock.requests(NOON + timedelta(seconds=seconds)) == {}, "ingest alone rolls nothing up"


def test_an_hour_that_the_schedule_missed_is_filled_a_minute_later(instance: dg.DagsterInstance) -> None:
    clock = Clock(instance)
    clock.done(clock.requests(NOON + timedelta(minutes=7)))
    clock.done(clock.requests(NOON + timedelta(minutes=8)))
    for seconds in (3610, 3959):
        assert clock.requests(NOON + timedelta(seconds=seconds)) == {}
    assert clock.requests(NOON + timedelta(seconds=3965)) == {name: [key(NOON)] for name in ALL}


def test_the_schedule_of_an_hour_leaves_it_to_a_run_that_has_it(on_disk: dg.DagsterInstance) -> None:
    due = NOON + timedelta(minutes=65)
    assert every_hour.cron_schedule == "5 * * * *"
    assert scheduled(on_disk, due)
    tags = {"dagster/partition": key(NOON)}
    on_disk.add_run(dg.DagsterRun(roll_up_hour.name, "a" * 36, tags=tags, status=dg.DagsterRunStatus.STARTED))
    assert scheduled(on_disk, due) == []
    assert scheduled(on_disk, due + HOUR)


def scheduled(instance: dg.DagsterInstance, due: datetime) -> list[dg.RunRequest]:
    """What the schedule requests in this minute."""
    result = every_hour(dg.build_schedule_context(instance=instance, scheduled_execution_time=due))
    return [result] if isinstance(result, dg.RunRequest) else []


def test_what_depends_on_a_repaired_hour_follows_however_old_it_is(instance: dg.DagsterInstance) -> None:
    """An hour that was repaired while its day was being archived once never reached the archive."""
    clock = Clock(instance)
    for minutes in (7, 8, 9):
        clock.done(clock.requests(NOON + timedelta(minutes=minutes)))
    late = NOON - timedelta(days=4)
    clock.done({name: [key(late), key(late + HOUR)] for name in ALL})
    day = {"device_metrics_archive": [f"{late:%Y-%m-%d}"]}
    assert clock.requests(NOON + timedelta(minutes=10)) == day
    clock.done({name: [key(late)] for name in ALL})
    clock.done(day)
    assert clock.requests(NOON + timedelta(minutes=11)) == day, "repaired while the day was being archived: once more"
    clock.done(day)
    assert clock.requests(NOON + timedelta(minutes=12)) == {}
