"""The cases from the field, each with its right value: from the queue to the hourly row, and to what is made of it."""

import json

import dagster as dg
import pytest

from ninjait_pipelines import keys
from ninjait_pipelines.cache import assets
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.rollup.assets import device_metrics_hours
from ninjait_pipelines.rollup.checks import devices_have_one_sender, hour_is_accounted_for
from ninjait_pipelines_tests.ingest.field_cases import (
    ORG,
    device_of,
    hour_before,
    message_of,
    register_hosts,
    rolled_up,
    rows_of,
    take,
)
from ninjait_pipelines_tests.rollup.data import check, key
from ninjait_pipelines_tests.runs import run


def test_a_counter_that_falls_a_little(shared_stores: Stores) -> None:
    """A router's counter went down by 5,095 bytes; 3,718,352,337 were counted for 736 kB."""
    row = rows_of(shared_stores, "01-counter-small-decrease", "c01")["c01"]
    assert 735_899 <= row["network_in"] <= 740_994
    assert row["network_in"] == row["network_out"]
    assert row["several_senders"] is False


def test_two_agents_on_one_host(shared_stores: Stores) -> None:
    """Telegraf and collectd for a week: in order of time their counter goes down by 600 bytes every 30 s."""
    row = rows_of(shared_stores, "03-two-agents-one-host", "c03")["c03"]
    assert row["network_in"] == pytest.approx(570_000, rel=0.01)
    assert row["several_senders"] is True


def test_two_machines_under_one_host_name(shared_stores: Stores) -> None:
    """Each made gigabytes of the other."""
    hour, lines = hour_before(), []
    for n in range(120):
        value = (9_000_000_000, 1_000_000_000)[n % 2] + n * 1000
        lines.append(f"net,host=twin,interface=eth0 bytes_recv={value}i,bytes_sent={value}i @ns({n * 30})\n")
    register_hosts(shared_stores, "twin")
    take(shared_stores, [message_of("".join(lines), hour)])
    row = rolled_up(shared_stores, hour)[device_of("twin")]
    assert (row["network_in"], row["network_out"], row["several_senders"]) == (0.0, 0.0, True)
    found = check(shared_stores, [device_metrics_hours], [devices_have_one_sender], key(hour))[
        "devices_have_one_sender"
    ]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert device_of("twin") in found.description


def test_an_interval_of_ten_seconds(shared_stores: Stores) -> None:
    """Up for 20 minutes: 120 samples, which were taken for the whole hour."""
    row = rows_of(shared_stores, "21-interval-10s-20min", "c21")["c21"]
    assert row["sample_share"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("every", "stop", "share"),
    [(60, 3600, 1.0), (300, 3600, 1.0), (900, 3600, 1.0), (1200, 3600, 1.0), (30, 1800, 0.5), (120, 900, 4 / 15)],
)
def test_other_intervals(shared_stores: Stores, every: int, stop: int, share: float) -> None:
    """At 60 s a host that was up all the hour had a share of a half."""
    hour = hour_before()
    register_hosts(shared_stores, "slow")
    text = "".join(f"cpu,cpu=cpu-total,host=slow usage_idle=90 @ns({second})\n" for second in range(0, stop, every))
    take(shared_stores, [message_of(text, hour)])
    assert rolled_up(shared_stores, hour)[device_of("slow")]["sample_share"] == pytest.approx(share)


def test_the_leaderboard_and_the_summary(shared_stores: Stores) -> None:
    """Three devices, the whole hour, half of it and a quarter: a host up half an hour was shown with 100 %, because
    readings of counters were counted as samples; and the mean was 63.3 % for 44.3."""
    rows = rows_of(shared_stores, "25-leaderboard-and-means", "own", "tele", "coll")
    assert [row["sample_share"] for row in rows.values()] == pytest.approx([1.0, 0.5, 0.25])
    assert [row["cpu_count"] for row in rows.values()] == [120, 60, 30]
    run(shared_stores, assets.organization_summaries, assets.uptime_leaderboard)
    board = dict(shared_stores.dragonfly.client.zrange(keys.UPTIME_LEADERBOARD, 0, -1, withscores=True))
    found = [board[keys.member(ORG, device_of(host))] for host in rows]
    assert found == pytest.approx([1.0, 0.5, 0.25])
    summary = json.loads(shared_stores.dragonfly.client.get(keys.organization_summary(ORG)) or "null")
    assert summary["cpu_avg"] == pytest.approx((120 * 10 + 60 * 90 + 30 * 90) / 210)
    assert summary["sample_share"] == pytest.approx(1.75 / 3)


def test_readings_of_volumes_are_accounted_for(shared_stores: Stores) -> None:
    """Their instants are samples of their own: in the ledger, in the store and in the hour's row."""
    hour = hour_before()
    register_hosts(shared_stores, "nas")
    lines = [
        f"disk,host=nas,device={disk},fstype=ext4,path={path},mode=rw "
        f"total={total}i,used={used}i,free={total - used}i @ns({n * 60})"
        for n in range(10)
        for disk, path, total, used in (("md0", "/", 4 * 2**30, 2**30), ("md2", "/volume1", 900 * 2**30, 700 * 2**30))
    ]
    take(shared_stores, [message_of("\n".join(lines) + "\n", hour)])
    row = rolled_up(shared_stores, hour)[device_of("nas")]
    assert (row["disk_usage"], row["disk_total"], row["disk_free"]) == (701 * 1024.0, 904 * 1024.0, 203 * 1024.0)
    assert row["sample_count"] == 10
    found = check(shared_stores, [device_metrics_hours], [hour_is_accounted_for], key(hour))["hour_is_accounted_for"]
    assert found.passed, found.description
    assert shared_stores.clickhouse.scalar("SELECT sum(balance) FROM conservation") == 0
