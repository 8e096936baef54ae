"""The fast path for plain lines: takes what is plain and good, reads it as the grammar does, and leaves the rest."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.ingest.decode.line_protocol_fast import decode_good_lines
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.readings import decode_third_party
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines.ingest.decode.third_party import MAX_BYTES, MAX_ENTRIES
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.ingest.decode.decoding import LINE_TEXTS, MIB, PERIOD, decoded, gauges, volumes
from ninjait_pipelines_tests.ingest.decode.fuzz import check
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    SECOND_DEVICE,
    gzipped,
    line,
    message,
    telegraf,
)

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


@examples(600)
@given(mutated_bodies() | LINE_TEXTS.map(str.encode), st.sampled_from(["", f".{ORG}"]))
def test_a_plain_line_is_read_as_the_whole_grammar_reads_it(body: bytes, organization: str) -> None:
    """`check` reads what the fast path takes by the grammar too, and compares them to the last bit."""
    check(message("agent.metrics", body, routing_key=f"metrics.telegraf{organization}", message_id=None))


def test_the_lines_of_a_fleet_are_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by itself, and all of them: no message of a fleet in which nothing is wrong comes near the grammar."""
    expected = [check(telegraf(one)) for one in REAL_LINES], check(telegraf(*REAL_LINES))
    monkeypatch.setattr("ninjait_pipelines.ingest.decode.message.decode_third_party", None)
    assert ([decoded(telegraf(one)) for one in REAL_LINES], result := decoded(telegraf(*REAL_LINES))) == expected
    assert (result.rows, result.counter_rows, result.volume_rows) == ([0, 2, 9, 11, 12, 15], [5, 7], [3, 8, 14])
    assert result.unknown_fields == 27
    memory = [None, 789491712 / MIB, None, None, 789491712 / MIB, 3 * 2**30 / MIB]
    assert gauges(result)["memory"] == memory
    assert gauges(result)["memory_total"] == [None, pytest.approx(24105.55078125), None, None, None, 4096.0]
    assert gauges(result)["uptime"] == [None, None, None, 420.0, None, None]
    assert result.counters["interface"] == ["eth0", "Ethernet 2"]
    assert volumes(result)[1:] == [("C:", "C:", 3 / MIB, 5 / MIB, None), ("C:", "C:", 150.0, 200.0, 50.0)]


ODD_HOSTS = ("a,b=c d", r"a\ b", r"a\b", '"', "=", "x" * 255, "lap-2 ", "mine")
HOSTS = {**REGISTRY.hosts, **{name: {ORG: SECOND_DEVICE} for name in ODD_HOSTS}, "theirs": {OTHER_ORG: OTHER_DEVICE}}
ODD_REGISTRY = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, HOSTS, hosts_without_organization=True)
TIME = round((NOW - timedelta(seconds=60)).timestamp()) * 10**9
USED = f"used={MIB}i"
MEM = f"mem,host=lap-2 {USED} {TIME}\n"
NET = f"net,host=lap-2,interface=eth0 bytes_recv=5i {TIME}\n"


def fast(delivered: Message) -> bool:
    """Whether the fast path takes it, and if so, that it reads it as the grammar does, to the last bit."""
    found = decode_good_lines(delivered, ODD_REGISTRY, PERIOD)
    expected = decode_third_party(delivered, LINE_PROTOCOL, ODD_REGISTRY, PERIOD)
    assert (found or expected) == expected == decode(delivered, ODD_REGISTRY, PERIOD)
    assert repr(found or expected) == repr(expected)  # which tells -0.0 from 0.0, and 1 from 1.0
    return found is not None


def came_to(delivered: Message) -> list[Any]:
    """What is taken of the lines, or why it is not, in their order."""
    result = decode(delivered, ODD_REGISTRY, PERIOD)
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
    (b"\xff" + MEM.encode(), False, ["invalid_utf8"]),
    (MEM.encode() + b"\x1f\x8b", False, ["invalid_utf8"]),
    (gzipped(f"{MEM}{NET}".encode()), True, [1.0, 5.0]),
    (gzipped(MEM.encode()) + b"\n", False, ["bad_gzip"]),
    (gzipped(gzipped(MEM.encode())), False, ["gzip"]),
    (gzipped(MEM.encode() + b"\xff"), False, ["invalid_utf8"]),
]

LARGE_BODIES: list[tuple[str | bytes, bool, list[Any]]] = [
    (left_out("a=1") * (MAX_ENTRIES - 1), True, []),
    (left_out("a=1") * MAX_ENTRIES, False, ["too_many_readings"]),
    (key("m,a=").replace(" ", "x" * (MAX_BYTES - len(key("m,a="))) + " ", 1).encode(), True, []),
    (key("m,a=").replace(" ", "x" * (MAX_BYTES - len(key("m,a="))) + "x ", 1).encode(), False, ["too_large"]),
    (gzipped(key(f"m,a={'x' * MAX_BYTES}").encode()), False, ["too_large"]),
]
EDGES = [*LINE_EDGES, *(pytest.param(*edge, marks=pytest.mark.large) for edge in LARGE_BODIES)]


@pytest.mark.parametrize(
    ("body", "plain", "expected"), EDGES, ids=[repr(edge[0])[:60] for edge in (*LINE_EDGES, *LARGE_BODIES)]
)
def test_what_the_fast_path_takes_and_what_it_leaves(body: str | bytes, plain: bool, expected: list[Any]) -> None:
    """Text comes after a line that is plain and of no interest, and bytes are the whole of a message."""
    whole = body if isinstance(body, bytes) else (left_out("a=1") + body).encode()
    delivered = message("agent.metrics", whole, routing_key=f"metrics.telegraf.{ORG}", message_id=None)
    assert (fast(delivered), repr(came_to(delivered))) == (plain, repr(expected))


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
    delivered = telegraf(body.removesuffix("\n"), routing_key=f"metrics.telegraf{organization}")
    assert (fast(delivered), came_to(delivered)) == (plain, expected)
    assert decode(delivered, ODD_REGISTRY, PERIOD).organization_id == owner
