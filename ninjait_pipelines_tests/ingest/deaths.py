"""Drains that are killed between two steps or lose a store, and everything that a drain writes."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.ingest import sinks
from ninjait_pipelines.ingest.quarantine import hold, spool
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.settings import Settings, validate
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    REGISTRY,
    SECOND_DEVICE,
    metrics,
    outgoing,
    sample,
)
from ninjait_pipelines_tests.proxy import Proxy
from ninjait_pipelines_tests.resources.queue_contract import eventually

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
    with open_stores(validate(settings)) as stores:
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


@contextmanager
def proxied(settings: Settings, name: str) -> Iterator[tuple[Settings, Proxy]]:
    with Proxy(settings[name]) as proxy:
        yield validate({**settings, name: proxy.url}), proxy


def impatient(stores: Stores) -> Stores:
    """The same stores, with a MongoDB that is not waited for as long as in production."""
    mongodb = MongoDB(url=stores.mongodb.url, spool_folder=stores.mongodb.spool_folder, timeout_seconds=1)
    return replace(stores, mongodb=mongodb)
