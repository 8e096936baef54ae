"""Whose readings are whose: hosts, organizations, and what of theirs is left out."""

from typing import Any

import msgspec
import pytest

from ninjait_pipelines.ingest.decode.hosts import MAX_LEFT_OUT, OTHERS
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import NOBODY, LeftOut, SenderRegistry
from ninjait_pipelines_tests.ingest.decode.decoding import PERIOD, decoded, reasons
from ninjait_pipelines_tests.ingest.samples import (
    ANYBODY,
    DEVICE,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    SECOND_DEVICE,
    collectd,
    line,
    message,
    telegraf,
    unknown_lines,
    value_list,
)


@pytest.mark.parametrize("made_by", [telegraf, collectd])
@pytest.mark.parametrize("host", ["lap-1", "lap-2", "nobody"])
def test_a_key_without_an_organization_is_nobody_s(made_by: Any, host: str) -> None:
    """A host went to whoever had registered its name first, and anyone could make another's ambiguous."""
    one = line("mem", "used=0i", host=host) if made_by is telegraf else value_list("cpu", "percent", 5, host=host)
    result = decoded(made_by(one, organization=None))
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


def test_a_message_of_devices_of_several_organizations_is_of_none() -> None:
    hosts = {"a": {ORG: DEVICE}, "b": {OTHER_ORG: "x"}}
    registry = msgspec.structs.replace(ANYBODY, hosts=hosts)
    both = telegraf(line("mem", "used=0i", host="a"), line("mem", "used=0i", host="b"), organization=None)
    assert decode(both, registry, PERIOD).organization_id is None
    assert decode(both, registry, PERIOD).columns["organization_id"] == [ORG, OTHER_ORG]


@pytest.mark.parametrize(
    ("host", "device"),
    [("LAP-2", SECOND_DEVICE), ("Lap-2", SECOND_DEVICE), ("pc", DEVICE), ("PC", SECOND_DEVICE), ("Pc", None)],
)
def test_case_tells_hosts_apart_only_where_it_has_to(host: str, device: str | None) -> None:
    hosts = {"lap-2": {ORG: SECOND_DEVICE}, "pc": {ORG: DEVICE}, "PC": {ORG: SECOND_DEVICE, OTHER_ORG: OTHER_DEVICE}}
    registry = SenderRegistry(REGISTRY.organizations, REGISTRY.devices, hosts)
    for delivered in (
        telegraf(line("mem", "used=0i", host=host), organization=ORG),
        collectd(value_list("memory", "memory", 0, type_instance="used", host=host), organization=ORG),
    ):
        result = decode(delivered, registry, PERIOD)
        if device:
            assert result.columns["device_id"] == [device]
        else:
            assert [one.reason for one in result.rejections] == ["ambiguous_host"]
    elsewhere = decode(telegraf(line("mem", "used=0i", host="Pc"), organization=OTHER_ORG), registry, PERIOD)
    assert elsewhere.columns["device_id"] == [OTHER_DEVICE]


def test_which_interfaces_count_is_said_once_for_all_formats() -> None:
    mine = SenderRegistry(REGISTRY.organizations, REGISTRY.devices, REGISTRY.hosts, interfaces_left_out=("eth*", "lo"))
    names = ["eth0", "br0", "lo"]
    lines = telegraf(*(line("net", "bytes_recv=1i", interface=name) for name in names), organization=ORG)
    lists = collectd(
        *(value_list("interface", "if_octets", 1, 1, plugin_instance=name) for name in names), organization=ORG
    )
    for delivered, kind in ((lines, "net"), (lists, "interface/if_octets")):
        assert decode(delivered, REGISTRY, PERIOD).counters["interface"] == ["eth0"]
        result = decode(delivered, mine, PERIOD)
        assert result.counters["interface"] == ["br0"]
        assert [(one.measurement, one.readings) for one in result.left_out] == [(kind, 2)]


@pytest.mark.parametrize("end", ["", " # nothing"])
def test_what_was_not_understood_is_named_in_the_fast_way_and_in_the_thorough(end: str) -> None:
    """A Windows fleet was `written` with 0 points, and nothing said whose readings of what were left out."""
    lines = [*unknown_lines(), line("mem", "used=1048576i"), line("mem", "free=1i"), *([end.strip()] if end else [])]
    result = decode(telegraf(*lines, organization=ORG), REGISTRY, PERIOD)
    assert result.left_out == [
        LeftOut(ORG, SECOND_DEVICE, "lap-2", "win_services", "state", 2),
        LeftOut(ORG, SECOND_DEVICE, "lap-2", "win_wmi", "Depth", 1),
        LeftOut(ORG, SECOND_DEVICE, "lap-2", "mem", "free", 1),
    ]
    assert (result.points, result.agent, result.host) == (1, "telegraf", "lap-2")


def test_what_collectd_sends_is_left_out_by_plugin_and_type() -> None:
    lists = [
        value_list("load", "load", 0.5),
        value_list("swap", "swap", 1, type_instance="free"),
        value_list("memory", "memory", 1, type_instance="used"),
    ]
    lists.append(value_list("cpu", "cpu", host=None, values=[], dsnames=[], dstypes=[]))
    lists.append(value_list("df", "", 1) | {"host": ["x"], "plugin": 1})
    result = decode(collectd(*lists, organization=ORG), REGISTRY, PERIOD)
    assert result.left_out == [
        LeftOut(ORG, SECOND_DEVICE, "lap-2", "load/load", "value", 1),
        LeftOut(ORG, SECOND_DEVICE, "lap-2", "swap/swap", "free", 1),
        LeftOut(NOBODY, NOBODY, "", "/", "value", 1),
    ]
    assert (result.points, result.agent, result.host) == (1, "collectd", "lap-2")


def test_a_host_that_is_not_registered_is_named_all_the_same() -> None:
    result = decode(telegraf(*unknown_lines("new-pc"), organization=ORG), REGISTRY, PERIOD)
    assert {(one.organization_id, one.device_id, one.host) for one in result.left_out} == {(NOBODY, NOBODY, "new-pc")}
    assert not result.rejections


@pytest.mark.parametrize("fast", [True, False])
def test_invented_names_are_bounded_in_number_and_length(fast: bool) -> None:
    """A sender may invent a measurement for each line, and a host."""
    invented = [line(f"m{number:0>300}", f"{'f' * 300}=1i") for number in range(1000)]
    invented += [line("x", "y=1i", host=f"h{number:0>300}") for number in range(1000)]
    body = telegraf(*invented, *([] if fast else ["# thorough"]), organization=ORG)
    found = decode(body, REGISTRY, PERIOD).left_out
    assert len(found) == 2 * MAX_LEFT_OUT + 1
    assert sum(one.readings for one in found) == 2000
    assert max(len(name) for one in found for name in (one.host, one.measurement, one.example)) == 100
    assert [one.readings for one in found if (one.host, one.measurement) == ("lap-2", OTHERS)] == [1000 - MAX_LEFT_OUT]
    assert found[-1].host == OTHERS


@pytest.mark.parametrize(
    ("body", "host"),
    [
        (b'mem,host=lap-7 used=1\nnot a line"', "lap-7"),
        (b'{"metrics": [{"name": "mem", "tags": {"host": "lap-7"}}]}', "lap-7"),
        (b"\xff\xfe nothing", ""),
        (b"mem,host=" + b"x" * 5000, "x" * 100),
    ],
)
def test_the_sender_of_what_cannot_be_read_is_told_apart(body: bytes, host: str) -> None:
    result = decode(message("agent.metrics", body, routing_key=f"metrics.telegraf.{ORG}"), REGISTRY, PERIOD)
    assert (result.host, result.agent) == (host, "telegraf")
