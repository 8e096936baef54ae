"""Writing tables as line protocol, and finding out which rows the server refuses."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import urllib3
from influxdb_client.rest import ApiException
from isal import igzip

from ninjait_pipelines.resources.influxdb.errors import message_of
from ninjait_pipelines.resources.influxdb.line_protocol import as_buffer, lines, percent_encode
from ninjait_pipelines.resources.influxdb.server import Server
from ninjait_pipelines.resources.metrics_store import Refusal

# Measured with 5,000, 10,000 and 20,000 lines on one to three connections: this drained fastest, by a few per cent.
LINES_AT_ONCE = 10_000
CONNECTIONS = 2
# Tags whose text a third party chose; they are percent-encoded.
TEXT_TAGS = ("source", "interface", "disk", "volume")
WRITTEN_TAGS = ("device_id", *TEXT_TAGS, "organization_id")
# The server's messages about a request whose other lines it wrote, and about a line that it cannot read.
PARTIAL = re.compile(r"partial write|unable to parse")
DROPPED = re.compile(r"dropped[ =](\d+)")

# Sends lines to a bucket; returns the server's message if it refuses some of them.
Send = Callable[[bytes | memoryview], str | None]


def post(server: Server, bucket: str, body: bytes | memoryview, max_wait_seconds: float) -> str | None:
    """One request; returns the server's message if it refuses some of the lines.

    Waits if the server asks to: that slows the drain down, while the queue keeps the messages.
    """
    query = {"org": server.organization, "bucket": bucket, "precision": "us"}
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if server.compresses:
        headers["Content-Encoding"] = "gzip"
    payload, waited = igzip.compress(body, 1) if server.compresses else bytes(body), 0.0
    while True:
        try:
            server.request("POST", "/api/v2/write", query, payload, headers)
            return None
        except ApiException as error:
            message = message_of(error)
            if error.status in (400, 422) and PARTIAL.search(message):
                return message
            wait = _retry_after(error)
            if error.status not in (429, 503) or waited + wait > max_wait_seconds:
                raise
        time.sleep(wait)
        waited += wait


def _retry_after(error: ApiException) -> float:
    """How long the server asks to wait; a second if it does not tell, or not intelligibly."""
    try:
        headers: Mapping[str, str] = error.headers or {}
        return max(0.1, urllib3.Retry().parse_retry_after(headers.get("Retry-After", "1")))
    except urllib3.exceptions.InvalidHeader:
        return 1.0


def write(send: Send, measurement: str, rows: pa.Table) -> list[Refusal]:
    """Writes in order of series and time, over CONNECTIONS at once.

    Rows with the same key stay in order and in one request, because the last one wins.
    """
    tags = [name for name in WRITTEN_TAGS if name in rows.column_names]
    rows = rows.combine_chunks()
    order = pc.sort_indices(rows, [(name, "ascending") for name in (*tags, "time")])
    rows = rows.take(order).combine_chunks()
    bounds = _bounds(rows[tags[0]], LINES_AT_ONCE)

    def write_part(first: int, end: int) -> list[Refusal]:
        part, positions = rows.slice(first, end - first), order.slice(first, end - first)
        return _write_part(send, measurement, tags, part, positions)

    with ThreadPoolExecutor(CONNECTIONS, "influxdb") as connections:
        return [refusal for refusals in connections.map(write_part, bounds, bounds[1:]) for refusal in refusals]


def _write_part(
    send: Send, measurement: str, tags: Sequence[str], rows: pa.Table, positions: pa.Array
) -> list[Refusal]:
    """One request if the server accepts all of it; otherwise finds the rows that it refuses."""

    def encoded(rows: pa.Table) -> pa.Array:
        columns = {name: rows[name].combine_chunks() for name in rows.column_names}
        time_ = columns.pop("time")
        return lines(measurement, {name: columns.pop(name) for name in tags}, columns, time_)

    if send(as_buffer(encoded(_merged(rows, [*tags, "time"])))) is None:
        return []
    times = pc.cast(rows["time"], pa.int64())
    columns = [column.to_pylist() for column in (times, positions, encoded(rows))]
    return _write_lines(send, list(zip(*columns, strict=True)))


def _write_lines(send: Send, rows: list[tuple[int, int, str]]) -> list[Refusal]:
    """Writes (time, position, line), and returns the rows that the server will never accept.

    The server writes all others, and tells how many it refused and why the first one, but not which. They are found by
    bisection in order of time, because refused points are close in time (older than the retention, or in a shard where
    a field has another type). Writing a half again replaces it with itself.
    """
    message = send("".join(line for *_, line in rows).encode())
    if message is None:
        return []
    dropped = DROPPED.search(message)
    if len(rows) == 1 or (dropped and int(dropped[1]) >= len(rows)):
        return [Refusal(position, message) for _, position, _ in rows]
    rows = sorted(rows, key=lambda row: row[0])
    middle = len(rows) // 2
    return _write_lines(send, rows[:middle]) + _write_lines(send, rows[middle:])


def text_encoded(rows: pa.Table) -> pa.Table:
    """The rows with their third-party text percent-encoded."""
    for index, name in enumerate(rows.column_names):
        if name in TEXT_TAGS:
            rows = rows.set_column(index, name, percent_encode(rows[name].combine_chunks()))
    return rows


def _bounds(series: pa.ChunkedArray, limit: int) -> list[int]:
    """Where to cut sorted rows: after `limit` rows, or a few more, so that no series is cut."""
    bounds = [0]
    for end in pc.run_end_encode(series.combine_chunks()).run_ends.to_pylist():
        if end - bounds[-1] >= limit or end == len(series):
            bounds.append(end)
    return bounds


def _merged(rows: pa.Table, key: Sequence[str]) -> pa.Table:
    """Sorted rows, with those of the same key merged, each field with its last value, as the server would.

    Third-party agents send a reading in three or four parts; merged, they are a third of the work for the server.
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
