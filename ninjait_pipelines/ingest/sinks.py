"""Where the good points of each queue go: one small sink for each kind of store. The drain does everything else."""

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
from ninjait_pipelines.metrics.model import COUNTER_GAP, COUNTERS, POINTS, RETENTION, RETENTION_GRACE, VOLUMES, Tier
from ninjait_pipelines.metrics.windows import late_rows
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.metrics_store import MetricsStore, Refusal
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreError
from ninjait_pipelines.streams import Stream

Hour = tuple[str, datetime]
# What is left to do once the points are safe. It gives (organization, hour) of the metrics that were written.
Record = Callable[[], set[Hour]]
_NO_HOURS: Record = set
Kind = Literal["columns", "counters", "volumes"]
_ROWS: Mapping[Kind, str] = {"columns": "rows", "counters": "counter_rows", "volumes": "volume_rows"}
_MILLISECONDS = pa.timestamp("ms", "UTC")
_HOUR_US = 3_600_000_000
# Of a query: ClickHouse takes a parameter of 128 KiB at most, and an id is 39 bytes of it.
MAX_IDS = 1_000
# How long after full resolution took its last points of an hour it is still asked for them: the windows of the hour are
# made from it again for MARGIN less an hour or two, and a repair takes its time.
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
# What devices name, and may name too many of.
_NAMED: dict[Named, pa.Schema] = {"counters": COUNTERS, "volumes": VOLUMES}
_SEEN = ("cpu", "memory", "disk_used")
_LAST_SEEN = pa.schema(
    [("organization_id", pa.string()), ("device_id", pa.string()), ("last_seen", _MILLISECONDS)]
    + [(f"{name}_at", _MILLISECONDS) for name in _SEEN]
)


class Sink(Protocol):
    """Takes the good points of a queue. Writing the same again changes nothing."""

    @property
    def queue(self) -> str:
        """The queue whose points it takes."""

    def prepare(self) -> None:
        """Raises a StoreError where its store is away or takes no write; nothing has been taken from the queue then."""

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        """Writes what has columns, and returns when it is safe, with what is to be called next.

        A row that its store refuses for good is added to the rejections of its message.
        """


class MetricsSink:
    """Samples of devices: to the tier of their age, the hours that they touch, and the latest of each device."""

    queue = "agent.metrics"

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
        """3a. Points to their tiers, counters and volumes beside them, but for series that are too many of their device
        (see series.py). Dying here: written again, they replace themselves.
        """
        bounded = self._bounded(decoded, now)
        wanted = self._without_late_duplicates(decoded, now)
        points = _gathered(wanted, "columns", POINTS)
        (counters, counter_rows), (volumes, volume_rows) = bounded["counters"], bounded["volumes"]
        with ThreadPoolExecutor(3, "store") as at_once:  # all end before a failure is raised
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
        return partial(self._record, touched_hours(points, counters, volumes, run_id), seen, wanted)

    def _record(self, hours: pa.Table, seen: pa.Table, decoded: Sequence[Decoded]) -> set[Hour]:
        """3b. The hours that they touch. Dying before: the message comes again, and its hours are touched then. After
            the points, so that a roll-up which missed a point is older than its touch.
        3c. When each device was last heard of. Dying before: likewise; of each time the latest counts: twice is once.
        3d. The latest values, which are a cache: a Dragonfly that is away stops nothing, and `device_caches` repairs
            them afterwards.
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
        """The counters and volumes of the messages, and which rows of all these are: those of too many interfaces or
        volumes are left out and rejected."""
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
                words = {sources[refusal.row]: refusal.words for refusal in of_rows}
                refused = [Refusal(row, said) for row, said in words.items()]
            yield from (Refusal(positions[refusal.row].as_py(), refusal.words) for refusal in refused)

    def _chosen_by(self, points: pa.Table, now: datetime) -> pa.ChunkedArray:
        """The times by which the points' tiers are chosen: now for those that full resolution has all the same.

        They are of a drain that died after 3a, or of another message: in the next tier they would lie beside the window
        that is made of them, and count twice.
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
        """Leaves out, of messages that were written before, the points that are too old for full resolution.

        A laptop that sends last week's samples once more: they lie in the lower tiers inside their windows already, and
        the late copy, which stands beside the windows, would count twice.
        """
        oldest = milliseconds(now - RETENTION[Tier.RAW])
        late = [str(one.message_id) for one in decoded if one.columns and min(one.columns["time"]) <= oldest]
        if not late:
            return decoded
        written: set[tuple[str, UUID]] = set()
        for first in range(0, len(late), MAX_IDS):
            some = late[first : first + MAX_IDS]
            rows = self._clickhouse.rows(sql("ingest/already_written"), queue=self.queue, message_ids=some)
            written |= {(str(row["organization_id"]), row["message_id"]) for row in rows}
        return [
            _younger(one, oldest) if (one.organization_id or NOBODY, one.message_id) in written else one
            for one in decoded
        ]


class EventsSink:
    """Events that are rows of a ClickHouse table; the message id in its key makes the same event one row."""

    def __init__(self, stream: Stream, clickhouse: ClickHouse) -> None:
        self.queue = stream.queue
        self._table = stream.table
        self._days_follow = stream.days_follow
        self._clickhouse = clickhouse

    def prepare(self) -> None:
        """Nothing to add: every drain asks ClickHouse whether it takes a write."""

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        rows = events(decoded)
        self._clickhouse.insert(f"{self._table}_versions", mart_rows(self._table, rows))
        return partial(self._note, rows, run_id) if self._days_follow else _NO_HOURS

    def _note(self, rows: Sequence[Mapping[str, Any]], run_id: str) -> set[Hour]:
        """3b. The hours that they touch, once they are stored. Dying before: they come again, and are noted then."""
        moments = [(str(row["organization_id"]), _moment(row["timestamp"])) for row in rows]
        note_events(self._clickhouse, self._table, moments, run_id)
        return set()


def _moment(milliseconds_: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds_)


class LogsSink:
    """Application logs in MongoDB; the document's id is made from the organization's and the message's."""

    queue = "platform.logs"
    collection = "application_logs"

    def __init__(self, mongodb: MongoDB) -> None:
        self._mongodb = mongodb

    def prepare(self) -> None:
        """Logs are read by organization and time."""
        self._mongodb.probe()
        with self._mongodb.errors():
            self._mongodb.database[self.collection].create_index([("organization_id", 1), ("timestamp", -1)])

    def write(self, decoded: Sequence[Decoded], run_id: str, now: datetime) -> Record:
        self._mongodb.insert_new(self.collection, [_log_document(event) for event in events(decoded)])
        return _NO_HOURS


def events(decoded: Sequence[Decoded]) -> list[dict[str, Any]]:
    """The events among them, as column -> value."""
    return [{name: values[0] for name, values in one.columns.items()} for one in decoded if one.columns]


def _log_document(event: Mapping[str, Any]) -> dict[str, Any]:
    document = {name: value for name, value in event.items() if name != "message_id"}
    timestamp = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=event["timestamp"])
    return {"_id": f"{event['organization_id']}/{event['message_id']}", **document, "timestamp": timestamp}


def _gathered(decoded: Sequence[Decoded], kind: Kind, schema: pa.Schema) -> pa.Table:
    """The columns of many messages, in the order in which they were received."""
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
    """The message without its points of up to this moment."""
    kept = [at for at, time in enumerate(one.columns.get("time", ())) if time > oldest]
    columns = {name: [values[at] for at in kept] for name, values in one.columns.items()} if kept else {}
    return msgspec.structs.replace(one, columns=columns, rows=[one.rows[at] if one.rows else at for at in kept])


def _reject(decoded: Sequence[Decoded], kind: Kind, refused: Iterable[Refusal]) -> None:
    """Adds the store's refusals to the messages that the rows came from."""
    refusals = {refusal.row: refusal.words for refusal in refused}
    for one, at, rows in _of_messages(decoded, kind, sorted(refusals)):
        index = getattr(one, _ROWS[kind])
        found = [(index[row] if index else row, refusals[at + row]) for row in rows]
        one.rejections = one.rejections + [Rejection(row, None, words, "refused_by_store") for row, words in found]


def _reject_names(decoded: Sequence[Decoded], kind: Named, refused: Sequence[int]) -> None:
    """Adds to the messages that these rows came from that their names are too many."""
    for one, _, rows in _of_messages(decoded, kind, refused):
        index, names = getattr(one, _ROWS[kind]), getattr(one, kind)[NAME_OF[kind]]
        one.rejections = one.rejections + [
            Rejection(index[row] if index else row, NAME_OF[kind], repr(names[row]), TOO_MANY[kind]) for row in rows
        ]


def _of_rows(rows: Sequence[int], refused: Iterable[Refusal]) -> Iterator[Refusal]:
    """Refusals of some rows, by their places among all."""
    return (Refusal(rows[refusal.row], refusal.words) for refusal in refused)


def _of_messages(
    decoded: Sequence[Decoded], kind: Kind, rows: Sequence[int]
) -> Iterator[tuple[Decoded, int, Sequence[int]]]:
    """The messages that have some of these rows (in order) of all, each with its first row and its own ones of them."""
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
    """The positions of the points that each tier takes by their age. The last takes all that are left: they have been
    accepted."""
    taken = pa.scalar(False)
    for tier, kept in RETENTION.items():
        young_enough = pc.or_(pc.greater_equal(times, _instant(now - kept)), tier is Tier.ONE_HOUR)
        if len(positions := pc.indices_nonzero(pc.and_not(young_enough, taken))):
            yield tier, positions
        taken = young_enough


def touched_hours(points: pa.Table, counters: pa.Table, volumes: pa.Table, run_id: str) -> pa.Table:
    """Points by organization and hour, as the table touched_hours takes them.

    A reading of a counter touches the next hour as well: the increase of the reading after it changes.
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
    """The newest time of each device of these, as the table device_sightings takes them: of any reading, and of those
    that every device should have; volumes are of disks. A device of which nothing was understood has none, and a row.
    """
    nothing, never = pa.scalar(None, _MILLISECONDS), pa.scalar(0, _MILLISECONDS)
    key, times = _LAST_SEEN.names[:2], _LAST_SEEN.names[2:]
    ids = {(one.organization_id, one.device_id) for part in decoded for one in part.left_out} - {(NOBODY, NOBODY)}
    parts = [pa.table([pa.array([pair[at] for pair in ids], pa.string()) for at in (0, 1)], key)]
    for table, fields in ((points, {name: name for name in _SEEN}), (counters, {}), (volumes, {"disk_used": "used"})):
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
    """The cache entry of each device's latest sample, null where it did not carry a field."""
    newest: dict[str, tuple[int, Columns, int]] = {}
    for one in decoded:
        if one.columns and one.device_id:
            times = one.columns["time"]
            index = len(times) - 1 - times[::-1].index(max(times))
            if one.device_id not in newest or times[index] >= newest[one.device_id][0]:
                newest[one.device_id] = (times[index], one.columns, index)
    return [_latest_entry(*entry) for entry in newest.values()]


def _latest_entry(time: int, columns: Columns, index: int) -> tuple[str, dict[str, Any]]:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time)
    return latest_reading({name: values[index] for name, values in columns.items()} | {"time": moment})
