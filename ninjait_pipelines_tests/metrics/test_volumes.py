"""What volumes add up to, without a store."""

from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pyarrow as pa
import pytest

from ninjait_pipelines.metrics.model import VOLUMES
from ninjait_pipelines.metrics.volumes import Volume, disk_of, disk_windows

MINUTE = timedelta(minutes=1)
TIB = 1_000_000.0


@pytest.mark.parametrize(
    ("volumes", "found"),
    [
        ([], (None, None, None)),
        ([Volume("sda1", "/", 5, 10, 4)], (5, 10, 4)),
        ([Volume("sda1", "/", 5, 10, 5), Volume("sdb1", "/volume1", 50, 100, 50)], (55, 110, 55)),
        ([Volume("sda1", "/", 5, 10, 5), Volume("sda1", "/var/lib/docker", 5, 10, 5)], (5, 10, 5)),
        ([Volume("", "C:", 5, 10, 5), Volume("", "D:", 7, 20, 13)], (12, 30, 18)),
        ([Volume("", "C:", 5, 10, 5), Volume("", "D:", 7)], (12, None, None)),
        ([Volume("", "C:", None, 10, 4)], (6, 10, 4)),
        ([Volume("", "root", 5, None, 4)], (5, 9, 4)),
        ([Volume("", "C:", None, None, 4)], (None, None, 4)),
        ([Volume("", "C:", None, None, 4), Volume("", "D:", None, None, 3)], (None, None, 7)),
        ([Volume("", "C:", 5, 10, 5), Volume("", "D:", None, None, 4)], (5, None, 9)),
    ],
    ids=[
        "nothing",
        "one",
        "a NAS",
        "mounted twice",
        "drives",
        "one without a size",
        "size and free",
        "collectd",
        "free alone",
        "free alone of two",
        "free alone of one of two",
    ],
)
def test_each_disk_counts_once(volumes: list[Volume], found: tuple[float | None, ...]) -> None:
    """Only / and C: counted: a NAS with 50 TB on /volume1 had the 5 GB of its system."""
    assert disk_of(volumes) == found


def test_the_sealed_volume_of_macos_does_not_stand_for_the_disk() -> None:
    """16 GB were shown of a Mac with 707 GB in use: / is the snapshot of the system that it booted from."""
    system = Volume("disk3s1s1", "/", 16_000, TIB, 200_000)
    data = Volume("disk3s5", "/System/Volumes/Data", 724_000, TIB, 200_000)
    assert disk_of([system, data]) == (724_000, TIB, 200_000)
    assert disk_of([system, data, Volume("disk3s6", "/System/Volumes/VM", 4_000, TIB, 200_000)])[:2] == (728_000, TIB)
    assert disk_of([system]) == (800_000, TIB, 200_000), "the data volume is left out by its agent: what is not free"
    assert disk_of([system._replace(free=None)]) == (16_000, TIB, None)
    assert disk_of([Volume("disk1s1", "/", 300_000, TIB, None)]) == (300_000, TIB, None)


def test_a_disk_beside_the_container_counts_and_partitions_of_other_sizes_are_apart() -> None:
    container = [Volume("disk3s1s1", "/", 16, 900), Volume("/dev/disk3s5", "/System/Volumes/Data", 700, 900)]
    assert disk_of([*container, Volume("disk5s1", "/Volumes/a", 10, 50), Volume("disk5s2", "/Volumes/b", 20, 60)]) == (
        730,
        1_010,
        None,
    )


def test_a_mac_whose_agent_names_no_disks() -> None:
    volumes = [Volume("", "root", 16, None, 200), Volume("", "System-Volumes-Data", 700, None, 200)]
    assert disk_of(volumes)[0] == 700


def test_a_pool_of_zfs_has_its_room_once() -> None:
    """Each data set says as its size what it uses and what the pool has free: sizes were left out, now they are the
    pool's."""
    pool = [
        Volume("zfs:tank", "/tank", 1, 901, 900),
        Volume("zfs:tank/data", "/data", 60, 960, 900),
        Volume("zfs:tank/data", "/mnt/data", 60, 960, 900),
        Volume("zfs:tank/data/me", "/srv/me", 39, 939, 900),
    ]
    assert disk_of(pool) == (100, 1_000, 900)
    assert disk_of([*pool, Volume("zfs:tank2", "/backup", 5, 10, 5), Volume("sda1", "/boot", 1, 2, 1)]) == (
        106,
        1_012,
        906,
    )
    assert disk_of(pool[:1]) == (1, 901, 900)
    assert disk_of([volume._replace(free=None) for volume in pool[:2]]) == (61, 960, None)


@pytest.mark.parametrize("disk", ["sda2", ""])
def test_subvolumes_of_btrfs_are_one_disk(disk: str) -> None:
    """collectd does not say which disk they lie on, but each says the same."""
    subvolumes = [Volume(disk, name, 300, 1_000, 700) for name in ("root", "home", "var-log")]
    assert disk_of(subvolumes) == (300, 1_000, 700)
    assert disk_of([*subvolumes, Volume("", "boot", 1, 4, 3)]) == (301, 1_004, 703)


def test_volumes_that_have_the_same_room_and_use_different_parts_are_a_pool() -> None:
    volumes = [Volume("", name, used, None, 900) for name, used in (("tank", 1), ("tank-home", 60), ("root", 39))]
    assert disk_of(volumes) == (100, 1_000, 900)
    assert disk_of([Volume("", "a", 10, 10, 0), Volume("", "b", 20, 20, 0)]) == (30, 30, 0), "full disks are no pool"


def test_the_agent_that_covers_most_of_the_hour_says_what_is_in_use() -> None:
    """And one that takes over from it what is in use after it."""
    start = datetime(2026, 11, 1, tzinfo=UTC)

    def of(source: str, minutes: range, used: float) -> list[dict[str, Any]]:
        row = {"organization_id": "o", "device_id": "d", "source": source, "disk": "", "volume": "root"}
        return [row | {"time": start + n * MINUTE, "used": used, "total": None, "free": None} for n in minutes]

    def used(*rows: list[dict[str, Any]]) -> list[float | None]:
        table = pa.Table.from_pylist(sorted(chain(*rows), key=lambda row: row["time"]), schema=VOLUMES)
        found = disk_windows([table], 5 * MINUTE).windows.sort_by("time")
        return list(found["disk_used_last"].to_pylist())

    whole, quarter = of("telegraf", range(0, 60, 15), 5.0), of("collectd", range(15, 30), 9.0)
    assert used(whole, quarter) == [5.0, 5.0, None, None, 5.0, 5.0]
    assert used(of("telegraf", range(30), 5.0), of("collectd", range(30, 60), 9.0)) == [5.0] * 6 + [9.0] * 6
