"""Where the good points of each queue go: one small sink per kind of store. The drain does everything else."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.contract import milliseconds
from ninjait_pipelines.ingest.decode.model import NOBODY, Columns, Decoded, Rejection
from ninjait_pipelines.ingest.series import NAME_OF, TOO_MANY, Named, Series
from ninjait_pipelines.late_days import note_events
from ninjait_pipelines.metrics.latest import latest_reading
from ninjait_pipelines.metrics.model import (
    COUNTER_GAP,
    COUNTERS,
    FIELDS,
    POINTS,
    RETENTION,
    RETENTION_GRACE,
    VOLUMES,
    Tier,
)
from ninjait_pipelines.metrics.windows import late_rows
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.metrics_store import MetricsStore, Refusal
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.streams import Stream

Hour = tuple[str, datetime]
# What remains to be done once the points are stored. Returns (organization, hour) of the metrics that were written.
Record = Callable[[], set[Hour]]
_NO_HOURS: Record = set
Kind = Literal["columns", "counters", "volumes"]
_ROWS: Mapping[Kind, str] = {"columns": "rows", "counters": "counter_rows", "volumes": "volume_rows"}
_MILLISECONDS = pa.timestamp("ms", "UTC")
_HOUR_US = 3_600_000_000
# Per query: a ClickHouse parameter has at most 128 KiB, and an id takes 39 bytes.
MAX_IDS = 1_000
# How long past raw retention we still check whether the raw tier has a late point already: until then the hour's
# windows can be rebuilt from raw, and the point would be counted twice. Less than RETENTION_GRACE: a repair takes time.
REBUILD_HORIZON = RETENTION_GRACE - timedelta(hours=6)
DEVICES_AT_ONCE = 100
_TOUCHED = pa.schema(
    [
        ("organization_id", pa.string()),
        ("hour", pa.timestamp("s", "UTC")),
        ("points", pa.uint32()),
        ("run_id", pa.string()),
    ]
)
# What devices name, and whose number is limited.
_NAMED: dict[Named, pa.Schema] = {"counters": COUNTERS, "volumes": VOLUMES}
_OF_VOLUMES = {"disk_used": "used", "disk_total": "total", "disk_free": "free"}
_LAST_SEEN = pa.schema(
    [("organization_id", pa.string()), ("device_id", pa.string()), ("last_seen", _MILLISECONDS)]
    + [(f"{name}_at", _MILLISECONDS) for name in FIELDS]
)


class Sink(Protocol):
    """Takes the good points of a queue. Writing the same points again changes nothing."""

    @property
    def queue(self) -> str:
        """The queue whose points it writes."""

    def prepare(self) -> None:
        """Raises StoreError if its store is down or takes no write, before anything is taken from the queue."""

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        """Writes what has columns; returns once it is stored, with the function to call next.

        A row that its store refuses permanently is added to the rejections of its message.
        """


class MetricsSink:
    """Samples of devices: each to the tier of its age; the hours that they touch; each device's latest values."""

    queue = "agent.metrics"
    max_ids = MAX_IDS

    def __init__(
        self, metrics_store: MetricsStore, dragonfly: Dragonfly, clickhouse: ClickHouse, log: logging.Logger
    ) -> None:
        self._metrics_store = metrics_store
        self._dragonfly = dragonfly
        self._clickhouse = clickhouse
        self._log = log
        self._series = Series(clickhouse)

    def prepare(self) -> None:
        self._metrics_store.declare()
        self._metrics_store.probe()

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        """3a. Points to their tiers, counters and volumes beside them, except series beyond their device's limit (see
        series.py). Dying here: written again, they replace themselves.
        """
        bounded = self._bounded(decoded, now)
        wanted = self._without_late_duplicates(decoded, now)
        points = _gathered(wanted, "columns", POINTS)
        (counters, counter_rows), (volumes, volume_rows) = bounded["counters"], bounded["volumes"]
        with ThreadPoolExecutor(3, "store") as at_once:  # all finish before a failure is raised
            of_points = at_once.submit(lambda: list(self._write_points(points, now)))
            of_counters = at_once.submit(self._metrics_store.write_counters, counters) if len(counters) else None
            of_volumes = at_once.submit(self._metrics_store.write_volumes, volumes) if len(volumes) else None
        _reject(wanted, "columns", of_points.result())
        if of_counters:
            _reject(wanted, "counters", _of_rows(counter_rows, of_counters.result()))
        if of_volumes:
            _reject(wanted, "volumes", _of_rows(volume_rows, of_volumes.result()))
        if wanted is not decoded:
            for one, part in zip(decoded, wanted, strict=True):
                one.rejections = part.rejections
        seen = last_seen(points, counters, volumes, decoded)
        return partial(self._record_touched, touched_hours(points, counters, volumes, run_id), seen, wanted)

    def _record_touched(self, hours: pa.Table, seen: pa.Table, decoded: Sequence[Decoded]) -> set[Hour]:
        """3b. Note the hours that the points touch. Dying before: the message is redelivered, and they are noted then.
            After the points, so that a roll-up that missed a point is older than its hour's note.
        3c. Note when each device was last heard of. Dying before: likewise; the latest time counts, so twice is once.
        3d. Cache the latest values. Dragonfly may be down: `device_caches` repairs them afterwards.
        """
        self._clickhouse.insert("touched_hours", hours)
        self._clickhouse.insert("device_sightings", seen)
        try:
            with self._dragonfly.optional():
                self._dragonfly.set_many_if_newer(latest(decoded))
        except StoreError as error:
            self._log.warning("The latest values were not cached: %s", error)
        return set(zip(hours["organization_id"].to_pylist(), hours["hour"].to_pylist(), strict=True))

    def _bounded(self, decoded: Sequence[Decoded], now: datetime) -> dict[Named, tuple[pa.Table, Sequence[int]]]:
        """The counters and volumes of the messages, and their row numbers: rows of interfaces or volumes beyond the
        device's limit are left out and rejected."""
        tables = {kind: _gathered(decoded, kind, schema) for kind, schema in _NAMED.items()}
        found: dict[Named, tuple[pa.Table, Sequence[int]]] = {}
        for kind, refused in self._series.refused(tables, now).items():
            table, rows = tables[kind], range(len(tables[kind]))
            found[kind] = table, rows
            if refused:
                _reject_names(decoded, kind, refused)
                kept = sorted(set(rows).difference(refused))
                found[kind] = table.take(pa.array(kept, pa.int64())), kept
        return found

    def _write_points(self, points: pa.Table, now: datetime) -> Iterator[Refusal]:
        for tier, positions in by_tier(self._chosen_by(points, now), now):
            part = points.take(positions)
            if tier is Tier.RAW:
                refused = self._metrics_store.write(part)
            else:
                windows, sources = late_rows(part)
                of_rows = self._metrics_store.write_aggregates(tier, windows)
                messages = {sources[refusal.row]: refusal.message for refusal in of_rows}
                refused = [Refusal(row, message) for row, message in messages.items()]
            yield from (Refusal(positions[refusal.row].as_py(), refusal.message) for refusal in refused)

    def _chosen_by(self, points: pa.Table, now: datetime) -> pa.ChunkedArray:
        """The times by which the points' tiers are chosen: now for old points that full resolution already has.

        A drain that died after 3a wrote them, or another message brought them: in the next tier they would lie beside
        the window that is made from them, and count twice.
        """
        times, oldest = points["time"], now - RETENTION[Tier.RAW]
        aged = pc.and_(pc.less(times, _instant(oldest)), pc.greater_equal(times, _instant(oldest - REBUILD_HORIZON)))
        places = pc.indices_nonzero(aged)
        if not len(places):
            return times
        key = ("organization_id", "device_id", "time")
        some = points.take(places).select(key)
        devices, times_ = some["device_id"].unique().to_pylist(), pc.min_max(some["time"]).as_py()
        there: set[tuple[Any, ...]] = set()
        for first in range(0, len(devices), DEVICES_AT_ONCE):
            asked = devices[first : first + DEVICES_AT_ONCE]
            found = self._metrics_store.read(times_["min"], times_["max"] + timedelta(microseconds=1), asked)
            there |= set(zip(*found.select(key).to_pydict().values(), strict=True))
        rows = zip(*some.to_pydict().values(), strict=True)
        known = [place for place, row in zip(places.to_pylist(), rows, strict=True) if row in there]
        is_known = pc.is_in(pa.array(range(len(points)), pa.int64()), pa.array(known, pa.int64()))
        return pc.if_else(is_known, _instant(now), times)

    def _without_late_duplicates(self, decoded: Sequence[Decoded], now: datetime) -> Sequence[Decoded]:
        """Leaves out points that are too old for full resolution if their message was written before.

        A laptop may send last week's samples again: their windows in the lower tiers already contain them, and the late
        copy, which is stored beside the windows, would count twice.
        """
        oldest = milliseconds(now - RETENTION[Tier.RAW])
        late = [str(one.message_id) for one in decoded if one.columns and min(one.columns["time"]) <= oldest]
        if not late:
            return decoded
        written: set[tuple[str, UUID]] = set()
        for first in range(0, len(late), self.max_ids):
            some = late[first : first + self.max_ids]
            rows = self._clickhouse.rows(sql("ingest/already_written"), queue=self.queue, message_ids=some)
            written |= {(str(row["organization_id"]), row["message_id"]) for row in rows}
        return [
            _younger(one, oldest) if (one.organization_id or NOBODY, one.message_id) in written else one
            for one in decoded
        ]


class EventsSink:
    """Events as rows of a ClickHouse table, whose key has the message id: the same event twice is one row."""

    def __init__(self, stream: Stream, clickhouse: ClickHouse) -> None:
        self.queue = stream.queue
        self._table = stream.table
        self._days_follow = stream.days_follow
        self._clickhouse = clickhouse

    def prepare(self) -> None:
        """Nothing to add: every drain probes ClickHouse."""

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        rows = events(decoded)
        self._clickhouse.insert(f"{self._table}_versions", mart_rows(self._table, rows))
        return partial(self._note_hours, rows, run_id) if self._days_follow else _NO_HOURS

    def _note_hours(self, rows: Sequence[Mapping[str, Any]], run_id: str) -> set[Hour]:
        """3b. Note the hours of stored events. Dying before: they are redelivered, and noted then."""
        moments = [(str(row["organization_id"]), _moment(row["timestamp"])) for row in rows]
        note_events(self._clickhouse, self._table, moments, run_id)
        return set()


def _moment(milliseconds_: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds_)


class LogsSink:
    """Application logs in MongoDB; a document's id consists of the organization's id and the message's."""

    queue = "platform.logs"
    collection = "application_logs"

    def __init__(self, mongodb: MongoDB) -> None:
        self._mongodb = mongodb

    def prepare(self) -> None:
        """Creates the index by which logs are read: organization and time."""
        self._mongodb.probe()
        with self._mongodb.errors():
            self._mongodb.database[self.collection].create_index([("organization_id", 1), ("timestamp", -1)])

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        self._mongodb.insert_new(self.collection, [_log_document(event) for event in events(decoded)])
        return _NO_HOURS


def events(decoded: Sequence[Decoded]) -> list[dict[str, Any]]:
    """The events in these messages, as column -> value."""
    return [{name: values[0] for name, values in one.columns.items()} for one in decoded if one.columns]


def _log_document(event: Mapping[str, Any]) -> dict[str, Any]:
    document = {name: value for name, value in event.items() if name != "message_id"}
    id_ = f"{event['organization_id']}/{event['message_id']}"
    return {"_id": id_, **document, "timestamp": _moment(event["timestamp"])}


def _gathered(decoded: Sequence[Decoded], kind: Kind, schema: pa.Schema) -> pa.Table:
    """The columns of many messages, in the order of reception."""
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    parts = [part for one in decoded if (part := getattr(one, kind))]
    arrays = {name: _text(parts, name) for name in texts}
    for field in schema:
        if field.name not in arrays:
            values = list(chain.from_iterable([part[field.name] for part in parts]))
            arrays[field.name] = pa.array(values, _MILLISECONDS if field.name == "time" else field.type)
    return pa.table([arrays[name] for name in schema.names], schema.names).cast(schema)


def _text(parts: Sequence[Columns], name: str) -> pa.Array:
    """A column of text: the rows of a message are of one device, and nearly always of one interface or volume."""
    values: list[str] = []
    ends: list[int] = []  # of the runs of rows that have one value
    end = 0
    for part in parts:
        column = part[name]
        if column.count(column[0]) == len(column):
            values.append(column[0])
            end += len(column)
            ends.append(end)
        else:
            values += column
            ends += range(end + 1, end + len(column) + 1)
            end += len(column)
    return pc.run_end_decode(
        pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), pa.array(values, pa.string()))
    )


def _younger(one: Decoded, oldest: int) -> Decoded:
    """The message without its points up to and including this moment."""
    kept = [at for at, time in enumerate(one.columns.get("time", ())) if time > oldest]
    columns = {name: [values[at] for at in kept] for name, values in one.columns.items()} if kept else {}
    return msgspec.structs.replace(one, columns=columns, rows=[one.rows[at] if one.rows else at for at in kept])


def _reject(decoded: Sequence[Decoded], kind: Kind, refused: Iterable[Refusal]) -> None:
    """Adds the store's refusals to the rejections of the rows' messages."""
    refusals = {refusal.row: refusal.message for refusal in refused}
    for one, at, rows in _of_messages(decoded, kind, sorted(refusals)):
        index = getattr(one, _ROWS[kind])
        found = [(index[row] if index else row, refusals[at + row]) for row in rows]
        one.rejections = one.rejections + [Rejection(row, None, words, "refused_by_store") for row, words in found]


def _reject_names(decoded: Sequence[Decoded], kind: Named, refused: Sequence[int]) -> None:
    """Adds rejections to the messages of these rows: their names are beyond the device's limit."""
    for one, _, rows in _of_messages(decoded, kind, refused):
        index, names = getattr(one, _ROWS[kind]), getattr(one, kind)[NAME_OF[kind]]
        one.rejections = one.rejections + [
            Rejection(index[row] if index else row, NAME_OF[kind], repr(names[row]), TOO_MANY[kind]) for row in rows
        ]


def _of_rows(rows: Sequence[int], refused: Iterable[Refusal]) -> Iterator[Refusal]:
    """Refusals with the row numbers among all rows."""
    return (Refusal(rows[refusal.row], refusal.message) for refusal in refused)


def _of_messages(
    decoded: Sequence[Decoded], kind: Kind, rows: Sequence[int]
) -> Iterator[tuple[Decoded, int, Sequence[int]]]:
    """The messages that some of these rows (in order) came from, each with its first row number and its own rows."""
    at = 0
    for one in decoded if rows else ():
        end = at + len(getattr(one, kind).get("time", ()))
        first, last = bisect_left(rows, at), bisect_left(rows, end)
        if first < last:
            yield one, at, [row - at for row in rows[first:last]]
        at = end


def _instant(moment: datetime) -> pa.Scalar:
    return pa.scalar(moment, POINTS.field("time").type)


def by_tier(times: pa.ChunkedArray, now: datetime) -> Iterator[tuple[Tier, pa.Array]]:
    """The positions of the points that each tier takes by their age. The last tier takes all that remain, because they
    have been accepted."""
    taken = pa.scalar(False)
    for tier, kept in RETENTION.items():
        young_enough = pc.or_(pc.greater_equal(times, _instant(now - kept)), tier is Tier.ONE_HOUR)
        if len(positions := pc.indices_nonzero(pc.and_not(young_enough, taken))):
            yield tier, positions
        taken = young_enough


def touched_hours(points: pa.Table, counters: pa.Table, volumes: pa.Table, run_id: str) -> pa.Table:
    """Numbers of points per organization and hour, as rows of touched_hours.

    A counter reading touches the next hour too, because it changes the increase of the reading after it.
    """
    key = ["organization_id", "time"]
    at = COUNTERS.get_field_index("time")
    later = counters.set_column(at, COUNTERS.field(at), pc.add(counters["time"], COUNTER_GAP))
    touching = pa.concat_tables([*(of.select(key) for of in (points, counters, later, volumes))])
    number = pc.divide(pc.cast(touching["time"], pa.int64()), _HOUR_US)
    counted = pa.table([touching[key[0]], number], _TOUCHED.names[:2]).group_by(_TOUCHED.names[:2])
    organization, number, points_ = counted.aggregate([([], "count_all")]).itercolumns()
    hour = pc.cast(pc.multiply(number, 3600), pa.timestamp("s", "UTC"))
    runs = pa.array([run_id] * len(hour), pa.string())
    return pa.table([organization, hour, points_.cast(pa.uint32()), runs], schema=_TOUCHED)


def last_seen(points: pa.Table, counters: pa.Table, volumes: pa.Table, decoded: Iterable[Decoded]) -> pa.Table:
    """The newest time per device, as rows of device_sightings: of any reading, and of each field (volumes have those of
    disks). A device of which nothing was understood has a row without times.
    """
    nothing, never = pa.scalar(None, _MILLISECONDS), pa.scalar(0, _MILLISECONDS)
    key, times = _LAST_SEEN.names[:2], _LAST_SEEN.names[2:]
    ids = {(one.organization_id, one.device_id) for part in decoded for one in part.left_out} - {(NOBODY, NOBODY)}
    parts = [pa.table([pa.array([pair[at] for pair in ids], pa.string()) for at in (0, 1)], key)]
    for table, fields in ((points, {name: name for name in FIELDS}), (counters, {}), (volumes, _OF_VOLUMES)):
        time = pc.cast(table["time"], _MILLISECONDS, safe=False)
        part = table.select(key).append_column("last_seen", time)
        for ours, name in fields.items():
            part = part.append_column(f"{ours}_at", pc.if_else(pc.is_valid(table[name]), time, nothing))
        parts.append(part)
    newest = (
        pa.concat_tables(parts, promote_options="default").group_by(key).aggregate([(name, "max") for name in times])
    )
    columns = [newest[name] for name in key] + [pc.fill_null(newest[f"{name}_max"], never) for name in times]
    return pa.table(columns, schema=_LAST_SEEN)


def latest(decoded: Sequence[Decoded]) -> list[tuple[str, dict[str, Any]]]:
    """The cache entry of each device's latest sample; a field that it did not carry is null."""
    newest: dict[str, tuple[int, Columns, int]] = {}
    for one in decoded:
        if one.columns and one.device_id:
            times = one.columns["time"]
            index = len(times) - 1 - times[::-1].index(max(times))
            if one.device_id not in newest or times[index] >= newest[one.device_id][0]:
                newest[one.device_id] = (times[index], one.columns, index)
    return [_latest_entry(*entry) for entry in newest.values()]


def _latest_entry(time: int, columns: Columns, index: int) -> tuple[str, dict[str, Any]]:
    return latest_reading({name: values[index] for name, values in columns.items()} | {"time": _moment(time)})
