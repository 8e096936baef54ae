"""A third-party message read entry by entry: what is wrong with each, and what several make together."""

from typing import Any

import msgspec
import pytest

from ninjait_pipelines.ingest.decode.collectd import COLLECTD
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded, SenderRegistry
from ninjait_pipelines.ingest.decode.readings import decode_third_party
from ninjait_pipelines.ingest.decode.rejections import MAX_SHOWN
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines.messages import Message
from ninjait_pipelines_tests.ingest.decode.decoding import MIB, PERIOD, decoded, reasons
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    OTHER_ORG,
    REGISTRY,
    SECOND_DEVICE,
    collectd,
    line,
    telegraf,
    value_list,
)


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


def thorough(delivered: Message, registry: SenderRegistry = REGISTRY) -> Decoded:
    """A message of Telegraf's, read entry by entry."""
    return decode_third_party(delivered, LINE_PROTOCOL, registry, PERIOD)


def test_rejections_are_in_the_order_of_their_entries() -> None:
    """Cores are read after all other entries, because a total that comes later replaces them."""
    bad_core = line("cpu", "usage_idle=-50", cpu="cpu0")
    result = thorough(telegraf(bad_core, "oops", line("mem", "used=-1i"), bad_core, line("mem", "used=1048576i")))
    assert reasons(result) == [
        (0, "cpu", "negative"),
        (1, None, "bad_line"),
        (2, "memory", "negative"),
        (3, "cpu", "negative"),
    ]
    assert (result.points, result.rows, result.columns["memory"]) == (5, [4], [1.0])


def test_only_a_host_that_may_still_be_registered_keeps_its_whole_name() -> None:
    """Its messages are found by it then; any other value is cut, however long the sender made it."""
    host = "h" * 250
    unknown = thorough(telegraf(line("mem", "used=1i", host=host))).rejections[0]
    assert (unknown.reason, unknown.value) == ("unknown_host", repr(host))
    invalid = thorough(telegraf(line("mem", "used=1i", host="h" * 300))).rejections[0]
    assert (invalid.reason, invalid.field, len(invalid.value)) == ("too_long", "host", MAX_SHOWN)


def test_a_refused_organization_is_told_before_any_entry_is_looked_at() -> None:
    result = thorough(telegraf(line("mem", "used=1i"), "oops", organization="nobody"))
    assert (reasons(result), result.rejections[0].value) == (
        [(None, "routing_key", "unknown_organization")],
        "'metrics.telegraf.nobody'",
    )
    assert (result.whole, result.points, result.organization_id, result.host) == (True, 0, None, "lap-2")


def test_a_message_without_rows_still_belongs_to_the_organization_of_its_key() -> None:
    result = thorough(telegraf(line("mem", "used=-1i"), organization=OTHER_ORG))
    assert (result.organization_id, result.agent, result.host) == (OTHER_ORG, "telegraf", "lap-2")
    assert (result.columns, result.points, result.points_accepted) == ({}, 1, 0)


def test_interfaces_that_do_not_count_are_left_out_and_counted() -> None:
    lines = (line("net", "bytes_recv=1i,bytes_sent=2i", interface=name) for name in ("docker0", "eth0", "lan5"))
    registry = msgspec.structs.replace(REGISTRY, interfaces_left_out=["docker*", "lan?"])
    result = thorough(telegraf(*lines), registry)
    assert (result.counters["interface"], result.counter_rows) == (["eth0"], [1])
    assert [(one.measurement, one.readings) for one in result.left_out] == [("net", 2)]
    assert (result.unknown_fields, result.points) == (4, 1)


STATES = {"used": 3, "buffered": 1, "cached": 2, "free": 4}


def states(amounts: dict[str, Any]) -> list[dict[str, Any]]:
    return [value_list("memory", "memory", value, type_instance=name) for name, value in amounts.items()]


@pytest.mark.parametrize(
    ("amounts", "total"),
    [
        (STATES, 10 / MIB),
        (STATES | {"slab_recl": 5, "slab_unrecl": 6}, 21 / MIB),
        (STATES | {"slab_recl": 5}, None),
        ({name: amount for name, amount in STATES.items() if name != "free"}, None),
        (STATES | {"free": None}, None),
        (STATES | {"free": 1e300}, None),
    ],
)
def test_a_total_is_the_sum_of_all_states_or_nothing(amounts: dict[str, Any], total: float | None) -> None:
    """Some of the states would be a smaller memory, which nobody could recognize as wrong."""
    result = decode_third_party(collectd(*states(amounts)), COLLECTD, REGISTRY, PERIOD)
    assert (result.columns["memory"], result.columns["memory_total"]) == ([3 / MIB], [total])
    assert (result.left_out == []) is (total is not None)


def test_states_of_two_instants_make_no_total_together() -> None:
    first, second = states({"used": 1, "free": 1}), states({"buffered": 1, "cached": 1})
    later = [one | {"time": one["time"] + 10} for one in second]
    result = decode_third_party(collectd(*first, *later), COLLECTD, REGISTRY, PERIOD)
    assert result.columns["memory_total"] == [None]
