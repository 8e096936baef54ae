"""How fast an hour is read from InfluxDB for its roll-up, against a floor of the same run. Nothing is asserted.

The floor is one mean over all fields, in the same windows, that InfluxDB computes while it reads, its answer thrown
away unread. The roll-up needs five aggregates (sum, count, min, max, last): five floors are what they would cost there,
ten what they may. Then the same of the counters of network interfaces.
With `INFLUXDB_URL`, `INFLUXDB_TOKEN` and `INFLUXDB_ORG` it measures that server, in buckets that it deletes again;
else it starts one from `make servers`.

    python -m benchmarks.rollup
"""

import multiprocessing
import os
import resource
import secrets
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from ninjait_pipelines.local.stack import servers
from ninjait_pipelines.local.stack.local import free_port
from ninjait_pipelines.metrics.model import AGGREGATES, COUNTERS, FIELDS, POINTS, Tier
from ninjait_pipelines.resources.influxdb.resource import MEASUREMENT, InfluxDB

DEVICES, SAMPLES, ROUNDS = 10_000, 120, 3
HOUR, FIVE_MINUTES = timedelta(hours=1), timedelta(minutes=5)
INTERFACES = ("eth0", "wlan0")
READ = (
    "from(bucket: bucket) |> range(start: start, stop: stop) "
    f'|> filter(fn: (r) => r._measurement == "{MEASUREMENT}") |> filter(fn: (r) => r._field != "samples") '
)
WIDTHS = {
    "hour": (HOUR, READ + "|> mean()"),
    "5 minutes": (FIVE_MINUTES, READ + "|> aggregateWindow(every: 5m, fn: mean, createEmpty: false)"),
}


def main() -> None:
    """Writes two hours, one with a fifth of the samples, measures, prints a table."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 4 * HOUR
    sparse = hour - 6 * HOUR
    with server() as settings, InfluxDB(**settings, bucket=f"benchmark-{uuid.uuid4()}").open() as store:
        store.declare()
        try:
            report(store, hour, sparse)
        finally:
            for tier in Tier:
                api = store.client.buckets_api()
                api.delete_bucket(api.find_bucket_by_name(store.bucket_of(tier)))


def report(store: InfluxDB, hour: datetime, sparse: datetime) -> None:
    """The measurements, in turn so that a noisy minute meets all of them."""
    written = sum(write(store, hour, first, SAMPLES) for first in range(0, DEVICES, 1_000))
    for first in range(0, DEVICES, 1_000):
        write(store, sparse, first, SAMPLES // 5)
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in WIDTHS}
    for _ in range(ROUNDS):
        for name, (every, query) in WIDTHS.items():
            seconds[name][0].append(timed(partial(floor, store, hour, query)))
            seconds[name][1].append(timed(partial(store.aggregate, Tier.RAW, hour, hour + HOUR, every)))
    table = Table(title=f"{DEVICES:,} devices, {SAMPLES} samples of {len(FIELDS)} fields; medians of {ROUNDS}")
    for column in ("windows of", "floor, s", "aggregates, s", "floors", "floors per aggregate"):
        table.add_column(column, justify="left" if column == "windows of" else "right")
    for name, runs in seconds.items():
        limit, median = map(statistics.median, runs)
        floors = median / limit
        table.add_row(name, f"{limit:.2f}", f"{median:.2f}", f"{floors:.2f}", f"{floors / len(AGGREGATES):.2f}")
    console = Console()
    console.print(table)
    console.print(f"written at {DEVICES * SAMPLES / written:,.0f} points/s on one connection, encoding included")
    for name, start in (("a fifth of the samples", sparse), ("all samples", hour)):
        console.print(f"most memory of a process that aggregates it, {name}: {fresh(store, start)[0]:,.0f} MiB")
    # In hours of their own, which hold nothing else.
    for name, start, samples in (("a fifth", sparse - 6 * HOUR, SAMPLES // 5), ("all", sparse - 12 * HOUR, SAMPLES)):
        for first in range(0, DEVICES, 1_000):
            write_counters(store, start, first, samples)
        memory, took = fresh(store, start)
        console.print(
            f"counters of {len(INTERFACES)} interfaces, {name} of {SAMPLES} readings: {took:.1f} s, {memory:,.0f} MiB"
        )


def write(store: InfluxDB, hour: datetime, first: int, samples: int) -> float:
    """Writes a thousand devices' samples; the seconds that it took."""
    devices = [str(uuid.UUID(int=number)) for number in range(first, first + 1_000)]
    count = len(devices) * samples
    moment = [hour + HOUR / samples * index for index in range(samples)]
    columns: dict[str, pa.Array] = {
        "organization_id": pa.array([str(uuid.UUID(int=first // 1_000 + 1))] * count),
        "device_id": pa.array([device for device in devices for _ in range(samples)]),
        "time": pa.array(moment * len(devices), POINTS.field("time").type),
    }
    columns |= {name: pc.multiply(pc.random(count), 1e4) for name in FIELDS}
    points = pa.table([columns[name] for name in POINTS.names], schema=POINTS)
    return timed(lambda: store.write(points))


def write_counters(store: InfluxDB, hour: datetime, first: int, readings: int) -> None:
    """Writes a thousand devices' counters."""
    moment = [hour + HOUR / readings * index for index in range(readings)]
    rows = [
        (
            str(uuid.UUID(int=first // 1_000 + 1)),
            str(uuid.UUID(int=number)),
            "telegraf",
            interface,
            time_,
            *[float(index)] * 2,
        )
        for number in range(first, first + 1_000)
        for interface in INTERFACES
        for index, time_ in enumerate(moment)
    ]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), COUNTERS, strict=True)]
    store.write_counters(pa.table(columns, schema=COUNTERS))


def floor(store: InfluxDB, hour: datetime, query: str) -> None:
    """What InfluxDB needs at the least, and our machine to receive it."""
    given = {"bucket": store.bucket, "start": hour, "stop": hour + HOUR}
    response = store.client.query_api().query_raw(query, params=given)
    while response.read(1 << 20):
        pass


def fresh(store: InfluxDB, hour: datetime) -> tuple[float, float]:
    """MiB of a fresh process that aggregates the hour, at its highest, and the seconds of the aggregation."""
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    given = {name: getattr(store, name) for name in ("url", "token", "organization", "bucket")}
    process = context.Process(target=_aggregate, args=(given, hour, answers))
    process.start()
    answer = answers.get()
    process.join()
    return answer


def _aggregate(given: dict[str, str], hour: datetime, answers: "multiprocessing.Queue[tuple[float, float]]") -> None:
    with InfluxDB(**given).open() as store:
        started = time.perf_counter()
        assert store.aggregate(Tier.RAW, hour, hour + HOUR, HOUR).num_rows == DEVICES
        took = time.perf_counter() - started
    answers.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, took))


def timed(call: Callable[[], object]) -> float:
    """Seconds that it takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """url, token and organization: of the environment, or of a server that ends with this."""
    names = {"url": "INFLUXDB_URL", "token": "INFLUXDB_TOKEN", "organization": "INFLUXDB_ORG"}
    if "INFLUXDB_URL" in os.environ:
        yield {name: os.environ[setting] for name, setting in names.items()}
        return
    with tempfile.TemporaryDirectory() as folder:
        with ExitStack() as held:
            port = free_port(held, 0)
        engine = servers.InfluxDB(Path(folder) / "influxdb", port, secrets.token_urlsafe(16))
        engine.prepare()
        process = subprocess.Popen(
            engine.command(),
            env={**os.environ, **engine.environment()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not _ready(engine):
                if process.poll() is not None:
                    raise SystemExit("influxd did not start")
                time.sleep(0.1)
            yield {name: engine.settings()[setting] for name, setting in names.items()}
        finally:
            process.kill()
            process.wait()


def _ready(engine: servers.InfluxDB) -> bool:
    try:
        return engine.ready()
    except OSError:
        return False


if __name__ == "__main__":
    main()
