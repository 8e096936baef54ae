"""The machine's raw rate of writes into InfluxDB: our lines, packed beforehand, without any other work."""

import gzip
import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import pyarrow as pa
from isal import igzip

from benchmarks.messages import Load
from ninjait_pipelines.local.stack.engines import HOST
from ninjait_pipelines.metrics.model import FIELDS, POINTS
from ninjait_pipelines.resources.influxdb.resource import InfluxDB

LINES = 5_000
# The number of messages that the drain takes at once, whose points are sorted together.
MESSAGES_AT_ONCE = 280


class Prepared(msgspec.Struct, frozen=True):
    """Request bodies, the unit of their times, and how many points they hold."""

    bodies: list[bytes]
    precision: str
    points: int


def prepare(load: Load) -> Prepared:
    """What our InfluxDB resource sends for these messages, in requests of LINES lines."""
    lines: list[bytes] = []
    with _listening() as (url, received), InfluxDB(url=url, token="-", organization="-", bucket="-").open() as store:  # noqa: S106
        messages = iter(load.messages)
        while part := [message.body for message in islice(messages, MESSAGES_AT_ONCE)]:
            store.write(_points(part))
            lines += [line for _, body in received for line in body.splitlines(keepends=True)]
            precision = parse_qs(urlsplit(received[0][0]).query)["precision"][0]
            received.clear()
    joined = (b"".join(lines[first : first + LINES]) for first in range(0, len(lines), LINES))
    return Prepared([igzip.compress(body, 1) for body in joined], precision, len(lines))


def write(store: InfluxDB, prepared: Prepared, connections: int) -> float:
    """Points per second on this number of connections, each of which sends its share one request after another."""
    address = urlsplit(store.url)
    query = {"org": store.organization, "bucket": store.bucket, "precision": prepared.precision}
    headers = {"Authorization": f"Token {store.token}", "Content-Encoding": "gzip"}
    problems: list[str] = []

    def send(bodies: Sequence[bytes]) -> None:
        connection = http.client.HTTPConnection(str(address.hostname), address.port)
        for body in bodies:
            connection.request("POST", f"/api/v2/write?{urlencode(query)}", body, headers)
            answer = connection.getresponse()
            words = answer.read()
            if answer.status != 204:
                problems.append(f"{answer.status} {words.decode()}")
        connection.close()

    threads = [threading.Thread(target=send, args=(prepared.bodies[i::connections],)) for i in range(connections)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if problems:
        raise RuntimeError(f"InfluxDB refused a raw write: {problems[0]}")
    return prepared.points / seconds


def _points(bodies: Sequence[bytes]) -> pa.Table:
    read = [msgspec.json.decode(body) for body in bodies]
    samples = [(message, sample) for message in read for sample in message["samples"]]
    columns: dict[str, list[Any]] = {
        name: [message[name] for message, _ in samples] for name in ("organization_id", "device_id")
    }
    columns["time"] = [msgspec.convert(sample["timestamp"], datetime) for _, sample in samples]
    columns |= {name: [sample.get(name) for _, sample in samples] for name in FIELDS}
    return pa.table(columns, schema=POINTS)


@contextmanager
def _listening() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """(url, requests) of a server that takes every write, and keeps path and unpacked body."""
    received: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, gzip.decompress(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
