"""Where good points go: the tier of their age, the hours that they touch, the latest values; events, once each."""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from ninjait_pipelines.ingest import sinks
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, Period
from ninjait_pipelines.ingest.sinks import MetricsSink
from ninjait_pipelines.metrics.model import COUNTERS, POINTS, RETENTION, VOLUMES, Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.metrics_store import Refusal
from ninjait_pipelines.rollup.assets import fill_tier
from ninjait_pipelines_tests.ingest.conftest import LOG, TABLES, drained, idle_seconds, make_drain, sink_of
from ninjait_pipelines_tests.ingest.drains import (
    Faulty,
    held,
    latest,
    ledger,
    outstanding,
    points,
    publish,
    run,
    sink_with,
)
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    SECOND_DEVICE,
    ago,
    as_published,
    line,
    message,
    metrics,
    outgoing,
    sample,
    telegraf,
    unknown_lines,
)


def test_an_event_arrives_once_however_often_it_is_sent(fleet: Stores) -> None:
    for queue, event in EVENTS.items():
        publish(fleet, event, event, event | {"timestamp": ago(minutes=2)}, event | {"timestamp": "now"}, queue=queue)
        assert run(fleet, queue).points_written == 3
    expected = [NOW - timedelta(minutes=2), NOW - timedelta(minutes=1)]
    for table in TABLES.values():
        rows = fleet.clickhouse.rows(f"SELECT timestamp, message_id FROM {table} ORDER BY timestamp")
        assert [row["timestamp"] for row in rows] == expected
        assert len({row["message_id"] for row in rows}) == 2
    logs = list(fleet.mongodb.database["application_logs"].find().sort("timestamp", 1))
    assert [document["timestamp"] for document in logs] == expected
    assert logs[0]["error"] == EVENTS["platform.logs"]["error"]
    assert ledger(fleet) == {"written": 8, "duplicate": 4, "quarantined": 4}


def test_events_keep_every_value(fleet: Stores) -> None:
    for queue, event in EVENTS.items():
        publish(fleet, event, queue=queue)
        run(fleet, queue)
    for queue, table in TABLES.items():
        (row,) = fleet.clickhouse.rows(f"SELECT * EXCEPT (as_of, message_id) FROM {table}")
        sent = {name: value for name, value in EVENTS[queue].items() if name != "schema"}
        assert {name: str(value) for name, value in row.items()} | {"timestamp": ""} == {
            name: str(value) if not name.endswith("_gb") else f"{Decimal(value):.6f}" for name, value in sent.items()
        } | {"timestamp": ""}


def test_an_older_sample_never_replaces_a_newer_latest_value(fleet: Stores) -> None:
    publish(fleet, metrics(sample(30, cpu=5)))
    run(fleet)
    publish(fleet, metrics(sample(600, cpu=9)))
    run(fleet)
    assert latest(fleet)["cpu"] == 5


def test_old_samples_go_to_the_tier_of_their_age(fleet: Stores) -> None:
    day = 24 * 3600
    publish(fleet, metrics(sample(60), sample(8 * day, cpu=8), sample(100 * day, cpu=100)), metrics(sample(800 * day)))
    summary = run(fleet)
    assert (summary.points_written, summary.points_quarantined) == (3, 1)
    assert held(fleet)[0]["reasons"][0]["reason"] == "too_old"
    for tier, days, cpu in ((Tier.FIVE_MINUTES, 8, 8), (Tier.ONE_HOUR, 100, 100)):
        start = (NOW - timedelta(days=days, hours=1)).replace(minute=0, second=0)
        rows = fleet.metrics_store.aggregate(tier, start, start + timedelta(hours=3), timedelta(hours=1)).to_pylist()
        assert [(row["samples"], row["cpu_max"]) for row in rows] == [(1, cpu)]
    assert len(fleet.clickhouse.rows("SELECT DISTINCT hour FROM touched_hours")) == 3


def test_a_laptop_that_sends_last_week_again_is_not_counted_twice(fleet: Stores) -> None:
    """A sample was taken by the full-resolution tier and rolled up; a week later the agent sends its buffer once more.
    Its late copy would lie beside the window that has it already, and count twice."""
    # at the first drain just young enough for full resolution, at the second still within that tier's margin
    taken = NOW - timedelta(days=7, hours=12)
    body = metrics(sample(timestamp=taken.isoformat(), cpu=5))
    publish(fleet, body)
    run(fleet, clock=lambda: NOW - timedelta(hours=13))
    assert [point["cpu"] for point in points(fleet, hours=8 * 24)] == [5]
    publish(fleet, body)
    run(fleet)
    start = (taken - timedelta(hours=1)).replace(minute=0, second=0)
    late = fleet.metrics_store.aggregate(Tier.FIVE_MINUTES, start, start + timedelta(hours=3), timedelta(hours=1))
    assert late.num_rows == 0
    assert ledger(fleet) == {"written": 1, "duplicate": 1}


@pytest.mark.parametrize("came_back", ["the same copy", "another message"])
def test_what_full_resolution_has_stays_there(fleet: Stores, came_back: str) -> None:
    """ClickHouse went away after the points were written, and the message came again when they were too old for full
    resolution: nobody had recorded them, so they were written to the next tier, where a window was made of them too."""
    taken = NOW - timedelta(days=7, hours=1)
    body = metrics(sample(timestamp=taken.isoformat(), cpu=5), sample(timestamp=ago(days=7, minutes=30), cpu=6))
    publish(fleet, body)

    def dying(table: str, rows: pa.Table) -> None:
        if table == "touched_hours":
            raise KeyboardInterrupt
        fleet.clickhouse.insert(table, rows)

    sink = sink_with(fleet, clickhouse=Faulty(fleet.clickhouse, insert=dying))
    with pytest.raises(KeyboardInterrupt):
        run(fleet, sink=sink, clock=lambda: NOW - timedelta(hours=2))
    if came_back == "another message":
        run(fleet, clock=lambda: NOW - timedelta(hours=2))
        publish(fleet, metrics(sample(timestamp=taken.isoformat(), cpu=7)), message_id=str(uuid.UUID(int=8)))
    publish(fleet, metrics(sample(timestamp=ago(days=7, minutes=20), cpu=9)))
    run(fleet)
    again = 7 if came_back == "another message" else 5
    assert [point["cpu"] for point in points(fleet, hours=8 * 24)] == [again, 6]
    first = (taken - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    hours = [first + timedelta(hours=number) for number in range(3)]

    def counted() -> tuple[float, float]:
        rows = fleet.metrics_store.aggregate(Tier.FIVE_MINUTES, first, first + timedelta(hours=3), timedelta(hours=1))
        return sum(rows["samples"].to_pylist()), sum(rows["cpu_sum"].to_pylist())

    assert counted() == (1, 9)
    fill_tier(fleet.metrics_store, Tier.RAW, Tier.FIVE_MINUTES, hours, NOW)
    assert counted() == (3, again + 6 + 9)


def test_what_full_resolution_has_is_left_to_the_next_tier_once_no_windows_are_made_of_it(fleet: Stores) -> None:
    """It would be in no window at all."""
    taken = NOW - timedelta(days=7, hours=19)
    fleet.metrics_store.declare()
    one = {"organization_id": ORG, "device_id": DEVICE, "time": taken, "cpu": 5.0}
    fleet.metrics_store.write(pa.Table.from_pylist([one], schema=POINTS))
    publish(fleet, metrics(sample(timestamp=taken.isoformat(), cpu=5)))
    run(fleet)
    start = taken.replace(minute=0, second=0, microsecond=0)
    late = fleet.metrics_store.aggregate(Tier.FIVE_MINUTES, start, start + timedelta(hours=1), timedelta(hours=1))
    assert late["samples"].to_pylist() == [1]


def test_many_late_messages_are_asked_for_in_several_queries(fleet: Stores) -> None:
    """The ids of a batch in one parameter were more than ClickHouse takes."""
    sink: Any = sink_of(fleet, "agent.metrics")
    sink.max_ids = 3
    bodies = [metrics(sample(timestamp=(NOW - timedelta(days=8, minutes=n)).isoformat(), cpu=n)) for n in range(7)]
    publish(fleet, *bodies[:5])
    run(fleet, sink=sink)
    publish(fleet, *bodies)
    run(fleet, sink=sink)
    start = (NOW - timedelta(days=8, hours=1)).replace(minute=0, second=0)
    late = fleet.metrics_store.aggregate(Tier.FIVE_MINUTES, start, start + timedelta(hours=3), timedelta(hours=1))
    assert sum(late["samples"].to_pylist()) == 7


def test_a_sample_at_the_end_of_retention_is_not_dropped_between_two_roundings(fleet: Stores) -> None:
    """The contract looks at milliseconds, the tiers looked at microseconds: a sample of the last millisecond that is
    taken was too old for every tier, and the ledger said that it had been written."""
    now = NOW + timedelta(microseconds=999)
    publish(fleet, metrics(sample(timestamp=(NOW - timedelta(days=730)).isoformat())))
    assert run(fleet, clock=lambda: now).points_written == 1
    start = (NOW - timedelta(days=730)).replace(minute=0, second=0)
    found = fleet.metrics_store.aggregate(Tier.ONE_HOUR, start, start + timedelta(hours=1), timedelta(hours=1))
    assert found.num_rows == 1


def test_an_organization_cannot_use_up_the_message_ids_of_another(fleet: Stores) -> None:
    """Somebody who guessed the id of another organization's message, and used it first, made that message a duplicate:
    the log entry was left out for the one that was there, and late samples for being written already."""
    taken = str(uuid.UUID(int=7))
    theirs = {"organization_id": OTHER_ORG, "device_id": OTHER_DEVICE}
    old = sample(timestamp=ago(days=9), cpu=9)
    publish(fleet, metrics(sample(), **theirs), metrics(old), message_id=taken)
    log = EVENTS["platform.logs"]
    publish(fleet, log | theirs | {"message": "theirs"}, log, queue="platform.logs", message_id=taken)
    make_drain(fleet).run(max_messages=1, idle_seconds=idle_seconds(fleet))
    run(fleet)
    run(fleet, "platform.logs")
    start = (NOW - timedelta(days=9)).replace(hour=0, minute=0, second=0)
    late = fleet.metrics_store.aggregate(Tier.FIVE_MINUTES, start, start + timedelta(days=1), timedelta(hours=1))
    assert late["organization_id"].to_pylist() == [ORG]
    logs = list(fleet.mongodb.database["application_logs"].find())
    assert {document["organization_id"] for document in logs} == {ORG, OTHER_ORG}


def test_a_cache_that_is_away_stops_nothing(fleet: Stores, caplog: pytest.LogCaptureFixture) -> None:
    away = Dragonfly(url="redis://127.0.0.1:1/0", timeout_seconds=0.2)
    sink = MetricsSink(fleet.metrics_store, away, fleet.clickhouse, LOG)
    publish(fleet, metrics(sample()))
    assert run(fleet, sink=sink).points_written == 1
    assert len(points(fleet)) == 1
    assert "latest values were not cached" in caplog.text
    assert outstanding(fleet) == (0, 0)


def seen(stores: Stores) -> dict[str, dict[str, Any]]:
    return {str(row["device_id"]): row for row in stores.clickhouse.rows("SELECT * FROM device_last_seen")}


def test_the_newest_reading_of_each_device_is_kept_and_never_goes_back(fleet: Stores) -> None:
    """Devices of Telegraf and collectd send no heartbeat, and nobody could say whether they were there."""
    counter = line("net", "bytes_recv=1i,bytes_sent=1i", 30, interface="eth0")
    fleet.message_queue.publish([as_published(telegraf(line("mem", "used=1048576i", 60), counter, organization=ORG))])
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(20), sample(10, disk_used=None)))])
    drained(fleet)
    first = seen(fleet)
    assert first[SECOND_DEVICE]["last_seen"] == NOW - timedelta(seconds=30)
    assert first[SECOND_DEVICE]["memory_at"] == NOW - timedelta(seconds=60)
    assert first[SECOND_DEVICE]["cpu_at"] == datetime(1970, 1, 1, tzinfo=UTC)
    assert first[DEVICE]["last_seen"] == first[DEVICE]["cpu_at"] == NOW - timedelta(seconds=10)
    assert first[DEVICE]["disk_used_at"] == NOW - timedelta(seconds=20)
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(86400 * 30)))])
    drained(fleet)
    again = seen(fleet)
    assert {**again[DEVICE], "sent_at": 0, "understood_at": 0} == {**first[DEVICE], "sent_at": 0, "understood_at": 0}


def test_a_clock_that_is_ahead_is_not_seen_in_the_future(fleet: Stores) -> None:
    ahead = (datetime.now(UTC) + timedelta(minutes=4)).isoformat()
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(timestamp=ahead)))])
    drained(fleet)
    assert seen(fleet)[DEVICE]["last_seen"] <= datetime.now(UTC)


def test_a_device_of_which_nothing_is_understood_has_sent_and_was_not_seen(fleet: Stores) -> None:
    fleet.message_queue.publish([as_published(telegraf(*unknown_lines(), *unknown_lines("new-pc"), organization=ORG))])
    drained(fleet)
    [row] = seen(fleet).values()
    assert (str(row["device_id"]), row["last_seen"].year, row["understood_at"].year) == (SECOND_DEVICE, 1970, 1970)
    assert row["sent_at"] > datetime.now(UTC) - timedelta(minutes=1)


def times(*ages: timedelta) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([NOW - age for age in ages], POINTS.field("time").type)])


def test_each_point_goes_to_one_tier_by_its_age() -> None:
    tick = timedelta(microseconds=1)
    week, quarter, years = (RETENTION[tier] for tier in Tier)
    ages = [week, week + tick, -tick, quarter, quarter + tick, years, years + tick]
    found = {tier: positions.to_pylist() for tier, positions in sinks.by_tier(times(*ages), NOW)}
    assert found == {Tier.RAW: [0, 2], Tier.FIVE_MINUTES: [1, 3], Tier.ONE_HOUR: [4, 5, 6]}, "an accepted point is kept"
    assert list(sinks.by_tier(times(), NOW)) == []


def rows(schema: pa.Schema, *moments: datetime, **values: Any) -> pa.Table:
    about = {"organization_id": ORG, "device_id": DEVICE, "source": "", "interface": "e", "disk": "", "volume": "/"}
    return pa.Table.from_pylist([{**about, "time": moment, **values} for moment in moments], schema=schema)


def test_a_counter_touches_the_next_hour_too() -> None:
    """The reading after it is compared with it, however close it is to the end of its hour."""
    hour = datetime(2026, 3, 1, 12, tzinfo=UTC)
    last = hour + timedelta(minutes=59, seconds=59, microseconds=999_999)
    tables = rows(POINTS, hour, last), rows(COUNTERS, last), rows(VOLUMES, hour)
    found = sinks.touched_hours(*tables, "run").to_pylist()
    assert {(row["organization_id"], row["hour"]): (row["points"], row["run_id"]) for row in found} == {
        (ORG, hour): (4, "run"),
        (ORG, hour + timedelta(hours=1)): (1, "run"),
    }


def test_no_points_touch_no_hours_and_are_of_no_device() -> None:
    nothing = [schema.empty_table() for schema in (POINTS, COUNTERS, VOLUMES)]
    assert sinks.touched_hours(*nothing, "run").num_rows == 0
    assert sinks.last_seen(*nothing, []).num_rows == 0


def test_a_volume_counts_as_a_reading_of_the_disk() -> None:
    hour = datetime(2026, 3, 1, 12, tzinfo=UTC)
    tables = rows(POINTS, hour, cpu=1.0), rows(COUNTERS, hour + timedelta(minutes=2)), rows(VOLUMES, hour, used=1.0)
    [found] = sinks.last_seen(*tables, []).to_pylist()
    assert found["last_seen"] == hour + timedelta(minutes=2)
    assert (found["cpu_at"], found["disk_used_at"]) == (hour, hour)
    assert found["memory_at"] == datetime(1970, 1, 1, tzinfo=UTC), "never"


def with_columns(**columns: list[Any]) -> Decoded:
    count = len(columns["time"])
    about = {"organization_id": [ORG] * count, "device_id": [DEVICE] * count}
    fields = {name: [None] * count for name in POINTS.names} | about | columns
    return Decoded(uuid.uuid4(), ORG, DEVICE, columns=fields)


def test_the_latest_value_is_that_of_the_newest_sample_and_of_equals_the_last() -> None:
    messages = [
        with_columns(time=[3, 5, 5, 4], cpu=[1, 2, 3, 4]),
        with_columns(time=[5], cpu=[6]),
        with_columns(time=[2]),
    ]
    [(key, value)] = sinks.latest(messages)
    assert (key, value["cpu"], value["as_of"]) == (f"device:{DEVICE}:latest", 6, "1970-01-01T00:00:00.005000+00:00")
    assert sinks.latest([Decoded(uuid.uuid4(), ORG, DEVICE)]) == []


def test_late_points_that_the_store_refuses_are_their_own_messages(fleet: Stores) -> None:
    """It refuses by row of the windows that it was given, which are of some points of some messages."""
    bodies = [metrics(sample(60), sample(86400 * 8)), metrics(sample(30)), metrics(sample(86400 * 9), sample(10))]
    decoded = [decode(message("agent.metrics", body, n), REGISTRY, Period.at(NOW)) for n, body in enumerate(bodies)]

    def write_aggregates(_: Tier, windows: pa.Table) -> list[Refusal]:
        return [Refusal(row, "no room") for row in range(len(windows))]

    store = Faulty(fleet.metrics_store, write_aggregates=write_aggregates)
    sink_with(fleet, metrics_store=store).write(decoded, "run", NOW)
    assert [[(found.index, found.value) for found in one.rejections] for one in decoded] == [
        [(1, "no room")],
        [],
        [(0, "no room")],
    ]
    assert [point["time"] for point in points(fleet)] == [NOW - timedelta(seconds=ago) for ago in (60, 30, 10)]


def test_hours_of_events_are_noted_after_they_are_stored_and_only_where_days_follow(fleet: Stores) -> None:
    """Dying between, the messages are redelivered: stored once, and noted then."""
    noted = "SELECT kind, sum(events) AS n FROM touched_events GROUP BY kind"
    for queue in ("platform.api_calls", "agent.heartbeats"):
        decoded = [decode(message(queue, EVENTS[queue]), REGISTRY, Period.at(NOW))]
        sink_of(fleet, queue).write(decoded, "died", NOW)
        assert fleet.clickhouse.rows(noted) == []
        record = sink_of(fleet, queue).write(decoded, "run", NOW)
        assert fleet.clickhouse.scalar(f"SELECT count() FROM {TABLES[queue]}") == 1
        assert record() == set()
        if queue == "platform.api_calls":
            assert fleet.clickhouse.rows(noted) == [{"kind": "api_calls", "n": 1}]
            fleet.clickhouse.command("TRUNCATE TABLE touched_events")
    assert fleet.clickhouse.rows(noted) == []


def test_logs_are_read_by_organization_and_time(fleet: Stores) -> None:
    sink = sink_of(fleet, "platform.logs")
    for _ in range(2):
        sink.prepare()
    indexes = fleet.mongodb.database["application_logs"].index_information()
    fields = [[name for name, _ in index["key"]] for index in indexes.values()]  # the local MongoDB keeps no direction
    assert sorted(fields) == [["_id"], ["organization_id", "timestamp"]]
