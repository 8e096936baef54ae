"""The grammar of line protocol."""

import math
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from influxdb_client import Point

from ninjait_pipelines.ingest.decode.line_protocol import parts, value_of
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.ingest.decode.decoding import (
    MIB,
    NANOSECONDS,
    TIME,
    decoded,
    gauges,
    reasons,
    rejected_of,
)
from ninjait_pipelines_tests.ingest.samples import (
    ORG,
    line,
    message,
    telegraf,
)

BAD_LINES = [
    (f"mem used=0i {NANOSECONDS}", "host", "missing"),
    ("mem,host=lap-2 used=0i", "time", "no_time"),
    (line("mem", "used=0i", host="nobody"), "host", "unknown_host"),
    (line("mem", "used=0i", host="x" * 256), "host", "too_long"),
    (line("mem", "used=0i", host="a\x01b"), "host", "invalid_text"),
    (line("mem", "used=0i", seconds_ago=-301), "time", "in_the_future"),
    (f"mem,host=lap-2 used=0i {TIME}", "time", "too_old"),  # milliseconds for nanoseconds
    (line("mem", "used=-1i"), "memory", "negative"),
    (line("mem", "used=1e16"), "memory", "out_of_range"),
    (line("mem", "used=1e999"), "memory", "not_finite"),
    (line("mem", 'used="5"'), "memory", "number_as_text"),
    (line("mem", "used=true"), "memory", "boolean_as_number"),
    (line("cpu", "usage_idle=101.001", cpu="cpu-total"), "cpu", "above_100"),
    (line("cpu", "usage_idle=-1.001", cpu="cpu-total"), "cpu", "negative"),
    (line("disk", "used=-1i", path="/"), "used", "negative"),
    (line("disk", "free=1i", path="/" + "x" * 255), "volume", "too_long"),
    (line("disk", "free=1i", path="/", seconds_ago=7 * 86400 + 1), "time", "counter_too_old"),
    (line("disk", "free=1i", path="/", host="nobody"), "host", "unknown_host"),
    (line("system", "uptime=-1i"), "uptime", "negative"),
    (line("win_disk", "Free_Megabytes=-5,Percent_Free_Space=5", instance="C:"), "free", "negative"),
    (line("net", "bytes_recv=5i", interface="eth0", seconds_ago=7 * 86400 + 1), "time", "counter_too_old"),
    (line("net", "bytes_recv=-5i", interface="eth0"), "network_in", "negative"),
    (line("net", f"bytes_sent={2**64 + 4096}u", interface="eth0"), "network_out", "out_of_range"),
    (line("net", "bytes_sent=1i", interface="e" * 256), "interface", "too_long"),
    (line("net", "bytes_sent=1i", interface="e\x7f"), "interface", "invalid_text"),
    ("mem,host=lap-2 used= 5", None, "bad_line"),
    ("mem,host=lap-2,host=lap-2 used=5i 5", None, "bad_line"),
    ("mem,host= used=5i 5", None, "bad_line"),
    ("mem,host=lap-2", None, "bad_line"),
    ("mem,host=lap-2 used=0x10 5", None, "bad_line"),
    ("mem,host=lap-2 used=nan 5", None, "bad_line"),
    ("mem,host=lap-2 used=5i 5.5", None, "bad_line"),
    ("mem,host=lap-2 used=5i 5 5", None, "bad_line"),
    ('mem,host=lap-2 used=5i,note="open 5', None, "bad_line"),
    (",host=lap-2 used=5i 5", None, "bad_line"),
    ("mem,host=lap-2 used=٥i 5", None, "bad_line"),
]


@pytest.mark.parametrize(("bad", "field", "reason"), BAD_LINES, ids=[row[0][:50] for row in BAD_LINES])
def test_a_bad_line_costs_that_line_and_nothing_else(bad: str, field: str | None, reason: str) -> None:
    good = line("mem", f"used={MIB}i", seconds_ago=90)
    result = decoded(telegraf(good, bad, good.replace("90", "91")))
    assert reasons(result) == [(1, field, reason)]
    assert (result.points, result.points_accepted, result.rows, result.whole) == (3, 2, [0, 2], False)


# What Point cannot write so that anybody could read it: a name that ends in a backslash, and characters that it
# replaces by a backslash and a letter.
NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name[-1] != "\\" and not set(name) & set("\n\r\t"))
VALUES = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.text(max_size=8)
)


@examples(500)
@given(
    NAMES,
    st.dictionaries(NAMES, NAMES, max_size=3),
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
    st.integers(-(2**63), 2**63 - 1),
)
def test_what_influxdb_s_own_client_writes_is_read_to_the_last_bit(
    measurement: str, tags: dict[str, str], fields: dict[str, Any], time: int
) -> None:
    assume(not measurement.startswith(("#", "\ufeff")))
    point = Point(measurement).time(time)
    for name, tag in tags.items():
        point.tag(name, tag)
    for name, value in fields.items():
        point.field(name, value)
    assume("\\\\" not in "".join([measurement, *tags, *tags.values(), *fields]))
    [found] = LINE_PROTOCOL.entries(point.to_line_protocol())
    assert (*parts(found)[:2], parts(found)[3]) == (measurement, tags, time)
    read = {name: value_of(text) for name, text in parts(found)[2]}
    assert read == fields
    assert {name: type(value) for name, value in read.items()} == {name: type(value) for name, value in fields.items()}
    assert all(math.copysign(1, read[name]) == math.copysign(1, fields[name]) for name in read if read[name] == 0.0)


def test_a_bad_line_never_swallows_the_one_that_it_comes_to_stand_beside() -> None:
    """An open string beside the text that would close it: together they are a line of something that we leave out."""
    quoted = line("mem", 'used=1i,note="x"')
    body = telegraf('m,host=lap-2 note="a', quoted, 'b" 5', quoted, line("mem", "used=1i", host="nobody")).body
    lines = message("agent.metrics", body, routing_key=f"metrics.telegraf.{ORG}", content_type="text/plain")
    expected = ["bad_line", "bad_line", "unknown_host"]
    assert [reason for _, _, reason in reasons(decoded(lines))] == expected
    again = rejected_of(decoded(lines), lines.routing_key, lines.content_type, body)
    assert [reason for _, _, reason in reasons(decoded(telegraf(again.decode())))] == expected


def test_what_a_line_names_twice() -> None:
    """Of a field the last one counts, and the other is one that we do not take; a tag makes the line a bad one."""
    lines = [line("mem", f"used=1i,used={MIB}i,free=1i"), line("mem", f'used=1i,note="",used={MIB}i'), "m,a=b,a=c f=1"]
    result = decoded(telegraf(*lines))
    assert (gauges(result), result.unknown_fields) == ({"memory": [1.0, 1.0]}, 4)
    assert [(one.index, one.value, one.reason) for one in result.rejections] == [(2, "'m,a=b,a=c f=1'", "bad_line")]


def test_strings_may_hold_newlines() -> None:
    text = 'event,host=lap-2 text="first\nsecond \\"word\\"" 5\n' + line("mem", "used=1i")
    lines = LINE_PROTOCOL.entries(text)
    assert len(lines) == 2
    assert decoded(telegraf(text)).points_accepted == 1


@pytest.mark.parametrize(
    ("many", "of"),
    [
        (9000, 'm f="' + "x" * 90 + "\n"),  # each leaves a string open, and must not be searched to the end
        (9000, 'x",a=" c=",b="\n'),  # strings that end on the next line, whichever way they are read
        (190, 'm c="x\n' + 'y",b="\n' * 50),
        (9000, "m " + "a=1," * 25 + "\n"),
        (350_000, "m,"),
        (350_000, ",a="),
        (500_000, "\\,"),
        (500_000, '\\"'),
        (1_000_000, "1"),
        (1_000_000, " "),
    ],
)
@pytest.mark.parametrize("before", ["", "mem,host=lap-2 used=1.", 'mem,host=lap-2 note="'])
def test_a_megabyte_takes_no_longer_than_its_length(before: str, many: int, of: str) -> None:
    started = time.thread_time()
    decoded(telegraf(before + of * many, "m f=1 1"))
    assert time.thread_time() - started < 2
