"""Variants of the cases from the field: each kind at other intervals, systems, widths and times; one fleet, one hour.

All hosts go the whole way together, from the queue to the hourly rows; each has its right value beside it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.field_cases import (
    device_of,
    hour_before,
    message_of,
    register_hosts,
    rolled_up,
    take,
)

GIB, MIB = 2**30, 2**20
Values = Iterable[tuple[float, int]]  # (seconds since the start of the hour, bytes)


def net(host: str, values: Values, interface: str = "eth0", suffix: str = "i") -> str:
    """Telegraf's `net`, the same in both directions."""
    name = interface.replace(" ", r"\ ")
    return "".join(
        f"net,host={host},interface={name} bytes_recv={value}{suffix},bytes_sent={value}{suffix} @ns({second})\n"
        for second, value in values
    )


def win_net(host: str, values: Values, interface: str) -> str:
    """Windows' performance counters with `UseRawValues = true`."""
    tags, name = f"win_net,host={host},objectname=Network\\ Interface", interface.replace(" ", r"\ ")
    return "".join(
        f"{tags},instance={name} Bytes_Received_persec_Raw={value}i,Bytes_Sent_persec_Raw={value}i @ns({second})\n"
        for second, value in values
    )


def octets(host: str, values: Values, interface: str = "eth0") -> str:
    """collectd's interface plugin."""
    lists = [
        value_list(host, second, [value, value], "interface", interface, "if_octets", names=("rx", "tx"), kind="derive")
        for second, value in values
    ]
    return f"[{', '.join(lists)}]"


def value_list(
    host: str,
    second: float,
    values: Sequence[float],
    plugin: str,
    instance: str,
    type_: str,
    type_instance: str = "",
    names: Sequence[str] = ("value",),
    kind: str = "gauge",
) -> str:
    text = json.dumps(
        {
            "values": values,
            "dstypes": [kind] * len(values),
            "dsnames": names,
            "time": "TIME",
            "interval": 10.0,
            "host": host,
            "plugin": plugin,
            "plugin_instance": instance,
            "type": type_,
            "type_instance": type_instance,
        }
    )
    return text.replace('"TIME"', f"@sf({second})")


def steady(rate: int, every: int = 60, start: int = 0, stop: int = 3600, base: int = 9_000_000_000) -> list[Any]:
    return [(second, base + rate * second) for second in range(start, stop, every)]


def falling(values: Values, back: int, often: int) -> Iterator[tuple[float, int]]:
    for n, (second, value) in enumerate(values):
        yield second, value - (back if n % often == often - 1 else 0)


def wrapped(values: Values, bits: int) -> Iterator[tuple[float, int]]:
    return ((second, value % 2**bits) for second, value in values)


def bursts(quiet: int, busy: int, base: int) -> Iterator[tuple[float, int]]:
    """Quiet but for five minutes, every 30 seconds."""
    value = base
    for second in range(0, 3600, 30):
        yield second, value
        value += 30 * (busy if 1_200 <= second < 1_500 else quiet)


def booted(rate: int, at: Sequence[int], every: int = 60) -> list[tuple[float, int]]:
    """A counter that begins anew a minute before each of the times."""
    found: list[tuple[float, int]] = []
    for second in range(0, 3600, every):
        boot = max((moment for moment in at if moment <= second), default=-1)
        found.append((second, 9_000_000_000 + rate * second if boot < 0 else rate * (second - boot + 60)))
    return found


def idle(host: str, *values: float, every: int = 60, name: str = "usage_idle") -> str:
    return "".join(f"cpu,cpu=cpu-total,host={host} {name}={value} @ns({n * every})\n" for n, value in enumerate(values))


def collectd_idle(host: str, *values: float) -> str:
    lists = [value_list(host, n * 60, [value], "cpu", "", "percent", "idle") for n, value in enumerate(values)]
    return f"[{', '.join(lists)}]"


def answers(host: str, every: int, start: int = 0, stop: int = 3600) -> str:
    return "".join(f"mem,host={host} used={MIB}i @ns({second})\n" for second in range(start, stop, every))


def disk(host: str, path: str, device: str, fstype: str, used: int, total: int, free: int | None = None) -> str:
    free = total - used if free is None else free
    path = path.replace("\\", "\\\\").replace(" ", r"\ ")
    return (
        f"disk,host={host},device={device},fstype={fstype},path={path},mode=rw "
        f"total={total * GIB}i,used={used * GIB}i,free={free * GIB}i @ns(10)\n"
    )


def df(host: str, *volumes: tuple[str, int, int]) -> str:
    """(mount point, GiB used, GiB free)"""
    lists = [
        value_list(host, 10.1, [amount * GIB], "df", name, "df_complex", state)
        for name, used, free in volumes
        for state, amount in (("used", used), ("free", free), ("reserved", 0))
    ]
    return f"[{', '.join(lists)}]"


def network(expected: float, several: bool = False) -> Callable[[dict[str, Any]], None]:
    def check(row: dict[str, Any]) -> None:
        assert (row["network_in"], row["network_out"]) == (pytest.approx(expected, rel=1e-9),) * 2
        assert row["several_senders"] is several

    return check


def columns(**expected: Any) -> Callable[[dict[str, Any]], None]:
    def check(row: dict[str, Any]) -> None:
        assert {name: row[name] for name in expected} == {
            name: pytest.approx(value) if isinstance(value, float) else value for name, value in expected.items()
        }

    return check


STACKED = [
    "br-5f2a0c",
    "virbr0",
    "docker0",
    "veth12ab34",
    "bond0",
    "team0",
    "eth0.100",
    "vlan100",
    "wg0",
    "tun0",
    "lo",
    "utun3",
    "awdl0",
    "bridge0",
    "flannel.1",
    "cali12ab",
    "tailscale0",
    "vmbr0",
]
STACKED_WINDOWS = [
    "Microsoft Wi-Fi Direct Virtual Adapter _2",
    "vEthernet (Default Switch)",
    "Hyper-V Virtual Ethernet Adapter",
    "Microsoft Network Adapter Multiplexor Driver",
    "Teredo Tunneling Pseudo-Interface",
]
TAKES_OVER = 1800
# host -> (bodies of messages, what is right)
VARIANTS: dict[str, tuple[list[str], Callable[[dict[str, Any]], None]]] = {
    # 01: counters that fall a little
    "falls-5-bytes-10s": ([net("falls-5-bytes-10s", falling(steady(100, 10), 1_005, 5))], network(3_580 * 100)),
    "falls-collectd": ([octets("falls-collectd", falling(steady(5_000, 30), 200_000, 7))], network(3_570 * 5_000)),
    "falls-64-bits": (
        [net("falls-64-bits", falling(steady(4_096, 60, base=2**60), 4_096 * 100, 7))],
        network(3_540 * 4_096),
    ),
    "falls-two-interfaces": (
        [
            net("falls-two-interfaces", falling(steady(100), 7_000, 9), "eth0")
            + net("falls-two-interfaces", falling(steady(300), 20_000, 11), "eth1")
        ],
        network(3_540 * 400),
    ),
    "boots-twice": ([net("boots-twice", booted(1_000, [1_200, 2_400]))], network(1_140_000 + 1_200_000 + 1_200_000)),
    "boots-often": ([net("boots-often", booted(1_000, range(300, 3600, 300)))], network(0, True)),
    "wraps-at-10-MB": ([net("wraps-at-10-MB", wrapped(steady(10**7), 32))], network(3_540 * 10**7)),
    "wraps-once-slowly": (
        [net("wraps-once-slowly", wrapped(steady(1_000, 10, base=2**32 - 2_000_000), 32))],
        network(3_590 * 1_000),
    ),
    "wraps-in-a-download": (
        [net("wraps-in-a-download", wrapped(bursts(3_000, 12_000_000, base=2**32 - 2 * 10**9), 32))],
        network(110 * 30 * 3_000 - 30 * 3_000 + 10 * 30 * 12_000_000),
    ),
    "wraps-every-5-min": (
        [octets("wraps-every-5-min", wrapped(steady(5_000_000, 300), 32))],
        network(3_300 * 5 * 10**6),
    ),
    "unsigned-64": ([net("unsigned-64", steady(4_096, base=2**63), suffix="u")], network(3_540 * 4_096)),
    "minus-one": (
        [net("minus-one", [*steady(100)[:30], (1_805, 2**64 - 1), *steady(100)[31:]], suffix="u")],
        network(3_540 * 100),
    ),
    # 03: several agents and machines
    "telegraf-and-collectd-quarter": (
        [
            net("telegraf-and-collectd-quarter", steady(1_000)),
            octets("telegraf-and-collectd-quarter", steady(1_000, 10, 0, 900)),
        ],
        network(3_540_000, True),
    ),
    "collectd-and-telegraf-half": (
        [
            octets("collectd-and-telegraf-half", steady(1_000)),
            net("collectd-and-telegraf-half", steady(1_000, 10, 900, 2700)),
        ],
        network(3_540_000, True),
    ),
    "taken-over": (
        [
            net("taken-over", steady(1_000, 60, 0, TAKES_OVER)),
            octets("taken-over", steady(1_000, 10, TAKES_OVER, 3600)),
        ],
        network(1_740_000 + 1_790_000),
    ),
    "taken-over-with-both": (
        [
            octets("taken-over-with-both", steady(1_000, 60, 0, TAKES_OVER + 300)),
            net("taken-over-with-both", steady(1_000, 60, TAKES_OVER, 3600)),
        ],
        network(3_540_000, True),
    ),
    "twins": (
        [net("twins", steady(1_000, 60, 0)), net("twins", steady(1_000, 60, 20, base=500_000_000))],
        network(0, True),
    ),
    "two-inputs-of-one-telegraf": (
        [
            net("two-inputs-of-one-telegraf", steady(1_000), "Ethernet"),
            win_net("two-inputs-of-one-telegraf", steady(1_000), "Intel[R] I219-V"),
        ],
        network(3_540_000, True),
    ),
    "raw-counters-of-windows": (
        [win_net("raw-counters-of-windows", steady(1_000), "Intel[R] I219-V")],
        network(3_540_000),
    ),
    "near-twins": (
        [net("near-twins", steady(1_000, 60, 0)), net("near-twins", steady(1_000, 60, 20, base=8_000_000_000))],
        network(3_540_000, True),
    ),
    # 07: stacked interfaces
    "stacked": ([net("stacked", steady(1_000), name) for name in ("enp4s0f0np0", *STACKED)], network(3_540_000)),
    "stacked-collectd": (
        [octets("stacked-collectd", steady(1_000), name) for name in ("en0", *STACKED)],
        network(3_540_000),
    ),
    "stacked-windows": (
        [net("stacked-windows", steady(1_000), name) for name in ("Intel[R] Wi-Fi 6 AX201 160MHz", *STACKED_WINDOWS)],
        network(3_540_000),
    ),
    # 11: percentages
    "idle-101": ([idle("idle-101", 101, -1, 100.5, -0.4)], columns(cpu_avg=50.0, cpu_max=100.0, cpu_count=4)),
    "active-101": (
        [idle("active-101", 101, -1, 47, name="usage_active")],
        columns(cpu_avg=49.0, cpu_max=100.0, cpu_count=3),
    ),
    "idle-collectd": (
        [collectd_idle("idle-collectd", -1, 101, 0)],
        columns(cpu_avg=200 / 3, cpu_count=3),
    ),
    "idle-windows": (
        ["win_cpu,host=idle-windows,instance=_Total,objectname=Processor Percent_Idle_Time=-0.9 @ns(10)\n"],
        columns(cpu_avg=100.0),
    ),
    # 12: disks
    "zfs": (
        [
            disk("zfs", "/tank", "tank", "zfs", 1, 901)
            + disk("zfs", "/data", "tank/data", "zfs", 60, 960)
            + disk("zfs", "/srv", "tank/data/srv", "zfs", 39, 939)
            + disk("zfs", "/", "sda1", "ext4", 10, 50)
        ],
        columns(disk_usage=110 * 1024.0, disk_total=1_050 * 1024.0, disk_free=940 * 1024.0),
    ),
    "btrfs": (
        [disk("btrfs", "/", "sda2", "btrfs", 30, 100) + disk("btrfs", "/data", "sda2", "btrfs", 30, 100)],
        columns(disk_usage=30 * 1024.0, disk_total=100 * 1024.0, disk_free=70 * 1024.0),
    ),
    "btrfs-collectd": (
        [df("btrfs-collectd", ("root", 30, 70), ("data", 30, 70), ("boot", 1, 1))],
        columns(disk_usage=31 * 1024.0, disk_total=102 * 1024.0, disk_free=71 * 1024.0),
    ),
    "zfs-collectd": (
        [df("zfs-collectd", ("tank", 1, 900), ("tank-data", 60, 900), ("root", 10, 40))],
        columns(disk_usage=71 * 1024.0, disk_total=1_011 * 1024.0, disk_free=940 * 1024.0),
    ),
    "apfs-two-volumes": (
        [
            disk("apfs-two-volumes", "/", "disk3s1s1", "apfs", 10, 900, 200)
            + disk("apfs-two-volumes", "/System/Volumes/Data", "disk3s5", "apfs", 600, 900, 200)
            + disk("apfs-two-volumes", "/System/Volumes/VM", "disk3s6", "apfs", 4, 900, 200)
            + disk("apfs-two-volumes", "/Volumes/Work", "disk3s7", "apfs", 80, 900, 200)
        ],
        columns(disk_usage=680 * 1024.0, disk_total=900 * 1024.0, disk_free=200 * 1024.0),
    ),
    "drives": (
        [disk("drives", "\\C:", "C:", "NTFS", 50, 100) + disk("drives", "\\D:", "D:", "NTFS", 300, 1_000)],
        columns(disk_usage=350 * 1024.0, disk_total=1_100 * 1024.0, disk_free=750 * 1024.0),
    ),
    "free-alone": (
        ["win_disk,host=free-alone,instance=C:,objectname=LogicalDisk Free_Megabytes=1000 @ns(10)\n"],
        columns(disk_usage=None, disk_total=None, disk_free=1_000.0),
    ),
    # 21: intervals
    **{
        f"every-{every}": ([answers(f"every-{every}", every)], columns(sample_share=1.0))
        for every in (10, 60, 300, 900)
    },
    "a-second-early": (
        ["".join(f"mem,host=a-second-early used={MIB}i @ns({second})\n" for second in (*range(0, 3540, 60), 3539))],
        columns(sample_share=1.0),
    ),
    "quarter-at-15-min": ([answers("quarter-at-15-min", 900, 0, 1800)], columns(sample_share=0.5)),
    "last-third": ([answers("last-third", 10, 2400)], columns(sample_share=1 / 3)),
    "borders": (
        [answers("borders", 10, 0, 20), answers("borders", 10, 3580)],
        columns(sample_share=2 / 60, sample_count=4),
    ),
    "once": ([answers("once", 3600)], columns(sample_share=1 / 60, sample_count=1)),
    # 23: uptime
    "uptime-windows": (
        ["win_system,host=uptime-windows,instance=------,objectname=System System_Up_Time=77 @ns(10)\n"],
        columns(uptime=77.0),
    ),
}


def test_variants_of_the_cases(shared_stores: Stores) -> None:
    hour = hour_before()
    register_hosts(shared_stores, *VARIANTS)
    summary = take(shared_stores, [message_of(body, hour) for bodies, _ in VARIANTS.values() for body in bodies])
    assert summary.points_quarantined == 0, summary
    rows = rolled_up(shared_stores, hour)
    wrong = {}
    for host, (_, check) in VARIANTS.items():
        try:
            check(rows[device_of(host)])
        except (AssertionError, KeyError) as error:
            wrong[host] = str(error).split("\n")[:12]
    assert not wrong, json.dumps(wrong, indent=1)


def test_a_clock_that_is_stepped_back_an_hour_makes_no_gigabytes(shared_stores: Stores) -> None:
    """Half an hour with a clock that is an hour ahead, then half an hour of the same moments again, the clock being
    right; and one that was right and is stepped back."""
    hour = hour_before()
    register_hosts(shared_stores, "ahead", "back")
    ahead = [*steady(1_000, 30, 0, 1800), *((s, v + 1_800_000) for s, v in steady(1_000, 30, -1800, 0))]
    back = [*steady(1_000, 30, 0, 1800), *((s + 7, v + 3_600_000) for s, v in steady(1_000, 30, 0, 1800))]
    take(shared_stores, [message_of(net("ahead", ahead), hour), message_of(net("back", back), hour)])
    rows = rolled_up(shared_stores, hour)
    for host in ("ahead", "back"):
        assert rows[device_of(host)]["network_in"] <= 2 * 3_600_000, host


def test_an_hour_goes_on_from_the_one_before(shared_stores: Stores) -> None:
    """Readings at the hours' borders: each increase is in the hour in which it was read, once."""
    hour = hour_before()
    register_hosts(shared_stores, "edge", "new")
    edge = [(second, 9_000_000_000 + 1_000 * second) for second in (-3600, -1800, -30, 0, 1800, 3599)]
    take(
        shared_stores,
        [message_of(net("edge", edge), hour), message_of(net("new", [(0, 10**9), (3599, 2 * 10**9)]), hour)],
    )
    rows = rolled_up(shared_stores, hour)
    assert rows[device_of("edge")]["network_in"] == 3_629_000
    assert rows[device_of("new")]["network_in"] == 10**9
