"""`disk_used` means one thing: all fixed local volumes, each once."""

from typing import Any

import pytest

from ninjait_pipelines.ingest.decode.volumes import Place, drive_of, place_of

# (path, device, file system) -> (disk, volume)
LOCAL = [
    (("/", "sda1", "ext4"), ("sda1", "/")),
    (("/", "/dev/sda1", "xfs"), ("sda1", "/")),
    (("/home", "mapper/vg0-home", "btrfs"), ("mapper/vg0-home", "/home")),
    (("/boot/efi", "nvme0n1p1", "vfat"), ("nvme0n1p1", "/boot/efi")),
    (("/var/lib/docker", "vda1", "ext4"), ("vda1", "/var/lib/docker")),  # one disk with /, and counts once
    (("/etc/hosts", "vda1", "ext4"), ("vda1", "/etc/hosts")),
    (("/volume1", "mapper/cachedev_0", "btrfs"), ("mapper/cachedev_0", "/volume1")),
    (("/share/CACHEDEV1_DATA", "mapper/cachedev1", "ext4"), ("mapper/cachedev1", "/share/CACHEDEV1_DATA")),
    (("/mnt/usb", "sdb1", "fuseblk"), ("sdb1", "/mnt/usb")),
    (("/", "rpool/ROOT/pve-1", "zfs"), ("zfs:rpool/ROOT/pve-1", "/")),
    (("/System/Volumes/Data", "disk3s5", "apfs"), ("disk3s5", "/System/Volumes/Data")),
    (("/Volumes/Work", "disk3s7", "apfs"), ("disk3s7", "/Volumes/Work")),
    (("/", "disk1s1", "apfs"), ("disk1s1", "/")),  # macOS up to 10.14: one volume for all
    (("/", "disk0s2", "hfs"), ("disk0s2", "/")),
    (("\\C:", "C:", "NTFS"), ("C:", "C:")),
    (("C:", "", ""), ("C:", "C:")),
    (("d:\\", "d:\\", "NTFS"), ("D:", "D:")),
    (("E:", "", "ReFS"), ("E:", "E:")),
    (("C:\\mnt\\data", "", "NTFS"), ("C:\\mnt\\data", "C:\\mnt\\data")),
    (("/", "", ""), ("", "/")),
    (("/data", "sdb", ""), ("sdb", "/data")),
]
NOT_LOCAL = [
    *(
        ("/x", "", kind)
        for kind in ["tmpfs", "devtmpfs", "overlay", "squashfs", "autofs", "proc", "sysfs", "devfs", "ramfs", "aufs"]
    ),
    *(
        ("/x", "srv:/x", kind)
        for kind in ["nfs", "nfs4", "cifs", "smbfs", "smb3", "ceph", "glusterfs", "afpfs", "webdav", "9p"]
    ),
    *(("/x", "x", kind) for kind in ["fuse.sshfs", "fuse.s3fs", "fuse.mergerfs", "fuse", "fusectl", "FUSE.rclone"]),
    *(("/x", "sr0", kind) for kind in ["iso9660", "udf", "UDF", "cd9660", "CDFS"]),
    *(
        ("/x", "x", kind)
        for kind in ["virtiofs", "vboxsf", "vmhgfs", "drvfs", "nullfs", "ecryptfs", "cgroup2", "rootfs"]
    ),
    ("/snap/core/1", "loop3", "squashfs"),
    ("/snap/core/1", "loop3", ""),
    ("/mnt/image", "loop0p1", "ext4"),
    ("/tank/.zfs/snapshot/daily", "tank@daily", "zfs"),
    ("/dev/mqueue", "", ""),
    ("/run/user/1000", "", ""),
    ("/x", "tmpfs", ""),
    ("/x", "overlay", ""),
    ("/Volumes/share", "//me@nas/share", ""),
    ("/System/Volumes/Data/home", "map auto_home", "autofs"),
    *(
        (f"/System/Volumes/{name}", "disk3s2", "apfs")
        for name in ["VM", "Preboot", "Update", "xarts", "iSCPreboot", "Data/home"]
    ),
    ("/private/var/vm", "disk1s4", "apfs"),
]


@pytest.mark.parametrize(("mounted", "place"), LOCAL, ids=repr)
def test_a_fixed_local_volume_counts_by_its_disk(mounted: tuple[str, ...], place: tuple[Any, ...]) -> None:
    assert place_of(*mounted) == Place(*place)


@pytest.mark.parametrize("mounted", NOT_LOCAL, ids=repr)
def test_what_is_elsewhere_or_in_memory_or_counted_already_does_not(mounted: tuple[str, ...]) -> None:
    """A file server's share and a snap's image were in nobody's disk until all volumes counted."""
    assert place_of(*mounted) is None


@pytest.mark.parametrize(
    ("name", "drive"),
    [("C:", "C:"), ("\\c:", "C:"), ("z:\\", "Z:"), ("C:\\mnt", "C:\\mnt"), ("_Total", None), ("", None), ("C", None)],
)
def test_a_drive_has_one_spelling(name: str, drive: str | None) -> None:
    assert drive_of(name) == drive
    assert drive_of("HarddiskVolume3") is None
