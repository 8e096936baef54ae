"""Objects in a bucket of S3 through boto3: conditional writes, checksums both ways, uploads in parts."""

import functools
import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any, ParamSpec, TypeVar

import boto3
import botocore.exceptions
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)

from ninjait_pipelines.resources.archive.errors import (
    ANYTHING,
    TITLE,
    ObjectCorrupt,
    ObjectTooLarge,
    TransferDamaged,
    check_size,
    no_object,
    other_version,
)
from ninjait_pipelines.resources.store import (
    OutOfSpace,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    retrying,
    tls_failure,
)

# the object's own hash, in its metadata: a multipart object's checksum is one of its parts' checksums
SHA256 = "sha256"
# S3 also answers these with 400 or 404, where the status alone would mean a wrong request
REFUSALS = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "XAdminUserNotFound"}
DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
PASSING = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "OperationAborted"}
CHANGED = {"PreconditionFailed", "ConditionalRequestConflict"}
CONNECT_SECONDS = 5.0
ADVICE = "Check ARCHIVE_URL and AWS_*."


P = ParamSpec("P")
R = TypeVar("R")


def _again(method: Callable[P, R]) -> Callable[P, R]:
    """Survives a gateway that starts again. boto3's own retries are over in tenths of a second, and do not cover the
    reading of an answer's body."""

    @functools.wraps(method)
    def tried(*arguments: P.args, **keywords: P.kwargs) -> R:
        return retrying()(method, *arguments, **keywords)

    return tried


class Bucket:
    """The objects below a prefix of a bucket.

    boto3 signs, and chooses the addresses' style: the bucket in the path at an endpoint of one's own, in the host name
    at Amazon. It sends a request once: where S3 is silent, each further time would be waited for as long again.
    """

    def __init__(
        self,
        url: str,
        bucket: str,
        prefix: str,
        timeout_seconds: float,
        part_bytes: int,
        stale_upload_seconds: float,
        **client: str | None,
    ) -> None:
        self._url, self._bucket, self._prefix = url, bucket, prefix
        self._part_bytes = part_bytes
        self._stale_upload = timedelta(seconds=stale_upload_seconds)
        config = Config(
            connect_timeout=min(CONNECT_SECONDS, timeout_seconds),
            read_timeout=timeout_seconds,
            retries={"total_max_attempts": 1},
        )
        with self._errors(""):
            self._client = boto3.session.Session().client("s3", config=config, **client)

    def ping(self) -> tuple[str, int | None]:
        with self._errors(""):
            # HeadBucket would be the natural question; its refusals come without a reason
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        server = answer["ResponseMetadata"]["HTTPHeaders"].get("server")
        return f"S3 ({server})" if server else "S3", None

    @_again
    def version(self, key: str) -> str | None:
        with self._errors(key):
            try:
                return self._client.head_object(**self._at(key)).get("ETag") or ANYTHING
            except ClientError as error:
                # An answer to HEAD has no reason: with 404 it may be the bucket that is missing. This one says so.
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._at(key)["Key"], MaxKeys=1)
                if _status(error) != 404:
                    raise
        return None

    @_again
    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        with self._errors(key):
            answer = self._client.get_object(**self._at(key), ChecksumMode="ENABLED")
            if "ContentLength" not in answer:  # cut inside the headers, which then look complete
                raise TransferDamaged(TITLE, self._url, f"{key!r} was cut short on its way here", "Try again.")
            try:
                check_size(self._url, key, answer["ContentLength"], max_bytes)
            except ObjectTooLarge:
                answer["Body"].close()
                raise
            data: bytes = answer["Body"].read()
        written = answer["Metadata"].get(SHA256)
        if written and written != hashlib.sha256(data).hexdigest():
            raise self._corrupt(key)
        return data

    @_again
    def write(self, key: str, data: bytes, over: str | None) -> None:
        metadata = {SHA256: hashlib.sha256(data).hexdigest()}
        with self._errors(key):
            if len(data) > self._part_bytes:
                self._write_parts(key, data, metadata, _condition(over))
            else:
                checksum = _checksum(data)
                where = self._at(key) | _condition(over)
                self._client.put_object(**where, Body=data, ChecksumSHA256=checksum, Metadata=metadata)

    def _write_parts(self, key: str, data: bytes, metadata: dict[str, str], condition: dict[str, str]) -> None:
        """1. Begin an upload. 2. Send its parts. Dying here: no object; the parts lie there, invisible, until a later
        upload of the key or the bucket's lifecycle rule takes them away.
        3. Complete it, on the condition. The object appears, whole."""
        self._abort_stale(key)
        at = self._at(key)
        upload = self._client.create_multipart_upload(**at, ChecksumAlgorithm="SHA256", Metadata=metadata)["UploadId"]
        try:
            parts = []
            for number, start in enumerate(range(0, len(data), self._part_bytes), 1):
                part = data[start : start + self._part_bytes]
                checksum = _checksum(part)
                sent = self._client.upload_part(
                    **at, UploadId=upload, PartNumber=number, Body=part, ChecksumSHA256=checksum
                )
                parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum})
            self._client.complete_multipart_upload(**at, **condition, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            self._abort(key, upload)
            raise

    def _abort_stale(self, key: str) -> None:
        """Takes away what killed writers of this key left. A failure here must not stop the write."""
        with suppress(StoreError), self._errors(key):
            at = self._at(key)
            answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=at["Key"])
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            for upload in answer.get("Uploads", []):
                if upload["Key"] == at["Key"] and now - upload["Initiated"] >= self._stale_upload:
                    self._abort(key, upload["UploadId"])

    def _abort(self, key: str, upload: str) -> None:
        """The error that led here is what counts, not one of this."""
        with suppress(StoreError), self._errors(key):
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload)

    @_again
    def list_keys(self, prefix: str) -> list[str]:
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        start = self._at(folder)
        root = len(start["Key"]) - len(folder)
        pages = self._client.get_paginator("list_objects_v2")
        with self._errors(prefix):
            found = pages.paginate(Bucket=self._bucket, Prefix=start["Key"])
            return sorted(entry["Key"][root:] for page in found for entry in page.get("Contents", []))

    @_again
    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.delete_object(**self._at(key))

    def close(self) -> None:
        self._client.close()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{key}" if self._prefix else key}

    def _corrupt(self, key: str) -> ObjectCorrupt:
        advice = "Write it again from its source, and look after the bucket's disks."
        return ObjectCorrupt(TITLE, self._url, f"{key!r} has another hash than what was written", advice)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._answered(key, error) from error
        except FlexibleChecksumError as error:
            raise self._corrupt(key) from error
        except (IncompleteReadError, ResponseStreamingError) as error:
            problem = f"{key!r} was cut short on its way here: {error}"
            raise TransferDamaged(TITLE, self._url, problem, "Try again.") from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            advice = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role."
            raise StoreRefused(TITLE, self._url, error, advice) from error
        except SSLError as error:
            failed = tls_failure(TITLE, self._url, error, "AWS_ENDPOINT_URL", "ARCHIVE_CA_FILE")
            raise failed or StoreUnavailable(TITLE, self._url, error, ADVICE) from error
        except (HTTPClientError, botocore.exceptions.ConnectionError) as error:
            raise StoreUnavailable(TITLE, self._url, error, "See what runs with: ninjait status.") from error
        except (BotoCoreError, ValueError) as error:
            raise StoreFailed(TITLE, self._url, error, ADVICE) from error

    def _answered(self, key: str, error: ClientError) -> StoreError:
        """What S3 said, in our words. The reason counts before the status."""
        code, status = error.response["Error"].get("Code", ""), _status(error)
        said = f"{error.operation_name} of {key!r}: {error.response['Error'].get('Message') or code} ({code})"
        reason = f"{error.response['Error'].get('Message')} ({code})"
        if status == 507 or (status >= 500 and is_out_of_space(reason)) or "QuotaExceeded" in code:
            return OutOfSpace(TITLE, self._url, said)
        vanished = code in ("NoSuchKey", "NoSuchUpload") and error.operation_name != "GetObject"
        if code in CHANGED or vanished:
            return other_version(self._url, key)
        if code == "NoSuchKey":
            return no_object(self._url, key)
        if code == "NoSuchBucket":
            return StoreFailed(TITLE, self._url, f"there is no bucket {self._bucket!r}", "Check ARCHIVE_URL.")
        if code in DAMAGED:
            return TransferDamaged(TITLE, self._url, f"{said}: damaged on its way there", "Try again.")
        if code in REFUSALS or status in (401, 403):
            return StoreRefused(TITLE, self._url, said, "Check AWS_* and the rights that the bucket gives.")
        if code in PASSING or status == 429 or (status >= 500 and status != 501):
            return StoreUnavailable(TITLE, self._url, said, "See what runs with: ninjait status.")
        return StoreFailed(TITLE, self._url, said, ADVICE)


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _checksum(data: bytes) -> str:
    return b64encode(hashlib.sha256(data).digest()).decode()


def _condition(over: str | None) -> dict[str, Any]:
    if over == ANYTHING:
        return {}
    return {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
