"""The three roll-up assets on real stores: twice, killed half-way, with tiers that expire."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.metrics.windows import late_windows
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.rollup import assets
from ninjait_pipelines.rollup.hours import HOURS_AT_ONCE, HourExpired, SamplesLost
from ninjait_pipelines_tests.rollup.data import (
    CHECKS,
    HOUR,
    ORGANIZATION,
    OTHER_DEVICE,
    OTHER_ORGANIZATION,
    ROLLUP,
    check,
    hourly,
    key,
    midnight,
    points,
    roll_up,
    touch,
)
from ninjait_pipelines_tests.runs import Killed, changed, killed, passed

H = midnight(2)


def test_an_hour_becomes_one_row_a_device_and_again_the_same(shared_stores: Stores) -> None:
    shared_stores.metrics_store.write(points(H))
    shared_stores.metrics_store.write(points(H + HOUR, 60, device=OTHER_DEVICE, organization=OTHER_ORGANIZATION))
    assert roll_up(shared_stores, H, H + HOUR).success
    rows = hourly(shared_stores)
    assert [(row["timestamp"], row["sample_count"], row["sample_share"]) for row in rows] == [
        (H, 120, 1.0),
        (H + HOUR, 60, 0.5),
    ]
    # cpu is 0..99, then 0..19; disk_used is 2000 + the same, network_in 3000 + the same.
    assert rows[0]["cpu_avg"] == pytest.approx((sum(range(100)) + sum(range(20))) / 120)
    assert (rows[0]["cpu_max"], rows[0]["disk_usage"], rows[0]["uptime"]) == (99.0, 2019.0, 5019.0)
    assert rows[0]["network_in"] == 120 * 3000 + sum(range(100)) + sum(range(20))
    assert rows[0]["source_tier"] == "metrics"
    result = roll_up(shared_stores, H, H + HOUR)
    assert hourly(shared_stores) == rows
    assert passed(result) == {"samples_are_conserved": True, "sample_shares_are_shares": True}


def test_the_tiers_compose(shared_stores: Stores) -> None:
    shared_stores.metrics_store.write(points(H))
    roll_up(shared_stores, H)
    raw = shared_stores.metrics_store.aggregate(Tier.RAW, H, H + HOUR, HOUR)
    assert shared_stores.metrics_store.aggregate(Tier.FIVE_MINUTES, H, H + HOUR, HOUR).equals(raw)
    assert shared_stores.metrics_store.aggregate(Tier.ONE_HOUR, H, H + HOUR, HOUR).equals(raw)


@pytest.mark.parametrize(("call", "after"), [(2, False), (2, True), (3, False)])
def test_killed_half_way_and_again_it_is_as_if_it_had_not_been(shared_stores: Stores, call: int, after: bool) -> None:
    """An hour whose roll-up died must never look rolled up: nobody would complete it."""
    hours = [H + n * HOUR for n in range(HOURS_AT_ONCE + 1)]
    for number, hour in enumerate(hours):
        shared_stores.metrics_store.write(points(hour, 120 - number))
    # The inserts: the first hours, the last one, the record of all.
    with pytest.raises(Killed), killed(ClickHouse, "insert", call, after):
        assets.roll_up(hours, shared_stores.metrics_store, shared_stores.clickhouse, shared_stores.clickhouse.now())
    assert shared_stores.clickhouse.scalar("SELECT count() FROM rolled_up_hours") == 0
    roll_up(shared_stores, hours[0], hours[-1])
    assert [row["sample_count"] for row in hourly(shared_stores)] == [120 - n for n in range(len(hours))]
    assert shared_stores.clickhouse.scalar("SELECT count() FROM rolled_up_hours FINAL") == len(hours)


def test_a_late_sample_beyond_full_resolution_is_added_to_its_hour(shared_stores: Stores) -> None:
    """Eight days later full resolution has no room for it: ingest puts it beside the 5-minute windows."""
    shared_stores.metrics_store.write(points(H))
    roll_up(shared_stores, H)
    late = points(H + timedelta(seconds=15), 1, cpu=[100.0])
    shared_stores.metrics_store.write_aggregates(Tier.FIVE_MINUTES, late_windows(late))
    a_week_later = H + timedelta(days=7, minutes=1)
    [done] = assets.roll_up([H], shared_stores.metrics_store, shared_stores.clickhouse, a_week_later)
    assert (done.tier, done.samples) == (Tier.FIVE_MINUTES, 121)
    [row] = hourly(shared_stores)
    assert (row["sample_count"], row["cpu_max"], row["source_tier"]) == (121, 100.0, "metrics_5m")
    assert row["uptime"] == 5019.0


def test_an_expired_tier_reads_as_empty_and_deletes_nothing(shared_stores: Stores) -> None:
    """The hour was rolled up from full resolution, the lower tiers were never filled, full resolution is gone."""
    shared_stores.metrics_store.write(points(H))
    assets.roll_up([H], shared_stores.metrics_store, shared_stores.clickhouse, shared_stores.clickhouse.now())
    rows = hourly(shared_stores)
    with pytest.raises(SamplesLost, match="0 samples, not 120"):
        assets.roll_up([H], shared_stores.metrics_store, shared_stores.clickhouse, H + timedelta(days=30))
    with pytest.raises(SamplesLost):
        assets.roll_up([H], shared_stores.metrics_store, shared_stores.clickhouse, H + timedelta(days=200))
    with pytest.raises(HourExpired):
        assets.roll_up([H], shared_stores.metrics_store, shared_stores.clickhouse, H + timedelta(days=800))
    assert hourly(shared_stores) == rows


def test_hours_of_few_devices_are_read_together(shared_stores: Stores) -> None:
    """A range of two days took 24 reads, writes and records of each kind; ten devices' fit into a few."""
    store, spans = shared_stores.metrics_store, list[int]()
    read = type(store).first_tiers

    def counted(self: Any, start: datetime, stop: datetime, widths: Any) -> Any:
        spans.append((stop - start) // HOUR)
        return read(self, start, stop, widths)

    hours = [H - n * HOUR for n in range(30, 0, -1) if n != 7]
    store.write(points(hours[0]))
    store.write(points(hours[-1]))
    with changed(store, first_tiers=counted).open() as counting:
        run = assets.RollUp(counting, shared_stores.clickhouse)
        run.from_one_read(hours)
        assert spans == [2, 12, 9, 6]
        assert [one.hour for one in run.finish()] == hours
    assert [row["timestamp"] for row in hourly(shared_stores)] == [hours[0], hours[-1]]


def test_a_failed_read_is_no_empty_read(shared_stores: Stores) -> None:
    shared_stores.metrics_store.write(points(H))
    roll_up(shared_stores, H)
    rows = hourly(shared_stores, version=True)
    away = type(shared_stores.metrics_store)(**dict(shared_stores.metrics_store) | {"url": "http://127.0.0.1:1"})
    with pytest.raises(StoreUnavailable):
        assets.roll_up([H], away, shared_stores.clickhouse, shared_stores.clickhouse.now())
    assert hourly(shared_stores, version=True) == rows


def test_a_tier_that_has_begun_to_expire_is_not_aggregated(shared_stores: Stores) -> None:
    """Half an hour's samples would replace the whole hour's windows in the next tier."""
    shared_stores.metrics_store.write(points(H))
    roll_up(shared_stores, H)
    shared_stores.metrics_store.delete([points(H)["device_id"][0].as_py()])
    shared_stores.metrics_store.write(points(H + timedelta(minutes=30), 10))
    assert _fill(shared_stores, now=H + timedelta(days=8, minutes=-59)) == {}
    assert shared_stores.metrics_store.aggregate(Tier.FIVE_MINUTES, H, H + HOUR, HOUR).num_rows == 0
    assert _fill(shared_stores, now=H + timedelta(days=8, hours=-1)) == {H: 1}


def _fill(stores: Stores, now: datetime) -> dict[datetime, int]:
    return assets.fill_tier(stores.metrics_store, Tier.RAW, Tier.FIVE_MINUTES, [H], now)


def _checks(stores: Stores) -> dict[str, bool]:
    """The checks alone, over what is there, as they were recorded for the hour."""
    return {name: found.passed for name, found in check(stores, ROLLUP, CHECKS, key(H)).items()}


def test_the_conservation_check_fails_for_a_sample_that_nobody_announced(shared_stores: Stores) -> None:
    shared_stores.metrics_store.write(points(H))
    roll_up(shared_stores, H)
    shared_stores.metrics_store.write(points(H + timedelta(seconds=1), 1))
    assert not _checks(shared_stores)["samples_are_conserved"]
    touch(shared_stores, H)
    assert _checks(shared_stores)["samples_are_conserved"], "it is a late hour now, and will be repaired"


def test_the_share_check_fails_for_a_share_that_is_none(shared_stores: Stores) -> None:
    shared_stores.metrics_store.write(points(H))
    roll_up(shared_stores, H)
    assert _checks(shared_stores)["sample_shares_are_shares"]
    shared_stores.clickhouse.command(
        "INSERT INTO device_metrics_hourly_versions "
        "(organization_id, device_id, timestamp, sample_count, sample_share, as_of) "
        "VALUES ({organization:UUID}, generateUUIDv4(), {hour:DateTime('UTC')}, 60, 1.5, now64(6))",
        organization=ORGANIZATION,
        hour=H,
    )
    assert not _checks(shared_stores)["sample_shares_are_shares"]
