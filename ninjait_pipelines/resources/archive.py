"""The cold archive: immutable objects under keys, on S3 or in a folder."""

import errno
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs
from pydantic import Field, PrivateAttr

from ninjait_pipelines.resources.store import Store, StoreFailed, StoreRefused, StoreUnavailable

# What a killed writer leaves behind ends with this, and is no object.
UNFINISHED = ".unfinished"


class Archive(Store):
    """Objects by key, through Arrow's file systems: `s3://bucket/prefix` or `file:///folder`.

    with Archive(url="file:///var/archive").open() as store:
        store.write("weekly_reports/week=2026-01-05/report.json", b"{}")
    """

    title = "Archive"

    url: str = Field(description="s3://bucket/prefix or file:///folder; S3's credentials by AWS_* as usual")
    timeout_seconds: float = Field(default=30, description="Longest wait for S3, seconds")

    _filesystem: pafs.FileSystem | None = PrivateAttr(default=None)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Arrow's file system, rooted at the archive's prefix: paths in it are our keys."""
        if self._filesystem is None:
            parts = urlsplit(self.url)
            if parts.scheme == "file":
                self._filesystem = pafs.SubTreeFileSystem(unquote(parts.path), pafs.LocalFileSystem())
            else:
                s3 = pafs.S3FileSystem(connect_timeout=self.timeout_seconds, request_timeout=self.timeout_seconds)
                self._filesystem = pafs.SubTreeFileSystem(f"{parts.netloc}{parts.path}", s3)
        return self._filesystem

    def _ping(self) -> tuple[str, int | None]:
        with self._errors(""):
            kind = self.filesystem.get_file_info("").type
        if kind != pafs.FileType.Directory:
            raise StoreFailed(self.title, self.url, "there is no such folder or bucket", "Check ARCHIVE_URL.")
        if urlsplit(self.url).scheme == "s3":
            return "S3", None
        entries = self.filesystem.get_file_info(pafs.FileSelector("", recursive=True))
        return "folder", sum(entry.size for entry in entries if entry.is_file)

    def write(self, key: str, data: bytes) -> None:
        """Writes an object whole or not at all: a reader never sees half of it."""
        with self._errors(key):
            if urlsplit(self.url).scheme == "file":
                self._write_by_rename(key, data)
            else:
                with self.filesystem.open_output_stream(key) as stream:
                    stream.write(data)

    def _write_by_rename(self, key: str, data: bytes) -> None:
        parent = PurePosixPath(key).parent
        self.filesystem.create_dir(str(parent), recursive=True)
        # A name of its own: two runs that write one key must not write into one file.
        unfinished = f"{key}.{uuid.uuid4().hex}{UNFINISHED}"
        try:
            with self.filesystem.open_output_stream(unfinished) as stream:
                stream.write(data)
        except OSError:
            # A full disk needs its space back, and nobody may take the half for the whole.
            if self.filesystem.get_file_info(unfinished).is_file:
                self.filesystem.delete_file(unfinished)
            raise
        self.filesystem.move(unfinished, key)

    def read(self, key: str) -> bytes:
        """The object's bytes. Raises StoreFailed where there is none."""
        with self._errors(key), self.filesystem.open_input_stream(key) as stream:
            return stream.read()

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        with self._errors(key):
            return bool(self.filesystem.get_file_info(key).is_file)

    def list_keys(self, prefix: str) -> list[str]:
        """The keys below a folder, in order. For people and tests; the pipeline trusts manifests, not listings."""
        with self._errors(prefix):
            found = self.filesystem.get_file_info(pafs.FileSelector(prefix, recursive=True, allow_not_found=True))
        return sorted(entry.path for entry in found if entry.is_file and not entry.path.endswith(UNFINISHED))

    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is fine."""
        with self._errors(key):
            if self.filesystem.get_file_info(key).is_file:
                self.filesystem.delete_file(key)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreFailed(self.title, self.url, f"there is no object {key!r}", "Was it deleted?") from error
        except PermissionError as error:
            raise StoreRefused(self.title, self.url, error, "Check ARCHIVE_URL and its rights (S3: AWS_*).") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                advice = "Make room, then rerun the partition: nothing of it was switched over."
                raise StoreFailed(self.title, self.url, f"no room for {key!r}: {error}", advice) from error
            raise StoreUnavailable(self.title, self.url, error, "See what runs with: ninjait status.") from error
