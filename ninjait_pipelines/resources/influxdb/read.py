"""Reading by InfluxQL: answers are decoded as they arrive, and become tables of some hundred thousand rows.

Answers are JSON, which says where a series begins, whether more is to come, and what failed after some rows. (CSV says
none of it: an answer that the server broke off looks whole.) Their rows are numbers alone, so they become CSV by
replacing the brackets between them, and Arrow's compiled reader parses that.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from ninjait_pipelines.metrics.model import POINTS
from ninjait_pipelines.resources.influxdb.buckets import names_in_1_x
from ninjait_pipelines.resources.influxdb.errors import NOT_FOUND, SEE_MESSAGE, TITLE, errors
from ninjait_pipelines.resources.influxdb.line_protocol import percent_decode
from ninjait_pipelines.resources.influxdb.server import Server
from ninjait_pipelines.resources.influxdb.write import TEXT_TAGS
from ninjait_pipelines.resources.store import SEE_STATUS, StoreFailed, StoreUnavailable

# Bytes of an answer that are read at once
READ_BYTES = 1 << 20
TAGS = ("organization_id", "device_id")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Series(msgspec.Struct):
    """Rows of one series; a long series comes in several of these."""

    values: msgspec.Raw
    tags: dict[str, str] = {}

    def rows(self) -> list[list[float | None]]:
        """The time, in microseconds since 1970, and the selected fields."""
        # The server writes -0.0 as -0, which in JSON is an integer, and integers have no negative zero.
        return _ROWS.decode(bytes(self.values).replace(b"-0,", b"-0.0,").replace(b"-0]", b"-0.0]"))

    def lines(self) -> tuple[bytes, int]:
        """The rows as lines of CSV, and their number."""
        text = bytes(self.values)[2:-2].replace(b"],[", b"\n")
        return text, text.count(b"\n") + 1


class _Result(msgspec.Struct):
    """Every part of an answer except the last is `partial`."""

    series: list[_Series] = []
    partial: bool = False
    error: str | None = None


class _Answer(msgspec.Struct):
    """A line of an answer of `/query` (docs.influxdata.com/influxdb/v2/api-guide/influxdb-1x/query)."""

    results: list[_Result] = []
    error: str | None = None


_ANSWERS = msgspec.json.Decoder(_Answer)
_ROWS = msgspec.json.Decoder(list[list[float | None]])


def series(
    server: Server, query: str, bucket: str, **parameters: str
) -> Iterator[tuple[dict[str, str], list[list[float | None]]]]:
    """Tags and rows of each series, as the answer arrives; a long series comes in several parts."""
    return ((found.tags, found.rows()) for found in _series(server, query, bucket, parameters))


def _series(server: Server, query: str, bucket: str, parameters: Mapping[str, str]) -> Iterator[_Series]:
    arguments = names_in_1_x(bucket) | {"q": query, "epoch": "u", "chunked": "true"}
    arguments["params"] = msgspec.json.encode(parameters).decode()
    message, complete = "", False
    with errors(server.url):
        response: Any = server.request("POST", "/query", arguments, stream=True)
        try:
            response.auto_close = False  # at its end it would close itself, under the buffer that reads it
            for line in io.BufferedReader(response, READ_BYTES):
                if not line.endswith(b"\n"):
                    break
                answer = _ANSWERS.decode(line)
                message = answer.error or next((result.error for result in answer.results if result.error), "")
                if message:
                    break
                for result in answer.results:
                    yield from result.series
                    complete = not result.partial
        except msgspec.DecodeError as error:
            message = f"its answer cannot be decoded: {error}"
        finally:
            response.close()
    if message:
        raise StoreFailed(TITLE, server.url, message, NOT_FOUND if "not found" in message else SEE_MESSAGE)
    if not complete:
        raise StoreUnavailable(TITLE, server.url, "its answer was cut short", SEE_STATUS)


def tables(
    server: Server,
    bucket: str,
    measurement: str,
    names: Sequence[str],
    start: datetime,
    stop: datetime,
    function: str = "",
    device_ids: Sequence[str] = (),
    tags: Sequence[str] = TAGS,
) -> Iterator[pa.Table]:
    """Rows of [start, stop): tags (as dictionaries), time and fields; `function` is applied to each field.

    Tables of at least `server.rows_at_once` rows, as the answer arrives: a series is in one table, in order of time,
    and the series of a device are together.
    """
    # `::float` reads values of another type, which another program has written, as null.
    columns = ", ".join(f"{function}({name}::float)" if function else f"{name}::float" for name in names)
    where = f"time >= {_nanoseconds(start)} AND time < {_nanoseconds(stop)}"
    devices = {f"device_{number}": device for number, device in enumerate(device_ids)}
    where += f" AND ({' OR '.join(f'device_id::tag = ${name}' for name in devices)})" if devices else ""
    query = f"SELECT {columns} FROM {measurement} WHERE {where} GROUP BY {', '.join(tags)}"  # noqa: S608
    part = _Part(tags, names)
    for found in _series(server, query, bucket, devices):
        if len(part) >= server.rows_at_once and found.tags != part.keys[-1]:
            yield part.table(server)
            part = _Part(tags, names)
        part.add(found)
    if len(part):
        yield part.table(server)


class _Part:
    """Rows of an answer until they become a table, as the text that came and how many each key has."""

    def __init__(self, tags: Sequence[str], names: Sequence[str]) -> None:
        self.tags, self.names = tags, names
        self.keys: list[dict[str, str]] = []
        self._lines: list[bytes] = []
        self._counts: list[int] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, found: _Series) -> None:
        lines, count = found.lines()
        if not self.keys or found.tags != self.keys[-1]:
            self.keys.append(found.tags)
            self._counts.append(0)
        self._lines.append(lines)
        self._counts[-1] += count
        self._length += count

    def table(self, server: Server) -> pa.Table:
        """The rows as columns. Raises StoreFailed if they cannot be parsed, or if one is lost in parsing."""
        types = {"time": pa.int64(), **dict.fromkeys(self.names, pa.float64())}
        try:
            rows = csv.read_csv(
                pa.BufferReader(b"\n".join(self._lines)),
                csv.ReadOptions(use_threads=False, column_names=list(types)),
                csv.ParseOptions(quote_char=False),
                csv.ConvertOptions(column_types=types, null_values=["null"], check_utf8=False),
            )
        except pa.ArrowInvalid as error:
            raise StoreFailed(TITLE, server.url, f"its answer cannot be decoded: {error}", SEE_MESSAGE) from error
        if len(rows) != len(self):
            problem = f"{len(rows)} of the {len(self)} rows of its answer could be decoded"
            raise StoreFailed(TITLE, server.url, problem, SEE_MESSAGE)
        place = pa.array(np.repeat(np.arange(len(self.keys), dtype=np.int32), self._counts))
        texts = {tag: pa.array([key[tag] for key in self.keys], pa.string()) for tag in self.tags}
        columns = {tag: pa.DictionaryArray.from_arrays(place, text) for tag, text in texts.items()}
        columns["time"] = pc.cast(rows["time"], pa.timestamp("us", "UTC"))
        return pa.table(columns | {name: rows[name] for name in self.names})


def point_rows(
    server: Server,
    bucket: str,
    measurement: str,
    names: Sequence[str],
    start: datetime,
    stop: datetime,
    function: str = "",
    device_ids: Sequence[str] = (),
) -> pa.Table:
    """All rows of `tables` as one table, with the key as text."""
    key = [POINTS.field(name) for name in (*TAGS, "time")]
    schema = pa.schema([*key, *(pa.field(name, pa.float64()) for name in names)])
    parts = tables(server, bucket, measurement, names, start, stop, function, device_ids)
    return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)])


def readings(
    server: Server,
    bucket: str,
    measurement: str,
    schema: pa.Schema,
    start: datetime,
    stop: datetime,
    function: str = "",
    device_ids: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """All rows of a measurement whose tags include third-party text; those of a device are together.

    A tag that earlier versions did not write is read as empty.
    """
    text_tags = [name for name in schema.names if name in TEXT_TAGS]
    names = _fields(schema)
    for part in tables(server, bucket, measurement, names, start, stop, function, device_ids, (*TAGS, *text_tags)):
        for name in text_tags:
            text = percent_decode(pc.cast(part[name], pa.string()).combine_chunks())
            part = part.set_column(part.schema.get_field_index(name), name, text)
        yield part.select(schema.names).cast(schema)


def sums_by_hour(server: Server, bucket: str, measurement: str, start: datetime, stop: datetime) -> Counter[datetime]:
    """The sum of `samples` of all devices, for each hour that has any: a row per hour."""
    where = f"time >= {_nanoseconds(start)} AND time < {_nanoseconds(stop)}"
    query = f"SELECT sum(samples::float) FROM {measurement} WHERE {where} GROUP BY time(1h) fill(none)"  # noqa: S608
    rows = (row for _, part in series(server, query, bucket) for row in part)
    return Counter({EPOCH + timedelta(microseconds=at or 0): int(samples or 0) for at, samples in rows})


def instants_by_hour(
    server: Server, bucket: str, measurement: str, schema: pa.Schema, start: datetime, stop: datetime
) -> Counter[datetime]:
    """The instants at which each device has readings, whatever its interfaces or volumes, counted by hour."""
    found = Counter[datetime]()
    key = pa.schema([schema.field(name) for name in (*TAGS, "time")])
    for part in tables(server, bucket, measurement, _fields(schema), start, stop):
        instants = part.select(key.names).cast(key).group_by(key.names, use_threads=False).aggregate([])
        hours = pc.value_counts(pc.floor_temporal(instants["time"], unit="hour"))
        found.update({one["values"].as_py(): one["counts"].as_py() for one in hours})
    return found


def _fields(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_floating(field.type)]


def _nanoseconds(moment: datetime) -> int:
    """Since 1970: InfluxQL takes a bare number as nanoseconds."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1_000
