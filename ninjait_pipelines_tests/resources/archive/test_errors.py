"""What the archive's errors say, and which of them may be retried."""

import pytest

from ninjait_pipelines.resources.archive.errors import (
    ObjectChanged,
    ObjectCorrupt,
    ObjectMissing,
    ObjectTooLarge,
    TransferDamaged,
    check_size,
    no_object,
    other_version,
)
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable

URL = "s3://bucket/prefix"


@pytest.mark.parametrize("size", [0, 5])
def test_an_object_may_be_as_large_as_its_reader_expects(size: int) -> None:
    check_size(URL, "a/b", size, 5)
    check_size(URL, "a/b", size, None)


def test_a_larger_object_is_named_with_both_sizes() -> None:
    with pytest.raises(ObjectTooLarge, match=r"'a/b' has 6 bytes; at most 5 were expected"):
        check_size(URL, "a/b", 6, 5)
    with pytest.raises(ObjectTooLarge):
        check_size(URL, "a/b", 1, 0)


def test_errors_name_their_object_and_what_to_do() -> None:
    assert "there is no object 'a/b'. Was it deleted?" in str(no_object(URL, "a/b"))
    assert "'a/b' was written or deleted by another run in the meantime. Rerun the partition" in str(
        other_version(URL, "a/b")
    )


def test_only_a_damaged_transfer_is_worth_a_retry() -> None:
    """Another attempt finds the same object, the same version and the same bytes, and waits for nothing."""
    assert issubclass(TransferDamaged, StoreUnavailable)
    for kind in (ObjectMissing, ObjectChanged, ObjectCorrupt, ObjectTooLarge):
        assert issubclass(kind, StoreFailed)
        assert not issubclass(kind, StoreUnavailable)
