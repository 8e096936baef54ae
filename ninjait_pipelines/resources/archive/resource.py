"""The cold archive: immutable objects under keys, on S3 or in a folder."""

import errno
import stat
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import Field, PrivateAttr

from ninjait_pipelines.resources.archive.errors import (
    ANYTHING,
    TITLE,
    ObjectChanged,
    ObjectMissing,
    check_size,
    no_object,
    other_version,
)
from ninjait_pipelines.resources.store import (
    SEE_STATUS,
    OutOfSpace,
    Store,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    retrying,
    tls_failure,
    translated,
)

if TYPE_CHECKING:
    from ninjait_pipelines.resources.archive.bucket import Bucket

# The suffix of what a killed writer leaves behind; it is not an object.
UNFINISHED = ".unfinished"


class Archive(Store):
    """Objects by key: `s3://bucket/prefix` through boto3, or `file:///folder`; tables are read by Arrow's datasets.

    with Archive(url="file:///var/archive").open() as store:
        store.write("weekly_reports/week=2026-01-05/report.json", b"{}")
    """

    title = TITLE

    url: str = Field(description="s3://bucket/prefix or file:///folder")
    timeout_seconds: float = Field(default=20, description="Longest wait for S3 to send or accept anything, seconds")
    endpoint_url: str | None = Field(default=None, description="S3's address, if it is not Amazon's")
    access_key_id: str | None = Field(default=None, description="Access key; without one, AWS's usual chain finds it")
    secret_access_key: str | None = Field(default=None, description="Secret key")
    session_token: str | None = Field(default=None, description="Session token of temporary keys")
    region: str | None = Field(default=None, description="Region; without one, AWS's usual chain finds it")
    part_bytes: int = Field(default=64 * 2**20, description="A larger object goes to S3 in parts of this many bytes")
    object_rows: int = Field(
        default=100_000, description="A day with more rows is split into objects of at most this many, by organization"
    )
    stale_upload_seconds: float = Field(
        default=86_400, description="A multipart upload that began this long ago is considered abandoned, seconds"
    )

    _filesystem: pafs.FileSystem | None = PrivateAttr(default=None)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Arrow's file system for scans, rooted at the archive's prefix: its paths are our keys."""
        if self._filesystem is None:
            parts = urlsplit(self.url)
            if parts.scheme == "file":
                self._filesystem = pafs.SubTreeFileSystem(unquote(parts.path), pafs.LocalFileSystem())
            else:
                self._filesystem = pafs.SubTreeFileSystem(f"{parts.netloc}{parts.path}", self._arrow_s3())
        return self._filesystem

    def _arrow_s3(self) -> pafs.S3FileSystem:
        endpoint = urlsplit(self.endpoint_url or "")
        elsewhere = {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme} if endpoint.netloc else {}
        return pafs.S3FileSystem(
            access_key=self.access_key_id,
            secret_key=self.secret_access_key,
            session_token=self.session_token,
            region=self.region,
            connect_timeout=self.timeout_seconds,
            request_timeout=self.timeout_seconds,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
            tls_ca_file_path=self.ca_file,
            **elsewhere,
        )

    @property
    def _objects(self) -> "Bucket | Folder":
        if self._client is None:
            parts = urlsplit(self.url)
            if parts.scheme == "file":
                self._client = Folder(self.url, self.filesystem, Path(unquote(parts.path)))
            else:
                from ninjait_pipelines.resources.archive.bucket import (
                    Bucket,  # boto3 takes a tenth of every command's start
                )

                self._client = Bucket(
                    self.url,
                    parts.netloc,
                    parts.path.strip("/"),
                    timeout_seconds=self.timeout_seconds,
                    part_bytes=self.part_bytes,
                    stale_upload_seconds=self.stale_upload_seconds,
                    endpoint_url=self.endpoint_url,
                    aws_access_key_id=self.access_key_id,
                    aws_secret_access_key=self.secret_access_key,
                    aws_session_token=self.session_token,
                    region_name=self.region,
                    verify=self.ca_file,
                )
        objects: Bucket | Folder = self._client
        return objects

    def close(self) -> None:
        super().close()
        self._filesystem = None

    def _ping(self) -> tuple[str, int | None]:
        return self._objects.ping()

    def write(self, key: str, data: bytes, over: str | None = ANYTHING) -> None:
        """Writes an object completely or not at all: a reader never sees half of it.

        `over` is the version that it may replace, None for no object. Raises ObjectChanged if there is another one.
        """
        self._objects.write(self._checked(key), data, over)

    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        """The object's bytes. Raises ObjectMissing if there is none, ObjectCorrupt if it is damaged, ObjectTooLarge,
        before reading any of it, if it has more than `max_bytes`."""
        return self._objects.read(self._checked(key), max_bytes)

    def version(self, key: str) -> str | None:
        """Changes with every write of the object, for `over` of `write`; None if there is no object."""
        return self._objects.version(self._checked(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object with this key."""
        return self.version(key) is not None

    def scan(self, keys: Sequence[str], columns: list[str] | None = None) -> pa.Table:
        """The rows of Parquet objects, read by Arrow: only the columns requested."""
        import pyarrow.dataset as ds  # imports pandas if that is installed

        for key in keys:
            self._checked(key)

        def read() -> pa.Table:
            with arrow_errors(self.url, keys[0]):
                found = ds.dataset(list(keys), format="parquet", filesystem=self.filesystem)
                return found.to_table(columns=columns)

        try:
            return retrying()(read)
        except ObjectMissing:
            # Arrow raises this for every 404, and does not name the object; we ask for each.
            for key in keys:
                if not self.exists(key):
                    raise no_object(self.url, key) from None
            raise

    def _checked(self, key: str) -> str:
        """The key, unless it leads out of the archive: in a folder `..` and `/` have a meaning."""
        if "\\" in key or "\0" in key or not all(part.strip(".") for part in key.split("/")):
            problem = f"{key!r} is not a valid key: it is empty, absolute, or has an empty part, `.` or `..`"
            raise StoreFailed(TITLE, self.url, problem, "Find out where it comes from.")
        return key

    def list_keys(self, prefix: str) -> list[str]:
        """The keys below a folder, sorted. For people and tests; the pipeline relies on manifests, not on listings."""
        return self._objects.list_keys(prefix)

    def delete(self, key: str) -> None:
        """Deletes an object, if there is one."""
        self._objects.delete(self._checked(key))


class Folder:
    """The objects in a folder. S3 excludes that two runs replace each other's version; here a gap of a microsecond
    remains between checking the version and renaming."""

    def __init__(self, url: str, filesystem: pafs.FileSystem, path: Path) -> None:
        self._url, self._filesystem, self._path = url, filesystem, path

    def ping(self) -> tuple[str, int | None]:
        with arrow_errors(self._url, ""):
            kind = self._filesystem.get_file_info("").type
            if kind != pafs.FileType.Directory:
                raise StoreFailed(TITLE, self._url, "there is no such folder", "Check ARCHIVE_URL.")
            entries = self._filesystem.get_file_info(pafs.FileSelector("", recursive=True))
        return "folder", sum(entry.size for entry in entries if entry.is_file)

    def version(self, key: str) -> str | None:
        with arrow_errors(self._url, key):
            try:
                found = (self._path / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return f"{found.st_ino}.{found.st_mtime_ns}.{found.st_size}" if stat.S_ISREG(found.st_mode) else None

    def write(self, key: str, data: bytes, over: str | None) -> None:
        with arrow_errors(self._url, key):
            parent = PurePosixPath(key).parent
            self._filesystem.create_dir(str(parent), recursive=True)
            # A unique name: two runs that write the same key must not write into the same file.
            unfinished = f"{key}.{uuid.uuid4().hex}{UNFINISHED}"
            try:
                with self._filesystem.open_output_stream(unfinished) as stream:
                    stream.write(data)
                if over not in (ANYTHING, self.version(key)):
                    raise other_version(self._url, key)
            except (OSError, ObjectChanged):
                # A full disk needs the space back, and half a file must not be taken for the object.
                if self._filesystem.get_file_info(unfinished).is_file:
                    self._filesystem.delete_file(unfinished)
                raise
            self._filesystem.move(unfinished, key)

    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        with arrow_errors(self._url, key), self._filesystem.open_input_file(key) as file:
            check_size(self._url, key, file.size(), max_bytes)
            data: bytes = file.read()
            return data

    def list_keys(self, prefix: str) -> list[str]:
        with arrow_errors(self._url, prefix):
            found = self._filesystem.get_file_info(pafs.FileSelector(prefix, recursive=True, allow_not_found=True))
        return sorted(entry.path for entry in found if entry.is_file and not entry.path.endswith(UNFINISHED))

    def delete(self, key: str) -> None:
        with arrow_errors(self._url, key):
            if self._filesystem.get_file_info(key).is_file:
                self._filesystem.delete_file(key)

    def close(self) -> None:
        """Nothing is open."""


def arrow_errors(url: str, key: str) -> AbstractContextManager[None]:
    """Raises errors of files, and of Arrow's own S3 client, as StoreErrors."""
    return translated(partial(_translate, url, key))


def _translate(url: str, key: str, error: Exception) -> StoreError | None:
    match error:
        case FileNotFoundError():
            return no_object(url, key)
        case PermissionError():
            return StoreRefused(TITLE, url, error, "Check ARCHIVE_URL and its rights (S3: AWS_*).")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return OutOfSpace(TITLE, url, f"no room for {key!r}: {error}")
        case OSError():
            untrusted = tls_failure(TITLE, url, error, "AWS_ENDPOINT_URL", "ARCHIVE_CA_FILE")
            return untrusted or StoreUnavailable(TITLE, url, error, SEE_STATUS)
    return None
