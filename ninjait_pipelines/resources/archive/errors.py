"""What can go wrong with an object of the archive, beside what can go wrong with any store."""

from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable

TITLE = "Archive"
# `over` of a write: in place of whatever is there, or of nothing
ANYTHING = "*"


class ObjectMissing(StoreFailed):
    """There is no object of this key."""


class ObjectChanged(StoreFailed):
    """Another writer was faster: the object is no longer what the caller saw. Nothing was written."""


class ObjectCorrupt(StoreFailed):
    """The object's bytes have another hash than those that were written."""


class ObjectTooLarge(StoreFailed):
    """The object is larger than its reader expects. It was not read."""


class TransferDamaged(StoreUnavailable):
    """Bytes were lost or changed on their way, there or back. Nothing was written; worth a retry."""


def no_object(url: str, key: str) -> ObjectMissing:
    return ObjectMissing(TITLE, url, f"there is no object {key!r}", "Was it deleted?")


def other_version(url: str, key: str) -> ObjectChanged:
    problem = f"{key!r} was written or deleted by another run meanwhile"
    return ObjectChanged(TITLE, url, problem, "Rerun the partition: it reads afresh.")


def check_size(url: str, key: str, size: int, max_bytes: int | None) -> None:
    """Raises ObjectTooLarge for an object that would not fit where its reader wants it."""
    if max_bytes is not None and size > max_bytes:
        problem = f"{key!r} has {size} bytes, expected are {max_bytes} at most"
        raise ObjectTooLarge(TITLE, url, problem, "Was it written by another?")
