"""Ledger, metrics store and ClickHouse agree hour by hour, and where one of them lost something, that hour is red."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.metrics.windows import late_windows
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.rollup import checks
from ninjait_pipelines.rollup.assets import roll_up
from ninjait_pipelines.rollup.checks import hour_is_accounted_for, samples_are_conserved
from ninjait_pipelines.rollup.sensors import check_last_week, last_week
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    SECOND_DEVICE,
    as_published,
    collectd,
    line,
    metrics,
    outgoing,
    register,
    sample,
    telegraf,
    value_list,
)
from ninjait_pipelines_tests.rollup import data
from ninjait_pipelines_tests.rollup.data import HOUR, ROLLUP, check, key, midnight, points

pytestmark = pytest.mark.usefixtures("no_drain_is_under_way")
H = midnight(2)
HOURS = [H + number * HOUR for number in range(6)]


def at(hour: datetime, minute: float) -> float:
    """How many seconds ago that is, for the messages of samples.py."""
    return (NOW - hour).total_seconds() - minute * 60


def body(hour: datetime, device: str = DEVICE, organization: str = ORG, count: int = 30, **fields: Any) -> Any:
    """A message with a sample a minute."""
    samples = [sample(at(hour, minute), **fields) for minute in range(count)]
    return metrics(*samples, device_id=device, organization_id=organization)


def drain(stores: Stores, *bodies: Any) -> None:
    """Publishes them, bodies of our own agents and messages of others, and drains the queue."""
    messages = [outgoing("agent.metrics", one) if isinstance(one, dict) else as_published(one) for one in bodies]
    stores.message_queue.publish(messages)
    make_drain(stores).run(idle_seconds=idle_seconds(stores))


@pytest.fixture
def six_hours(shared_stores: Stores) -> Stores:
    """Six hours of all kinds of messages, drained and rolled up; some points were sent twice, or in pieces."""
    register(shared_stores.postgres)
    messages: list[Any] = [metrics(*(sample(at(H, minute)) for minute in range(-90, 390, 50)), device_id=SECOND_DEVICE)]
    for hour in HOURS:
        messages += [
            body(hour),
            body(hour, OTHER_DEVICE, OTHER_ORG),
            body(hour, cpu=50),
            body(hour, cpu=None, count=40),
        ]
        readings = [("net", f"bytes_sent={n}i,bytes_recv={n}i", 40 + n / 100) for n in range(3)]
        lines = [line(kind, fields, at(hour, minute), interface="eth0") for kind, fields, minute in readings]
        gauges = [line("mem", "used=1048576i", at(hour, 40)), line("mem", "used=1048576i", at(hour, 40), host="lap-1")]
        messages += [telegraf(*lines, *gauges, organization=ORG), telegraf(gauges[0], organization=ORG)]
        messages.append(collectd(value_list("memory", "memory", 5e6, type_instance="used", seconds_ago=at(hour, 40))))
    drain(shared_stores, *messages)
    roll_up(HOURS, shared_stores.metrics_store, shared_stores.clickhouse, shared_stores.clickhouse.now())
    return shared_stores


def red(stores: Stores, asked: Any = hour_is_accounted_for) -> list[datetime]:
    """The hours that the check fails for, in one run over all of them."""
    tags = {"dagster/asset_partition_range_start": key(HOURS[0]), "dagster/asset_partition_range_end": key(HOURS[-1])}
    selection = dg.AssetSelection.checks(asked)
    assets = [*ROLLUP, asked]
    return failed(dg.materialize(assets, selection=selection, resources=stores.all(), tags=tags, raise_on_error=False))


def failed(result: dg.ExecuteInProcessResult) -> list[datetime]:
    """Those of the six hours that it was red for."""
    passed = {found.partition: found.passed for found in result.get_asset_check_evaluations() if found.partition}
    return [hour for hour in HOURS if not passed[key(hour)]]


def delete_points(stores: Stores, hour: datetime) -> None:
    store = stores.metrics_store
    if isinstance(store, InfluxDB):
        last = hour + HOUR - timedelta(microseconds=1)  # InfluxDB deletes a point at `stop` too
        predicate = '_measurement="device_metrics"'
        store.client.delete_api().delete(hour, last, predicate, store.bucket_of(Tier.RAW), store.organization)
    else:
        window = "time >= {hour:DateTime64(6, 'UTC')} AND time < {hour:DateTime64(6, 'UTC')} + INTERVAL 1 HOUR"
        stores.clickhouse.command(f"DELETE FROM metrics WHERE {window}", hour=hour)


def delete_a_point(stores: Stores, hour: datetime) -> None:
    store, instant = stores.metrics_store, hour + timedelta(minutes=7)
    if isinstance(store, InfluxDB):
        predicate = f'device_id="{OTHER_DEVICE}"'
        store.client.delete_api().delete(
            instant - timedelta(seconds=2), instant + timedelta(seconds=2), predicate, store.bucket, store.organization
        )
    else:
        where = "device_id = {device:UUID} AND abs(dateDiff('second', time, {instant:DateTime64(6, 'UTC')})) < 3"
        stores.clickhouse.command(f"DELETE FROM metrics WHERE {where}", device=OTHER_DEVICE, instant=instant)


def delete_from_ledger(stores: Stores, hour: datetime) -> None:
    """One message, the only one that brought its points."""
    where = "device_id = {device:UUID} AND toStartOfHour(assumeNotNull(first_time)) = {hour:DateTime('UTC')}"
    assert (
        stores.clickhouse.scalar(
            f"SELECT count() FROM message_deliveries WHERE {where}", device=OTHER_DEVICE, hour=hour
        )
        == 1
    )
    stores.clickhouse.command(f"DELETE FROM message_deliveries WHERE {where}", device=OTHER_DEVICE, hour=hour)


def delete_rows(stores: Stores, hour: datetime) -> None:
    where = "timestamp = {hour:DateTime('UTC')} AND device_id = {device:UUID}"
    stores.clickhouse.command(f"DELETE FROM device_metrics_hourly_versions WHERE {where}", hour=hour, device=DEVICE)


def test_exactly_the_hours_that_lost_something_are_red(six_hours: Stores) -> None:
    assert red(six_hours) == []
    for lost, delete in enumerate((delete_points, delete_a_point, delete_from_ledger, delete_rows), start=1):
        delete(six_hours, HOURS[lost])
        assert red(six_hours) == HOURS[1 : lost + 1], delete.__name__


def test_a_late_message_is_no_loss_and_hides_none(six_hours: Stores) -> None:
    drain(six_hours, body(H, SECOND_DEVICE))
    assert red(six_hours) == []
    delete_points(six_hours, H)
    assert red(six_hours) == [H]


@pytest.mark.parametrize("asked", [samples_are_conserved, hour_is_accounted_for], ids=lambda one: one.node_def.name)
@pytest.mark.parametrize("after", ["samples_by_hour", "_stored"])
def test_an_hour_that_is_repaired_while_it_is_checked_is_not_red(
    six_hours: Stores, monkeypatch: pytest.MonkeyPatch, asked: Any, after: str
) -> None:
    """A week is read for minutes, in which a laptop comes back and its hour is rolled up again."""
    read = getattr(checks, after)

    def then_repair(*given: Any) -> Any:
        found = read(*given)
        drain(six_hours, body(H, SECOND_DEVICE))
        roll_up(HOURS, six_hours.metrics_store, six_hours.clickhouse, six_hours.clickhouse.now())
        return found

    monkeypatch.setattr(checks, after, then_repair)
    assert red(six_hours, asked) == []


@pytest.mark.parametrize("asked", [samples_are_conserved, hour_is_accounted_for], ids=lambda one: one.node_def.name)
def test_points_of_a_drain_that_has_not_touched_their_hour_yet_are_not_red(
    six_hours: Stores, monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    """It was asked for late hours between the drain's points and its touch, and the points were in no ledger."""
    six_hours.metrics_store.write(data.points(H, device=SECOND_DEVICE, organization=ORG))
    assert red(six_hours, asked) == [H]
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        data.touch(six_hours, H)

    monkeypatch.setattr(checks, "time", SimpleNamespace(sleep=sleep))
    assert red(six_hours, asked) == []
    assert len(waited) == 1


def test_what_is_lost_later_is_red_within_a_day(six_hours: Stores) -> None:
    delete_points(six_hours, HOURS[2])
    request = last_week(dg.build_schedule_context(scheduled_execution_time=NOW))
    assert isinstance(request, dg.RunRequest)
    defs = dg.Definitions(
        ROLLUP, jobs=[check_last_week], asset_checks=[hour_is_accounted_for], resources=six_hours.all()
    )
    assert failed(defs.resolve_job_def("check_last_week").execute_in_process(tags=request.tags)) == [HOURS[2]]


def test_an_hour_of_before_the_ledger_kept_instants_is_not_compared_with_it(six_hours: Stores) -> None:
    nothing = "instants = [], counter_instants = [], instant_devices = []"
    six_hours.clickhouse.command(
        f"ALTER TABLE message_deliveries UPDATE {nothing} WHERE first_time >= {{hour:DateTime('UTC')}} "
        "AND last_time < {hour:DateTime('UTC')} + INTERVAL 1 HOUR SETTINGS mutations_sync = 2",
        hour=H,
    )
    assert red(six_hours) == []
    delete_rows(six_hours, H)
    assert red(six_hours) == [H]


def test_an_hour_older_than_full_resolution_is_not_compared(shared_stores: Stores) -> None:
    """Nine days later full resolution has lost its points, and the ledger its instants."""
    old = midnight(9)
    shared_stores.metrics_store.write_aggregates(Tier.FIVE_MINUTES, late_windows(points(old)))
    roll_up([old], shared_stores.metrics_store, shared_stores.clickhouse, shared_stores.clickhouse.now())
    [found] = check(shared_stores, ROLLUP, [hour_is_accounted_for], key(old)).values()
    assert found.passed
