"""`MetricsStore` on InfluxDB 2: a bucket a tier, whose retention is the tier's; written by columns, read by InfluxQL.

A point is the measurement `device_metrics` with the tags organization_id and device_id; at full resolution it has the
fields of the contract and `samples`, which is 1, so that points are counted by one sum whatever fields they carry. The
fields of the lower tiers are those of WINDOWS. Readings of counters are the measurement `interface_counters`, with the
tags `source` and `interface` beside; those of volumes are `volumes`, with `source`, `disk` and `volume`. All fields are
float.

Why InfluxQL and not Flux: before 2.10, Flux gives a series' points twice or three times where older ones are still in
the server's cache (github.com/influxdata/influxdb/issues/26711). InfluxQL reads the same files by other code. Rows are
aggregated here: that takes less time than either language takes for five aggregates of each field.
"""

import io
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import urllib3
from influxdb_client import Bucket, BucketRetentionRules, InfluxDBClient, WritePrecision
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService
from isal import igzip
from pydantic import Field, PrivateAttr

from ninjait_pipelines.metrics.counters import Readings, increases
from ninjait_pipelines.metrics.coverage import MINUTES, minutes_of
from ninjait_pipelines.metrics.first_tier import first_tier, whole_hours, widths
from ninjait_pipelines.metrics.model import (
    COUNTER_GAP,
    COUNTERS,
    FIELDS,
    POINTS,
    RETENTION,
    RETENTION_GRACE,
    SAMPLE,
    VOLUMES,
    WINDOWS,
    Tier,
    check_window,
)
from ninjait_pipelines.metrics.volumes import disk_windows, with_disks
from ninjait_pipelines.metrics.windows import aggregate_points, aggregate_windows, merge_windows
from ninjait_pipelines.resources.influxdb.line_protocol import held, lines, text_of, whole
from ninjait_pipelines.resources.metrics_store import MetricsStore, Refusal
from ninjait_pipelines.resources.store import (
    OutOfSpace,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    retrying,
    tls_failure,
)

T = TypeVar("T")
MEASUREMENT = "device_metrics"
COUNTER_MEASUREMENT = "interface_counters"
VOLUME_MEASUREMENT = "volumes"
PROBE_MEASUREMENT = "write_probe"
# Of 5,000, 10,000 and 20,000 lines on one to three connections this was the fastest drain here, by a few per cent.
LINES_AT_ONCE = 10_000
CONNECTIONS = 2
# Rows of an answer that are lists before they become columns, and bytes of it that are read at once.
ROWS_AT_ONCE = 100_000
READ_BYTES = 1 << 20
TAGS = ("organization_id", "device_id")
# Of a text that somebody else chose, written as `held` does.
TEXT_TAGS = ("source", "interface", "disk", "volume")
WRITTEN_TAGS = ("device_id", *TEXT_TAGS, "organization_id")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Everything that may be deleted: InfluxDB's first and last instant.
ALWAYS = ("1677-09-21T00:12:43.145224194Z", "2262-04-11T23:47:16.854775806Z")
# What the server says of a request of which it wrote the rest, or of a line that it cannot read.
PARTIAL = re.compile(r"partial write|unable to parse")
DROPPED = re.compile(r"dropped[ =](\d+)")
BY_STATUS: dict[int, tuple[type[StoreError], str]] = {
    401: (StoreRefused, "Check INFLUXDB_TOKEN."),
    403: (StoreRefused, "Check the rights of INFLUXDB_TOKEN: it must read and write the three buckets."),
    404: (
        StoreFailed,
        "Check INFLUXDB_ORG and INFLUXDB_BUCKET, and that INFLUXDB_TOKEN is of that organization; the buckets are made "
        "by: ninjait migrate up.",
    ),
    **dict.fromkeys((429, 500, 502, 503, 504), (StoreUnavailable, "See what runs with: ninjait status.")),
}


class _Series(msgspec.Struct):
    """Rows of one series, a long one's in several of these."""

    values: msgspec.Raw
    tags: dict[str, str] = {}

    def rows(self) -> list[list[float | None]]:
        """The time, in microseconds since 1970, and the fields that were asked for."""
        # The server writes -0.0 as -0, which is an integer in JSON, and integers have no such number.
        return _ROWS.decode(bytes(self.values).replace(b"-0,", b"-0.0,").replace(b"-0]", b"-0.0]"))


class _Result(msgspec.Struct):
    """All but the last of an answer are `partial`."""

    series: list[_Series] = []
    partial: bool = False
    error: str | None = None


class _Answer(msgspec.Struct):
    """A line of what `/query` answers (docs.influxdata.com/influxdb/v2/api-guide/influxdb-1x/query)."""

    results: list[_Result] = []
    error: str | None = None


_ANSWERS = msgspec.json.Decoder(_Answer)
_ROWS = msgspec.json.Decoder(list[list[float | None]])


class InfluxDB(MetricsStore):
    """The metrics in InfluxDB 2, through influxdb-client.

    with InfluxDB(url="http://127.0.0.1:8086", token="...", organization="ninjait", bucket="metrics").open() as store:
        store.write(points)
        windows = store.aggregate(Tier.RAW, hour, hour + timedelta(hours=1), every=timedelta(minutes=5))
    """

    title = "InfluxDB"
    oldest = "2.7"

    url: str = Field(description="http(s)://host:port")
    token: str = Field(description="API token that may read, write and create buckets in the organization")
    organization: str = Field(description="Organization")
    bucket: str = Field(description="Bucket of full resolution; those of the lower tiers have _5m and _1h behind it")
    timeout_seconds: float = Field(default=40, description="Longest wait for an answer, seconds")
    connect_timeout_seconds: float = Field(default=5, description="Longest wait for a connection, seconds")
    max_wait_seconds: float = Field(default=30, description="Longest wait for a server that asks to wait, seconds")

    _client: InfluxDBClient | None = PrivateAttr(default=None)

    @property
    def client(self) -> InfluxDBClient:
        """The official client; it connects at the first request and keeps the connection."""
        if self._client is None:
            milliseconds = (self.connect_timeout_seconds * 1000, self.timeout_seconds * 1000)
            self._client = InfluxDBClient(
                self.url, self.token, timeout=milliseconds, org=self.organization, ssl_ca_cert=self.ca_file
            )
        return self._client

    def _ping(self) -> tuple[str, int | None]:
        """Asks for the bucket, so that a token that is refused does not look well."""
        bucket = self._retried(lambda: self._find(self.bucket))
        if bucket is None:
            raise StoreFailed(self.title, self.url, f"there is no bucket {self.bucket}", BY_STATUS[404][1])
        self._retried(self._check_token)
        self._retried(lambda: self._check_mapping(bucket))
        return self.client.api_client.last_response.getheader("X-Influxdb-Version", ""), None

    def server_version(self) -> str:
        """Of the server; the buckets need not be there."""
        return self._retried(self.client.version)

    def now(self) -> datetime:
        """To the second: the Date of an answer."""
        headers = self._retried(lambda: self.client.api_client.call_api("/ping", "GET"))[2]
        try:
            return parsedate_to_datetime(headers["Date"])
        except (KeyError, ValueError) as error:
            problem = f"its answer has no Date that can be read: {headers.get('Date')!r}"
            raise StoreFailed(self.title, self.url, problem, "Does a proxy before it change headers?") from error

    def probe(self) -> None:
        """One point a bucket, in a measurement of its own; all of a day are the same one."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        line = f"{PROBE_MEASUREMENT} probes=1 {_nanoseconds(today) // 1000}\n".encode()
        for tier in Tier:
            if words := self._retried(partial(self._send, self.bucket_of(tier), line)):
                problem = f"the bucket {self.bucket_of(tier)} does not take a point of today: {words}"
                raise StoreFailed(self.title, self.url, problem, "Read InfluxDB's words above.")

    def declare(self) -> None:
        """Creates the buckets that are missing.

        StoreFailed where the retention of one differs from the tier's, or where InfluxQL would read others than these.
        """
        self._retried(self._check_token)
        for tier in Tier:
            name, kept = self.bucket_of(tier), RETENTION[tier] + RETENTION_GRACE
            bucket = self._retried(partial(self._find, name)) or self._create(name, kept)
            self._retried(partial(self._check_mapping, bucket))
            seconds = [rule.every_seconds for rule in bucket.retention_rules if rule.type == "expire"]
            if seconds != [int(kept.total_seconds())]:
                found = str(timedelta(seconds=seconds[0])) if seconds and seconds[0] else "for ever"
                problem = f"the bucket {name} keeps points {found}, and should {kept}; it was not changed"
                advice = f"Set it: influx bucket update --id {bucket.id} --retention {int(kept.total_seconds())}s."
                raise StoreFailed(self.title, self.url, problem, advice)

    def check_declared(self) -> None:
        names = [self.bucket_of(tier) for tier in Tier]
        if missing := [name for name in names if not self._retried(partial(self._find, name))]:
            problem = f"there is no bucket {', '.join(missing)}"
            raise StoreFailed(self.title, self.url, problem, "Create it: ninjait migrate up.")
        self.declare()  # creates nothing now: it compares

    def bucket_of(self, tier: Tier) -> str:
        """The bucket's name: the tier's, `metrics` being replaced by the bucket's."""
        return self.bucket + tier.removeprefix(Tier.RAW)

    def write(self, points: pa.Table) -> list[Refusal]:
        ones = pa.chunked_array([pa.array([1.0] * len(points), pa.float64())])
        points = points.select(POINTS.names).cast(POINTS).append_column("samples", ones)
        return self._write(Tier.RAW, MEASUREMENT, points)

    def write_counters(self, counters: pa.Table) -> list[Refusal]:
        return self._write(Tier.RAW, COUNTER_MEASUREMENT, _held(counters.select(COUNTERS.names).cast(COUNTERS)))

    def write_volumes(self, volumes: pa.Table) -> list[Refusal]:
        return self._write(Tier.RAW, VOLUME_MEASUREMENT, _held(volumes.select(VOLUMES.names).cast(VOLUMES)))

    def write_aggregates(self, tier: Tier, windows: pa.Table) -> list[Refusal]:
        if tier is Tier.RAW:
            raise ValueError(f"{tier} is the tier of points, not of windows")
        return self._write(tier, MEASUREMENT, windows.select(WINDOWS.names).cast(WINDOWS))

    def read(self, start: datetime, stop: datetime, device_ids: list[str] | None = None) -> pa.Table:
        found = self._retried(lambda: self._rows(["samples", *FIELDS], start, stop, device_ids=device_ids))
        found = found.filter(pc.is_valid(found["samples"]))  # what somebody else has written has none
        return found.select(POINTS.names).sort_by([(name, "ascending") for name in (*TAGS, "time")]).cast(POINTS)

    def latest(self, start: datetime, stop: datetime) -> pa.Table:
        # One `last` alone gives its own time, several together give none.
        newest = self._retried(lambda: self._rows(["samples"], start, stop, "last"))
        values = self._retried(lambda: self._rows([*FIELDS], start, stop, "last"))
        found = newest.join(values.drop_columns("time"), [*TAGS])
        found = found.select(POINTS.names).sort_by([(name, "ascending") for name in TAGS]).cast(POINTS)
        volumes = self._retried(lambda: list(self._readings(VOLUME_MEASUREMENT, VOLUMES, start, stop, "last")))
        return with_disks(found, pa.concat_tables([VOLUMES.empty_table(), *volumes]))

    def aggregate(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        check_window(start, stop, every)
        if tier is Tier.RAW:
            first, last = whole_hours(start, stop)
            width, of_disks = widths(every)
            points = self._retried(lambda: self._points(first, last, width))
            left_out = self.interfaces_left_out
            counters = self._retried(
                lambda: increases(self._counters(first - COUNTER_GAP, last), first, width, left_out)
            )
            volumes = self._retried(lambda: disk_windows(self._volumes(first, last), of_disks))
            return first_tier(points, counters, volumes, partial(self.read, first, last), start, stop, every)

        def read() -> pa.Table:
            parts = map(_sampled, self._tables(tier, MEASUREMENT, WINDOWS.names[3:], start, stop))
            return pa.concat_tables([WINDOWS.empty_table(), *(aggregate_windows(part, every) for part in parts)])

        return merge_windows(self._retried(read))

    def _points(self, start: datetime, stop: datetime, every: timedelta) -> Readings:
        """The samples as windows, and their minutes; a part at a time."""
        windows, minutes = [WINDOWS.empty_table()], [MINUTES.empty_table()]
        for part in map(_sampled, self._tables(Tier.RAW, MEASUREMENT, ["samples", *FIELDS], start, stop)):
            windows.append(aggregate_points(part, every))
            minutes.append(minutes_of(part.select(SAMPLE)))
        return Readings(pa.concat_tables(windows), pa.concat_tables(minutes))

    def delete(self, device_ids: Sequence[str]) -> None:
        """By one request a device and bucket: InfluxDB's predicates know no `or`. Verified by reading."""
        ids = [str(UUID(device)) for device in device_ids]  # nothing but a UUID gets into a predicate
        for device in ids:
            for tier in Tier:
                self._retried(partial(self._delete, device, self.bucket_of(tier)))

    def _delete(self, device_id: str, bucket: str) -> None:
        start, stop = ALWAYS
        self.client.delete_api().delete(start, stop, f'device_id="{device_id}"', bucket, self.organization)
        query = "SELECT count(*) FROM /.*/ WHERE device_id::tag = $device_id"
        if any(True for _ in self._series(query, bucket, device_id=device_id)):
            problem = f"the bucket {bucket} still has points of the device {device_id} after they were deleted"
            raise StoreUnavailable(self.title, self.url, problem, "Delete it again.")

    # --- buckets ---

    def _check_token(self) -> None:
        """InfluxQL takes the organization from the token; an operator's has rights in others as well."""
        tokens = self._seen(self.client.authorizations_api().find_authorizations)
        of = next((token.org for token in tokens if token.token == self.token), None)
        problem = ""
        if of and of != self.organization:
            problem = f"INFLUXDB_TOKEN is of the organization {of}, and INFLUXDB_ORG is {self.organization}"
        elif not of and len(self._seen(self.client.organizations_api().find_organizations)) > 1:
            # from 2.9 on nobody is told a token, as the server has its hash only
            problem = "INFLUXDB_TOKEN has rights in several organizations, and the server does not say of which it is"
        if problem:
            raise StoreRefused(self.title, self.url, problem, f"Make a token in {self.organization}.")

    def _seen(self, find: Callable[[], list[T]]) -> list[T]:
        """What the token may see; a token of the buckets alone sees nothing else."""
        try:
            return find()
        except ApiException as error:
            if error.status not in (401, 403):
                raise
            return []

    def _check_mapping(self, bucket: Bucket) -> None:
        """InfluxQL finds a bucket by the names that it has in 1.x, which may lead to another one."""
        given = {"orgID": bucket.org_id} | _names_in_1_x(bucket.name)
        mappings: dict[str, Any] = self.client.api_client.call_api(
            "/api/v2/dbrps", "GET", query_params=[*given.items()], response_type="object", _return_http_data_only=True
        )
        for mapping in mappings["content"]:
            if mapping["bucketID"] != bucket.id:
                name, other = "/".join(mapping[part] for part in ("database", "retention_policy")), mapping["bucketID"]
                problem = f"{name} is mapped to the bucket {other}, not to {bucket.name}"
                advice = f"Delete that: influx v1 dbrp delete --id {mapping['id']}; or choose another INFLUXDB_BUCKET."
                raise StoreFailed(self.title, self.url, problem, advice)

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
        tags = [name for name in WRITTEN_TAGS if name in rows.column_names]
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
                if error.status not in (429, 503) or waited + wait > self.max_wait_seconds:
                    raise
            time.sleep(wait)
            waited += wait

    # --- reading ---

    def _rows(
        self,
        names: Sequence[str],
        start: datetime,
        stop: datetime,
        function: str = "",
        device_ids: list[str] | None = None,
    ) -> pa.Table:
        """All rows of full resolution, as one table with its keys as text."""
        key = [POINTS.field(name) for name in (*TAGS, "time")]
        schema = pa.schema([*key, *(pa.field(name, pa.float64()) for name in names)])
        parts = self._tables(Tier.RAW, MEASUREMENT, names, start, stop, function, device_ids)
        return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])

    def _counters(self, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        """All readings, those of a device together."""
        return self._readings(COUNTER_MEASUREMENT, COUNTERS, start, stop)

    def _volumes(self, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        """All readings, those of a device together."""
        return self._readings(VOLUME_MEASUREMENT, VOLUMES, start, stop)

    def _readings(
        self, measurement: str, schema: pa.Schema, start: datetime, stop: datetime, function: str = ""
    ) -> Iterator[pa.Table]:
        """All rows of a measurement that has text as tags, those of a device together."""
        of_text = [name for name in schema.names if name in TEXT_TAGS]
        names = [field.name for field in schema if pa.types.is_floating(field.type)]
        for part in self._tables(Tier.RAW, measurement, names, start, stop, function, tags=(*TAGS, *of_text)):
            for name in of_text:
                text = text_of(pc.cast(part[name], pa.string()).combine_chunks())
                part = part.set_column(part.schema.get_field_index(name), name, text)
            yield part.select(schema.names).cast(schema)

    def _tables(
        self,
        tier: Tier,
        measurement: str,
        names: Sequence[str],
        start: datetime,
        stop: datetime,
        function: str = "",
        device_ids: list[str] | None = None,
        tags: Sequence[str] = TAGS,
    ) -> Iterator[pa.Table]:
        """Rows of [start, stop): tags (as dictionaries), time and fields; `function` of each field, where one is given.

        In tables of at least ROWS_AT_ONCE, as the answer arrives: those of a series are in one table, in order of time,
        and those of a device together.
        """
        # A value that is no number, which somebody else has written, is none.
        columns = ", ".join(f"{function}({name}::float)" if function else f"{name}::float" for name in names)
        where = f"time >= {_nanoseconds(start)} AND time < {_nanoseconds(stop)}"
        given = {f"device_{number}": device for number, device in enumerate(device_ids or [])}
        where += f" AND ({' OR '.join(f'device_id::tag = ${name}' for name in given)})" if given else ""
        query = f"SELECT {columns} FROM {measurement} WHERE {where} GROUP BY {', '.join(tags)}"  # noqa: S608
        keys: list[dict[str, str]] = []
        places: list[int] = []
        rows: list[list[float | None]] = []
        for of_series, more in self._series(query, self.bucket_of(tier), **given):
            if not keys or of_series != keys[-1]:
                if len(rows) >= ROWS_AT_ONCE:
                    yield _table(keys, places, rows, tags, names)
                    keys, places, rows = [], [], []
                keys.append(of_series)
            places += [len(keys) - 1] * len(more)
            rows += more
        if rows:
            yield _table(keys, places, rows, tags, names)

    def _series(
        self, query: str, bucket: str, **parameters: str
    ) -> Iterator[tuple[dict[str, str], list[list[float | None]]]]:
        """Tags and rows of each series, while the answer arrives; a long one comes in several parts.

        The client has no call for InfluxQL; its connection and its errors are used.
        """
        given = _names_in_1_x(bucket) | {"q": query, "epoch": "u", "chunked": "true"}
        given["params"] = msgspec.json.encode(parameters).decode()
        with self._errors():
            response = self.client.api_client.call_api(
                "/query",
                "POST",
                query_params=[*given.items()],
                _preload_content=False,
                _return_http_data_only=True,
            )
            words, complete = "", False
            try:
                response.auto_close = False  # it would close itself at its end, under the buffer that reads it
                for line in io.BufferedReader(response, READ_BYTES):
                    if not line.endswith(b"\n"):
                        break
                    answer = _ANSWERS.decode(line)
                    words = answer.error or next((found.error for found in answer.results if found.error), "")
                    if words:
                        break
                    for result in answer.results:
                        yield from ((series.tags, series.rows()) for series in result.series)
                        complete = not result.partial
            except msgspec.DecodeError as error:
                words = f"its answer is not what was asked for: {error}"
            finally:
                response.close()
        if words:
            advice = BY_STATUS[404][1] if "not found" in words else "Read InfluxDB's words above."
            raise StoreFailed(self.title, self.url, words, advice)
        if not complete:
            problem = "its answer ended before it was whole"
            raise StoreUnavailable(self.title, self.url, problem, "See what runs with: ninjait status.")

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
            if failed := tls_failure(self.title, self.url, error, "INFLUXDB_URL", "INFLUXDB_CA_FILE"):
                raise failed from error
            words = _words(error)
            if (error.status or 0) >= 500 and is_out_of_space(words):  # below, they quote what was sent
                raise OutOfSpace(self.title, self.url, words) from error
            kind, advice = BY_STATUS.get(error.status or 0, (StoreFailed, "Read InfluxDB's words above."))
            raise kind(self.title, self.url, words, advice) from error
        except InfluxDBError as error:
            # The client's own: it found no organization to make a bucket in, as the token may not see it.
            advice = (
                "Check INFLUXDB_ORG, and that INFLUXDB_TOKEN may create the buckets, or reads and writes all three."
            )
            raise StoreRefused(self.title, self.url, error, advice) from error
        except urllib3.exceptions.HTTPError as error:
            if failed := tls_failure(self.title, self.url, error, "INFLUXDB_URL", "INFLUXDB_CA_FILE"):
                raise failed from error
            raise StoreUnavailable(self.title, self.url, error, "See what runs with: ninjait status.") from error


def _sampled(rows: pa.Table) -> pa.Table:
    """The rows without what somebody else has written: that has no samples."""
    return rows.filter(pc.is_valid(rows["samples"]))


def _held(rows: pa.Table) -> pa.Table:
    """The rows with their text as tags can hold it. A tag that earlier versions did not write is read as empty."""
    for index, name in enumerate(rows.column_names):
        if name in TEXT_TAGS:
            rows = rows.set_column(index, name, held(rows[name].combine_chunks()))
    return rows


def _table(
    keys: Sequence[dict[str, str]],
    places: Sequence[int],
    rows: Sequence[Sequence[float | None]],
    tags: Sequence[str],
    names: Sequence[str],
) -> pa.Table:
    """Rows as columns; `places` says of each row which of the keys it has."""
    place = pa.array(places, pa.int32())
    columns = {tag: pa.DictionaryArray.from_arrays(place, pa.array([key[tag] for key in keys])) for tag in tags}
    time_, *values = zip(*rows, strict=True)
    columns["time"] = pc.cast(pc.cast(pa.array(time_, pa.float64()), pa.int64()), pa.timestamp("us", "UTC"))
    return pa.table(columns | {name: pa.array(of, pa.float64()) for name, of in zip(names, values, strict=True)})


def _names_in_1_x(bucket: str) -> dict[str, str]:
    """What InfluxQL calls a bucket (docs.influxdata.com/influxdb/v2/reference/api/influxdb-1x/dbrp)."""
    database, _, policy = bucket.partition("/")
    return {"db": database, "rp": policy or "autogen"}


def _nanoseconds(moment: datetime) -> int:
    """Since 1970, as InfluxQL takes a bare number."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1_000


def _bounds(series: pa.ChunkedArray, limit: int) -> list[int]:
    """Where sorted rows are cut: after `most` of them, or a few more, so that no series lies on both sides."""
    bounds = [0]
    for end in pc.run_end_encode(series.combine_chunks()).run_ends.to_pylist():
        if end - bounds[-1] >= limit or end == len(series):
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
