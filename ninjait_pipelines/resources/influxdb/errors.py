"""What InfluxDB's errors mean, and what to do about them."""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import msgspec
import urllib3
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.rest import ApiException

from ninjait_pipelines.resources.store import (
    SEE_STATUS,
    OutOfSpace,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    tls_failure,
    translated,
)

TITLE = "InfluxDB"
SEE_MESSAGE = "See InfluxDB's message above."
NOT_FOUND = (
    "Check INFLUXDB_ORG and INFLUXDB_BUCKET, and that INFLUXDB_TOKEN belongs to that organization; ninjait migrate up "
    "creates the buckets."
)
BY_STATUS: dict[int, tuple[type[StoreError], str]] = {
    401: (StoreRefused, "Check INFLUXDB_TOKEN."),
    403: (StoreRefused, "Check the rights of INFLUXDB_TOKEN: it must read and write the three buckets."),
    404: (StoreFailed, NOT_FOUND),
    **dict.fromkeys((429, 500, 502, 503, 504), (StoreUnavailable, SEE_STATUS)),
}


def errors(url: str) -> AbstractContextManager[None]:
    """Raises the client's and urllib3's errors as StoreErrors."""
    return translated(partial(translate, url))


def translate(url: str, error: Exception) -> StoreError | None:
    """The StoreError for one of the client's or urllib3's errors; None for any other error."""
    match error:
        case ApiException():
            return _untrusted(url, error) or _server_error(url, error)
        case InfluxDBError():
            # The client's own: it found no organization to create a bucket in, because the token may not see it.
            advice = (
                "Check INFLUXDB_ORG, and that INFLUXDB_TOKEN may create the buckets, or reads and writes all three."
            )
            return StoreRefused(TITLE, url, error, advice)
        case urllib3.exceptions.HTTPError():
            return _untrusted(url, error) or StoreUnavailable(TITLE, url, error, SEE_STATUS)
    return None


def _untrusted(url: str, error: Exception) -> StoreFailed | None:
    return tls_failure(TITLE, url, error, "INFLUXDB_URL", "INFLUXDB_CA_FILE")


def _server_error(url: str, error: ApiException) -> StoreError:
    message = message_of(error)
    if (error.status or 0) >= 500 and is_out_of_space(message):  # messages of a lower status quote what was sent
        return OutOfSpace(TITLE, url, message)
    kind, advice = BY_STATUS.get(error.status or 0, (StoreFailed, SEE_MESSAGE))
    return kind(TITLE, url, message, advice)


def message_of(error: ApiException) -> str:
    """The server's message, or whatever else there is."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else error.body
    try:
        return " ".join(str(msgspec.json.decode(body or "", type=dict[str, Any])["message"]).split())
    except (msgspec.DecodeError, KeyError):
        return f"{error.status} {body or error.reason}"
