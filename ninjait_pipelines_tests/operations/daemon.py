"""A daemon for runs that fail: assets, their failures, and ticks of the sensor failed_runs."""

from typing import Any

import dagster as dg

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
