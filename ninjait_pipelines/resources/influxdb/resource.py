"""`MetricsStore` on InfluxDB 2: a bucket per tier, with its retention; written as line protocol, read by InfluxQL.

A point is the measurement `device_metrics` with the tags organization_id and device_id. At full resolution it has the
contract's fields and `samples`, which is always 1, so that its sum counts points whatever fields they have. The fields
of the lower tiers are those of WINDOWS. Counters are the measurement `interface_counters`, with the additional tags
`source` and `interface`; volumes are `volumes`, with `source`, `disk` and `volume`. All fields are floats.

Why InfluxQL and not Flux: before 2.10, Flux returns a series' points two or three times while older ones are still in
the server's cache (github.com/influxdata/influxdb/issues/26711). InfluxQL reads the same files by other code. Rows are
aggregated here: that takes less time than either language takes for five aggregates of each field.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from influxdb_client import InfluxDBClient
from pydantic import Field, PrivateAttr

from ninjait_pipelines.metrics.counters import Readings, increases
from ninjait_pipelines.metrics.coverage import MINUTES, minutes_of
from ninjait_pipelines.metrics.first_tier import by_devices, first_tier, whole_hours, widths_of
from ninjait_pipelines.metrics.model import (
    COUNTER_GAP,
    COUNTERS,
    FIELDS,
    HOUR,
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
from ninjait_pipelines.resources.influxdb import buckets, read
from ninjait_pipelines.resources.influxdb.errors import SEE_MESSAGE, TITLE, translate
from ninjait_pipelines.resources.influxdb.read import TAGS
from ninjait_pipelines.resources.influxdb.server import Server
from ninjait_pipelines.resources.influxdb.write import post, text_encoded, write
from ninjait_pipelines.resources.metrics_store import MetricsStore, Refusal
from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreUnavailable

MEASUREMENT = "device_metrics"
COUNTER_MEASUREMENT = "interface_counters"
VOLUME_MEASUREMENT = "volumes"
PROBE_MEASUREMENT = "write_probe"
# InfluxDB's first and last instant: deletes everything.
ALWAYS = ("1677-09-21T00:12:43.145224194Z", "2262-04-11T23:47:16.854775806Z")


class InfluxDB(MetricsStore):
    """The metrics in InfluxDB 2, through influxdb-client and urllib3.

    with InfluxDB(url="http://127.0.0.1:8086", token="...", organization="ninjait", bucket="metrics").open() as store:
        store.write(points)
        windows = store.aggregate(Tier.RAW, hour, hour + timedelta(hours=1), every=timedelta(minutes=5))
    """

    title = TITLE
    oldest = "2.7"

    url: str = Field(description="http(s)://host:port")
    token: str = Field(description="API token that may read, write and create buckets in the organization")
    organization: str = Field(description="Organization")
    bucket: str = Field(description="Bucket of full resolution; those of the lower tiers have the suffixes _5m and _1h")
    timeout_seconds: float = Field(default=40, description="Longest wait for an answer, seconds")
    connect_timeout_seconds: float = Field(default=5, description="Longest wait for a connection, seconds")
    max_wait_seconds: float = Field(default=30, description="Longest wait for a server that asks to wait, seconds")

    _client: Server | None = PrivateAttr(default=None)

    @property
    def server(self) -> Server:
        """The connection, made at first use."""
        if self._client is None:
            self._client = Server(
                self.url,
                self.token,
                self.organization,
                self.connect_timeout_seconds,
                self.timeout_seconds,
                self.ca_file,
            )
        return self._client

    @property
    def client(self) -> InfluxDBClient:
        """The official client."""
        return self.server.client

    def _translate(self, error: Exception) -> StoreError | None:
        return translate(self.url, error)

    def _ping(self) -> tuple[str, int | None]:
        """Also checks bucket and token, so that a token that is refused does not look healthy."""
        self.call(lambda: buckets.check(self.server, self.bucket))
        self.call(lambda: buckets.check_token(self.server))
        return self.server_version(), None

    def server_version(self) -> str:
        """The server's version; the buckets need not exist."""
        return self.call(lambda: self.client.version())

    def now(self) -> datetime:
        """To the second: the Date header of an answer."""
        headers = self.call(lambda: self.server.request("GET", "/ping").headers)
        try:
            return parsedate_to_datetime(headers["Date"])
        except (KeyError, ValueError) as error:
            problem = f"its answer has no readable Date: {headers.get('Date')!r}"
            raise StoreFailed(self.title, self.url, problem, "Does a proxy in front of it change headers?") from error

    def probe(self) -> None:
        """Writes one point per bucket, in a separate measurement; all probes of a day are the same point."""
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        line = f"{PROBE_MEASUREMENT} probes=1 {int(today.timestamp()) * 1_000_000}\n".encode()
        for tier in Tier:
            if message := self._send(tier, line):
                problem = f"the bucket {self.bucket_of(tier)} does not accept a point of today: {message}"
                raise StoreFailed(self.title, self.url, problem, SEE_MESSAGE)

    def declare(self) -> None:
        """Creates the buckets that are missing.

        Raises StoreFailed if a bucket's retention is not its tier's, or if InfluxQL would read other buckets.
        """
        self.call(lambda: buckets.check_token(self.server))
        for tier in Tier:
            kept = RETENTION[tier] + RETENTION_GRACE
            self.call(partial(buckets.declare, self.server, self.bucket_of(tier), kept))

    def check_declared(self) -> None:
        names = [self.bucket_of(tier) for tier in Tier]
        if missing := [name for name in names if not self.call(partial(buckets.find, self.server, name))]:
            problem = f"there is no bucket {', '.join(missing)}"
            raise StoreFailed(self.title, self.url, problem, "Create it: ninjait migrate up.")
        self.declare()  # creates nothing now: it compares

    def bucket_of(self, tier: Tier) -> str:
        """The tier's bucket: its name with `metrics` replaced by `bucket`."""
        return self.bucket + tier.removeprefix(Tier.RAW)

    # --- writing ---

    def write(self, points: pa.Table) -> list[Refusal]:
        ones = pa.chunked_array([pa.array([1.0] * len(points), pa.float64())])
        points = points.select(POINTS.names).cast(POINTS).append_column("samples", ones)
        return write(partial(self._send, Tier.RAW), MEASUREMENT, points)

    def write_counters(self, counters: pa.Table) -> list[Refusal]:
        rows = text_encoded(counters.select(COUNTERS.names).cast(COUNTERS))
        return write(partial(self._send, Tier.RAW), COUNTER_MEASUREMENT, rows)

    def write_volumes(self, volumes: pa.Table) -> list[Refusal]:
        rows = text_encoded(volumes.select(VOLUMES.names).cast(VOLUMES))
        return write(partial(self._send, Tier.RAW), VOLUME_MEASUREMENT, rows)

    def write_aggregates(self, tier: Tier, windows: pa.Table) -> list[Refusal]:
        if tier is Tier.RAW:
            raise ValueError(f"{tier} is the tier of points, not of windows")
        return write(partial(self._send, tier), MEASUREMENT, windows.select(WINDOWS.names).cast(WINDOWS))

    def _send(self, tier: Tier, body: bytes | memoryview) -> str | None:
        return self.call(lambda: post(self.server, self.bucket_of(tier), body, self.max_wait_seconds))

    # --- reading ---

    def read(self, start: datetime, stop: datetime, device_ids: list[str] | None = None) -> pa.Table:
        rows = self.call(lambda: self._rows(["samples", *FIELDS], start, stop, device_ids=device_ids or []))
        return _sorted(_ours(rows), [*TAGS, "time"])

    def latest(self, start: datetime, stop: datetime, device_ids: Sequence[str] = ()) -> pa.Table:
        # A single `last` returns the time of its value, several together do not.
        newest = self.call(lambda: self._rows(["samples"], start, stop, "last", device_ids))
        values = self.call(lambda: self._rows([*FIELDS], start, stop, "last", device_ids))
        readings = partial(self._readings, VOLUME_MEASUREMENT, VOLUMES, start, stop, "last", device_ids)
        volumes = self.call(lambda: list(readings()))
        rows = _sorted(newest.join(values.drop_columns("time"), [*TAGS]), TAGS)
        return with_disks(rows, pa.concat_tables([VOLUMES.empty_table(), *volumes]))

    def aggregate(self, tier: Tier, start: datetime, stop: datetime, every: timedelta) -> pa.Table:
        check_window(start, stop, every)

        def windows() -> pa.Table:
            if tier is Tier.RAW:
                parts = (part for (part,) in self.first_tiers(start, stop, [every]))
            else:
                read = map(_ours, self._tables(tier, WINDOWS.names[3:], start, stop))
                parts = (aggregate_windows(part, every) for part in read)
            return pa.concat_tables([WINDOWS.empty_table(), *parts])

        return merge_windows(self.call(windows))

    def first_tiers(self, start: datetime, stop: datetime, widths: Sequence[timedelta]) -> Iterator[list[pa.Table]]:
        for every in widths:
            check_window(start, stop, every)
        first, last = whole_hours(start, stop)
        streams = by_devices(
            map(_ours, self._tables(Tier.RAW, ["samples", *FIELDS], first, last)),
            self._counters(first - COUNTER_GAP, last),
            self._volumes(first, last),
        )
        for points, counters, volumes in streams:
            minutes = minutes_of(points.select(SAMPLE)) if len(points) else MINUTES.empty_table()
            windows = partial(self._first_tier, points, minutes, counters, volumes, start, stop)
            yield [windows(every) for every in widths]

    def _first_tier(
        self,
        points: pa.Table,
        minutes: pa.Table,
        counters: pa.Table,
        volumes: pa.Table,
        start: datetime,
        stop: datetime,
        every: timedelta,
    ) -> pa.Table:
        first, last = whole_hours(start, stop)
        width, of_disks = widths_of(every)
        of_points = aggregate_points(points, width) if len(points) else WINDOWS.empty_table()
        of_counters = increases([counters], first, width, self.interfaces_left_out)
        of_volumes, sent = disk_windows([volumes], of_disks), partial(self.read, first, last)
        return first_tier(Readings(of_points, minutes), of_counters, of_volumes, sent, start, stop, every)

    def _rows(
        self,
        names: Sequence[str],
        start: datetime,
        stop: datetime,
        function: str = "",
        device_ids: Sequence[str] = (),
    ) -> pa.Table:
        return read.point_rows(self.server, self.bucket, MEASUREMENT, names, start, stop, function, device_ids)

    def _tables(self, tier: Tier, names: Sequence[str], start: datetime, stop: datetime) -> Iterator[pa.Table]:
        return read.tables(self.server, self.bucket_of(tier), MEASUREMENT, names, start, stop)

    def _counters(self, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        """All readings of counters; those of a device are together."""
        return self._readings(COUNTER_MEASUREMENT, COUNTERS, start, stop)

    def _volumes(self, start: datetime, stop: datetime) -> Iterator[pa.Table]:
        """All readings of volumes; those of a device are together."""
        return self._readings(VOLUME_MEASUREMENT, VOLUMES, start, stop)

    def _readings(
        self,
        measurement: str,
        schema: pa.Schema,
        start: datetime,
        stop: datetime,
        function: str = "",
        device_ids: Sequence[str] = (),
    ) -> Iterator[pa.Table]:
        return read.readings(self.server, self.bucket, measurement, schema, start, stop, function, device_ids)

    def count_samples(self, tier: Tier, start: datetime, stop: datetime) -> dict[datetime, int]:
        check_window(start, stop, HOUR)
        # `samples` of a point is 1: its sum is formed by the server, which reads no other field for it.
        found = self.call(lambda: read.sums_by_hour(self.server, self.bucket_of(tier), MEASUREMENT, start, stop))
        if tier is Tier.RAW:
            for measurement, schema in ((COUNTER_MEASUREMENT, COUNTERS), (VOLUME_MEASUREMENT, VOLUMES)):
                instants = partial(read.instants_by_hour, self.server, self.bucket, measurement, schema, start, stop)
                found += self.call(instants)
        return dict(found)

    # --- deleting ---

    def delete(self, device_ids: Sequence[str]) -> None:
        """One request per device and bucket, because InfluxDB's predicates have no `or`. Verified by reading."""
        ids = [str(UUID(device)) for device in device_ids]  # only a UUID may get into a predicate
        for device in ids:
            for tier in Tier:
                self.call(partial(self._delete, device, self.bucket_of(tier)))

    def _delete(self, device_id: str, bucket: str) -> None:
        start, stop = ALWAYS
        self.client.delete_api().delete(start, stop, f'device_id="{device_id}"', bucket, self.organization)
        query = "SELECT count(*) FROM /.*/ WHERE device_id::tag = $device_id"
        if any(True for _ in read.series(self.server, query, bucket, device_id=device_id)):
            problem = f"the bucket {bucket} still has points of the device {device_id} after they were deleted"
            raise StoreUnavailable(self.title, self.url, problem, "Delete it again.")


def _ours(rows: pa.Table) -> pa.Table:
    """The rows without those of other programs, which have no `samples`."""
    return rows.filter(pc.is_valid(rows["samples"]))


def _sorted(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    return rows.select(POINTS.names).sort_by([(name, "ascending") for name in key]).cast(POINTS)
