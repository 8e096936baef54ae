"""The graph as Dagster loads it."""

import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.build import STAGES, build_defs
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.settings import REQUIRED, SettingsError, load, validate
from ninjait_pipelines_tests.nowhere import NOWHERE


@pytest.mark.engines
def test_a_fresh_interpreter_loads_it_soon_and_without_a_connection() -> None:
    """Every run pays for the load; and a code location must load while a store is away.

    It takes some two seconds of processor time while other tests run beside it.
    """
    script = (
        "import socket, time\n"
        "def refuse(*_): raise AssertionError('a connection was opened at import')\n"
        "socket.socket.connect = refuse\n"
        "started = time.process_time()\n"
        "from ninjait_pipelines.definitions import defs\n"
        "defs.get_repository_def()\n"
        "print(time.process_time() - started)\n"
    )
    seconds = min(_run(script) for _ in range(3))
    assert seconds < 4


def _run(script: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | NOWHERE
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


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
    for schedule in repository.schedule_defs:
        assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING, schedule.name


def test_no_secret_reaches_the_snapshot() -> None:
    defs = build_defs(NOWHERE)
    repository = defs.get_repository_def()
    snapshots = [str(job.get_job_snapshot()) for job in repository.get_all_jobs()]
    assert snapshots
    assert not any("secret-of-the-test" in snapshot for snapshot in snapshots)


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is not set"):
        validate({**NOWHERE, name: ""})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("DATABASE_URL", "mysql://user:hidden@host/db", "starts with 'mysql'"),
        ("DRAGONFLY_URL", "localhost:6379", "DRAGONFLY_URL starts with"),
        ("CLICKHOUSE_URL", "http://host:port", "is not a URL"),
        ("MONGODB_URL", "mongodb://", "names no host"),
        ("RABBITMQ_URL", "rabbitmq://host", "RABBITMQ_URL starts with 'rabbitmq'"),
        ("INFLUXDB_URL", "http://host", "INFLUXDB_TOKEN is not set, and INFLUXDB_URL needs it"),
        ("AWS_ACCESS_KEY_ID", "key", "AWS_SECRET_ACCESS_KEY is not set"),
        ("PIPELINE_START", "20260131", "PIPELINE_START is not a date such as 2026-01-31 but '20260131': the first day"),
        ("PIPELINE_START", "2026-02-30", "PIPELINE_START is not a date such as 2026-01-31 but '2026-02-30': "),
        ("QUARANTINE_LIMIT_MIB", "1.5", "QUARANTINE_LIMIT_MIB is not a whole number above 0 but '1.5': "),
        ("HOSTS_WITHOUT_ORGANIZATION", "yes", "HOSTS_WITHOUT_ORGANIZATION is neither on nor off but 'yes': on if "),
    ],
)
def test_a_wrong_variable_is_named_without_its_secrets(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        validate({**NOWHERE, name: value})
    assert "hidden" not in str(caught.value)


def test_dagster_shows_the_settings_error() -> None:
    with pytest.raises(SettingsError, match="CLICKHOUSE_URL is not set"):
        build_defs({name: value for name, value in NOWHERE.items() if name != "CLICKHOUSE_URL"})


def test_settings_are_never_mixed(tmp_path) -> None:
    """A staging URL beside the local stack's password would be worse than an error."""
    (tmp_path / "settings.env").write_text("\n".join(f"{name}={value}" for name, value in NOWHERE.items()))
    assert dict(load({}, tmp_path)) == NOWHERE
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        load({"CLICKHOUSE_URL": "http://staging:8123"}, tmp_path)
