"""What pika's errors mean, and what to do about them."""

import logging
import re
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from ninjait_pipelines.resources.store import (
    SEE_STATUS,
    OutOfSpace,
    StoreError,
    StoreFailed,
    StoreRefused,
    StoreUnavailable,
    is_out_of_space,
    translated,
    untrusted_advice,
)

TITLE = "RabbitMQ"
_VALUE = r"(?:the value )?'?(.+?)'?(?: of type '\w+')?"
DIFFERS = re.compile(
    rf"inequivalent arg '(.+?)' for (\w+) '(.+?)' in vhost '.*?': received {_VALUE} but current is {_VALUE}(?:\"\)|$)"
)
# pika logs every error that it also raises, and here each becomes a StoreError: it would be reported twice.
logging.getLogger("pika").setLevel(logging.CRITICAL)


def errors(url: str) -> AbstractContextManager[None]:
    """Raises pika's errors as StoreErrors."""
    return translated(partial(_translate, url))


def _translate(url: str, error: Exception) -> StoreError | None:
    if not isinstance(error, pika.exceptions.AMQPError | AMQPConnectorException | OSError | UnicodeEncodeError):
        return None
    kind, problem, advice = next(filter(None, map(_meaning, _causes(error))), (StoreUnavailable, None, SEE_STATUS))
    *_, last = _causes(error)
    problem = problem or str(last) or repr(last)
    return OutOfSpace(TITLE, url, problem) if is_out_of_space(problem) else kind(TITLE, url, problem, advice)


@contextmanager
def differences(url: str) -> Iterator[None]:
    """Names the arguments that differ, if a queue or exchange was declared with different ones."""
    try:
        yield
    except StoreFailed as error:
        differs = DIFFERS.search(str(error.__cause__))
        if not differs:
            raise
        argument, kind, name, ours, theirs = differs.groups()
        problem = f"the {kind} {name} was declared with a different {argument}: it has {theirs}, ours is {ours}"
        advice = (
            f"It was left as it is. Drain it, delete it (rabbitmqctl delete_queue {name}), then: ninjait migrate up."
        )
        if "-dead-letter-" in argument:  # 0.3.0 declared it; where a password is "x", that letter is hidden here
            advice = "It was left as it is. This replaces it, and keeps its messages: ninjait migrate up."
        raise StoreFailed(TITLE, url, problem, advice) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps: pika adds one for each step of connecting."""
    yield error
    for cause in (getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args):
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def _meaning(error: BaseException) -> tuple[type[StoreError], str, str] | None:
    """(kind of our error, what happened, what to do), if this error tells."""
    message = str(error)
    # pika also guesses these two when the connection is cut while opening; and some of the broker's reasons pass.
    told = "ConnectionClosedByBroker" in message and "is down" not in message and "limit" not in message
    match error:
        case ssl.SSLCertVerificationError():
            advice = untrusted_advice("RABBITMQ_URL", "RABBITMQ_CA_FILE")
            return StoreFailed, f"its certificate is not trusted: {error.verify_message}", advice
        case pika.exceptions.ProbableAccessDeniedError() if told:
            advice = "Check the path of RABBITMQ_URL, and the user's permissions."
            return StoreRefused, f"it refuses the virtual host: {message}", advice
        case pika.exceptions.ProbableAuthenticationError() if told:
            return StoreRefused, "it refuses the user or the password", "Check RABBITMQ_URL."
        case pika.exceptions.AuthenticationError():
            return StoreRefused, "it refuses the user or the password", "Check RABBITMQ_URL."
        case pika.exceptions.ConnectionBlockedTimeout():
            advice = "It accepts messages again once the queues are drained, or it has memory and disk space."
            alarm = f" ({message})" if message else ""
            return StoreUnavailable, f"an alarm on the broker blocks its publishers{alarm}", advice
        case pika.exceptions.ShortStringTooLong():
            problem = "a routing key, message id or content type is longer than 255 bytes"
            return StoreFailed, problem, "Publish it with a shorter one."
        case UnicodeEncodeError():
            return StoreFailed, f"a text cannot be encoded as UTF-8: {message}", "Publish it with another one."
        case pika.exceptions.ConnectionClosed() | pika.exceptions.ChannelClosed():
            kind, advice = _reason_for_closing(error.reply_code, error.reply_text)
            return kind, error.reply_text, advice
    return None


def _reason_for_closing(code: int, message: str) -> tuple[type[StoreError], str]:
    """(kind of our error, what to do) when the broker closed a connection or a channel."""
    if code in (403, 530):
        return StoreRefused, "Check RABBITMQ_URL, and the user's permissions on the virtual host."
    if code == 404:
        return StoreFailed, "It was not declared yet, or it was deleted: ninjait migrate up."
    if "acknowledgement" in message:  # a delivery was held beyond the broker's consumer_timeout
        return StoreUnavailable, "What was held is redelivered; is consumer_timeout too short?"
    if "message size" in message:
        return StoreFailed, "Publish it in parts, or raise the broker's max_message_size."
    if code == 406:  # precondition failed
        return StoreFailed, "See RabbitMQ's message above."
    return StoreUnavailable, SEE_STATUS
