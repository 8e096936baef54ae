"""Objects and manifests of a day, as pure functions: rows in, bytes and hashes out.

    {dataset}/day=YYYY-MM-DD/organization_id={id}/{first 16 hex digits of sha256}.parquet
    {dataset}/day=YYYY-MM-DD/manifest.json

An object's key contains its content's hash, so an object never changes; the manifest, written last, says which count.
"""

import hashlib
import io
import re
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
# A manifest of 100,000 organizations takes 30 MB.
MANIFEST_BYTES = 64 * 2**20


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


class ArchivedObject(msgspec.Struct, frozen=True):
    """One organization's rows of a day."""

    organization_id: str
    key: str
    rows: int
    bytes: int
    sha256: str


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


def manifest_key(dataset: str, day: date) -> str:
    """The key of a day's manifest."""
    return f"{dataset}/day={day}/manifest.json"


def object_key(dataset: str, day: date, organization_id: str, sha256: str) -> str:
    """The key of an organization's rows of a day; a day's manifest has no other keys."""
    return f"{dataset}/day={day}/organization_id={organization_id}/{sha256[:16]}.parquet"


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
    for named in manifest.objects:
        plain = _NAME.fullmatch(named.organization_id) and _SHA256.fullmatch(named.sha256)
        if not plain or named.key != object_key(dataset, day, named.organization_id, named.sha256):
            raise ManifestRefused(key, f"names {named.key!r}, which is no object of its day and organization")
    return manifest


def check_time(manifest: Manifest, now: datetime) -> None:
    """Raises ManifestRefused for an as_of in the future: such a manifest would count for ever."""
    if manifest.as_of > now + CLOCK_TOLERANCE:
        key = manifest_key(manifest.dataset, manifest.day)
        raise ManifestRefused(key, f"its as_of, {manifest.as_of:%Y-%m-%d %H:%M:%S}, is ahead of ClickHouse's clock")


def parquet(rows: pa.Table) -> bytes:
    """The same rows give the same bytes: the writer's options are fixed, and it writes no timestamp.

    A new version of Arrow may write other bytes; that is a new object, which the manifest then names.
    """
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, version="2.6", data_page_version="1.0", compression="zstd", compression_level=3)
    return buffer.getvalue()


def split(dataset: str, day: date, rows: pa.Table) -> dict[ArchivedObject, bytes]:
    """The day's rows as one object per organization, in the order of the query, so that their bytes are fixed."""
    objects = {}
    for organization in pc.unique(rows["organization_id"]).to_pylist():
        own = rows.filter(pc.equal(rows["organization_id"], organization)).combine_chunks()
        data = parquet(own)
        sha256 = hashlib.sha256(data).hexdigest()
        key = object_key(dataset, day, organization, sha256)
        objects[ArchivedObject(organization, key, own.num_rows, len(data), sha256)] = data
    return objects


def verify(described: ArchivedObject, data: bytes) -> None:
    """Raises ObjectDiffers unless `data` is what `described` says, byte for byte and row for row."""
    if hashlib.sha256(data).hexdigest() != described.sha256:
        raise ObjectDiffers(described.key, f"{len(data)} bytes with another hash, written were {described.bytes}")
    if (rows := pq.read_metadata(io.BytesIO(data)).num_rows) != described.rows:
        raise ObjectDiffers(described.key, f"{rows} rows, written were {described.rows}")
