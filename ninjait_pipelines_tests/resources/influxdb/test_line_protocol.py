"""Lines for InfluxDB say what its own client's points say."""

import struct
from datetime import UTC, datetime

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client import Point

from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.resources.influxdb.line_protocol import lines, percent_decode, percent_encode
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.resources.influxdb.helpers import NASTY


def bits(value: float) -> bytes:
    return struct.pack("d", value)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text("\\,= \t\n\r%\"'#", max_size=6)
NAMED_FLOATS = st.dictionaries(st.sampled_from(list(FIELDS)), st.floats(-1e308, 1e308), min_size=1)
ROWS = st.tuples(TEXTS, TEXTS, NAMED_FLOATS)


@examples(150)
@given(st.lists(ROWS, max_size=5), st.integers(0, 2**60))
def test_lines_say_what_the_client_s_own_points_say(rows: list[tuple[str, str, dict[str, float]]], time: int) -> None:
    """Tags and time letter by letter; fields by their bits, for the client writes other digits of the same number.

    Every row has a field, as every accepted point has: pyarrow 26 leaves a row without any out of what it joins.
    """
    tags = {
        name: percent_encode(pa.array(column, pa.string())) for name, column in zip("ab", _columns(rows), strict=True)
    }
    fields = {name: pa.array([values.get(name) for *_, values in rows], pa.float64()) for name in FIELDS}
    moments = pa.array([time] * len(rows), pa.int64()).cast(pa.timestamp("us", "UTC"))
    written = lines("m", tags, fields, moments).to_pylist()
    assert len(written) == len(rows)
    for row, text in enumerate(written):
        point = Point("m").time(time, "us")
        for name, column in tags.items():
            point.tag(name, column[row].as_py())
        for name, value in rows[row][2].items():
            point.field(name, value)
        theirs = point.to_line_protocol()
        head, numbers, stamp = text.rsplit(" ", 2)
        head_, numbers_, stamp_ = theirs.rsplit(" ", 2)
        # The point writes a tab as \t, which InfluxDB reads back as these two characters.
        assert (head, stamp) == (head_.replace("\\t", "\t"), f"{stamp_}\n")
        assert read_fields(numbers) == read_fields(numbers_)


def _columns(rows: list[tuple[str, str, dict[str, float]]]) -> tuple[list[str], list[str]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def read_fields(text: str) -> dict[str, bytes]:
    return {name: bits(float(value)) for name, value in (field.split("=") for field in text.split(","))}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(texts | st.sampled_from(NASTY)))
def test_any_text_is_held_as_a_tag_and_comes_back(values: list[str]) -> None:
    tags = percent_encode(pa.array(values, pa.string()))
    assert percent_decode(tags).to_pylist() == values
    assert not any(tag == "" or tag.endswith("\\") or set(tag) & {"\n", "\r"} for tag in tags.to_pylist())


@given(tag=texts.filter(bool), values=st.dictionaries(st.sampled_from(list(FIELDS)), floats, min_size=1))
def test_a_line_says_what_the_clients_own_point_says(tag: str, values: dict[str, float]) -> None:
    [tag] = percent_encode(pa.array([tag])).to_pylist()
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    time_ = pa.array([moment], pa.timestamp("us", "UTC"))
    fields = {name: pa.array([values.get(name)], pa.float64()) for name in FIELDS}
    [line] = lines("m", {"b": pa.array([tag]), "a": pa.array(["x"])}, fields, time_).to_pylist()
    point = Point("m").tag("a", "x").tag("b", tag).time(moment, "us")
    for name, value in values.items():
        point.field(name, value)
    head, numbers, stamp = line.removesuffix("\n").rsplit(" ", 2)
    head_, numbers_, stamp_ = point.to_line_protocol().rsplit(" ", 2)
    # The point writes a tab as \\t, which InfluxDB reads back as these two characters.
    assert (head, stamp) == (head_.replace("\\t", "\t"), stamp_)
    bits = [
        {n: struct.pack("d", float(v)) for n, v in (f.split("=") for f in text.split(","))}
        for text in (numbers, numbers_)
    ]
    assert bits[0] == bits[1]
