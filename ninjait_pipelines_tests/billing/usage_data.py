"""Calls, reports and hours, written as ingest and the roll-up write them."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal

import pyarrow as pa

from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.cache.data import mart

ACME = str(uuid.UUID(int=1))
DEVICE = uuid.UUID(int=7)


def add_calls(stores: Stores, calls: Sequence[tuple[str, datetime, int]], organization: str = ACME) -> None:
    rows = [
        {"organization_id": organization, "message_id": id_, "timestamp": at, "status_code": status, "method": "GET"}
        for id_, at, status in calls
    ]
    mart(stores, "api_calls", *rows)


def add_reports(stores: Stores, reports: Iterable[tuple[datetime, Decimal]], organization: str = ACME) -> None:
    rows = [
        {
            "organization_id": organization,
            "message_id": uuid.uuid4(),
            "timestamp": at,
            "storage_gb": gb,
            "backup_gb": gb * 2,
        }
        for at, gb in reports
    ]
    mart(stores, "usage_reports", *rows)


def add_hour(stores: Stores, hour: datetime, first: datetime | None, last: datetime | None) -> None:
    row = {"organization_id": ACME, "device_id": DEVICE, "timestamp": hour, "sample_count": 2, "sample_share": 1.0}
    mart(stores, "device_metrics_hourly", {**row, "first_sample": first, "last_sample": last})


def add_rolled_up(stores: Stores, hours: Sequence[datetime]) -> None:
    columns = {"hour": pa.array(hours, pa.timestamp("s", "UTC")), "source_tier": ["metrics"] * len(hours)}
    columns |= {
        "as_of": pa.array(hours, pa.timestamp("us", "UTC")),
        "row_count": pa.array([1] * len(hours), pa.uint32()),
    }
    stores.clickhouse.insert("rolled_up_hours", pa.table(columns))
