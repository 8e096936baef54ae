"""Messages of third-party agents on their way through a drain into the stores."""

from datetime import timedelta
from typing import Any

import pytest

from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import body_of
from ninjait_pipelines.ingest.quarantine.reasons import entries, read
from ninjait_pipelines.ingest.quarantine.replay import rebuild_message, replay_all
from ninjait_pipelines.ingest.sinks import MetricsSink
from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_metrics import ClickHouseMetrics
from ninjait_pipelines.resources.metrics_store import Refusal
from ninjait_pipelines_tests.ingest.conftest import LOG, make_drain
from ninjait_pipelines_tests.ingest.drains import drained, ledger, points_of, publish_messages
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    as_published,
    collectd,
    line,
    telegraf,
    value_list,
)

MIB = 2**20


def test_a_reading_spread_over_messages_and_drains_is_one_point(fleet: Stores) -> None:
    publish_messages(fleet, telegraf(line("cpu", "usage_idle=90", cpu="cpu-total"), line("swap", "used=1i")))
    assert drained(fleet).points_written == 1
    publish_messages(
        fleet,
        telegraf(line("mem", f"used={MIB}i")),
        collectd(value_list("uptime", "uptime", 5), organization=ORG),
    )
    assert drained(fleet).points_written == 2
    [point] = points_of(fleet)
    assert (point["cpu"], point["memory"], point["uptime"], point["network_in"]) == (10.0, 1.0, 5.0, None)
    assert ledger(fleet) == {"written": 3}


def test_counters_become_increases(fleet: Stores) -> None:
    hour = NOW.replace(minute=0, second=0) - timedelta(hours=1)
    start = (NOW - hour).total_seconds()
    readings = [(0, 1000, 100), (60, 1500, 150), (120, 200, 20), (180, 300, 30)]  # booted before the third one
    for after, received, sent in readings:
        text = line("net", f"bytes_recv={received}i,bytes_sent={sent}i", start - after, interface="eth0")
        publish_messages(fleet, telegraf(text), telegraf(text))
    assert drained(fleet).points_written == 8
    [window] = fleet.metrics_store.aggregate(Tier.RAW, hour, hour + timedelta(hours=1), timedelta(hours=1)).to_pylist()
    assert (window["network_in_sum"], window["network_out_sum"]) == (500 + 200 + 100, 50 + 20 + 10)
    assert ledger(fleet) == {"written": 4, "duplicate": 4}


class Picky(ClickHouseMetrics):
    """ClickHouse that refuses what InfluxDB might: the memory of 13 MiB, and the counters of wlan0."""

    def write(self, points: Any) -> list[Refusal]:
        values = points["memory"].to_pylist()
        super().write(points.filter([value != 13 for value in values]))
        return [Refusal(row, "unlucky") for row, value in enumerate(values) if value == 13]

    def write_counters(self, counters: Any) -> list[Refusal]:
        names = counters["interface"].to_pylist()
        super().write_counters(counters.filter([name != "wlan0" for name in names]))
        return [Refusal(row, "no radio") for row, name in enumerate(names) if name == "wlan0"]


def test_what_the_store_refuses_is_the_line_that_it_came_from(fleet: Stores) -> None:
    """In the middle of messages that have good lines, bad lines, counters and lines of no interest."""
    if not isinstance(fleet.metrics_store, ClickHouseMetrics):
        pytest.skip("ClickHouse is made to refuse here; InfluxDB's own refusals are tested beside it")
    picky = Picky(**fleet.metrics_store.model_dump())
    bodies = [
        telegraf(
            line("swap", "used=1i"),
            line("net", "bytes_recv=1i", interface="eth0"),
            "oops",
            line("net", "bytes_recv=1i", interface="wlan0", seconds_ago=30 + n),
            line("mem", f"used={MIB}i", seconds_ago=40 + n),
            line("mem", f"used={13 * MIB}i", seconds_ago=50 + n),
            line("mem", f"used={2 * MIB}i", seconds_ago=60 + n),
            organization=ORG,
        )
        for n in range(3)
    ]
    fleet.message_queue.publish([as_published(one) for one in bodies])
    sink = MetricsSink(picky, fleet.dragonfly, fleet.clickhouse, LOG)
    with picky.open():
        summary = make_drain(fleet, sink=sink).run(idle_seconds=0.05)
    assert (summary.points, summary.points_written, summary.points_quarantined) == (18, 9, 9)
    for held in fleet.mongodb.database["quarantine"].find():
        found = sorted((one.index, one.reason) for one in entries(read(held)))
        assert found == [(2, "bad_line"), (3, "refused_by_store"), (5, "refused_by_store")]
        again = rebuild_message(held, body_of(fleet.mongodb, held)).body.decode()
        assert ["wlan0" in again, f"used={13 * MIB}i" in again, "eth0" in again] == [True, True, False]
    [row] = fleet.clickhouse.rows(
        "SELECT count() AS n, sum(points) AS points, sum(points_written) AS good FROM message_ledger"
    )
    assert row == {"n": 3, "points": 18, "good": 9}
    # Replayed twice the store refuses it again, and nothing that was good comes a second time.
    for _ in range(2):
        found = list(query.select(fleet.mongodb))
        assert replay_all(fleet.mongodb, fleet.message_queue, found, "test", NOW) == 3
        with picky.open():
            summary = make_drain(fleet, sink=sink).run(idle_seconds=0.05)
        assert (summary.points, summary.points_written) == (9, 0)
