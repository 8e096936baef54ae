"""A small HTTP proxy that a test puts before a server, to have it answer otherwise for some requests."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# Request's method and path -> status, headers and perhaps the content that it answers with instead of the server, or
# None.
Answer = tuple[int, dict[str, str]] | tuple[int, dict[str, str], bytes]


class HttpProxy:
    """Forwards requests. `instead` may answer one itself; `lose_answers` requests are forwarded and never answered, and
    where `cut_at` is not None, all answers end after so many bytes, headers included. `changed` makes of an answer's
    content what is passed on, as if that were all."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self.instead: Callable[[str, str], Answer | None] = lambda method, path: None
        self.lose_answers = 0
        self.cut_at: int | None = None
        self.changed: Callable[[bytes], bytes] = lambda content: content
        self.requests: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._handle(self)

            do_POST = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["HttpProxy"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.requests.append((request.command, request.path))
        if answer := self.instead(request.command, request.path):
            status, headers, *content_ = answer
            self._answer(request, status, headers, b"".join(content_))
            return
        server = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=30)
        try:
            server.request(request.command, request.path, body, dict(request.headers))
            got = server.getresponse()
            content = self.changed(got.read())
        finally:
            server.close()
        if self.lose_answers:
            self.lose_answers -= 1
            request.close_connection = True
            return
        kept = {name: value for name, value in got.getheaders() if name.lower() not in ("transfer-encoding", "date")}
        if self.cut_at is None:
            self._answer(request, got.status, kept, content)
            return
        headers = "".join(f"{name}: {value}\r\n" for name, value in kept.items() if name.lower() != "content-length")
        answer = f"HTTP/1.1 {got.status} {got.reason}\r\n{headers}Transfer-Encoding: chunked\r\n\r\n".encode()
        for part in (content[: len(content) // 2], content[len(content) // 2 :]):
            answer += b"%x\r\n%s\r\n" % (len(part), part)
        request.wfile.write((answer + b"0\r\n\r\n")[: self.cut_at])
        request.close_connection = True

    def _answer(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
        request.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
