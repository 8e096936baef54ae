"""What pika's errors mean: which are retried, and what a person is told to check."""

import ssl

import pika.exceptions
import pytest
from pika.adapters.utils.connection_workflow import AMQPConnectionWorkflowFailed, AMQPConnectorSocketConnectError

from ninjait_pipelines.resources.rabbitmq.errors import differences, errors
from ninjait_pipelines.resources.store import OutOfSpace, StoreError, StoreFailed, StoreRefused, StoreUnavailable

URL = "amqp://user:canary@h:5672/vhost"


def closed(code: int, text: str) -> pika.exceptions.ChannelClosedByBroker:
    return pika.exceptions.ChannelClosedByBroker(code, text)


def by_broker(code: int, text: str) -> pika.exceptions.ConnectionClosedByBroker:
    return pika.exceptions.ConnectionClosedByBroker(code, text)


REFUSED = pika.exceptions.ProbableAuthenticationError(repr(by_broker(403, "ACCESS_REFUSED - Login was refused")))
CUT = pika.exceptions.ProbableAuthenticationError(repr(pika.exceptions.StreamLostError("the peer hung up")))
NO_HOST = pika.exceptions.ProbableAccessDeniedError(repr(by_broker(530, "NOT_ALLOWED - vhost x not found")))
HOST_DOWN = pika.exceptions.ProbableAccessDeniedError(repr(by_broker(541, "INTERNAL_ERROR - vhost 'x' is down")))
HOST_FULL = pika.exceptions.ProbableAccessDeniedError(
    repr(by_broker(530, "NOT_ALLOWED - connection limit (5) is reached"))
)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (REFUSED, StoreRefused, "it refuses the user or the password. Check RABBITMQ_URL."),
        (CUT, StoreUnavailable, "ninjait status"),
        (NO_HOST, StoreRefused, "it refuses the virtual host"),
        (HOST_DOWN, StoreUnavailable, "is down"),
        (HOST_FULL, StoreUnavailable, "limit (5) is reached"),
        (pika.exceptions.AuthenticationError("PLAIN"), StoreRefused, "the user or the password"),
        (pika.exceptions.ConnectionBlockedTimeout("low on memory"), StoreUnavailable, "an alarm on the broker"),
        (pika.exceptions.ConnectionBlockedTimeout("low on disk"), OutOfSpace, "Free space"),
        (pika.exceptions.ShortStringTooLong("x" * 300), StoreFailed, "longer than 255 bytes"),
        (closed(403, "ACCESS_REFUSED - access to queue 'q'"), StoreRefused, "permissions on the virtual host"),
        (closed(404, "NOT_FOUND - no queue 'q'"), StoreFailed, "ninjait migrate up"),
        (
            closed(406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"),
            StoreUnavailable,
            "What was held is redelivered",
        ),
        (closed(406, "PRECONDITION_FAILED - message size 200 is larger"), StoreFailed, "raise the broker's"),
        (closed(406, "PRECONDITION_FAILED - unknown delivery tag"), StoreFailed, "See RabbitMQ's message above."),
        (by_broker(320, "CONNECTION_FORCED - shut down"), StoreUnavailable, "ninjait status"),
        (pika.exceptions.StreamLostError("the peer hung up"), StoreUnavailable, "the peer hung up"),
        (ConnectionRefusedError(111, "Connection refused"), StoreUnavailable, "Connection refused"),
        (TimeoutError(), StoreUnavailable, "TimeoutError()"),
    ],
)
def test_what_an_error_means(error: Exception, kind: type[StoreError], words: str) -> None:
    with pytest.raises(StoreError) as raised, errors(URL):
        raise error
    assert type(raised.value) is kind
    assert words in str(raised.value)
    assert str(raised.value).startswith("RabbitMQ at amqp://h:5672/vhost: ")
    assert "canary" not in str(raised.value)


def test_the_cause_of_a_connection_that_failed_is_found_inside_what_pika_wraps() -> None:
    untrusted = ssl.SSLCertVerificationError("certificate verify failed")
    untrusted.verify_message = "self-signed certificate"
    wrapped = AMQPConnectionWorkflowFailed([AMQPConnectorSocketConnectError(untrusted)])
    with pytest.raises(StoreFailed, match=r"not trusted: self-signed certificate\..*RABBITMQ_CA_FILE"), errors(URL):
        raise wrapped


def test_a_text_that_cannot_be_encoded_is_the_publisher_s_error() -> None:
    with pytest.raises(StoreFailed, match=r"cannot be encoded as UTF-8.*Publish it with another one"), errors(URL):
        "\ud800".encode()


def test_an_error_of_our_own_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), errors(URL):
        raise ZeroDivisionError


def difference(text: str) -> str:
    """What is said of a queue that the broker says was declared otherwise."""
    with pytest.raises(StoreFailed) as raised, differences(URL), errors(URL):
        raise closed(406, f"PRECONDITION_FAILED - inequivalent arg {text}")
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "'x-max-length' for queue 'q' in vhost '/': received the value '5' of type 'long' but current is the value "
            "'9' of type 'long'",
            "-max-length: it has 9, ours is 5",
        ),
        (
            "'x-delivery-limit' for queue 'q' in vhost 'v': received the value '5' of type 'long' but current is none",
            "-delivery-limit: it has none, ours is 5",
        ),
        (
            "'durable' for exchange 'e' in vhost '/': received 'true' but current is 'false'",
            "the exchange e was declared with a different durable: it has false, ours is true",
        ),
    ],
)
def test_a_queue_declared_otherwise_is_named_with_both_values(text: str, words: str) -> None:
    assert words in difference(text)
    assert "It was left as it is. Drain it, delete it (rabbitmqctl delete_queue " in difference(text)


def test_a_queue_of_an_earlier_version_is_upgraded_and_not_deleted() -> None:
    """The advice to delete it would lose what it holds. It was given where some store's password was the letter x."""
    text = "'{}-dead-letter-exchange' for queue 'q' in vhost '/': received none but current is 'd'"
    for first in ("x", "***"):
        said = difference(text.format(first))
        assert "This replaces it, and keeps its messages: ninjait migrate up." in said
        assert "delete_queue" not in said


def test_any_other_failure_is_no_difference() -> None:
    with pytest.raises(StoreFailed, match="unknown delivery tag"), differences(URL), errors(URL):
        raise closed(406, "PRECONDITION_FAILED - unknown delivery tag")
