"""What holds for whatever comes in: `fuzz.check` says it of one message, and here it is asked of very many.

Then what of it must not be lost on the way to the store: the strictness of the fast path, and the last bit of a value.
"""

import gzip
import itertools
import json
import random
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from influxdb_client import Point

from ninjait_pipelines.ingest.decode.contract import CONTRACTS
from ninjait_pipelines.ingest.decode.message import Decoded, decode_by_rules, decode_good_metrics
from ninjait_pipelines.ingest.decode.third_party import MEBIBYTE
from ninjait_pipelines.messages import CONTENT_NAMESPACE, Message, identity
from ninjait_pipelines.metrics.model import FIELDS, Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.influxdb.line_protocol import held, lines
from ninjait_pipelines_tests.ingest import fuzz
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.fuzz import KEYS, KINDS, PERIOD, check, mutated, seeds
from ninjait_pipelines_tests.ingest.samples import (
    ANYBODY,
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    SECOND_DEVICE,
    ago,
    as_published,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)

SEEDS = seeds()
# What senders could put anywhere: every kind of JSON value, and the ones that only Python's json writes.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(
        [10**400, -(10**30), "2026-01-01T00:00:00Z", ago(hours=1), ORG, DEVICE, 99.5, 100.00001, "\ud800"]
    )
    | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELD_NAMES = st.sampled_from(["timestamp", "cpu", "memory", "disk_used", "uptime", "extra"])
SAMPLES = st.builds(lambda changes: sample() | changes, st.dictionaries(FIELD_NAMES, VALUES, max_size=2)) | VALUES
ENVELOPE = st.sampled_from(
    ["schema", "organization_id", "device_id", "agent_version", "message_id", "samples", "extra"]
)
BODIES = st.builds(
    lambda samples, changes: json.dumps(metrics(*samples) | changes).encode(),
    st.lists(SAMPLES, max_size=4),
    st.dictionaries(ENVELOPE, VALUES, max_size=1),
)
QUEUES = st.sampled_from(list(CONTRACTS))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A body with some of its bytes replaced."""
    body = bytearray(draw(BODIES))
    for _ in range(draw(st.integers(0, 3))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    return bytes(body)


@settings(max_examples=200, deadline=None)
@given(
    QUEUES,
    st.sampled_from(KEYS) | st.text(max_size=20),
    st.sampled_from(KINDS) | st.text(max_size=20),
    st.binary(max_size=200) | st.binary(max_size=200).map(gzip.compress) | VALUES.map(json.dumps).map(str.encode),
)
def test_no_bytes_whatever_raise(queue: str, key: str, kind: str, body: bytes) -> None:
    result = check(message(queue, body, routing_key=key, content_type=kind, message_id=None))
    assert result.points_accepted == 0
    assert result.rejections or result.points == 0


@settings(max_examples=200, deadline=None)
@given(damaged())
def test_metrics_of_any_values_are_accounted_for_and_both_paths_agree(body: bytes) -> None:
    result = check(message("agent.metrics", body, routing_key=f"metrics.{ORG}", message_id=None))
    assert bool(result.rejections) == (result.points_rejected > 0 or result.whole)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(EVENTS)), st.data())
def test_an_event_of_any_values_is_a_row_or_refused(queue: str, data: st.DataObject) -> None:
    check(message(queue, EVENTS[queue] | {data.draw(st.sampled_from(list(EVENTS[queue]))): data.draw(VALUES)}))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**64))
def test_what_the_fuzzer_makes_of_good_messages_is_accounted_for(seed: int) -> None:
    rng = random.Random(seed)
    incoming = rng.choice(SEEDS)
    for _ in range(rng.randrange(3)):
        incoming = mutated(rng, incoming, rng.choice(SEEDS))
    check(incoming)


@pytest.mark.parametrize("incoming", SEEDS, ids=lambda one: f"{one.routing_key[:16]} {one.body[:2]!r} {len(one.body)}")
def test_what_the_fuzzer_starts_from_is_good(incoming: Message) -> None:
    """Else all of the above would hold of a decoder that takes nothing."""
    assert check(incoming).points_accepted > 0


# ---- nothing is skipped: the test knows what it put in, and where

# (a part of a message, its memory being its place there; what has to become of it)
Part = tuple[str, str]


def one_sample(place: int, fate: str) -> str:
    """A sample of ours."""
    if fate == "refused":
        return json.dumps([sample(cpu=-2), sample(cpu=102, memory=True), 7, {"timestamp": ago(minutes=1)}][place % 4])
    return json.dumps(sample(place + 1, memory=place))


def one_line(place: int, fate: str) -> str:
    """A line of Telegraf's."""
    other = {
        "counters": [line("net", f"bytes_recv={place}i", interface="eth0")],
        "refused": ["mem used", line("mem", "used=1i", host="nobody"), line("disk", "used=-1", path="/"), "mem,a a=b"],
        "nothing": [
            line("mem", "free=1i"),
            "# 7",
            "",
            line("system", 'load1=1,up="1 day"'),
            line("cpu", "usage_idle=1"),
            line("net", "bytes_recv=1i", interface="br0"),
            line("disk", "used=1i", path="/run", fstype="tmpfs"),
        ],
    }
    return other[fate][place % len(other[fate])] if fate in other else line("mem", f"used={place}i", place + 1)


def one_value_list(place: int, fate: str) -> str:
    """A value list of collectd's."""
    used = {"type_instance": "used"}
    other: dict[str, list[object]] = {
        "counters": [value_list("interface", "if_octets", place, 1, plugin_instance="eth0")],
        "refused": [7, value_list("memory", "memory", -1, **used), value_list("memory", "memory", 1, 2, **used), {}],
        "nothing": [value_list("load", "load", 1), value_list("memory", "memory", None, **used)],
    }
    other["refused"].append(value_list("interface", "if_octets", 1, 1, plugin_instance=None))
    good = value_list("memory", "memory", place, seconds_ago=place + 1, **used)
    return json.dumps(other[fate][place % len(other[fate])] if fate in other else good)


def put_together(kind: str, fates: list[str]) -> Message:
    """A message of parts of these fates, in this order."""
    if kind == "telegraf":
        return telegraf(*itertools.starmap(one_line, enumerate(fates)))
    if kind == "collectd":
        body = f"[{','.join(itertools.starmap(one_value_list, enumerate(fates)))}]"
        return message("agent.metrics", body.encode(), routing_key=f"metrics.collectd.{ORG}", message_id=None)
    body = json.dumps(metrics("HERE")).replace('"HERE"', ",".join(itertools.starmap(one_sample, enumerate(fates))))
    return message("agent.metrics", body.encode())


FATES = ["points", "points", "points", "counters", "refused", "nothing"]
ALL_PARTS = st.sampled_from(["ours", "telegraf", "collectd"]).flatmap(
    lambda kind: st.tuples(
        st.just(kind),
        st.lists(st.sampled_from(["points", "refused"] if kind == "ours" else FATES), max_size=30),
    )
)


@settings(max_examples=200, deadline=None)
@given(ALL_PARTS)
def test_of_every_part_becomes_what_was_meant(parts: tuple[str, list[str]]) -> None:
    kind, fates = parts[0], ["points", *parts[1]]  # a message in which nothing is good is refused whole
    meant = {fate: [place for place, one in enumerate(fates) if one == fate] for fate in FATES}
    result = check(put_together(kind, fates))
    assert sorted({one.index for one in result.rejections}) == meant["refused"]
    scale = 1 if kind == "ours" else MEBIBYTE
    assert [value * scale for value in result.columns.get("memory", ())] == meant["points"]
    assert [*result.counters.get("network_in", ())] == meant["counters"]
    assert result.points == len(fates) - len(meant["nothing"])


@pytest.mark.parametrize("kind", ["ours", "telegraf", "collectd"])
@pytest.mark.parametrize("fates", [["points"] * 8, ["points"] * 8 + ["refused"]], ids=["good", "mixed"])
def test_a_decoder_that_skips_a_point_is_found_out(
    kind: str, fates: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows nothing of the last point that it should have taken, on every path, and its own sums are right."""

    def skipping(real: Callable[..., Decoded | None]) -> Callable[..., Decoded | None]:
        def decode(*arguments: object) -> Decoded | None:
            result = real(*arguments)
            if result is None:
                return None
            columns = {name: values[:-1] for name, values in result.columns.items()}
            return msgspec.structs.replace(result, points=result.points - 1, columns=columns, rows=result.rows[:-1])

        return decode

    check(put_together(kind, fates))
    for name in ("decode", "decode_good_metrics", "decode_by_rules", "decode_good_lines", "decode_foreign"):
        monkeypatch.setattr(fuzz, name, skipping(getattr(fuzz, name)))
    monkeypatch.setattr(fuzz, "_check_values", lambda *_: None)
    with pytest.raises(AssertionError):
        check(put_together(kind, fates))
    monkeypatch.setattr(fuzz, "_check_count", lambda *_: None)
    check(put_together(kind, fates))  # nothing else would have seen it


# ---- the fast path is as strict as the rules


def one_value(name: str, text: str) -> Message:
    """A message with one sample that has this JSON text in one of its fields."""
    body = json.dumps(metrics(sample() | {name: "HERE"}))
    return message("agent.metrics", body.replace('"HERE"', text).encode())


BAD_NUMBERS = ["true", "false", '"1"', '""', "[]", "{}", "NaN", "Infinity", "-Infinity", "1e999", "-1.5", "-2", "01"]
BAD_NUMBERS += ["1.", ".5", "+1", "0x1", "1_0", "9" * 30, "9" * 5000, "1000000000000001", "1e15000", "nul", "1 2", ""]
BAD_TIMES = ["true", "null", "1.5", '"1767225600000"', '"yesterday"', '""', "[]", "1e12", "-1", "9" * 30, "0"]
BAD_TIMES += ['"2026-01-01T00:00:00"', '"2026-01-01"', '"2026-02-30T00:00:00Z"', '"2026-01-01T24:00:01Z"']
BAD_TIMES += [f'"{ago(days=-1)}"', f'"{ago(days=731)}"', str(PERIOD.newest + 1), str(PERIOD.oldest - 1)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *itertools.product(["cpu", "uptime"], BAD_NUMBERS),
        *(("cpu", text) for text in ("-1.0000000000000002", "101.00000000000001", "102")),
        *(("timestamp", text) for text in BAD_TIMES),
    ],
)
def test_the_fast_path_takes_nothing_that_the_rules_refuse(name: str, text: str) -> None:
    incoming = one_value(name, text)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    assert decode_by_rules(incoming, ANYBODY, PERIOD).rejections


@pytest.mark.parametrize(
    ("text", "taken"),
    [("-0.9999", 0.0), ("-1e-9", 0.0), ("-1", 0.0), ("100.00000000000001", 100.0), ("100.9", 100.0), ("101", 100.0)],
)
def test_a_percentage_beyond_its_bounds_is_left_to_the_rules_which_mend_it(text: str, taken: float) -> None:
    incoming = one_value("cpu", text)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    assert list(check(incoming).columns["cpu"]) == [taken]


GOOD_NUMBERS = ["0", "-0", "-0.0", "1", "99.99999999999999", "1e1", "1E+1", "5e-324", "1e-400", "100", "null"]
GOOD_TIMES = [str(PERIOD.newest), str(PERIOD.oldest), json.dumps(NOW.isoformat().replace("+00:00", "Z"))]
GOOD_TIMES += [json.dumps((NOW + timedelta(microseconds=1999)).astimezone(tz=None).isoformat())]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *itertools.product(["cpu", "uptime"], GOOD_NUMBERS),
        ("uptime", "1e15"),
        *(("timestamp", text) for text in GOOD_TIMES),
    ],
)
def test_what_is_good_takes_the_fast_path(name: str, text: str) -> None:
    incoming = one_value(name, text)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD)
    assert check(incoming).points_accepted == 1


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "ninjait.metrics.v2"},
        {"hostname": "pc-1"},
        {"device_id": DEVICE.upper()},
        {"agent_version": ""},
        {"samples": []},
        {"samples": [sample()] * 1001},
        {"samples": [sample(), {"timestamp": ago()}]},
    ],
)
def test_what_is_unusual_is_left_to_the_rules(change: dict[str, object]) -> None:
    incoming = message("agent.metrics", metrics(sample()) | change)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    check(incoming)


@pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\\ud800"', b'"\x01"', b'"\xf8"'])
def test_no_text_that_is_no_text_gets_in(text: bytes) -> None:
    """The fast path reads the bytes without decoding them first: UTF-8 is as strict in every string that it takes."""
    body = json.dumps(metrics(sample(), agent_version="HERE")).encode()
    incoming = message("agent.metrics", body.replace(b'"HERE"', text))
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    check(incoming)


# ---- to the last bit

AWKWARD = ["-0.0", "5e-324", "2.2250738585072011e-308", "0.30000000000000004", "1e15", "999999999999999.9", "1e-400"]
AWKWARD += ["999999999999999", "0.1000000000000000055511151231257827", "9007199254740991e-1", "1" + "0" * 15]
NUMBERS = (
    st.floats(0, 1e15).map(repr)
    | st.floats(0, 1).map(lambda value: f"{value:.25f}")
    | st.integers(0, 10**15).map(str)
    | st.sampled_from(AWKWARD)
)
PERCENTAGES = st.floats(0, 100).map(repr) | st.integers(0, 100).map(str) | st.sampled_from(["-0.0", "5e-324", "1e2"])
Reading = dict[str, str]  # field -> its number, as its sender writes it
READINGS = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, NUMBERS) | {"cpu": PERCENTAGES}).filter(bool)
SPAN = timedelta(hours=3)
MILLISECOND = timedelta(milliseconds=1)
_examples = itertools.count()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, SPAN // MILLISECOND - 1), READINGS, min_size=1, max_size=30), st.booleans())
@example({at: dict.fromkeys(FIELDS, text) | {"cpu": "1e-7"} for at, text in enumerate(AWKWARD)}, False)
@example({at * 997: dict.fromkeys(FIELDS, text) | {"cpu": "-0.0"} for at, text in enumerate(AWKWARD)}, True)
def test_what_is_published_reads_back_from_the_store_to_the_last_bit(
    fleet: Stores, readings: dict[int, Reading], broken: bool
) -> None:
    """All fields, in each format, through the drain: by the fast paths, and by the rules where every message has
    something broken in it. A device for each format."""
    began = NOW - timedelta(days=6) + next(_examples) * SPAN
    sent = {began + at * MILLISECOND: reading for at, reading in sorted(readings.items())}
    moments = [*sent]
    parts = [{moment: sent[moment] for moment in moments[start : start + 7]} for start in range(0, len(moments), 7)]
    messages = [*(our_message(part, broken) for part in parts), lines_of(sent, broken), value_lists_of(sent, broken)]
    fleet.message_queue.publish(map(as_published, messages))
    assert drained(fleet).messages == len(messages)
    for device, kept in ((DEVICE, dict.fromkeys(FIELDS, 1)), (OTHER_DEVICE, THEIRS), (SECOND_DEVICE, THEIRS)):
        expected = {
            moment: {name: bits(float(reading[name]) / unit) for name, unit in kept.items() if name in reading}
            for moment, reading in sent.items()
        }
        back = {
            row["time"]: {name: bits(row[name]) for name in FIELDS if row[name] is not None}
            for row in fleet.metrics_store.read(began, began + SPAN, [device]).to_pylist()
        }
        assert back == {moment: fields for moment, fields in expected.items() if fields}


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ([f"{2**53 - back}i" for back in (2, 1, 0)], 2),  # the last whole numbers that a float tells apart
        ([f"{2**53 + more}i" for more in (0, 1_000, 5_000)], 5_000),
        ([f"{2**63 - 1 - back}i" for back in (4_096, 2_048, 0)], 4_096),
        ([f"{2**64 - 1 - back}u" for back in (8_192, 4_096, 0)], 8_192),
        ([f"{2**64 - 1 - back}u" for back in (5_000_000, 1_000_000, 0)], 4_999_168),  # the steps are of 2,048 bytes
    ],
)
def test_the_largest_counters_increase(fleet: Stores, values: list[str], added: float) -> None:
    """Counters have 64 bits; what went beyond 2^53 was refused."""
    lines = [line("net", f"bytes_recv={one}", 602 - n, interface="eth0") for n, one in enumerate(values)]
    fleet.message_queue.publish(map(as_published, [telegraf(one, organization=ORG) for one in lines]))
    drained(fleet)
    start = NOW.replace(minute=0, second=0) - timedelta(hours=1)
    hours = fleet.metrics_store.aggregate(Tier.RAW, start, start + timedelta(hours=2), timedelta(hours=1))
    assert sum(value or 0 for value in hours["network_in_sum"].to_pylist()) == added


# What other agents know of our fields, and how much of their unit is one of ours.
THEIRS = {"cpu": 1, "memory": MEBIBYTE, "uptime": 1}
SERIES = {
    "cpu": ("cpu,cpu=cpu-total,host=lap-1 usage_active=", value_list("cpu", "percent", type_instance="active")),
    "memory": ("mem,host=lap-1 used=", value_list("memory", "memory", type_instance="used")),
    "uptime": ("system,host=lap-1 uptime=", value_list("uptime", "uptime")),
}


def our_message(part: dict[datetime, Reading], broken: bool) -> Message:
    """Times in each spelling; what is below a millisecond is cut off."""
    samples = ['{"timestamp": 7.5}'] * broken
    for number, (moment, reading) in enumerate(part.items()):
        late = moment + timedelta(microseconds=999)
        zone = timezone(timedelta(hours=5, minutes=30))
        spelling = [(moment - EPOCH) // MILLISECOND, late.isoformat(), late.astimezone(zone).isoformat()][number % 3]
        fields = "".join(f', "{name}": {text}' for name, text in reading.items())
        samples.append(f'{{"timestamp": {json.dumps(spelling)}{fields}}}')
    body = json.dumps(metrics("HERE")).replace('"HERE"', ", ".join(samples))
    return message("agent.metrics", body.encode(), message_id=None)


def lines_of(sent: dict[datetime, Reading], broken: bool) -> Message:
    """A line for each field: readings of one time are one point."""
    lines = ["oops"] * broken
    for moment, reading in sent.items():
        at = (moment - EPOCH) // MILLISECOND * 1_000_000 + 999_999
        lines += [f"{SERIES[name][0]}{text} {at}" for name, text in reading.items() if name in SERIES]
    return telegraf(*(lines or ["m f=1"]), organization=OTHER_ORG)


def value_lists_of(sent: dict[datetime, Reading], broken: bool) -> Message:
    """A value list for each field."""
    lists = ["7"] * broken
    for moment, reading in sent.items():
        for name, text in reading.items():
            if name in SERIES:
                fields = SERIES[name][1] | {"values": ["HERE"], "time": moment.timestamp()}
                lists.append(json.dumps(fields).replace('"HERE"', text))
    body = f"[{', '.join(lists) or '{}'}]".encode()
    return message("agent.metrics", body, routing_key=f"metrics.collectd.{ORG}", message_id=None)


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


@given(body=st.binary(max_size=40), repeated=st.integers(0, 1000), own=st.uuids())
@settings(max_examples=50, deadline=None)
def test_the_id_of_a_message_without_one_is_a_uuid5_of_its_content(body: bytes, repeated: int, own: uuid.UUID) -> None:
    body *= repeated
    assert identity("agent.metrics", body, None, "no id") == uuid.uuid5(
        CONTENT_NAMESPACE, "agent.metrics\0" + body.hex()
    )
    assert identity("agent.metrics", body, str(own)) == identity("agent.metrics", body, f"{{{own.hex}}}") == own
