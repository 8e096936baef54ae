"""Objects and manifests of a day, as pure functions: rows in, bytes and hashes out.

    {dataset}/day=YYYY-MM-DD/{first 16 hex digits of sha256}.parquet
    {dataset}/day=YYYY-MM-DD/manifest.json

An object's key contains its content's hash, so an object never changes; the manifest, written last, says which count.
Each object has a range of organizations, and all rows of each. Before 0.4.0 each organization had an object of its own,
`organization_id={id}/...`: manifests that name those stay valid until their day is archived again.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NAME = re.compile(r"[0-9A-Za-z_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# All runs take their as_of from ClickHouse's clock: none lies ahead of it unless that clock was set back.
CLOCK_TOLERANCE = timedelta(minutes=5)
# A manifest of 100,000 organizations takes 6 MB; one of 0.3.0, 30 MB.
MANIFEST_BYTES = 64 * 2**20
VERSION = 2
# A reader skips a group by its least and greatest organization: smaller ones help a reader of one organization, and
# cost a reader of the day.
ROW_GROUP_ROWS = 16_384


class ArchiveDamaged(Exception):
    """An object or manifest is not what was written. The message has the key and what to do."""

    advice = "Rerun the day's partition: it writes the object again and verifies it."

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}. {self.advice}")
        self.key = key


class ObjectVanished(ArchiveDamaged):
    """The archive has no object of this key, although it was written or a manifest names it."""


class ObjectDiffers(ArchiveDamaged):
    """The object's bytes are not those that were hashed, or it has another number of rows."""


class ManifestRefused(ArchiveDamaged):
    """No run of the day can have written this manifest. Nothing that it names was read or deleted."""

    advice = (
        "Nothing was read or deleted. Find out who wrote it, move it away and rerun the day's partition, which writes "
        "its own."
    )


class ArchivedObject(msgspec.Struct, frozen=True, omit_defaults=True):
    """Some organizations' rows of a day; no other object has rows of them. `organization_id` is set in manifests of
    version 1 only."""

    key: str
    rows: int
    bytes: int
    sha256: str
    organizations: dict[str, int] = {}
    organization_id: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What a day of a dataset consists of. `columns` are (name, Arrow type); completeness is the share of the day's 24
    hours that had been rolled up when it was read, at `as_of`."""

    dataset: str
    day: date
    columns: list[tuple[str, str]]
    as_of: Annotated[datetime, msgspec.Meta(tz=True)]
    completeness: float
    rows: int
    objects: list[ArchivedObject]
    version: int = 1


def manifest_key(dataset: str, day: date) -> str:
    """The key of a day's manifest."""
    return f"{dataset}/day={day}/manifest.json"


def object_key(dataset: str, day: date, sha256: str) -> str:
    """The key of an object of a day; a day's manifest has no other keys."""
    return f"{dataset}/day={day}/{sha256[:16]}.parquet"


def _key(dataset: str, day: date, described: ArchivedObject) -> str | None:
    """The key that an object must have; None if it says what no run has written."""
    organization_id = described.organization_id
    if not _SHA256.fullmatch(described.sha256):
        return None
    if organization_id is None:
        return object_key(dataset, day, described.sha256)
    if not _NAME.fullmatch(organization_id):
        return None
    return f"{dataset}/day={day}/organization_id={organization_id}/{described.sha256[:16]}.parquet"


def decode(data: bytes, dataset: str, day: date) -> Manifest:
    """A day's manifest. Raises ObjectDiffers if it is not one, and ManifestRefused if it names keys of another day or
    anything else, which would then be read and deleted."""
    key = manifest_key(dataset, day)
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ObjectDiffers(key, f"is no manifest ({error})") from error
    if (manifest.dataset, manifest.day) != (dataset, day):
        raise ObjectDiffers(key, f"is the manifest of {manifest.dataset}, {manifest.day}")
    if manifest.version > VERSION:
        raise ManifestRefused(key, f"has version {manifest.version}; this release reads up to {VERSION}")
    for named in manifest.objects:
        if named.key != _key(dataset, day, named):
            raise ManifestRefused(key, f"names {named.key!r}, which is no object of its day")
    objects = [_of_one_organization(named) for named in manifest.objects]
    names = [name for named in objects for name in named.organizations]
    if len(names) > len(set(names)):
        raise ManifestRefused(key, "names an organization in two objects")
    return msgspec.structs.replace(manifest, objects=objects)


def _of_one_organization(described: ArchivedObject) -> ArchivedObject:
    """An object of version 1 also says which organizations it has; the others are as they are."""
    if described.organization_id is None:
        return described
    return msgspec.structs.replace(described, organizations={described.organization_id: described.rows})


def check_time(manifest: Manifest, now: datetime) -> None:
    """Raises ManifestRefused for an as_of in the future: such a manifest would count for ever."""
    if manifest.as_of > now + CLOCK_TOLERANCE:
        key = manifest_key(manifest.dataset, manifest.day)
        raise ManifestRefused(key, f"its as_of, {manifest.as_of:%Y-%m-%d %H:%M:%S}, is ahead of ClickHouse's clock")


def parquet(rows: pa.Table) -> bytes:
    """The same rows give the same bytes: the writer's options are fixed, and it writes no timestamp.

    Floats are split into streams of their bytes, which compress better and faster than a dictionary of values that
    hardly recur. A new version of Arrow may write other bytes; that is a new object, which the manifest then names.
    """
    floats = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    buffer = pa.BufferOutputStream()
    pq.write_table(
        rows.combine_chunks(),
        buffer,
        row_group_size=ROW_GROUP_ROWS,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in rows.column_names if name not in floats],
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    )
    return buffer.getvalue().to_pybytes()


def split(dataset: str, day: date, rows: pa.Table, max_rows: int) -> list[tuple[ArchivedObject, bytes]]:
    """The day's objects, each with the rows of a range of organizations, in their order: at most `max_rows`, unless one
    organization has more. Raises ValueError for rows that are not ordered by organization_id."""
    organizations = _organizations(rows)
    if list(organizations) != sorted(organizations) or sum(organizations.values()) != rows.num_rows:
        raise ValueError("the rows are not ordered by organization_id")
    objects, start = [], 0
    for own in _ranges(organizations, max_rows):
        count = sum(own.values())
        data = parquet(rows.slice(start, count))
        sha256 = hashlib.sha256(data).hexdigest()
        objects.append((ArchivedObject(object_key(dataset, day, sha256), count, len(data), sha256, own), data))
        start += count
    return objects


def _organizations(rows: pa.Table) -> dict[str, int]:
    """How many rows each organization has, of rows that are ordered by organization."""
    runs = pc.run_end_encode(rows["organization_id"].combine_chunks())
    ends = runs.run_ends.to_pylist()
    return {name: end - start for name, start, end in zip(runs.values.to_pylist(), [0, *ends], ends, strict=False)}


def _ranges(organizations: dict[str, int], max_rows: int) -> Iterator[dict[str, int]]:
    """The ordered organizations, halved at the first bit in which their ids differ until no part has too many rows.

    Which organizations share an object thus depends on ids and nearly never on rows: late rows of one change one
    object, or split it. Cut by rows alone, all objects after it would change.
    """
    if len(organizations) < 2 or sum(organizations.values()) <= max_rows:
        if organizations:
            yield organizations
        return
    names = list(organizations)
    width = max(len(name.encode()) for name in names)
    ids = [int.from_bytes(name.encode().ljust(width, b"\0")) for name in names]
    bit = (ids[0] ^ ids[-1]).bit_length() - 1
    middle = bisect_left(ids, ids[-1] >> bit << bit)
    for half in (names[:middle], names[middle:]):
        yield from _ranges({name: organizations[name] for name in half}, max_rows)


def verify(described: ArchivedObject, data: bytes) -> None:
    """Raises ObjectDiffers unless `data` is what `described` says, byte for byte, and row for row of each
    organization."""
    if hashlib.sha256(data).hexdigest() != described.sha256:
        raise ObjectDiffers(described.key, f"{len(data)} bytes with another hash, written were {described.bytes}")
    rows = pq.read_table(pa.BufferReader(data), columns=["organization_id"])
    if rows.num_rows != described.rows:
        raise ObjectDiffers(described.key, f"{rows.num_rows} rows, written were {described.rows}")
    if _organizations(rows) != described.organizations:
        raise ObjectDiffers(described.key, "has other rows per organization than its manifest says")
