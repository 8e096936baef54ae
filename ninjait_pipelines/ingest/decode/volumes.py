"""Which file systems are fixed local volumes, and which of them lie on the same disk. Pure.

For the decoders and for our own agent alike. What is left out is kept in memory, on another machine, on a disc that is
taken out, or is another view of a volume that counts already.
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
# With their versions and kinds: nfs4, smb3, cgroup2, fuse.sshfs. But fuseblk is a disk of NTFS or exFAT.
_LEFT_OUT_BEGIN = ("nfs", "smb", "cgroup", "fuse")
_LOCAL = frozenset({"fuseblk"})
_NO_VOLUMES = re.compile(r"/(?:dev|proc|sys|run|snap)(?:/|\Z)")
_LOOP = re.compile(r"loop\d+(?:p\d+)?")
_DRIVE = re.compile(r"\\*([A-Za-z]:)\\*(.*)", re.DOTALL)
# What macOS keeps for itself beside Data, which holds what people have.
_HELPER_OF_MACOS = re.compile(r"/System/Volumes/(?!Data\Z)|/private/var/vm\Z")


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a volume is: the `disk` or partition that it lies on, and its own name.

    A data set of ZFS has no disk of its own: it is `zfs:pool/data/set`. Volumes that share their room (those of a pool,
    and of one container of macOS's: disk3s1s1, disk3s5) are put together later, by the roll-up.
    """

    disk: str
    volume: str


def place_of(path: str, device: str = "", kind: str = "") -> Place | None:
    """The place of what is mounted at `path`; None where that is no fixed local volume.

    device: as the system calls it, with or without /dev/ before; kind: the type of its file system. What is not known
    is empty, and leaves nothing out.
    """
    device, kind = device.removeprefix("/dev/"), (kind or device).lower()
    if kind not in _LOCAL and (kind in _LEFT_OUT or kind.startswith(_LEFT_OUT_BEGIN)):
        return None
    if _NO_VOLUMES.match(path) or _HELPER_OF_MACOS.match(path):
        return None
    if _LOOP.fullmatch(device) or device.startswith("//") or (kind == "zfs" and "@" in device):
        return None  # an image, a share of another machine, a snapshot of a data set that counts already
    if drive := drive_of(path):
        return Place(drive, drive)
    return Place(f"zfs:{device}" if kind == "zfs" and device else device, path)


def drive_of(name: str) -> str | None:
    """The drive that this names (`\\C:`, `d:\\`, `C:\\mnt\\data`), in one spelling; None where it names none."""
    if not (found := _DRIVE.fullmatch(name)):
        return None
    return found[1].upper() + (f"\\{found[2]}" if found[2] else "")
