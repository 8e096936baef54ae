"""The spool: files in which whole documents of the quarantine, in MongoDB's own format, wait while MongoDB is away.

A file appears whole, by a rename after it has reached the disk, and is deleted once all its documents are in MongoDB.
So the ledger row and the acknowledgement may follow a file as they follow MongoDB. Several processes may read, move and
delete a file at once: a document's `_id` is made from its copy, so moving it twice stores it once.

Every drain, and everything that moves files (drains, `store_health`, `ninjait quarantine`), must see the same folder,
and it has to outlive the process. In Kubernetes: a PersistentVolumeClaim that every run's pod mounts (ReadWriteMany if
runs are spread over nodes), with QUARANTINE_SPOOL naming a folder in it. In a pod's own file system the messages would
be lost with the pod.
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

from ninjait_pipelines.durable import PART, make_folder, private, write_whole
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import OutOfSpace, StoreFailed, StoreUnavailable

TITLE = "Quarantine's spool"
# More than the batches in progress take, unless their messages are huge: then a drain fails, and they come again.
ROOM_BYTES = 64 * 1024 * 1024
# After this long an unfinished file was left by a writer that was killed.
UNFINISHED = timedelta(days=1)
# What MongoDB held, by share, when a drain last saw it.
HELD = "held.json"
_WITH_TIME_ZONE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_WHOLE = re.compile(r".+\.[0-9a-f-]{36}\.\d+\.bson")


class Spool:
    """The files of one MongoDB database: `{run_id}.{uuid}.{documents}.bson`, and `.part` while one is being written;
    `held.json` notes how much MongoDB held when it was last seen, so that both together keep to one limit."""

    def __init__(self, mongodb: MongoDB) -> None:
        self.folder = Path(mongodb.spool)

    def put(self, documents: Sequence[Mapping[str, Any]], run_id: str) -> None:
        """Returns once the documents are on the disk; raises StoreUnavailable if they cannot be put there.

        1. Write an unfinished file. Dying here: it is never read, and is deleted later.
        2. Rename it. Dying here: the documents may be quarantined; the messages come again, and become the same ones.
        """
        whole = b"".join(bson.encode(document) for document in documents)
        try:
            make_folder(self.folder)
            write_whole(self.folder / f"{run_id}.{uuid.uuid4()}.{len(documents)}.bson", whole)
        except OSError as error:
            raise self._unwritable(error) from error

    def check_room(self) -> None:
        """Raises StoreUnavailable if no batch could be put here: before one is received, not after."""
        part = self.folder / f"{uuid.uuid4()}{PART}"
        try:
            make_folder(self.folder)
            with open(part, "xb", opener=private) as file:
                part.unlink()
                os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreUnavailable:
        problem = f"cannot be written: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OutOfSpace(TITLE, self.folder.as_uri(), problem)
        advice = "MongoDB does not take quarantined messages either: bring it back, or make room for the spool."
        return StoreUnavailable(TITLE, self.folder.as_uri(), problem, advice)

    def files(self, run_id: str | None = None) -> list[Path]:
        """The finished files, of one run if it is given."""
        found = [name for name in self._names() if _WHOLE.fullmatch(name)]
        return [self.folder / name for name in found if run_id is None or name.startswith(f"{run_id}.")]

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            advice = "The user that runs the pipeline must be able to read it."
            raise StoreFailed(TITLE, self.folder.as_uri(), error, advice) from error

    def read(self, file: Path) -> list[dict[str, Any]]:
        """The documents of a file; none if another process has moved it meanwhile."""
        try:
            documents = bson.decode_all(file.read_bytes(), _WITH_TIME_ZONE)
        except FileNotFoundError:
            return []
        except (OSError, BSONError) as error:
            raise self._damaged(file, error) from error
        if len(documents) != _count(file):
            raise self._damaged(file, f"{len(documents)} documents are left in it")
        return documents

    def remove(self, file: Path) -> None:
        """Deletes a file whose documents are in MongoDB, if it is still there."""
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            advice = "Its documents are in MongoDB, and are moved again each time: make the folder writable."
            raise StoreFailed(TITLE, file.as_uri(), error, advice) from error

    def _damaged(self, file: Path, problem: object) -> StoreFailed:
        return StoreFailed(TITLE, file.as_uri(), problem, "It cannot be moved into MongoDB, and is left as it is.")

    def documents(self, run_id: str | None = None) -> Iterator[dict[str, Any]]:
        """All that waits, of one run if it is given, one file at a time; a message that came twice comes twice."""
        for file in self.files(run_id):
            yield from self.read(file)

    def shares(self) -> dict[str, tuple[int, int]]:
        """Share -> (messages, bytes) that wait. An unreadable file counts for the common share, `""`."""
        shares: dict[str, tuple[int, int]] = {}
        for file in self.files():
            status = _stat(file)
            for share, messages, size in self._shares_of(file) or [("", _count(file), status.st_size if status else 0)]:
                before = shares.get(share, (0, 0))
                shares[share] = before[0] + messages, before[1] + size
        return shares

    def _shares_of(self, file: Path) -> list[tuple[str, int, int]]:
        try:
            with open(file, "rb") as opened:
                return [
                    (str(document.get("share") or ""), 1, len(document.raw))
                    for document in bson.decode_file_iter(opened, CodecOptions(document_class=RawBSONDocument))
                ]
        except (OSError, BSONError):
            return []

    def note_held(self, held: Mapping[str, tuple[int, int]]) -> None:
        """Notes what MongoDB holds, by share, for the time when it is away. If that cannot be written, the note of an
        earlier drain is used."""
        with suppress(OSError):
            make_folder(self.folder)
            write_whole(self.folder / HELD, msgspec.json.encode(held), survives_power_cut=False)

    def noted_held(self) -> dict[str, tuple[int, int]]:
        """The last note; empty if there is none, or it cannot be read."""
        try:
            return msgspec.json.decode((self.folder / HELD).read_bytes(), type=dict[str, tuple[int, int]])
        except (OSError, msgspec.DecodeError):
            return {}

    def waiting(self) -> tuple[int, int]:
        """(messages, bytes) that wait, by the files' names and sizes: a message that came twice counts twice."""
        sizes = {file: found.st_size for file in self.files() if (found := _stat(file))}
        return sum(map(_count, sizes)), sum(sizes.values())

    def clear_unfinished(self, now: datetime) -> None:
        """Deletes the unfinished files of killed writers."""
        for name in self._names():
            found = _stat(self.folder / name)
            if found and name.endswith(PART) and found.st_mtime < (now - UNFINISHED).timestamp():
                self.remove(self.folder / name)


def _count(file: Path) -> int:
    return int(file.name.split(".")[-2])


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:  # moved meanwhile
        return None
