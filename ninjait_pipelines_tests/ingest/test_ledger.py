"""The ledger: what it says of each copy of a message, of points that came twice, and what its views answer."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pika
import pytest

from ninjait_pipelines.contract import milliseconds
from ninjait_pipelines.ingest.decode.hosts import OTHERS
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import NOBODY, Decoded, Period, Rejection
from ninjait_pipelines.ingest.ledger import ledger_rows
from ninjait_pipelines.ingest.sinks import _reject
from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.metrics_store import Refusal
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS as EXCHANGE
from ninjait_pipelines.rollup.assets import device_metrics_hours
from ninjait_pipelines.rollup.checks import hour_is_accounted_for
from ninjait_pipelines_tests.ingest.conftest import TABLES, drained, ledger_row, make_drain, sink_of
from ninjait_pipelines_tests.ingest.drains import ledger, points, publish, run
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    REGISTRY,
    SECOND_DEVICE,
    as_published,
    collectd,
    line,
    message,
    metrics,
    outgoing,
    sample,
    telegraf,
    unknown_lines,
    value_list,
)
from ninjait_pipelines_tests.rollup.data import check, hourly, key, roll_up
from ninjait_pipelines_tests.runs import passed
from ninjait_pipelines_tests.truncated_stores import rabbitmq_channel

PERIOD = Period.at(NOW)
A, B, C = (str(UUID(int=number)) for number in (1, 2, 3))


def ago(seconds: float) -> Any:
    return NOW - timedelta(seconds=seconds)


# --- the rows ---


def test_a_row_lists_the_instants_that_were_written_and_why_others_were_not() -> None:
    delivered = message("agent.metrics", metrics(sample(60), sample(30, cpu=103), sample(20, memory=-1), sample(10)))
    row = ledger_row(delivered)
    assert row["instants"] == [ago(60), ago(10)]
    assert row["reasons"] == ["above_100", "negative"]
    assert (row["device_id"], row["instant_devices"], row["counter_instants"]) == (DEVICE, [], [])
    assert (row["points"], row["points_written"], row["points_quarantined"]) == (4, 2, 2)
    assert row["message_id"] == str(UUID(str(delivered.message_id)))


def test_the_ledger_says_that_nothing_was_understood() -> None:
    row = ledger_row(telegraf(*unknown_lines(), organization=ORG))
    assert (row["outcome"], row["points"], row["points_written"], row["unknown_fields"]) == ("not_understood", 0, 0, 5)
    assert (row["agent"], row["host"]) == ("telegraf", "lap-2")
    assert row["left_out"][1] == {
        "device_id": SECOND_DEVICE,
        "host": "lap-2",
        "measurement": "win_wmi",
        "example": "Depth",
        "readings": 1,
    }
    assert ledger_row(telegraf(*unknown_lines(), line("mem", "used=1i"), organization=ORG))["outcome"] == "written"
    assert ledger_row(telegraf(*unknown_lines(), line("mem", "used=-1i"), organization=ORG))["outcome"] == "quarantined"
    assert ledger_row(message("agent.metrics", metrics(sample())))["outcome"] == "written"


def test_what_the_store_refused_is_not_listed() -> None:
    """It refuses by row of the columns, and of a partly bad message these are not the samples one by one."""
    delivered = message("agent.metrics", metrics(sample(60, cpu=103), sample(30), sample(10)))
    decoded = decode(delivered, REGISTRY, PERIOD)
    decoded.rejections = [*decoded.rejections, Rejection(1, None, "no room", "refused_by_store")]
    row = ledger_row(delivered, decoded)
    assert row["instants"] == [ago(10)]
    assert row["reasons"] == ["above_100", "refused_by_store"]
    decoded.rejections = [*decoded.rejections, Rejection(2, None, "no room", "refused_by_store")]
    assert (ledger_row(delivered, decoded)["instants"], ledger_row(delivered, decoded)["outcome"]) == (
        [],
        "quarantined",
    )


def test_other_agents_points_are_listed_with_their_devices() -> None:
    lines = [
        line("mem", "used=1048576i", 60),
        line("net", "bytes_sent=1i,bytes_recv=2i", 50, interface="eth0"),
        line("mem", "used=1048576i", 40, host="lap-1"),
    ]
    row = ledger_row(telegraf(*lines, organization=ORG))
    assert (row["device_id"], row["instants"], row["counter_instants"]) == (NOBODY, [ago(60), ago(40)], [ago(50)])
    assert row["instant_devices"] == [SECOND_DEVICE, DEVICE, SECOND_DEVICE]


def volumes_of(*seconds_ago: float) -> Decoded:
    """A message of nothing but readings of volumes, the rows of which are its entries 2, 4, 6 and so on."""
    count = len(seconds_ago)
    columns: dict[str, list[Any]] = {"organization_id": [ORG] * count, "device_id": [DEVICE] * count}
    columns |= {"source": ["telegraf"] * count, "disk": [""] * count, "volume": [f"v{n}" for n in range(count)]}
    columns |= {"time": [milliseconds(ago(seconds)) for seconds in seconds_ago]}
    columns |= {"used": [1.0] * count, "total": [2.0] * count, "free": [None] * count}
    rows = range(2, 2 * count + 1, 2)
    return Decoded(message_id=UUID(int=1), organization_id=ORG, points=count, volumes=columns, volume_rows=rows)


def test_readings_of_volumes_have_instants_of_their_own_and_what_is_refused_has_none() -> None:
    delivered, decoded = telegraf(line("mem", "used=1i")), volumes_of(60, 60, 30)
    row = ledger_row(delivered, decoded)
    assert (row["volume_instants"], row["instants"], row["points_written"]) == ([ago(60), ago(60), ago(30)], [], 3)
    assert row["instant_devices"] == [DEVICE]
    _reject([volumes_of(50), decoded], "volumes", [Refusal(2, "no room")])
    assert [one.index for one in decoded.rejections] == [4]
    row = ledger_row(delivered, decoded)
    assert (row["volume_instants"], row["points_written"], row["points_quarantined"]) == ([ago(60), ago(30)], 2, 1)


def test_readings_of_volumes_are_accounted_for(shared_stores: Stores) -> None:
    """In the ledger, in the store and in the hour's row; several of one instant are one sample."""
    hour = NOW.replace(minute=0, second=0) - timedelta(hours=1)
    since = (NOW - hour).total_seconds()
    decoded, moment = volumes_of(since, since, since - 30), datetime.now(UTC)
    sink_of(shared_stores, "agent.metrics").write([decoded], "run", moment)()
    shared_stores.clickhouse.insert(
        "message_deliveries", ledger_rows([(telegraf(line("mem", "used=1i")), decoded)], "run")
    )
    assert set(passed(roll_up(shared_stores, hour)).values()) == {True}
    (row,) = hourly(shared_stores)
    assert (row["sample_count"], row["disk_usage"], row["disk_total"]) == (2, 3.0, 6.0)
    found = check(shared_stores, [device_metrics_hours], [hour_is_accounted_for], key(hour))
    assert found["hour_is_accounted_for"].passed
    assert shared_stores.clickhouse.scalar("SELECT sum(balance) FROM conservation") == 0


def test_an_event_has_one_instant() -> None:
    for queue, event in EVENTS.items():
        row = ledger_row(message(queue, event))
        assert (row["instants"], row["device_id"]) == ([ago(60)], event.get("device_id", NOBODY)), queue
        assert row["instant_devices"] == []


def test_the_digest_tells_values_apart_and_is_the_same_in_every_process() -> None:
    def digest(*samples: Any) -> int:
        return int(ledger_row(message("agent.metrics", metrics(*samples)))["values_digest"])

    fixed = digest(sample(60, cpu=1), sample(30, uptime=None))
    assert fixed == digest(sample(60, cpu=1.0), sample(30, uptime=None))
    assert len({fixed, digest(sample(60, cpu=1), sample(30)), digest(sample(60, cpu=2), sample(30, uptime=None))}) == 3
    assert fixed == 1998892449


def test_what_was_written_is_counted_by_itself() -> None:
    """Else points = written + quarantined would hold whatever a decoder lost."""
    delivered = message("agent.metrics", metrics(sample(60), sample(30)))
    decoded = decode(delivered, REGISTRY, PERIOD)
    decoded.columns = {name: values[:1] for name, values in decoded.columns.items()}
    row = ledger_row(delivered, decoded)
    assert (row["points"], row["points_written"], row["points_quarantined"]) == (2, 1, 0)


def test_no_rows_of_no_messages() -> None:
    assert ledger_rows([], "run").num_rows == 0


# --- duplicates: the store's value, the ledger's outcome, the view's row ---


def resent(stores: Stores) -> list[tuple[str, str, str, int]]:
    rows = stores.clickhouse.rows("SELECT * FROM resent_points ORDER BY recorded_at, message_id")
    assert all((str(row["organization_id"]), str(row["device_id"])) == (ORG, DEVICE) for row in rows)
    return [(str(row["message_id"]), str(row["replaced_by"]), row["kind"], row["points"]) for row in rows]


def cpus(stores: Stores) -> list[float]:
    return [point["cpu"] for point in points(stores)]


BATCH = (sample(60, cpu=1), sample(30, cpu=2))


def test_the_same_message_again_is_a_duplicate(fleet: Stores) -> None:
    for _ in range(2):
        publish(fleet, metrics(*BATCH), metrics(*BATCH), message_id=A)
        run(fleet)
    assert (cpus(fleet), ledger(fleet), resent(fleet)) == ([1, 2], {"written": 1, "duplicate": 3}, [])


def test_the_same_id_with_other_values_is_a_duplicate_whose_values_count(fleet: Stores) -> None:
    for cpu in (2, 3):
        publish(fleet, metrics(BATCH[0], sample(30, cpu=cpu)), message_id=A)
        run(fleet)
    assert (cpus(fleet), ledger(fleet)) == ([1, 3], {"written": 1, "duplicate": 1})
    assert resent(fleet) == [(A, A, "other_values", 2)]


def test_the_same_id_with_other_instants_adds_its_points_and_is_shown(fleet: Stores) -> None:
    """The ledger calls one of the copies a duplicate, and the points of both are in the store."""
    publish(fleet, metrics(*BATCH), message_id=A)
    publish(fleet, metrics(sample(20, cpu=1), sample(10, cpu=2)), message_id=A)  # the same values
    publish(fleet, metrics(sample(90, cpu=4)), message_id=B)
    run(fleet)
    assert (cpus(fleet), ledger(fleet)) == ([4, 1, 2, 1, 2], {"written": 2, "duplicate": 1})
    assert resent(fleet) == [(A, A, "other_points", 2)]
    publish(fleet, metrics(sample(20, cpu=1), sample(10, cpu=2)), message_id=A)
    run(fleet)
    assert resent(fleet) == [(A, A, "other_points", 2)]


def test_the_same_id_with_some_other_instants_overlaps_itself(fleet: Stores) -> None:
    publish(fleet, metrics(*BATCH), message_id=A)
    publish(fleet, metrics(sample(30, cpu=1), sample(10, cpu=2)), message_id=A)
    run(fleet)
    assert (cpus(fleet), ledger(fleet)) == ([1, 1, 2], {"written": 1, "duplicate": 1})
    assert resent(fleet) == [(A, A, "overlapping", 1)]


def test_the_same_id_of_another_device_adds_its_points_and_is_shown(fleet: Stores) -> None:
    publish(fleet, metrics(*BATCH), message_id=A)
    publish(fleet, metrics(*BATCH, device_id=SECOND_DEVICE), message_id=A)
    run(fleet)
    assert (len(points(fleet)), ledger(fleet)) == (4, {"written": 1, "duplicate": 1})
    [row] = fleet.clickhouse.rows("SELECT toString(device_id) AS device, kind, points FROM resent_points")
    assert tuple(row.values()) == (SECOND_DEVICE, "other_points", 2)


def test_two_samples_of_one_instant_are_one_point(fleet: Stores) -> None:
    """The later one in the message counts, field by field; times are cut to milliseconds."""
    instant = ago(60).strftime("%Y-%m-%dT%H:%M:%S.250")
    first = sample(timestamp=f"{instant}1Z", cpu=1, memory=1)
    second = sample(timestamp=f"{instant}9Z", cpu=2, memory=None)
    publish(fleet, metrics(first, second, sample(30)), message_id=A)
    assert run(fleet).points_written == 3
    assert [(point["cpu"], point["memory"]) for point in points(fleet)] == [(2, 1), (12.5, 2048)]
    [row] = fleet.clickhouse.rows("SELECT instants, points_written FROM message_deliveries")
    assert (row["instants"], row["points_written"]) == ([ago(59.75), ago(59.75), ago(30)], 3)
    assert (ledger(fleet), resent(fleet)) == ({"written": 1}, [])


def test_of_a_second_copy_what_is_older_than_full_resolution_is_left_out(fleet: Stores) -> None:
    """In the lower tiers it would stand beside the first. Its younger samples went with it, and the hour was red."""
    for samples in (1, 2):
        young = (sample(60 - number, cpu=samples) for number in range(samples))
        publish(fleet, metrics(sample(8 * 86400, cpu=samples), *young), message_id=A)
        run(fleet)
    start = (NOW - timedelta(days=8, hours=1)).replace(minute=0, second=0)
    window = fleet.metrics_store.aggregate(Tier.FIVE_MINUTES, start, start + timedelta(hours=3), timedelta(hours=1))
    assert [(row["samples"], row["cpu_max"]) for row in window.to_pylist()] == [(1, 1)]
    assert (cpus(fleet), ledger(fleet)) == ([2, 2], {"written": 1, "duplicate": 1})
    assert resent(fleet) == [(A, A, "overlapping", 2)]
    assert fleet.clickhouse.scalar("SELECT points_written FROM message_ledger WHERE outcome = 'duplicate'") == 3


def test_another_id_with_the_same_points_and_values_is_harmless(fleet: Stores) -> None:
    publish(fleet, metrics(*BATCH), message_id=A)
    publish(fleet, metrics(*BATCH, agent_version="2.4.2"), message_id=B)
    run(fleet)
    assert (cpus(fleet), ledger(fleet), resent(fleet)) == ([1, 2], {"written": 2}, [(A, B, "same_values", 2)])


@pytest.mark.parametrize("drains", [1, 2])
def test_another_id_with_the_same_points_and_other_values_replaces_them(fleet: Stores, drains: int) -> None:
    """Also within one batch, which is recorded at one instant."""
    publish(fleet, metrics(*BATCH), message_id=B)
    if drains == 2:
        run(fleet)
    publish(fleet, metrics(BATCH[0], sample(30, cpu=9)), message_id=A)
    run(fleet)
    assert (cpus(fleet), ledger(fleet), resent(fleet)) == ([1, 9], {"written": 2}, [(B, A, "other_values", 2)])


def test_a_message_with_some_of_the_points_of_another_overlaps_it(fleet: Stores) -> None:
    publish(fleet, metrics(*BATCH, sample(10, cpu=3)), message_id=A)
    publish(fleet, metrics(sample(45, cpu=7)), message_id=C)  # between two of them: it has none of their points
    publish(fleet, metrics(sample(30, cpu=9)), message_id=B)
    run(fleet)
    assert (cpus(fleet), ledger(fleet)) == ([1, 7, 9, 3], {"written": 3})
    assert resent(fleet) == [(A, B, "overlapping", 1)]


def test_parts_of_one_reading_are_not_taken_for_points_sent_again(fleet: Stores) -> None:
    parts = [
        value_list("memory", "memory", 1e9, type_instance="used"),
        value_list("cpu", "percent", 7.0, type_instance="active"),
    ]
    for part in parts:
        delivered = collectd(part, organization=ORG)
        fleet.message_queue.publish([outgoing("agent.metrics", delivered.body, routing_key=delivered.routing_key)])
    run(fleet)
    assert (len(points(fleet)), ledger(fleet), resent(fleet)) == (1, {"written": 2}, [])


@pytest.mark.servers
def test_on_rabbitmq_copies_that_nobody_marked_are_one_row(fleet: Stores) -> None:
    """Telegraf and collectd name neither a message nor a copy: what is equal is one copy that came again."""
    assert isinstance(fleet.message_queue, RabbitMQ)
    body = line("mem", "used=1048576i").encode()
    with rabbitmq_channel(fleet.message_queue) as channel:
        channel.confirm_delivery()
        for properties in ({}, {}, {"timestamp": 1_700_000_000}):
            sent = pika.BasicProperties(content_type="text/plain", delivery_mode=2, **properties)
            channel.basic_publish(EXCHANGE, f"metrics.telegraf.{ORG}", body, sent, mandatory=True)
    make_drain(fleet).run(max_messages=1, idle_seconds=1)
    assert run(fleet).messages == 2  # of which one has the row of the first
    assert len(points(fleet)) == 1
    assert ledger(fleet) == {"written": 1, "duplicate": 1}  # the time of publication tells the third one apart


@pytest.mark.parametrize("queue", TABLES)
def test_an_event_of_the_same_id_is_another_row_if_its_time_is_another(fleet: Stores, queue: str) -> None:
    event = EVENTS[queue]
    name, changed = {
        "agent.heartbeats": ("status", "offline"),
        "platform.api_calls": ("status_code", 500),
        "platform.usage": ("storage_gb", "1.5"),
    }[queue]
    for again in (event, event | {name: changed}, event | {"timestamp": ago(30).isoformat()}):
        publish(fleet, again, queue=queue, message_id=A)
        run(fleet, queue)
    rows = fleet.clickhouse.rows(f"SELECT timestamp, toString({name}) AS value FROM {TABLES[queue]} ORDER BY timestamp")
    expected = [(ago(60), str(changed)), (ago(30), str(event[name]))]
    assert [(row["timestamp"], row["value"].rstrip("0") if "." in row["value"] else row["value"]) for row in rows] == (
        expected
    )
    assert ledger(fleet) == {"written": 1, "duplicate": 2}


def test_of_logs_with_one_id_the_first_counts(fleet: Stores) -> None:
    log = EVENTS["platform.logs"]
    for again in (log, log | {"message": "other", "timestamp": ago(30).isoformat()}):
        publish(fleet, again, queue="platform.logs", message_id=A)
        run(fleet, "platform.logs")
    [document] = fleet.mongodb.database["application_logs"].find()
    assert (document["message"], ledger(fleet)) == (log["message"], {"written": 1, "duplicate": 1})


# --- the views ---


def test_conservation_balances_and_shows_where_it_does_not(fleet: Stores) -> None:
    publish(fleet, metrics(*BATCH, sample(10, cpu=103)), metrics(*BATCH), message_id=A)
    publish(fleet, b"not json", metrics(sample(5)))
    publish(fleet, EVENTS["agent.heartbeats"], queue="agent.heartbeats")
    run(fleet)
    run(fleet, "agent.heartbeats")
    columns = "messages, duplicates, points, points_written, points_quarantined, points_of_duplicates, balance"
    query = f"SELECT queue, {columns} FROM conservation ORDER BY queue"
    assert [tuple(row.values()) for row in fleet.clickhouse.rows(query)] == [
        ("agent.heartbeats", 1, 0, 1, 1, 0, 0, 0),
        ("agent.metrics", 4, 1, 6, 3, 0, 3, 0),
    ]
    fleet.clickhouse.command(
        "ALTER TABLE message_deliveries UPDATE points = points + 1 WHERE 1 SETTINGS mutations_sync = 2"
    )
    assert [row["balance"] for row in fleet.clickhouse.rows(query)] == [1, 3]
    fleet.clickhouse.command("TRUNCATE TABLE message_deliveries")
    assert fleet.clickhouse.rows(query) == []  # what has no row is found by the drain's check


def test_what_was_quarantined_by_reason(fleet: Stores) -> None:
    publish(fleet, metrics(BATCH[0], sample(10, cpu=103), sample(5, cpu=102), sample(4, memory=-1)), b"not json")
    run(fleet)
    rows = fleet.clickhouse.rows("SELECT * FROM quarantined_by_reason ORDER BY reason")
    assert [
        (row["reason"], str(row["organization_id"]), row["messages"], row["points_quarantined"]) for row in rows
    ] == [
        ("above_100", ORG, 1, 3),
        ("negative", ORG, 1, 3),
        ("not_json", ORG, 1, 0),
    ]
    assert fleet.mongodb.database["quarantine"].find_one({"_id": rows[0]["example"]})


def test_late_points_do_not_drown_the_lag(fleet: Stores) -> None:
    publish(fleet, *(metrics(sample(200), sample(60 + n)) for n in range(9)), metrics(sample(3 * 86400)))
    run(fleet)
    [row] = fleet.clickhouse.rows("SELECT * FROM ingest_lag")
    assert (row["queue"], row["messages"], row["messages_late"]) == ("agent.metrics", 10, 1)
    assert 60 < row["lag_p50"] <= row["lag_p99"] <= row["lag_max"] < 1800
    assert row["oldest_p50"] - row["lag_p50"] > 100
    assert row["oldest_p50"] <= row["oldest_p99"]
    assert row["latest"] == pytest.approx(3 * 86400, abs=1800)
    assert row["broker_p50"] <= row["broker_max"] < 300


def test_hours_that_were_touched_after_their_roll_up(fleet: Stores) -> None:
    old, older = ((NOW - timedelta(hours=hours)).replace(minute=0, second=0) for hours in (5, 30))
    a_minute_ago = datetime.now(UTC) - timedelta(seconds=60)  # NOW may be more than an hour ago
    publish(fleet, *(metrics(sample((NOW - at).total_seconds())) for at in (old, older, a_minute_ago)))
    run(fleet)
    insert = "INSERT INTO rolled_up_hours SELECT {hour:DateTime('UTC')}, now64(6) + {later:Int32}, 'metrics', 1"
    fleet.clickhouse.command(insert, hour=old, later=60)
    fleet.clickhouse.command(insert, hour=older, later=-60)
    rows = fleet.clickhouse.rows("SELECT * FROM late_arrivals ORDER BY hour")
    found = [(row["hour"], str(row["organization_id"]), row["points"], row["points_waiting"]) for row in rows]
    assert found == [(older, ORG, 1, 1), (old, ORG, 1, 0)]


def test_the_ledger_forgets_instants_after_nine_days_and_rows_after_ninety(fleet: Stores) -> None:
    publish(fleet, *(metrics(sample(60 + n)) for n in range(3)))
    run(fleet)
    recorded = "recorded_at - INTERVAL [0, 10, 91][position + 1] DAY"
    copy = f"INSERT INTO message_deliveries SELECT * REPLACE ({recorded} AS recorded_at) FROM message_deliveries"
    fleet.clickhouse.command(copy)
    fleet.clickhouse.command(
        "DELETE FROM message_deliveries WHERE position > 0 AND recorded_at > now() - INTERVAL 1 DAY"
    )
    fleet.clickhouse.command("OPTIMIZE TABLE message_deliveries FINAL")
    rows = fleet.clickhouse.rows("SELECT instants, first_time, last_time FROM message_deliveries ORDER BY position")
    assert [row["first_time"] for row in rows] == [row["last_time"] for row in rows] == [ago(60), ago(61)]
    assert [row["instants"] for row in rows] == [[ago(60)], []]


def test_clickhouse_finds_the_times_of_events_in_their_instants(fleet: Stores) -> None:
    for queue, event in EVENTS.items():
        publish(fleet, event, queue=queue)
        run(fleet, queue)
    rows = fleet.clickhouse.rows("SELECT first_time, last_time FROM message_ledger")
    assert [(row["first_time"], row["last_time"]) for row in rows] == [(ago(60), ago(60))] * len(EVENTS)


LEFT_OUT = "SELECT organization_id, device_id, agent, host, measurement, readings, example FROM left_out ORDER BY ALL"


def left_out(stores: Stores) -> list[tuple[Any, ...]]:
    return [tuple(map(str, row.values())) for row in stores.clickhouse.rows(LEFT_OUT)]


def test_a_windows_fleet_is_seen(fleet: Stores) -> None:
    """It was invisible: `written` with 0 points, no row anywhere, all checks green."""
    bodies = [telegraf(*unknown_lines(minutes_ago=ago), organization=ORG) for ago in (1, 2)]
    bodies.append(telegraf(*unknown_lines("new-pc"), line("mem", "used=1048576i"), organization=ORG))
    fleet.message_queue.publish([*map(as_published, bodies), as_published(bodies[0])])
    summary = drained(fleet)
    assert (summary.messages, summary.points, summary.messages_not_understood) == (4, 1, 3)
    outcomes = "SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome ORDER BY outcome"
    found = {row["outcome"]: row["n"] for row in fleet.clickhouse.rows(outcomes)}
    duplicates = found.pop("duplicate", 0)  # where equal copies that nobody marked are two
    assert found == {"not_understood": 2, "written": 1}
    [balance] = fleet.clickhouse.rows("SELECT * FROM conservation")
    assert (balance["messages"], balance["not_understood"], balance["duplicates"]) == (3 + duplicates, 2, duplicates)
    assert balance["balance"] == 0
    services = str(2 * (2 + duplicates))
    assert left_out(fleet) == [
        (ORG, NOBODY, "telegraf", "new-pc", "win_services", "2", "state"),
        (ORG, NOBODY, "telegraf", "new-pc", "win_wmi", "1", "Depth"),
        (ORG, SECOND_DEVICE, "telegraf", "lap-2", "win_services", services, "state"),
        (ORG, SECOND_DEVICE, "telegraf", "lap-2", "win_wmi", str(2 + duplicates), "Depth"),
    ]
    assert fleet.clickhouse.scalar("SELECT count() FROM left_out WHERE hour < now('UTC') - 7200") == 0


def test_the_view_bounds_invented_measurements_of_many_messages(fleet: Stores) -> None:
    bodies = [
        telegraf(*(line(f"m{64 * first + number}", "f=1i") for number in range(64)), organization=ORG)
        for first in range(10)
    ]
    fleet.message_queue.publish(list(map(as_published, bodies)))
    drained(fleet)
    rows = left_out(fleet)
    assert len(rows) == 101
    assert sum(int(row[5]) for row in rows) >= 640
    assert [row for row in rows if row[4] == OTHERS]
