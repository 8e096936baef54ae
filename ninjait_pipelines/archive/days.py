"""Writing a day to the archive and reading it back: objects, then their verification, then the manifest."""

from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime

import msgspec
import pyarrow as pa

from ninjait_pipelines.archive.objects import (
    MANIFEST_BYTES,
    VERSION,
    ArchiveDamaged,
    ArchivedObject,
    Manifest,
    ManifestRefused,
    ObjectDiffers,
    ObjectVanished,
    check_time,
    decode,
    manifest_key,
    split,
    verify,
)
from ninjait_pipelines.resources.archive.errors import ObjectChanged, ObjectCorrupt, ObjectMissing, ObjectTooLarge
from ninjait_pipelines.resources.archive.resource import Archive

# Runs of one day may race for its manifest; one of them wins each time.
ATTEMPTS = 5


def write_day(
    archive: Archive,
    dataset: str,
    day: date,
    rows: pa.Table,
    as_of: datetime,
    completeness: float,
    now: Callable[[], datetime],
) -> Manifest:
    """Archives a day's rows and returns the manifest that now counts. `now` is the clock that `as_of` is from.

    Raises ObjectVanished, ObjectDiffers; ManifestRefused if the existing manifest cannot be valid; StoreFailed if the
    disk is full; ObjectChanged if other runs of the day were faster each time. In all cases the day's previous manifest
    still counts, and everything that it names is still there.

    1. Read the existing manifest. If it is a newer run's, it counts and this run ends; one from the future is an error.
    2. Write the objects that do not exist yet, and read each back: hash, and rows of each organization. Dying here: no
       manifest names them, and a rerun writes the same keys.
    3. Replace the manifest of step 1, and read the new one back. It counts from here on. If another run has replaced it
       meanwhile, start again: that run may have deleted objects that existed in step 2.
    4. Delete what only previous manifests named. Dying here: such objects stay, unnamed and harmless. If this step
       hangs while another run writes a manifest that names one of them again, the object is lost, and that run's check
       reports it.
    """
    objects = split(dataset, day, rows, archive.object_rows)
    columns = [(field.name, str(field.type)) for field in rows.schema]
    described = [one for one, _ in objects]
    manifest = Manifest(dataset, day, columns, as_of, completeness, rows.num_rows, described, VERSION)
    key = manifest_key(dataset, day)
    superseded: set[str] = set()
    for attempt in range(1, ATTEMPTS + 1):
        version = archive.version(key)
        previous = _previous(archive, dataset, day) if version else None
        if previous and previous.as_of > as_of:
            check_time(previous, now())
            return previous
        superseded.update(one.key for one in (previous.objects if previous else []))
        for one, data in objects:
            _write_object(archive, one, data)
        try:
            archive.write(key, msgspec.json.format(msgspec.json.encode(manifest), indent=2), over=version)
            break
        except ObjectChanged:
            if attempt == ATTEMPTS:
                raise
    current = _manifest(archive, dataset, day)
    if current != manifest and current.as_of <= as_of:
        raise ObjectDiffers(key, "is not what was just written")
    for unnamed in sorted(superseded - {one.key for one in current.objects}):
        archive.delete(unnamed)
    return current


def _write_object(archive: Archive, described: ArchivedObject, data: bytes) -> None:
    """Writes an object unless it exists, and reads it back. Another run may write the same one at the same time."""
    version = archive.version(described.key)
    if version and _intact(archive, described):
        return
    with suppress(ObjectChanged):
        archive.write(described.key, data, over=version)
    verify(described, _read(archive, described.key, described.bytes))


def _previous(archive: Archive, dataset: str, day: date) -> Manifest | None:
    """The existing manifest. A damaged one counts as none: writing the day again heals it."""
    try:
        return _manifest(archive, dataset, day)
    except ManifestRefused:
        raise
    except ArchiveDamaged:
        return None


def _manifest(archive: Archive, dataset: str, day: date) -> Manifest:
    return decode(_read(archive, manifest_key(dataset, day), MANIFEST_BYTES), dataset, day)


def _intact(archive: Archive, described: ArchivedObject) -> bool:
    """Whether the object exists undamaged. A damaged one is written again, which heals it."""
    try:
        verify(described, _read(archive, described.key, described.bytes))
    except ArchiveDamaged:
        return False
    return True


def read_manifest(archive: Archive, dataset: str, day: date) -> Manifest | None:
    """The day's manifest; None for a day that was never archived. Raises ArchiveDamaged if it is broken."""
    return _manifest(archive, dataset, day) if archive.exists(manifest_key(dataset, day)) else None


def read_day(archive: Archive, dataset: str, day: date, columns: list[str] | None = None) -> pa.Table:
    """The archived rows of a day, from the objects in its manifest; or only some columns.

    Raises ObjectVanished, ObjectDiffers, ManifestRefused. A day without rows is a table without columns.
    """
    key, manifest = manifest_key(dataset, day), _manifest(archive, dataset, day)
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
    """Reads the manifest and every object that it names. Raises ObjectVanished, ObjectDiffers, ManifestRefused."""
    key, manifest = manifest_key(dataset, day), _manifest(archive, dataset, day)
    for described in manifest.objects:
        verify(described, _read(archive, described.key, described.bytes))
    if manifest.rows != sum(described.rows for described in manifest.objects):
        raise ObjectDiffers(key, "its objects have another number of rows than it says")
    return manifest


def _read(archive: Archive, key: str, max_bytes: int) -> bytes:
    try:
        return archive.read(key, max_bytes)
    except ObjectMissing as error:
        raise ObjectVanished(key, "is not there") from error
    except ObjectTooLarge as error:
        raise ObjectDiffers(key, f"is larger than {max_bytes} bytes, which is the most that was written") from error
    except ObjectCorrupt as error:
        raise ObjectDiffers(key, "its bytes have another hash than those that were written") from error
