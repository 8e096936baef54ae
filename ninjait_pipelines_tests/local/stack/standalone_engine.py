"""One engine of the local stack without the stack, so that a test may stop, kill and start it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ninjait_pipelines.local.stack.engines import Engine
from ninjait_pipelines.local.stack.local import free_port, stop

START_SECONDS = 90.0


class Alone:
    """An engine on free ports, with everything it keeps in `folder`; `fields` are those of its class."""

    def __init__(self, kind: type[Engine], folder: Path, password: str | None = None, **fields: Any) -> None:
        with contextlib.ExitStack() as held:
            port, *more_ports = [free_port(held, 0) for _ in range(1 + kind.ports_needed)]
        self.engine = kind(folder, port, password or secrets.token_urlsafe(24), tuple(more_ports), **fields)
        self.log = folder.with_name(f"{folder.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, str]:
        return self.engine.settings()

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    def spawn(self) -> subprocess.Popen[bytes]:
        """Started, and not yet waited for."""
        self.engine.prepare()
        environment = dict(os.environ) | self.engine.environment()
        options = self.engine.popen_options()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.engine.command(), env=environment, stdout=log, stderr=log, **options)
        return self._process

    def start(self) -> None:
        process = self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            assert process.poll() is None, f"{self.engine.name} stopped: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{self.engine.name} does not answer: {self.log.read_text()[-2000:]}"
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return self.engine.ready()
        except OSError:
            return False

    def stop(self) -> None:
        """Its own clean end."""
        if self._process:
            stop(psutil.Process(self._process.pid), self.engine.stop_signal)
            self._process.wait()
        self.engine.clean_up()

    def kill(self) -> None:
        """kill -9."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def crash(self) -> None:
        """kill -9, and started again on the same ports."""
        self.kill()
        self.start()


@contextlib.contextmanager
def alone(kind: type[Engine], folder: Path, **fields: Any) -> Iterator[Alone]:
    """A started engine, killed at the end. Example: `with alone(RabbitMQ, tmp_path / "rabbitmq") as server:`"""
    server = Alone(kind, folder, **fields)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        server.engine.clean_up()
