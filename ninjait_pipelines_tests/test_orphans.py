"""pytest may be killed: what it has started ends with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from ninjait_pipelines_tests.resources.queue_contract import eventually

_KILLED = """
import os, pathlib, signal, subprocess, sys
from ninjait_pipelines_tests.orphans import ended_with_us
sleeping = [sys.executable, "-c", "import time; time.sleep(300)"]
with ended_with_us(pathlib.Path(sys.argv[1])):
    for place, home in (("{}/engine", ""), ("", "{}/rabbitmq"), ("{}0/engine", "")):
        environment = os.environ | {"HOME": home.format(sys.argv[1])}
        process = subprocess.Popen([*sleeping, place.format(sys.argv[1])], env=environment, start_new_session=True)
        print(process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_engines_end_with_a_pytest_that_is_killed(tmp_path: Path) -> None:
    """And no others: not those of the run whose number begins with the same digits."""
    with (tmp_path / "pids").open("w") as pids:
        code = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "1")], stdout=pids).returncode
    assert code == -signal.SIGKILL
    engine, mapper, other = (int(pid) for pid in (tmp_path / "pids").read_text().split())
    try:
        assert eventually(lambda: not any(_runs(pid) for pid in (engine, mapper)))
        assert _runs(other)
    finally:
        os.kill(other, signal.SIGKILL)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
