"""What Dagster itself costs: the run of an hour and of the caches, a tick of automation, an installation at rest, and
how long a schedule takes to become a row.

The stores hold an organization with 120 devices, so that the work itself costs next to nothing; runs are started as a
launcher starts them, in a process of their own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast

import dagster as dg
import psutil
import psycopg

from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Figure, cost, figure, in_turn
from benchmarks.rollup import write
from ninjait_pipelines.automation import ACTIVE_RUN_STATUSES
from ninjait_pipelines.build import build_defs
from ninjait_pipelines.dagster_compat import partition_evaluations
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.metrics.model import HOUR
from ninjait_pipelines.partitions import HOURLY
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.rollup.checks import samples_are_conserved

HOURS = ("device_metrics_5m", "device_metrics_1h", "device_metrics_hourly")
CACHES = ("device_caches", "organization_summaries", "uptime_leaderboard")
MATERIALIZED = 5_000
# `dagster dev` has loaded everything and evaluated each sensor once.
SETTLED_SECONDS, REST_SECONDS = 60, 120
OLDEST = timedelta(days=6)
LONGEST = timedelta(minutes=3)
# Automation has filled the hour before: it is the new rows that are waited for.
ROLLED_UP = "SELECT count() FROM device_metrics_hourly WHERE timestamp = {hour:DateTime} AND as_of >= {due:DateTime}"
PER_STEP = {"RUN_EXECUTOR": "dagster.multiprocess_executor"}
DEFINITIONS = ["-m", "ninjait_pipelines.definitions"]


def measure(rounds: int) -> list[Figure]:
    """All rows."""
    with started() as engines, tempfile.TemporaryDirectory(prefix="ninjait-bench-") as home:
        seed(engines.stores.postgres, "demo", datetime.now(UTC).date())
        shutil.copy(ROOT / "dagster.yaml", home)
        with _environment({**engines.settings, "DAGSTER_HOME": home}):
            url = engines.settings["DAGSTER_DATABASE_URL"]
            return [*_runs(engines, rounds), *_rest(url), _schedule(engines, rounds), _ticks(rounds)]


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Our settings, and bytecode files: without them each process compiles everything."""
    before = dict(os.environ)
    os.environ.update(settings)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _runs(engines: Engines, rounds: int) -> Iterator[Figure]:
    hour = (datetime.now(UTC) - timedelta(hours=3)).strftime("%Y-%m-%d-%H:00")
    calls = {
        "hour": partial(_materialize, HOURS, "--partition", hour),
        "caches": partial(_materialize, CACHES),
        "imports": partial(_python, "-c", "from ninjait_pipelines.definitions import defs; defs.get_repository_def()"),
    }
    found = in_turn(rounds, calls, engines.processes.values())
    imports = [one.cpu for one in found["imports"]]
    for name, bound, aim in (("hour", 5.0, 3.0), ("caches", 6.0, 3.0)):
        ours = [one.cpu for one in found[name]]
        per_step = cost(partial(calls[name], **PER_STEP)).cpu
        work = f"a run of the {name}, processor time; a process per step: {per_step:.1f} s"
        row = figure(f"run of the {name}", work, ours, "importing the definitions", imports)
        # The bound is in seconds: the imports stand beside it, to tell how loaded the machine was.
        yield Figure(
            row.name, row.work, row.ours, row.least, row.most, "s", row.limit_name, row.limit, None, bound, aim
        )


def _materialize(assets: tuple[str, ...], *options: str, **settings: str) -> None:
    _python("-m", "dagster", "asset", "materialize", *DEFINITIONS, "--select", ",".join(assets), *options, **settings)


def _python(*arguments: str, **settings: str) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr[-2000:]}")


def _rest(url: str) -> Iterator[Figure]:
    """Processor time of `dagster dev` per hour, without the runs that it starts meanwhile; beside it a project that has
    nothing but an asset, at the same time."""
    today = f"{datetime.now(UTC):%Y-%m-%d}"  # a new installation is not at rest while it fills its past
    with (
        _dev("ninjait_pipelines.definitions", url, PIPELINE_START=today) as ours,
        _dev("benchmarks.marts.empty", url) as nothing,
    ):
        time.sleep(SETTLED_SECONDS)
        _until_no_run_is_active(f"{url.rpartition('/')[0]}/ninjait_pipelines_definitions")
        roots = (ours, nothing)
        before, began = [_living(root) for root in roots], time.monotonic()
        time.sleep(REST_SECONDS)
        after, seconds = [_living(root) for root in roots], time.monotonic() - began
    spent = [
        sum(later[pid] - earlier[pid] for pid in earlier.keys() & later.keys()) * 3600 / seconds
        for earlier, later in zip(before, after, strict=True)
    ]
    work = "`dagster dev` and its sensors, per hour; runs not counted"
    yield Figure("at rest", work, spent[0], spent[0], spent[0], "s", "a project of one asset", spent[1], None, 60, 30)


def _until_no_run_is_active(url: str) -> None:
    """Gives up after five minutes: some run is always active on a slow machine, and its process is not counted."""
    statuses = [status.value for status in ACTIVE_RUN_STATUSES]
    with psycopg.connect(url.replace("+psycopg2", ""), autocommit=True) as connection:
        for _ in range(60):
            if not connection.execute("SELECT 1 FROM runs WHERE status = ANY(%s) LIMIT 1", (statuses,)).fetchone():
                return
            time.sleep(5)


@contextmanager
def _dev(module: str, url: str, **settings: str) -> Iterator[int]:
    """`dagster dev` as a process, on a database of its own: what it leaves unfinished would stand in the next one's
    queue of runs. Gives its id."""
    database = module.replace(".", "_")
    with psycopg.connect(url.replace("+psycopg2", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database}")
    process = subprocess.Popen(
        [sys.executable, "-m", "dagster", "dev", "-m", module, "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"DAGSTER_DATABASE_URL": f"{url.rpartition('/')[0]}/{database}"} | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _living(pid: int) -> dict[int, float]:
    """Processor time of each living process of a tree."""
    found: dict[int, float] = {}
    for one in (root := psutil.Process(pid), *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            found[one.pid] = times.user + times.system
    return found


def _schedule(engines: Engines, rounds: int) -> Figure:
    """From the second in which the schedule of an hour is due to its rows in ClickHouse; a minute each."""
    hours = [hour_of(datetime.now(UTC) + timedelta(minutes=minute)) for minute in range(-1, rounds + 4)]
    for hour in hours:
        write(cast(InfluxDB, engines.stores.metrics_store), hour, 0, 1)
    waited: list[float] = []
    with _dev("benchmarks.marts.every_minute", engines.settings["DAGSTER_DATABASE_URL"]):
        time.sleep(SETTLED_SECONDS)
        for _ in range(rounds):
            due = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
            time.sleep((due - datetime.now(UTC)).total_seconds())
            waited.append(_until_rolled_up(engines, due))
    return figure(
        "schedule to row", "from the second in which an hour is due to its rows, by the clock", waited, bound=10, aim=5
    )


def _until_rolled_up(engines: Engines, due: datetime) -> float:
    """Seconds from `due` to the rows of the hour that was due."""
    while not engines.stores.clickhouse.scalar(ROLLED_UP, hour=hour_of(due), due=due):
        time.sleep(0.05)
        if datetime.now(UTC) - due > LONGEST:
            raise RuntimeError(f"the hour that was due at {due} has no rows after {LONGEST}")
    return (datetime.now(UTC) - due).total_seconds()


def hour_of(moment: datetime) -> datetime:
    """The hour that is rolled up in this minute: one of the last six days, which no other minute of an hour has."""
    return moment.replace(minute=0, second=0, microsecond=0) - OLDEST + moment.minute * HOUR


def _ticks(rounds: int) -> Figure:
    """An automation tick where nothing is missing, with few hours and with many."""
    with dg.DagsterInstance.get() as instance:
        defs = build_defs()
        few = _settled(instance, defs, rounds)
        _copy_hours(instance)
        many = _settled(instance, defs, rounds)
    work = f"automation tick with {MATERIALIZED:,} hours materialized, nothing missing"
    return figure("tick", work, many, "with the last week's hours", few, bound=2.0, aim=1.2)


def _settled(instance: dg.DagsterInstance, defs: dg.Definitions, rounds: int) -> list[float]:
    """Processor time of ticks after everything that ticks ask for was reported as materialized."""
    cursor: Any = None
    seconds: list[float] = []
    while len(seconds) < rounds:
        began = time.process_time()
        result = dg.evaluate_automation_conditions(defs, instance, cursor=cursor, evaluation_time=datetime.now(UTC))
        took, cursor = time.process_time() - began, result.cursor
        requested = [one for one in result.results if isinstance(one.key, dg.AssetKey) and not one.true_subset.is_empty]
        seconds += [] if requested else [took]
        for one in requested:
            subset = one.true_subset
            for key in subset.expensively_compute_partition_keys() if subset.is_partitioned else [None]:
                instance.report_runless_asset_event(dg.AssetMaterialization(one.key, partition=key))
    return seconds


def _copy_hours(instance: dg.DagsterInstance) -> None:
    """Materializations and passed blocking checks of older hours.

    Those of one hour are copied inside the database: reporting each of them would take a quarter of an hour.
    """
    (spec,) = samples_are_conserved.check_specs
    model, *keys, newest = HOURLY.get_partition_keys()[-MATERIALIZED - 200 : -200]
    for key in (model, newest):  # the newest last: Dagster looks for new ones by its number
        if key == newest:
            _copy(model, keys)
        for asset in HOURS:
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))
        for passed in partition_evaluations(instance, spec, {key: dg.AssetCheckResult(passed=True)}):
            instance.report_runless_asset_event(passed)


def _copy(model: str, keys: list[str]) -> None:
    events = "run_id, dagster_event_type, timestamp, step_key, asset_key"
    checks = "asset_key, check_name, run_id, execution_status, evaluation_event_timestamp, create_timestamp"
    copied = "asset_key = %s AND dagster_event_type = 'ASSET_MATERIALIZATION' AND partition = ANY(%s)"
    hourly = '["device_metrics_hourly"]'
    url = os.environ["DAGSTER_DATABASE_URL"].replace("+psycopg2", "")
    with psycopg.connect(url) as connection:
        connection.execute(
            f"INSERT INTO event_logs ({events}, event, partition) SELECT {events}, replace(event, %s, key), key "  # noqa: S608
            "FROM event_logs, unnest(%s::text[]) AS key WHERE partition = %s ORDER BY key, id",
            (model, keys, model),
        )
        connection.execute(
            f"INSERT INTO asset_check_executions ({checks}, evaluation_event, partition, evaluation_event_storage_id, "  # noqa: S608
            "materialization_event_storage_id) SELECT "
            + ", ".join(f"one.{name}" for name in checks.split(", "))
            + f", one.evaluation_event, event.partition, event.id + 1, event.id FROM asset_check_executions AS one, "  # noqa: S608
            f"(SELECT partition, id FROM event_logs WHERE {copied}) AS event WHERE one.partition = %s",
            (hourly, keys, model),
        )
