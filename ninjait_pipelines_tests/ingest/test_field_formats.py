"""Cases from the field that are about what other agents send: from the queue to the hourly row."""

from datetime import UTC, datetime
from typing import Any

from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.ingest.sensors import replay_registered
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.field_cases import (
    ORG,
    SECOND,
    device_of,
    hour_before,
    message_of,
    messages,
    register_hosts,
    rolled_up,
    rows_of,
    take,
)
from ninjait_pipelines_tests.ingest.samples import register_device


def row_of(stores: Stores, case: str, host: str) -> dict[str, Any]:
    return rows_of(stores, case, host)[host]


def test_bonds_bridges_and_vlans_do_not_multiply_traffic(shared_stores: Stores) -> None:
    """60,000 bytes through one port were 240,000: the bond, the bridge and the VLAN over it counted once more each."""
    row = row_of(shared_stores, "07-bond-bridge-vlan", "c07")
    assert (row["network_in"], row["network_out"]) == (60_000, 6_000)


def test_a_host_s_name_is_the_same_in_upper_and_in_lower_case(shared_stores: Stores) -> None:
    """Windows sends one name in both, and half of such a device's readings waited in quarantine."""
    row = row_of(shared_stores, "08-windows-host-name-case", "PC-7F3A21X")
    assert (row["memory_avg"], row["memory_max"], row["sample_count"]) == (1.5, 2.0, 2)


def test_windows_performance_counters_are_the_device_s_figures(shared_stores: Stores) -> None:
    """A fleet with Telegraf's default configuration for Windows had no row at all."""
    row = row_of(shared_stores, "10-windows-perf-counters", "c10")
    assert (row["cpu_avg"], row["uptime"], row["disk_free"]) == (2.5, 123_456, 56_789)
    assert (round(row["disk_usage"]), round(row["disk_total"])) == (67_748, 124_537)


def test_the_disk_of_a_mac_is_what_people_keep_on_it(shared_stores: Stores) -> None:
    """/ is the sealed system: 16 GB were shown of 707 in use."""
    row = row_of(shared_stores, "12-apfs", "c12")
    assert (round(row["disk_usage"]), round(row["disk_total"])) == (724_173, 948_584)


def test_a_busy_hour_does_not_look_idler(shared_stores: Stores) -> None:
    """The busiest four of ten readings missed 100 % by up to 0.4 and were refused; -1305 says nothing and is."""
    hour = hour_before()
    register_hosts(shared_stores, "c11")
    summary = take(shared_stores, messages("11-idle-below-zero", hour))
    assert (summary.points_written, summary.points_quarantined) == (10, 1)
    row = rolled_up(shared_stores, hour)[device_of("c11")]
    assert (row["cpu_max"], row["sample_count"]) == (100.0, 10)
    assert row["cpu_avg"] > 94


def test_the_mean_of_the_cores_and_uptime_come_from_collectd(shared_stores: Stores) -> None:
    """With ValuesPercentage and the default ReportByCpu nothing of a host was understood."""
    row = row_of(shared_stores, "14-collectd-per-cpu-percent", "c14")
    assert (round(row["cpu_avg"], 1), row["uptime"], row["disk_usage"]) == (25.4, 86_400, 102_400)


def test_uptime_comes_from_telegraf_s_system(shared_stores: Stores) -> None:
    """The contract had the field, and Telegraf sends it."""
    assert row_of(shared_stores, "23-uptime", "c23")["uptime"] == 420


def test_whatever_the_stores_can_hold_is_a_name(shared_stores: Stores) -> None:
    """A no-break space (French Windows) and an emoji with a joiner cost their interface."""
    hour = hour_before()
    register_hosts(shared_stores, "c24")
    text = messages("24-zwj-nbsp", hour)[0].body.decode()
    later = text.replace("1i", "1001i").replace(stamp(hour, 10), stamp(hour, 20))
    summary = take(shared_stores, [message_of(text, hour), message_of(later, hour)])
    assert (summary.points_written, summary.points_quarantined) == (6, 0)
    assert rolled_up(shared_stores, hour)[device_of("c24")]["network_in"] == 3_000


def stamp(hour: datetime, seconds: int) -> str:
    """Nanoseconds, as a line has them."""
    return f"{round((hour + seconds * SECOND).timestamp())}000000000"


def test_a_batch_of_more_than_a_mebibyte_is_taken(shared_stores: Stores) -> None:
    """19-batch-over-1MiB: Telegraf's batch, with labels of containers on each line, was held as too large, for ever."""
    hour = hour_before()
    register_hosts(shared_stores, "c19")
    labels = ",".join(f"com.docker.compose.label{n}={'x' * 85}" for n in range(10))
    lines = [
        f"docker_container_mem,container_name=c{n},{labels},host=c19 usage={n}i @ns({n})\n"
        if n % 10
        else f"mem,{labels},host=c19 used={n << 20}i @ns({n})\n"
        for n in range(1_000)
    ]
    body = message_of("".join(lines), hour)
    assert len(body.body) > 2**20
    summary = take(shared_stores, [body])
    assert (summary.messages, summary.points_written, summary.points_quarantined) == (1, 100, 0)
    row = rolled_up(shared_stores, hour)[device_of("c19")]
    assert (row["memory_max"], row["memory_count"]) == (990, 100)
    assert not list(query.select(shared_stores.mongodb))


def test_what_waits_for_a_host_in_the_other_case_comes_by_itself(shared_stores: Stores) -> None:
    """The host is registered after it has sent, as its administrator spells it."""
    hour = hour_before()
    register_hosts(shared_stores)
    assert take(shared_stores, [message_of("mem,host=PC-9 used=1048576i @ns(10)\n", hour)]).points_quarantined == 1
    with shared_stores.postgres.transaction() as connection:
        register_device(connection, device_of("pc-9"), ORG, "pc-9")
    registry = load_sender_registry(shared_stores.postgres)
    assert replay_registered(shared_stores.mongodb, shared_stores.message_queue, registry, datetime.now(UTC)) == 1
    assert drained(shared_stores).points_written == 1
    assert rolled_up(shared_stores, hour)[device_of("pc-9")]["memory_avg"] == 1.0
