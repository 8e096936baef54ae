"""A week of marts to report on, and what a report's readers find."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from ninjait_pipelines.reports.assets import (
    every_organization_has_its_report,
    weekly_reports,
)
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines_tests.rollup.data import DEVICE, HOUR, ORGANIZATION, OTHER_ORGANIZATION, midnight
from ninjait_pipelines_tests.runs import passed, run

DAY = timedelta(days=1)


THIS_WEEK = midnight(datetime.now(UTC).weekday())


WEEK = THIS_WEEK - 7 * DAY


LONG_AGO = WEEK - 300 * DAY


KEY = f"{WEEK:%Y-%m-%d}"


def put(stores: Stores, mart: str, *rows: dict[str, Any]) -> None:
    """Rows of a mart, as another stage would have written them."""
    table = mart_rows(mart, rows)
    as_of = pa.array([stores.clickhouse.now()] * len(rows), pa.timestamp("us", "UTC"))
    stores.clickhouse.insert(f"{mart}_versions", table.append_column("as_of", as_of))


@pytest.fixture
def marts(shared_stores: Stores) -> Stores:
    """A busy organization and a silent one, 84 of the week's 168 hours rolled up."""
    organization = {"time_zone": "UTC", "created_at": LONG_AGO, "deactivated_at": None}
    put(
        shared_stores,
        "organizations",
        {**organization, "id": ORGANIZATION, "name": "North", "slug": "north"},
        {**organization, "id": OTHER_ORGANIZATION, "name": "South", "slug": "south"},
    )
    device = {"organization_id": ORGANIZATION, "hostname": "host", "kind": "server", "operating_system": "Debian 12"}
    put(shared_stores, "devices", {**device, "id": DEVICE, "registered_at": LONG_AGO, "retired_at": None})
    rolled_up = {
        "hour": pa.array([WEEK + number * HOUR for number in range(84)], pa.timestamp("s", "UTC")),
        "as_of": pa.array([WEEK] * 84, pa.timestamp("us", "UTC")),
        "source_tier": ["metrics"] * 84,
        "row_count": pa.array([1] * 84, pa.uint32()),
    }
    shared_stores.clickhouse.insert("rolled_up_hours", pa.table(rolled_up))
    return shared_stores


def publish(stores: Stores, key: str = KEY) -> dict[str, bool]:
    return passed(run(stores, weekly_reports, every_organization_has_its_report, key=key))


def archived(stores: Stores, organization: str = ORGANIZATION, key: str = KEY) -> dict[str, Any]:
    return dict(json.loads(stores.archive.read(f"weekly_reports/week={key}/organization_id={organization}.json")))
