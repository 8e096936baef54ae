"""Which file systems are fixed local volumes, and which of them share a disk. Pure; also used by our own agent.

Left out is what is in memory, on another machine, on a removable disc, or another view of a volume that counts already.
"""

import re

import msgspec

_IN_MEMORY = (
    "aufs autofs binfmt_misc bpf configfs debugfs devfs devpts devtmpfs efivarfs fdescfs hugetlbfs kernfs linprocfs "
    "linsysfs mqueue none nsfs overlay overlay2 overlayfs proc procfs pstore ptyfs ramfs rootfs rpc_pipefs "
    "securityfs selinuxfs shm swap sysfs tmpfs tracefs udev unionfs"
)
_ANOTHER_VIEW = "bindfs cramfs ecryptfs erofs lofs nullfs romfs squashfs"
_REMOTE = (
    "9p afpfs afs beegfs ceph cifs davfs drvfs gfs2 glusterfs lustre ncpfs prl_fs sshfs vboxsf virtiofs vmhgfs webdav"
)
_OPTICAL = "cd9660 cdfs hsfs iso9660 udf"
_LEFT_OUT = frozenset(f"{_IN_MEMORY} {_ANOTHER_VIEW} {_REMOTE} {_OPTICAL}".split())
# Prefixes, for names with versions and kinds: nfs4, smb3, cgroup2, fuse.sshfs. But fuseblk is an NTFS or exFAT disk.
_LEFT_OUT_PREFIXES = ("nfs", "smb", "cgroup", "fuse")
_LOCAL = frozenset({"fuseblk"})
_NO_VOLUMES = re.compile(r"/(?:dev|proc|sys|run|snap)(?:/|\Z)")
_LOOP = re.compile(r"loop\d+(?:p\d+)?")
_DRIVE = re.compile(r"\\*([A-Za-z]:)\\*(.*)", re.DOTALL)
# macOS's own volumes beside Data, which holds the users' files.
_HELPER_OF_MACOS = re.compile(r"/System/Volumes/(?!Data\Z)|/private/var/vm\Z")


class Place(msgspec.Struct, frozen=True, gc=False):
    """A volume's name and the `disk` or partition that it is on.

    A ZFS dataset has no disk of its own: it is on `zfs:pool/data/set`. Volumes that share their space (those of a pool,
    or of one macOS container: disk3s1s1, disk3s5) are combined later, by the roll-up.
    """

    disk: str
    volume: str


def place_of(path: str, device: str = "", kind: str = "") -> Place | None:
    """The place of the volume mounted at `path`; None if it is not a fixed local volume.

    device: the system's name for it, with or without /dev/; kind: the type of its file system. Either may be empty if
    unknown; then it excludes nothing.
    """
    device, kind = device.removeprefix("/dev/"), (kind or device).lower()
    if kind not in _LOCAL and (kind in _LEFT_OUT or kind.startswith(_LEFT_OUT_PREFIXES)):
        return None
    if _NO_VOLUMES.match(path) or _HELPER_OF_MACOS.match(path):
        return None
    if _LOOP.fullmatch(device) or device.startswith("//") or (kind == "zfs" and "@" in device):
        return None  # an image, a network share, or a snapshot of a dataset that counts already
    if drive := drive_of(path):
        return Place(drive, drive)
    return Place(f"zfs:{device}" if kind == "zfs" and device else device, path)


def drive_of(name: str) -> str | None:
    """The drive that a name (`\\C:`, `d:\\`, `C:\\mnt\\data`) stands for, in one spelling; None if none."""
    if not (match := _DRIVE.fullmatch(name)):
        return None
    return match[1].upper() + (f"\\{match[2]}" if match[2] else "")
