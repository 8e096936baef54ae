"""The simulator: the same messages every time, and exactly what it says of them."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ninjait_pipelines.cli.fleet import register
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, Period, SenderRegistry
from ninjait_pipelines.ingest.drain import Drain
from ninjait_pipelines.ingest.ledger import outcome_of
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.fleet.simulate import (
    BAD_DEVICES,
    BAD_MESSAGES,
    BAD_METRICS,
    BAD_SAMPLES,
    Device,
    Options,
    Organization,
    Published,
    Tally,
    Window,
    publish,
    read_fleet,
    simulate,
)
from ninjait_pipelines.messages import Message
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import Settings
from ninjait_pipelines.streams import QUEUES
from ninjait_pipelines_tests.ingest.conftest import sink_of

YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
DAY = Window(YESTERDAY, YESTERDAY + timedelta(days=1))
# Where the day of the week matters, and nothing looks at the clock.
MONDAY = datetime(2026, 5, 4, tzinfo=UTC)
WEEK = Window(MONDAY, MONDAY + timedelta(days=7))
KINDS = ("server", "workstation", "laptop", "laptop")


def organization(number: int, devices: int, time_zone: str) -> Organization:
    def name(kind: int, index: int) -> str:
        return f"00000000-0000-4000-8000-{number:04}{kind:04}{index:04}"

    members = tuple(Device(name(1, index), KINDS[index % 4], "Test OS 1") for index in range(devices))
    return Organization(name(0, 0), time_zone, members, (name(2, 0), name(2, 1)))


FLEET = [organization(1, 8, "Asia/Kolkata"), organization(2, 4, "America/New_York"), organization(3, 0, "UTC")]


def all_of(options: Options, window: Window = DAY, fleet: Sequence[Organization] = FLEET) -> list[Published]:
    return list(simulate(fleet, window, options))


def samples(messages: Sequence[Published]) -> list[tuple[str, datetime]]:
    """(device, time) of all samples of these messages."""
    found = []
    for one in messages:
        body = json.loads(one.message.body)
        for sample in body["samples"]:
            at = sample["timestamp"]
            moment = datetime.fromtimestamp(at / 1000, UTC) if isinstance(at, int) else datetime.fromisoformat(at)
            found.append((body["device_id"], moment))
    return found


def of(messages: Sequence[Published], queue: str, *kinds: str) -> list[Published]:
    return [one for one in messages if one.message.queue == queue and (not kinds or one.kind in kinds)]


def test_the_same_arguments_give_the_same_bytes_and_ids() -> None:
    window = Window(YESTERDAY, YESTERDAY + timedelta(hours=3))
    assert all_of(Options(), window) == all_of(Options(), window)


@pytest.mark.parametrize(
    ("options", "window", "fleet"),
    [
        (Options(seed=2), DAY, FLEET),
        (Options(broken=0.006), DAY, FLEET),
        (Options(), Window(DAY.start, DAY.end - timedelta(hours=1)), FLEET),
        (Options(), Window(DAY.start - timedelta(days=1), DAY.start), FLEET),
        (Options(), DAY, FLEET[:1]),
    ],
)
def test_other_arguments_never_use_a_message_id_again(
    options: Options, window: Window, fleet: list[Organization]
) -> None:
    """An early version took ids from the seed alone: the second simulated day was one big duplicate of the first."""
    ids = {one.message.message_id for one in all_of(Options(seed=1))}
    assert ids.isdisjoint(one.message.message_id for one in all_of(options, window, fleet))


def test_samples_lie_in_the_window_one_an_interval_and_none_twice() -> None:
    messages = all_of(Options(broken=0, duplicates=0, resent=0, away=0))
    points = samples(of(messages, "agent.metrics"))
    assert len(points) == len(set(points)) == sum(one.points for one in of(messages, "agent.metrics"))
    assert all(DAY.start <= moment < DAY.end for _, moment in points)
    servers = {device.id for one in FLEET for device in one.devices if device.kind == "server"}
    for device, count in Counter(device for device, _ in points).items():
        assert 2880 - 12 <= count <= 2880 if device in servers else count <= 2880
    assert {len(json.loads(one.message.body)["samples"]) for one in of(messages, "agent.metrics")} >= {20}


@pytest.mark.parametrize("interval", [1, 7, 60, 300])
def test_any_interval_gives_every_sample_of_the_window_once(interval: int) -> None:
    window = Window(YESTERDAY, YESTERDAY + timedelta(hours=2))
    options = Options(broken=0, duplicates=0, resent=0, interval=interval, api_calls=0, logs=0)
    servers = [device.id for one in FLEET for device in one.devices if device.kind == "server"]
    counts = Counter(device for device, _ in samples(of(all_of(options, window), "agent.metrics")))
    for server in servers:
        assert 7200 // interval - 3 <= counts[server] <= -(-7200 // interval)


def test_a_reboot_sets_the_uptime_back() -> None:
    messages = of(all_of(Options(broken=0, duplicates=0, resent=0, interval=300), WEEK), "agent.metrics")
    uptimes: dict[str, list[float]] = {}
    for one in messages:
        body = json.loads(one.message.body)
        uptimes.setdefault(body["device_id"], []).extend(sample["uptime"] for sample in body["samples"])
    falls = [later < earlier for values in uptimes.values() for earlier, later in pairwise(values)]
    assert 0 < sum(falls) < len(falls) / 20
    assert min(min(values) for values in uptimes.values()) >= 0


def test_the_day_has_a_curve_in_local_time() -> None:
    messages = all_of(Options(broken=0, away=0), Window(MONDAY, MONDAY + timedelta(days=1)))
    for one, offset in ((FLEET[0], 5.5), (FLEET[1], -4)):
        hours: dict[int, list[float]] = {}
        for published in of(messages, "agent.metrics", "good"):
            body = json.loads(published.message.body)
            if body["organization_id"] == one.id:
                (_, at), *_ = samples([published])
                hours.setdefault((at + timedelta(hours=offset)).hour, []).append(body["samples"][0]["cpu"])
        mean = {hour: sum(values) / len(values) for hour, values in hours.items()}
        assert mean[11] > 1.5 * mean[3]


def test_laptops_that_were_away_deliver_late_and_in_order() -> None:
    # With this seed one of the few laptops is away for longer than a day.
    messages = all_of(Options(seed=2, away=1, broken=0, duplicates=0, resent=0), WEEK)
    newest, latest = datetime.min.replace(tzinfo=UTC), timedelta()
    by_device: dict[str, list[datetime]] = {}
    for one in of(messages, "agent.metrics"):
        points = samples([one])
        by_device.setdefault(points[0][0], []).extend(moment for _, moment in points)
        latest = max(latest, newest - points[-1][1])
        newest = max(newest, points[-1][1])
    assert latest > timedelta(days=1), "some come more than a day late"
    assert all(times == sorted(times) for times in by_device.values())


def test_every_message_becomes_what_the_tally_says() -> None:
    """Against the decoder that ingest really uses, for every kind of bad input."""
    messages = all_of(Options(broken=0.2, duplicates=0.05, resent=0.05))
    devices = {device.id: one.id for one in FLEET for device in one.devices}
    registry, period = SenderRegistry(frozenset(one.id for one in FLEET), devices), Period.at(datetime.now(UTC))
    kinds, seen = set(), set()
    for one in messages:
        sent = one.message
        if one.outcome == "duplicate":
            assert (sent.queue, sent.message_id) in seen
            continue
        assert (sent.queue, sent.message_id) not in seen
        seen.add((sent.queue, sent.message_id))
        kinds.add(one.kind)
        decoded = decode(
            Message(sent.queue, sent.routing_key, sent.body, sent.content_type, sent.message_id, "1", "1", 1, 0),
            registry,
            period,
        )
        assert (outcome_of(decoded), str(decoded.message_id)) == (one.outcome, sent.message_id), (one.kind, decoded)
        assert decoded.points_accepted == one.points + one.resent_points, (one.kind, decoded)
        if one.outcome == "partly_quarantined":
            assert decoded.points_rejected == one.bad_points, (one.kind, decoded)
        if one.outcome != "written":
            assert reason(decoded) == REASONS.get(one.kind, one.kind)
    assert kinds == {"good", "resent", *BAD_SAMPLES, *BAD_MESSAGES, *BAD_DEVICES, *BAD_METRICS}


REASONS = {"true_as_number": "boolean_as_number", "nan": "not_finite", "infinite": "not_finite"}


def reason(decoded: Decoded) -> str:
    (found,) = {rejection.reason for rejection in decoded.rejections}
    return found


def test_a_fleet_of_one_device_has_no_kinds_that_need_two_organizations() -> None:
    one = [organization(1, 1, "UTC")]
    kinds = {published.kind for published in all_of(Options(broken=1), fleet=one)}
    assert not kinds & {"device_of_another_organization", "not_of_its_routing_key", "good"}


def test_the_fleet_is_what_was_registered_before_the_window_ended(shared_stores: Stores) -> None:
    seeded = seed(shared_stores.postgres, "testing", YESTERDAY.date())
    with shared_stores.postgres.transaction() as connection:
        connection.execute("UPDATE devices SET retired_at = now() WHERE id = %s", [seeded.devices["south"][0]])
        connection.execute("UPDATE devices SET created_at = now() WHERE id = %s", [seeded.devices["north"][0]])
    fleet = read_fleet(shared_stores.postgres, YESTERDAY)
    assert [len(one.devices) for one in fleet] == [2, 1]
    assert fleet[0].time_zone == "Asia/Kolkata"
    assert len(fleet[0].users) == 5
    assert [len(one.devices) for one in read_fleet(shared_stores.postgres, YESTERDAY, ["north"], max_devices=1)] == [1]
    with pytest.raises(LookupError, match="no organization nowhere"):
        read_fleet(shared_stores.postgres, YESTERDAY, ["north", "nowhere"])


def test_what_was_published_is_in_the_ledger_and_in_the_stores(shared_stores: Stores) -> None:
    """The whole way: the ledger has the tally's messages by outcome, and the stores exactly its points."""
    seed(shared_stores.postgres, "testing", YESTERDAY.date())
    window = Window(DAY.start, DAY.start + timedelta(hours=12))
    fleet = read_fleet(shared_stores.postgres, window.end)
    tally = publish(
        shared_stores.message_queue, simulate(fleet, window, Options(broken=0.1, duplicates=0.1, resent=0.1))
    )
    for queue in QUEUES:
        drain = Drain(
            sink_of(shared_stores, queue),
            shared_stores.message_queue,
            shared_stores.postgres,
            shared_stores.clickhouse,
            shared_stores.mongodb,
            "run",
            lambda: datetime.now(UTC),
            logging.getLogger("test"),
        )
        drain.run(idle_seconds=0.05)
    assert ledger(shared_stores) == expected(tally)
    read = shared_stores.metrics_store.read(window.start, window.end)
    assert read.num_rows == tally["agent.metrics"].points
    for table, queue in (("device_heartbeats", "agent.heartbeats"), ("api_calls", "platform.api_calls")):
        assert shared_stores.clickhouse.scalar(f"SELECT count() FROM {table}") == tally[queue].points
    assert shared_stores.mongodb.database["application_logs"].count_documents({}) == tally["platform.logs"].points


def ledger(stores: Stores) -> dict[tuple[str, str], int]:
    rows = stores.clickhouse.rows("SELECT queue, outcome, count() AS n FROM message_ledger GROUP BY queue, outcome")
    return {(row["queue"], row["outcome"]): row["n"] for row in rows}


def expected(tally: Tally) -> dict[tuple[str, str], int]:
    outcomes = ("written", "partly_quarantined", "quarantined", "duplicate")
    for queue in tally.values():
        assert queue.messages == sum(getattr(queue, outcome) for outcome in outcomes) == queue.kinds.total()
    counts = {(name, outcome): getattr(queue, outcome) for name, queue in tally.items() for outcome in outcomes}
    return {key: count for key, count in counts.items() if count}


def test_the_command_says_what_it_published(settings: Settings, shared_stores: Stores, tmp_path: Path) -> None:
    app, runner = typer.Typer(), CliRunner(env=dict(settings))
    register(app)
    nobody = runner.invoke(app, ["simulate", "--hours", "1"])
    assert nobody.exit_code == 1
    assert "ninjait seed" in nobody.output
    seed(shared_stores.postgres, "testing", YESTERDAY.date())
    said = runner.invoke(app, ["simulate", "--from", YESTERDAY.isoformat(), "--hours", "2", "--json"])
    assert said.exit_code == 0, said.output
    for queue, tally in json.loads(said.output)["queues"].items():
        assert shared_stores.message_queue.depth(queue).ready == tally["messages"]
    table = runner.invoke(app, ["simulate", "--hours", "0.5", "--organization", "north"])
    assert table.exit_code == 0
    assert "agent.metrics" in table.output
    for wrong in (["--hours", "1", "--from", "tomorrow"], ["--organization", "nowhere"], ["--from", "2199-01-01"]):
        assert runner.invoke(app, ["simulate", *wrong]).exit_code == 1
