"""Opens the stores at other addresses, with other passwords, or through a door that is shut and opened."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources import stores_from
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import Store
from ninjait_pipelines.settings import REQUIRED, validate

SETTING = {
    "message_queue": "DRAGONFLY_URL",
    "dragonfly": "DRAGONFLY_URL",
    "clickhouse": "CLICKHOUSE_URL",
    "metrics_store": "CLICKHOUSE_URL",
    "postgres": "DATABASE_URL",
    "mongodb": "MONGODB_URL",
}


# The local stack's MongoDB knows no passwords.
WITH_PASSWORD = [name for name in SETTING if name != "mongodb"]


def use(store: Store) -> None:
    """The smallest honest use of a store."""
    match store:
        case DragonflyQueue():
            store.publish([Outgoing("platform.logs", "log.info", b"{}")])
        case Dragonfly():
            store.set_if_newer("key", {"as_of": "2026-01-01T00:00:00.000000+00:00"})
        case ClickHouse():
            assert store.scalar("SELECT 1") == 1
        case Postgres():
            assert store.rows("SELECT 1 AS one") == [{"one": 1}]
        case MongoDB():
            with store.errors():
                store.database.command("ping")


@contextmanager
def opened(
    stack: dict[str, str], name: str, host: str | None = None, password: str | None = None, patient: bool = False
) -> Iterator[Any]:
    """One store of the stack, at another host:port or with another password; impatient, unless told otherwise."""
    settings = dict(stack)
    url = urlsplit(stack[SETTING[name]])
    netloc = url.netloc if host is None else f"{url.netloc.rpartition('@')[0]}@{host}".removeprefix("@")
    if password is not None:
        netloc = netloc.replace(f":{url.password}@", f":{password}@")
        settings["CLICKHOUSE_PASSWORD"] = password
    settings[SETTING[name]] = url._replace(netloc=netloc).geturl()
    store = getattr(stores_from(settings.__getitem__, validate({name: stack[name] for name in REQUIRED})), name)
    short = {field: 1 for field in type(store).model_fields if re.fullmatch(r"(connect_)?timeout_seconds", field)}
    with store.model_copy(update={} if patient else short).open() as opened:
        yield opened


class Door:
    """A port that closes the first `refuse` connections at once and passes the others on; it counts them all."""

    def __init__(self, target: str, refuse: int = 0) -> None:
        host, _, port = target.rpartition("@")[2].rpartition(":")
        self._target, self._refuse, self.connections = (host, int(port)), refuse, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                self.connections += 1
                if self.connections <= self._refuse:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        # `accept` in another thread would keep a merely closed port open.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
