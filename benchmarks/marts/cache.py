"""The caches beside the writing of the same documents, and the status of devices beside a state per device."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Figure, cost, figure
from ninjait_pipelines import keys
from ninjait_pipelines.cache import assets, reads
from ninjait_pipelines.ingest.sinks import last_seen
from ninjait_pipelines.metrics.latest import latest_reading
from ninjait_pipelines.metrics.model import COUNTERS, FIELDS, POINTS, VOLUMES
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.clickhouse_schema import written_columns

# The first tenth of the organizations is the small fleet.
ORGANIZATIONS, DEVICES_EACH = 100, 100
HOUR, HEARTBEAT = timedelta(hours=1), timedelta(minutes=15)
DAY_HOURS, WEEK_HOURS = 24, 168
HEARTBEATS = 7 * 24 * 4
KEY = ("organization_id", "device_id")
SERVERS = ("clickhouse", "postgres", "dragonfly", "influxdb")
STATUS = "SELECT organization_id, status, devices FROM device_status_realtime"
STATES = """
    CREATE TABLE benchmark_states ENGINE = AggregatingMergeTree ORDER BY (organization_id, device_id) AS
    SELECT organization_id, device_id, argMaxState(toString(status), timestamp) AS state
    FROM device_heartbeats_versions GROUP BY organization_id, device_id
"""
STATE = """
    SELECT organization_id, status, count() FROM (
        SELECT organization_id, device_id, argMaxMerge(state) AS status FROM benchmark_states
        GROUP BY organization_id, device_id
    ) GROUP BY organization_id, status
"""
# Every device, from hour to hour.
BEATS = """
    INSERT INTO device_heartbeats_versions (organization_id, device_id, timestamp, status, message_id)
    SELECT organization_id, device_id, now64(3) - toIntervalMinute(15 * number), 'online', generateUUIDv4()
    FROM (SELECT organization_id, device_id FROM device_sightings GROUP BY ALL) AS devices
    CROSS JOIN (SELECT number FROM numbers({first:UInt32}, {count:UInt32})) AS beats
"""


def measure(rounds: int) -> list[Figure]:
    """The caches of 1,000 and 10,000 devices; the status of these by a tenth of a week of heartbeats, and a week."""
    with started() as engines, _settled():
        fleet = Fleet(engines.stores)
        figures: list[Figure] = []
        for organizations in (ORGANIZATIONS // 10, ORGANIZATIONS):
            fleet.grow(organizations)
            figures += _caches(engines, fleet, rounds)
        engines.stores.clickhouse.command(BEATS, first=0, count=HEARTBEATS // 10)
        engines.stores.clickhouse.command(STATES)
        figures += _status(engines, "a tenth of a week", rounds)
        engines.stores.clickhouse.command(BEATS, first=HEARTBEATS // 10, count=HEARTBEATS - HEARTBEATS // 10)
        return figures + _status(engines, "a week", rounds)


@contextmanager
def _settled() -> Iterator[None]:
    """What was recorded a moment ago counts as cached, as it would be a minute later."""
    before, reads.SETTLING = reads.SETTLING, timedelta(0)
    try:
        yield
    finally:
        reads.SETTLING = before


class Fleet:
    """Organizations of equally many devices; what they send is written as a drain and a roll-up write it."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.organizations: list[uuid.UUID] = []
        self.devices: list[tuple[str, str]] = []

    def grow(self, organizations: int) -> None:
        """Registers more organizations, each with its devices, readings and a week of hours."""
        new = [uuid.uuid4() for _ in range(organizations - len(self.organizations))]
        devices = [(str(organization), str(uuid.uuid4())) for organization in new for _ in range(DEVICES_EACH)]
        with self.stores.postgres.transaction() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO organizations (id, name, slug, time_zone, created_at) "
                "VALUES (%s, %s, %s, 'UTC', '2026-01-01')",
                [(id_, f"{id_}", f"{id_}") for id_ in new],
            )
            cursor.executemany(
                "INSERT INTO devices (organization_id, id, name, kind, os_version, created_at) "
                "VALUES (%s, %s, %s, 'server', 'Ubuntu 24.04.3 LTS', '2026-01-01')",
                [(*pair, f"server-{pair[1]}") for pair in devices],
            )
        self.organizations += new
        self.devices += devices
        self.send(len(self.devices))
        self._roll_up()

    def _ids(self, count: int, repeated: int = 1) -> dict[str, pa.Array]:
        place = pa.array([number for number in range(count) for _ in range(repeated)])
        return {name: pa.array([pair[at] for pair in self.devices]).take(place) for at, name in enumerate(KEY)}

    def send(self, devices: int) -> None:
        """A reading of each of the first devices, as a drain records and caches it."""
        now = self.stores.clickhouse.now()
        columns = self._ids(devices) | {"time": pa.array([now] * devices, POINTS.field("time").type)}
        columns |= {name: pc.multiply(pc.random(devices), 1e4) for name in FIELDS}
        points = pa.table([columns[name] for name in POINTS.names], schema=POINTS)
        seen = last_seen(points, COUNTERS.empty_table(), VOLUMES.empty_table(), [])
        self.stores.clickhouse.insert("device_sightings", seen)
        self.stores.dragonfly.set_many_if_newer(map(latest_reading, points.to_pylist()))

    def _roll_up(self) -> None:
        clickhouse = self.stores.clickhouse
        last = clickhouse.now().replace(minute=0, second=0, microsecond=0)
        for day in range(WEEK_HOURS // DAY_HOURS):
            hours = [last - HOUR * (day * DAY_HOURS + number) for number in range(DAY_HOURS)]
            count = len(self.devices) * len(hours)
            columns = self._ids(len(self.devices), len(hours))
            columns["timestamp"] = pa.array(hours * len(self.devices), pa.timestamp("s", "UTC"))
            texts = {"source_tier": pa.array(["metrics"] * count), "several_senders": pa.array([False] * count)}
            for name, column in written_columns("device_metrics_hourly").items():
                whole = pa.array([120] * count, pa.uint32()) if "UInt" in column.type else pc.random(count)
                columns.setdefault(name, texts.get(name, whole))
            clickhouse.replace_slice("device_metrics_hourly", pa.table(columns), clickhouse.now(), hours)
            self.rolled_up(hours)

    def rolled_up(self, hours: list[datetime] | None = None) -> None:
        """Records that these hours, or the newest, were rolled up now."""
        clickhouse = self.stores.clickhouse
        hours = hours or [clickhouse.scalar("SELECT max(hour) FROM rolled_up_hours")]
        columns = {"hour": pa.array(hours, pa.timestamp("s", "UTC")), "source_tier": ["metrics"] * len(hours)}
        columns["as_of"] = pa.array([clickhouse.now()] * len(hours), pa.timestamp("us", "UTC"))
        columns["row_count"] = pa.array([len(self.devices)] * len(hours), pa.uint32())
        clickhouse.insert("rolled_up_hours", pa.table(columns))


class _Measured:
    """Calls in turn, each after what makes it necessary, which is not measured."""

    def __init__(self, engines: Engines, rounds: int) -> None:
        self._servers = [process for name, process in engines.processes.items() if name in SERVERS]
        self._rounds = rounds

    def __call__(self, calls: dict[str, tuple[Callable[[], object], Callable[[], object]]]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(self._rounds + 1):  # the first is not counted
            for name, (before, call) in calls.items():
                before()
                seconds = cost(call, self._servers).all_cpu
                if number:
                    found[name].append(seconds)
        return found


def _caches(engines: Engines, fleet: Fleet, rounds: int) -> list[Figure]:
    stores, of = engines.stores, f"{len(fleet.devices):,} devices"
    row = partial(figure, size=len(fleet.devices))
    functions: list[Any] = [assets.device_caches, assets.organization_summaries, assets.uptime_leaderboard]
    bodies = [asset.op.compute_fn.decorated_fn for asset in functions]  # without Dagster, which a run pays for
    sources = stores.clickhouse, stores.postgres, stores.dragonfly
    context, config = dg.build_asset_context(), assets.DeviceCachesConfig()
    lists = partial(bodies[0], context, config, *sources, stores.metrics_store)
    summaries, leaderboard = (partial(body, *sources) for body in bodies[1:])
    nothing: Callable[[], object] = lambda: None  # noqa: E731
    everything, one = (partial(fleet.send, count) for count in (len(fleet.devices), DEVICES_EACH))
    lists()
    found = _Measured(engines, rounds)(
        {
            "nothing": (lists, lists),
            "one": (one, lists),
            "everything": (everything, lists),
            "set": (nothing, partial(_set, stores, _documents(stores, fleet))),
            "summaries": (summaries, summaries),
            "summaries after": (fleet.rolled_up, summaries),
            "day": (nothing, partial(_query, stores, DAY_HOURS)),
            "leaderboard": (leaderboard, leaderboard),
            "leaderboard after": (fleet.rolled_up, leaderboard),
            "week": (nothing, partial(_query, stores, WEEK_HOURS)),
        }
    )
    sets = {"limit_name": "SETs of the lists and latest readings", "limit": found["set"], "bound": 5, "aim": 2}
    day = {"limit_name": "its query alone", "limit": found["day"], "bound": 1.2}
    week, after = day | {"limit": found["week"]}, "... after a roll-up, as one run of fifteen is"
    return [
        row("device-caches", f"device lists, {of}, nothing changed", found["nothing"], **sets),
        row("device-caches-one", f"... {DEVICES_EACH} devices of one organization", found["one"], **sets),
        row("device-caches-all", "... all devices", found["everything"], **sets),
        row("summaries", f"organization summaries, {of}, no roll-up since", found["summaries"], **day),
        row("summaries-hour", after, found["summaries after"], **day),
        row("leaderboard", f"leaderboard, {of}, no roll-up since", found["leaderboard"], **week),
        row("leaderboard-hour", after, found["leaderboard after"], **week),
    ]


def _documents(stores: Stores, fleet: Fleet) -> list[tuple[str, str]]:
    names = [keys.organization_devices(id_) for id_ in fleet.organizations]
    names += [keys.device_latest(device) for _, device in fleet.devices]
    values: Any = stores.dragonfly.client.mget(names)
    return [(f"benchmark:{name}", value) for name, value in zip(names, values, strict=True)]


def _set(stores: Stores, documents: list[tuple[str, str]]) -> None:
    with stores.dragonfly.client.pipeline(transaction=False) as pipeline:
        for name, value in documents:
            pipeline.set(name, value)
        pipeline.execute()


def _query(stores: Stores, hours: int) -> None:
    rolled_up = list(reads.rolled_up_hours(stores.clickhouse, hours))
    stores.clickhouse.arrow(sql("cache/shares"), hours=rolled_up)
    if hours == DAY_HOURS:
        stores.clickhouse.rows(sql("cache/means"), hours=rolled_up)


def _status(engines: Engines, history: str, rounds: int) -> list[Figure]:
    clickhouse, nothing = engines.stores.clickhouse, lambda: None
    while clickhouse.scalar("SELECT count() FROM system.merges"):  # they would be measured, too
        time.sleep(1)

    def calls(query: str) -> tuple[Callable[[], object], Callable[[], object]]:
        # ten at once: a server's processor time is counted in hundredths of a second
        return nothing, lambda: [clickhouse.rows(query) for _ in range(10)]

    found = _Measured(engines, rounds)({"view": calls(STATUS), "state": calls(STATE)})
    work = f"device_status_realtime, ten times, 10,000 devices, {history} of heartbeats"
    beats = HEARTBEATS if history == "a week" else HEARTBEATS // 10
    return [figure("device-status", work, found["view"], "a state per device", found["state"], bound=3, size=beats)]
