"""The graph as Dagster loads it."""

import os
import subprocess
import sys

import pytest

from ninjait_pipelines.paths import ROOT
from ninjait_pipelines_tests.nowhere import NOWHERE


@pytest.mark.engines
def test_a_fresh_interpreter_loads_it_soon_and_without_a_connection() -> None:
    """Every run pays for the load; and a code location must load while a store is away.

    It takes some two seconds of processor time while other tests run beside it.
    """
    script = (
        "import socket, time\n"
        "def refuse(*_): raise AssertionError('a connection was opened at import')\n"
        "socket.socket.connect = refuse\n"
        "started = time.process_time()\n"
        "from ninjait_pipelines.definitions import defs\n"
        "defs.get_repository_def()\n"
        "print(time.process_time() - started)\n"
    )
    seconds = min(_run(script) for _ in range(3))
    assert seconds < 4


def _run(script: str) -> float:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | NOWHERE
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
