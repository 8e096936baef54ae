"""A consumer in a separate process, ours or a plain script: `python -m benchmarks.worker KIND`.

It prints a line when it is ready, waits for a line, works until its queue has been empty for a second, and prints what
it did as a line of JSON. Its stores come from the settings in the environment.

- drain: the whole drain, as the asset runs it, without Dagster and without the asset's bounds.
- stores-only: the same drain with ledger, quarantine and latest values replaced by nothing.
- decoding: receives, decodes, gathers the columns and acknowledges; no store.
- pika-blocking, pika-select: receive and acknowledge, and look at nothing.
- script: what one writes in an afternoon: json.loads, a Point a sample, written by itself as in the first example of
  InfluxDB's client, and an HSET a message.
- script-gathering: the same by somebody who has read on: the Points of a message in one write.
"""

import json
import logging
import os
import resource
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pyarrow as pa

from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.ingest import sinks
from ninjait_pipelines.ingest.drain import Drain
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sinks import MetricsSink, Sink
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.message_queue import Consumer
from ninjait_pipelines.settings import load

QUEUE = "agent.metrics"
IDLE_SECONDS = 1.0
PREFETCH, SCRIPT_PREFETCH = 1_000, 10
ACKNOWLEDGE_EVERY = 100
LOG = logging.getLogger("benchmark")


def main() -> None:
    """Runs the kind of consumer that is named."""
    kinds: dict[str, Callable[[Stores], dict[str, Any]]] = {
        "drain": whole_drain,
        "stores-only": stores_only,
        "decoding": decoding,
        "pika-blocking": pika_blocking,
        "pika-select": pika_select,
        "script": script,
        "script-gathering": partial(script, gathering=True),
    }
    logging.basicConfig(level=logging.WARNING)
    with open_stores(load()) as stores:
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        done = kinds[sys.argv[1]](stores)
        used = resource.getrusage(resource.RUSAGE_SELF)
        done |= {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": peak_mib()}
        print(json.dumps(done), flush=True)  # noqa: T201


def peak_mib() -> float:
    """The peak memory of this process; getrusage would include what its parent had at the fork."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


# --- ours ---


def whole_drain(stores: Stores) -> dict[str, Any]:
    """Everything on."""
    progress = Progress()
    consume = stores.message_queue.consume
    object.__setattr__(stores.message_queue, "consume", lambda *how, **more: _watched(consume(*how, **more), progress))
    run_id = str(uuid.uuid4())
    summary = make_drain(stores, run_id).run(max_messages=10**9, max_seconds=3_600, idle_seconds=IDLE_SECONDS)
    return {
        "messages": summary.messages,
        "samples": summary.points_written,
        "rejected": summary.points_quarantined,
        "run_id": run_id,
        "ended": progress.last,
    }


def make_drain(stores: Stores, run_id: str, sink: Sink | None = None) -> Drain:
    """A drain of the metrics as the asset makes it, or into another sink."""
    sink = sink or MetricsSink(stores.metrics_store, stores.dragonfly, stores.clickhouse, LOG)
    needs = (stores.message_queue, stores.postgres, stores.clickhouse, stores.mongodb)
    return Drain(sink, *needs, run_id, lambda: datetime.now(UTC), LOG)


class Progress:
    """How many messages have been acknowledged, and when the last was, by the clock that all processes share."""

    def __init__(self) -> None:
        self.messages = 0
        self.last = 0.0

    def add(self, messages: int) -> None:
        self.messages += messages
        self.last = time.monotonic()


class _Watched:
    """A consumer whose acknowledgements are counted."""

    def __init__(self, consumer: Consumer, progress: Progress) -> None:
        self._consumer = consumer
        self._progress = progress

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def acknowledge(self, messages: Sequence[Message]) -> None:
        self._consumer.acknowledge(messages)
        self._progress.add(len(messages))


@contextmanager
def _watched(consuming: AbstractContextManager[Consumer], progress: Progress) -> Iterator[Any]:
    with consuming as consumer:
        yield _Watched(consumer, progress)


def stores_only(stores: Stores) -> dict[str, Any]:
    """The drain with nothing but the points' way to InfluxDB and the acknowledgement.

    What makes the rows of the ledger, the touched hours and the latest values makes empty ones; nothing is held.
    """
    replaced: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
        (drain_module, "ledger_rows", lambda *_, **__: pa.table({})),
        (sinks, "touched_hours", lambda *_: sinks._TOUCHED.empty_table()),
        (sinks, "latest", lambda *_: []),
        (drain_module, "hold_messages", lambda *_: {}),
        (stores.dragonfly, "set_many_if_newer", lambda *_: None),
        (stores.clickhouse, "insert", lambda *_: None),
    )
    for owner, name, nothing in replaced:
        getattr(owner, name)  # it is there, under this name
        object.__setattr__(owner, name, nothing)
    return whole_drain(stores)


class Nowhere:
    """Stores that take everything and keep nothing."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: []

    @contextmanager
    def optional(self) -> Iterator[None]:
        yield


def decoding(stores: Stores) -> dict[str, Any]:
    """Queue, decoder and columns: what Telegraf does before outputs.discard."""
    nowhere = Nowhere()
    sink = MetricsSink(nowhere, nowhere, nowhere, LOG)  # type: ignore[arg-type]
    drain = make_drain(stores, "benchmark", sink)
    registry, samples, progress = load_sender_registry(stores.postgres), 0, Progress()
    with drain_module.tuned_interpreter(), stores.message_queue.consume(QUEUE, drain_module.PREFETCH) as consumer:
        while messages := drain_module._receive(
            consumer, drain_module.BATCH_MESSAGES, drain_module.BATCH_BYTES, IDLE_SECONDS
        ):
            now = datetime.now(UTC)
            batch, registry = drain._decode_all(messages, registry, now)
            sink.write([decoded for _, decoded in batch], "benchmark", now)
            consumer.acknowledge(messages)
            progress.add(len(batch))
            samples += sum(decoded.points_accepted for _, decoded in batch)
    return {"messages": progress.messages, "samples": samples, "ended": progress.last}


# --- peers ---


class Received:
    """What has come to a pika consumer, acknowledged a hundred at a time, and whether no more comes."""

    def __init__(self) -> None:
        self.messages = 0
        self.progress = Progress()
        self._last = time.monotonic()

    def on_message(self, channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
        self.messages += 1
        if not self.messages % ACKNOWLEDGE_EVERY:
            channel.basic_ack(method.delivery_tag, multiple=True)
            self.progress.add(ACKNOWLEDGE_EVERY)
            self._last = time.monotonic()

    @property
    def idle(self) -> bool:
        """Nothing was acknowledged for a while."""
        return time.monotonic() - self._last >= IDLE_SECONDS


def pika_blocking(_: Stores) -> dict[str, Any]:
    """A BlockingConnection, whose `consume` gives up when nothing came for a while."""
    channel = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"])).channel()
    channel.basic_qos(prefetch_count=PREFETCH)
    received = Received()
    channel.basic_consume(QUEUE, received.on_message)
    while not received.idle:
        channel.connection.process_data_events(time_limit=IDLE_SECONDS)
    channel.basic_ack(0, multiple=True)
    channel.connection.close()
    return {"messages": received.messages, "samples": 0, "ended": received.progress.last}


def pika_select(_: Stores) -> dict[str, Any]:
    """A SelectConnection: the same without the layer that makes it blocking."""
    received = Received()

    def on_channel(channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(QUEUE, received.on_message)
        look(channel)

    def look(channel: Any) -> None:
        if not received.idle:
            connection.ioloop.call_later(IDLE_SECONDS / 4, lambda: look(channel))
        else:
            channel.basic_ack(0, multiple=True)
            connection.close()

    connection = pika.SelectConnection(
        pika.URLParameters(os.environ["RABBITMQ_URL"]),
        on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
        on_close_callback=lambda connection, _: connection.ioloop.stop(),
    )
    connection.ioloop.start()
    return {"messages": received.messages, "samples": 0, "ended": received.progress.last}


def script(_: Stores, gathering: bool = False) -> dict[str, Any]:
    """One Point per sample and one HSET per message, in turn; one write per Point, or per message (`gathering`)."""
    import redis
    from influxdb_client import InfluxDBClient, Point, WritePrecision
    from influxdb_client.client.write_api import SYNCHRONOUS

    url, token, organization = (os.environ[f"INFLUXDB_{name}"] for name in ("URL", "TOKEN", "ORG"))
    client = InfluxDBClient(url, token, org=organization)
    write_api = client.write_api(write_options=SYNCHRONOUS)
    cache = redis.Redis.from_url(os.environ["DRAGONFLY_URL"])
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))
    channel = connection.channel()
    channel.basic_qos(prefetch_count=SCRIPT_PREFETCH)
    samples, progress = 0, Progress()
    for method, _properties, body in channel.consume(QUEUE, inactivity_timeout=IDLE_SECONDS):
        if method is None:
            break
        message = json.loads(body)
        points = []
        for sample in message["samples"]:
            point = Point("device_metrics").tag("organization_id", message["organization_id"])
            point = point.tag("device_id", message["device_id"]).time(sample["timestamp"], WritePrecision.MS)
            for name in FIELDS.keys() & sample.keys():
                point = point.field(name, float(sample[name]))
            points.append(point)
        for record in [points] if gathering else points:
            write_api.write(os.environ["INFLUXDB_BUCKET"], record=record)
        cache.hset(f"device:{message['device_id']}", mapping=message["samples"][-1])
        channel.basic_ack(method.delivery_tag)
        samples += len(points)
        progress.add(1)
    channel.cancel()
    connection.close()
    return {"messages": progress.messages, "samples": samples, "ended": progress.last}


if __name__ == "__main__":
    main()
