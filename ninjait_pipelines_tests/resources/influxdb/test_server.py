"""Requests to InfluxDB over HTTP: what is sent and how, when an answer is an error, and that nothing is retried."""

import socket
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import urllib3
from influxdb_client.rest import ApiException

from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.influxdb.server import Server
from ninjait_pipelines_tests.resources.influxdb.helpers import sample
from ninjait_pipelines_tests.resources.metrics_contract import HOUR, points

SEEN: list[tuple[str, str, dict[str, str], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        SEEN.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(int(self.path.partition("?")[0].rpartition("/")[2]))
        self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"body")

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    SEEN.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def connected(url: str, **changes: Any) -> Any:
    given = {"connect_timeout_seconds": 1, "timeout_seconds": 0.3, "ca_file": None, **changes}
    return closing(Server(url, "canary", "org", **given))


@pytest.mark.parametrize("end", ["", "/"])
def test_a_request_has_the_token_and_its_query_is_encoded(url: str, end: str) -> None:
    with connected(url + end) as server:
        response = server.request("POST", "/api/200", {"q": "SELECT 'a&b'"}, b"lines", {"Accept": "application/csv"})
    assert response.data == b"body"
    [(method, path, headers, body)] = SEEN
    assert (method, path, body) == ("POST", "/api/200?q=SELECT+%27a%26b%27", b"lines")
    assert (headers["authorization"], headers["accept"]) == ("Token canary", "application/csv")


@pytest.mark.parametrize("status", [302, 400, 401, 429, 503])
def test_any_other_answer_is_an_error_with_the_server_s_words_and_no_second_request(url: str, status: int) -> None:
    """`Retry-After` is the writer's to obey, which counts its attempts; and no redirect gets the token."""
    with connected(url) as server, pytest.raises(ApiException) as raised:
        server.request("GET", f"/{status}", stream=True)
    error = raised.value
    assert (error.status, error.body, error.headers["Retry-After"], len(SEEN)) == (status, b"body", "7", 1)
    assert "canary" not in str(error)


def test_a_streamed_answer_is_read_by_its_caller(url: str) -> None:
    with connected(url) as server:
        response = server.request("GET", "/200", stream=True)
        assert [response.read(2), response.read(), response.read()] == [b"bo", b"dy", b""]
        response.release_conn()


def test_a_server_that_is_silent_is_given_up_after_one_attempt() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        connected(f"http://127.0.0.1:{silent.getsockname()[1]}") as it,
    ):
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            it.request("GET", "/200")
        silent.settimeout(0)
        silent.accept()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_the_same_machine_needs_no_compression(host: str) -> None:
    assert not server_at(host).compresses


@pytest.mark.parametrize("host", ["influxdb", "10.0.0.7", "[fd00::1]", "localhost.example.com", "192.168.127.1"])
def test_a_network_does(host: str) -> None:
    assert server_at(host).compresses


@pytest.mark.servers
@pytest.mark.parametrize("compresses", [True, False])
def test_either_way_the_server_has_every_point(store: InfluxDB, compresses: bool) -> None:
    now = datetime.now(UTC)
    store.server.compresses = compresses
    assert store.write(points([sample(now - HOUR) for _ in range(100)])) == []
    assert store.read(now - 2 * HOUR, now).num_rows == 100


def server_at(host: str) -> Server:
    return Server(f"http://{host}:8086", "token", "organization", 1, 1, None)
