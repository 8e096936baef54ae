"""Views over versions are made from their storage, whatever migrations do to it."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from ninjait_pipelines.migrations import migrate_up, rollback
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse_schema import snapshot
from ninjait_pipelines.resources.clickhouse_versions import Versions, declared, refresh_views, sliced_marts, slices_from
from ninjait_pipelines_tests.conftest import drop, fresh

STORAGE = """
-- ORDER BY: a test's.
CREATE TABLE visits_versions (
    organization_id UUID COMMENT 'Whose',
    day Date COMMENT 'When',
    visits UInt32 COMMENT 'How many, of the organization''s own',
    as_of DateTime64(6, 'UTC') COMMENT 'Version'
) ENGINE = ReplacingMergeTree(as_of) ORDER BY (day, organization_id)
COMMENT 'Visits. Grain: day. Versions: by day.';"""
READS = "CREATE VIEW busy AS SELECT day FROM visits WHERE visits > 9 COMMENT 'Busy days';"


@pytest.fixture
def pair(stack: dict[str, str], tmp_path: Path) -> Iterator[Stores]:
    settings = fresh(stack, "test_generated_views", tmp_path)
    with open_stores(settings) as stores:
        yield stores
    drop(stack, settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sql" / "postgres").mkdir(parents=True)
    (tmp_path / "sql" / "clickhouse").mkdir()
    write(tmp_path / "sql", "clickhouse/0001_visits", STORAGE, "DROP TABLE IF EXISTS visits_versions;")
    return tmp_path / "sql"


def write(folder: Path, name: str, up: str, down: str) -> None:
    (folder / f"{name}.sql").write_text(f"-- migrate: up\n{up}\n-- migrate: down\n{down}\n")


def columns(stores: Stores, table: str) -> list[tuple[str, str, str]]:
    query = "SELECT name, type, comment FROM system.columns WHERE database = currentDatabase() AND table = {t:String}"
    return [tuple(row.values()) for row in stores.clickhouse.rows(f"{query} ORDER BY position", t=table)]  # type: ignore[misc]


def views(stores: Stores) -> dict[str, str]:
    query = "SELECT name, comment FROM system.tables WHERE database = currentDatabase() AND engine = 'View'"
    return {row["name"]: row["comment"] for row in stores.clickhouse.rows(query)}


def test_what_a_comment_declares() -> None:
    assert declared("Visits. Versions: by row.") == Versions(by_row=True)
    assert declared("Visits. Versions: whole.") == Versions()
    assert declared("Visits. Versions: by toDate(at).") == Versions(slice="toDate(at)")
    assert declared("Visits. Versions: by hour where n > 0.") == Versions(slice="hour", shown="n > 0")
    assert declared("Storage of visits: read that view instead.") is None


def test_every_storage_declares_its_versions_and_has_its_view() -> None:
    storages = [name for name in snapshot() if name.endswith("_versions")]
    assert storages
    for storage in storages:
        assert declared(snapshot()[storage].comment), f"the comment of {storage} ends in no 'Versions: by ...'"
        assert storage.removesuffix("_versions") in snapshot()
    assert {"organizations", "invoice_lines"} <= set(sliced_marts())
    assert "device_heartbeats" not in sliced_marts()


def test_only_what_is_versioned_by_row_is_read_with_final(pair: Stores) -> None:
    """FINAL merges at every read: a device's month took forty times as long."""
    migrate_up(pair.postgres, pair.clickhouse)
    query = "SELECT name FROM system.tables WHERE database = currentDatabase() AND as_select LIKE '%_versions FINAL%'"
    merged = {row["name"] for row in pair.clickhouse.rows(query)}
    assert merged == {"device_heartbeats", "api_calls", "usage_reports"}


def test_a_view_follows_its_storage_through_migrations_and_back(pair: Stores, folder: Path) -> None:
    """Each view repeated its storage letter by letter, and each migration of one wrote both."""
    migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    assert views(pair) == {"visits": "Visits. Grain: day."}
    before = columns(pair, "visits")
    assert before == columns(pair, "visits_versions")
    alter = "ALTER TABLE visits_versions ADD COLUMN seconds UInt32 DEFAULT 7 COMMENT 'How long' AFTER visits;"
    undo = "ALTER TABLE visits_versions DROP COLUMN IF EXISTS seconds;"
    write(folder, "clickhouse/0002_seconds", alter, undo)
    write(folder, "clickhouse/0003_long", READS.replace("visits > 9", "seconds > 9"), "DROP VIEW IF EXISTS busy;")
    migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    assert columns(pair, "visits") == columns(pair, "visits_versions") != before
    assert set(views(pair)) == {"visits", "busy"}
    for _ in range(2):
        rollback(pair.postgres, pair.clickhouse, "clickhouse", folder=folder)
    assert columns(pair, "visits") == before
    rollback(pair.postgres, pair.clickhouse, "clickhouse", folder=folder)
    assert views(pair) == {}


def test_what_was_not_finished_is_finished_by_the_next_up(pair: Stores, folder: Path) -> None:
    """A process may die between a migration and the views; or somebody drops a view, or writes it by hand."""
    migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    made = columns(pair, "visits")
    for damage in (
        "DROP VIEW visits",
        "CREATE OR REPLACE VIEW visits AS SELECT 1 AS day",
        "ALTER TABLE visits_versions ADD COLUMN extra String COMMENT 'One more'",
        "ALTER TABLE visits_versions COMMENT COLUMN day 'The day'",
    ):
        pair.clickhouse.command(damage)
        assert migrate_up(pair.postgres, pair.clickhouse, folder=folder) == []
        assert columns(pair, "visits") == columns(pair, "visits_versions")
    assert columns(pair, "visits") != made
    assert refresh_views(pair.clickhouse) == []


def test_views_that_others_wrote_are_left_alone(pair: Stores, folder: Path) -> None:
    write(folder, "clickhouse/0002_busy", READS, "DROP VIEW IF EXISTS busy;")
    migrate_up(pair.postgres, pair.clickhouse, folder=folder)
    pair.clickhouse.command("CREATE VIEW old_versions AS SELECT 1 AS a COMMENT 'No storage'")
    pair.clickhouse.command("DROP TABLE visits_versions")
    assert refresh_views(pair.clickhouse) == []
    assert set(views(pair)) == {"busy", "old_versions"}


def test_the_slice_of_a_window_is_of_its_columns_type() -> None:

    start = datetime(2026, 11, 1, 5, tzinfo=UTC)
    assert slices_from("device_metrics_hourly", start) == [start]
    assert slices_from("ticket_events", start) == [date(2026, 11, 1)]
    assert slices_from("users", start) == []
    with pytest.raises(KeyError, match="does not say what is replaced"):
        slices_from("device_heartbeats", start)
