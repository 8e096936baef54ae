"""The graph as it is built: whole, described, started by itself, and without a secret."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.build import STAGES, build_defs
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.settings import SettingsError
from ninjait_pipelines_tests.nowhere import NOWHERE


def _defined() -> Iterator[tuple[str, Any]]:
    """Everything of Dagster's at the top of a stage's modules, or in a list or dict there: (module, object)."""
    for stage in STAGES:
        package = importlib.import_module(stage.__package__)
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(info.name)).values():
                several = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
                yield from ((info.name, one) for one in several)


def test_nothing_that_a_module_defines_is_forgotten() -> None:
    """Stages list what they give to Dagster: what is missing from the list would be in no graph, without an error."""
    job, kinds = type(dg.define_asset_job("any")), (dg.AssetsDefinition, dg.SensorDefinition, dg.ScheduleDefinition)
    listed: set[int] = set()
    for stage in STAGES:
        defs = stage.defs
        for objects in (defs.assets, defs.asset_checks, defs.jobs, defs.sensors, defs.schedules):
            listed |= {id(one) for one in objects or ()}
    defined = [(module, one) for module, one in _defined() if isinstance(one, (*kinds, dg.JobDefinition, job))]
    assert len({id(one) for _, one in defined}) > 60
    assert [(module, one) for module, one in defined if id(one) not in listed] == []


def test_every_asset_is_described_owned_and_grouped() -> None:
    graph = build_defs(NOWHERE).resolve_asset_graph()
    stages = {"ingest", "reference", "rollup", "tickets", "billing", "cache", "archive", "reports", "operations"}
    nodes = [graph.get(key) for key in graph.materializable_asset_keys]
    assert {node.group_name for node in nodes} == stages
    for node in nodes:
        assert node.description, f"{node.key} has no description"
        assert node.owners, f"{node.key} has no owner"
        assert node.kinds, f"{node.key} has no kinds"
        if "clickhouse" in node.kinds:
            assert "dagster/column_schema" in node.metadata, f"{node.key} shows no columns"


def test_every_asset_runs_by_itself() -> None:
    """An asset that no sensor, schedule or condition asks for would stand still until someone notices."""
    defs = build_defs(NOWHERE)
    graph = defs.resolve_asset_graph()
    repository = defs.get_repository_def()
    drained = {
        key
        for sensor in repository.sensor_defs
        if not isinstance(sensor, dg.AutomationConditionSensorDefinition)
        for target in sensor.targets
        for key in repository.get_job(target.job_name).asset_layer.selected_asset_keys
    }
    for key in graph.materializable_asset_keys:
        assert key in drained or graph.get(key).automation_condition, f"nothing asks for {key}"


def test_sensors_and_schedules_start_running() -> None:
    repository = build_defs(NOWHERE).get_repository_def()
    for sensor in repository.sensor_defs:
        assert sensor.default_status == dg.DefaultSensorStatus.RUNNING, sensor.name
    stopped = {one.name for one in repository.schedule_defs if one.default_status != dg.DefaultScheduleStatus.RUNNING}
    assert stopped == {"finalise_monthly"}, "a person starts it: what it issues cannot be taken back"


def test_no_secret_reaches_the_snapshot() -> None:
    defs = build_defs(NOWHERE)
    repository = defs.get_repository_def()
    snapshots = [str(job.get_job_snapshot()) for job in repository.get_all_jobs()]
    assert snapshots
    assert not any("secret-of-the-test" in snapshot for snapshot in snapshots)


def test_dagster_shows_the_settings_error() -> None:
    with pytest.raises(SettingsError, match="CLICKHOUSE_URL is not set"):
        build_defs({name: value for name, value in NOWHERE.items() if name != "CLICKHOUSE_URL"})


def test_a_test_replaces_one_store_and_keeps_the_others() -> None:
    mine = Dragonfly(url="redis://127.0.0.1:1/5")
    usual, changed = build_defs(NOWHERE), build_defs(NOWHERE, {"dragonfly": mine})
    assert usual.resources is not None
    assert changed.resources is not None
    assert changed.resources["dragonfly"] is mine
    assert usual.resources["dragonfly"] is not mine
    assert changed.resources.keys() == usual.resources.keys()
