"""A TCP proxy in front of an engine, for tests: it cuts connections, in the middle of a frame if need be, or stalls."""

import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

TO_ENGINE, FROM_ENGINE = "to the engine", "from the engine"


class Proxy:
    """A port of its own that leads to the engine of a URL. It keeps its port whatever happens to its connections.

    with Proxy(settings["RABBITMQ_URL"]) as proxy:
        store = RabbitMQ(url=proxy.url)
        proxy.cut_after(1_000, FROM_ENGINE)
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._target = (self._parts.hostname, self._parts.port)
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._running = threading.Event()
        self._running.set()
        self._closed = self._refusing = False
        self._left: dict[str, int | None] = {TO_ENGINE: None, FROM_ENGINE: None}
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The engine's URL, by way of the proxy."""
        user = self._parts.netloc.rpartition("@")[0]
        host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        return urlunsplit(self._parts._replace(netloc=f"{user}@{host}" if user else host))

    def cut(self) -> None:
        """Cuts the connections that there are; new ones are let through."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
            self.cuts += 1
        for one in sockets:
            _close(one)

    def cut_after(self, count: int, direction: str = FROM_ENGINE) -> None:
        """Cuts all connections once `count` more bytes went in this direction, whatever they are in the middle of."""
        with self._lock:
            self._left[direction] = count

    def refuse(self) -> None:
        """As if the engine had been stopped: cuts, and lets no new connection through until `admit`."""
        self._refusing = True
        self.cut()

    def admit(self) -> None:
        """Lets new connections through again."""
        self._refusing = False

    def pause(self) -> None:
        """Passes nothing on, and cuts nothing, until `resume`: as if a cable had been drawn."""
        self._running.clear()

    def resume(self) -> None:
        """Passes on again, with what has come meanwhile."""
        self._running.set()

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        self.resume()
        _close(self._listener)
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            with suppress(OSError):
                client, _ = self._listener.accept()
                if self._refusing:
                    _close(client)
                    continue
                try:
                    engine = socket.create_connection(self._target)
                except OSError:
                    _close(client)
                    continue
                with self._lock:
                    self._sockets += [client, engine]
                for source, target, direction in ((client, engine, TO_ENGINE), (engine, client, FROM_ENGINE)):
                    threading.Thread(target=self._pump, args=(source, target, direction), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._running.wait()
                passing, last = self._share(len(data), direction)
                target.sendall(data[:passing])
                if last:
                    self.cut()
                    return
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _share(self, length: int, direction: str) -> tuple[int, bool]:
        """(how many of these bytes may pass, whether the connections are cut then)."""
        with self._lock:
            left = self._left[direction]
            if left is None:
                return length, False
            self._left[direction] = None if length >= left else left - length
            return min(length, left), length >= left


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
