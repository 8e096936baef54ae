"""A run that failed becomes an alert, by real ticks over a real instance."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.operations.sensors import failed_runs
from ninjait_pipelines.resources import Stores

DAILY = dg.DailyPartitionsDefinition(start_date="2026-01-01")


class DiskFull(Exception):
    """What really happened."""


@dg.asset(partitions_def=DAILY)
def upstream(context: dg.AssetExecutionContext) -> None:
    try:
        raise DiskFull("no room for the day")
    except DiskFull as error:
        raise RuntimeError("the wrapper of a library") from error


@dg.asset(partitions_def=DAILY, deps=[upstream])
def middle() -> None: ...


@dg.asset(deps=[middle])
def last() -> None: ...


@dg.asset
def elsewhere() -> None: ...


class Daemon:
    """Runs assets and evaluates the sensor as Dagster's daemon does: each tick goes on at the last one's cursor."""

    definitions = dg.Definitions(assets=[upstream, middle, last, elsewhere], sensors=[failed_runs])
    failing = upstream

    def __init__(self, stores: Stores, instance: dg.DagsterInstance) -> None:
        self.stores = stores
        self.instance = instance
        self.cursor: str | None = None
        self.tick()

    def tick(self) -> Any:
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={"mongodb": self.stores.mongodb},
            repository_def=self.definitions.get_repository_def(),
            sensor_name="failed_runs",
        ) as context:
            result = failed_runs.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def fail(self, **tags: str) -> str:
        job = self.definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            asset_selection=[self.failing.key],
            partition_key="2026-02-01",
            instance=self.instance,
            raise_on_error=False,
            tags=tags,
        )
        assert not result.success
        return result.run_id

    def alerts(self) -> list[dict[str, Any]]:
        return list(self.stores.mongodb.database.alerts.find())


@pytest.fixture
def daemon(stores: Stores) -> Iterator[Daemon]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(stores, instance)


def test_an_alert_says_what_failed_why_and_what_waits_for_it(daemon: Daemon) -> None:
    run_id = daemon.fail()
    daemon.tick()
    [alert] = daemon.alerts()
    assert (alert["_id"], alert["run_id"], alert["partition"]) == (run_id, run_id, "2026-02-01")
    assert (alert["steps"], alert["assets"]) == (["upstream"], ["upstream"])
    assert "no room for the day" in alert["error"]
    assert alert["affects"] == ["last", "middle"]
    assert alert["acknowledged_at"] is None
    assert alert["raised_at"].tzinfo is not None


def test_a_repeated_tick_is_the_same_alert(daemon: Daemon) -> None:
    """A tick that died after its write is evaluated again from the same cursor; a person may have acted meanwhile."""
    daemon.fail()
    cursor = daemon.cursor
    daemon.tick()
    daemon.stores.mongodb.database.alerts.update_many({}, {"$set": {"acknowledged_at": "now"}})
    daemon.cursor = cursor
    daemon.tick()
    assert [alert["acknowledged_at"] for alert in daemon.alerts()] == ["now"]


def test_a_run_that_will_be_retried_is_no_alert(daemon: Daemon) -> None:
    daemon.fail(**{"dagster/will_retry": "true"})
    daemon.tick()
    assert daemon.alerts() == []


def test_a_run_that_succeeds_is_no_alert(daemon: Daemon) -> None:
    job = daemon.definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(asset_selection=[elsewhere.key], instance=daemon.instance).success
    daemon.tick()
    assert daemon.alerts() == []
