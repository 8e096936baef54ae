"""Writing a day to the archive and reading it back: objects, then their verification, then the manifest."""

from contextlib import suppress
from datetime import date, datetime

import msgspec
import pyarrow as pa

from ninjait_pipelines.archive.objects import (
    ArchiveDamaged,
    ArchivedObject,
    Manifest,
    ObjectDiffers,
    ObjectVanished,
    decode,
    manifest_key,
    split,
    verify,
)
from ninjait_pipelines.resources.archive import Archive
from ninjait_pipelines.resources.archive_errors import ObjectChanged, ObjectCorrupt, ObjectMissing

# Runs of one day that race for its manifest: one of them wins each time
ATTEMPTS = 5


def write_day(
    archive: Archive, dataset: str, day: date, rows: pa.Table, as_of: datetime, completeness: float
) -> Manifest:
    """Archives a day's rows and returns the manifest that now counts.

    Raises ObjectVanished, ObjectDiffers; StoreFailed where the disk is full; ObjectChanged where other runs of the day
    were faster each time. The day's previous manifest then still counts, and everything that it names is still there.

    1. Look at the manifest so far. A newer run's counts, and this one ends.
    2. Write the objects that are not there yet, reading each back: hash and rows. Dying here: nobody knows of them; a
       rerun writes the same keys.
    3. Write the manifest in place of the one of step 1, and read it back. From here on it counts, and not before. Where
       another run has written one meanwhile, begin again: it may have deleted what was there in step 2.
    4. Delete what only previous manifests named. Dying here: such objects stay, named by nobody, harmless. Hanging here
       while a run writes a manifest that names one of them again: that is gone, and this run's check says so.
    """
    objects = split(dataset, day, rows)
    columns = [(field.name, str(field.type)) for field in rows.schema]
    manifest = Manifest(dataset, day, columns, as_of, completeness, rows.num_rows, list(objects))
    key = manifest_key(dataset, day)
    superseded: set[str] = set()
    for attempt in range(1, ATTEMPTS + 1):
        version = archive.version(key)
        previous = _previous(archive, key) if version else None
        if previous and previous.as_of > as_of:
            return previous
        superseded.update(described.key for described in (previous.objects if previous else []))
        for described, data in objects.items():
            _write_object(archive, described, data)
        try:
            archive.write(key, msgspec.json.format(msgspec.json.encode(manifest), indent=2), over=version)
            break
        except ObjectChanged:
            if attempt == ATTEMPTS:
                raise
    current = decode(key, _read(archive, key))
    if current != manifest and current.as_of <= as_of:
        raise ObjectDiffers(key, "is not what was just written")
    for unnamed in sorted(superseded - {described.key for described in current.objects}):
        archive.delete(unnamed)
    return current


def _write_object(archive: Archive, described: ArchivedObject, data: bytes) -> None:
    """Writes an object unless it is there already, and reads it back. Another run may write the same one just now."""
    version = archive.version(described.key)
    if version and _intact(archive, described):
        return
    with suppress(ObjectChanged):
        archive.write(described.key, data, over=version)
    verify(described, _read(archive, described.key))


def _previous(archive: Archive, key: str) -> Manifest | None:
    """The manifest so far. A damaged one counts as none: writing the day again heals it."""
    try:
        return decode(key, _read(archive, key))
    except ArchiveDamaged:
        return None


def _intact(archive: Archive, described: ArchivedObject) -> bool:
    """Whether the object is there, undamaged. A damaged one is written again, which heals it."""
    try:
        verify(described, _read(archive, described.key))
    except ArchiveDamaged:
        return False
    return True


def read_manifest(archive: Archive, dataset: str, day: date) -> Manifest | None:
    """The manifest that counts; None for a day that was never archived. Raises ObjectDiffers for a broken one."""
    key = manifest_key(dataset, day)
    return decode(key, _read(archive, key)) if archive.exists(key) else None


def read_day(archive: Archive, dataset: str, day: date, columns: list[str] | None = None) -> pa.Table:
    """What the archive holds of a day: the rows of the objects that its manifest names, or some of their columns.

    Raises ObjectVanished, ObjectDiffers. A day without rows is a table without columns.
    """
    manifest = decode(key := manifest_key(dataset, day), _read(archive, key))
    if not manifest.objects:
        return pa.table({})
    try:
        rows = archive.scan([described.key for described in manifest.objects], columns)
    except ObjectMissing as error:
        raise ObjectVanished(key, f"names what is not there ({error})") from error
    except pa.ArrowInvalid as error:
        raise ObjectDiffers(key, f"names an object that is no Parquet ({error})") from error
    if rows.num_rows != manifest.rows:
        raise ObjectDiffers(key, f"its objects have {rows.num_rows} rows, it says {manifest.rows}")
    return rows


def verify_day(archive: Archive, dataset: str, day: date) -> Manifest:
    """Reads the manifest and every object that it names. Raises ObjectVanished, ObjectDiffers."""
    key = manifest_key(dataset, day)
    manifest = decode(key, _read(archive, key))
    if (manifest.dataset, manifest.day) != (dataset, day):
        raise ObjectDiffers(key, f"is the manifest of {manifest.dataset}, {manifest.day}")
    for described in manifest.objects:
        verify(described, _read(archive, described.key))
    if manifest.rows != sum(described.rows for described in manifest.objects):
        raise ObjectDiffers(key, "its objects have another number of rows than it says")
    return manifest


def _read(archive: Archive, key: str) -> bytes:
    try:
        return archive.read(key)
    except ObjectMissing as error:
        raise ObjectVanished(key, "is not there") from error
    except ObjectCorrupt as error:
        raise ObjectDiffers(key, "its bytes have another hash than those that were written") from error
