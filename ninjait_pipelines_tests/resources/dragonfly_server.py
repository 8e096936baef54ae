"""The local stack's Dragonfly, alone, so that a test may kill it."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import redis

from ninjait_pipelines.local.stack.engines import Dragonfly
from ninjait_pipelines.local.stack.local import free_port
from ninjait_pipelines_tests.resources.queue_contract import (
    eventually,
)


class Server:
    """The engine of the local stack, alone, so that a test may kill it."""

    def __init__(self, folder: Path) -> None:
        with ExitStack() as held:
            self._engine = Dragonfly(folder, free_port(held, 0), "secret")
        self.url = self._engine.settings()["DRAGONFLY_URL"]
        self.start()

    def start(self) -> None:
        self._engine.prepare()
        self._process = subprocess.Popen(self._engine.command(), stdout=subprocess.DEVNULL)
        assert eventually(self._ready)

    def _ready(self) -> bool:
        try:
            return self._engine.ready()
        except OSError:
            return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def crash(self) -> None:
        self.stop()
        self.start()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True)
