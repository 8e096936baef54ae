"""Errors about objects of the archive, in addition to those of any store."""

from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable

TITLE = "Archive"
# `over` of a write: whatever is there, or nothing, may be replaced
ANYTHING = "*"


class ObjectMissing(StoreFailed):
    """There is no object with this key."""


class ObjectChanged(StoreFailed):
    """Another writer was faster: the object is not the version that the caller saw. Nothing was written."""


class ObjectCorrupt(StoreFailed):
    """The object's bytes do not have the hash of those that were written."""


class ObjectTooLarge(StoreFailed):
    """The object is larger than its reader expects. It was not read."""


class TransferDamaged(StoreUnavailable):
    """Bytes were lost or changed in transfer, in either direction. Nothing was written; worth retrying."""


def no_object(url: str, key: str) -> ObjectMissing:
    return ObjectMissing(TITLE, url, f"there is no object {key!r}", "Was it deleted?")


def other_version(url: str, key: str) -> ObjectChanged:
    problem = f"{key!r} was written or deleted by another run in the meantime"
    return ObjectChanged(TITLE, url, problem, "Rerun the partition: it starts from the current version.")


def check_size(url: str, key: str, size: int, max_bytes: int | None) -> None:
    """Raises ObjectTooLarge for an object that is larger than its reader allows."""
    if max_bytes is not None and size > max_bytes:
        problem = f"{key!r} has {size} bytes; at most {max_bytes} were expected"
        raise ObjectTooLarge(TITLE, url, problem, "Was it written by another program?")
