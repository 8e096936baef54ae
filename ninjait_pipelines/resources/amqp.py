"""A connection to RabbitMQ and the thread that serves it; callers hand the thread work, and wait for the reply.

pika's connection belongs to one thread. Here it is a thread of its own, so that heartbeats are answered while the
caller is busy for minutes with a write, and so that many messages can be under way to the broker at once. A `Link` is
used until it is lost, never mended: whoever needs another one connects anew.
"""

import logging
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pika
import pika.exceptions
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreRefused, StoreUnavailable

# pika logs each of its errors, and then raises it: here it becomes a StoreError, which says it once.
logging.getLogger("pika").setLevel(logging.CRITICAL)

TITLE = "RabbitMQ"
CLOSE_SECONDS = 2.0
_SEE_STATUS = "See what runs with: ninjait status."
_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED, _NOT_ALLOWED = 403, 404, 406, 530
_PASSING = ("is down", "limit")  # in the broker's words when it refuses a virtual host only for now
_UNACKNOWLEDGED = "acknowledgement"  # in the broker's words when a delivery was held beyond its consumer_timeout


def parameters(url: str, timeout_seconds: float, heartbeat_seconds: int) -> pika.URLParameters:
    """What pika needs to connect. `?cafile=` names the authority that signed an amqps:// server's certificate."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    cafile = query.pop("cafile", None)
    try:
        found = pika.URLParameters(urlunsplit(parts._replace(query=urlencode(query))))
        if cafile and found.ssl_options:
            found.ssl_options = pika.SSLOptions(ssl.create_default_context(cafile=cafile))
    except (ValueError, TypeError, OSError) as error:
        raise StoreFailed(TITLE, url, error, "Check RABBITMQ_URL.") from error
    found.heartbeat = heartbeat_seconds
    found.socket_timeout = found.stack_timeout = timeout_seconds
    # Then pika gives the connection up: the broker reads nothing from it, so it could not even be closed in order.
    found.blocked_connection_timeout = timeout_seconds
    found.client_properties = {"connection_name": "ninjait-pipelines"}
    return found


class Link:
    """An open connection. `lost` is why it is not open any more; `blocked` why the broker takes no message from it."""

    def __init__(self, url: str, timeout_seconds: float, heartbeat_seconds: int) -> None:
        self.lost: Exception | None = None
        self.blocked = ""
        self.timeout_seconds = timeout_seconds
        self._parameters = parameters(url, timeout_seconds, heartbeat_seconds)
        self._connection: Any = None
        self._lock = threading.Lock()
        opened: Future[None] = Future()
        self._replies: dict[Future[Any], Channel | None] = {opened: None}
        self._thread = threading.Thread(target=self._serve, args=(opened,), name="rabbitmq", daemon=True)
        self._thread.start()
        try:
            # pika's own limits end it, per address that the host's name has; this one only if they do not.
            opened.result(5 * timeout_seconds)
        except BaseException:
            self.close()
            raise

    def _serve(self, opened: "Future[None]") -> None:
        """The thread. Whatever goes wrong in it is told to everyone who waits."""
        try:
            self._connection = pika.SelectConnection(
                self._parameters,
                on_open_callback=lambda _: resolve(opened),
                on_open_error_callback=self._on_lost,
                on_close_callback=self._on_lost,
            )
            self._connection.add_on_connection_blocked_callback(self._on_blocked)
            self._connection.add_on_connection_unblocked_callback(self._on_unblocked)
            self._connection.ioloop.start()
        except Exception as error:  # noqa: BLE001 -- told to those who wait
            self.lose(ConnectionError(f"{type(error).__name__}: {error}"))
        finally:
            self.lose(ConnectionError("the connection was closed"))
            if self._connection is not None:
                self._connection.ioloop.close()

    def _on_lost(self, _: Any, reason: Exception) -> None:
        self.lose(reason)
        self._connection.ioloop.stop()

    def _on_blocked(self, _: Any, frame: Any) -> None:
        self.blocked = text(frame.method.reason) or "it is short of resources"

    def _on_unblocked(self, *_: Any) -> None:
        self.blocked = ""

    def lose(self, reason: Exception, channel: "Channel | None" = None) -> None:
        """Fails those who wait for the channel, or for anything if none is named."""
        with self._lock:
            if channel is None:
                self.lost = self.lost or reason
            waiting = [reply for reply, its in self._replies.items() if channel is None or its is channel]
            for reply in waiting:
                del self._replies[reply]
        for reply in waiting:
            resolve(reply, error=reason)

    def start(self, work: Callable[["Future[Any]"], object], channel: "Channel | None" = None) -> "Future[Any]":
        """Has the thread do `work`, which is given the future that it, or a callback of it, resolves."""
        reply: Future[Any] = Future()
        with self._lock:
            if self.lost:
                raise self.lost
            self._replies[reply] = channel

        def run() -> None:
            try:
                work(reply)
            except Exception as error:  # noqa: BLE001 -- raised where the reply is waited for
                resolve(reply, error=error)

        reply.add_done_callback(self._forget)
        self._connection.ioloop.add_callback_threadsafe(run)
        return reply

    def _forget(self, reply: "Future[Any]") -> None:
        with self._lock:
            self._replies.pop(reply, None)

    def ask(self, work: Callable[["Future[Any]"], object], channel: "Channel | None" = None) -> Any:
        """As `start`, and waits for the reply; a link on which none comes in time is given up."""
        return self.wait(self.start(work, channel))

    def wait(self, reply: "Future[Any]") -> Any:
        """The reply. While the broker blocks publishers it is waited for until pika gives the connection up."""
        try:
            try:
                return reply.result(self.timeout_seconds)
            except TimeoutError:
                if not self.blocked or reply.done():
                    raise
                return reply.result(self.timeout_seconds + 1)
        except TimeoutError:
            if reply.done():
                return reply.result()
            problem = ConnectionError(f"no answer within {self.timeout_seconds:g} seconds")
            self.lose(problem)
            threading.Thread(target=self.close, name="rabbitmq closing", daemon=True).start()
            raise problem from None

    @property
    def server_version(self) -> str:
        return text(self._connection.server_properties.get("version"))

    def open_channel(self, reply: "Future[Any]") -> None:
        """Work for `start`: a channel of pika's."""
        self._connection.channel(on_open_callback=lambda channel: resolve(reply, channel))

    def close(self) -> None:
        """Closes the connection, and ends its thread.

        A broker that does not answer is not waited for: without the thread's heartbeats it gives the connection up too.
        """
        loop = getattr(self._connection, "ioloop", None)
        if loop is None:
            return
        loop.add_callback_threadsafe(self._say_goodbye)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            loop.add_callback_threadsafe(loop.stop)
            self._thread.join(CLOSE_SECONDS)

    def _say_goodbye(self) -> None:
        with suppress(pika.exceptions.ConnectionWrongStateError):
            self._connection.close()


class Channel:
    """A channel on which one asks and waits. `lost` is why it is closed."""

    def __init__(self, link: Link, on_lost: Callable[[], None] | None = None) -> None:
        self.link = link
        self._lost: Exception | None = None
        self._on_lost = on_lost
        self._empty: Callable[[], None] = lambda: None
        self.raw: Any = link.ask(link.open_channel)
        self.link.ask(self._watch)

    def _watch(self, reply: "Future[Any]") -> None:
        self.raw.add_on_close_callback(self._on_close)
        self.raw.add_callback(lambda _: self._empty(), [pika.spec.Basic.GetEmpty], one_shot=False)
        if self.raw.is_open:
            resolve(reply)
        else:
            resolve(reply, error=ConnectionError("the channel was closed as it was opened"))

    def _on_close(self, _: Any, reason: Exception) -> None:
        self.lose(reason)

    def lose(self, reason: Exception) -> None:
        """Marks the channel as of no more use, and fails those who wait for it."""
        self._lost = self._lost or reason
        self.link.lose(reason, self)
        if self._on_lost:
            self._on_lost()

    @property
    def lost(self) -> Exception | None:
        return self._lost or self.link.lost

    def start(self, work: Callable[["Future[Any]"], object]) -> "Future[Any]":
        """As Link.start; fails with the channel."""
        if self._lost:
            raise self._lost
        return self.link.start(work, self)

    def ask(self, work: Callable[["Future[Any]"], object]) -> Any:
        """As Link.ask; fails with the channel."""
        return self.link.wait(self.start(work))

    def call(self, method: str, **arguments: Any) -> Any:
        """One of the channel's methods that the broker answers, such as queue_declare; the answer's method frame."""

        def work(reply: "Future[Any]") -> None:
            getattr(self.raw, method)(**arguments, callback=lambda frame: resolve(reply, frame))

        return self.ask(work)

    def get(self, queue: str) -> tuple[Any, Any, bytes] | None:
        """(method, properties, body) of the queue's next message, unsettled; None where it is empty."""

        def work(reply: "Future[Any]") -> None:
            self._empty = lambda: resolve(reply)
            self.raw.basic_get(queue, callback=lambda _, *message: resolve(reply, message))

        message: tuple[Any, Any, bytes] | None = self.ask(work)
        return message

    def acknowledge(self, tag: int) -> None:
        """Settles one delivery; nothing answers that."""
        self.start(lambda reply: resolve(reply, self.raw.basic_ack(tag)))

    def close(self) -> None:
        """Gives back what was not settled."""
        if self.lost is None:
            with suppress(Exception):
                self.link.start(lambda reply: resolve(reply, self.raw.close()))


def resolve(reply: "Future[Any]", result: Any = None, error: BaseException | None = None) -> None:
    """Gives a reply its result, unless whoever waited has been told otherwise already."""
    with suppress(InvalidStateError):
        reply.set_exception(error) if error is not None else reply.set_result(result)


@contextmanager
def errors(url: str) -> Iterator[None]:
    """Turns pika's errors into ours."""
    try:
        yield
    except (pika.exceptions.AMQPError, AMQPConnectorException, OSError) as error:
        raise translated(url, error) from error


def translated(url: str, error: BaseException) -> StoreError:
    """The StoreError that says what happened and what to do."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = "Name the file of the authority that signed it in SSL_CERT_FILE, or by ?cafile= in RABBITMQ_URL."
            return StoreFailed(TITLE, url, f"its certificate is not trusted: {cause.verify_message}", advice)
        if isinstance(cause, pika.exceptions.AuthenticationError) or _is_told(
            cause, pika.exceptions.ProbableAuthenticationError
        ):
            return StoreRefused(TITLE, url, "it refuses the user or the password", "Check RABBITMQ_URL.")
        if _is_told(cause, pika.exceptions.ProbableAccessDeniedError):
            problem = f"it refuses the virtual host: {cause}"
            return StoreRefused(TITLE, url, problem, "Check the path of RABBITMQ_URL, and the user's permissions.")
        if isinstance(cause, pika.exceptions.ConnectionBlockedTimeout):
            advice = "It takes messages again once they are drained, or it has memory and disk."
            return StoreUnavailable(TITLE, url, "an alarm on the broker blocks its publishers", advice)
        if isinstance(cause, pika.exceptions.ShortStringTooLong):
            problem = "a routing key, message id or content type is longer than 255 bytes"
            return StoreFailed(TITLE, url, problem, "Publish it with a shorter one.")
        if isinstance(cause, pika.exceptions.ConnectionClosed | pika.exceptions.ChannelClosed):
            return _said_by_the_broker(url, cause.reply_code, cause.reply_text)
    last = causes[-1]
    return StoreUnavailable(TITLE, url, str(last) or repr(last), _SEE_STATUS)


def _is_told(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether the broker said so: pika guesses the same where the connection is cut while it is being opened."""
    words = str(error)
    return isinstance(error, kind) and "ConnectionClosedByBroker" in words and not any(map(words.count, _PASSING))


def _said_by_the_broker(url: str, code: int, words: str) -> StoreError:
    """The broker closed a connection or a channel, and said why."""
    if code in (_REFUSED, _NOT_ALLOWED):
        return StoreRefused(TITLE, url, words, "Check RABBITMQ_URL, and the user's permissions on the virtual host.")
    if code == _NOT_FOUND:
        return StoreFailed(
            TITLE, url, words, "Nothing has declared it yet, or somebody deleted it: ninjait migrate up."
        )
    if code == _PRECONDITION_FAILED and _UNACKNOWLEDGED in words:
        return StoreUnavailable(TITLE, url, words, "What was held comes again; is consumer_timeout too short?")
    if code == _PRECONDITION_FAILED:
        return StoreFailed(TITLE, url, words, "Read RabbitMQ's words above.")
    return StoreUnavailable(TITLE, url, words, _SEE_STATUS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps: pika wraps one for each step of connecting."""
    yield error
    inner = [getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args]
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def text(value: object) -> str:
    """What should be text; pika gives bytes where it is not UTF-8."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
