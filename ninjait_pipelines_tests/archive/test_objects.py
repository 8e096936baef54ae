"""Objects and manifests as pure functions: what is written, and what is not taken for it."""

import hashlib
import io
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.archive.objects import (
    CLOCK_TOLERANCE,
    VERSION,
    ArchivedObject,
    Manifest,
    ManifestRefused,
    ObjectDiffers,
    check_time,
    decode,
    manifest_key,
    parquet,
    split,
    verify,
)

DAY = date(2026, 3, 1)
AS_OF = datetime(2026, 3, 2, 1, tzinfo=UTC)
ROWS = pa.table({"organization_id": ["a", "a", "b"], "hour": [1, 3, 2], "cpu": [0.5, None, 1.5]})


def encoded(**changes: Any) -> bytes:
    """A manifest of ROWS, with changes to its JSON."""
    objects = [described for described, _ in split("hourly", DAY, ROWS, 2)]
    manifest = Manifest("hourly", DAY, [("organization_id", "string")], AS_OF, 1.0, 3, objects, VERSION)
    return msgspec.json.encode(msgspec.to_builtins(manifest) | changes)


def test_an_object_holds_all_rows_of_some_organizations_in_their_order() -> None:
    (described, data), other = split("hourly", DAY, ROWS, 2)
    assert data == parquet(pa.table({"organization_id": ["a", "a"], "hour": [1, 3], "cpu": [0.5, None]}))
    sha256 = hashlib.sha256(data).hexdigest()
    assert described == ArchivedObject(f"hourly/day=2026-03-01/{sha256[:16]}.parquet", 2, len(data), sha256, {"a": 2})
    assert other[0].organizations == {"b": 1}
    [(whole, data)] = split("hourly", DAY, ROWS, 3)
    assert whole.organizations == {"a": 2, "b": 1}
    assert pq.read_table(io.BytesIO(data)).equals(ROWS)
    assert len(split("hourly", DAY, ROWS, 1)) == 2, "an organization is never in two objects"


def test_the_same_rows_are_the_same_bytes_however_they_came() -> None:
    """ClickHouse sends a table in as many parts as it likes."""
    parts = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1)])
    assert split("hourly", DAY, parts, 3) == split("hourly", DAY, ROWS, 3)


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2, 1]], ids=["backwards", "torn apart"])
def test_rows_in_another_order_are_refused(order: list[int]) -> None:
    """Cut as if they were in order, one organization's rows would be in two objects, or be counted as another's."""
    with pytest.raises(ValueError, match="not ordered by organization_id"):
        split("hourly", DAY, ROWS.take(order), 2)


def test_a_day_without_rows_has_no_objects() -> None:
    assert split("hourly", DAY, ROWS.slice(0, 0), 2) == []


def ranges(counts: dict[str, int], max_rows: int) -> list[tuple[str, ...]]:
    """The organizations of each object."""
    names = [name for name in sorted(counts) for _ in range(counts[name])]
    rows = pa.table({"organization_id": pa.array(names, pa.string())})
    return [tuple(described.organizations) for described, _ in split("hourly", DAY, rows, max_rows)]


IDS = st.text("0123456789abcdef-_Z", min_size=1, max_size=6)


@given(st.dictionaries(IDS, st.integers(1, 9), min_size=1), IDS, st.integers(1, 9), st.integers(1, 30))
def test_late_rows_of_one_organization_change_one_object(
    counts: dict[str, int], late: str, more: int, max_rows: int
) -> None:
    """Also of an organization that had none. The object may be split; those before and after it stay as they are."""
    before, after = ranges(counts, max_rows), ranges({**counts, late: counts.get(late, 0) + more}, max_rows)
    assert [name for one in before for name in one] == sorted(counts)
    assert all(len(one) == 1 or sum(counts[name] for name in one) <= max_rows for one in before)
    assert len(set(before) - set(after)) <= 1


def test_a_manifest_comes_back_as_it_was_written() -> None:
    manifest = decode(encoded(), "hourly", DAY)
    objects = [described for described, _ in split("hourly", DAY, ROWS, 2)]
    assert (manifest.rows, manifest.as_of, manifest.objects) == (3, AS_OF, objects)


def test_a_manifest_of_a_later_release_is_refused() -> None:
    """Taken for a damaged one, it would be overwritten by a release that was rolled back."""
    with pytest.raises(ManifestRefused, match="has version 3; this release reads up to 2"):
        decode(encoded(version=3), "hourly", DAY)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is no manifest"),
        (b"[]", "is no manifest"),
        (encoded(rows="3"), "is no manifest"),
        (encoded(as_of="2026-03-02T01:00:00"), "is no manifest"),
        (encoded(dataset="daily"), "is the manifest of daily, 2026-03-01"),
        (encoded(day="2026-03-02"), "is the manifest of hourly, 2026-03-02"),
    ],
    ids=["empty", "a list", "another type", "no time zone", "another dataset", "another day"],
)
def test_what_is_no_manifest_of_the_day_counts_as_damaged(data: bytes, problem: str) -> None:
    with pytest.raises(ObjectDiffers, match=rf"{manifest_key('hourly', DAY)}: {problem}.*Rerun"):
        decode(data, "hourly", DAY)


def test_an_object_that_is_named_twice_is_refused() -> None:
    """A reader would get its rows twice, and every hash would be right."""
    [described, _] = split("hourly", DAY, ROWS, 2)[0]
    with pytest.raises(ManifestRefused, match="names an organization in two objects"):
        decode(encoded(objects=msgspec.to_builtins([described, described]), rows=4), "hourly", DAY)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "A" * 64},
        {"sha256": "0" * 63},
        {"key": "hourly/day=2026-03-01/manifest.json"},
        {"key": "hourly/day=2026-03-02/0000000000000000.parquet"},
        {"organization_id": "../b"},
        {"organization_id": "x" * 65},
        {"organization_id": ""},
        {"organization_id": "b", "key": "hourly/day=2026-03-01/0000000000000000.parquet"},
    ],
)
def test_an_object_of_the_manifest_lies_where_its_content_says(changes: dict[str, str]) -> None:
    """Whatever a manifest names is read, and deleted by the next run of the day: even a key that fits a crafted id."""
    named = {"rows": 1, "bytes": 1, "sha256": "0" * 64} | changes
    folder = f"organization_id={named['organization_id']}/" if "organization_id" in named else ""
    named = {"key": f"hourly/day=2026-03-01/{folder}{str(named['sha256'])[:16]}.parquet"} | named
    with pytest.raises(ManifestRefused, match=r"no object of its day\. Nothing was read or deleted"):
        decode(encoded(objects=[named]), "hourly", DAY)


def test_a_manifest_may_be_as_far_ahead_as_clocks_differ() -> None:
    manifest = decode(encoded(), "hourly", DAY)
    check_time(manifest, AS_OF - CLOCK_TOLERANCE)
    with pytest.raises(ManifestRefused, match="2026-03-02 01:00:00, is ahead of ClickHouse's clock"):
        check_time(manifest, AS_OF - CLOCK_TOLERANCE - timedelta(microseconds=1))


def test_an_object_is_verified_by_its_bytes_and_its_rows_of_each_organization() -> None:
    [(described, data), _] = split("hourly", DAY, ROWS, 2)
    verify(described, data)
    with pytest.raises(ObjectDiffers, match="with another hash"):
        verify(described, data[:-1])
    with pytest.raises(ObjectDiffers, match="2 rows, written were 3"):
        verify(msgspec.structs.replace(described, rows=3), data)
    with pytest.raises(ObjectDiffers, match="has other rows per organization than its manifest says"):
        verify(msgspec.structs.replace(described, organizations={"a": 1, "b": 1}), data)
