"""The cold archive: immutable objects under keys, on S3 or in a folder."""

import errno
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    OutOfSpace,
    Store,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    retrying,
    tls_failure,
)

if TYPE_CHECKING:
    from ninjait_pipelines.resources.archive.bucket import Bucket

# What a killed writer leaves behind ends with this, and is no object.
UNFINISHED = ".unfinished"


class Archive(Store):
    """Objects by key: `s3://bucket/prefix` through boto3, or `file:///folder`; whole tables through Arrow's datasets.

    with Archive(url="file:///var/archive").open() as store:
        store.write("weekly_reports/week=2026-01-05/report.json", b"{}")
    """

    title = TITLE

    url: str = Field(description="s3://bucket/prefix or file:///folder")
    timeout_seconds: float = Field(default=20, description="Longest wait for S3 to say or take anything, seconds")
    endpoint_url: str | None = Field(default=None, description="S3's address, where it is not Amazon's")
    access_key_id: str | None = Field(default=None, description="Access key; without one, AWS's usual chain finds it")
    secret_access_key: str | None = Field(default=None, description="Secret key")
    session_token: str | None = Field(default=None, description="Session token, with temporary keys")
    region: str | None = Field(default=None, description="Region; without one, AWS's usual chain finds it")
    part_bytes: int = Field(default=64 * 2**20, description="A larger object goes to S3 in parts of this many bytes")
    stale_upload_seconds: float = Field(
        default=86_400, description="An upload in parts that began this many seconds ago is taken for a dead one's"
    )

    _filesystem: pafs.FileSystem | None = PrivateAttr(default=None)

    @property
    def filesystem(self) -> pafs.FileSystem:
        """Arrow's file system, rooted at the archive's prefix, for scans: paths in it are our keys."""
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
                from ninjait_pipelines.resources.archive.bucket import Bucket  # boto3: a tenth of every command's start

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
        """Writes an object whole or not at all: a reader never sees half of it.

        `over` is the version that it may replace, None for no object. Raises ObjectChanged where there is another.
        """
        self._objects.write(self._checked(key), data, over)

    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        """The object's bytes. Raises ObjectMissing where there is none, ObjectCorrupt where S3 finds it damaged,
        ObjectTooLarge, before any of it is read, where there are more than `max_bytes`."""
        return self._objects.read(self._checked(key), max_bytes)

    def version(self, key: str) -> str | None:
        """What changes with every write of the object, for `write`'s `over`; None where there is no object."""
        return self._objects.version(self._checked(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        return self.version(key) is not None

    def scan(self, keys: Sequence[str], columns: list[str] | None = None) -> pa.Table:
        """The rows of Parquet objects, read by Arrow itself: only the columns that are asked for."""
        import pyarrow.dataset as ds  # which imports pandas, where that is installed

        for key in keys:
            self._checked(key)

        def read() -> pa.Table:
            with arrow_errors(self.url, keys[0]):
                found = ds.dataset(list(keys), format="parquet", filesystem=self.filesystem)
                return found.to_table(columns=columns)

        try:
            return retrying()(read)
        except ObjectMissing:
            # Arrow takes every 404 for this, and does not say of which object; we ask each.
            for key in keys:
                if not self.exists(key):
                    raise no_object(self.url, key) from None
            raise

    def _checked(self, key: str) -> str:
        """The key, unless it leads out of the archive: a folder takes `..` and `/` for what they say."""
        if "\\" in key or "\0" in key or not all(part.strip(".") for part in key.split("/")):
            problem = f"{key!r} is no key of an object: it is empty, absolute, or has an empty part, `.` or `..`"
            raise StoreFailed(TITLE, self.url, problem, "Find out who named it.")
        return key

    def list_keys(self, prefix: str) -> list[str]:
        """The keys below a folder, in order. For people and tests; the pipeline trusts manifests, not listings."""
        return self._objects.list_keys(prefix)

    def delete(self, key: str) -> None:
        """Deletes an object; one that is not there is fine."""
        self._objects.delete(self._checked(key))


class Folder:
    """The objects in a folder. What two runs see of each other is settled at S3; here a microsecond stays open between
    the look at the version and the rename."""

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
            # A name of its own: two runs that write one key must not write into one file.
            unfinished = f"{key}.{uuid.uuid4().hex}{UNFINISHED}"
            try:
                with self._filesystem.open_output_stream(unfinished) as stream:
                    stream.write(data)
                if over not in (ANYTHING, self.version(key)):
                    raise other_version(self._url, key)
            except (OSError, ObjectChanged):
                # A full disk needs its space back, and nobody may take the half for the whole.
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
        """Nothing is held open."""


@contextmanager
def arrow_errors(url: str, key: str) -> Iterator[None]:
    """Turns the errors of files, and of Arrow's own S3, into ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise no_object(url, key) from error
    except PermissionError as error:
        raise StoreRefused(TITLE, url, error, "Check ARCHIVE_URL and its rights (S3: AWS_*).") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfSpace(TITLE, url, f"no room for {key!r}: {error}") from error
        if failed := tls_failure(TITLE, url, error, "AWS_ENDPOINT_URL", "ARCHIVE_CA_FILE"):
            raise failed from error
        raise StoreUnavailable(TITLE, url, error, "See what runs with: ninjait status.") from error
