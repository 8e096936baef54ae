"""The snapshot of ClickHouse's schema is what migrations make, and rows fit it or are refused."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from ninjait_pipelines.resources import Stores, clickhouse_schema
from ninjait_pipelines.resources.clickhouse_schema import (
    SNAPSHOT,
    Column,
    Table,
    column_schema,
    mart_columns,
    mart_rows,
    read_schema,
    snapshot,
    write_snapshot,
)

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
EVENT = {
    "event_id": uuid.UUID(int=1),
    "organization_id": uuid.UUID(int=2),
    "ticket_id": uuid.UUID(int=3),
    "actor_id": uuid.UUID(int=4),
    "event_type": "created",
    "timestamp": NOON,
    "duration_seconds": 0,
    "sla_breached": 0,
    "technician_id": None,
    "old_value": None,
    "new_value": None,
}


def test_the_snapshot_is_what_the_migrations_make(stores: Stores) -> None:
    """A column that a later migration added was dropped in silence, and the UI showed comments of the first one."""
    assert read_schema(stores.clickhouse) == snapshot(), "make generated"


def test_the_snapshot_is_written_as_it_is_read(tmp_path: Path) -> None:
    write_snapshot(snapshot(), tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == SNAPSHOT.read_text()


def test_comments_are_the_newest() -> None:
    """The UI showed 0005's comment of sample_share, not 0011's."""
    comments = {column.name: column.description for column in column_schema("device_metrics_hourly").columns}
    assert str(comments["sample_share"]).startswith("Share of the hour that its samples cover")


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Table]], None]:
    """Makes these tables the snapshot."""
    return lambda tables: monkeypatch.setattr(clickhouse_schema, "snapshot", lambda: tables)


@pytest.fixture
def with_default(declare: Callable[[dict[str, Table]], None]) -> None:
    """ticket_events has a column more, with a default, as a migration may add."""
    storage = snapshot()["ticket_events_versions"]
    wider = Table(storage.comment, (*storage.columns, Column("channel", "String", "How it came", has_default=True)))
    declare({**snapshot(), "ticket_events_versions": wider})


@pytest.mark.parametrize("make", [mart_rows, lambda mart, rows: mart_columns(mart, by_columns(rows))])
def test_rows_have_the_columns_of_the_table_and_no_other(with_default: None, make: Any) -> None:
    assert "channel" not in make("ticket_events", [EVENT]).column_names
    assert make("ticket_events", [EVENT | {"channel": "mail"}])["channel"].to_pylist() == ["mail"]
    with pytest.raises(KeyError, match="ticket_events has no column color: add it by a migration"):
        make("ticket_events", [EVENT | {"color": "red"}])
    with pytest.raises(KeyError, match="rows of ticket_events lack actor_id"):
        make("ticket_events", [{name: value for name, value in EVENT.items() if name != "actor_id"}])


def by_columns(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{name: str(value) if isinstance(value, uuid.UUID) else value for name, value in row.items()} for row in rows]
    )


def test_rows_that_differ_in_their_columns_are_refused(with_default: None) -> None:
    """Rows that lack what others have would get the default of nobody's choice."""
    with pytest.raises(KeyError, match="ticket_events: some rows lack channel"):
        mart_rows("ticket_events", [EVENT, EVENT | {"channel": "mail"}])


def test_an_added_column_reaches_clickhouse(stores: Stores, declare: Callable[[dict[str, Table]], None]) -> None:
    clickhouse = stores.clickhouse
    clickhouse.command("ALTER TABLE ticket_facts_versions ADD COLUMN note String DEFAULT 'none' COMMENT 'A note'")
    try:
        declare(read_schema(clickhouse))
        rows = [{name: _any(column.type) for name, column in clickhouse_schema.written_columns("ticket_facts").items()}]
        rows[0] |= {"day": NOON.date(), "note": "seen"}
        clickhouse.replace_slice("ticket_facts", mart_rows("ticket_facts", rows), clickhouse.now(), [NOON.date()])
        found = "SELECT note FROM ticket_facts_versions FINAL WHERE organization_id != toUUID({nobody:UUID})"
        assert clickhouse.rows(found, nobody=uuid.UUID(int=0)) == [{"note": "seen"}]
        del rows[0]["note"]
        clickhouse.replace_slice("ticket_facts", mart_rows("ticket_facts", rows), clickhouse.now(), [NOON.date()])
        assert clickhouse.rows(found, nobody=uuid.UUID(int=0)) == [{"note": "none"}]
    finally:
        clickhouse.command("ALTER TABLE ticket_facts_versions DROP COLUMN note")


def _any(type_: str) -> Any:
    if type_.startswith("Nullable"):
        return None
    values: dict[str, Any] = {"UUID": uuid.UUID(int=9), "Bool": False, "DateTime64(3, 'UTC')": NOON}
    return values.get(type_, "x" if "String" in type_ else 1)


def test_each_column_has_a_line_of_its_own() -> None:
    lines = SNAPSHOT.read_text().splitlines()
    columns = sum(len(table.columns) for table in snapshot().values())
    assert sum('{"name":' in line for line in lines) == columns
    assert msgspec.json.decode(SNAPSHOT.read_bytes())
