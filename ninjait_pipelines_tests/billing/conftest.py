"""A platform to bill: organizations with contracts in PostgreSQL, their usage in ClickHouse.

Many small tests on one set of databases.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest

from ninjait_pipelines.billing.assets import events_of
from ninjait_pipelines.billing.invoice import Contract
from ninjait_pipelines.billing.local_time import DAY, HOUR, day_window
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines_tests.runs import add
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["module_stores", "settings", "shared_stores"]

PLAN = uuid.UUID(int=1)
PRICES = {  # version -> prices
    1: ("99.00", "3.90", "0.10", "0.05", 3100, "0.50"),
    2: ("109.00", "4.00", "0.20", "0.10", 6200, "0.25"),
}
SINCE = datetime(2025, 12, 1, tzinfo=UTC)


class Platform:
    """Writes what billing reads, and nothing else."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        for version, (base, device, storage, backup, included, thousand) in PRICES.items():
            plan = {"id": PLAN, "version": version, "name": "Plan", "currency": "EUR", "published_at": SINCE}
            plan |= {"base_fee": base, "device_month_price": device, "storage_gb_month_price": storage}
            plan |= {"backup_gb_month_price": backup, "api_calls_included": included}
            add(stores, "price_plans", [{**plan, "api_calls_thousand_price": thousand}])

    def organization(self, name: str, time_zone: str) -> uuid.UUID:
        id_ = uuid.uuid5(PLAN, name)
        row = {"id": id_, "name": name, "slug": name, "time_zone": time_zone, "created_at": SINCE}
        add(self.stores, "organizations", [row])
        return id_

    def contract(
        self, organization: uuid.UUID, starts_on: date, ends_on: date | None = None, version: int = 1
    ) -> uuid.UUID:
        id_ = uuid.uuid5(organization, starts_on.isoformat())
        terms = {"starts_on": starts_on, "ends_on": ends_on, "price_plan_id": PLAN, "price_plan_version": version}
        add(self.stores, "contracts", [{"id": id_, "organization_id": organization, **terms}])
        return id_

    def samples(self, organization: uuid.UUID, device: int, hours: Iterable[datetime]) -> None:
        """One row of device_metrics_hourly in each of these hours."""
        names = ("cpu_avg", "cpu_max", "memory_avg", "memory_max", "disk_usage", "network_in", "network_out", "uptime")
        names += (
            "cpu_count",
            "memory_count",
            "memory_total",
            "disk_total",
            "disk_free",
            "several_senders",
            "first_sample",
        )
        names += ("last_sample",)
        row = {"organization_id": organization, "device_id": uuid.uuid5(organization, str(device))}
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

    def calls(self, organization: uuid.UUID, *moments: datetime) -> None:
        row = {"organization_id": organization, "endpoint": "/v1/devices", "method": "GET", "status_code": 200}
        row |= {"response_time_ms": 1.0, "user_id": None}
        rows = [{**row, "timestamp": moment, "message_id": uuid.uuid4()} for moment in moments]
        self._insert("api_calls", rows)

    def events(
        self, contract: Contract, days: Sequence[date], storage: str = "100.5", completeness: float = 1.0
    ) -> None:
        """Rows of billing_quantities as the asset would have written them; written again, the later call counts."""
        measured = {"devices": 2, "storage_gb": Decimal(storage), "backup_gb": 10, "api_calls": 12, "hours": 0}
        rows = [
            {**row, "completeness": completeness}
            for day in days
            for row in events_of(contract, day, day_window(day, contract.time_zone), measured)
        ]
        as_of = pa.array([self.stores.clickhouse.now()] * len(rows), pa.timestamp("us", "UTC"))
        table = mart_rows("billing_quantities", rows).append_column("as_of", as_of)
        earlier = "organization_id = {id:UUID} AND local_day IN {days:Array(Date)}"
        self.stores.clickhouse.command(
            f"DELETE FROM billing_quantities_versions WHERE {earlier}", id=contract.organization_id, days=list(days)
        )
        self.stores.clickhouse.insert("billing_quantities_versions", table)

    def _insert(self, view: str, rows: list[dict[str, object]]) -> None:
        table = mart_rows(view, rows)
        as_of = pa.array([SINCE] * len(rows), pa.timestamp("us", "UTC"))
        self.stores.clickhouse.insert(f"{view}_versions", table.append_column("as_of", as_of))


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


LONG_AGO = date(2025, 12, 1)
MONTH = last_month()


def small(platform: Platform) -> None:
    """Two organizations, far apart, with a week of everything."""
    start = datetime.combine(today() - 8 * DAY, datetime.min.time(), UTC)
    assert start > SINCE
    for name, zone in (("east", "Pacific/Auckland"), ("west", "America/Los_Angeles")):
        organization = platform.organization(name, zone)
        platform.contract(organization, LONG_AGO)
        platform.samples(organization, 1, hours_between(start, start + 7 * DAY))
        platform.calls(organization, *hours_between(start, start + 7 * DAY))
        platform.usage(organization, start + 90 * HOUR, "12.5", "1.25")
