"""The local stack as a whole: which engines run, on which ports, since when; started, healed, stopped, deleted.

stack = LocalStack(repository / ".ninjait")
settings = stack.up()      # environment variables
stack.down()
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from ninjait_pipelines.stack.engines import ENGINES, HOST, Engine, StackError, write_private

START_SECONDS = 30.0
STOP_SECONDS = 30.0
PORT_SECONDS = 1.0
POLL_SECONDS = 0.03
REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_HOME = REPOSITORY / ".ninjait"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Recorded:
    """What stack.json remembers of an engine. A pid alone is not enough: the kernel hands it out again."""

    port: int
    password: str
    pid: int | None = None
    started: float | None = None

    def process(self) -> psutil.Process | None:
        """The living process; None for a recycled pid, and for a killed one that nobody has reaped."""
        if self.pid is None:
            return None
        try:
            process = psutil.Process(self.pid)
            alive = process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


class LocalStack:
    """Real engines on loopback, with everything they keep under `home`. Every command may be repeated."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self._state = self.home / "stack.json"
        self._settings = self.home / "settings.env"

    def up(self, report: Report | None = None) -> dict[str, str]:
        """Start what does not run, leave what does, and give the settings by which all of it is found."""
        with self._locked():
            (self.home / "archive").mkdir(mode=0o700, exist_ok=True)
            (self.home / "logs").mkdir(mode=0o700, exist_ok=True)
            engines = self._engines(self._placed())
            settings = {name: value for engine in engines for name, value in engine.settings().items()}
            settings["ARCHIVE_URL"] = (self.home / "archive").as_uri()
            write_private(self._settings, "".join(f"{name}={value}\n" for name, value in settings.items()))
            missing = [engine for engine in engines if not self._runs(engine.name)]
            with ThreadPoolExecutor(max_workers=len(engines)) as pool:
                started = [pool.submit(self._start, engine, report) for engine in missing]
            for future in started:
                future.result()
            return settings

    def down(self, report: Report | None = None) -> None:
        """Stop the engines, each in its own clean way; a stopped stack stays stopped without an error."""
        if not self.home.exists():
            return
        with self._locked():
            self._stop_all(report)

    def delete(self, report: Report | None = None) -> None:
        """Stop the engines and delete their data, settings and logs."""
        if not self.home.exists():
            return
        with self._locked():
            self._stop_all(report)
            for engine in ENGINES:
                for path in self.home.glob(f"{engine.name}*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            for folder in ("archive", "logs"):
                shutil.rmtree(self.home / folder, ignore_errors=True)
            self._settings.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)

    def running(self) -> dict[str, bool]:
        return {engine.name: self._runs(engine.name) for engine in ENGINES}

    def settings(self) -> dict[str, str] | None:
        """The settings of the last `up`; None if there never was one, or it was deleted."""
        try:
            lines = self._settings.read_text().splitlines()
        except FileNotFoundError:
            return None
        return dict(line.split("=", 1) for line in lines if line)

    def places(self) -> list[tuple[str, str, str]]:
        """Name, what it is, and where, for people: without passwords."""
        recorded = self._recorded()
        rows = [(e.name, e.title, f"{HOST}:{recorded[e.name].port}") for e in ENGINES if e.name in recorded]
        return [*rows, ("archive", "a folder for S3", str(self.home / "archive"))]

    def _engines(self, recorded: dict[str, Recorded]) -> list[Engine]:
        return [e(self.home / e.name, recorded[e.name].port, recorded[e.name].password) for e in ENGINES]

    def _start(self, engine: Engine, report: Report | None) -> None:
        say = report or (lambda _: None)
        began = time.monotonic()
        forgotten = find_forgotten(engine)
        if forgotten is not None:
            # An `up` that was killed between starting and recording; the engine's lock would refuse a second one.
            stop(forgotten, engine.stop_signal)
        engine.prepare()
        process = self._spawn(engine)
        self._wait_until_ready(engine, process)
        say(f"{engine.name}: {engine.title} on {HOST}:{engine.port}, {time.monotonic() - began:.1f} s")

    def _spawn(self, engine: Engine) -> subprocess.Popen[bytes]:
        # A session of its own: the engine outlives this command, and its Ctrl-C.
        with self._log(engine.name).open("ab") as log:
            process = subprocess.Popen(
                engine.command(),
                cwd=self.home,
                env=clean_environment() | engine.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **engine.popen_options(),
            )
        self._record(engine.name, pid=process.pid, started=psutil.Process(process.pid).create_time())
        return process

    def _wait_until_ready(self, engine: Engine, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if engine.ready():
                    return
            if process.poll() is not None:
                raise StackError(f"{engine.name} stopped at once: {self._last_line(engine.name)}")
            time.sleep(POLL_SECONDS)
        raise StackError(f"{engine.name} does not answer after {START_SECONDS:.0f} s: {self._last_line(engine.name)}")

    def _stop_all(self, report: Report | None) -> None:
        say = report or (lambda _: None)

        def stop_one(engine: type[Engine]) -> None:
            recorded = self._recorded().get(engine.name)
            process = recorded.process() if recorded else None
            if recorded is None or process is None:
                return
            stop(process, engine.stop_signal)
            self._record(engine.name, pid=None, started=None)
            say(f"{engine.name}: stopped")

        with ThreadPoolExecutor(max_workers=len(ENGINES)) as pool:
            list(pool.map(stop_one, ENGINES))

    def _runs(self, name: str) -> bool:
        recorded = self._recorded().get(name)
        return recorded is not None and recorded.process() is not None and answers(recorded.port)

    def _placed(self) -> dict[str, Recorded]:
        """Every engine with a port and a password: those it had, unless somebody else took the port meanwhile."""
        known = self._recorded()
        ports = PortPicker()
        placed = {}
        for engine in ENGINES:
            before = known.get(engine.name)
            if before is None:
                placed[engine.name] = Recorded(ports.free(), secrets.token_urlsafe(24))
            elif before.process() is not None:
                placed[engine.name] = before
            else:
                placed[engine.name] = replace(before, port=ports.free(before.port), pid=None, started=None)
        ports.release()
        self._write(placed)
        return placed

    def _recorded(self) -> dict[str, Recorded]:
        try:
            return {name: Recorded(**fields) for name, fields in json.loads(self._state.read_text()).items()}
        except FileNotFoundError:
            return {}

    def _record(self, name: str, pid: int | None, started: float | None) -> None:
        # flock is per open file, so the threads of one command exclude each other as commands do
        with locked(self.home / "stack.lock"):
            recorded = self._recorded()
            self._write(recorded | {name: replace(recorded[name], pid=pid, started=started)})

    def _write(self, recorded: dict[str, Recorded]) -> None:
        write_private(self._state, json.dumps({name: asdict(one) for name, one in recorded.items()}, indent=2) + "\n")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One command at a time per home; a second one waits, and then finds everything done."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.home.stat().st_mode & 0o066:
            self.home.chmod(0o700)
        with locked(self.home / "command.lock"):
            yield

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines() or ["its log is empty"]
        return f"{lines[-1].strip()} ({self._log(name)})"


class PortPicker:
    """Free ports on loopback, all held until `release`, so that no two engines are given the same."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def free(self, preferred: int = 0) -> int:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.append(held)
        # a killed engine is dead a moment before its port is free
        deadline = time.monotonic() + PORT_SECONDS
        while preferred and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                held.bind((HOST, preferred))
                return preferred
            time.sleep(POLL_SECONDS)
        held.bind((HOST, 0))
        return int(held.getsockname()[1])

    def release(self) -> None:
        for held in self._held:
            held.close()


def answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def find_forgotten(engine: Engine) -> psutil.Process | None:
    """A process of this engine on its folder that stack.json knows nothing of."""
    folder = str(engine.folder)
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        on_folder = any(word == folder or word.startswith(folder + os.sep) for word in words)
        if on_folder and engine.is_command(words) and process.info["status"] != psutil.STATUS_ZOMBIE:
            return process
    return None


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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def clean_environment() -> dict[str, str]:
    """Our environment for the engines. Without bytecode files each of their starts would compile everything anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
