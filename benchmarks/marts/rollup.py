"""The hour's roll-up: read, whole, beside a task of InfluxDB's, over a range, and in how much memory."""

import multiprocessing
import os
import resource
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast
from unittest import mock

import dagster as dg
import psutil
import pyarrow as pa

from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Cost, Figure, cost, figure, in_turn
from benchmarks.rollup import FIVE_MINUTES, HOUR, READ, SAMPLES, write
from ninjait_pipelines.metrics.model import FIELDS, POINTS, Tier
from ninjait_pipelines.partitions import HOURLY, range_tags
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.influxdb.buckets import names_in_1_x
from ninjait_pipelines.resources.influxdb.read import _nanoseconds
from ninjait_pipelines.resources.influxdb.resource import MEASUREMENT, InfluxDB
from ninjait_pipelines.rollup.assets import RollUp
from ninjait_pipelines.rollup.definitions import defs
from ninjait_pipelines.rollup.hours import hourly_rows
from ninjait_pipelines.settings import validate

DEVICES, FEW_DEVICES, RANGE = 10_000, 20, 48
# A Flux query that is slow on a busy machine is a figure, and no failure.
PATIENCE_SECONDS = 600


def measure(rounds: int) -> list[Figure]:
    """An hour of 1,000 and one of 10,000 devices, one of 50,000 with a fifth of the samples each, and two days of a few
    devices."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    narrow, hour, wide = now - 7 * HOUR, now - 3 * HOUR, now - 5 * HOUR
    with started() as engines:
        store = cast(InfluxDB, engines.stores.metrics_store)
        _fill(store, narrow, DEVICES // 10, SAMPLES)
        _fill(store, hour, DEVICES, SAMPLES)
        found = _of_an_hour(engines, store, narrow, DEVICES // 10, rounds)
        found += _of_an_hour(engines, store, hour, DEVICES, rounds)
        # After the hour was measured: InfluxDB's reads slow down with all series that the shard has.
        _fill(store, wide, 5 * DEVICES, SAMPLES // 5)
        for start, devices in ((hour, DEVICES), (wide, 5 * DEVICES)):
            peaks = [_peak(engines.settings, start)]
            work = f"memory of the hour's roll-up, {devices:,} devices, 1.2 M samples, a fresh process, once"
            found.append(figure("memory", work, peaks, unit="MiB", bound=500, aim=400, size=devices))
        return [*found, _of_a_range(engines, store, now - (RANGE + 24) * HOUR, rounds)]


def _fill(store: InfluxDB, start: datetime, devices: int, samples: int) -> None:
    for first in range(0, devices, 1_000):
        write(store, start, first, samples)


def _of_an_hour(engines: Engines, store: InfluxDB, hour: datetime, devices: int, rounds: int) -> list[Figure]:
    clickhouse, five = engines.stores.clickhouse, store.aggregate(Tier.RAW, hour, hour + HOUR, FIVE_MINUTES)
    one = store.aggregate(Tier.RAW, hour, hour + HOUR, HOUR)
    rows = hourly_rows(one, Tier.RAW)

    def writes() -> None:
        store.write_aggregates(Tier.FIVE_MINUTES, five)
        store.write_aggregates(Tier.ONE_HOUR, one)
        clickhouse.replace_slice("device_metrics_hourly", rows, clickhouse.now(), [hour])

    def whole() -> None:
        roll_up = RollUp(store, clickhouse)
        roll_up.from_one_read([hour])
        roll_up.finish()

    calls: dict[str, Callable[[], object]] = {
        "discard": partial(_discard, store, hour),
        "rows": lambda: hourly_rows(store.aggregate(Tier.RAW, hour, hour + HOUR, HOUR), Tier.RAW),
        "writes": writes,
        "whole": whole,
    }
    costs = in_turn(rounds, calls, _servers(engines))
    task = [cost(partial(_task, store, hour), _servers(engines))]  # a minute or more: once
    of = f"{devices:,} devices, {SAMPLES} samples"
    of_size = partial(figure, size=devices)
    limits = [read.all_cpu + write.all_cpu for read, write in zip(costs["discard"], costs["writes"], strict=True)]
    return [
        of_size(
            "hour-cpu",
            f"an hour from InfluxDB to hourly rows, {of}: our processor time",
            _of(costs, "rows", "cpu"),
            bound=2.5,
            aim=2.0,
        ),
        of_size(
            "hour-wall",
            "... by the clock",
            _of(costs, "rows", "wall"),
            "read and discarded",
            _of(costs, "discard", "wall"),
            bound=1.5,
            aim=1.2,
        ),
        of_size(
            "hour-all",
            f"both tiers and the rows, {of}: processor time, servers' included",
            _all(costs["whole"]),
            "one read and three writes",
            limits,
            bound=1.4,
            aim=1.2,
        ),
        of_size(
            "hour-task",
            "... beside a Flux task, mean only, one tier",
            _all(costs["whole"]),
            "task, once",
            _all(task),
            bound=2.5,
            aim=1.5,
        ),
    ]


def _of(costs: dict[str, list[Cost]], name: str, part: str) -> list[float]:
    return [getattr(cost, part) for cost in costs[name]]


def _all(costs: list[Cost]) -> list[float]:
    return [cost.all_cpu for cost in costs]


def _discard(store: InfluxDB, hour: datetime) -> None:
    """The rows of the roll-up, received and thrown away."""
    fields = ", ".join(f"{name}::float" for name in ("samples", *FIELDS))
    where = f"time >= {_nanoseconds(hour)} AND time < {_nanoseconds(hour + HOUR)}"
    query = f"SELECT {fields} FROM {MEASUREMENT} WHERE {where} GROUP BY organization_id, device_id"  # noqa: S608
    arguments = names_in_1_x(store.bucket) | {"q": query, "epoch": "u", "chunked": "true"}
    response = store.server.request("POST", "/query", arguments, stream=True)
    while response.read(1 << 20):
        pass
    response.close()


def _task(store: InfluxDB, hour: datetime) -> None:
    """What a task of InfluxDB's would do: one aggregate, one tier. It writes beside the tier's fields."""
    to = f'|> set(key: "_measurement", value: "task") |> to(bucket: "{store.bucket_of(Tier.FIVE_MINUTES)}")'
    query = READ + f"|> aggregateWindow(every: 5m, fn: mean, createEmpty: false) {to} |> count() |> limit(n: 1)"
    given = {"bucket": store.bucket, "start": hour, "stop": hour + HOUR}
    with store.elsewhere(timeout_seconds=PATIENCE_SECONDS).open() as patient:
        response = patient.client.query_api().query_raw(query, params=given)
        while response.read(1 << 20):
            pass


def _of_a_range(engines: Engines, store: InfluxDB, first: datetime, rounds: int) -> Figure:
    """Runs of Dagster's, with all that they record and their checks, in this process: of few devices, so that what is
    left is what a run costs."""
    hours = [first + number * HOUR for number in range(RANGE)]
    _write_few(engines.stores, store, hours)
    keys = [HOURLY.get_partition_key_for_timestamp(hour.timestamp()) for hour in hours]
    definitions = [*defs.assets, *defs.asset_checks]  # type: ignore[misc]
    with _instance(engines.settings) as instance:

        def run(**partitions: Any) -> None:
            dg.materialize(definitions, resources=engines.stores.all(), instance=instance, **partitions)

        calls: dict[str, Callable[[], object]] = {
            "single": lambda: run(partition_key=keys[0]),
            "range": lambda: run(tags=range_tags(keys[0], keys[-1])),
        }
        costs = in_turn(rounds, calls, _servers(engines))
    return figure(
        "range",
        f"a run over {RANGE} hours of {FEW_DEVICES} devices, per hour: processor time, servers' included",
        [seconds / RANGE for seconds in _all(costs["range"])],
        "a run of one hour",
        _all(costs["single"]),
        bound=0.1,
        aim=0.05,
    )


@contextmanager
def _instance(settings: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    """Dagster's, of dagster.yaml: what a run records goes into PostgreSQL."""
    given = {"DAGSTER_DATABASE_URL": settings["DAGSTER_DATABASE_URL"]}
    with tempfile.TemporaryDirectory(prefix="ninjait-bench-") as home, mock.patch.dict(os.environ, given):
        shutil.copy(ROOT / "dagster.yaml", home)
        with dg.DagsterInstance.from_config(home) as instance:
            yield instance


def _write_few(stores: Stores, store: InfluxDB, hours: list[datetime]) -> None:
    """Their points, and the ledger's rows of them."""
    devices = [str(uuid.UUID(int=number)) for number in range(1, FEW_DEVICES + 1)]
    for hour in hours:
        moments = [hour + HOUR / SAMPLES * index for index in range(SAMPLES)]
        count = FEW_DEVICES * SAMPLES
        columns: dict[str, Any] = {"organization_id": devices[:1] * count, "time": moments * FEW_DEVICES}
        columns |= {"device_id": [device for device in devices for _ in moments]}
        store.write(pa.table(columns | {name: [1.0] * count for name in FIELDS}, schema=POINTS))
        messages = {"device_id": devices, "message_id": devices, "delivery_id": [f"{hour} {one}" for one in devices]}
        same = {"queue": "agent.metrics", "organization_id": devices[0], "outcome": "written"}
        same |= {"points": SAMPLES, "points_written": SAMPLES, "instants": moments}
        same |= {"first_time": moments[0], "last_time": moments[-1]}
        rows = pa.table(messages | {name: [value] * FEW_DEVICES for name, value in same.items()})
        stores.clickhouse.insert("message_deliveries", rows)


def _servers(engines: Engines) -> list[psutil.Process]:
    return [engines.processes[name] for name in ("influxdb", "clickhouse", "postgres")]


def _peak(settings: dict[str, str], hour: datetime) -> float:
    """MiB of a fresh process that rolls up the hour, at its highest."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    process = context.Process(target=_roll_up, args=(settings, hour, answers))
    process.start()
    peak = float(answers.get())
    process.join()
    return peak


def _roll_up(settings: dict[str, str], hour: datetime, answers: Any) -> None:
    with open_stores(validate(settings)) as stores:
        roll_up = RollUp(stores.metrics_store, stores.clickhouse)
        roll_up.from_one_read([hour])
        roll_up.finish()
    answers.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
