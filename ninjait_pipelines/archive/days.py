"""Writing a day to the archive and reading it back: objects, then their verification, then the manifest."""

from datetime import date, datetime

import msgspec
import pyarrow as pa

from ninjait_pipelines.archive.objects import (
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


def write_day(
    archive: Archive, dataset: str, day: date, rows: pa.Table, as_of: datetime, completeness: float
) -> Manifest:
    """Archives a day's rows and returns the manifest that now counts.

    Raises ObjectVanished, ObjectDiffers; StoreFailed where the disk is full. The day's previous manifest then still
    counts, and everything that it names is still there.

    1. Write the objects that are not there yet, reading each back: hash and rows. Dying here: nobody knows of them; a
       rerun writes the same keys.
    2. Write the manifest and read it back, unless a newer run has written one meanwhile. From here on it counts, and
       not before.
    3. Delete what only the previous manifest named. Dying here: such objects stay, named by nobody, harmless.
    """
    objects = split(dataset, day, rows)
    for described, data in objects.items():
        if not _intact(archive, described):
            archive.write(described.key, data)
            verify(described, _read(archive, described.key))
    previous = _previous(archive, dataset, day)
    if previous and previous.as_of > as_of:
        return previous
    columns = [(field.name, str(field.type)) for field in rows.schema]
    manifest = Manifest(dataset, day, columns, as_of, completeness, rows.num_rows, list(objects))
    archive.write(manifest_key(dataset, day), msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    if read_manifest(archive, dataset, day) != manifest:
        raise ObjectDiffers(manifest_key(dataset, day), "is not what was just written")
    kept = {described.key for described in objects}
    for superseded in previous.objects if previous else []:
        if superseded.key not in kept:
            archive.delete(superseded.key)
    return manifest


def _previous(archive: Archive, dataset: str, day: date) -> Manifest | None:
    """The manifest so far. A damaged one counts as none: writing the day again heals it."""
    try:
        return read_manifest(archive, dataset, day)
    except ObjectDiffers:
        return None


def _intact(archive: Archive, described: ArchivedObject) -> bool:
    """Whether the object is there already. A damaged one is not: writing it again heals it."""
    try:
        verify(described, _read(archive, described.key))
    except (ObjectVanished, ObjectDiffers):
        return False
    return True


def read_manifest(archive: Archive, dataset: str, day: date) -> Manifest | None:
    """The manifest that counts; None for a day that was never archived. Raises ObjectDiffers for a broken one."""
    key = manifest_key(dataset, day)
    return decode(key, archive.read(key)) if archive.exists(key) else None


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
    if not archive.exists(key):
        raise ObjectVanished(key, "is not there")
    return archive.read(key)
