"""Commands as a person starts them, in processes that are forked from one which has imported them."""

import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any

import ninjait_pipelines.cli
import ninjait_pipelines.resources

# Commands are forked from a process that has imported them: at each start that takes ten times what they do themselves.
_context = multiprocessing.get_context("forkserver")


def in_a_pipe(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a command writes into two pipes, and its exit code."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        process = _begun(arguments, env or {}, out.name, err.name)
        process.join(120)
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read(), err.read())


def _begun(arguments: tuple[str, ...], env: dict[str, str], *streams: str) -> Any:
    _context.set_forkserver_preload([__name__])
    process = _context.Process(target=_run, args=(arguments, {"PATH": "/usr/bin:/bin", **env}, streams))
    process.start()
    return process


def _run(arguments: tuple[str, ...], env: dict[str, str], streams: tuple[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_RDWR | os.O_NOCTTY), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
    sys.argv = ["ninjait", *arguments]
    ninjait_pipelines.cli.main()


def on_a_terminal(*arguments: str, env: dict[str, str]) -> str:
    """What a command writes to a terminal, both streams, with line ends as in a pipe."""
    ours, theirs = os.openpty()
    terminal = os.ttyname(theirs)
    process = _begun(arguments, {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "300", **env}, terminal, terminal)
    written = bytearray()

    def read() -> None:
        with suppress(OSError):  # Linux's word for the end of a terminal
            while chunk := os.read(ours, 65_536):
                written.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    process.join(120)
    os.close(theirs)
    reader.join()
    os.close(ours)
    return re.sub("\r+\n", "\n", written.decode())  # CSV's lines have a return of their own
