"""Lines for InfluxDB say what its own client's points say."""

import struct

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from influxdb_client import Point

from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.resources.influxdb.line_protocol import held, lines


def bits(value: float) -> bytes:
    return struct.pack("d", value)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text("\\,= \t\n\r%\"'#", max_size=6)
NAMED_FLOATS = st.dictionaries(st.sampled_from(list(FIELDS)), st.floats(-1e308, 1e308), min_size=1)
ROWS = st.tuples(TEXTS, TEXTS, NAMED_FLOATS)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, max_size=5), st.integers(0, 2**60))
def test_lines_say_what_the_client_s_own_points_say(rows: list[tuple[str, str, dict[str, float]]], time: int) -> None:
    """Tags and time letter by letter; fields by their bits, for the client writes other digits of the same number.

    Every row has a field, as every accepted point has: pyarrow 26 leaves a row without any out of what it joins.
    """
    tags = {name: held(pa.array(column, pa.string())) for name, column in zip("ab", _columns(rows), strict=True)}
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
