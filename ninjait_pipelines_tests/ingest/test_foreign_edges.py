"""Other agents' messages as they come in the wild: packed, doubled, rates for counters, keys that name nobody."""

import json
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ninjait_pipelines.ingest import quarantine
from ninjait_pipelines.ingest.decode.line_protocol import LINE_PROTOCOL
from ninjait_pipelines.ingest.decode.message import (
    Decoded,
    Period,
    decode,
    decode_foreign,
    decode_good_lines,
    organization_of,
)
from ninjait_pipelines.ingest.decode.third_party import MAX_BYTES, MAX_ENTRIES
from ninjait_pipelines.ingest.drain import Summary
from ninjait_pipelines.ingest.quarantine.reasons import entries, read
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sensors import MAX_OF_ONE, held_for_known_hosts, replay_registered
from ninjait_pipelines.ingest.sinks import MetricsSink
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_metrics import ClickHouseMetrics
from ninjait_pipelines.resources.metrics_store import Refusal
from ninjait_pipelines_tests.ingest.conftest import LOG, make_drain
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    SECOND_DEVICE,
    as_published,
    collectd,
    encoded,
    gzipped,
    line,
    message,
    metrics,
    register_device,
    sample,
    telegraf,
    value_list,
)

PERIOD = Period.at(NOW)
MIB = 2**20


def decoded(foreign: Message) -> Decoded:
    return decode(foreign, REGISTRY, PERIOD)


def reasons(result: Decoded) -> list[tuple[int | None, str | None, str]]:
    return [(one.index, one.field, one.reason) for one in result.rejections]


def packed(foreign: Message, body: bytes | None = None) -> Message:
    """The message as Telegraf publishes it with `content_encoding = "gzip"`."""
    fields = {"routing_key": foreign.routing_key, "content_type": foreign.content_type, "message_id": None}
    return message("agent.metrics", gzipped(foreign.body) if body is None else body, **fields)


# ---- whose it is


@pytest.mark.parametrize("key", ["metrics.telegraf.", "metrics.collectd.", "metrics."])
def test_a_key_whose_organization_is_empty_is_nobody_s_and_not_everybody_s(key: str) -> None:
    """`metrics.telegraf.$ORGANIZATION` of an agent whose variable was not set: its hosts could be any customer's."""
    foreign = collectd(value_list("memory", "memory", 0, type_instance="used"), routing_key=key)
    if "collectd" not in key:
        foreign = telegraf(line("mem", "used=0i"), routing_key=key)
    result = decoded(foreign)
    assert (result.whole, reasons(result)) == (True, [(None, "routing_key", "unknown_organization")])
    assert organization_of("metrics.telegraf") is None


LINES = st.lists(
    st.builds(
        line,
        st.sampled_from(["mem", "disk,path=/", "net,interface=eth0"]),
        st.sampled_from(["used=1i", "bytes_recv=1i", "used=-1i"]),
        host=st.sampled_from(["lap-1", "lap-2", "nobody"]),
    ),
    min_size=1,
    max_size=4,
)
LISTS = st.lists(
    st.builds(
        lambda host: value_list("memory", "memory", 1, type_instance="used", host=host),
        st.sampled_from(["lap-1", "lap-2", "nobody"]),
    ),
    min_size=1,
    max_size=4,
)
OURS = st.builds(
    lambda organization, device: metrics(sample(), organization_id=organization, device_id=device),
    st.sampled_from([ORG, OTHER_ORG]),
    st.sampled_from(list(REGISTRY.devices)),
)
BODIES = LINES.map("\n".join).map(str.encode) | LISTS.map(encoded) | OURS.map(encoded)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["metrics.{}", "metrics.telegraf.{}", "metrics.collectd.{}", "metrics.telegraf.{}.x"]),
    st.sampled_from([ORG, OTHER_ORG, ORG.upper(), "", "telegraf", "collectd", str(uuid.UUID(int=9))]),
    st.sampled_from(["text/plain", "application/json", "", "application/vnd.influx"]),
    BODIES | BODIES.map(gzipped),
)
def test_no_row_is_of_another_organization_than_the_one_in_the_routing_key(
    pattern: str, organization: str, kind: str, body: bytes
) -> None:
    """Brokers give rights by routing key: whatever else a message says, it speaks for nobody else."""
    key = pattern.format(organization)
    if key in ("metrics.telegraf", "metrics.collectd"):  # these name none, and are given to nobody who may not say so
        return
    result = decoded(message("agent.metrics", body, routing_key=key, content_type=kind, message_id=None))
    rows = [*result.columns.get("organization_id", []), *result.counters.get("organization_id", [])]
    assert set(rows) <= {organization}
    devices = [*result.columns.get("device_id", []), *result.counters.get("device_id", [])]
    assert {REGISTRY.devices[device] for device in devices} <= {organization}


# ---- what real agents send


def test_a_batch_packed_by_gzip_is_read_and_its_bad_lines_are_replayed_as_text() -> None:
    plain = telegraf(line("mem", f"used={MIB}i"), line("mem", "used=1i", host="nobody"), "oops")
    result, expected = decoded(packed(plain)), decoded(plain)
    assert (result.columns, result.rejections) == (expected.columns, expected.rejections)
    assert (result.points, result.points_accepted, result.rows) == (3, 1, [0])
    held = quarantine._document(packed(plain), result, "run", NOW)
    again = quarantine.again(held, packed(plain).body)
    assert again == quarantine.again(quarantine._document(plain, expected, "run", NOW), plain.body)
    assert again.body.startswith(b"mem,host=nobody")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzipped(b"mem used=1i 1\n" * 10)[:-9], "bad_gzip"),
        (gzipped(b"mem used=1i 1\n") + b"more", "bad_gzip"),
        (b"\x1f\x8b", "bad_gzip"),
        (b"\x1f\x8bnothing of the kind", "bad_gzip"),
        (gzipped(b"x" * 2 * MAX_BYTES), "too_large"),
        (gzipped(b"\xff"), "invalid_utf8"),
        (gzipped(b"{}"), "json"),
    ],
    ids=["cut", "more after it", "empty", "damaged", "bomb", "not text", "of another format"],
)
def test_what_cannot_be_unpacked_is_refused_whole(body: bytes, reason: str) -> None:
    result = decoded(packed(telegraf(organization=ORG), body))
    assert (result.whole, [one.reason for one in result.rejections]) == (True, [reason])
    assert (result.points, result.organization_id) == (0, ORG)


def test_rates_are_not_taken_for_counters() -> None:
    """collectd's `StoreRates true` changes the values and not their types: stored as counters they would be noise."""
    result = decoded(
        collectd(
            value_list("interface", "if_octets", 1712.35, 0, plugin_instance="eth0"),
            value_list("interface", "if_octets", 2**40, 5.0, plugin_instance="eth0", seconds_ago=50),
            organization=ORG,
        )
    )
    assert reasons(result) == [(0, "network_in", "not_an_integer")]
    assert (result.counters["network_in"], result.counters["network_out"]) == ([2**40], [5])
    rate = decoded(telegraf(line("net", "bytes_recv=0.5", interface="eth0")))
    assert reasons(rate) == [(0, "network_in", "not_an_integer")]


def test_several_hosts_unsigned_integers_escapes_and_windows_in_one_batch() -> None:
    registry = type(REGISTRY)(
        REGISTRY.organizations, REGISTRY.devices, {"WIN 11,home=x": {ORG: SECOND_DEVICE}, **REGISTRY.hosts}
    )
    batch = telegraf(
        line("mem", f"used={MIB}u"),
        line("mem", f"used={2 * MIB}u", host="lap-1"),
        line("disk", f"used={3 * MIB}u", host=r"WIN\ 11\,home\=x", path=r"\C:", fstype="NTFS"),
        line("net", "bytes_recv=1u,bytes_sent=2u", host=r"WIN\ 11\,home\=x", interface=r"Ethernet\ 2"),
        f"mem,host=lap-2 used=1u {round(NOW.timestamp() * 1e9)}\r",
        organization=ORG,
    )
    result = decode(batch, registry, PERIOD)
    assert result.rejections == []
    assert result.columns["memory"] == [1.0, 2.0, 1 / MIB]
    assert (result.volumes["volume"], result.volumes["used"]) == (["C:"], [3.0])
    assert result.counters["interface"] == ["Ethernet 2"]


def test_a_notification_of_collectd_costs_itself_only() -> None:
    notification = {"labels": {"alertname": "collectd_load"}, "annotations": {"summary": "high"}}
    good = value_list("memory", "memory", MIB, type_instance="used")
    result = decoded(collectd(notification, good))
    assert (reasons(result), result.rows) == ([(0, None, "bad_value_list")], [1])


# ---- the fast path takes what is plain and good, and leaves everything else to the grammar

ODD_HOSTS = ("a,b=c d", r"a\ b", r"a\b", '"', "=", "x" * 255, "lap-2 ", "mine")
HOSTS = {**REGISTRY.hosts, **{name: {ORG: SECOND_DEVICE} for name in ODD_HOSTS}, "theirs": {OTHER_ORG: OTHER_DEVICE}}
ODD_REGISTRY = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, HOSTS, hosts_without_organization=True)
TIME = round((NOW - timedelta(seconds=60)).timestamp()) * 10**9
USED = f"used={MIB}i"
MEM = f"mem,host=lap-2 {USED} {TIME}\n"
NET = f"net,host=lap-2,interface=eth0 bytes_recv=5i {TIME}\n"


def fast(foreign: Message) -> bool:
    """Whether the fast path takes it, and if so, that it reads it as the grammar does, to the last bit."""
    found = decode_good_lines(foreign, ODD_REGISTRY, PERIOD)
    expected = decode_foreign(foreign, LINE_PROTOCOL, ODD_REGISTRY, PERIOD)
    assert (found or expected) == expected == decode(foreign, ODD_REGISTRY, PERIOD)
    assert repr(found or expected) == repr(expected)  # which tells -0.0 from 0.0, and 1 from 1.0
    return found is not None


def came_to(foreign: Message) -> list[Any]:
    """What is taken of the lines, or why it is not, in their order."""
    result = decode(foreign, ODD_REGISTRY, PERIOD)
    found = [(one.index or 0, [one.reason]) for one in result.rejections]
    for columns, rows in ((result.columns, result.rows), (result.counters, result.counter_rows)):
        values = zip(*(columns[name] for name in FIELDS if name in columns), strict=True)
        found += [(row, [one for one in of if one is not None]) for row, of in zip(rows, values, strict=True)]
    return [one for _, of in sorted(found) for one in of]


def key(text: str) -> str:
    return f"{text} {USED} {TIME}\n"


def fields(text: str) -> str:
    return f"mem,host=lap-2 {text} {TIME}\n"


def left_out(text: str) -> str:
    return f"system,host=lap-2 {text} {TIME}\n"


def at(milliseconds: int, text: str = MEM, rest: str = "999999") -> str:
    return text.replace(f"{TIME}", f"{milliseconds}{rest}")


LINE_EDGES: list[tuple[str | bytes, bool, list[Any]]] = [
    # keys
    (MEM + key("#mem,host=lap-2"), False, [1.0]),
    (key(r"\#mem,host=lap-2"), True, []),
    (key("mem,#a=#,host=lap-2"), True, [1.0]),
    (key("mem,host=lap-2\\"), False, ["bad_line"]),
    (key("mem,host=lap-2\\ "), True, [1.0]),
    (key("mem\\,host=lap-2"), True, []),
    (key("m\\") + MEM, False, ["bad_line", 1.0]),
    (key(r"mem,host=a\\ b"), True, [1.0]),
    (key(r"mem,host=a\\\ b"), False, ["unknown_host"]),
    (key(r"mem,host=a\b"), True, [1.0]),
    (key(r"mem,host=a\,b\=c\ d"), True, [1.0]),
    (key(r"mem,ho\st=x,host=lap-2"), True, [1.0]),
    (key('mem,host="'), True, [1.0]),
    (key('mem,host=",a="'), True, [1.0]),
    (key(r"mem,host=\="), True, [1.0]),
    (key('"mem",host=lap-2'), True, []),
    (key("=mem,host=lap-2"), True, []),
    (key("mem,host=lap-2,host=lap-2"), False, ["bad_line"]),
    (key("swap,a=1,a=2") + MEM, False, ["bad_line", 1.0]),
    (key(r"swap,a\==1,a\==2"), False, ["bad_line"]),
    (key("swap,a=1,A=2"), True, []),
    (key("mem,host=lap-2,a="), False, ["bad_line"]),
    (key("swap,a=") + MEM, False, ["bad_line", 1.0]),
    (key(r"mem,host=lap-2,a=\="), True, [1.0]),
    (key("mem,a=,host=lap-2"), False, ["bad_line"]),
    (key("mem,=a,host=lap-2"), False, ["bad_line"]),
    (key("mem,a,host=lap-2"), False, ["bad_line"]),
    (key("mem,a=b=c,host=lap-2"), False, ["bad_line"]),
    (key("mem,,host=lap-2"), False, ["bad_line"]),
    (key("mem,host=lap-2,"), False, ["bad_line"]),
    (key(",host=lap-2"), False, ["bad_line"]),
    (key("mem"), False, ["missing"]),
    (key("swap"), True, []),
    (key("mem,a=é,host=lap-2"), False, [1.0]),
    (key("mem,a=\0,host=lap-2"), False, [1.0]),
    (key("mem,a=\x7f,host=lap-2"), False, [1.0]),
    (key("mem,a=b\tc,host=lap-2"), False, [1.0]),
    (key("mem,host=lap-2\t"), False, ["invalid_text"]),
    (key(f"mem,a={'x' * 301},host=lap-2"), True, [1.0]),
    (key(f"mem,host={'x' * 255}"), True, [1.0]),
    (key(f"mem,host={'x' * 256}"), False, ["too_long"]),
    # strings
    (fields(f'note="a, b",{USED}'), True, [1.0]),
    (fields(f'{USED},note=",used"'), True, [1.0]),
    (fields(f'{USED},note=""'), True, [1.0]),
    (fields(f'{USED},note="#"'), True, [1.0]),
    (fields(f'note="a=b",{USED}'), False, [1.0]),
    (fields(f'{USED},note="a,used=7i"'), False, [1.0]),
    (fields(f'{USED},note="\\",used=7i,a=\\""'), False, [1.0]),
    (fields(f'{USED},note="a\nb"'), False, [1.0]),
    (fields(f'{USED},note="a\\b"'), False, [1.0]),
    (fields(f'{USED},note="é"'), False, [1.0]),
    (fields(f'{USED},note="a"b"'), False, ["bad_line"]),
    (fields(f'{USED},note="a'), False, ["bad_line"]),
    (fields(f'"note"=1i,{USED}'), False, [1.0]),
    (left_out('uptime_format="1 day,  3:20"') + MEM, True, [1.0]),
    (left_out('uptime_format="",a=", ,"') + MEM, True, [1.0]),
    (left_out('a="b=c, mem,host=lap-2 used=5i 5"') + MEM, False, [1.0]),
    (left_out('a="\\"b\\""') + MEM, False, [1.0]),
    (left_out('a="\n') + MEM, False, ["bad_line", "bad_line", 1.0]),
    # fields
    (fields(f"used=1i,{USED}"), True, [1.0]),
    (fields(f'used="a, b",{USED}'), True, [1.0]),
    (fields(f'{USED},used="a, b"'), False, ["number_as_text"]),
    (fields(f"{USED},xused=5i"), True, [1.0]),
    (fields(f"xused=5i,{USED},used_=7i"), True, [1.0]),
    (fields("xused=5i"), True, []),
    (fields(f"{USED},us\\ed=5i"), False, [1.0]),
    (fields(f"a\\,{USED}"), False, []),
    (fields(f"{USED},"), False, ["bad_line"]),
    (fields(f"{USED},a="), False, ["bad_line"]),
    (fields(f"{USED},a=b"), False, ["bad_line"]),
    (fields("used=true"), False, ["boolean_as_number"]),
    (fields("used=f"), False, ["boolean_as_number"]),
    (fields('used="5"'), False, ["number_as_text"]),
    (fields('used="5,5i"'), False, ["number_as_text"]),
    (fields(f"used={MIB}u"), False, [1.0]),
    (fields(f"{USED},a=5u,b=true,c=T"), True, [1.0]),
    (fields("used=1e999"), False, ["not_finite"]),
    (fields(f"{USED},a=1e999,b=-1"), True, [1.0]),
    (fields("used=-1i"), False, ["negative"]),
    (fields("used=-1e-300"), False, ["negative"]),
    (fields("used=1000000000000001i"), False, ["out_of_range"]),
    (fields("used=1000000000000000i"), True, [1e15 / MIB]),
    (fields("used=-0"), True, [-0.0]),
    (fields("used=-0.0e9"), True, [-0.0]),
    (fields("used=-0i"), True, [0.0]),
    (fields("used=5e-324"), True, [0.0]),
    (fields(f"used={MIB}"), True, [1.0]),
    (fields("used=1.048576E+6"), True, [1.0]),
    (fields(f"used=000{MIB}i"), True, [1.0]),
    (fields(f"used={MIB}."), False, [1.0]),
    (fields(f"used=.{MIB}e7"), False, [1.0]),
    (fields("used=" + "9" * 20 + "i"), False, ["bad_line"]),
    (fields("used=" + "9" * 5000), False, ["not_finite"]),
    *((fields(f"used={bad}"), False, ["bad_line"]) for bad in ("nan", "inf", "1_0", "0x1", "+1", "1e", "-", "i", "٥")),
    (line("cpu", "usage_active=30,usage_idle=50", cpu="cpu-total") + "\n", True, [30.0]),
    (line("cpu", "usage_active=30,usage_idle=102", cpu="cpu-total") + "\n", False, ["above_100"]),
    (line("cpu", "usage_idle=101", cpu="cpu-total") + "\n", True, [0.0]),
    (line("cpu", "usage_idle=-1", cpu="cpu-total") + "\n", True, [100.0]),
    (line("cpu", "usage_active=-1i", cpu="cpu-total") + "\n", True, [0.0]),
    (line("cpu", "usage_idle=100.00000000009", cpu="cpu-total") + "\n", True, [0.0]),
    (line("net", "bytes_sent=6i,bytes_recv=5i", interface="eth0") + "\n", True, [5.0, 6.0]),
    (line("net", "bytes_recv=5", interface=r"a\ b") + "\n", True, [5.0]),
    (line("net", "bytes_recv=0.5", interface="eth0") + "\n", False, ["not_an_integer"]),
    (line("net", "bytes_recv=5i", interface="e" * 256) + "\n", False, ["too_long"]),
    (line("net", f"bytes_recv={2**63 - 1}i", interface="eth0") + "\n", True, [2.0**63]),
    (line("net", f"bytes_recv={2**64 - 1}u", interface="eth0") + "\n", False, [2.0**64]),
    # where lines end, and what is between their parts
    (MEM + NET + left_out("a=1") + MEM, True, [1.0, 5.0, 1.0]),
    (MEM.rstrip(), False, [1.0]),
    (MEM.replace("\n", "\r\n"), False, [1.0]),
    (MEM.replace("\n", "\r"), False, [1.0]),
    (MEM.replace("\n", "\r") + MEM, False, ["bad_line"]),
    (f"{MEM}\n{MEM}", False, [1.0, 1.0]),
    (f"{MEM}\n", False, [1.0]),
    (f"{MEM} \t\r\n# a comment\n{MEM}", False, [1.0, 1.0]),
    (f" {MEM}", False, [1.0]),
    (f"\ufeff{MEM}", False, [1.0]),
    (MEM.replace(" ", "  ", 1), False, [1.0]),
    (MEM.replace(f" {TIME}", f"  {TIME}"), False, [1.0]),
    (MEM.replace("\n", " \n"), False, [1.0]),
    (MEM.replace(" ", "\t", 1) + MEM, False, ["bad_line", 1.0]),
    (MEM.replace(f" {TIME}", f"\t{TIME}") + MEM, False, ["bad_line", 1.0]),
    (MEM.replace("mem,", "mem, "), False, ["bad_line"]),
    # times
    (at(TIME // 10**6, rest=""), False, ["too_old"]),
    (at(TIME // 10**6, rest="00000"), False, ["too_old"]),
    (at(TIME // 10**6, rest="0000000"), False, ["bad_line"]),
    (at(0, rest="0" * 18), False, ["too_old"]),
    (MEM.replace(f" {TIME}", ""), False, ["no_time"]),
    (MEM.replace(f"{TIME}", f"-{TIME}"), False, ["too_old"]),
    (at(PERIOD.newest), True, [1.0]),
    (at(PERIOD.newest + 1, rest="000000"), False, ["in_the_future"]),
    (at(PERIOD.oldest, rest="000000"), True, [1.0]),
    (at(PERIOD.oldest - 1), False, ["too_old"]),
    (MEM + at(PERIOD.oldest - 1) + MEM, False, [1.0, "too_old", 1.0]),
    (at(PERIOD.newest, NET), True, [5.0]),
    (MEM + at(PERIOD.newest + 1, NET), False, [1.0, "in_the_future"]),
    (at(PERIOD.oldest_counter, NET, "000000") + at(PERIOD.oldest_counter - 1), True, [5.0, 1.0]),
    (at(PERIOD.oldest_counter - 1, NET) + MEM, False, ["counter_too_old", 1.0]),
    (at(PERIOD.oldest - 1, NET), False, ["too_old"]),
    (at(PERIOD.newest + 1, left_out("a=1")) + at(0, fields("a=1"), "0" * 18) + MEM, True, [1.0]),
    # bodies
    (b"", False, ["not_line_protocol"]),
    (b"\n", False, ["not_line_protocol"]),
    (f"#{MEM}".encode(), False, ["not_line_protocol"]),
    (left_out("a=1") * (MAX_ENTRIES - 1), True, []),
    (left_out("a=1") * MAX_ENTRIES, False, ["too_many_readings"]),
    (b"\xff" + MEM.encode(), False, ["invalid_utf8"]),
    (MEM.encode() + b"\x1f\x8b", False, ["invalid_utf8"]),
    (gzipped(f"{MEM}{NET}".encode()), True, [1.0, 5.0]),
    (gzipped(MEM.encode()) + b"\n", False, ["bad_gzip"]),
    (gzipped(gzipped(MEM.encode())), False, ["gzip"]),
    (gzipped(MEM.encode() + b"\xff"), False, ["invalid_utf8"]),
    (key("m,a=").replace(" ", "x" * (MAX_BYTES - len(key("m,a="))) + " ", 1).encode(), True, []),
    (key("m,a=").replace(" ", "x" * (MAX_BYTES - len(key("m,a="))) + "x ", 1).encode(), False, ["too_large"]),
    (gzipped(key(f"m,a={'x' * MAX_BYTES}").encode()), False, ["too_large"]),
]


@pytest.mark.parametrize(("body", "plain", "expected"), LINE_EDGES, ids=[repr(edge[0])[:60] for edge in LINE_EDGES])
def test_what_the_fast_path_takes_and_what_it_leaves(body: str | bytes, plain: bool, expected: list[Any]) -> None:
    """Text comes after a line that is plain and of no interest, and bytes are the whole of a message."""
    whole = body if isinstance(body, bytes) else (left_out("a=1") + body).encode()
    foreign = message("agent.metrics", whole, routing_key=f"metrics.telegraf.{ORG}", message_id=None)
    assert (fast(foreign), repr(came_to(foreign))) == (plain, repr(expected))


OF_TWO_HOSTS = key("mem,host=lap-2") + key("mem,host=lap-1")
UNKNOWN = str(uuid.UUID(int=9))


@pytest.mark.parametrize(
    ("organization", "body", "plain", "expected", "owner"),
    [
        (f".{ORG}", OF_TWO_HOSTS, True, [1.0, 1.0], ORG),
        (f".{OTHER_ORG}", key("mem,host=lap-1"), True, [1.0], OTHER_ORG),
        (f".{OTHER_ORG}", OF_TWO_HOSTS, False, ["unknown_host", 1.0], OTHER_ORG),
        (f".{ORG}", key("swap,host=nobody"), True, [], ORG),
        (f".{ORG}", key("mem,host=nobody") + MEM, False, ["unknown_host", 1.0], ORG),
        (f".{ORG}", f"mem,host=nobody free=1i {TIME}\n", False, [], ORG),
        ("", MEM, True, [1.0], ORG),
        ("", key("swap,host=nobody"), True, [], None),
        ("", OF_TWO_HOSTS, False, [1.0, "ambiguous_host"], ORG),
        ("", key("mem,host=mine") + NET, True, [1.0, 5.0], ORG),
        ("", key("mem,host=mine") + key("mem,host=theirs"), True, [1.0, 1.0], None),
        (".", MEM, False, ["unknown_organization"], None),
        (f".{ORG}.", MEM, False, ["unknown_organization"], None),
        (f".{ORG.upper()}", MEM, False, ["unknown_organization"], None),
        (f".{UNKNOWN}", MEM, False, ["unknown_organization"], None),
        (f".{UNKNOWN}", key("swap,host=nobody"), False, ["unknown_organization"], None),
    ],
)
def test_whose_the_lines_are_by_either_path(
    organization: str, body: str, plain: bool, expected: list[Any], owner: str | None
) -> None:
    foreign = telegraf(body.removesuffix("\n"), routing_key=f"metrics.telegraf{organization}")
    assert (fast(foreign), came_to(foreign)) == (plain, expected)
    assert decode(foreign, ODD_REGISTRY, PERIOD).organization_id == owner


# ---- accounting


def test_a_copy_that_comes_twice_in_one_batch_counts_once() -> None:
    """A publisher that names no copies sent one twice; the ledger had one, and `conservation` failed by the other."""
    one = telegraf(line("mem", "used=0i"), line("mem", "used=-1i"))
    summary = Summary()
    summary.add([(one, decoded(one)), (one, decoded(one))], set())
    summary.add([(one, decoded(one))], set())
    assert (summary.messages, summary.messages_quarantined) == (1, 1)
    assert (summary.points, summary.points_written, summary.points_quarantined) == (2, 1, 1)
    assert summary.bytes == len(one.body)


class Picky(ClickHouseMetrics):
    """ClickHouse that refuses what InfluxDB might: the memory of 13 MiB, and the counters of wlan0."""

    def write(self, points: Any) -> list[Refusal]:
        values = points["memory"].to_pylist()
        super().write(points.filter([value != 13 for value in values]))
        return [Refusal(row, "unlucky") for row, value in enumerate(values) if value == 13]

    def write_counters(self, counters: Any) -> list[Refusal]:
        names = counters["interface"].to_pylist()
        super().write_counters(counters.filter([name != "wlan0" for name in names]))
        return [Refusal(row, "no radio") for row, name in enumerate(names) if name == "wlan0"]


def test_what_the_store_refuses_is_the_line_that_it_came_from(fleet: Stores) -> None:
    """In the middle of messages that have good lines, bad lines, counters and lines of no interest."""
    if not isinstance(fleet.metrics_store, ClickHouseMetrics):
        pytest.skip("ClickHouse is made to refuse here; InfluxDB's own refusals are tested beside it")
    picky = Picky(**fleet.metrics_store.model_dump())
    bodies = [
        telegraf(
            line("swap", "used=1i"),
            line("net", "bytes_recv=1i", interface="eth0"),
            "oops",
            line("net", "bytes_recv=1i", interface="wlan0", seconds_ago=30 + n),
            line("mem", f"used={MIB}i", seconds_ago=40 + n),
            line("mem", f"used={13 * MIB}i", seconds_ago=50 + n),
            line("mem", f"used={2 * MIB}i", seconds_ago=60 + n),
            organization=ORG,
        )
        for n in range(3)
    ]
    fleet.message_queue.publish([as_published(one) for one in bodies])
    sink = MetricsSink(picky, fleet.dragonfly, fleet.clickhouse, LOG)
    with picky.open():
        summary = make_drain(fleet, sink=sink).run(idle_seconds=0.05)
    assert (summary.points, summary.points_written, summary.points_quarantined) == (18, 9, 9)
    for held in fleet.mongodb.database["quarantine"].find():
        found = sorted((one.index, one.reason) for one in entries(read(held)))
        assert found == [(2, "bad_line"), (3, "refused_by_store"), (5, "refused_by_store")]
        again = quarantine.again(held, quarantine.body_of(fleet.mongodb, held)).body.decode()
        assert ["wlan0" in again, f"used={13 * MIB}i" in again, "eth0" in again] == [True, True, False]
    [row] = fleet.clickhouse.rows(
        "SELECT count() AS n, sum(points) AS points, sum(points_written) AS good FROM message_ledger"
    )
    assert row == {"n": 3, "points": 18, "good": 9}
    # Replayed twice the store refuses it again, and nothing that was good comes a second time.
    for _ in range(2):
        found = list(quarantine.select(fleet.mongodb))
        assert quarantine.replay(fleet.mongodb, fleet.message_queue, found, "test", NOW) == 3
        with picky.open():
            summary = make_drain(fleet, sink=sink).run(idle_seconds=0.05)
        assert (summary.points, summary.points_written) == (9, 0)


def test_a_tick_is_quick_however_much_is_held_for_however_many_hosts(fleet: Stores) -> None:
    """A customer's fleet sent for a day before its hosts were registered: a tick asked for each host by itself, took
    half a minute, and fell behind for good."""
    documents = []
    for n in range(3000):
        one = telegraf(line("mem", f"used={n}i", host=f"new-{n % 1000}"), organization=ORG, delivery_id=f"copy-{n}")
        documents.append(quarantine._document(one, decoded(one), "run", NOW + timedelta(milliseconds=n)))
    documents[7]["intent"] = {"changes": ["--map new-7=old-7"]}  # a person's, who has not gone on with it
    documents[8]["intent"] = {"changes": []}
    quarantine.prepare(fleet.mongodb, NOW, LOG)
    quarantine.insert_new(fleet.mongodb, "quarantine", documents)
    hosts = {f"new-{n}": {ORG: str(uuid.UUID(int=5000 + n))} for n in range(900)}
    registry = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, hosts)
    started = time.monotonic()
    found = [copy["_id"] for copy in held_for_known_hosts(fleet.mongodb, registry)]
    assert time.monotonic() - started < 5
    known = [f"agent.metrics/copy-{n}" for n in range(3000) if n % 1000 < 900 and n != 7]
    assert found == known[:MAX_OF_ONE]  # the next ticks take the rest


def test_a_host_known_to_another_organization_only_is_not_replayed_again_and_again(fleet: Stores) -> None:
    """A copy waits for its host in each organization, and the host is registered in one: the other goes on waiting."""
    text = json.dumps([value_list("memory", "memory", MIB, type_instance="used", host="new")])
    for organization in (ORG, OTHER_ORG):
        foreign = collectd(organization=organization)
        fleet.message_queue.publish(
            [as_published(message("agent.metrics", text.encode(), routing_key=foreign.routing_key))]
        )
    make_drain(fleet).run(idle_seconds=0.05)
    with fleet.postgres.transaction() as connection:
        register_device(connection, str(uuid.UUID(int=77)), OTHER_ORG, "new")
    registry = load_sender_registry(fleet.postgres)
    ticks = [replay_registered(fleet.mongodb, fleet.message_queue, registry, NOW) for _ in range(3)]
    assert ticks == [1, 0, 0]
    assert make_drain(fleet).run(idle_seconds=0.05).points_written == 1
    rows = fleet.metrics_store.read(NOW - timedelta(hours=1), NOW).to_pylist()
    assert [row["organization_id"] for row in rows] == [OTHER_ORG]
