"""A platform to bill: organizations with agreements in PostgreSQL, their usage in ClickHouse.

Many small tests on one set of databases.
"""

import uuid
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from ninjait_pipelines.billing.agreements import enter
from ninjait_pipelines.billing.local_time import DAY, HOUR, next_month
from ninjait_pipelines.billing.rating.agreement import agreement
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines_tests.runs import add
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["module_stores", "settings", "shared_stores"]

NAMES = uuid.UUID(int=1)
SINCE = datetime(2025, 12, 1, tzinfo=UTC)
LONG_AGO = SINCE.date()
ITEMS: dict[str, dict[str, Any]] = {
    "base_fee": {"kind": "flat", "amount": "99"},
    "devices": {"kind": "device", "amount": "3.90", "basis": "reporting"},
    "storage": {"kind": "storage", "amount": "0.10"},
    "backup": {"kind": "backup", "amount": "0.05"},
    "api_calls": {"kind": "api_calls", "amount": "0.0005", "included": "3100"},
}


class Platform:
    """Writes what billing reads, and nothing else."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores

    def organization(self, name: str, time_zone: str) -> uuid.UUID:
        id_ = uuid.uuid5(NAMES, name)
        row = {"id": id_, "name": name, "slug": name, "time_zone": time_zone, "created_at": SINCE}
        add(self.stores, "organizations", [row])
        return id_

    def agreement(
        self, organization: uuid.UUID, starts_on: date = LONG_AGO, ends_on: date | None = None, **changes: Any
    ) -> uuid.UUID:
        """Enters an agreement in the organization's time zone, with an item of each product; changes: of its fields."""
        [row] = self.stores.postgres.rows("SELECT time_zone FROM organizations WHERE id = %(id)s", {"id": organization})
        term = {"from": starts_on.isoformat()} | ({"to": ends_on.isoformat()} if ends_on else {})
        document = {
            "id": str(uuid.uuid5(organization, starts_on.isoformat())),
            "organization_id": str(organization),
            "currency": "EUR",
            "time_zone": row["time_zone"],
            "term": term,
            "items": [one_item(product, term, **columns) for product, columns in ITEMS.items()],
            **changes,
        }
        with self.stores.postgres.transaction() as connection:
            return enter(connection, agreement(msgspec.json.encode(document)))

    def device(self, organization: uuid.UUID, device: int, **columns: Any) -> uuid.UUID:
        """A registered device, which has a term from then on; again, the same."""
        id_ = uuid.uuid5(organization, str(device))
        row = {"id": id_, "organization_id": organization, "name": str(id_), "kind": "laptop", "created_at": SINCE}
        if not self.stores.postgres.rows("SELECT FROM devices WHERE id = %(id)s", {"id": id_}):
            add(self.stores, "devices", [row | columns])
        return id_

    def samples(self, organization: uuid.UUID, device: int, hours: Iterable[datetime]) -> None:
        """One row of device_metrics_hourly in each of these hours, of a registered device."""
        names = ("cpu_avg", "cpu_max", "memory_avg", "memory_max", "disk_usage", "network_in", "network_out", "uptime")
        names += ("cpu_count", "memory_count", "memory_total", "disk_total", "disk_free", "several_senders")
        names += ("first_sample", "last_sample")
        row = {"organization_id": organization, "device_id": self.device(organization, device)}
        row |= {**dict.fromkeys(names), "sample_count": 120, "sample_share": 1.0, "source_tier": "metrics"}
        self._insert("device_metrics_hourly", [{**row, "timestamp": hour} for hour in hours])

    def rolled_up(self, hours: Iterable[datetime]) -> None:
        hours = list(hours)
        columns = {
            "hour": pa.array(hours, pa.timestamp("s", "UTC")),
            "as_of": pa.array([SINCE] * len(hours), pa.timestamp("us", "UTC")),
            "source_tier": ["metrics"] * len(hours),
            "row_count": pa.array([1] * len(hours), pa.uint32()),
        }
        self.stores.clickhouse.insert("rolled_up_hours", pa.table(columns))

    def usage(self, organization: uuid.UUID, moment: datetime, storage: str, backup: str) -> None:
        row = {"organization_id": organization, "timestamp": moment, "message_id": uuid.uuid4()}
        self._insert("usage_reports", [{**row, "storage_gb": Decimal(storage), "backup_gb": Decimal(backup)}])

    def calls(self, organization: uuid.UUID, *moments: datetime, **columns: Any) -> None:
        row = {"organization_id": organization, "endpoint": "/v1/devices", "method": "GET", "status_code": 200}
        row |= {"response_time_ms": 1.0, "user_id": None, **columns}
        rows = [{**row, "timestamp": moment, "message_id": uuid.uuid4()} for moment in moments]
        self._insert("api_calls", rows)

    def _insert(self, view: str, rows: list[dict[str, object]]) -> None:
        table = mart_rows(view, rows)
        as_of = pa.array([SINCE] * len(rows), pa.timestamp("us", "UTC"))
        self.stores.clickhouse.insert(f"{view}_versions", table.append_column("as_of", as_of))


def one_item(product: str, term: dict[str, str], amount: str, **columns: Any) -> dict[str, Any]:
    """An item of a product, with a price that was published before anything."""
    price = {"version": 1, "from": "2020-01-01", "published_at": "2020-01-01T00:00:00Z", "amount": amount}
    return {"product": product, "prices": [price], **term, **columns}


@pytest.fixture
def platform(shared_stores: Stores) -> Platform:
    return Platform(shared_stores)


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """The hours from start on, before end."""
    return [start + i * HOUR for i in range((end - start) // HOUR)]


def today() -> date:
    return datetime.now(UTC).date()


def last_month() -> date:
    """The first day of the last whole month: tests must not lie before the tables' time to live."""
    return (today().replace(day=1) - timedelta(days=1)).replace(day=1)


MONTH = last_month()
WHOLE = (MONTH.isoformat(), (next_month(MONTH) - DAY).isoformat())


def small(platform: Platform) -> None:
    """Two organizations, far apart, with a week of everything."""
    start = datetime.combine(today() - 8 * DAY, datetime.min.time(), UTC)
    assert start > SINCE
    for name, zone in (("east", "Pacific/Auckland"), ("west", "America/Los_Angeles")):
        organization = platform.organization(name, zone)
        platform.agreement(organization)
        platform.samples(organization, 1, hours_between(start, start + 7 * DAY))
        platform.calls(organization, *hours_between(start, start + 7 * DAY))
        platform.usage(organization, start + 90 * HOUR, "12.5", "1.25")
