"""What can go wrong with an object of the archive, beside what can go wrong with any store."""

from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable


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
