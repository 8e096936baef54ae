"""Telegraf's line protocol and collectd's JSON: what is taken of them, what is refused, and what is replayed later."""

import dataclasses
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from influxdb_client import Point

from ninjait_pipelines.ingest import quarantine, sensors
from ninjait_pipelines.ingest.decode import line_protocol as reader
from ninjait_pipelines.ingest.decode.line_protocol import LINE_PROTOCOL, parts, value_of
from ninjait_pipelines.ingest.decode.message import Decoded, Period, decode
from ninjait_pipelines.ingest.decode.third_party import MAX_ENTRIES
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sensors import registered_hosts, replay_registered
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.fuzz import check
from ninjait_pipelines_tests.ingest.samples import (
    ANYBODY,
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    SECOND_DEVICE,
    as_published,
    collectd,
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
TIME = round((NOW - timedelta(seconds=60)).timestamp() * 1000)


def decoded(foreign: Message) -> Decoded:
    return decode(foreign, REGISTRY, PERIOD)


def reasons(result: Decoded) -> list[tuple[int | None, str | None, str]]:
    return [(rejection.index, rejection.field, rejection.reason) for rejection in result.rejections]


def gauges(result: Decoded) -> dict[str, list[Any]]:
    """The fields that any row has."""
    key = ("organization_id", "device_id", "time")
    return {name: values for name, values in result.columns.items() if name not in key and set(values) != {None}}


def volumes(result: Decoded) -> list[tuple[Any, ...]]:
    """Disk, volume, and MiB used, in all and free, of each reading of a volume."""
    return [*zip(*(result.volumes[name] for name in ("disk", "volume", "used", "total", "free")), strict=True)]


def test_what_is_taken_of_telegraf() -> None:
    result = decoded(
        telegraf(
            line("cpu", "usage_user=1.5,usage_idle=97.5", cpu="cpu-total"),
            line("cpu", "usage_idle=50", cpu="cpu0"),
            line("mem", f"used={512 * MIB}i,total={1024 * MIB}i"),
            line("disk", f"used={100 * MIB}i,free={5 * MIB}i,inodes_used=5i", path="/", device="sda1", fstype="ext4"),
            line("disk", "used=5i", path="/run", fstype="tmpfs"),
            line("net", "bytes_recv=1000i,bytes_sent=500i,err_in=0i", interface="eth0"),
            line("net", "bytes_recv=1i,bytes_sent=1i", interface="lo"),
            line("net", "tcp_activeopens=3i", interface="all"),
            line("swap", "used=1i,free=2i"),
            line("system", "uptime=420i,load1=0.5"),
        )
    )
    assert (result.points, result.points_rejected, result.unknown_fields) == (5, 0, 11)
    assert (result.rows, result.counter_rows, result.volume_rows) == ([0, 2, 9], [5], [3])
    assert gauges(result) == {
        "cpu": [2.5, None, None],
        "memory": [None, 512.0, None],
        "memory_total": [None, 1024.0, None],
        "uptime": [None, None, 420.0],
    }
    assert result.columns["device_id"] == [SECOND_DEVICE] * 3
    assert result.columns["time"] == [TIME] * 3
    assert result.counters == {
        "organization_id": [ORG],
        "device_id": [SECOND_DEVICE],
        "source": ["telegraf"],
        "interface": ["eth0"],
        "time": [TIME],
        "network_in": [1000.0],
        "network_out": [500.0],
    }
    assert (volumes(result), result.volumes["source"]) == ([("sda1", "/", 100.0, None, 5.0)], ["telegraf"])
    assert (result.organization_id, result.device_id) == (ORG, None)


def test_what_is_taken_of_collectd() -> None:
    result = decoded(
        collectd(
            value_list("cpu", "percent", 97.5, type_instance="idle"),
            value_list("cpu", "percent", 2.0, type_instance="user"),
            value_list("cpu", "percent", 50.0, plugin_instance="0", type_instance="idle"),
            value_list("cpu", "cpu", 12345, type_instance="idle", dstypes=["derive"]),
            value_list("memory", "memory", 512 * MIB, type_instance="used"),
            value_list("memory", "percent", 12.5, type_instance="used"),
            value_list("df", "df_complex", 100 * MIB, plugin_instance="root", type_instance="used"),
            value_list("df", "df_complex", 5, plugin_instance="run", type_instance="used"),
            value_list("interface", "if_octets", 1000, 500, plugin_instance="eth0"),
            value_list("interface", "if_octets", 1, 1, plugin_instance="lo"),
            value_list("interface", "if_errors", 0, 0, plugin_instance="eth0"),
            value_list("interface", "if_octets", 1.5, 1, plugin_instance="eth1", dstypes=["gauge", "gauge"]),
            value_list("cpu", "percent", 40, type_instance="active", seconds_ago=30),
            value_list("uptime", "uptime", 86400),
        )
    )
    assert (result.points, result.points_rejected, result.unknown_fields) == (6, 0, 11)
    assert (result.rows, result.counter_rows, result.volume_rows) == ([0, 4, 12, 13], [8], [6])
    assert gauges(result) == {
        "cpu": [2.5, None, 40.0, None],
        "memory": [None, 512.0, None, None],
        "uptime": [None, None, None, 86400.0],
    }
    assert result.columns["time"] == [TIME, TIME, TIME + 30_000, TIME]
    assert (result.counters["network_in"], result.counters["network_out"]) == ([1000.0], [500.0])
    assert (volumes(result), result.volumes["source"]) == ([("", "root", 100.0, None, None)], ["collectd"])


@pytest.mark.parametrize(
    "foreign",
    [
        telegraf(line("mem", "used=0i")),
        telegraf(line("mem", "used=0i"), organization=ORG),
        telegraf(line("mem", "used=0i"), organization=ORG, content_type="application/octet-stream"),
        telegraf(line("mem", "used=0i"), routing_key=f"metrics.{ORG}"),
        telegraf(line("mem", "used=0i"), routing_key=f"metrics.{ORG}", content_type="Text/Plain; charset=utf-8"),
        telegraf(line("mem", "used=0i"), routing_key=f"metrics.{ORG}", content_type="application/vnd.influxdata"),
        collectd(value_list("memory", "memory", 0, type_instance="used")),
        collectd(value_list("memory", "memory", 0, type_instance="used"), organization=ORG, content_type="text/json"),
        collectd(value_list("memory", "memory", 0, type_instance="used"), routing_key=f"metrics.{ORG}"),
    ],
)
def test_the_format_is_told_by_the_routing_key_else_by_the_content_type(foreign: Message) -> None:
    result = decoded(foreign)
    assert (result.points, result.rejections, gauges(result)) == (1, [], {"memory": [0.0]})


def test_our_own_format_is_not_taken_for_another() -> None:
    assert decoded(message("agent.metrics", metrics(sample()))).device_id == DEVICE
    assert reasons(decoded(message("agent.metrics", metrics(sample()), content_type="application/xml")))[0][2] == (
        "unknown_content_type"
    )


@pytest.mark.parametrize("foreign", [telegraf, collectd])
@pytest.mark.parametrize("host", ["lap-1", "lap-2", "nobody"])
def test_a_key_without_an_organization_is_nobody_s(foreign: Any, host: str) -> None:
    """A host went to whoever had registered its name first, and anyone could make another's ambiguous."""
    one = line("mem", "used=0i", host=host) if foreign is telegraf else value_list("cpu", "percent", 5, host=host)
    result = decoded(foreign(one, organization=None))
    assert (reasons(result), result.whole) == ([(None, "routing_key", "no_organization_in_key")], True)
    assert (result.organization_id, result.columns, result.counters) == (None, {}, {})


def test_a_host_is_the_organization_s_in_the_routing_key_or_one_of_all_where_that_is_allowed() -> None:
    shared = line("mem", "used=0i", host="lap-1")
    assert reasons(decode(telegraf(shared, organization=None), ANYBODY, PERIOD)) == [(0, "host", "ambiguous_host")]
    single = decode(telegraf(line("mem", "used=0i"), organization=None), ANYBODY, PERIOD)
    assert single.columns["device_id"] == [SECOND_DEVICE]
    assert decoded(telegraf(shared, organization=ORG)).columns["device_id"] == [DEVICE]
    assert decoded(telegraf(shared, organization=OTHER_ORG)).columns["device_id"] == [OTHER_DEVICE]
    other = decoded(telegraf(line("mem", "used=0i"), organization=OTHER_ORG))
    assert reasons(other) == [(0, "host", "unknown_host")]
    assert (other.organization_id, other.rejections[0].value) == (OTHER_ORG, "'lap-2'")


@pytest.mark.parametrize("organization", [str(uuid.UUID(int=9)), "acme", f"{ORG}.more"])
def test_an_organization_that_does_not_exist_costs_the_message(organization: str) -> None:
    result = decoded(telegraf(line("mem", "used=0i"), organization=organization))
    assert (reasons(result), result.whole) == ([(None, "routing_key", "unknown_organization")], True)
    assert (result.organization_id, result.rejections[0].value) == (None, repr(f"metrics.telegraf.{organization}"))


def test_a_message_of_devices_of_several_organizations_is_of_none() -> None:
    hosts = {"a": {ORG: DEVICE}, "b": {OTHER_ORG: "x"}}
    registry = msgspec.structs.replace(ANYBODY, hosts=hosts)
    both = telegraf(line("mem", "used=0i", host="a"), line("mem", "used=0i", host="b"), organization=None)
    assert decode(both, registry, PERIOD).organization_id is None
    assert decode(both, registry, PERIOD).columns["organization_id"] == [ORG, OTHER_ORG]


NANOSECONDS = TIME * 1_000_000
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


def test_the_busy_percentage_wins_over_the_idle_one() -> None:
    both = line("cpu", "usage_active=30,usage_idle=50", cpu="cpu-total")
    assert gauges(decoded(telegraf(both))) == {"cpu": [30.0]}


BAD_LISTS: list[tuple[Any, str | None, str]] = [
    (5, None, "not_an_object"),
    ({}, None, "bad_value_list"),
    (value_list("memory", "memory", 1, 2), None, "bad_value_list"),
    (value_list("memory", "memory", 1, dsnames=[5]), None, "bad_value_list"),
    (value_list("memory", ["memory"], 1), None, "bad_value_list"),
    (value_list("memory", "memory", 1, type_instance="used", host=None), "host", "missing"),
    (value_list("memory", "memory", 1, type_instance="used", host=["lap-2"]), "host", "not_text"),
    (value_list("memory", "memory", 1, type_instance="used", host="nobody"), "host", "unknown_host"),
    (value_list("memory", "memory", 1, type_instance="used", time=None), "time", "no_time"),
    (value_list("memory", "memory", 1, type_instance="used", time="now"), "time", "no_time"),
    (value_list("memory", "memory", 1, type_instance="used", time=1e300), "time", "no_time"),
    (value_list("memory", "memory", 1, type_instance="used", time=0), "time", "too_old"),
    (value_list("memory", "memory", "1", type_instance="used"), "memory", "number_as_text"),
    (value_list("memory", "memory", [1], type_instance="used"), "memory", "not_a_number"),
    (value_list("interface", "if_octets", 1, -1, plugin_instance="eth0"), "network_out", "negative"),
    (value_list("interface", "if_octets", 1, 1, plugin_instance=""), "interface", "empty"),
    (value_list("interface", "if_octets", 1, 1, plugin_instance="e", seconds_ago=8 * 86400), "time", "counter_too_old"),
]


@pytest.mark.parametrize(("bad", "field", "reason"), BAD_LISTS)
def test_a_bad_value_list_costs_itself_and_nothing_else(bad: Any, field: str | None, reason: str) -> None:
    good = value_list("memory", "memory", MIB, type_instance="used")
    result = decoded(collectd(good, bad, good))
    assert reasons(result) == [(1, field, reason)]
    assert (result.points, result.points_accepted, result.rows, result.whole) == (3, 2, [0, 2], False)


def test_a_value_that_collectd_does_not_know_is_none() -> None:
    lists = [
        value_list("memory", "memory", None, type_instance="used"),
        value_list("interface", "if_octets", None, 5, plugin_instance="eth0"),
    ]
    result = decoded(collectd(*lists))
    assert (result.points, result.unknown_fields, result.rejections) == (1, 2, [])
    assert (result.counters["network_in"], result.counters["network_out"]) == ([None], [5.0])


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("telegraf", b"", "not_line_protocol"),
        ("telegraf", b"\n# nothing\n", "not_line_protocol"),
        ("telegraf", json.dumps(metrics(sample())).encode(), "ninjait_json"),
        ("telegraf", b"mem used=1i 1\n\xff", "invalid_utf8"),
        ("telegraf", b"m f=1 1\n" * (MAX_ENTRIES + 1), "too_many_readings"),
        ("telegraf", b"x" * (2**24 + 1), "too_large"),
        ("collectd", b"", "not_json"),
        ("collectd", b"[{]", "not_json"),
        ("collectd", b'["\\ud800"]', "not_json"),
        ("collectd", b"[1" + b"0" * 5000 + b"]", "not_json"),
        ("collectd", b'{"values": []}', "not_a_list"),
        ("collectd", b"[]", "no_samples"),
        ("collectd", b"[" * 100_000, "nested_too_deeply"),
        ("collectd", b"[" + b"1," * MAX_ENTRIES + b"1]", "too_many_readings"),
    ],
)
def test_what_cannot_be_taken_at_all(key: str, body: bytes, reason: str) -> None:
    result = decoded(message("agent.metrics", body, routing_key=f"metrics.{key}.{ORG}", message_id=None))
    assert ([rejection.reason for rejection in result.rejections], result.whole) == ([reason], True)
    assert (result.points, result.points_accepted, result.organization_id) == (0, 0, ORG)


def test_the_same_content_is_the_same_message() -> None:
    one, same = telegraf(line("mem", "used=0i")), telegraf(line("mem", "used=0i"), delivery_id="another")
    assert decoded(one).message_id == decoded(same).message_id
    assert decoded(one).message_id != decoded(telegraf(line("mem", "used=1i"))).message_id


# What Point cannot write so that anybody could read it: a name that ends in a backslash, and characters that it
# replaces by a backslash and a letter.
NAMES = st.text(min_size=1, max_size=6).filter(lambda name: name[-1] != "\\" and not set(name) & set("\n\r\t"))
VALUES = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.text(max_size=8)
)


@settings(max_examples=500, deadline=None)
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


PIECES = st.sampled_from(
    [
        *("cpu", "mem", "net", ",", " ", "=", "\\", '"', "\n", "#", "host=lap-2", "cpu=cpu-total", "interface=eth0"),
        *(
            "usage_idle=",
            "used=",
            "bytes_recv=",
            "1i",
            "5",
            "true",
            '"a\nb"',
            "é",
            str(NANOSECONDS),
            "\x00",
            "-",
            "1e5",
        ),
        line("mem", "used=1i"),
        line("mem", 'used=1i,note="a'),
        line("mem", "used=1i", host="nobody"),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)
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


@settings(max_examples=600, deadline=None)
@given(
    st.sampled_from(["metrics.telegraf", f"metrics.collectd.{ORG}", f"metrics.{ORG}", "metrics.telegraf.x"]),
    st.sampled_from(["text/plain", "application/json", "", "x"]),
    TEXTS.map(str.encode) | COLLECTD_TEXTS.map(str.encode) | st.binary(max_size=30),
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


# As Telegraf 1.37 wrote them on Linux and, from the eighth on, as it writes on Windows, of other inputs, and as other
# clients of InfluxDB do.
REAL_LINES = [
    line("cpu", "usage_idle=99.0049751243574,usage_iowait=0,usage_system=0.9950248755973528", cpu="cpu-total"),
    line("cpu", "usage_steal=0,usage_user=0,usage_idle=99.0099009898993", cpu="cpu0"),
    line("mem", "vmalloc_total=35184372087808i,used=789491712i,used_percent=3.1234215537428898,swap_free=0i"),
    line("disk", "free=70988488704i,used=26804805632i,used_percent=27.4", device="vda", fstype="ext4", path="/"),
    line("disk", "used=5529600i,used_percent=0.02", device="tmpfs", fstype="tmpfs", mode="rw", path="/boot"),
    line("net", "bytes_sent=19677347i,err_in=0i,bytes_recv=11018400308i,speed=-1i", interface="eth0"),
    line("system", 'uptime_format="1 day,  3:20"'),
    line("net", "bytes_recv=1i,bytes_sent=2i", interface=r"Ethernet\ 2"),
    line("disk", "used=3i,total=5i", path=r"\C:", fstype="NTFS"),
    line("win_cpu", "Percent_Idle_Time=97.5", instance="_Total", objectname=r"Processor\ Information"),
    line("docker_container_status", 'oomkilled=false,pid=1234i,container_id="5f2a",started_at=1795298000000000000i'),
    line("system", 'load1=0.5,n_cpus=2i,uptime_format=" 0:07",uptime=420i,virtual=t'),
    line("mem", "used_percent=1.5e-07,used=7.89491712e+08,available=18446744073709551615u"),
    line("cpu", "usage_idle=50", cpu="cpu1"),
    line("win_disk", "Free_Megabytes=50,Percent_Free_Space=25", instance="C:", objectname="LogicalDisk"),
    line("mem", f"total={4 * 2**30}i,available_percent=25"),
    line("win_mem", "Available_Bytes=5", instance="------", objectname="Memory"),
    line("net", "bytes_recv=1i,bytes_sent=1i", interface="br0"),
]
CHANGES = st.sampled_from(
    [
        *',= \\"\n#.-+ietT05x\r\té٥',
        *("", "", "\\ ", "\\,", "\\\\ ", "\n\n", "lap-1", "nobody", ",used=7i", ",host=lap-2", "1" * 20, " -5"),
        *("1e999", "-0.0", "5u", "false", '"1:23, a=1"', '"1 day, 2"', 'note="",', "mem,host=lap-2 used=1i"),
    ]
)


@st.composite
def mutated_bodies(draw: st.DrawFn) -> bytes:
    """Lines of Telegraf's, of which some characters have become others."""
    text = "".join(f"{one}\n" for one in draw(st.lists(st.sampled_from(REAL_LINES), min_size=1, max_size=4)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text) - 1))
        text = text[:start] + draw(CHANGES) + text[start + draw(st.integers(0, 3)) :]
    return (text or " ").encode()


@settings(max_examples=600, deadline=None)
@given(mutated_bodies() | TEXTS.map(str.encode), st.sampled_from(["", f".{ORG}"]))
def test_a_plain_line_is_read_as_the_whole_grammar_reads_it(body: bytes, organization: str) -> None:
    """`check` reads what the fast path takes by the grammar too, and compares them to the last bit."""
    check(message("agent.metrics", body, routing_key=f"metrics.telegraf{organization}", message_id=None))


def test_the_lines_of_a_fleet_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, and all of them: no message of a fleet in which nothing is wrong comes near the grammar."""
    expected = [check(telegraf(one)) for one in REAL_LINES], check(telegraf(*REAL_LINES))
    monkeypatch.setattr("ninjait_pipelines.ingest.decode.message.decode_foreign", None)
    assert ([decoded(telegraf(one)) for one in REAL_LINES], result := decoded(telegraf(*REAL_LINES))) == expected
    assert (result.rows, result.counter_rows, result.volume_rows) == ([0, 2, 9, 11, 12, 15], [5, 7], [3, 8, 14])
    assert result.unknown_fields == 27
    memory = [None, 789491712 / MIB, None, None, 789491712 / MIB, 3 * 2**30 / MIB]
    assert gauges(result)["memory"] == memory
    assert gauges(result)["memory_total"] == [None, pytest.approx(24105.55078125), None, None, None, 4096.0]
    assert gauges(result)["uptime"] == [None, None, None, 420.0, None, None]
    assert result.counters["interface"] == ["eth0", "Ethernet 2"]
    assert volumes(result)[1:] == [("C:", "C:", 3 / MIB, 5 / MIB, None), ("C:", "C:", 150.0, 200.0, 50.0)]


def rejected_of(result: Decoded, key: str, kind: str, body: bytes) -> bytes:
    held = quarantine._document(
        message("agent.metrics", body, routing_key=key, content_type=kind), result, "run", datetime.now(UTC)
    )
    return quarantine.again(held, body).body


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


def test_what_is_remembered_of_lines_is_short() -> None:
    """Whoever sends a new key with every line fills the memory of keys, but not the machine's: one is 300 bytes."""
    reader._series.cache_clear()
    for key in ("swap,a=" + "x" * 294, "swap,a=" + "\\," * 147, "swap,a=l\U0001f600p", "swap,a=1,a=2"):
        check(telegraf(f"{key} used=1i {NANOSECONDS}"))
    assert reader._series.cache_info().currsize == 0
    check(telegraf(f"swap,a={'x' * 293} used=1i {NANOSECONDS}"))
    assert reader._series.cache_info().currsize == 1


# ---- through the stores


def drained(stores: Stores, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Any:
    return make_drain(stores, clock=now).run(idle_seconds=idle_seconds(stores))


def publish(stores: Stores, *messages: Message) -> None:
    stores.message_queue.publish([as_published(one) for one in messages])


def points(stores: Stores, device: str = SECOND_DEVICE) -> list[dict[str, Any]]:
    return stores.metrics_store.read(NOW - timedelta(hours=2), NOW + timedelta(hours=1), [device]).to_pylist()


def states(stores: Stores) -> dict[str, int]:
    found = [document["state"] for document in stores.mongodb.database["quarantine"].find()]
    return {state: found.count(state) for state in set(found)}


def ledger(stores: Stores) -> dict[str, int]:
    rows = stores.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    return {row["outcome"]: row["n"] for row in rows}


def test_a_reading_spread_over_messages_and_drains_is_one_point(fleet: Stores) -> None:
    publish(fleet, telegraf(line("cpu", "usage_idle=90", cpu="cpu-total"), line("swap", "used=1i")))
    assert drained(fleet).points_written == 1
    publish(
        fleet,
        telegraf(line("mem", f"used={MIB}i")),
        collectd(value_list("uptime", "uptime", 5), organization=ORG),
    )
    assert drained(fleet).points_written == 2
    [point] = points(fleet)
    assert (point["cpu"], point["memory"], point["uptime"], point["network_in"]) == (10.0, 1.0, 5.0, None)
    assert ledger(fleet) == {"written": 3}


def test_counters_become_increases(fleet: Stores) -> None:
    hour = NOW.replace(minute=0, second=0) - timedelta(hours=1)
    start = (NOW - hour).total_seconds()
    readings = [(0, 1000, 100), (60, 1500, 150), (120, 200, 20), (180, 300, 30)]  # booted before the third one
    for after, received, sent in readings:
        text = line("net", f"bytes_recv={received}i,bytes_sent={sent}i", start - after, interface="eth0")
        publish(fleet, telegraf(text), telegraf(text))
    assert drained(fleet).points_written == 8
    [window] = fleet.metrics_store.aggregate(Tier.RAW, hour, hour + timedelta(hours=1), timedelta(hours=1)).to_pylist()
    assert (window["network_in_sum"], window["network_out_sum"]) == (500 + 200 + 100, 50 + 20 + 10)
    assert ledger(fleet) == {"written": 4, "duplicate": 4}


NEW_DEVICE = str(uuid.UUID(int=77))


@pytest.fixture
def waiting(fleet: Stores) -> Stores:
    """The stores, in which a message of each format was quarantined in part: its host "new" is unknown."""
    return with_new(fleet, ORG)


def with_new(fleet: Stores, organization: str | None) -> Stores:
    """`organization` is what Telegraf's key names."""
    publish(
        fleet,
        telegraf(
            line("mem", f"used={MIB}i"),
            line("mem", f"used={2 * MIB}i", host="new"),
            "mem,host=new used=oops 5",
            line("cpu", "usage_idle=90", host="new", cpu="cpu-total"),
            organization=organization,
        ),
        collectd(
            value_list("uptime", "uptime", 1, host="new"),
            value_list("memory", "memory", MIB, type_instance="used", seconds_ago=50),
            organization=ORG,
        ),
    )
    assert drained(fleet).points_written == 2
    assert states(fleet) == {"held": 2}
    return fleet


def register(stores: Stores, device: str = NEW_DEVICE, organization: str = ORG, host: str = "new") -> None:
    with stores.postgres.transaction() as connection:
        register_device(connection, device, organization, host)


def tick(stores: Stores) -> str | None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance=instance,
            resources={
                "message_queue": stores.message_queue,
                "mongodb": stores.mongodb,
                "postgres": stores.postgres,
            },
        ) as context,
    ):
        result = registered_hosts.evaluate_tick(context)
    assert not result.run_requests
    return result.skip_message


def test_what_came_before_its_host_was_registered_is_written_once_it_is(waiting: Stores) -> None:
    assert tick(waiting) == "nothing is held for a host that is known"
    register(waiting)
    assert tick(waiting) == "replayed 2 messages"
    assert tick(waiting) == "nothing is held for a host that is known"
    assert drained(waiting).points_written == 3
    [point] = points(waiting, NEW_DEVICE)
    assert (point["cpu"], point["memory"], point["uptime"]) == (10.0, 2.0, 1.0)
    assert len(points(waiting)) == 2
    assert states(waiting) == {"replayed": 2, "held": 1}  # the line that nobody can read
    [trail] = [d["trail"] for d in waiting.mongodb.database["quarantine"].find({"state": "replayed"})][:1]
    assert [(step["who"], step["action"]) for step in trail] == [("registered_hosts", "replayed")]
    assert tick(waiting) == "nothing is held for a host that is known"
    assert drained(waiting).messages == 0
    assert points(waiting, NEW_DEVICE) == [point]
    assert ledger(waiting) == {"partly_quarantined": 3, "written": 1}


@pytest.fixture
def anybody(fleet: Stores) -> Iterator[Stores]:
    """The stores where HOSTS_WITHOUT_ORGANIZATION is on."""
    with Postgres(url=fleet.postgres.url, hosts_without_organization="on").open() as postgres:
        yield dataclasses.replace(fleet, postgres=postgres)


def test_a_host_of_the_wrong_organization_or_of_several_goes_on_waiting(anybody: Stores) -> None:
    waiting = with_new(anybody, None)
    register(waiting, organization=OTHER_ORG)
    assert tick(waiting) == "replayed 1 messages"  # Telegraf's names no organization
    assert drained(waiting).points_written == 2
    register(waiting, device=str(uuid.UUID(int=78)))
    assert tick(waiting) == "replayed 1 messages"
    assert drained(waiting).points_written == 1
    publish(waiting, telegraf(line("mem", "used=1i", host="new", seconds_ago=20), organization=None))
    assert drained(waiting).points_written == 0
    assert tick(waiting) == "nothing is held for a host that is known"
    with waiting.postgres.transaction() as connection:
        connection.execute("DELETE FROM devices WHERE id = %s", (NEW_DEVICE,))
    assert tick(waiting) == "replayed 1 messages"
    assert drained(waiting).points_written == 1


def test_what_names_no_organization_waits_for_a_person(ninjait: Any, fleet: Stores, anybody: Stores) -> None:
    """Also what was held for its host while that was allowed: it would go to whoever registers the name."""
    with_new(anybody, None)
    publish(fleet, telegraf(line("mem", "used=1i", host="new", seconds_ago=20), organization=None))
    assert drained(fleet).points_written == 0
    register(fleet, organization=OTHER_ORG)
    assert tick(fleet) == "nothing is held for a host that is known"
    register(fleet, device=str(uuid.UUID(int=78)))
    assert tick(fleet) == "replayed 1 messages"  # collectd's, whose key names one
    assert drained(fleet).points_written == 1

    replay = ("quarantine", "replay", "--reason", "no_organization_in_key")
    assert ninjait(*replay, "--dry-run").stdout.endswith("1 would come back: no_organization_in_key\n") is False
    given = ninjait(*replay, "--set", f"organization_id={ORG}")
    assert given.exit_code == 0, given.output
    assert drained(fleet).points_written == 1
    assert [row["device_id"] for row in points(fleet, str(uuid.UUID(int=78)))] == [str(uuid.UUID(int=78))] * 2


def test_one_tick_replays_no_more_than_its_bound(fleet: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "MAX_REPLAYED", 2)
    publish(fleet, *(telegraf(line("mem", f"used={n}i", host="new", seconds_ago=60 + n)) for n in range(3)))
    assert drained(fleet).points_quarantined == 3
    register(fleet)
    registry = load_sender_registry(fleet.postgres)
    replayed = [replay_registered(fleet.mongodb, fleet.message_queue, registry, NOW) for _ in range(3)]
    assert replayed == [2, 1, 0]
    assert drained(fleet).points_written == 3
    assert len(points(fleet, NEW_DEVICE)) == 3


def test_the_same_lines_of_two_organizations_are_replayed_for_both(fleet: Stores) -> None:
    text = line("mem", f"used={MIB}i", host="new")
    publish(fleet, *(telegraf(text, organization=one) for one in (ORG, OTHER_ORG)))
    assert drained(fleet).points_quarantined == 2
    register(fleet)
    register(fleet, str(uuid.UUID(int=78)), OTHER_ORG)
    assert tick(fleet) == "replayed 2 messages"
    assert drained(fleet).points_written == 2
    assert len(points(fleet, NEW_DEVICE)) == len(points(fleet, str(uuid.UUID(int=78)))) == 1
