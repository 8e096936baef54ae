"""`MetricsStore` on ClickHouse: the tables of the migrations 0001, 0008 and 0011, whose TTL is the retention."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa

from ninjait_pipelines.metrics.counters import Readings, increases
from ninjait_pipelines.metrics.coverage import MINUTES
from ninjait_pipelines.metrics.first_tier import first_tier, whole_devices, whole_hours, widths_of
from ninjait_pipelines.metrics.model import (
    COUNTER_GAP,
    COUNTERS,
    FIELDS,
    HOUR,
    POINTS,
    VOLUMES,
    WINDOWS,
    Tier,
    check_window,
)
from ninjait_pipelines.metrics.volumes import disk_windows, with_disks
from ninjait_pipelines.metrics.windows import ASSUMED_MINUTES
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.metrics_store import MetricsStore, Refusal
from ninjait_pipelines.resources.store import StoreFailed

# Aggregates of a field over its samples, and over its windows. All of them ignore nulls.
OF_SAMPLES = {
    "sum": "sum({field})",
    "count": "toFloat64(count({field}))",
    "min": "min({field})",
    "max": "max({field})",
    "last": "argMax({field}, time)",
}
OF_WINDOWS = {
    "sum": "sum({field}_sum)",
    "count": "sum({field}_count)",
    "min": "min({field}_min)",
    "max": "max({field}_max)",
    "last": "argMax({field}_last, time)",
}
# Minutes that the samples of windows cover; windows from before 0.4.0 lack it, and each sample counts as half a minute.
_MAX_COUNT = f"greatest({', '.join(f'ifNull({field}_count, 0)' for field in FIELDS)})"
COVERED = f"sum(ifNull(covered, if({_MAX_COUNT} > 0, {_MAX_COUNT}, samples) * {ASSUMED_MINUTES}))"
TABLES = (*Tier, "interface_counters", "volumes")
# ClickHouse sorts UUIDs by their second half; InfluxDB, like people, by their text.
KEY = "toString(organization_id) AS organization, toString(device_id) AS device"
OF_DEVICES = "AND device_id IN {device_ids:Array(UUID)}"
BETWEEN = "time >= {start:DateTime64(6, 'UTC')} AND time < {stop:DateTime64(6, 'UTC')}"


class ClickHouseMetrics(ClickHouse, MetricsStore):
    """The metrics in ClickHouse.

    with ClickHouseMetrics(url="http://127.0.0.1:8123", user="me", password="...", database="ninjait").open() as store:
        store.write(points)
        windows = store.aggregate(Tier.RAW, hour, hour + timedelta(hours=1), every=timedelta(minutes=5))
    """

    title = "Metrics store (ClickHouse)"

    def _ping(self) -> tuple[str, int | None]:
        row = self.rows(
            "SELECT version() AS version, (SELECT sum(total_bytes) FROM system.tables "
            "WHERE database = currentDatabase() AND name IN {tables:Array(String)}) AS size",
            tables=list(TABLES),
        )[0]
        return row["version"], row["size"] or 0

    def declare(self) -> None:
        """Raises StoreFailed if the migrations, which create the tables, have not been applied."""
        query = "SELECT name FROM system.tables WHERE database = currentDatabase() AND name IN {tables:Array(String)}"
        found = {row["name"] for row in self.rows(query, tables=list(TABLES))}
        if missing := sorted(set(TABLES) - found):
            problem = f"the database {self.database} has no table {', '.join(missing)}"
            raise StoreFailed(self.title, self.url, problem, "Bring the schema up to date: ninjait migrate up.")

    def check_declared(self) -> None:
        self.declare()

    def write(self, points: pa.Table) -> list[Refusal]:
        # One insert: for rows with the same key the engine keeps each field's last value that is not null.
        self.insert(Tier.RAW, points.select(POINTS.names).cast(POINTS))
        return []

    def write_counters(self, counters: pa.Table) -> list[Refusal]:
        self.insert("interface_counters", counters.select(COUNTERS.names).cast(COUNTERS))
        return []

    def write_volumes(self, volumes: pa.Table) -> list[Refusal]:
        self.insert("volumes", volumes.select(VOLUMES.names).cast(VOLUMES))
        return []

    def write_aggregates(self, tier: Tier, windows: pa.Table) -> list[Refusal]:
        if tier is Tier.RAW:
            raise ValueError(f"{tier} is the tier of points, not of windows")
        self.insert(tier, windows.select(WINDOWS.names).cast(WINDOWS))
        return []

    def read(self, start: datetime, stop: datetime, device_ids: list[str] | None = None) -> pa.Table:
        devices = OF_DEVICES if device_ids else ""
        query = f"""
            SELECT {KEY}, time, {", ".join(FIELDS)}
            FROM {Tier.RAW} FINAL
            WHERE {BETWEEN} {devices}
            ORDER BY organization, device, time
        """  # noqa: S608
        return self._table(query, POINTS, start=start, stop=stop, device_ids=device_ids)

    def latest(self, start: datetime, stop: datetime, device_ids: Sequence[str] = ()) -> pa.Table:
        devices = OF_DEVICES if device_ids else ""
        columns = ", ".join(f"argMax({field}, time)" for field in FIELDS)
        query = f"""
            SELECT {KEY}, max(time) AS newest, {columns}
            FROM {Tier.RAW} FINAL
            WHERE {BETWEEN} {devices}
            GROUP BY organization_id, device_id
            ORDER BY organization, device
        """  # noqa: S608
        found = self._table(query, POINTS, start=start, stop=stop, device_ids=list(device_ids))
        return with_disks(found, self._last_of_volumes(start, stop, device_ids))

    def _last_of_volumes(self, start: datetime, stop: datetime, device_ids: Sequence[str]) -> pa.Table:
        """One row per volume (schema VOLUMES) with its last values."""
        devices = OF_DEVICES if device_ids else ""
        query = f"""
            SELECT {KEY}, source, disk, volume, max(time) AS newest,
                argMax(used, time), argMax(total, time), argMax(free, time)
            FROM volumes FINAL
            WHERE {BETWEEN} {devices}
            GROUP BY organization_id, device_id, source, disk, volume
        """  # noqa: S608
        return self._table(query, VOLUMES, start=start, stop=stop, device_ids=list(device_ids))

    def aggregate(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        check_window(start, stop, every)
        if tier is Tier.RAW:
            first, last = whole_hours(start, stop)
            width, of_disks = widths_of(every)
            points = Readings(self._windows(tier, first, last, width), self._minutes(first, last))
            left_out = self.interfaces_left_out
            counters = self.call(lambda: increases(whole_devices(self._counters(first, last)), first, width, left_out))
            volumes = self.call(lambda: disk_windows(whole_devices(self._volumes(first, last)), of_disks))
            return first_tier(points, counters, volumes, partial(self.read, first, last), start, stop, every)
        return self._windows(tier, start, stop, every)

    def _windows(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        """The windows of the tier's own rows; in those of the first tier, the minutes that samples cover are 0."""
        of = OF_SAMPLES if tier is Tier.RAW else OF_WINDOWS
        samples = "sum(samples)", COVERED, "max(ifNull(several_senders, 0))"
        samples = ("toFloat64(count())", "0", "0") if tier is Tier.RAW else samples
        columns = ", ".join(expression.format(field=field) for field in FIELDS for expression in of.values())
        query = f"""
            SELECT {KEY}, toStartOfInterval(time, toIntervalMicrosecond({{every:Int64}}), 'UTC') AS window,
                {", ".join(samples)}, {columns}
            FROM {tier} FINAL
            WHERE {BETWEEN}
            GROUP BY organization_id, device_id, window
            ORDER BY organization, device, window
        """  # noqa: S608
        return self._table(query, WINDOWS, start=start, stop=stop, every=every // timedelta(microseconds=1))

    def _minutes(self, start: datetime, stop: datetime) -> pa.Table:
        """The minutes that have samples (schema MINUTES)."""
        bit = "bitShiftLeft(toUInt64(1), toMinute(time, 'UTC'))"
        query = f"""
            SELECT {KEY}, intDiv(toUnixTimestamp(time), 3600) AS hour,
                groupBitOrIf({bit}, toSecond(time) < 30), groupBitOrIf({bit}, toSecond(time) >= 30)
            FROM {Tier.RAW}
            WHERE {BETWEEN}
            GROUP BY organization_id, device_id, hour
        """  # noqa: S608
        return self._table(query, MINUTES, start=start, stop=stop)

    def _volumes(self, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        """All readings of volumes in [start, stop), in parts; a device's are together, in order of time."""
        query = f"""
            SELECT {KEY}, source, disk, volume, time, used, total, free
            FROM volumes FINAL
            WHERE {BETWEEN}
            ORDER BY device_id, time
        """  # noqa: S608
        return self._stream(query, VOLUMES, start, stop)

    def _counters(self, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        """All readings that contribute to increases in [start, stop), in parts; a device's are together."""
        query = f"""
            SELECT {KEY}, source, interface, time, network_in, network_out
            FROM interface_counters FINAL
            WHERE {BETWEEN}
            ORDER BY device_id
        """  # noqa: S608
        return self._stream(query, COUNTERS, start - COUNTER_GAP, stop)

    def _stream(self, query: str, schema: pa.Schema, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        parameters = {"start": start, "stop": stop}
        with self.client.query_arrow_stream(query, parameters=parameters, use_strings=True) as parts:
            for part in parts:
                yield pa.Table.from_batches([part]).rename_columns(schema.names).cast(schema)

    def count_samples(self, tier: Tier, start: datetime, stop: datetime) -> dict[datetime, int]:
        check_window(start, stop, HOUR)
        counts = {f"{tier} FINAL": "count()" if tier is Tier.RAW else "toUInt64(sum(samples))"}
        if tier is Tier.RAW:
            counts |= dict.fromkeys(("interface_counters", "volumes"), "uniqExact(organization_id, device_id, time)")
        each = " UNION ALL ".join(
            f"SELECT toStartOfHour(time, 'UTC') AS hour, {count} AS n FROM {table} WHERE {BETWEEN} GROUP BY hour"  # noqa: S608
            for table, count in counts.items()
        )
        rows = self.rows(f"SELECT hour, sum(n) AS samples FROM ({each}) GROUP BY hour", start=start, stop=stop)  # noqa: S608
        return {row["hour"]: row["samples"] for row in rows}

    def delete(self, device_ids: Sequence[str]) -> None:
        """Rewrites the parts that contain these devices, so that nothing of them stays on disk either."""
        if not device_ids:
            return
        for table in TABLES:
            statement = f"ALTER TABLE {table} DELETE WHERE device_id IN {{ids:Array(UUID)}} SETTINGS mutations_sync = 2"
            self.command(statement, ids=list(device_ids))

    def _table(self, query: str, schema: pa.Schema, **parameters: Any) -> pa.Table:
        """The result, with its columns renamed by position."""
        table = self.arrow(query, **parameters)
        return table.rename_columns(schema.names).cast(schema)
