"""Reading by InfluxQL: answers are decoded as they arrive, and become tables of some hundred thousand rows."""

import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from ninjait_pipelines.metrics.model import POINTS
from ninjait_pipelines.resources.influxdb.buckets import names_in_1_x
from ninjait_pipelines.resources.influxdb.errors import NOT_FOUND, SEE_MESSAGE, TITLE, errors
from ninjait_pipelines.resources.influxdb.line_protocol import percent_decode
from ninjait_pipelines.resources.influxdb.server import Server
from ninjait_pipelines.resources.influxdb.write import TEXT_TAGS
from ninjait_pipelines.resources.store import SEE_STATUS, StoreFailed, StoreUnavailable

# Rows of an answer that are kept as lists before they become columns, and bytes of it that are read at once.
ROWS_AT_ONCE = 100_000
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
                    yield from ((found.tags, found.rows()) for found in result.series)
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

    Tables of at least ROWS_AT_ONCE rows, as the answer arrives: a series is in one table, in order of time, and the
    series of a device are together.
    """
    # `::float` reads values of another type, which another program has written, as null.
    columns = ", ".join(f"{function}({name}::float)" if function else f"{name}::float" for name in names)
    where = f"time >= {_nanoseconds(start)} AND time < {_nanoseconds(stop)}"
    devices = {f"device_{number}": device for number, device in enumerate(device_ids)}
    where += f" AND ({' OR '.join(f'device_id::tag = ${name}' for name in devices)})" if devices else ""
    query = f"SELECT {columns} FROM {measurement} WHERE {where} GROUP BY {', '.join(tags)}"  # noqa: S608
    keys: list[dict[str, str]] = []
    places: list[int] = []
    rows: list[list[float | None]] = []
    for key, more in series(server, query, bucket, **devices):
        if not keys or key != keys[-1]:
            if len(rows) >= ROWS_AT_ONCE:
                yield _table(keys, places, rows, tags, names)
                keys, places, rows = [], [], []
            keys.append(key)
        places += [len(keys) - 1] * len(more)
        rows += more
    if rows:
        yield _table(keys, places, rows, tags, names)


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
) -> Iterator[pa.Table]:
    """All rows of a measurement whose tags include third-party text; those of a device are together.

    A tag that earlier versions did not write is read as empty.
    """
    text_tags = [name for name in schema.names if name in TEXT_TAGS]
    fields = [field.name for field in schema if pa.types.is_floating(field.type)]
    for part in tables(server, bucket, measurement, fields, start, stop, function, tags=(*TAGS, *text_tags)):
        for name in text_tags:
            text = percent_decode(pc.cast(part[name], pa.string()).combine_chunks())
            part = part.set_column(part.schema.get_field_index(name), name, text)
        yield part.select(schema.names).cast(schema)


def _table(
    keys: Sequence[dict[str, str]],
    places: Sequence[int],
    rows: Sequence[Sequence[float | None]],
    tags: Sequence[str],
    names: Sequence[str],
) -> pa.Table:
    """Rows as columns; `places` are the rows' indices into `keys`."""
    place = pa.array(places, pa.int32())
    columns = {tag: pa.DictionaryArray.from_arrays(place, pa.array([key[tag] for key in keys])) for tag in tags}
    time_, *values = zip(*rows, strict=True)
    columns["time"] = pc.cast(pc.cast(pa.array(time_, pa.float64()), pa.int64()), pa.timestamp("us", "UTC"))
    fields = {name: pa.array(column, pa.float64()) for name, column in zip(names, values, strict=True)}
    return pa.table(columns | fields)


def _nanoseconds(moment: datetime) -> int:
    """Since 1970: InfluxQL takes a bare number as nanoseconds."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1_000
