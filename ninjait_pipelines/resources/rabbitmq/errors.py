"""What pika's errors mean, in RabbitMQ's words and ours."""

import logging
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from ninjait_pipelines.resources.store import (
    OutOfSpace,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
)

TITLE = "RabbitMQ"
_SEE_STATUS = "See what runs with: ninjait status."
_VALUE = r"(?:the value )?'?(.+?)'?(?: of type '\w+')?"
DIFFERS = re.compile(
    rf"inequivalent arg '(.+?)' for (\w+) '(.+?)' in vhost '.*?': received {_VALUE} but current is {_VALUE}(?:\"\)|$)"
)
# pika logs each of its errors, and then raises it: here it becomes a StoreError, which says it once.
logging.getLogger("pika").setLevel(logging.CRITICAL)


@contextmanager
def errors(url: str) -> Iterator[None]:
    """Turns pika's errors into ours."""
    try:
        yield
    except (pika.exceptions.AMQPError, AMQPConnectorException, OSError, UnicodeEncodeError) as error:
        kind, problem, advice = next(filter(None, map(_meaning, _causes(error))), (StoreUnavailable, None, _SEE_STATUS))
        *_, last = _causes(error)
        said = problem or str(last) or repr(last)
        if is_out_of_space(said):
            raise OutOfSpace(TITLE, url, said) from error
        raise kind(TITLE, url, said, advice) from error


@contextmanager
def differences(url: str) -> Iterator[None]:
    """Says of a queue or exchange that was declared with other arguments which they are."""
    try:
        yield
    except StoreFailed as error:
        differs = DIFFERS.search(str(error.__cause__))
        if not differs:
            raise
        argument, kind, name, ours, theirs = differs.groups()
        problem = f"the {kind} {name} was declared with another {argument}: it has {theirs}, and ours is {ours}"
        advice = (
            f"It was left as it is. Drain it, delete it (rabbitmqctl delete_queue {name}), and: ninjait migrate up."
        )
        if argument.startswith("x-dead-letter-"):  # 0.3.0 declared it
            advice = "It was left as it is. This makes it anew, and keeps what it holds: ninjait migrate up."
        raise StoreFailed(TITLE, url, problem, advice) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps: pika wraps one for each step of connecting."""
    yield error
    for cause in (getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args):
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def _meaning(error: BaseException) -> tuple[type[StoreError], str, str] | None:
    """(which of our errors, what happened, what to do), where this one says it."""
    words = str(error)
    # pika guesses these two where the connection is cut while it is opened; and it may be for now only.
    told = "ConnectionClosedByBroker" in words and "is down" not in words and "limit" not in words
    match error:
        case ssl.SSLCertVerificationError():
            advice = (
                "Name the file of the authority that signed it in RABBITMQ_CA_FILE (or CA_FILE), and in RABBITMQ_URL a "
                "host that it is made out for."
            )
            return StoreFailed, f"its certificate is not trusted: {error.verify_message}", advice
        case pika.exceptions.ProbableAccessDeniedError() if told:
            advice = "Check the path of RABBITMQ_URL, and the user's permissions."
            return StoreRefused, f"it refuses the virtual host: {words}", advice
        case pika.exceptions.ProbableAuthenticationError() if told:
            return StoreRefused, "it refuses the user or the password", "Check RABBITMQ_URL."
        case pika.exceptions.AuthenticationError():
            return StoreRefused, "it refuses the user or the password", "Check RABBITMQ_URL."
        case pika.exceptions.ConnectionBlockedTimeout():
            advice = "It takes messages again once they are drained, or it has memory and disk."
            alarm = f" ({words})" if words else ""
            return StoreUnavailable, f"an alarm on the broker blocks its publishers{alarm}", advice
        case pika.exceptions.ShortStringTooLong():
            problem = "a routing key, message id or content type is longer than 255 bytes"
            return StoreFailed, problem, "Publish it with a shorter one."
        case UnicodeEncodeError():
            return StoreFailed, f"a text cannot be sent as UTF-8: {words}", "Publish it with another one."
        case pika.exceptions.ConnectionClosed() | pika.exceptions.ChannelClosed():
            kind, advice = _said_by_the_broker(error.reply_code, error.reply_text)
            return kind, error.reply_text, advice
    return None


def _said_by_the_broker(code: int, words: str) -> tuple[type[StoreError], str]:
    """What it means that the broker closed a connection or a channel."""
    if code in (403, 530):
        return StoreRefused, "Check RABBITMQ_URL, and the user's permissions on the virtual host."
    if code == 404:
        return StoreFailed, "Nothing has declared it yet, or somebody deleted it: ninjait migrate up."
    if "acknowledgement" in words:  # a delivery was held beyond the broker's consumer_timeout
        return StoreUnavailable, "What was held comes again; is consumer_timeout too short?"
    if "message size" in words:
        return StoreFailed, "Publish it in parts, or raise the broker's max_message_size."
    if code == 406:  # precondition failed
        return StoreFailed, "Read RabbitMQ's words above."
    return StoreUnavailable, _SEE_STATUS
