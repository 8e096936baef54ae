"""The three caches. They have no partitions: each run writes the state as of its start, by ClickHouse's clock."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg
from pydantic import Field

from ninjait_pipelines.cache import reads
from ninjait_pipelines.cache.documents import Device, Window, device_list, figures, summary, uptime_scores
from ninjait_pipelines.cache.leaderboard import confirmed, publish
from ninjait_pipelines.keys import DEVICES_TTL, as_of_text, organization_devices, organization_summary
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.metrics.latest import latest_reading
from ninjait_pipelines.metrics.model import MAX_CLOCK_SKEW
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError

# Devices in one query of the metrics store; of more than MAX_ASKED, all are read at once.
DEVICES_AT_ONCE, MAX_ASKED = 100, 1_000
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

    First it repairs device:{device_id}:latest from the metrics store, where a reading is older than what drains wrote,
    or lacks a field of it: what they could not write while Dragonfly was down, and devices whose agents spread one
    reading over several messages.

    Dying half-way: some organizations have the new list, the others the old one until the next run or its expiry.
    """
    started = time.perf_counter()
    as_of, left_out = clickhouse.now(), LeftOut()
    since = as_of - timedelta(minutes=config.latest_minutes)
    organizations = reads.organizations(postgres, reads.heard_of(clickhouse, as_of, since))
    revisions = {one.organization_id: one.revision(as_of, since) for one in organizations}
    unchanged = dragonfly.renew(_by_key(revisions), as_of_text(as_of), DEVICES_TTL)
    changed = [one for one in organizations if organization_devices(one.organization_id) not in unchanged]
    devices = {one.organization_id: _whole(one, revisions, left_out) for one in changed}
    reads.add_readings(dragonfly, [device for some in devices.values() for device in some])
    lacking = [device for one in changed if one.heard for device in one.heard.incomplete(devices[one.organization_id])]
    repaired = _repair(context, metrics_store, dragonfly, lacking, since, as_of)
    if repaired is None:
        revisions |= {UUID(device.organization_id): "" for device in lacking}

    def document(id_: UUID) -> tuple[str, dict[str, Any]]:
        return organization_devices(id_), device_list(id_, devices[id_], revisions[id_], as_of)

    documents = dict(left_out.each(devices, _name, document))
    written = dragonfly.set_many_if_newer(documents.items(), DEVICES_TTL)
    counts = {"written": written, "unchanged": len(unchanged), "latest_written": repaired or 0}
    return _result(started, left_out, len(unchanged) + len(documents), **counts)


def _by_key(revisions: Mapping[UUID, str]) -> dict[str, str]:
    return {organization_devices(id_): revision for id_, revision in revisions.items()}


def _whole(organization: reads.Organization, revisions: dict[UUID, str], left_out: LeftOut) -> list[Device]:
    """Its devices. A list that lacks one loses its revision, so that each run names what it left out."""
    before = len(left_out.reasons)
    devices = organization.devices(left_out)
    if len(left_out.reasons) > before:
        revisions[organization.organization_id] = ""
    return devices


def _name(organization_id: UUID) -> str:
    return f"organization {organization_id}"


def _repair(
    context: dg.AssetExecutionContext,
    metrics_store: MetricsStore,
    dragonfly: Dragonfly,
    devices: Sequence[Device],
    since: datetime,
    as_of: datetime,
) -> int | None:
    """Caches these devices' latest values as the metrics store has them, unless the cache has newer ones.

    None if the metrics store is down: the lists are still written, with the readings that the drains left.
    """
    ids = [device.device_id for device in devices]
    if len(ids) > MAX_ASKED:
        batches: list[Sequence[str]] = [()]
    else:
        batches = [ids[first : first + DEVICES_AT_ONCE] for first in range(0, len(ids), DEVICES_AT_ONCE)]
    try:
        tables = [metrics_store.latest(since, as_of + MAX_CLOCK_SKEW, some) for some in batches]
    except StoreError as error:
        context.log.warning("The latest readings were not compared with the metrics store: %s", error)
        return None
    written = sum(dragonfly.set_many_if_newer(map(latest_reading, table.to_pylist())) for table in tables)
    reads.add_readings(dragonfly, devices)
    return written


@dg.asset(**COMMON, deps=["device_metrics_hourly", "agent_heartbeats"])
def organization_summaries(clickhouse: ClickHouse, postgres: Postgres, dragonfly: Dragonfly) -> dg.MaterializeResult:
    """org:{organization_id}:summary: devices by status, the last 24 hours of data, open tickets and alerts.

    Dying half-way: some organizations have the new summary, the others the old one until the next run.
    """
    started = time.perf_counter()
    as_of, left_out = clickhouse.now(), LeftOut()
    hours = reads.rolled_up_hours(clickhouse, DAY_HOURS)
    organizations = reads.organizations(postgres, reads.heard_of(clickhouse, as_of))
    devices = {one.organization_id: one.devices(left_out) for one in organizations}
    revisions = {one.organization_id: reads.revision_of(as_of, hours, one.registered) for one in organizations}
    known = reads.summary_figures(dragonfly, revisions)
    window = Window(DAY_HOURS, list(hours), {})
    means: Mapping[UUID, Mapping[str, float | None]] = {}
    if len(known) < len(organizations):
        window = reads.rolled_up_window(clickhouse, DAY_HOURS, list(hours))
        means = reads.means_by_organization(clickhouse, list(hours))
    work = reads.open_work(postgres)

    def document(id_: UUID) -> tuple[str, dict[str, Any]]:
        of_hours = known.get(id_) or figures(devices[id_], window, means.get(id_, {}))
        return organization_summary(id_), summary(id_, devices[id_], window, of_hours, work[id_], revisions[id_], as_of)

    documents = dict(left_out.each(devices, _name, document))
    written = dragonfly.set_many_if_newer(documents.items())
    return _result(
        started, left_out, len(documents), written=written, unchanged=len(known), completeness=window.completeness
    )


@dg.asset(**COMMON, deps=["device_metrics_hourly"])
def uptime_leaderboard(clickhouse: ClickHouse, postgres: Postgres, dragonfly: Dragonfly) -> dg.MaterializeResult:
    """uptime:leaderboard: for every active device, the share of the last seven days of data that its samples cover."""
    started = time.perf_counter()
    as_of, left_out = clickhouse.now(), LeftOut()
    hours = reads.rolled_up_hours(clickhouse, WEEK_HOURS)
    organizations = reads.organizations(postgres, {})
    revision = reads.revision_of(as_of, hours, *(one.registered for one in organizations))
    completeness = len(hours) / WEEK_HOURS
    if (devices := confirmed(dragonfly, revision, as_of_text(as_of))) is not None:
        return _result(started, left_out, devices, switched=False, unchanged=True, completeness=completeness)
    window = reads.rolled_up_window(clickhouse, WEEK_HOURS, list(hours))
    scores = uptime_scores((device for one in organizations for device in one.devices(left_out)), window, left_out)
    about = {
        "as_of": as_of_text(as_of),
        "revision": "" if left_out.reasons else revision,
        "completeness": completeness,
        "window": window.document(),
        "devices": len(scores),
    }
    switched = publish(dragonfly, scores, about)
    return _result(started, left_out, len(scores), switched=switched, unchanged=False, completeness=completeness)


def _result(started: float, left_out: LeftOut, rows: int, **more: Any) -> dg.MaterializeResult:
    more |= {"dagster/row_count": rows, "duration_seconds": time.perf_counter() - started}
    return dg.MaterializeResult(metadata=more | left_out.metadata())
