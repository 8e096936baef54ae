"""A drain that is killed between any two steps, or loses a store under way: nothing is lost, nothing counts twice."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.ingest import sinks
from ninjait_pipelines.ingest.quarantine import hold, spool
from ninjait_pipelines.ingest.series import MAX_NAMES
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain, metrics_url
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    REGISTRY,
    SECOND_DEVICE,
    as_published,
    line,
    metrics,
    outgoing,
    sample,
    telegraf,
)
from ninjait_pipelines_tests.proxy import Proxy
from ninjait_pipelines_tests.resources.queue_contract import eventually

pytestmark = pytest.mark.usefixtures("retries_at_once")
REDELIVERY_SECONDS = 0.3
HELD, LEDGER, TOUCHED = "quarantine", "message_deliveries", "touched_hours"
SEEN, SERIES = "device_sightings", "device_series"

# Where a drain of metrics can die: (where to hook, what is called there, which call of it by its first argument).
Step = Callable[[Stores], tuple[Any, str, str | None]]
STEPS: dict[str, Step] = {
    "1 receive": lambda _: (drain_module, "_receive", None),
    "3a series": lambda stores: (type(stores.clickhouse), "insert", SERIES),
    "3a points": lambda stores: (type(stores.metrics_store), "write", None),
    "3a late points": lambda stores: (type(stores.metrics_store), "write_aggregates", None),
    "3b hours": lambda stores: (type(stores.clickhouse), "insert", TOUCHED),
    "3c last seen": lambda stores: (type(stores.clickhouse), "insert", SEEN),
    "3d latest": lambda stores: (type(stores.dragonfly), "set_many_if_newer", None),
    "4 quarantine": lambda stores: (type(stores.mongodb), "insert_new", HELD),
    "5 ledger": lambda stores: (type(stores.clickhouse), "insert", LEDGER),
    "6 acknowledge": lambda _: (drain_module.Drain, "_acknowledge", None),
}
# Where a drain that finds no MongoDB can die besides, and one that moves what waits in the spool.
SPOOL_STEPS: dict[str, Step] = {
    "spool": lambda _: (spool.Spool, "put", None),
    "insert what was spooled": lambda _: (hold, "_insert", None),
}


def kill_after(where: Any, name: str, argument: str | None) -> None:
    """Makes this process die, by SIGKILL, between this step and the next."""
    step = getattr(where, name)

    def dying(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        if argument is None or argument in args:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(where, name, dying)


def drain_once(settings: dict[str, str], queue: str, death: str | None) -> None:
    """A whole drain, with the redelivery of a test; in a process of its own where it is to die."""
    with open_stores(Settings(settings)) as stores:
        if death:
            kill_after(*(STEPS | SPOOL_STEPS)[death](stores))
        broker = redelivering_soon(stores.message_queue)
        make_drain(impatient(stores), queue, message_queue=broker).run(idle_seconds=idle_seconds(stores))


def redelivering_soon(queue: MessageQueue) -> MessageQueue:
    """The broker, which gives what a killed drain held to the next one: RabbitMQ at once, Dragonfly after a time."""
    if isinstance(queue, DragonflyQueue):
        return queue.model_copy(update={"redelivery_seconds": REDELIVERY_SECONDS})
    return queue


def killed(settings: Settings, queue: str, death: str) -> int | None:
    """Runs a drain that dies, and returns its exit code when what it held can be delivered again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=drain_once, args=(dict(settings), queue, death))
    process.start()
    process.join(150)  # on a busy machine it begins late
    time.sleep(REDELIVERY_SECONDS + 0.05)
    return process.exitcode


def contents(stores: Stores) -> dict[str, Any]:
    """Everything that a drain writes, but for when and by whom."""
    day = timedelta(days=1)
    start = (NOW - 9 * day).replace(hour=0, minute=0, second=0)
    late = stores.metrics_store.aggregate(sinks.Tier.FIVE_MINUTES, start, start + 2 * day, timedelta(hours=1))
    held = stores.mongodb.database[HELD].find({}, {"run_id": 0, "quarantined_at": 0, "held_bytes": 0})
    ledger = stores.clickhouse.rows(
        "SELECT queue, message_id, outcome, points, points_written, points_quarantined FROM message_ledger ORDER BY ALL"
    )
    heartbeats = "SELECT * EXCEPT (as_of) FROM device_heartbeats ORDER BY ALL"
    cached = {key: stores.dragonfly.client.get(key) for key in sorted(stores.dragonfly.client.scan_iter("device:*"))}
    return {
        "points": stores.metrics_store.read(NOW - day, NOW + day).to_pylist(),
        "late": late.to_pylist(),
        "hours": stores.clickhouse.rows("SELECT DISTINCT organization_id, hour FROM touched_hours ORDER BY ALL"),
        "seen": stores.clickhouse.rows("SELECT * EXCEPT (sent_at, understood_at) FROM device_last_seen ORDER BY ALL"),
        "series": stores.clickhouse.rows("SELECT * FROM device_series FINAL ORDER BY ALL"),
        "left out": stores.clickhouse.rows("SELECT host, measurement, readings, example FROM left_out ORDER BY ALL"),
        "cached": cached,
        "heartbeats": stores.clickhouse.rows(heartbeats),
        "logs": list(stores.mongodb.database["application_logs"].find().sort("_id", 1)),
        "held": sorted(({**row, "_id": 0} for row in held), key=lambda row: row["message_id"]),
        "ledger": ledger,
        "depths": [
            stores.message_queue.depth(queue) for queue in ("agent.metrics", "agent.heartbeats", "platform.logs")
        ],
    }


def publish_everything(stores: Stores) -> None:
    """Good, late, bad and repeated messages."""
    good = [metrics(sample(n, cpu=n), sample(n + 0.5), device_id=(DEVICE, SECOND_DEVICE)[n % 2]) for n in range(1, 21)]
    late = metrics(sample(8 * 24 * 3600), sample(61, cpu=3))
    bad = [metrics(sample(70), sample(71, cpu=-2)), b"not json", metrics(sample(), device_id="x")]
    stores.message_queue.publish([outgoing("agent.metrics", body) for body in [*good, late, *bad, good[0]]])


def publish_as_others(stores: Stores) -> None:
    """Messages of Telegraf's: nothing of one is for us, the other has two interfaces more than a device may have."""
    swap = [line("swap", "used=1i"), line("swap", "in=1i"), line("kernel", "boot=1i")]
    net = [line("net", "bytes_recv=1i", interface=f"if{number}") for number in range(MAX_NAMES + 2)]
    stores.message_queue.publish([as_published(telegraf(*lines, organization=ORG)) for lines in (swap, net)])


def test_killed_between_any_two_steps_and_run_again_the_stores_are_as_if_nothing_had_been(
    fleet: Stores, settings: Settings
) -> None:
    """A drain dies at each point in turn; it and the next one must write what one clean drain writes."""
    publish_everything(fleet)
    publish_as_others(fleet)
    make_drain(fleet).run(idle_seconds=idle_seconds(fleet))
    clean = contents(fleet)
    outcomes = {"written", "not_understood", "partly_quarantined", "quarantined", "duplicate"}
    assert {row["outcome"] for row in clean["ledger"]} == outcomes
    assert [row["readings"] for row in clean["left out"]] == [1, 2]
    assert len(clean["series"]) == MAX_NAMES

    empty(fleet)
    for death in STEPS:
        publish_everything(fleet)
        publish_as_others(fleet)
        assert killed(settings, "agent.metrics", death) == -signal.SIGKILL, death
        if death != "6 acknowledge":
            assert waiting(fleet, "agent.metrics", 27), f"{death}: acknowledged too early"
        drain_once(dict(settings), "agent.metrics", None)
        assert contents(fleet) == clean, death
        empty(fleet)


def waiting(stores: Stores, queue: str, *counts: int) -> bool:
    """Whether so many messages wait in a queue, or so many: RabbitMQ counts a moment behind what it does."""
    return eventually(lambda: stores.message_queue.depth(queue).outstanding in counts)


def empty(stores: Stores) -> None:
    """Empties what a drain writes."""
    for table in (LEDGER, TOUCHED, SEEN, SERIES, "device_heartbeats_versions"):
        stores.clickhouse.command(f"TRUNCATE TABLE {table}")
    stores.metrics_store.delete(list(REGISTRY.devices))
    for collection in (HELD, "application_logs"):
        stores.mongodb.database[collection].delete_many({})
    for key in stores.dragonfly.client.scan_iter("device:*"):
        stores.dragonfly.client.delete(key)


@pytest.mark.parametrize("queue", ["agent.heartbeats", "platform.logs"])
def test_events_are_rows_once_although_the_drain_died_before_its_acknowledgement(
    fleet: Stores, settings: Settings, queue: str
) -> None:
    fleet.message_queue.publish([outgoing(queue, EVENTS[queue]), outgoing(queue, EVENTS[queue] | {"timestamp": 5})])
    assert killed(settings, queue, "5 ledger") == -signal.SIGKILL
    assert waiting(fleet, queue, 2)
    died = contents(fleet)
    drain_once(dict(settings), queue, None)
    after = contents(fleet)
    assert died.pop("depths") != after.pop("depths")
    assert died == after
    assert [row["outcome"] for row in after["ledger"]] in (["written", "quarantined"], ["quarantined", "written"])


@contextmanager
def proxied(settings: Settings, name: str) -> Iterator[tuple[Settings, Proxy]]:
    with Proxy(settings[name]) as proxy:
        yield Settings(settings | {name: proxy.url}), proxy


@pytest.mark.parametrize("at", ["write", "ledger"])
def test_a_store_that_stops_in_the_middle_stops_the_drain_and_loses_nothing(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 10)
    fleet.message_queue.publish(
        [outgoing("agent.metrics", metrics(sample(n), sample(n, cpu=-2))) for n in range(1, 41)]
    )
    store = metrics_url(settings) if at == "write" else "CLICKHOUSE_URL"
    with proxied(settings, store) as (through, proxy), open_stores(through) as stores:
        calls = iter(range(100))

        def cutting(step: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == 1:
                    proxy.refuse()
                return step(*args, **kwargs)

            return wrapped

        with monkeypatch.context() as patch:
            target, function = {
                "write": (sinks.MetricsSink, "write"),
                "ledger": (drain_module, "ledger_rows"),
            }[at]
            patch.setattr(target, function, cutting(getattr(target, function)))
            with pytest.raises(StoreUnavailable):
                make_drain(stores).run(idle_seconds=idle_seconds(stores))
    # the first batch was perhaps not recorded yet, as the second one met the store that was gone
    assert waiting(fleet, "agent.metrics", 30, 40)
    assert fleet.message_queue.depth("agent.metrics").dead == 0
    assert make_drain(fleet).run(idle_seconds=idle_seconds(fleet)).messages in (30, 40)
    assert len(fleet.metrics_store.read(NOW - timedelta(hours=2), NOW + timedelta(hours=1))) == 40
    assert fleet.mongodb.database[HELD].count_documents({}) == 40
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    assert rows == [{"outcome": "partly_quarantined", "n": 40}]


def impatient(stores: Stores) -> Stores:
    """The same stores, with a MongoDB that is not waited for as long as in production."""
    mongodb = MongoDB(url=stores.mongodb.url, spool_folder=stores.mongodb.spool_folder, timeout_seconds=1)
    return replace(stores, mongodb=mongodb)


def test_an_outage_uses_up_no_deliveries(fleet: Stores, settings: Settings) -> None:
    """A store was away for an hour. The sensor started a drain every minute, each delivered the same messages and gave
    them back, and at the delivery limit good messages became dead letters."""
    stores_of = {
        "platform.logs": ("CLICKHOUSE_URL", "MONGODB_URL", "DATABASE_URL"),
        "agent.metrics": (metrics_url(settings),),
    }
    bodies = EVENTS | {"agent.metrics": metrics(sample())}
    for queue, names in stores_of.items():
        fleet.message_queue.publish([outgoing(queue, bodies[queue])])
        for name in names:
            with proxied(settings, name) as (through, proxy), open_stores(through) as stores:
                proxy.refuse()
                with pytest.raises(StoreUnavailable):
                    make_drain(impatient(stores), queue).run(idle_seconds=idle_seconds(stores))
        with fleet.message_queue.consume(queue, 1) as consumer:
            (message,) = consumer.receive(1, 1)
        assert message.deliveries == 1
