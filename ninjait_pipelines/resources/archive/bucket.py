"""Objects in a bucket of S3 through boto3: conditional writes, checksums both ways, uploads in parts."""

import functools
import hashlib
from base64 import b64encode
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
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
    SEE_STATUS,
    OutOfSpace,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    retrying,
    tls_failure,
    translated,
)

# The object's hash, in its metadata: the checksum of a multipart object is only one of its parts' checksums.
SHA256 = "sha256"
# S3 also answers these with 400 or 404, which alone would mean a wrong request.
REFUSALS = {"ExpiredToken", "InvalidToken", "InvalidAccessKeyId", "XAdminUserNotFound"}
DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody"}
PASSING = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "OperationAborted"}
CHANGED = {"PreconditionFailed", "ConditionalRequestConflict"}
CONNECT_SECONDS = 5.0
ADVICE = "Check ARCHIVE_URL and AWS_*."


P = ParamSpec("P")
R = TypeVar("R")


def _retried(method: Callable[P, R]) -> Callable[P, R]:
    """Retries, to survive a gateway's restart. boto3's own retries are over in tenths of a second, and do not cover
    reading the body."""

    @functools.wraps(method)
    def attempt(*arguments: P.args, **keywords: P.kwargs) -> R:
        return retrying()(method, *arguments, **keywords)

    return attempt


class Bucket:
    """The objects under a prefix of a bucket.

    boto3 signs requests and chooses the addressing style: the bucket in the path for a custom endpoint, in the host
    name at Amazon. It sends each request once: if S3 does not answer, every retry would wait as long again.
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
            # HeadBucket would be the natural request, but its refusals give no reason.
            answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
        server = answer["ResponseMetadata"]["HTTPHeaders"].get("server")
        return f"S3 ({server})" if server else "S3", None

    @_retried
    def version(self, key: str) -> str | None:
        with self._errors(key):
            try:
                return self._client.head_object(**self._at(key)).get("ETag") or ANYTHING
            except ClientError as error:
                # The answer to HEAD gives no reason, and 404 may mean that the bucket is missing: this request tells.
                self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._at(key)["Key"], MaxKeys=1)
                if _status(error) != 404:
                    raise
        return None

    @_retried
    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        with self._errors(key):
            answer = self._client.get_object(**self._at(key), ChecksumMode="ENABLED")
            if "ContentLength" not in answer:  # cut inside the headers, which look complete nevertheless
                raise TransferDamaged(TITLE, self._url, f"{key!r} was cut short in transfer", "Try again.")
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

    @_retried
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
        """1. Begin an upload. 2. Send its parts. Dying here: there is no object; the parts stay, invisible, until a
        later upload of the key or the bucket's lifecycle rule removes them.
        3. Complete it, under the condition. The whole object appears."""
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
        """Removes the uploads that killed writers of this key left. A failure here must not stop the write."""
        with suppress(StoreError), self._errors(key):
            at = self._at(key)
            answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=at["Key"])
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            for upload in answer.get("Uploads", []):
                if upload["Key"] == at["Key"] and now - upload["Initiated"] >= self._stale_upload:
                    self._abort(key, upload["UploadId"])

    def _abort(self, key: str, upload: str) -> None:
        """An error here must not hide the one that led to it."""
        with suppress(StoreError), self._errors(key):
            self._client.abort_multipart_upload(**self._at(key), UploadId=upload)

    @_retried
    def list_keys(self, prefix: str) -> list[str]:
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        start = self._at(folder)
        root = len(start["Key"]) - len(folder)
        pages = self._client.get_paginator("list_objects_v2")
        with self._errors(prefix):
            found = pages.paginate(Bucket=self._bucket, Prefix=start["Key"])
            return sorted(entry["Key"][root:] for page in found for entry in page.get("Contents", []))

    @_retried
    def delete(self, key: str) -> None:
        with self._errors(key):
            self._client.delete_object(**self._at(key))

    def close(self) -> None:
        self._client.close()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{key}" if self._prefix else key}

    def _corrupt(self, key: str) -> ObjectCorrupt:
        advice = "Write it again from its source, and check the bucket's disks."
        return ObjectCorrupt(TITLE, self._url, f"{key!r} does not have the hash of what was written", advice)

    def _errors(self, key: str) -> AbstractContextManager[None]:
        return translated(functools.partial(self._translate, key))

    def _translate(self, key: str, error: Exception) -> StoreError | None:
        match error:
            case ClientError():
                return self._server_error(key, error)
            case FlexibleChecksumError():
                return self._corrupt(key)
            case IncompleteReadError() | ResponseStreamingError():
                problem = f"{key!r} was cut short in transfer: {error}"
                return TransferDamaged(TITLE, self._url, problem, "Try again.")
            case NoCredentialsError() | PartialCredentialsError() | CredentialRetrievalError():
                advice = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role."
                return StoreRefused(TITLE, self._url, error, advice)
            case SSLError():
                untrusted = tls_failure(TITLE, self._url, error, "AWS_ENDPOINT_URL", "ARCHIVE_CA_FILE")
                return untrusted or StoreUnavailable(TITLE, self._url, error, ADVICE)
            case HTTPClientError() | botocore.exceptions.ConnectionError():
                return StoreUnavailable(TITLE, self._url, error, SEE_STATUS)
            case BotoCoreError() | ValueError():
                return StoreFailed(TITLE, self._url, error, ADVICE)
        return None

    def _server_error(self, key: str, error: ClientError) -> StoreError:
        """The meaning of S3's answer. The reason takes precedence over the status."""
        code, status = error.response["Error"].get("Code", ""), _status(error)
        problem = f"{error.operation_name} of {key!r}: {error.response['Error'].get('Message') or code} ({code})"
        reason = f"{error.response['Error'].get('Message')} ({code})"
        if status == 507 or (status >= 500 and is_out_of_space(reason)) or "QuotaExceeded" in code:
            return OutOfSpace(TITLE, self._url, problem)
        vanished = code in ("NoSuchKey", "NoSuchUpload") and error.operation_name != "GetObject"
        if code in CHANGED or vanished:
            return other_version(self._url, key)
        if code == "NoSuchKey":
            return no_object(self._url, key)
        if code == "NoSuchBucket":
            return StoreFailed(TITLE, self._url, f"there is no bucket {self._bucket!r}", "Check ARCHIVE_URL.")
        if code in DAMAGED:
            return TransferDamaged(TITLE, self._url, f"{problem}: damaged in transfer", "Try again.")
        if code in REFUSALS or status in (401, 403):
            return StoreRefused(TITLE, self._url, problem, "Check AWS_* and the bucket's permissions.")
        if code in PASSING or status == 429 or (status >= 500 and status != 501):
            return StoreUnavailable(TITLE, self._url, problem, SEE_STATUS)
        return StoreFailed(TITLE, self._url, problem, ADVICE)


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _checksum(data: bytes) -> str:
    return b64encode(hashlib.sha256(data).digest()).decode()


def _condition(over: str | None) -> dict[str, Any]:
    if over == ANYTHING:
        return {}
    return {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
