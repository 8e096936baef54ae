"""What InfluxDB's errors mean: which are retried, and what a person is told to check."""

import ssl
from typing import Any

import pytest
import urllib3
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.rest import ApiException

from ninjait_pipelines.resources.influxdb.errors import errors, message_of
from ninjait_pipelines.resources.store import OutOfSpace, StoreError, StoreFailed, StoreRefused, StoreUnavailable

URL = "http://h:8086"


def answer(status: int, body: Any = b'{"code": "x", "message": "what   it\\nsays"}') -> ApiException:
    error = ApiException(status=status, reason="Reason")
    error.body = body
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (answer(401), StoreRefused, "what it says. Check INFLUXDB_TOKEN."),
        (answer(403), StoreRefused, "it must read and write the three buckets"),
        (answer(404), StoreFailed, "ninjait migrate up creates the buckets"),
        (answer(400), StoreFailed, "See InfluxDB's message above."),
        (answer(422), StoreFailed, "See InfluxDB's message above."),
        *((answer(status), StoreUnavailable, "ninjait status") for status in (429, 500, 502, 503, 504)),
        (answer(500, b'{"message": "no space left on device"}'), OutOfSpace, "Free space"),
        (answer(400, b'{"message": "unable to parse: no space left"}'), StoreFailed, "See InfluxDB's message above."),
        (InfluxDBError(None, "no organization"), StoreRefused, "Check INFLUXDB_ORG"),
        (urllib3.exceptions.ReadTimeoutError(None, "/", "it timed out"), StoreUnavailable, "ninjait status"),  # type: ignore[arg-type]
        (urllib3.exceptions.ProtocolError("cut", OSError("reset")), StoreUnavailable, "ninjait status"),
        (
            urllib3.exceptions.MaxRetryError(None, "/", ssl.SSLCertVerificationError("certificate verify failed: old")),  # type: ignore[arg-type]
            StoreFailed,
            "INFLUXDB_CA_FILE",
        ),
    ],
)
def test_what_an_error_means(error: Exception, kind: type[StoreError], words: str) -> None:
    with pytest.raises(StoreError) as raised, errors(URL):
        raise error
    assert type(raised.value) is kind
    assert words in str(raised.value)
    assert str(raised.value).startswith("InfluxDB at http://h:8086: ")


def test_an_error_of_our_own_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), errors(URL):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"message": "text"}', "text"),
        (b'{"message": 5}', "5"),
        (b'{"error": "no message"}', '502 {"error": "no message"}'),
        (b"[1]", "502 [1]"),
        (b"<html>Bad gateway", "502 <html>Bad gateway"),
        (b"\xff", "502 �"),
        (b"", "502 Reason"),
        (None, "502 Reason"),
    ],
)
def test_a_message_that_is_no_json_is_shown_as_it_is(body: Any, message: str) -> None:
    """A proxy before the server answers in its own words."""
    assert message_of(answer(502, body)) == message
