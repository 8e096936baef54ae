"""The hour's roll-up: read, whole, beside a task of InfluxDB's, and in how much memory."""

import multiprocessing
import resource
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Cost, Figure, figure, in_turn
from benchmarks.rollup import FIVE_MINUTES, HOUR, READ, SAMPLES, write
from ninjait_pipelines.metrics.model import FIELDS, Tier
from ninjait_pipelines.resources import open_stores
from ninjait_pipelines.resources.influxdb.buckets import names_in_1_x
from ninjait_pipelines.resources.influxdb.read import _nanoseconds
from ninjait_pipelines.resources.influxdb.resource import MEASUREMENT, InfluxDB
from ninjait_pipelines.rollup.assets import RollUp
from ninjait_pipelines.rollup.hours import hourly_rows
from ninjait_pipelines.settings import validate

DEVICES = 10_000


def measure(rounds: int) -> list[Figure]:
    """An hour of 10,000 devices, and one of 50,000 with a fifth of the samples each."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hour, wide = now - 3 * HOUR, now - 5 * HOUR
    with started() as engines:
        store = cast(InfluxDB, engines.stores.metrics_store)
        for first in range(0, DEVICES, 1_000):
            write(store, hour, first, SAMPLES)
        for first in range(0, 5 * DEVICES, 1_000):
            write(store, wide, first, SAMPLES // 5)
        found = _of_an_hour(engines, store, hour, rounds)
        for name, start in (("memory", hour), ("memory-50000", wide)):
            peaks = [_peak(engines.settings, start) for _ in range(min(rounds, 3))]
            devices = DEVICES if start == hour else 5 * DEVICES
            work = f"memory of the hour's roll-up, {devices:,} devices, 1.2 M samples, a fresh process"
            found.append(figure(name, work, peaks, unit="MiB", bound=500, aim=400))
        return found


def _of_an_hour(engines: Engines, store: InfluxDB, hour: datetime, rounds: int) -> list[Figure]:
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
        "task": partial(_task, store, hour),
    }
    costs = in_turn(rounds, calls, [engines.processes[name] for name in ("influxdb", "clickhouse")])
    of = f"{DEVICES:,} devices, {SAMPLES} samples"
    limits = [read.all_cpu + write.all_cpu for read, write in zip(costs["discard"], costs["writes"], strict=True)]
    return [
        figure(
            "hour-cpu",
            f"an hour from InfluxDB to hourly rows, {of}: our processor time",
            _of(costs, "rows", "cpu"),
            bound=2.5,
            aim=2.0,
        ),
        figure(
            "hour-wall",
            "... by the clock",
            _of(costs, "rows", "wall"),
            "read and discarded",
            _of(costs, "discard", "wall"),
            bound=1.5,
            aim=1.2,
        ),
        figure(
            "hour-all",
            "both tiers and the rows: processor time, servers' included",
            _all(costs["whole"]),
            "one read and three writes",
            limits,
            bound=1.4,
            aim=1.2,
        ),
        figure(
            "hour-task",
            "... beside a Flux task, mean only, one tier",
            _all(costs["whole"]),
            "task",
            _all(costs["task"]),
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
    response = store.client.query_api().query_raw(query, params=given)
    while response.read(1 << 20):
        pass


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
