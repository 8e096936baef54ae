"""TLS in front of an engine, for tests: a port that speaks it with a certificate of an authority of its own."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme

HOST_NAME = "localhost"  # the certificate is not made out for 127.0.0.1


@dataclass(frozen=True)
class Secured:
    """The port, and the files of the authority that signed its certificate and of one that did not."""

    port: int
    ca_file: str
    strangers_file: str


@contextmanager
def secured(host: str, port: int, folder: Path, postgres: bool = False) -> Iterator[Secured]:
    """Ends TLS for the engine at host:port. PostgreSQL's clients ask for TLS in PostgreSQL's protocol first."""
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST_NAME).configure_cert(context)
    files = [str(folder / name) for name in ("ca.pem", "stranger.pem")]
    for one, file in zip((authority, stranger), files, strict=True):
        one.cert_pem.write_to_path(file)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
            if postgres:
                await reader.readexactly(8)  # SSLRequest
                writer.write(b"S")
                await writer.start_tls(context)
            engine_reader, engine_writer = await asyncio.open_connection(host, port)
            await asyncio.gather(_pump(reader, engine_writer), _pump(engine_reader, writer))

    loop = asyncio.new_event_loop()
    starting = asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgres else context)
    server = loop.run_until_complete(starting)
    loop.set_exception_handler(lambda *_: None)  # refused handshakes are what the tests are about
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield Secured(server.sockets[0].getsockname()[1], *files)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
