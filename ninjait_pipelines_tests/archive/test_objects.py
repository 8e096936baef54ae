"""Objects and manifests as pure functions: what is written, and what is not taken for it."""

import hashlib
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from ninjait_pipelines.archive.objects import (
    CLOCK_TOLERANCE,
    ArchivedObject,
    Manifest,
    ManifestRefused,
    ObjectDiffers,
    check_time,
    decode,
    manifest_key,
    object_key,
    parquet,
    split,
    verify,
)

DAY = date(2026, 3, 1)
AS_OF = datetime(2026, 3, 2, 1, tzinfo=UTC)
ROWS = pa.table({"organization_id": ["b", "a", "b"], "hour": [1, 2, 3]})


def encoded(**changes: Any) -> bytes:
    """A manifest of ROWS, with changes to its JSON."""
    objects = list(split("hourly", DAY, ROWS))
    manifest = Manifest("hourly", DAY, [("organization_id", "string")], AS_OF, 1.0, 3, objects)
    return msgspec.json.encode(msgspec.to_builtins(manifest) | changes)


def test_an_object_holds_one_organization_s_rows_in_their_order() -> None:
    found = {described.organization_id: (described, data) for described, data in split("hourly", DAY, ROWS).items()}
    assert list(found) == ["b", "a"]
    described, data = found["b"]
    assert data == parquet(pa.table({"organization_id": ["b", "b"], "hour": [1, 3]}))
    sha256 = hashlib.sha256(data).hexdigest()
    key = f"hourly/day=2026-03-01/organization_id=b/{sha256[:16]}.parquet"
    assert described == ArchivedObject("b", key, 2, len(data), sha256)


def test_the_same_rows_are_the_same_bytes_however_they_came() -> None:
    """ClickHouse sends a table in as many parts as it likes."""
    parts = pa.concat_tables([ROWS.slice(0, 1), ROWS.slice(1)])
    assert split("hourly", DAY, parts) == split("hourly", DAY, ROWS)


def test_a_day_without_rows_has_no_objects() -> None:
    assert split("hourly", DAY, ROWS.slice(0, 0)) == {}


def test_a_manifest_comes_back_as_it_was_written() -> None:
    manifest = decode(encoded(), "hourly", DAY)
    assert (manifest.rows, manifest.as_of, manifest.objects) == (3, AS_OF, list(split("hourly", DAY, ROWS)))


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


@pytest.mark.parametrize(
    "changes",
    [
        {"organization_id": "../b"},
        {"organization_id": "x" * 65},
        {"organization_id": ""},
        {"sha256": "A" * 64},
        {"sha256": "0" * 63},
        {"key": "hourly/day=2026-03-01/manifest.json"},
    ],
)
def test_an_object_of_the_manifest_lies_where_its_content_says(changes: dict[str, str]) -> None:
    """Whatever a manifest names is read, and deleted by the next run of the day: even a key that fits a crafted id."""
    named = {"organization_id": "b", "rows": 1, "bytes": 1, "sha256": "0" * 64} | changes
    named = {"key": object_key("hourly", DAY, str(named["organization_id"]), str(named["sha256"]))} | named
    with pytest.raises(ManifestRefused, match=r"no object of its day and organization\. Nothing was read or deleted"):
        decode(encoded(objects=[named]), "hourly", DAY)


def test_a_manifest_may_be_as_far_ahead_as_clocks_differ() -> None:
    manifest = decode(encoded(), "hourly", DAY)
    check_time(manifest, AS_OF - CLOCK_TOLERANCE)
    with pytest.raises(ManifestRefused, match="2026-03-02 01:00:00, is ahead of ClickHouse's clock"):
        check_time(manifest, AS_OF - CLOCK_TOLERANCE - timedelta(microseconds=1))


def test_an_object_is_verified_by_its_bytes_and_its_rows() -> None:
    [(described, data), *_] = split("hourly", DAY, ROWS).items()
    verify(described, data)
    with pytest.raises(ObjectDiffers, match="with another hash"):
        verify(described, data[:-1])
    with pytest.raises(ObjectDiffers, match="2 rows, written were 3"):
        verify(msgspec.structs.replace(described, rows=3), data)
