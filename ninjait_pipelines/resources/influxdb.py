"""`MetricsStore` on InfluxDB 2: a bucket a tier, whose retention is the tier's; written by columns, read by Flux.

A point is the measurement `device_metrics` with the tags organization_id and device_id; at full resolution it has the
fields of the contract and `samples`, which is 1, so that points are counted by one sum whatever fields they carry. The
fields of the lower tiers are those of WINDOWS. Readings of counters are the measurement `interface_counters`, with the
tag `interface` beside. All fields are float.
"""

import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import urllib3
from influxdb_client import Bucket, BucketRetentionRules, Dialect, InfluxDBClient, WritePrecision
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService
from isal import igzip
from pydantic import Field, PrivateAttr

from ninjait_pipelines.resources.line_protocol import held, lines, text_of, whole
from ninjait_pipelines.resources.metrics_store import (
    AGGREGATES,
    COUNTER_GAP,
    COUNTERS,
    FIELDS,
    MARGIN,
    POINTS,
    RETENTION,
    WINDOWS,
    MetricsStore,
    Refusal,
    Tier,
    added,
    check_window,
    filled,
    increases,
)
from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreRefused, StoreUnavailable, retrying

T = TypeVar("T")
MEASUREMENT = "device_metrics"
COUNTER_MEASUREMENT = "interface_counters"
# Of 5,000, 10,000 and 20,000 lines on one to three connections this was the fastest drain here, by a few per cent.
LINES_AT_ONCE = 10_000
CONNECTIONS = 2
CSV_BLOCK_BYTES = 4 << 20
# Without the annotations, which pyarrow's reader does not know; the types of all columns are known beforehand.
DIALECT = Dialect(header=True, annotations=[], delimiter=",", comment_prefix="#")
TYPES = {
    "_time": pa.timestamp("us", "UTC"),
    "_value": pa.float64(),
    **dict.fromkeys(("_field", "organization_id", "device_id", "interface"), pa.string()),
}
# Everything that may be deleted: InfluxDB's first and last instant.
ALWAYS = ("1677-09-21T00:12:43.145224194Z", "2262-04-11T23:47:16.854775806Z")
# What the server says of a request of which it wrote the rest, or of a line that it cannot read.
PARTIAL = re.compile(r"partial write|unable to parse")
DROPPED = re.compile(r"dropped[ =](\d+)")
BY_STATUS: dict[int, tuple[type[StoreError], str]] = {
    401: (StoreRefused, "Check INFLUXDB_TOKEN."),
    403: (StoreRefused, "Check the rights of INFLUXDB_TOKEN: it must read and write the three buckets."),
    404: (StoreFailed, "Check INFLUXDB_ORG and INFLUXDB_BUCKET; the buckets are made by: ninjait migrate up."),
    **dict.fromkeys((429, 500, 502, 503, 504), (StoreUnavailable, "See what runs with: ninjait status.")),
}
# What it says when more queries run and wait than it is set to take: of those that were refused each is worth a retry.
BUSY = "queue length exceeded"


class InfluxDB(MetricsStore):
    """The metrics in InfluxDB 2, through influxdb-client.

    with InfluxDB(url="http://127.0.0.1:8086", token="...", organization="ninjait", bucket="metrics").open() as store:
        store.write(points)
        windows = store.aggregate(Tier.RAW, hour, hour + timedelta(hours=1), every=timedelta(minutes=5))
    """

    title = "InfluxDB"

    url: str = Field(description="http(s)://host:port")
    token: str = Field(description="API token that may read, write and create buckets in the organization")
    organization: str = Field(description="Organization")
    bucket: str = Field(description="Bucket of full resolution; those of the lower tiers have _5m and _1h behind it")
    timeout_seconds: float = Field(default=60, description="Longest wait for an answer, seconds")
    connect_timeout_seconds: float = Field(default=5, description="Longest wait for a connection, seconds")
    most_wait_seconds: float = Field(default=30, description="Longest wait for a server that asks to wait, seconds")

    _client: InfluxDBClient | None = PrivateAttr(default=None)

    @property
    def client(self) -> InfluxDBClient:
        """The official client; it connects at the first request and keeps the connection."""
        if self._client is None:
            milliseconds = (self.connect_timeout_seconds * 1000, self.timeout_seconds * 1000)
            self._client = InfluxDBClient(self.url, self.token, timeout=milliseconds, org=self.organization)
        return self._client

    def _ping(self) -> tuple[str, int | None]:
        """Asks for the bucket, so that a token that is refused does not look well."""
        bucket = self._retried(lambda: self._find(self.bucket))
        if bucket is None:
            raise StoreFailed(self.title, self.url, f"there is no bucket {self.bucket}", BY_STATUS[404][1])
        return self.client.api_client.last_response.getheader("X-Influxdb-Version", ""), None

    def declare(self) -> None:
        """Creates the buckets that are missing; StoreFailed where the retention of one differs from the tier's."""
        for tier in Tier:
            name, kept = self.bucket_of(tier), RETENTION[tier] + MARGIN
            bucket = self._retried(partial(self._find, name)) or self._create(name, kept)
            seconds = [rule.every_seconds for rule in bucket.retention_rules if rule.type == "expire"]
            if seconds != [int(kept.total_seconds())]:
                found = str(timedelta(seconds=seconds[0])) if seconds and seconds[0] else "for ever"
                problem = f"the bucket {name} keeps points {found}, and should {kept}; it was not changed"
                advice = f"Set it: influx bucket update --id {bucket.id} --retention {int(kept.total_seconds())}s."
                raise StoreFailed(self.title, self.url, problem, advice)

    def bucket_of(self, tier: Tier) -> str:
        """The bucket's name: the tier's, `metrics` being replaced by the bucket's."""
        return self.bucket + tier.removeprefix(Tier.RAW)

    def write(self, points: pa.Table) -> list[Refusal]:
        ones = pa.chunked_array([pa.array([1.0] * len(points), pa.float64())])
        points = points.select(POINTS.names).cast(POINTS).append_column("samples", ones)
        return self._write(Tier.RAW, MEASUREMENT, points)

    def write_counters(self, counters: pa.Table) -> list[Refusal]:
        counters = counters.select(COUNTERS.names).cast(COUNTERS)
        tag = held(counters["interface"].combine_chunks())
        index = COUNTERS.get_field_index("interface")
        return self._write(Tier.RAW, COUNTER_MEASUREMENT, counters.set_column(index, "interface", tag))

    def write_aggregates(self, tier: Tier, windows: pa.Table) -> list[Refusal]:
        if tier is Tier.RAW:
            raise ValueError(f"{tier} is the tier of points, not of windows")
        return self._write(tier, MEASUREMENT, windows.select(WINDOWS.names).cast(WINDOWS))

    def read(self, start: datetime, stop: datetime, device_id: str | None = None) -> pa.Table:
        device = "|> filter(fn: (r) => r.device_id == device_id)" if device_id else ""
        # The field samples first: every point has it. Then one field at a time, so that one at a time is in memory.
        questions = [(device, {name: name}) for name in ("samples", *FIELDS)]
        found = self._wide(Tier.RAW, start, stop, timedelta(microseconds=1), questions, device_id=device_id)
        return found.select([name for name in found.column_names if name != "samples"]).cast(POINTS)

    def latest(self, start: datetime, stop: datetime) -> pa.Table:
        of = ["organization_id", "device_id"]
        query = f"{_from(['samples', *FIELDS])} |> last()"
        stream = partial(self._stream, query, self.bucket_of(Tier.RAW), start=start, stop=stop)
        rows = self._retried(lambda: pa.concat_tables([_ROWS, *stream()]))
        found = rows.filter(pc.equal(rows["_field"], "samples")).rename_columns({"_time": "time"}).select([*of, "time"])
        for name in FIELDS:
            values = rows.filter(pc.equal(rows["_field"], name)).rename_columns({"_value": name}).select([*of, name])
            found = found.join(values, of)
        return found.select(POINTS.names).sort_by([(name, "ascending") for name in of]).cast(POINTS)

    def aggregate(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        check_window(start, stop, every)
        # Each of these is one of the aggregates that InfluxDB computes while it reads its files (ReadWindowAggregate),
        # without giving the values to Flux: what stands between `range` and `aggregateWindow` must be filters only.
        questions = []
        for aggregate in AGGREGATES:
            function = "sum" if aggregate == "count" and tier is not Tier.RAW else aggregate
            window = f'|> aggregateWindow(every: every, fn: {function}, createEmpty: false, timeSrc: "_start")'
            names = {name if tier is Tier.RAW else f"{name}_{aggregate}": f"{name}_{aggregate}" for name in FIELDS}
            questions.append((window, names if aggregate != "sum" else {"samples": "samples"} | names))
        windows = filled(self._wide(tier, start, stop, every, questions))
        if tier is Tier.RAW:
            read = {"start": start - COUNTER_GAP, "stop": stop}
            counters = self._retried(lambda: increases(self._counters(**read), start, every))
            windows = added(windows, counters)
        return windows

    def delete(self, device_ids: Sequence[str]) -> None:
        """By one request a device and bucket: InfluxDB's predicates know no `or`. Verified by reading."""
        ids = [str(UUID(device)) for device in device_ids]  # nothing but a UUID gets into a predicate
        for device in ids:
            for tier in Tier:
                self._retried(partial(self._delete, device, self.bucket_of(tier)))

    def _delete(self, device_id: str, bucket: str) -> None:
        start, stop = ALWAYS
        self.client.delete_api().delete(start, stop, f'device_id="{device_id}"', bucket, self.organization)
        query = (
            "from(bucket: bucket) |> range(start: start, stop: stop) |> filter(fn: (r) => r.device_id == device_id) "
            '|> first() |> keep(columns: ["_time", "_value", "_field", "organization_id", "device_id"])'
        )
        first, last = datetime(1700, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
        if any(len(part) for part in self._stream(query, bucket, start=first, stop=last, device_id=device_id)):
            problem = f"the bucket {bucket} still has points of the device {device_id} after they were deleted"
            raise StoreUnavailable(self.title, self.url, problem, "Delete it again.")

    # --- buckets ---

    def _find(self, name: str) -> Bucket | None:
        try:
            found = self.client.buckets_api().find_buckets(name=name, org=self.organization).buckets
        except ApiException as error:
            # 404 is also the answer for an organization that is not there, and to a token that may not see it.
            if error.status == 404 and _words(error).startswith(f'bucket "{name}"'):
                return None
            raise
        return found[0] if found else None

    def _create(self, name: str, kept: timedelta) -> Bucket:
        rule = BucketRetentionRules(type="expire", every_seconds=int(kept.total_seconds()))
        api = self.client.buckets_api()
        try:
            return self._retried(lambda: api.create_bucket(bucket_name=name, retention_rules=[rule]))
        except StoreFailed:
            # Another drain has made it in this moment.
            if bucket := self._retried(lambda: self._find(name)):
                return bucket
            raise

    # --- writing ---

    def _write(self, tier: Tier, measurement: str, rows: pa.Table) -> list[Refusal]:
        """In order of series and time, by CONNECTIONS at once.

        Rows with one key stay in order and in one request: the last wins.
        """
        tags = [name for name in ("device_id", "interface", "organization_id") if name in rows.column_names]
        rows = rows.combine_chunks()
        order = pc.sort_indices(rows, [(name, "ascending") for name in (*tags, "time")])
        rows = rows.take(order).combine_chunks()
        bounds = _bounds(rows[tags[0]], LINES_AT_ONCE)

        def write(first: int, end: int) -> list[Refusal]:
            part, positions = rows.slice(first, end - first), order.slice(first, end - first)
            return self._write_part(self.bucket_of(tier), measurement, tags, part, positions)

        with ThreadPoolExecutor(CONNECTIONS, "influxdb") as connections:
            return [refusal for found in connections.map(write, bounds, bounds[1:]) for refusal in found]

    def _write_part(
        self, bucket: str, measurement: str, tags: Sequence[str], rows: pa.Table, positions: pa.Array
    ) -> list[Refusal]:
        """One request, as long as the server takes all of it; else which rows it refuses is found out."""

        def encoded(rows: pa.Table) -> pa.Array:
            columns = {name: rows[name].combine_chunks() for name in rows.column_names}
            time_ = columns.pop("time")
            return lines(measurement, {name: columns.pop(name) for name in tags}, columns, time_)

        text = whole(encoded(_merged(rows, [*tags, "time"])))
        if self._retried(lambda: self._send(bucket, text)) is None:
            return []
        times = pc.cast(rows["time"], pa.int64())
        found = [of.to_pylist() for of in (times, positions, encoded(rows))]
        return self._write_lines(bucket, list(zip(*found, strict=True)))

    def _write_lines(self, bucket: str, rows: list[tuple[int, int, str]]) -> list[Refusal]:
        """Writes lines of (time, position, line), and gives back those that the server will never take.

        It writes all but those, and says how many and why the first, but not which. They are found by halves: in order
        of time, as what it refuses lies together in time (points before its retention, a shard that has another type
        of field). Halves that it had written already are replaced by themselves.
        """
        words = self._retried(lambda: self._send(bucket, "".join(line for *_, line in rows).encode()))
        if words is None:
            return []
        dropped = DROPPED.search(words)
        if len(rows) == 1 or (dropped and int(dropped[1]) >= len(rows)):
            return [Refusal(position, words) for _, position, _ in rows]
        rows = sorted(rows, key=lambda row: row[0])
        middle = len(rows) // 2
        return self._write_lines(bucket, rows[:middle]) + self._write_lines(bucket, rows[middle:])

    def _send(self, bucket: str, body: bytes | memoryview) -> str | None:
        """One request; the server's words where it refuses some of the lines.

        A server that asks to wait is waited for: the drain slows down, and the queue keeps the messages.
        """
        packed, waited = igzip.compress(body, 1), 0.0
        while True:
            try:
                WriteService(self.client.api_client).post_write(
                    org=self.organization,
                    bucket=bucket,
                    body=packed,
                    content_encoding="gzip",
                    content_type="text/plain; charset=utf-8",
                    precision=WritePrecision.US,
                )
                return None
            except ApiException as error:
                words = _words(error)
                if error.status in (400, 422) and PARTIAL.search(words):
                    return words
                wait = _retry_after(error)
                if error.status not in (429, 503) or waited + wait > self.most_wait_seconds:
                    raise
            time.sleep(wait)
            waited += wait

    # --- reading ---

    def _wide(
        self,
        tier: Tier,
        start: datetime,
        stop: datetime,
        every: timedelta,
        questions: Sequence[tuple[str, Mapping[str, str]]],
        **parameters: Any,
    ) -> pa.Table:
        """A row a device and window: of each question (the end of a query, field -> column) its fields as columns.

        The first question has the field samples, which every row has: its rows are the result's. A key is one number,
        (device's place in the order of keys) * (number of windows) + window, so that no text is compared in a join.
        """
        width = every // timedelta(microseconds=1)
        number_of_windows = -((start - stop) // every)
        given = {"start": start, "stop": stop, "every": every, **parameters}
        devices = _Devices()

        def key(part: pa.Table) -> pa.ChunkedArray:
            since = pc.cast(pc.subtract(part["_time"], pa.scalar(start, TYPES["_time"])), pa.int64())
            return pc.add(pc.multiply(devices.places(part), number_of_windows), pc.divide(since, width))

        rows: pa.Array | None = None
        columns: dict[str, pa.Array] = {}
        for tail, names in questions:
            answer = partial(self._by_field, f"{_from(names)} {tail}", self.bucket_of(tier), names, key, **given)
            for name, values in self._retried(answer).items():
                if rows is None:
                    rows = values["key"].combine_chunks()
                    rows = rows.take(pc.sort_indices(rows))
                at = pc.index_in(rows, value_set=values["key"].combine_chunks())
                columns[names[name]] = values["value"].combine_chunks().take(at)
        assert rows is not None
        place = pc.divide(rows, number_of_windows)
        offset = pc.multiply(pc.subtract(rows, pc.multiply(place, number_of_windows)), width)
        time_ = pc.add(pa.scalar(start, TYPES["_time"]), pc.cast(offset, pa.duration("us")))
        table = pa.table({**devices.columns(place), "time": time_, **columns})
        return table.sort_by([(name, "ascending") for name in ("organization_id", "device_id", "time")])

    def _by_field(
        self, query: str, bucket: str, names: Iterable[str], key: Callable[[pa.Table], pa.ChunkedArray], **given: Any
    ) -> dict[str, pa.Table]:
        """Keys and values of each of the fields."""
        found: dict[str, list[pa.Table]] = {name: [_KEYED] for name in names}
        for part in self._stream(query, bucket, **given):
            keyed = pa.table({"key": key(part), "value": part["_value"]})
            for name, tables in found.items():
                tables.append(keyed.filter(pc.equal(part["_field"], name)))
        return {name: pa.concat_tables(tables) for name, tables in found.items()}

    def _counters(self, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        """All readings, those of a device together; each of the two counters in rows of its own."""
        query = f'{_from(["network_in", "network_out"], COUNTER_MEASUREMENT)} |> group(columns: ["device_id"])'
        parts = self._stream(query, self.bucket_of(Tier.RAW), ("interface",), start=start, stop=stop)
        for part in parts:
            columns = {
                "organization_id": part["organization_id"],
                "device_id": part["device_id"],
                "interface": text_of(part["interface"]),
                "time": part["_time"],
            }
            for name in ("network_in", "network_out"):
                is_it = pc.equal(part["_field"], name)
                columns[name] = pc.if_else(is_it, part["_value"], pa.scalar(None, pa.float64()))
            yield pa.table(list(columns.values()), schema=COUNTERS)

    def _stream(self, query: str, bucket: str, more: tuple[str, ...] = (), **parameters: Any) -> Iterator[pa.Table]:
        """The answer, in parts while it arrives: neither the text nor all rows are in memory at once.

        The client's own reader makes a Python object of every row: too slow for hundreds of thousands of them.
        """
        wanted = ["_time", "_value", "_field", "organization_id", "device_id", *more]
        given = {"bucket": bucket} | {name: value for name, value in parameters.items() if value is not None}
        strange: list[str] = []

        def not_a_row(row: Any) -> str:
            strange.append(row.text or f"{row.actual_columns} columns")
            return "skip"

        with self._errors():
            response = self.client.query_api().query_raw(query, dialect=DIALECT, params=given)
            try:
                response.auto_close = False  # it would close itself at its end, under the buffer that reads it
                text = io.BufferedReader(response, CSV_BLOCK_BYTES)
                head = text.peek(1)
                if not head:
                    # Without rows it says a newline. Cut off in its headers, an answer would look whole and empty.
                    raise urllib3.exceptions.ProtocolError("its answer ended before it began")
                if not head.strip():
                    return
                if not head.startswith(b",result,"):
                    strange.append(text.read(1000).decode(errors="replace"))
                else:
                    parts = arrow_csv.open_csv(
                        text,
                        arrow_csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
                        arrow_csv.ParseOptions(invalid_row_handler=not_a_row),
                        arrow_csv.ConvertOptions(
                            include_columns=wanted,
                            column_types={name: TYPES[name] for name in wanted},
                            strings_can_be_null=False,
                        ),
                    )
                    for part in parts:
                        yield pa.Table.from_batches([part])
            except pa.ArrowException as error:
                strange.append(str(error))
            finally:
                response.close()
        if strange:
            problem = f"its answer is not what was asked for: {' '.join(strange)[:500]}"
            raise StoreFailed(self.title, self.url, problem, "Read InfluxDB's words above.")

    # --- errors ---

    def _retried(self, call: Callable[[], T]) -> T:
        def once() -> T:
            with self._errors():
                return call()

        return retrying()(once)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            status = 503 if BUSY in _words(error) else error.status or 0
            kind, advice = BY_STATUS.get(status, (StoreFailed, "Read InfluxDB's words above."))
            raise kind(self.title, self.url, _words(error), advice) from error
        except InfluxDBError as error:
            # The client's own: it found no organization to make a bucket in, as the token may not see it.
            advice = (
                "Check INFLUXDB_ORG, and that INFLUXDB_TOKEN may create the buckets, or reads and writes all three."
            )
            raise StoreRefused(self.title, self.url, error, advice) from error
        except urllib3.exceptions.HTTPError as error:
            raise StoreUnavailable(self.title, self.url, error, "See what runs with: ninjait status.") from error


class _Devices:
    """Numbers the devices in the order in which they are met."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], int] = {}

    def places(self, rows: pa.Table) -> pa.Array:
        """The number of each row's device."""
        pairs = rows.select(["organization_id", "device_id"]).group_by(["organization_id", "device_id"])
        met = pairs.aggregate([]).to_pydict()
        for pair in zip(met["organization_id"], met["device_id"], strict=True):
            self._places.setdefault(pair, len(self._places))
        both = pc.binary_join_element_wise(rows["organization_id"], rows["device_id"], "/").combine_chunks()
        known = pa.array(["/".join(pair) for pair in self._places], pa.string())
        return pc.cast(pc.index_in(both, value_set=known), pa.int64())

    def columns(self, places: pa.Array) -> dict[str, pa.Array]:
        """The key columns of devices given by their numbers."""
        pairs = list(self._places)
        names = ("organization_id", "device_id")
        return {name: pa.array([pair[i] for pair in pairs], pa.string()).take(places) for i, name in enumerate(names)}


_ROWS = pa.schema([(name, TYPES[name]) for name in TYPES if name != "interface"]).empty_table()
_KEYED = pa.table({"key": pa.array([], pa.int64()), "value": pa.array([], pa.float64())})


def _bounds(series: pa.ChunkedArray, most: int) -> list[int]:
    """Where sorted rows are cut: after `most` of them, or a few more, so that no series lies on both sides."""
    bounds = [0]
    for end in pc.run_end_encode(series.combine_chunks()).run_ends.to_pylist():
        if end - bounds[-1] >= most or end == len(series):
            bounds.append(end)
    return bounds


def _merged(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Sorted rows, those with one key as one, each field with its last value: what the server would make of them.

    Other agents give a reading in three or four parts; together they are a third of the work for the server.
    """
    before, after = rows.slice(0, max(len(rows) - 1, 0)), rows.slice(1)
    same: Any = True
    for name in reversed(key):
        same = pc.and_(pc.equal(before[name], after[name]), same)
        if not pc.any(same).as_py():
            return rows
    fields = [name for name in rows.column_names if name not in key]
    return (
        rows.group_by(list(key), use_threads=False)
        .aggregate([(name, "last") for name in fields])
        .rename_columns([*key, *fields])
    )


def _from(fields: Iterable[str], measurement: str = MEASUREMENT) -> str:
    """The beginning of a query; the names are the code's own, all values are bound."""
    wanted = " or ".join(f'r._field == "{field}"' for field in fields)
    return (
        "from(bucket: bucket) |> range(start: start, stop: stop) "
        f'|> filter(fn: (r) => r._measurement == "{measurement}") |> filter(fn: (r) => {wanted})'
    )


def _words(error: ApiException) -> str:
    """The server's own words, or what else there is."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        return " ".join(str(msgspec.json.decode(body or "", type=dict[str, Any])["message"]).split())
    except (msgspec.DecodeError, KeyError):
        return f"{error.status} {body or error.reason}"


def _retry_after(error: ApiException) -> float:
    """How long the server asks to wait; a second where it says nothing that can be understood."""
    try:
        headers: Mapping[str, str] = error.headers or {}
        return max(0.1, urllib3.Retry().parse_retry_after(headers.get("Retry-After", "1")))
    except urllib3.exceptions.InvalidHeader:
        return 1.0
