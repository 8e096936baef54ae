"""A relay on the device: takes what Telegraf or collectd post, and keeps it on disk until the broker has confirmed it.

Their own AMQP outputs wait for no confirmation: messages in flight when the broker stops, and those that a full queue
refuses, are lost silently.

1. A body is cut into messages, which are appended to the agent's spool and synced. Dying before: the sender gets no
   answer, and posts it again.
2. The sender gets 204. Dying before: as above; its messages are the same, by their content, and count as duplicates.
3. The spool is delivered as the agent's own readings are: published, confirmed, taken out.

Where the spool is full the answer is 503, and the sender's own buffer keeps what it has. It listens on loopback:
anyone who reaches it may write for the organization, but no web page may have a browser do so.
"""

import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from ninjait_pipelines.local.fleet.agent import (
    HEARTBEAT_EVERY,
    MIB,
    Agent,
    Report,
    Spool,
    SpoolFull,
    keep_and_deliver,
)
from ninjait_pipelines.messages import JSON, Outgoing
from ninjait_pipelines.resources.message_queue import MessageQueue

# Where senders post: InfluxDB's two ways to write, which Telegraf's outputs know, and collectd's write_http.
SOURCES = {"/api/v2/write": "telegraf", "/write": "telegraf", "/telegraf": "telegraf", "/collectd": "collectd"}
CONTENT_TYPES = {"telegraf": "text/plain", "collectd": JSON}
DELIVER_EVERY_SECONDS = 5.0
MAX_BODY_BYTES = 16 * MIB
# A message is 1 MiB and 10,000 lines at most, and a line with its time is no shorter than 25 bytes.
MESSAGE_BYTES = 250_000
SILENCE_SECONDS = 30.0


class ContractViolation(Exception):
    """What is posted cannot be taken: the HTTP status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def messages_of(source: str, organization_id: str, body: bytes) -> list[Outgoing]:
    """The messages of a body: line protocol cut at lines where it is long; the same body gives the same ones."""
    parts = list(_cut(body)) if source == "telegraf" else [body]
    if any(len(part) > MIB for part in parts):
        raise ContractViolation(413, "one message may have 1 MiB")
    key = f"metrics.{source}.{organization_id}"
    return [Outgoing("agent.metrics", key, part, content_type=CONTENT_TYPES[source]) for part in parts if part.strip()]


def _cut(body: bytes) -> Iterator[bytes]:
    start = 0
    while len(body) - start > MESSAGE_BYTES:
        end = body.rfind(b"\n", start, start + MESSAGE_BYTES) + 1
        end = end if end > start else body.find(b"\n", start) + 1 or len(body)
        yield body[start:end]
        start = end
    yield body[start:]


class _Handler(BaseHTTPRequestHandler):
    """One connection. `timeout` ends one that falls silent."""

    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float] = SILENCE_SECONDS
    server: "_Server"

    def do_POST(self) -> None:
        try:
            place = urlsplit(self.path)
            body = self._read()
            source = SOURCES.get(place.path)
            if source is None:
                raise ContractViolation(404, f"post to one of {', '.join(SOURCES)}")
            if "Origin" in self.headers or "Sec-Fetch-Site" in self.headers:
                raise ContractViolation(403, "a web page may not write here")
            if parse_qs(place.query).get("precision", ["ns"]) != ["ns"]:
                raise ContractViolation(400, "times must be nanoseconds")
            self.server.spool.append_all(messages_of(source, self.server.organization_id, body))
        except ContractViolation as refused:
            self._answer(refused.status, str(refused))
        except SpoolFull as full:
            self.server.report(str(full))
            self._answer(503, str(full))
        else:
            self._answer(204)

    def do_GET(self) -> None:
        """Some senders first ask whether the server is there."""
        self._answer(204 if urlsplit(self.path).path in ("/ping", "/health") else 404)

    def _read(self) -> bytes:
        """The body, bounded, unpacked. What cannot be read to its end ends the connection with the answer."""
        self.close_connection = True
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(self._chunks())
        else:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise ContractViolation(411, "how long is it?")
            if int(length) > MAX_BODY_BYTES:
                raise ContractViolation(413, f"one post may have {MAX_BODY_BYTES // MIB} MiB")
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                raise ContractViolation(400, "it ended before its end")
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        return _unpacked(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _chunks(self) -> Iterator[bytes]:
        left = MAX_BODY_BYTES
        while True:
            try:
                size = int(self.rfile.readline(32).split(b";")[0], 16)
            except ValueError:
                raise ContractViolation(400, "it is not chunked, although its header says so") from None
            left -= size
            if left < 0 or size < 0:
                raise ContractViolation(413, f"one post may have {MAX_BODY_BYTES // MIB} MiB")
            yield self.rfile.read(size)
            self.rfile.readline(4)
            if not size:
                return

    def _answer(self, status: int, why: str = "") -> None:
        content = f"{why}\n".encode() if why else b""
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "30")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: what is refused is reported, the rest is counted when it is delivered."""


def _unpacked(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        raise ContractViolation(400, "it is not gzip, although its header says so") from None
    if unpacker.unconsumed_tail:
        raise ContractViolation(413, f"one post may have {MAX_BODY_BYTES // MIB} MiB")
    if not unpacker.eof:
        raise ContractViolation(400, "it ended before its end")
    return content


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], spool: Spool, organization_id: str, report: Report) -> None:
        self.spool, self.organization_id, self.report = spool, organization_id, report
        super().__init__(address, _Handler)


@contextmanager
def listening(address: tuple[str, int], spool: Spool, organization_id: str, report: Report) -> Iterator[int]:
    """Takes posts while inside the `with`; gives the port."""
    with _Server(address, spool, organization_id, report) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="relay", daemon=True)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()


def run(
    agent: Agent,
    spool: Spool,
    queue: MessageQueue,
    stop: threading.Event,
    report: Report,
    clock: Callable[[], datetime],
    every_seconds: float = DELIVER_EVERY_SECONDS,
) -> None:
    """Delivers what was posted, and reports the device online, which Telegraf and collectd do not.

    It takes no readings itself: a device must not have two sources.
    """
    next_heartbeat = monotonic()
    while not stop.wait(every_seconds):
        messages = []
        if monotonic() >= next_heartbeat:
            messages.append(agent.heartbeat(clock()))
            next_heartbeat = monotonic() + HEARTBEAT_EVERY.total_seconds()
        if messages or not spool.empty:
            keep_and_deliver(spool, queue, messages, report)
    keep_and_deliver(spool, queue, [agent.heartbeat(clock(), "offline")], report)


def address_of(text: str) -> tuple[str, int]:
    """HOST:PORT, or PORT on loopback. Raises ValueError."""
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 <= number <= 65_535:
        raise ValueError(f"{number} is no port")
    return host or "127.0.0.1", number
