"""What waits in quarantine for its host is replayed once the host is registered."""

import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.ingest import sensors
from ninjait_pipelines.ingest.quarantine.documents import make_document
from ninjait_pipelines.ingest.quarantine.hold import prepare_quarantine
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sensors import MAX_OF_ONE, held_for_known_hosts, registered_hosts, replay_registered
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.message_queue import Depth
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines_tests.ingest.conftest import LOG, make_drain
from ninjait_pipelines_tests.ingest.decode.decoding import decoded
from ninjait_pipelines_tests.ingest.drains import drained, ledger, points_of, publish_messages
from ninjait_pipelines_tests.ingest.materialized import definitions
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    OTHER_ORG,
    REGISTRY,
    as_published,
    collectd,
    line,
    message,
    metrics,
    outgoing,
    register_device,
    sample,
    telegraf,
    value_list,
)

MIB = 2**20


def states(stores: Stores) -> dict[str, int]:
    found = [document["state"] for document in stores.mongodb.database["quarantine"].find()]
    return {state: found.count(state) for state in set(found)}


NEW_DEVICE = str(uuid.UUID(int=77))


@pytest.fixture
def waiting(fleet: Stores) -> Stores:
    """The stores, in which a message of each format was quarantined in part: its host "new" is unknown."""
    return with_new(fleet, ORG)


def with_new(fleet: Stores, organization: str | None) -> Stores:
    """`organization` is what Telegraf's key names."""
    publish_messages(
        fleet,
        telegraf(
            line("mem", f"used={MIB}i"),
            line("mem", f"used={2 * MIB}i", host="new"),
            "mem,host=new used=oops 5",
            line("cpu", "usage_idle=90", host="new", cpu="cpu-total"),
            organization=organization,
        ),
        collectd(
            value_list("uptime", "uptime", 1, host="new"),
            value_list("memory", "memory", MIB, type_instance="used", seconds_ago=50),
            organization=ORG,
        ),
    )
    assert drained(fleet).points_written == 2
    assert states(fleet) == {"held": 2}
    return fleet


def register(stores: Stores, device: str = NEW_DEVICE, organization: str = ORG, host: str = "new") -> None:
    with stores.postgres.transaction() as connection:
        register_device(connection, device, organization, host)


def tick(stores: Stores) -> str | None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance=instance,
            resources={
                "message_queue": stores.message_queue,
                "mongodb": stores.mongodb,
                "postgres": stores.postgres,
            },
        ) as context,
    ):
        result = registered_hosts.evaluate_tick(context)
    assert not result.run_requests
    return result.skip_message


def test_what_came_before_its_host_was_registered_is_written_once_it_is(waiting: Stores) -> None:
    assert tick(waiting) == "no host of a quarantined message is known by now"
    register(waiting)
    assert tick(waiting) == "messages replayed: 2"
    assert tick(waiting) == "no host of a quarantined message is known by now"
    assert drained(waiting).points_written == 3
    [point] = points_of(waiting, NEW_DEVICE)
    assert (point["cpu"], point["memory"], point["uptime"]) == (10.0, 2.0, 1.0)
    assert len(points_of(waiting)) == 2
    assert states(waiting) == {"replayed": 2, "held": 1}  # the line that nobody can read
    [trail] = [d["trail"] for d in waiting.mongodb.database["quarantine"].find({"state": "replayed"})][:1]
    assert [(step["who"], step["action"]) for step in trail] == [("registered_hosts", "replayed")]
    assert tick(waiting) == "no host of a quarantined message is known by now"
    assert drained(waiting).messages == 0
    assert points_of(waiting, NEW_DEVICE) == [point]
    assert ledger(waiting) == {"partly_quarantined": 3, "written": 1}


@pytest.fixture
def anybody(fleet: Stores) -> Iterator[Stores]:
    """The stores where HOSTS_WITHOUT_ORGANIZATION is on."""
    with Postgres(url=fleet.postgres.url, hosts_without_organization=True).open() as postgres:
        yield dataclasses.replace(fleet, postgres=postgres)


def test_a_host_of_the_wrong_organization_or_of_several_goes_on_waiting(anybody: Stores) -> None:
    waiting = with_new(anybody, None)
    register(waiting, organization=OTHER_ORG)
    assert tick(waiting) == "messages replayed: 1"  # Telegraf's names no organization
    assert drained(waiting).points_written == 2
    register(waiting, device=str(uuid.UUID(int=78)))
    assert tick(waiting) == "messages replayed: 1"
    assert drained(waiting).points_written == 1
    publish_messages(waiting, telegraf(line("mem", "used=1i", host="new", seconds_ago=20), organization=None))
    assert drained(waiting).points_written == 0
    assert tick(waiting) == "no host of a quarantined message is known by now"
    with waiting.postgres.transaction() as connection:
        connection.execute("DELETE FROM devices WHERE id = %s", (NEW_DEVICE,))
    assert tick(waiting) == "messages replayed: 1"
    assert drained(waiting).points_written == 1


def test_what_names_no_organization_waits_for_a_person(ninjait: Any, fleet: Stores, anybody: Stores) -> None:
    """Also what was held for its host while that was allowed: it would go to whoever registers the name."""
    with_new(anybody, None)
    publish_messages(fleet, telegraf(line("mem", "used=1i", host="new", seconds_ago=20), organization=None))
    assert drained(fleet).points_written == 0
    register(fleet, organization=OTHER_ORG)
    assert tick(fleet) == "no host of a quarantined message is known by now"
    register(fleet, device=str(uuid.UUID(int=78)))
    assert tick(fleet) == "messages replayed: 1"  # collectd's, whose key names one
    assert drained(fleet).points_written == 1

    replay = ("quarantine", "replay", "--reason", "no_organization_in_key")
    assert ninjait(*replay, "--dry-run").stdout.endswith("1 would come back: no_organization_in_key\n") is False
    given = ninjait(*replay, "--set", f"organization_id={ORG}")
    assert given.exit_code == 0, given.output
    assert drained(fleet).points_written == 1
    assert [row["device_id"] for row in points_of(fleet, str(uuid.UUID(int=78)))] == [str(uuid.UUID(int=78))] * 2


def test_one_tick_replays_no_more_than_its_bound(fleet: Stores) -> None:
    publish_messages(fleet, *(telegraf(line("mem", f"used={n}i", host="new", seconds_ago=60 + n)) for n in range(3)))
    assert drained(fleet).points_quarantined == 3
    register(fleet)
    registry = load_sender_registry(fleet.postgres)
    replayed = [replay_registered(fleet.mongodb, fleet.message_queue, registry, NOW, limit=2) for _ in range(3)]
    assert replayed == [2, 1, 0]
    assert drained(fleet).points_written == 3
    assert len(points_of(fleet, NEW_DEVICE)) == 3


def test_the_same_lines_of_two_organizations_are_replayed_for_both(fleet: Stores) -> None:
    text = line("mem", f"used={MIB}i", host="new")
    publish_messages(fleet, *(telegraf(text, organization=one) for one in (ORG, OTHER_ORG)))
    assert drained(fleet).points_quarantined == 2
    register(fleet)
    register(fleet, str(uuid.UUID(int=78)), OTHER_ORG)
    assert tick(fleet) == "messages replayed: 2"
    assert drained(fleet).points_written == 2
    assert len(points_of(fleet, NEW_DEVICE)) == len(points_of(fleet, str(uuid.UUID(int=78)))) == 1


def test_a_tick_is_quick_however_much_is_held_for_however_many_hosts(fleet: Stores) -> None:
    """A customer's fleet sent for a day before its hosts were registered: a tick asked for each host by itself, took
    half a minute, and fell behind for good."""
    documents = []
    for n in range(3000):
        one = telegraf(line("mem", f"used={n}i", host=f"new-{n % 1000}"), organization=ORG, delivery_id=f"copy-{n}")
        documents.append(make_document(one, decoded(one), "run", NOW + timedelta(milliseconds=n)))
    documents[7]["intent"] = {"changes": ["--map new-7=old-7"]}  # a person's, who has not gone on with it
    documents[8]["intent"] = {"changes": []}
    prepare_quarantine(fleet.mongodb, NOW, LOG)
    fleet.mongodb.insert_new("quarantine", documents)
    hosts = {f"new-{n}": {ORG: str(uuid.UUID(int=5000 + n))} for n in range(900)}
    registry = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, hosts)
    started = time.monotonic()
    found = [copy["_id"] for copy in held_for_known_hosts(fleet.mongodb, registry)]
    assert time.monotonic() - started < 5
    known = [f"agent.metrics/copy-{n}" for n in range(3000) if n % 1000 < 900 and n != 7]
    assert found == known[:MAX_OF_ONE]  # the next ticks take the rest


def test_a_host_known_to_another_organization_only_is_not_replayed_again_and_again(fleet: Stores) -> None:
    """A copy waits for its host in each organization, and the host is registered in one: the other goes on waiting."""
    text = json.dumps([value_list("memory", "memory", MIB, type_instance="used", host="new")])
    for organization in (ORG, OTHER_ORG):
        delivered = collectd(organization=organization)
        fleet.message_queue.publish(
            [as_published(message("agent.metrics", text.encode(), routing_key=delivered.routing_key))]
        )
    make_drain(fleet).run(idle_seconds=0.05)
    with fleet.postgres.transaction() as connection:
        register_device(connection, str(uuid.UUID(int=77)), OTHER_ORG, "new")
    registry = load_sender_registry(fleet.postgres)
    ticks = [replay_registered(fleet.mongodb, fleet.message_queue, registry, NOW) for _ in range(3)]
    assert ticks == [1, 0, 0]
    assert make_drain(fleet).run(idle_seconds=0.05).points_written == 1
    rows = fleet.metrics_store.read(NOW - timedelta(hours=1), NOW).to_pylist()
    assert [row["organization_id"] for row in rows] == [OTHER_ORG]


@pytest.mark.parametrize(
    ("depth", "active", "failed_seconds_ago", "reason"),
    [
        (Depth(0, 0, 0), False, None, "the queue is empty"),
        (Depth(5, 0, 0), True, None, "a drain is under way"),
        (Depth(5, 0, 0), False, 10, "the last drain failed"),
        (Depth(5, 0, 0), False, 61, None),
        (Depth(5, 0, 0), False, None, None),
        (Depth(0, 5, 0), False, None, None),
        (Depth(0, 0, 1), False, None, None),
    ],
)
def test_when_a_drain_starts(depth: Depth, active: bool, failed_seconds_ago: int | None, reason: str | None) -> None:
    failed_at = NOW - timedelta(seconds=failed_seconds_ago) if failed_seconds_ago else None
    assert (sensors.decide(depth, active, failed_at, NOW) or "").startswith(reason or "")
    assert bool(sensors.decide(depth, active, failed_at, NOW)) == bool(reason)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 60), (2, 120), (3, 240), (4, 300)])
def test_drains_that_fail_one_after_another_start_less_and_less_often(failures: int, seconds: int) -> None:
    def starts(after: int) -> bool:
        return not sensors.decide(Depth(5, 0, 0), False, NOW - timedelta(seconds=after), NOW, failures)

    assert (starts(seconds - 1), starts(seconds)) == (False, True)


def test_a_sensor_starts_a_drain_skips_while_one_runs_and_waits_after_a_failure(fleet: Stores) -> None:
    sensor = sensors.drains_sensor(wait_seconds=0)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"message_queue": fleet.message_queue}) as context,
    ):

        def tick() -> tuple[int, str | None]:
            result = sensor.evaluate_tick(context)
            return len(result.run_requests or ()), result.skip_message

        assert tick() == (0, "all queues are empty")
        fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample()))])
        assert tick() == (1, None)
        job = definitions(fleet).resolve_job_def("drain_agent_metrics")
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        assert tick() == (0, "agent.metrics: a drain is under way")
        instance.report_run_canceled(run)
        assert tick() == (1, None)
        instance.report_run_failed(instance.create_run_for_job(job))
        assert tick()[0] == 0
        instance.report_run_failed(instance.create_run_for_job(job))
        assert sensors.last_drain(instance, job.name)[2] == 2
        assert sensors.last_drain(instance, job.name)[1] > datetime.now(UTC) - timedelta(seconds=30)  # type: ignore[operator]
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 10


def test_a_tick_waits_for_messages(fleet: Stores) -> None:
    """Dagster starts a tick every ten seconds at best; this one starts a drain as soon as a message is there."""
    sensor = sensors.drains_sensor(wait_seconds=50)
    publisher = threading.Timer(1, fleet.message_queue.publish, [[outgoing("agent.metrics", metrics(sample()))]])
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"message_queue": fleet.message_queue}) as context,
    ):
        publisher.start()
        started = time.monotonic()
        requests = sensor.evaluate_tick(context).run_requests or ()
        publisher.join()
    assert [request.job_name for request in requests] == ["drain_agent_metrics"]
    assert 1 <= time.monotonic() - started < 20


def test_a_tick_ends_before_dagster_ends_it() -> None:
    """After 60 seconds; a queue that does not answer takes two time-outs of 10 seconds, before the wait."""
    assert sensors.WAIT_SECONDS + sensors.LOOK_SECONDS + 20 < 60
