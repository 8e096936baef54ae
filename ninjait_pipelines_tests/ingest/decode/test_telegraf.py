"""What is taken of Telegraf's measurements, tags and fields."""

from typing import Any

import pytest

from ninjait_pipelines.ingest.decode import telegraf as telegraf_module
from ninjait_pipelines_tests.ingest.decode.decoding import (
    MIB,
    NANOSECONDS,
    TIME,
    decoded,
    gauges,
    of_lines,
    rounded_volumes,
    volumes,
)
from ninjait_pipelines_tests.ingest.decode.fuzz import check
from ninjait_pipelines_tests.ingest.samples import (
    ORG,
    SECOND_DEVICE,
    line,
    telegraf,
)


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


def test_the_busy_percentage_wins_over_the_idle_one() -> None:
    both = line("cpu", "usage_active=30,usage_idle=50", cpu="cpu-total")
    assert gauges(decoded(telegraf(both))) == {"cpu": [30.0]}


def test_what_is_remembered_of_lines_is_short() -> None:
    """Whoever sends a new key with every line fills the memory of keys, but not the machine's: one is 300 bytes."""
    telegraf_module._series.cache_clear()
    for key in ("swap,a=" + "x" * 294, "swap,a=" + "\\," * 147, "swap,a=l\U0001f600p", "swap,a=1,a=2"):
        check(telegraf(f"{key} used=1i {NANOSECONDS}"))
    assert telegraf_module._series.cache_info().currsize == 0
    check(telegraf(f"swap,a={'x' * 293} used=1i {NANOSECONDS}"))
    assert telegraf_module._series.cache_info().currsize == 1


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
    assert (rounded_volumes(result), result.rejections, result.points) == ([volume], [], 1)


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
