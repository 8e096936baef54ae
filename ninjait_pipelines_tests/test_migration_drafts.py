"""A drafted migration adds what FIELDS declares, and takes it away again."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ninjait_pipelines import migration_drafts
from ninjait_pipelines.errors import UserError
from ninjait_pipelines.metrics import model
from ninjait_pipelines.metrics.model import FIELDS, Metric
from ninjait_pipelines.migration_drafts import new_migration
from ninjait_pipelines.migrations import load, migrate_up, rollback
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse_schema import read_schema, snapshot
from ninjait_pipelines_tests.conftest import drop, fresh

BATTERY = Metric("percent of a full charge", "percent", {"battery_avg": "mean", "battery_count": "count"})


@pytest.fixture
def pair(stack: dict[str, str], migrated: str, tmp_path: Path) -> Iterator[Stores]:
    settings = fresh(stack, "test_migration_drafts", tmp_path, like=migrated)
    with open_stores(settings) as stores:
        yield stores
    drop(stack, settings)


@pytest.fixture
def battery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric more."""
    for module in (model, migration_drafts):
        monkeypatch.setattr(module, "FIELDS", {**FIELDS, "battery": BATTERY})


def test_the_columns_of_a_metric_come_and_go(pair: Stores, battery: None, tmp_path: Path) -> None:
    shutil.copytree(SQL, folder := tmp_path / "sql")
    path = new_migration("battery", "battery", folder / "clickhouse")
    assert load(folder / "clickhouse")[-1].name == path.stem
    assert migrate_up(pair.postgres, pair.clickhouse, folder=folder) == [f"clickhouse/{path.stem}"]
    schema = read_schema(pair.clickhouse)
    added = {
        (table, column.name): column.type
        for table in schema
        for column in schema[table].columns
        if column not in snapshot()[table].columns
    }
    windows = {
        (tier, f"battery_{name}"): "Nullable(Float64)"
        for tier in ("metrics_5m", "metrics_1h")
        for name in model.AGGREGATES
    }
    hourly = {"battery_avg": "Nullable(Float64)", "battery_count": "Nullable(UInt32)"}
    marts = ("device_metrics_hourly_versions", "device_metrics_hourly")
    assert added == {
        ("metrics", "battery"): "SimpleAggregateFunction(anyLast, Nullable(Float64))",
        **windows,
        ("device_sightings", "battery_at"): "SimpleAggregateFunction(max, DateTime64(3, 'UTC'))",
        **{(mart, name): type_ for mart in marts for name, type_ in hourly.items()},
    }
    for table, last in (("metrics", ["battery"]), ("metrics_5m", [f"battery_{name}" for name in model.AGGREGATES])):
        names = [column.name for column in schema[table].columns]
        assert names[-1 - len(last) :] == [*last, "received_at"], "the stores write their schemas' columns in order"
    assert all(column.comment for table in schema.values() for column in table.columns)
    rollback(pair.postgres, pair.clickhouse, "clickhouse", folder=folder)
    assert read_schema(pair.clickhouse) == snapshot()


def test_the_columns_that_are_there_are_those_that_fields_declare() -> None:
    for field, metric in FIELDS.items():
        for table, columns in migration_drafts._columns(field):
            found = {column.name: column.type for column in snapshot()[table].columns}
            assert {name: found.get(name) for name in columns} == {name: type_ for name, (type_, _) in columns.items()}
        assert metric.unit


def test_a_metric_that_is_not_declared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no metric battery: add it to FIELDS"):
        new_migration("battery", "battery", tmp_path)


def test_an_empty_draft_is_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "0007_seventh.sql").touch()
    assert new_migration("eighth", folder=tmp_path).read_text() == "-- Why.\n\n-- migrate: up\n-- migrate: down\n"
    assert (tmp_path / "0008_eighth.sql").exists()
