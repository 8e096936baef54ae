"""Ends the engines of tests when pytest is gone, however it ended: `kill -9` left them at work for ever.

Run beside pytest, with its folder as the argument, and its standard input held open by pytest and nobody else.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def ended_with_us(folder: Path) -> Iterator[None]:
    """Inside the `with`, and for as long as this process lives, engines in this folder may run."""
    command = [sys.executable, __file__, f"{folder}{os.sep}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watch:
        yield
        assert watch.stdin
        watch.stdin.close()


def end_all(folder: str) -> None:
    """kill -9 of all whose command line or HOME (RabbitMQ's port mapper) lies in the folder."""
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = [*process.cmdline(), process.environ().get("HOME", "")]
            if process.pid != os.getpid() and any(folder in word for word in words):
                process.kill()


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end_all(sys.argv[1])
