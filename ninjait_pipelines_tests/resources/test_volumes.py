"""What volumes add up to, without a store."""

import pytest

from ninjait_pipelines.resources.volumes import Volume, disk_of

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
