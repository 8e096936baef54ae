"""What holds for every message, whatever it is: `fuzz.check` asserts it for one, and here it runs on very many."""

import gzip
import itertools
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines.ingest.decode.third_party import MEBIBYTE
from ninjait_pipelines.messages import Message
from ninjait_pipelines.streams import CONTRACTS
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.ingest.decode.decoding import LINE_TEXTS, decoded, rejected_of
from ninjait_pipelines_tests.ingest.decode.fuzz import KEYS, KINDS, OURS, Decoders, check, mutated, seeds
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    ORG,
    ago,
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


@examples(200)
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


@examples(200)
@given(damaged())
def test_metrics_of_any_values_are_accounted_for_and_both_paths_agree(body: bytes) -> None:
    result = check(message("agent.metrics", body, routing_key=f"metrics.{ORG}", message_id=None))
    assert bool(result.rejections) == (result.points_rejected > 0 or result.whole)


@examples(150)
@given(st.sampled_from(list(EVENTS)), st.data())
def test_an_event_of_any_values_is_a_row_or_refused(queue: str, data: st.DataObject) -> None:
    check(message(queue, EVENTS[queue] | {data.draw(st.sampled_from(list(EVENTS[queue]))): data.draw(VALUES)}))


@examples(300)
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


@examples(200)
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
def test_a_decoder_that_skips_a_point_is_found_out(kind: str, fates: list[str]) -> None:
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
    broken = Decoders(*map(skipping, OURS))
    with pytest.raises(AssertionError):
        check(put_together(kind, fates), broken, values=False)
    check(put_together(kind, fates), broken, values=False, count=False)  # nothing else would have seen it


def test_the_same_content_is_the_same_message() -> None:
    one, same = telegraf(line("mem", "used=0i")), telegraf(line("mem", "used=0i"), delivery_id="another")
    assert decoded(one).message_id == decoded(same).message_id
    assert decoded(one).message_id != decoded(telegraf(line("mem", "used=1i"))).message_id


WORDS = st.sampled_from(["lap-2", "nobody", "cpu", "memory", "interface", "if_octets", "percent", "used", "idle", ""])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
LISTS = st.builds(
    lambda good, changes: good | changes,
    st.sampled_from(
        [
            value_list("memory", "memory", 5, type_instance="used"),
            value_list("interface", "if_octets", 1, 2, plugin_instance="eth0"),
        ]
    ),
    st.dictionaries(st.sampled_from(list(value_list("cpu", "percent", 1))), JSON_VALUES, max_size=2),
)
COLLECTD_TEXTS = st.lists(LISTS | JSON_VALUES, max_size=4).map(json.dumps)


@examples(600)
@given(
    st.sampled_from(["metrics.telegraf", f"metrics.collectd.{ORG}", f"metrics.{ORG}", "metrics.telegraf.x"]),
    st.sampled_from(["text/plain", "application/json", "", "x"]),
    LINE_TEXTS.map(str.encode) | COLLECTD_TEXTS.map(str.encode) | st.binary(max_size=30),
)
def test_accepted_and_rejected_are_all_and_what_is_rejected_can_be_replayed(key: str, kind: str, body: bytes) -> None:
    result = check(message("agent.metrics", body, routing_key=key, content_type=kind, message_id=None))
    assert len(result.columns.get("time", ())) == len(result.rows)
    assert len(result.counters.get("time", ())) == len(result.counter_rows)
    if result.rejections and not result.whole:
        replayed = decoded(
            message("agent.metrics", rejected_of(result, key, kind, body), routing_key=key, content_type=kind)
        )
        found = [(one.field, one.value, one.reason) for one in replayed.rejections]
        if not replayed.whole:  # nothing but bad lines
            assert found == [(one.field, one.value, one.reason) for one in result.rejections]
            assert replayed.points == result.points_rejected
