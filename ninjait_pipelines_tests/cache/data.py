"""A small platform for the tests of everything that reads the marts: two organizations, and one without devices."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pyarrow as pa

from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_schema import mart_rows, written_columns
from ninjait_pipelines_tests.runs import add

ALPHA, BETA, EMPTY = (UUID(int=number) for number in (0xA, 0xB, 0xC))
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def midnight(days_ago: int) -> datetime:
    """00:00 UTC so many days ago."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)


def hours(start: datetime, count: int) -> list[datetime]:
    return [start + index * HOUR for index in range(count)]


def mart(stores: Stores, view: str, *rows: dict[str, Any]) -> None:
    """Rows of a mart, newer than all before; a column that a row does not name has its type's zero, or null."""
    blank: dict[str, Any] = {}
    for name, column in written_columns(view).items():
        type_ = column.type
        zeros: dict[str, Any] = {"UUID": UUID(int=0), "Bool": False}
        nothing = "" if "String" in type_ else zeros.get(type_, 0)
        blank[name] = None if type_.startswith("Nullable") else nothing
    table = mart_rows(view, [blank | row for row in rows])
    as_of = pa.array([datetime.now(UTC)] * len(rows), pa.timestamp("us", "UTC"))
    stores.clickhouse.insert(f"{view}_versions", table.append_column("as_of", as_of))


class Fleet:
    """Writes what caches, archive and reports read, and nothing else; devices in PostgreSQL and ClickHouse."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        rows = [
            {"id": id_, "name": name, "slug": name, "time_zone": "UTC", "created_at": SINCE}
            for id_, name in {ALPHA: "Alpha", BETA: "Beta", EMPTY: "Empty"}.items()
        ]
        add(stores, "organizations", rows)
        mart(stores, "organizations", *({**row, "deactivated_at": None} for row in rows))

    def device(
        self, organization: UUID, name: str, registered_at: datetime = SINCE, retired_at: datetime | None = None
    ) -> UUID:
        row: dict[str, Any] = {"id": uuid5(organization, name), "organization_id": organization, "kind": "server"}
        row |= {"retired_at": retired_at}
        add(self.stores, "devices", [{**row, "name": name, "os_version": "Linux", "created_at": registered_at}])
        copy = {"hostname": name, "operating_system": "Linux", "registered_at": registered_at}
        mart(self.stores, "devices", {**row, **copy})
        return row["id"]

    def hourly(
        self, organization: UUID, device: UUID, when: Sequence[datetime], samples: int = 120, **fields: float | None
    ) -> None:
        row: dict[str, Any] = {"organization_id": organization, "device_id": device, "sample_count": samples}
        row |= {"sample_share": min(1.0, samples / 120), "source_tier": "metrics", **fields}
        mart(self.stores, "device_metrics_hourly", *({**row, "timestamp": hour} for hour in when))

    def rolled_up(self, when: Iterable[datetime]) -> None:
        when = list(when)
        columns = {"hour": pa.array(when, pa.timestamp("s", "UTC")), "source_tier": ["metrics"] * len(when)}
        columns["as_of"] = pa.array([datetime.now(UTC)] * len(when), pa.timestamp("us", "UTC"))
        columns["row_count"] = pa.array([1] * len(when), pa.uint32())
        self.stores.clickhouse.insert("rolled_up_hours", pa.table(columns))

    def heartbeat(self, organization: UUID, device: UUID, moment: datetime, status: str) -> None:
        row = {"organization_id": organization, "device_id": device, "timestamp": moment, "status": status}
        mart(self.stores, "device_heartbeats", {**row, "message_id": uuid5(device, f"{moment}")})
