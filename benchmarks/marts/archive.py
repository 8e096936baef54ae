"""A day in the archive: written to a folder and to S3, and read from S3 by ClickHouse, whole and one organization."""

import itertools
import multiprocessing
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Cost, Figure, figure, in_turn
from ninjait_pipelines.archive.days import write_day
from ninjait_pipelines.archive.objects import parquet
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql

ORGANIZATIONS, DEVICES, HOURS = 1_000, 10, 24
START, HOUR = datetime(2026, 3, 1, tzinfo=UTC), timedelta(hours=1)
DATASET, ONE = "device_metrics_hourly", "one_organization.parquet"


def measure(rounds: int) -> list[Figure]:
    """A day of 1,000 organizations of 10 devices, and one of a tenth of them."""
    with started() as engines:
        return [one for size in (ORGANIZATIONS // 10, ORGANIZATIONS) for one in _of_a_day(engines, size, rounds)]


def _of_a_day(engines: Engines, organizations: int, rounds: int) -> list[Figure]:
    rows = _rolled_up(engines.stores.clickhouse, organizations)
    with tempfile.TemporaryDirectory(prefix="ninjait-bench-") as folder:
        written = _in_a_folder(rows, Path(folder), rounds)
    return [*written, *_on_s3(engines, rows, rounds), *_read(engines.stores.archive, rows, rounds)]


def _rolled_up(clickhouse: ClickHouse, organizations: int) -> pa.Table:
    """A day of a fleet, as the archive gets it from ClickHouse."""
    chance = random.Random(1)  # noqa: S311
    ids = [[str(UUID(int=chance.getrandbits(128))) for _ in range(DEVICES + 1)] for _ in range(organizations)]
    devices = [(organization, device) for organization, *owned in ids for device in owned]
    count = len(devices) * HOURS

    def steady(*values: float) -> list[float]:
        return [value for value in chance.choices(values, k=len(devices)) for _ in range(HOURS)]

    def varying(top: float, places: int | None = None) -> list[float]:
        return [round(chance.uniform(0, top), places) if places else chance.uniform(0, top) for _ in range(count)]

    columns = {
        "organization_id": [organization for organization, _ in devices for _ in range(HOURS)],
        "device_id": [device for _, device in devices for _ in range(HOURS)],
        "timestamp": [START + hour * HOUR for hour in range(HOURS)] * len(devices),
        "cpu_avg": varying(100),
        "cpu_max": varying(100, 1),
        "memory_avg": varying(16_384),
        "memory_max": varying(16_384, 1),
        "memory_total": steady(8_192, 16_384, 32_768),
        "disk_usage": varying(256_000, 2),
        "disk_total": steady(256_000, 512_000, 1_024_000),
        "disk_free": varying(256_000, 2),
        "network_in": [float(chance.randrange(10**9)) for _ in range(count)],
        "network_out": [float(chance.randrange(10**8)) for _ in range(count)],
        "uptime": [float(3_600 * hour) for hour in range(HOURS)] * len(devices),
        "sample_share": [1.0] * count,
        "several_senders": [False] * count,
        "source_tier": ["metrics"] * count,
        **dict.fromkeys(("cpu_count", "memory_count", "sample_count"), [120] * count),
    }
    hours = [START + hour * HOUR for hour in range(HOURS)]
    clickhouse.replace_slice(DATASET, pa.table(columns), clickhouse.now(), hours)
    return clickhouse.arrow(sql("rollup/day"), start=START, stop=START + HOURS * HOUR)


def _in_a_folder(rows: pa.Table, folder: Path, rounds: int) -> list[Figure]:
    limit = folder / "limit.parquet"
    with Archive(url=folder.as_uri()).open() as archive:
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(_write, archive, rows, itertools.count()),
            "limit": lambda: pq.write_table(rows, limit, compression="none"),
        }
        costs = in_turn(rounds, calls)
    work = f"a day of {rows.num_rows:,} rows archived to a folder, read back and verified"
    return [
        figure(
            f"archive-folder-{part}",
            f"{work}: {title}",
            [getattr(one, part) for one in costs["ours"]],
            "one uncompressed Parquet file",
            [getattr(one, part) for one in costs["limit"]],
            bound=2.5,
            aim=2.0,
            size=rows.num_rows,
        )
        for part, title in (("wall", "by the clock"), ("cpu", "processor time"))
    ]


def _on_s3(engines: Engines, rows: pa.Table, rounds: int) -> list[Figure]:
    write = partial(_write, engines.stores.archive, rows, itertools.count())
    costs = in_turn(rounds, {"ours": write}, [engines.processes["s3"]])["ours"]
    work = f"a day of {rows.num_rows:,} rows archived on S3, read back and verified"
    by_clock, of_all = [one.wall for one in costs], [one.all_cpu for one in costs]
    size = rows.num_rows
    return [
        figure("archive-s3", f"{work}: by the clock", by_clock, bound=4, aim=2, size=size),
        figure("archive-s3-cpu", f"{work}: processor time, the gateway's included", of_all, size=size),
    ]


def _write(archive: Archive, rows: pa.Table, numbers: Iterator[int]) -> None:
    """Each time as a dataset of its own: objects that exist already are only verified."""
    dataset = f"{DATASET}_{rows.num_rows}_{next(numbers)}"
    write_day(archive, dataset, START.date(), rows, START, 1.0, lambda: START)


def _read(archive: Archive, rows: pa.Table, rounds: int) -> list[Figure]:
    """By a ClickHouse in a process of its own, every column. One organization: beside an object of its rows alone."""
    dataset, organization = f"{DATASET}_{rows.num_rows}", rows["organization_id"][rows.num_rows // 2].as_py()
    write_day(archive, dataset, START.date(), rows, START, 1.0, lambda: START)
    archive.write(ONE, parquet(rows.filter(pc.equal(rows["organization_id"], organization))))
    day, one = _source(archive, f"{dataset}/day=*/**.parquet"), _source(archive, ONE)
    queries = {
        "day": f"SELECT count(), sum(cityHash64(*)) FROM {day}",  # noqa: S608
        "ours": f"SELECT count(), sum(cityHash64(*)) FROM {day} WHERE organization_id = '{organization}'",  # noqa: S608
        "alone": f"SELECT count(), sum(cityHash64(*)) FROM {one}",  # noqa: S608
    }
    with multiprocessing.get_context("spawn").Pool(1) as reader:
        found = {name: [cost.wall for cost in costs] for name, costs in reader.apply(_ask, (queries, rounds)).items()}
    size = rows.num_rows
    work = f"... one organization of {size:,} rows"
    return [
        figure(
            "archive-read", f"the archived day read by ClickHouse, {size:,} rows", found["day"], bound=0.5, size=size
        ),
        figure("archive-read-one", work, found["ours"], "an object of its rows alone", found["alone"], size=size),
    ]


def _source(archive: Archive, keys: str) -> str:
    place = f"{archive.endpoint_url}/{archive.url.removeprefix('s3://')}"
    return f"s3('{place}/{keys}', '{archive.access_key_id}', '{archive.secret_access_key}', 'Parquet')"


def _ask(queries: Mapping[str, str], rounds: int) -> dict[str, list[Cost]]:
    from chdb.session import Session

    session = Session()
    return in_turn(rounds, {name: partial(session.query, query) for name, query in queries.items()})
