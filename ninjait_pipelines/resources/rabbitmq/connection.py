"""One connection to the broker, its one channel, and the thread that serves them."""

import concurrent.futures
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pika
import pika.exceptions

from ninjait_pipelines.resources.rabbitmq.errors import TITLE
from ninjait_pipelines.resources.rabbitmq.frames import LenientConnection
from ninjait_pipelines.resources.rabbitmq.messages import text
from ninjait_pipelines.resources.store import StoreFailed

CLOSE_SECONDS = 2.0


@dataclass(frozen=True)
class ConnectionSettings:
    """How to reach the broker, and how long to wait for it."""

    url: str = field(repr=False)
    timeout_seconds: float
    heartbeat_seconds: int
    ca_file: str | None = None

    def parameters(self) -> pika.URLParameters:
        """pika's parameters. In an amqps:// URL `?cafile=` names the authority that signed the server's certificate,
        and takes precedence over `ca_file`."""
        try:
            parts = urlsplit(self.url)
            query = dict(parse_qsl(parts.query))
            cafile = query.pop("cafile", self.ca_file)
            parameters = pika.URLParameters(urlunsplit(parts._replace(query=urlencode(query))))
            if cafile and parameters.ssl_options:
                parameters.ssl_options = pika.SSLOptions(ssl.create_default_context(cafile=cafile))
        except (ValueError, TypeError, OSError) as error:
            raise StoreFailed(TITLE, self.url, error, "Check RABBITMQ_URL.") from error
        parameters.heartbeat = self.heartbeat_seconds
        parameters.socket_timeout = parameters.stack_timeout = self.timeout_seconds
        # pika drops a blocked connection after this time: the broker reads nothing from it, not even an orderly close.
        parameters.blocked_connection_timeout = self.timeout_seconds
        parameters.client_properties = {"connection_name": "ninjait-pipelines"}
        return parameters


class Connection:
    """An open connection. Callers hand its thread work, and wait for the reply.

    Once lost it stays lost: `closed_reason` says why, and everyone who waits gets that error. Callers then
    connect again. Subclasses set their attributes before calling Connection.__init__, which starts the thread.
    """

    connection_class: Callable[..., Any] = LenientConnection

    def __init__(self, settings: ConnectionSettings) -> None:
        self.closed_reason: Exception | None = None
        self.channel: Any = None
        self.url = settings.url
        self._alarm = ""
        self._timeout_seconds = settings.timeout_seconds
        self._lock = threading.Lock()
        self._replies: set[Future[Any]] = set()
        opened = self._expect_reply()
        self._pika: Any = self.connection_class(
            settings.parameters(),
            on_open_callback=lambda connection: connection.channel(
                on_open_callback=lambda channel: self._on_channel(channel, opened)
            ),
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
        )
        self._pika.add_on_connection_blocked_callback(self._on_blocked)
        self._thread = threading.Thread(target=self._serve, name="rabbitmq", daemon=True)
        try:
            self._thread.start()
            # pika's own time-outs apply to each address that the host name resolves to; this one is a last resort.
            opened.result(5 * settings.timeout_seconds)
        except BaseException:
            self.close()
            raise

    def _serve(self) -> None:
        """The thread. Any error in it reaches everyone who waits."""
        try:
            self._pika.ioloop.start()
        except Exception as error:  # noqa: BLE001 -- raised where a reply is waited for
            self.fail(ConnectionError(f"{type(error).__name__}: {error}"))
        finally:
            self.fail(ConnectionError("the connection was closed"))
            self._pika.ioloop.close()

    def _on_channel(self, channel: Any, opened: "Future[Any]") -> None:
        self.channel = channel
        channel.add_on_close_callback(lambda _, reason: self.fail(reason))
        self.prepare(opened)

    def prepare(self, opened: "Future[Any]") -> None:
        """Runs in the thread before the connection counts as open; resolves `opened`."""
        resolve(opened)

    def _on_blocked(self, _: Any, frame: Any) -> None:
        """An alarm is on; pika drops the connection after `blocked_connection_timeout`."""
        self._alarm = text(frame.method.reason)

    def _on_closed(self, _: Any, reason: Exception) -> None:
        self.fail(reason)
        self._pika.ioloop.stop()

    def fail(self, reason: Exception) -> None:
        """Marks the connection as lost, and raises the reason in those who wait."""
        if isinstance(reason, pika.exceptions.ConnectionBlockedTimeout):
            reason = pika.exceptions.ConnectionBlockedTimeout(self._alarm)
        with self._lock:
            self.closed_reason = self.closed_reason or reason
            replies, self._replies = self._replies, set()
        for reply in replies:
            resolve(reply, error=self.closed_reason)

    def _expect_reply(self) -> "Future[Any]":
        reply: Future[Any] = Future()
        with self._lock:
            if self.closed_reason:
                raise self.closed_reason
            self._replies.add(reply)
        reply.add_done_callback(self._forget_reply)
        return reply

    def _forget_reply(self, reply: "Future[Any]") -> None:
        with self._lock:
            self._replies.discard(reply)

    def start(self, work: Callable[["Future[Any]"], object]) -> "Future[Any]":
        """Runs `work` in the thread, with the future that it or one of its callbacks resolves."""
        reply = self._expect_reply()

        def run() -> None:
            try:
                work(reply)
            except Exception as error:  # noqa: BLE001 -- raised where the reply is waited for
                resolve(reply, error=error)

        self._pika.ioloop.add_callback_threadsafe(run)
        return reply

    def wait(self, reply: "Future[Any]") -> Any:
        """The reply. If none comes in time the connection is lost; after an alarm, pika drops it a second earlier."""
        if not concurrent.futures.wait([reply], self._timeout_seconds + 1).done:
            self.fail(ConnectionError(f"no answer within {self._timeout_seconds:g} seconds"))
            threading.Thread(target=self.close, name="rabbitmq closing", daemon=True).start()
        return reply.result()

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """Calls a method of the channel that the broker answers, such as queue_declare; returns the answer's frame."""

        def work(reply: "Future[Any]") -> None:
            getattr(self.channel, method)(*arguments, **keywords, callback=lambda frame: resolve(reply, frame))

        return self.wait(self.start(work))

    def send(self, method: str, *arguments: Any, **keywords: Any) -> None:
        """Calls a method of the channel that the broker does not answer, such as basic_ack; waits for nothing."""
        self.start(lambda reply: resolve(reply, getattr(self.channel, method)(*arguments, **keywords)))

    def basic_get_many(self, queue: str, limit: int) -> Iterator[tuple[Any, Any, bytes]]:
        """(method, properties, body) of the queue's oldest messages; they are held until settled."""

        def work(reply: "Future[Any]") -> None:
            self.channel.basic_get(queue, callback=lambda _, *message: resolve(reply, message))
            # Answered after basic_get: if this answer comes first, the queue was empty.
            self.channel.basic_qos(callback=lambda _: resolve(reply, ()))

        for _ in range(limit):
            message = self.wait(self.start(work))
            if not message:
                return
            yield message

    @property
    def server_version(self) -> str:
        return text(self._pika.server_properties.get("version"))

    def close(self) -> None:
        """Closes the connection and ends its thread; those who wait get an error.

        A broker that does not answer is not waited for: once the heartbeats stop, it drops the connection as well.
        """
        self.fail(ConnectionError("the connection was closed"))
        loop = self._pika.ioloop
        for work in (self._close_in_order, loop.stop):
            if self._thread.is_alive():
                loop.add_callback_threadsafe(work)
                self._thread.join(CLOSE_SECONDS)

    def _close_in_order(self) -> None:
        with suppress(pika.exceptions.ConnectionWrongStateError):
            self._pika.close()


def resolve(reply: "Future[Any]", result: Any = None, error: BaseException | None = None) -> None:
    """Gives a reply its result or error, unless it has one already."""
    with suppress(InvalidStateError):
        reply.set_exception(error) if error is not None else reply.set_result(result)
