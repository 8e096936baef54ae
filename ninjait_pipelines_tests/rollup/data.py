"""Points, touches and runs for the tests of everything that reads device_metrics_hourly."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from ninjait_pipelines.metrics.model import FIELDS, POINTS
from ninjait_pipelines.partitions import HOURLY
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.rollup.assets import device_metrics_hours
from ninjait_pipelines.rollup.checks import sample_shares_are_shares, samples_are_conserved
from ninjait_pipelines_tests.runs import empty_instance, run

ORGANIZATION = "00000000-0000-4000-8000-00000000000a"
OTHER_ORGANIZATION = "00000000-0000-4000-8000-00000000000b"
DEVICE = "00000000-0000-4000-8000-0000000000d1"
OTHER_DEVICE = "00000000-0000-4000-8000-0000000000d2"
HOUR = timedelta(hours=1)
ROLLUP = [device_metrics_hours]
CHECKS = [samples_are_conserved, sample_shares_are_shares]


def midnight(days_ago: int) -> datetime:
    """00:00 UTC so many days ago: relative to the real now, because the tiers really expire."""
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=days_ago)


def points(
    start: datetime,
    count: int = 120,
    every: timedelta = timedelta(seconds=30),
    device: str = DEVICE,
    organization: str = ORGANIZATION,
    **fields: Any,
) -> pa.Table:
    """Samples from `start` on; the i-th has cpu i, memory 1000 + i and so on, or what `fields` says."""
    columns: dict[str, Any] = {
        "organization_id": [organization] * count,
        "device_id": [device] * count,
        "time": [start + index * every for index in range(count)],
    }
    for number, name in enumerate(FIELDS):
        columns[name] = fields.get(name, [float(number * 1000 + index % 100) for index in range(count)])
    return pa.table(columns, schema=POINTS)


def touch(stores: Stores, *hours: datetime, organization: str = ORGANIZATION) -> None:
    """What ingest records after it wrote points of these hours."""
    rows = {"organization_id": [organization] * len(hours), "run_id": ["test"] * len(hours)}
    rows |= {"points": pa.array([1] * len(hours), pa.uint32()), "hour": pa.array(hours, pa.timestamp("s", "UTC"))}
    stores.clickhouse.insert("touched_hours", pa.table(rows))


def key(hour: datetime) -> str:
    """The partition key of an hour."""
    return HOURLY.get_partition_key_for_timestamp(hour.timestamp())


def roll_up(stores: Stores, first: datetime, last: datetime | None = None) -> dg.ExecuteInProcessResult:
    """Runs the three roll-up assets and their checks over hours, both ends included."""
    return run(stores, *ROLLUP, *CHECKS, span=(key(first), key(last or first)))


def check(stores: Stores, assets: Sequence[Any], checks: Sequence[Any], key: str | None = None) -> dict[str, Any]:
    """Runs checks alone, over what is there: name -> evaluation."""
    tags = {"dagster/asset_partition_range_start": key, "dagster/asset_partition_range_end": key} if key else None
    with empty_instance() as instance:
        result = dg.materialize(
            [*assets, *checks],
            selection=dg.AssetSelection.checks(*checks),
            resources=stores.all(),
            tags=tags,
            instance=instance,
            raise_on_error=False,
        )
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def hourly(stores: Stores, version: bool = False) -> list[dict[str, Any]]:
    """device_metrics_hourly as a reader sees it."""
    rows = stores.clickhouse.rows("SELECT * FROM device_metrics_hourly ORDER BY timestamp, organization_id, device_id")
    return rows if version else [{name: value for name, value in row.items() if name != "as_of"} for row in rows]
