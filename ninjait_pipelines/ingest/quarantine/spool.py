"""The spool: files in which copies wait for the quarantine while MongoDB is away, complete, in MongoDB's own format.

A file appears whole, by a rename after it has reached the disk, and goes once all its documents are in MongoDB. So the
ledger row and the acknowledgement may follow a file as they follow MongoDB, and the file may be read, moved and deleted
by several processes at once: a document's `_id` is its copy's, so it is held once, however often it is moved.

Whatever drains, and whatever moves (drains, `store_health`, `ninjait quarantine`), must see the same folder, and it has
to outlive the process. In Kubernetes: a PersistentVolumeClaim that every run's pod mounts (ReadWriteMany where runs are
spread over nodes), with QUARANTINE_SPOOL naming a folder in it. In a pod's own file system the copies die with the pod.
"""

import errno
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import msgspec
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument

from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import OutOfSpace, StoreFailed, StoreUnavailable

TITLE = "Quarantine's spool"
# More than the batches under way take, unless they are of giants: then a drain fails, and its messages come again.
ROOM_BYTES = 64 * 1024 * 1024
# What a writer that was killed left is no longer being written after so long.
UNFINISHED = timedelta(days=1)
# What MongoDB held, by share, when a drain last saw it.
HELD = "held.json"
_WITH_TIME_ZONE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_WHOLE = re.compile(r".+\.[0-9a-f-]{36}\.\d+\.bson")


class Spool:
    """The files of one MongoDB database: `{run_id}.{uuid}.{documents}.bson`, and `.part` while one is being written;
    `held.json` says what MongoDB held when it was last seen, so that both together keep to one limit."""

    def __init__(self, mongodb: MongoDB) -> None:
        self.folder = Path(mongodb.spool)

    def put(self, documents: Sequence[Mapping[str, Any]], run_id: str) -> None:
        """Returns when the documents are on the disk; raises StoreUnavailable where they cannot be put there.

        1. Write them beside.  Dying here: an unfinished file, which nobody reads, and which is cleared away later.
        2. Rename.             Dying here: they may be held; the copies come again, and are held as the same documents.
        """
        whole = b"".join(bson.encode(document) for document in documents)
        try:
            _make(self.folder)
            self._write(f"{run_id}.{uuid.uuid4()}.{len(documents)}", whole)
        except OSError as error:
            raise self._unwritable(error) from error

    def _write(self, name: str, whole: bytes) -> None:
        part = self.folder / f"{name}.part"
        try:
            with open(part, "xb", opener=_private) as file:
                file.write(whole)
                file.flush()
                os.fsync(file.fileno())
            part.rename(self.folder / f"{name}.bson")
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync(self.folder)

    def check_room(self) -> None:
        """Raises StoreUnavailable where no batch could be put here: before it is received, not after."""
        part = self.folder / f"{uuid.uuid4()}.part"
        try:
            _make(self.folder)
            with open(part, "xb", opener=_private) as file:
                part.unlink()
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreUnavailable:
        problem = f"cannot be written: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutOfSpace(TITLE, self.folder.as_uri(), problem)
        advice = "MongoDB does not take the quarantine either: bring it back, or make room for the spool."
        return StoreUnavailable(TITLE, self.folder.as_uri(), problem, advice)

    def files(self, run_id: str | None = None) -> list[Path]:
        """The whole files, of one run if it is given."""
        found = [name for name in self._names() if _WHOLE.fullmatch(name)]
        return [self.folder / name for name in found if run_id is None or name.startswith(f"{run_id}.")]

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            advice = "Whoever runs the pipeline must be able to read it."
            raise StoreFailed(TITLE, self.folder.as_uri(), error, advice) from error

    def read(self, file: Path) -> list[dict[str, Any]]:
        """The documents of a file; none where somebody else has moved it meanwhile."""
        try:
            documents = bson.decode_all(file.read_bytes(), _WITH_TIME_ZONE)
        except FileNotFoundError:
            return []
        except (OSError, BSONError) as error:
            raise self._damaged(file, error) from error
        if len(documents) != _copies(file):
            raise self._damaged(file, f"{len(documents)} documents are left of it")
        return documents

    def remove(self, file: Path) -> None:
        """Deletes a file whose documents are in MongoDB, if nobody has done so meanwhile."""
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            advice = "What was moved stays here as well, and is moved again onto itself: make the folder writable."
            raise StoreFailed(TITLE, file.as_uri(), error, advice) from error

    def _damaged(self, file: Path, problem: object) -> StoreFailed:
        return StoreFailed(TITLE, file.as_uri(), problem, "It cannot be moved into MongoDB, and is left as it is.")

    def documents(self, run_id: str | None = None) -> Iterator[dict[str, Any]]:
        """All that waits, of one run if it is given, a file at a time; a copy that came twice comes twice."""
        for file in self.files(run_id):
            yield from self.read(file)

    def shares(self) -> dict[str, tuple[int, int]]:
        """Whose share it takes -> (copies, bytes) that wait: nobody's, where a file cannot be read or does not say."""
        found: dict[str, tuple[int, int]] = {}
        for file in self.files():
            size = found_size.st_size if (found_size := _stat(file)) else 0
            for share, copies, part in self._shares_of(file) or [("", _copies(file), size)]:
                before = found.get(share, (0, 0))
                found[share] = before[0] + copies, before[1] + part
        return found

    def _shares_of(self, file: Path) -> list[tuple[str, int, int]]:
        try:
            with open(file, "rb") as opened:
                return [
                    (str(one.get("share") or ""), 1, len(one.raw))
                    for one in bson.decode_file_iter(opened, CodecOptions(document_class=RawBSONDocument))
                ]
        except (OSError, BSONError):
            return []

    def note_held(self, held: Mapping[str, tuple[int, int]]) -> None:
        """Writes down what MongoDB holds, by share, for the time when it is away. One that cannot be written is not:
        the note of an earlier drain is used then."""
        part = self.folder / f"{uuid.uuid4()}.part"
        with suppress(OSError):
            _make(self.folder)
            with open(part, "xb", opener=_private) as file:
                file.write(msgspec.json.encode(held))
            part.rename(self.folder / HELD)

    def noted_held(self) -> dict[str, tuple[int, int]]:
        """What was written down last; nothing, where nothing was, or it cannot be read."""
        try:
            return msgspec.json.decode((self.folder / HELD).read_bytes(), type=dict[str, tuple[int, int]])
        except (OSError, msgspec.DecodeError):
            return {}

    def waiting(self) -> tuple[int, int]:
        """(copies, bytes) that wait, by the files' names and sizes: a copy that came twice counts twice."""
        sizes = {file: found.st_size for file in self.files() if (found := _stat(file))}
        return sum(map(_copies, sizes)), sum(sizes.values())

    def clear_unfinished(self, now: datetime) -> None:
        """Deletes what killed writers left."""
        for name in self._names():
            found = _stat(self.folder / name)
            if found and name.endswith(".part") and found.st_mtime < (now - UNFINISHED).timestamp():
                self.remove(self.folder / name)


def _copies(file: Path) -> int:
    return int(file.name.split(".")[-2])


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _make(folder: Path) -> None:
    """Creates the folder with those above it, each entered safely in the one that holds it."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # moved meanwhile
        return None
