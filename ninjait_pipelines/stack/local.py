"""The local stack as a whole: which engines run, on which ports; started, healed, stopped, deleted.

stack = LocalStack(repository / ".ninjait")
settings = stack.up()      # environment variables
stack.down()
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from ninjait_pipelines.stack.engines import ENGINES, HOST, Engine, StackError, write_private

START_SECONDS = 30.0
STOP_SECONDS = 30.0
PORT_SECONDS = 1.0
POLL_SECONDS = 0.03

Report = Callable[[str], None]
T = TypeVar("T")


class Place(msgspec.Struct, frozen=True):
    """What stack.json remembers of an engine."""

    port: int
    password: str


class LocalStack:
    """Real engines on loopback, with everything they keep under `home`. Every command may be repeated."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self._state = self.home / "stack.json"
        self._settings = self.home / "settings.env"

    def up(self, report: Report | None = None) -> dict[str, str]:
        """Start what does not run, leave what does, and give the settings by which all of it is found."""
        with self._locked():
            for folder in ("archive", "logs"):
                (self.home / folder).mkdir(mode=0o700, exist_ok=True)
            engines = self._engines(self._placed())
            settings = self._settings_of(engines)
            write_private(self._settings, "".join(f"{name}={value}\n" for name, value in settings.items()))
            in_all(engines, lambda engine: self._start(engine, report))
            return settings

    def down(self, report: Report | None = None) -> None:
        """Stop the engines, each in its own clean way; a stopped stack stays stopped without an error."""
        if self.home.exists():
            with self._locked():
                self._stop_all(report)

    def delete(self, report: Report | None = None) -> None:
        """Stop the engines and delete their data, settings and logs."""
        if not self.home.exists():
            return
        with self._locked():
            self._stop_all(report)
            for name in (*(engine.name for engine in ENGINES), "archive", "logs"):
                for path in self.home.glob(f"{name}*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._settings.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)

    def running(self) -> dict[str, bool]:
        engines = self._engines(self._recorded())
        found = {engine.name: find(engine) is not None and answers(engine.port) for engine in engines}
        return {engine.name: False for engine in ENGINES} | found

    def settings(self) -> dict[str, str] | None:
        """The settings of the last `up`; None if there never was one, or it was deleted."""
        recorded = self._recorded()
        return self._settings_of(self._engines(recorded)) if recorded else None

    def places(self) -> list[tuple[str, str, str]]:
        """Name, what it is, and where, for people: without passwords."""
        rows = [(engine.name, engine.title, f"{HOST}:{engine.port}") for engine in self._engines(self._recorded())]
        return [*rows, ("archive", "a folder for S3", str(self.home / "archive"))]

    def _engines(self, recorded: dict[str, Place]) -> list[Engine]:
        known = [(engine, recorded[engine.name]) for engine in ENGINES if engine.name in recorded]
        return [engine(self.home / engine.name, place.port, place.password) for engine, place in known]

    def _settings_of(self, engines: list[Engine]) -> dict[str, str]:
        settings = {name: value for engine in engines for name, value in engine.settings().items()}
        return settings | {"ARCHIVE_URL": (self.home / "archive").as_uri()}

    def _start(self, engine: Engine, report: Report | None) -> None:
        began = time.monotonic()
        process = find(engine)
        if process is not None and not answers(engine.port):
            # Killed in the middle of its own start or end, or on a port of a stack.json that was lost.
            stop(process, engine.stop_signal)
            process = None
        if process is not None:
            self._wait_until_ready(engine, process.is_running)
            return
        engine.prepare()
        started = self._spawn(engine)
        self._wait_until_ready(engine, lambda: started.poll() is None)
        if report:
            report(f"{engine.name}: {engine.title} on {HOST}:{engine.port}, {time.monotonic() - began:.1f} s")

    def _spawn(self, engine: Engine) -> subprocess.Popen[bytes]:
        # A session of its own: the engine outlives this command, and its Ctrl-C.
        with self._log(engine.name).open("ab") as log:
            return subprocess.Popen(
                engine.command(),
                cwd=self.home,
                env=clean_environment() | engine.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **engine.popen_options(),
            )

    def _wait_until_ready(self, engine: Engine, alive: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if engine.ready():
                    return
            if not alive():
                raise StackError(f"{engine.name} stopped at once: {self._last_line(engine.name)}")
            time.sleep(POLL_SECONDS)
        reason = f"{engine.name} does not answer after {START_SECONDS:.0f} s: {self._last_line(engine.name)}"
        raise StackError(f"{reason}. If it hangs: ninjait down, then ninjait up")

    def _stop_all(self, report: Report | None) -> None:
        def stop_one(engine: type[Engine]) -> None:
            process = find(engine(self.home / engine.name, 0, ""))
            if process is not None:
                stop(process, engine.stop_signal)
                if report:
                    report(f"{engine.name}: stopped")

        in_all(ENGINES, stop_one)

    def _placed(self) -> dict[str, Place]:
        """Every engine with a port and a password: those it had, unless somebody else took the port meanwhile."""
        recorded = self._recorded()
        running = {engine.name for engine in self._engines(recorded) if find(engine)}
        with contextlib.ExitStack() as held:
            for engine in ENGINES:
                before = recorded.get(engine.name)
                if engine.name not in running:
                    port = free_port(held, before.port if before else 0)
                    recorded[engine.name] = Place(port, before.password if before else secrets.token_urlsafe(24))
        write_private(self._state, msgspec.json.format(msgspec.json.encode(recorded)).decode() + "\n")
        return recorded

    def _recorded(self) -> dict[str, Place]:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=dict[str, Place])
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            advice = "restore it, or start afresh: ninjait down --delete"
            raise StackError(f"{self._state} is damaged ({error}): {advice}") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time per home; a second one waits, and then finds everything done."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.home.stat().st_mode & 0o066:
            self.home.chmod(0o700)
        with (self.home / "command.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines() or ["its log is empty"]
        return f"{lines[-1].strip()} ({self._log(name)})"


def in_all(engines: Sequence[T], work: Callable[[T], None]) -> None:
    """Do it for all engines at once; the first error is raised when all are through."""
    with ThreadPoolExecutor(max_workers=len(engines)) as pool:
        futures = [pool.submit(work, engine) for engine in engines]
    for future in futures:
        future.result()


def free_port(held: contextlib.ExitStack, preferred: int) -> int:
    """A free port on loopback, occupied until `held` is left, so that no two engines are given the same."""
    place = held.enter_context(socket.socket())
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # a killed engine is dead a moment before its port is free
    deadline = time.monotonic() + PORT_SECONDS
    while preferred and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            place.bind((HOST, preferred))
            return preferred
        time.sleep(POLL_SECONDS)
    place.bind((HOST, 0))
    return int(place.getsockname()[1])


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def find(engine: Engine) -> psutil.Process | None:
    """The living process of this engine on its folder, known by its command line: a recorded pid might be somebody
    else's by now, and an `up` that was killed would have recorded none. Its own forks begin with the same line."""
    folder = str(engine.folder)
    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        words = process.info["cmdline"] or []  # a killed process that nobody has reaped has none
        if engine.is_command(words) and any(word == folder or word.startswith(folder + os.sep) for word in words):
            found.append(process)
    return min(found, key=lambda process: float(process.info["create_time"]), default=None)


def stop(process: psutil.Process, stop_signal: signal.Signals) -> None:
    """Ask, wait, and only then kill: by then every engine has what it acknowledged in its files."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(stop_signal)
        if not gone(process, STOP_SECONDS):
            process.kill()
            gone(process, STOP_SECONDS)


def gone(process: psutil.Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def clean_environment() -> dict[str, str]:
    """Our environment for the engines. Without bytecode files each of their starts would compile everything anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
