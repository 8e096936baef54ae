"""What several lines or value lists of a message say together, and what other fields of a line say of ours."""

import itertools
import json
import time
import tracemalloc
from typing import Any

import pytest

from ninjait_pipelines.ingest.decode.message import Decoded, Period, SenderRegistry, decode
from ninjait_pipelines.ingest.decode.third_party import MAX_BYTES
from ninjait_pipelines.ingest.drain import BATCH_BYTES, _parts
from ninjait_pipelines.messages import Message
from ninjait_pipelines_tests.ingest.fuzz import check
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    SECOND_DEVICE,
    collectd,
    gzipped,
    line,
    message,
    telegraf,
    value_list,
)

MIB = 2**20
PERIOD = Period.at(NOW)


def of_lines(*lines: str) -> Decoded:
    """By the fast way and by the thorough, which `check` compares."""
    fast, slow = (check(telegraf(*some, organization=ORG)) for some in (lines, [*lines, "# thorough"]))
    assert (fast.columns, fast.volumes, fast.counters, fast.left_out) == (
        slow.columns,
        slow.volumes,
        slow.counters,
        slow.left_out,
    )
    return fast


def of_lists(*lists: Any) -> Decoded:
    return check(collectd(*lists, organization=ORG))


def cpu(result: Decoded) -> list[float]:
    return [round(value, 6) for value in result.columns.get("cpu", ()) if value is not None]


# ---- cores


def cores(idle: dict[Any, float], measurement: str = "cpu", seconds_ago: float = 60, host: str = "lap-2") -> list[str]:
    """A line for each core. Of Windows a comma in a core's name is one between its group and its number."""
    tag, field, name = (
        ("cpu", "usage_idle", "cpu{}") if measurement == "cpu" else ("instance", "Percent_Idle_Time", "{}")
    )
    return [
        line(measurement, f"{field}={value}", seconds_ago, host, **{tag: name.format(core).replace(",", "\\,")})
        for core, value in idle.items()
    ]


WHOLES: list[tuple[list[str], list[float]]] = [
    (cores({0: 99, 1: 50}), [25.5]),
    (cores({1: 50, 0: 99}), [25.5]),
    (cores(dict.fromkeys(range(64), 75)), [25.0]),
    (cores({0: 99, 1: 50}, "win_cpu"), [25.5]),
    (cores({"0,0": 99, "0,1": 50}, "win_cpu"), [25.5]),
    (cores({"0,0": 100, "1,0": 50, "0,1": 90, "1,1": 40}, "win_cpu"), [30.0]),
    (cores({0: 100, 1: 0}) + cores({0: 50, 1: 50}, seconds_ago=50), [50.0, 50.0]),
    (cores({0: 100, 1: 0}) + cores({0: 0, 1: 0}, host="lap-1"), [50.0, 100.0]),
    (cores({0: 100}) + cores({0: 40}, seconds_ago=50), [0.0, 60.0]),  # a machine of one core, seen twice
    # without hyperthreads the odd ones are missing: every instant has the same
    (cores({0: 100, 2: 0}) + cores({0: 80, 2: 80}, seconds_ago=50), [50.0, 20.0]),
    (cores({0: -0.4, 1: 100.3}), [50.0]),
    # the total counts, wherever in the message it is, and in whichever case its host
    ([*cores({0: 100, 1: 0}), line("cpu", "usage_idle=90", cpu="cpu-total")], [10.0]),
    ([*cores({0: 100, 1: 0}), line("cpu", "usage_idle=90", 10, "LAP-2", cpu="cpu-total")], [10.0]),
    (cores({0: 100, "_Total": 90}, "win_cpu"), [10.0]),
]
NO_WHOLES = [
    cores({0: 99}),
    cores({1: 99, 2: 50}),
    cores({0: 99, 2: 50}),
    cores({0: 99, 1: 50}) + cores({0: 99}, seconds_ago=50) + cores({0: 1, 1: 1, 2: 1, 4: 1}, seconds_ago=40),
    cores({"0,_Total": 99, "1,_Total": 1}, "win_cpu"),
    cores({"0,1": 99, "1,0": 1}, "win_cpu"),
]


@pytest.mark.parametrize(("lines", "busy"), WHOLES, ids=range(len(WHOLES)))
def test_the_mean_of_all_cores_is_the_device_s(lines: list[str], busy: list[float]) -> None:
    assert cpu(of_lines(*lines)) == busy


@pytest.mark.parametrize("lines", NO_WHOLES, ids=range(len(NO_WHOLES)))
def test_some_of_the_cores_are_no_device_s(lines: list[str]) -> None:
    """A mean of them would be a wrong number: they are left out, and seen to be."""
    result = of_lines(*lines)
    assert cpu(result) == []
    assert any(one.measurement in ("cpu", "win_cpu") for one in result.left_out)
    assert result.rejections == []


def test_a_full_batch_may_have_been_cut_within_its_last_instant() -> None:
    others = [line("swap", f"used={n}i") for n in range(48)]
    both = cores({0: 99, 1: 50})
    assert cpu(check(telegraf(*others, *both))) == []
    assert cpu(check(telegraf(*both, *others))) == cpu(check(telegraf(*others[1:], *both))) == [25.5]


def test_a_core_that_always_says_nonsense_leaves_no_mean_of_the_others() -> None:
    """Core 0 alone, half idle, was the whole of a device whose other core is busier than there is."""
    result = of_lines(*cores({0: 50, 1: -1.01}), *cores({0: 50, 1: -1.01}, seconds_ago=50))
    assert cpu(result) == []
    assert [(one.reason, one.field) for one in result.rejections] == [("negative", "cpu")] * 2
    assert [(one.measurement, one.readings) for one in result.left_out] == [("cpu", 2)]


def test_a_core_that_says_nonsense_costs_its_instant() -> None:
    lines = cores({0: 99, 1: -1305}) + cores({0: 99, 1: 50}, seconds_ago=50)
    result = of_lines(*lines)
    assert [(one.index, one.field, one.reason) for one in result.rejections] == [(1, "cpu", "negative")]
    assert cpu(result) == [25.5]
    assert of_lines(*lines, line("cpu", "usage_idle=1", cpu="cpu-total")).rejections == []  # nobody looks at it


def test_cores_of_a_host_that_is_not_known_wait_for_it_together() -> None:
    result = of_lines(*cores({0: 99, 1: 50}, host="new"))
    assert [(one.index, one.reason) for one in result.rejections] == [(0, "unknown_host"), (1, "unknown_host")]


def core_lists(idle: dict[str, float], **fields: Any) -> list[dict[str, Any]]:
    return [
        value_list("cpu", "percent", value, plugin_instance=core, type_instance="idle", **fields)
        for core, value in idle.items()
    ]


def test_cores_and_totals_of_collectd() -> None:
    assert cpu(of_lists(*core_lists({"0": 99, "1": 50}))) == [25.5]
    assert cpu(of_lists(*core_lists({"0": 99, "1": 50}), *core_lists({"0": 1}, seconds_ago=50))) == [25.5]
    assert cpu(of_lists(*core_lists({"0": 99}))) == []  # as its amqp plugin sends them, one by one
    assert cpu(of_lists(*core_lists({"0": 99, "1": 50}), value_list("cpu", "percent", 7, type_instance="active"))) == [
        7
    ]
    average = value_list("aggregation", "percent", 90, plugin_instance="cpu-average", type_instance="idle")
    assert cpu(of_lists(average, *core_lists({"0": 99, "1": 50}))) == [10.0]
    assert cpu(of_lists(average | {"plugin_instance": "cpu-sum"})) == []
    active = [one | {"type_instance": "active"} for one in core_lists({"0": 20, "1": 40})]
    assert cpu(of_lists(*active)) == [30.0]


# ---- memory


@pytest.mark.parametrize(
    ("fields", "memory", "total"),
    [
        (f"used={3 * MIB}i,total={8 * MIB}i,available={4 * MIB}i", 3.0, 8.0),
        (f"total={8 * MIB}i,available={6 * MIB}i,available_percent=1,used_percent=1", 2.0, 8.0),
        (f"total={8 * MIB}i,available_percent=75", 2.0, 8.0),
        (f"total={8 * MIB}i,used_percent=25", 2.0, 8.0),
        (f"available={6 * MIB}i,available_percent=75", 2.0, 8.0),
        (f"used={2 * MIB}i,used_percent=25", 2.0, 8.0),
        (f"used={2 * MIB}i,used_percent=0", 2.0, None),
        (f"total={8 * MIB}i,available={9 * MIB}i", None, 8.0),  # nonsense costs nothing that was sent
        (f'total={8 * MIB}i,used_percent="25"', None, 8.0),
        (f"total={8 * MIB}i,used_percent=120", None, 8.0),
        (f"used={2 * MIB}i", 2.0, None),
    ],
)
def test_memory_from_what_is_sent_of_it(fields: str, memory: float | None, total: float | None) -> None:
    result = of_lines(line("mem", fields))
    assert (result.columns["memory"], result.columns["memory_total"]) == ([memory], [total])
    assert result.rejections == []


@pytest.mark.parametrize("fields", ["used_percent=25", f"available={MIB}i", "available_percent=5", "free=1i"])
def test_a_percentage_alone_is_no_memory(fields: str) -> None:
    result = of_lines(line("mem", fields))
    assert (result.points, [one.measurement for one in result.left_out]) == (0, ["mem"])


STATES = {"used": 4, "buffered": 1, "cached": 2, "free": 1, "slab_unrecl": 0.5, "slab_recl": 0.5}


def memory_lists(states: dict[str, float | None], **fields: Any) -> list[dict[str, Any]]:
    return [
        value_list("memory", "memory", None if value is None else value * 2**30, type_instance=state, **fields)
        for state, value in states.items()
    ]


@pytest.mark.parametrize(
    ("states", "total"),
    [
        (STATES, 9 * 1024.0),
        ({state: STATES[state] for state in ("free", "cached", "buffered", "used")}, 8 * 1024.0),
        ({state: STATES[state] for state in ("used", "buffered", "cached")}, None),
        ({state: STATES[state] for state in STATES if state != "slab_recl"}, None),
        (STATES | {"free": None}, None),
        (STATES | {"free": -1}, None),
        ({"used": 4}, None),
    ],
)
def test_the_size_of_memory_is_the_sum_of_all_its_states(states: dict[str, float | None], total: float | None) -> None:
    result = of_lists(*memory_lists(states))
    assert (result.columns["memory"], result.columns["memory_total"]) == ([4096.0], [total])
    assert (result.points, result.unknown_fields) == (1, 0 if total else len(states) - 1)
    assert bool(result.left_out) == (total is None and len(states) > 1)


def test_states_of_two_instants_are_no_sum() -> None:
    some, rest = dict(itertools.islice(STATES.items(), 2)), dict(itertools.islice(STATES.items(), 2, None))
    result = of_lists(*memory_lists(some), *memory_lists(rest, seconds_ago=50))
    assert result.columns["memory_total"] == [None]


# ---- volumes


def volumes(result: Decoded) -> list[tuple[Any, ...]]:
    names = ("disk", "volume", "used", "total", "free")
    columns = [result.volumes.get(name, ()) for name in names]
    return [
        tuple(round(one, 3) if isinstance(one, float) else one for one in row) for row in zip(*columns, strict=True)
    ]


@pytest.mark.parametrize(
    ("made", "volume"),
    [
        (
            line("disk", f"used={MIB}i,total={4 * MIB}i,free={2 * MIB}i", path="/", device="sda1"),
            ("sda1", "/", 1, 4, 2),
        ),
        (line("disk", f"free={3 * MIB}i,used_percent=25", path="/"), ("", "/", 1, None, 3)),
        (line("disk", f"total={4 * MIB}i", path="/volume1", fstype="btrfs"), ("", "/volume1", None, 4, None)),
        (line("disk", "used=1048576u", path=r"\C:", device="C:", fstype="NTFS"), ("C:", "C:", 1, None, None)),
        (
            line("disk", f"used={MIB}i,total={4 * MIB}i", path="/", device="r/a", fstype="zfs"),
            ("zfs:r/a", "/", 1, 4, None),
        ),
        (line("disk", f"used={2**62}i", path="/x"), ("", "/x", 2**42, None, None)),
        (line("win_disk", "Free_Megabytes=50,Percent_Free_Space=25", instance="D:"), ("D:", "D:", 150, 200, 50)),
        (line("win_disk", "Free_Megabytes=50", instance="c:"), ("C:", "C:", None, None, 50)),
        (line("win_disk", "Free_Megabytes=0,Percent_Free_Space=0", instance="C:"), ("C:", "C:", None, None, 0)),
        (line("win_disk", "Free_Megabytes=50,%_Free_Space=25", instance="C:"), ("C:", "C:", 150, 200, 50)),
        (line("win_disk", r"Free\ Megabytes=50,%\ Free\ Space=25", instance="C:"), ("C:", "C:", 150, 200, 50)),
        (
            line("win_perf_counters", "Free_Megabytes=5", instance="C:", objectname="LogicalDisk"),
            ("C:", "C:", None, None, 5),
        ),
        (line("win_d", "Free_Megabytes=5", instance="C:", objectname="logicaldisk"), ("C:", "C:", None, None, 5)),
    ],
)
def test_a_volume_from_what_is_sent_of_it(made: str, volume: tuple[Any, ...]) -> None:
    result = of_lines(made)
    assert (volumes(result), result.rejections, result.points) == ([volume], [], 1)


@pytest.mark.parametrize(
    "made",
    [
        line("win_disk", "Free_Megabytes=5", instance="_Total"),
        line("win_disk", "Free_Megabytes=5", instance="HarddiskVolume3"),
        line("win_disk", "Percent_Free_Space=5", instance="C:"),
        line("win_disk", "Free_Megabytes=5", instance="C:", objectname="PhysicalDisk"),
        line("win_diskio", "Disk_Reads_persec=5", instance="0\\ C:", objectname="PhysicalDisk"),
        line("win_mem", "Available_Bytes=5,Committed_Bytes=7", instance="------", objectname="Memory"),
        line("win_net", "Bytes_Received_persec=5,Bytes_Sent_persec=5", instance="Intel[R]\\ I219"),
        line("win_swap", "Percent_Usage=5", instance="_Total", objectname=r"Paging\ File"),
        line("win_cpu", "Percent_User_Time=5", instance="_Total"),
        line("win_cpu", "Percent_Processor_Time=5", instance="chrome", objectname="Process"),
        line("disk", "used_percent=5", path="/"),
        line("disk", "used=5i"),
        line("net", "bytes_recv=5i", interface="docker0"),
        line("net", "tcp_inerrs=5i", interface="all"),
        line("system", 'uptime_format="1 day"'),
    ],
)
def test_what_no_honest_number_comes_of_is_left_out_and_seen(made: str) -> None:
    """With a rate for a counter, or committed memory for memory in use, the figures would only look right."""
    result = of_lines(made)
    assert (result.points, sum(one.readings for one in result.left_out)) == (0, 1)


@pytest.mark.parametrize(
    ("made", "field", "value"),
    [
        (line("win_cpu", "Percent_Processor_Time=2.5,Percent_Idle_Time=90", instance="_Total"), "cpu", 2.5),
        (line("win_cpu", "Percent_Idle_Time=97.5", instance="_Total"), "cpu", 2.5),
        (line("win_cpu", r"%\ Idle\ Time=97.5", instance="_Total"), "cpu", 2.5),
        (line("win_cpu", "%_Processor_Time=2.5", instance="_Total"), "cpu", 2.5),
        (line("win_cpu", "Percent_Processor_Time=100.4", instance="_Total"), "cpu", 100.0),
        (line("win_x", "Percent_Idle_Time=97.5", instance="_Total", objectname=r"Processor\ Information"), "cpu", 2.5),
        (line("win_system", "System_Up_Time=123456.75"), "uptime", 123456.75),
        (line("win_system", r"System\ Up\ Time=5", instance="------", objectname="System"), "uptime", 5.0),
        (line("system", "uptime=5i"), "uptime", 5.0),
    ],
)
def test_windows_counters_and_uptime(made: str, field: str, value: float) -> None:
    assert of_lines(made).columns[field] == [value]


def test_the_counters_behind_windows_rates_are_counters() -> None:
    fields = "Bytes_Received_persec=1.5,Bytes_Received_persec_Raw=1000i,Bytes_Sent_persec_Raw=500i"
    result = of_lines(line("win_net", fields, instance="Intel[R]\\ I219"), line("win_net", fields, instance="_Total"))
    assert (result.counters["interface"], result.counters["network_in"]) == (["Intel[R] I219"], [1000.0])
    assert result.counters["network_out"] == [500.0]


def df(instance: str, values: dict[str, float | None], **fields: Any) -> list[dict[str, Any]]:
    return [
        value_list("df", "df_complex", None if value is None else value * MIB, plugin_instance=instance, **fields)
        | {"type_instance": state}
        for state, value in values.items()
    ]


WHOLE = {"free": 3, "reserved": 1, "used": 4}


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        (df("root", WHOLE), [("", "root", 4, 8, 3)]),
        (df("vda1", WHOLE), [("", "vda1", 4, 8, 3)]),
        (df("root", {"used": 4, "free": 3}), [("", "root", 4, None, 3)]),
        (df("root", WHOLE | {"reserved": None}), [("", "root", 4, None, 3)]),
        (df("root", {"reserved": 1}), []),
        (df("root", WHOLE) + df("home", WHOLE), [("", "root", 4, 8, 3), ("", "home", 4, 8, 3)]),
        (
            df("root", {"used": 4}) + df("root", {"free": 3}, seconds_ago=50),
            [("", "root", 4, None, None), ("", "root", None, None, 3)],
        ),
        (df("dev-shm", WHOLE) + df("run", WHOLE) + df("snap-core-1", WHOLE) + df("tmpfs", WHOLE), []),
        (df("var-lib-docker-overlay2-0a1b-merged", WHOLE) + df("", WHOLE) + df("loop3", WHOLE), []),
        (df("nas:_export_data", WHOLE) + df("10.0.0.5:-export", WHOLE) + df("--nas-share", WHOLE), []),
        (df("mapper_vg0-root", WHOLE), [("", "mapper_vg0-root", 4, 8, 3)]),
    ],
)
def test_a_volume_of_collectd_is_one_row_of_an_instant(lists: list[Any], found: list[tuple[Any, ...]]) -> None:
    result = of_lists(*lists)
    assert (volumes(result), result.points) == (found, len(found))


def test_a_volume_keeps_what_is_good_of_it() -> None:
    result = of_lists(*df("root", {"used": -1, "free": 3, "reserved": 1}))
    assert [(one.index, one.field, one.reason) for one in result.rejections] == [(0, "used", "negative")]
    assert volumes(result) == [("", "root", None, None, 3)]


# ---- hosts


@pytest.mark.parametrize(
    ("host", "device"),
    [("LAP-2", SECOND_DEVICE), ("Lap-2", SECOND_DEVICE), ("pc", DEVICE), ("PC", SECOND_DEVICE), ("Pc", None)],
)
def test_case_tells_hosts_apart_only_where_it_has_to(host: str, device: str | None) -> None:
    hosts = {"lap-2": {ORG: SECOND_DEVICE}, "pc": {ORG: DEVICE}, "PC": {ORG: SECOND_DEVICE, OTHER_ORG: OTHER_DEVICE}}
    registry = SenderRegistry(REGISTRY.organizations, REGISTRY.devices, hosts)
    for foreign in (
        telegraf(line("mem", "used=0i", host=host), organization=ORG),
        collectd(value_list("memory", "memory", 0, type_instance="used", host=host), organization=ORG),
    ):
        result = decode(foreign, registry, PERIOD)
        if device:
            assert result.columns["device_id"] == [device]
        else:
            assert [one.reason for one in result.rejections] == ["ambiguous_host"]
    elsewhere = decode(telegraf(line("mem", "used=0i", host="Pc"), organization=OTHER_ORG), registry, PERIOD)
    assert elsewhere.columns["device_id"] == [OTHER_DEVICE]


# ---- interfaces


def test_which_interfaces_count_is_said_once_for_all_formats() -> None:
    mine = SenderRegistry(REGISTRY.organizations, REGISTRY.devices, REGISTRY.hosts, interfaces_left_out=("eth*", "lo"))
    names = ["eth0", "br0", "lo"]
    lines = telegraf(*(line("net", "bytes_recv=1i", interface=name) for name in names), organization=ORG)
    lists = collectd(
        *(value_list("interface", "if_octets", 1, 1, plugin_instance=name) for name in names), organization=ORG
    )
    for foreign, kind in ((lines, "net"), (lists, "interface/if_octets")):
        assert decode(foreign, REGISTRY, PERIOD).counters["interface"] == ["eth0"]
        result = decode(foreign, mine, PERIOD)
        assert result.counters["interface"] == ["br0"]
        assert [(one.measurement, one.readings) for one in result.left_out] == [(kind, 2)]


# ---- large batches


def batch(lines: int, tag: int) -> Message:
    label = "x" * tag
    return telegraf(*(line("mem", f"used={n}i", n % 3600, label=label) for n in range(lines)), organization=ORG)


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_batch_is_one_message_of_all_its_lines(packed: bool) -> None:
    """1,000 lines of 1.2 kB are a batch of Telegraf's by default, and 20,000 short ones somebody's own."""
    for one in (batch(1_000, 1_150), batch(20_000, 1)):
        body = gzipped(one.body) if packed else one.body
        result = decode(message("agent.metrics", body, routing_key=one.routing_key, message_id=None), REGISTRY, PERIOD)
        assert (result.points_accepted, result.rejections) == (one.body.count(b"\n"), [])
    bad = one.body + b"oops\n"
    result = decode(message("agent.metrics", bad, routing_key=one.routing_key, message_id=None), REGISTRY, PERIOD)
    assert (result.points_accepted, [one.reason for one in result.rejections]) == (20_000, ["bad_line"])


def test_a_large_list_of_collectd_s_is_taken() -> None:
    lists = [value_list("memory", "memory", n, type_instance="used", seconds_ago=n % 3600) for n in range(12_000)]
    foreign = collectd(*lists, organization=ORG)
    assert len(foreign.body) > 2 * MIB
    assert decode(foreign, REGISTRY, PERIOD).points_accepted == 12_000


@pytest.mark.parametrize("of", [b"{},", b"[],", b"1,", b'"",', b"null,"])
def test_junk_of_16_mib_takes_bounded_memory_and_time(of: bytes) -> None:
    body = b"[" + of * ((MAX_BYTES - 4) // len(of)) + b"1]"
    foreign = message("agent.metrics", body, routing_key=f"metrics.collectd.{ORG}", message_id=None)
    tracemalloc.start()
    started = time.thread_time()
    try:
        assert [one.reason for one in decode(foreign, REGISTRY, PERIOD).rejections] == ["too_many_readings"]
        assert tracemalloc.get_traced_memory()[1] < 150 * MIB
    finally:
        tracemalloc.stop()
    assert time.thread_time() - started < 5


def test_what_is_packed_goes_in_parts_as_large_as_it_is_unpacked() -> None:
    """A hundred messages come at once, and 16 MiB may be packed into 16 kB."""
    small, large = batch(10, 1), batch(1, MAX_BYTES - 200)
    packed = message("agent.metrics", gzipped(large.body), routing_key=large.routing_key)
    assert len(packed.body) < 50_000 < BATCH_BYTES
    parts = [list(part) for part in _parts([small, small, packed, packed, small, small])]
    assert list(map(len, parts)) == [2, 1, 1, 2]
    assert [one for part in parts for one in part] == [small, small, packed, packed, small, small]
    assert list(_parts([])) == []
    assert json.dumps(len(list(_parts([small] * 4000)))) == "1"
    usual = batch(100, 200)
    received = [usual] * (BATCH_BYTES // len(usual.body) + 100)
    assert len(list(_parts(received))) == 1, "what the last receive brings beyond the bound is no batch of its own"
