"""The three caches. They have no partitions: each run writes the state as of its start, by ClickHouse's clock."""

import time
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg
from pydantic import Field

from ninjait_pipelines.cache import reads
from ninjait_pipelines.cache.documents import device_list, summary, uptime_scores
from ninjait_pipelines.cache.leaderboard import publish
from ninjait_pipelines.keys import DEVICES_TTL, as_of_text, organization_devices, organization_summary
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.metrics.latest import latest_reading
from ninjait_pipelines.metrics.model import MAX_CLOCK_SKEW
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError

DAY_HOURS = 24
WEEK_HOURS = 168
# By the clock, not by their sources, which change every few seconds: one run for all three every four minutes, so that
# a device list (five minutes) is replaced before it expires. A late run is not requested twice.
EVERY_FOUR_MINUTES = (
    dg.AutomationCondition.cron_tick_passed("*/4 * * * *") & ~dg.AutomationCondition.in_progress()
).with_label("every_four_minutes")
COMMON: dict[str, Any] = {
    "group_name": "cache",
    "owners": ["team:data-engineering"],
    "automation_condition": EVERY_FOUR_MINUTES,
    "kinds": {"redis"},
}


class DeviceCachesConfig(dg.Config):
    """How much a run of device_caches repairs."""

    latest_minutes: int = Field(
        default=15,
        ge=1,
        le=7 * 24 * 60,
        description="Minutes back for which latest readings are repaired from the metrics store. More once Dragonfly "
        "has lost its data: devices that were silent since have none",
    )


@dg.asset(**COMMON, deps=["agent_metrics", "agent_heartbeats"])
def device_caches(
    context: dg.AssetExecutionContext,
    config: DeviceCachesConfig,
    clickhouse: ClickHouse,
    postgres: Postgres,
    dragonfly: Dragonfly,
    metrics_store: dg.ResourceParam[MetricsStore],
) -> dg.MaterializeResult:
    """api:devices:{organization_id}: the devices of each organization with status, last_seen and latest readings.

    First it repairs device:{device_id}:latest from the metrics store: what drains could not write while Dragonfly was
    down, and devices whose agents spread one reading over several messages.

    Dying half-way: some organizations have the new list, the others the old one until the next run or its expiry.
    """
    started = time.perf_counter()
    as_of, left_out = clickhouse.now(), LeftOut()
    points = _latest_points(context, metrics_store, as_of - timedelta(minutes=config.latest_minutes), as_of)
    repaired = dragonfly.set_many_if_newer(map(latest_reading, points))
    organizations = reads.devices_by_organization(postgres, clickhouse, as_of, left_out)
    readings = {id_: reads.latest_readings(dragonfly, devices) for id_, devices in organizations.items()}

    def document(id_: UUID) -> tuple[str, dict[str, Any]]:
        return organization_devices(id_), device_list(id_, organizations[id_], readings[id_], as_of)

    documents = dict(left_out.each(organizations, _name, document))
    written = dragonfly.set_many_if_newer(documents.items(), DEVICES_TTL)
    devices = sum(map(len, organizations.values()))
    return _result(started, left_out, len(documents), written=written, devices=devices, latest_written=repaired)


def _name(organization_id: UUID) -> str:
    return f"organization {organization_id}"


def _latest_points(
    context: dg.AssetExecutionContext, metrics_store: MetricsStore, since: datetime, as_of: datetime
) -> list[dict[str, Any]]:
    """Each device's latest point, to be written unless the cache has a newer one.

    Empty if the metrics store is down: the lists are still written, with the readings that the drains left.
    """
    try:
        return metrics_store.latest(since, as_of + MAX_CLOCK_SKEW).to_pylist()
    except StoreError as error:
        context.log.warning("The latest readings were not compared with the metrics store: %s", error)
        return []


@dg.asset(**COMMON, deps=["device_metrics_hourly", "agent_heartbeats"])
def organization_summaries(clickhouse: ClickHouse, postgres: Postgres, dragonfly: Dragonfly) -> dg.MaterializeResult:
    """org:{organization_id}:summary: devices by status, the last 24 hours of data, open tickets and alerts.

    Dying half-way: some organizations have the new summary, the others the old one until the next run.
    """
    started = time.perf_counter()
    as_of, left_out = clickhouse.now(), LeftOut()
    window = reads.rolled_up_window(clickhouse, DAY_HOURS)
    means = reads.means_by_organization(clickhouse, window)
    work = reads.open_work(postgres)
    organizations = reads.devices_by_organization(postgres, clickhouse, as_of, left_out)

    def document(id_: UUID) -> tuple[str, dict[str, Any]]:
        found = summary(id_, organizations[id_], window, means.get(id_, {}), work[id_], as_of)
        return organization_summary(id_), found

    documents = dict(left_out.each(organizations, _name, document))
    written = dragonfly.set_many_if_newer(documents.items())
    return _result(started, left_out, len(documents), written=written, completeness=window.completeness)


@dg.asset(**COMMON, deps=["device_metrics_hourly"])
def uptime_leaderboard(clickhouse: ClickHouse, postgres: Postgres, dragonfly: Dragonfly) -> dg.MaterializeResult:
    """uptime:leaderboard: for every active device, the share of the last seven days of data that its samples cover."""
    started = time.perf_counter()
    as_of, left_out = clickhouse.now(), LeftOut()
    window = reads.rolled_up_window(clickhouse, WEEK_HOURS)
    organizations = reads.devices_by_organization(postgres, clickhouse, as_of, left_out)
    scores = uptime_scores((device for devices in organizations.values() for device in devices), window, left_out)
    about = {
        "as_of": as_of_text(as_of),
        "completeness": window.completeness,
        "window": window.document(),
        "devices": len(scores),
    }
    switched = publish(dragonfly, scores, about)
    return _result(started, left_out, len(scores), switched=switched, completeness=window.completeness)


def _result(started: float, left_out: LeftOut, rows: int, **more: Any) -> dg.MaterializeResult:
    more |= {"dagster/row_count": rows, "duration_seconds": time.perf_counter() - started}
    return dg.MaterializeResult(metadata=more | left_out.metadata())
