"""The local stack as a whole: which engines run, on which ports; started, healed, stopped, deleted.

stack = LocalStack(repository / ".ninjait")
settings = stack.up()      # environment variables
stack.down()

With `servers`, the folder that `make servers` fills, RabbitMQ, InfluxDB and S3 run beside the engines from wheels. A
stack keeps the engines it was made with: its messages and metrics would otherwise be left behind in stores that nothing
reads any more.
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
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from ninjait_pipelines.local.stack.engines import ENGINES, HOST, Engine, StackError, write_private
from ninjait_pipelines.local.stack.servers import SERVER_ENGINES, S3Gateway, Server, built

EVERY_ENGINE: tuple[type[Engine], ...] = (*ENGINES, *SERVER_ENGINES)
# How long before its first `up` a stack's partitions begin: the age of the demo's oldest day. A simulated fleet's past
# days are rolled up from there on.
HISTORY = timedelta(days=100)
# RabbitMQ takes 4 s alone and much longer beside others; an engine that dies is noticed at once.
START_SECONDS = 90.0
STOP_SECONDS = 30.0
PORT_SECONDS = 1.0
POLL_SECONDS = 0.03

Report = Callable[[str], None]
T = TypeVar("T")


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stack.json remembers of an engine."""

    port: int
    password: str
    more_ports: tuple[int, ...] = ()


class LocalStack:
    """Real engines on loopback, with all their data under `home`. Every command may be repeated."""

    start_seconds = START_SECONDS

    def __init__(self, home: Path, servers: Path | None = None) -> None:
        self.home = home.resolve()
        self.servers = servers.resolve() if servers else None
        self._state = self.home / "stack.json"
        self._settings = self.home / "settings.env"
        self._wheels = self.home / "wheels-only"
        self._start_day = self.home / "pipeline-start"

    def up(self, report: Report | None = None, wheels: bool = False, start: date | None = None) -> dict[str, str]:
        """Starts the engines that do not run, leaves the others alone, and returns the settings.

        wheels: only engines from wheels, now and at every later `up`, even if `make servers` has built the others.
        start: becomes PIPELINE_START at the first `up` and is ignored afterwards; None: it stays unset.
        """
        with self._locked():
            self._choose(wheels)
            if start and not self._recorded():  # a stack that has engines keeps the start it was made with
                self._start_day.write_text(start.isoformat())
            for folder in ("archive", "logs"):
                (self.home / folder).mkdir(mode=0o700, exist_ok=True)
            engines = self._engines(self._placed())
            settings = self._settings_of(engines)
            write_private(self._settings, "".join(f"{name}={value}\n" for name, value in settings.items()))
            in_all(engines, lambda engine: self._start(engine, report))
            return settings

    def down(self, report: Report | None = None) -> None:
        """Stops the engines, each in its own clean way. No error if they are stopped already."""
        if self.home.exists():
            with self._locked():
                self._stop_all(report)

    def delete(self, report: Report | None = None) -> None:
        """Stops the engines and deletes their data, settings and logs."""
        if not self.home.exists():
            return
        with self._locked():
            self._stop_all(report)
            for name in (*(engine.name for engine in EVERY_ENGINE), "archive", "spool", "logs"):
                for path in self.home.glob(f"{name}*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._settings.unlink(missing_ok=True)
            self._wheels.unlink(missing_ok=True)
            self._start_day.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)

    def running(self) -> dict[str, bool]:
        engines = self.engines()
        found = {engine.name: find(engine) is not None and answers(engine.port) for engine in engines}
        return {kind.name: False for kind in self._kinds()} | found

    def engines(self) -> list[Engine]:
        """The engines of the last `up`."""
        return self._engines(self._recorded())

    def settings(self) -> dict[str, str] | None:
        """The settings of the last `up`; None if there was none, or the stack was deleted."""
        recorded = self._recorded()
        return self._settings_of(self._engines(recorded)) if recorded else None

    def places(self) -> list[tuple[str, str, str]]:
        """Name, what it is, and where, for people: without passwords."""
        recorded = self._recorded()
        rows = [(engine.name, engine.title, f"{HOST}:{engine.port}") for engine in self._engines(recorded)]
        return rows if S3Gateway.name in recorded else [*rows, ("archive", "a folder for S3", str(self._archive))]

    def _choose(self, wheels: bool) -> None:
        """Raises StackError if this `up` would give the stack other stores than those it was made with."""
        recorded = self._recorded()
        has_servers = any(kind.name in recorded for kind in SERVER_ENGINES)
        if has_servers and (wheels or not self._has_binaries()):
            way = "`ninjait up` without --wheels" if wheels else "`make servers`"
            missing = "" if wheels else ", whose programs are gone"
            raise StackError(
                f"this stack keeps its messages, metrics and archive in RabbitMQ, InfluxDB and S3{missing}: {way} goes "
                "on with them, `ninjait down --delete` deletes them and starts afresh"
            )
        if wheels:
            self._wheels.touch()
        elif recorded and not has_servers and self.servers and not self._wheels.exists():
            raise StackError(
                "this stack was made before RabbitMQ, InfluxDB and S3 were built, and keeps its messages, metrics and "
                "archive in Dragonfly, ClickHouse and a folder: start afresh with them by `ninjait down --delete` and "
                "`ninjait up`, or keep on without them by `ninjait up --wheels`"
            )

    def _has_binaries(self) -> bool:
        return self.servers is not None and built(self.servers) is not None

    def _kinds(self) -> tuple[type[Engine], ...]:
        """The engines that this stack has, or will have after its next `up`."""
        return EVERY_ENGINE if self.servers and not self._wheels.exists() else ENGINES

    @property
    def _archive(self) -> Path:
        return self.home / "archive"

    def _engines(self, recorded: dict[str, Place]) -> list[Engine]:
        return [self._engine(kind, recorded[kind.name]) for kind in EVERY_ENGINE if kind.name in recorded]

    def _engine(self, kind: type[Engine], place: Place) -> Engine:
        fields = {"servers": self.servers} if self.servers and issubclass(kind, Server) else {}
        return kind(self.home / kind.name, place.port, place.password, place.more_ports, **fields)

    def _settings_of(self, engines: list[Engine]) -> dict[str, str]:
        settings = {name: value for engine in engines for name, value in engine.settings().items()}
        ours = {"ARCHIVE_URL": self._archive.as_uri(), "QUARANTINE_SPOOL": str(self.home / "spool")}
        start = {"PIPELINE_START": self._start_day.read_text()} if self._start_day.exists() else {}
        return ours | start | settings

    def _start(self, engine: Engine, report: Report | None) -> None:
        began = time.monotonic()
        process = find(engine)
        if process is not None and not answers(engine.port):
            # Killed while starting or stopping, or on a port of a stack.json that was lost.
            stop(process, engine.stop_signal)
            engine.clean_up()
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
        deadline = time.monotonic() + self.start_seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if engine.ready():
                    return
            if not alive():
                raise StackError(f"{engine.name} stopped at once: {self._last_line(engine.name)}")
            time.sleep(POLL_SECONDS)
        reason = f"{engine.name} does not answer after {self.start_seconds:.0f} s: {self._last_line(engine.name)}"
        raise StackError(f"{reason}. If it hangs: ninjait down, then ninjait up")

    def _stop_all(self, report: Report | None) -> None:
        def stop_one(kind: type[Engine]) -> None:
            engine = kind(self.home / kind.name, 0, "")
            process = find(engine)
            if process is not None:
                stop(process, engine.stop_signal)
                if report:
                    report(f"{engine.name}: stopped")
            engine.clean_up()

        in_all(EVERY_ENGINE, stop_one)

    def _placed(self) -> dict[str, Place]:
        """Every engine with its port and password: the former ones, unless the port has been taken meanwhile."""
        recorded = self._recorded()
        running = set()
        for engine in self._engines(recorded):
            if find(engine):
                running.add(engine.name)
            else:
                engine.clean_up()  # what a killed engine left holds one of its ports
        with contextlib.ExitStack() as held:
            for kind in self._kinds():
                if kind.name in running:
                    continue
                before = recorded.get(kind.name) or Place(0, secrets.token_urlsafe(24))
                wanted = (before.port, *before.more_ports, *[0] * kind.ports_needed)[: kind.ports_needed + 1]
                port, *more_ports = [free_port(held, preferred) for preferred in wanted]
                recorded[kind.name] = Place(port, before.password, tuple(more_ports))
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
        """One command per home at a time; a second one waits, and then finds everything done."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.home.stat().st_mode & 0o066:
            self.home.chmod(0o700)
        with (self.home / "command.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _last_line(self, name: str) -> str:
        lines = self._log(name).read_text(errors="replace").strip().splitlines()
        # influxd ends by naming its help
        said = [line for line in lines if line.strip() and not line.startswith("See 'influxd")] or ["its log is empty"]
        return f"{said[-1].strip()} ({self._log(name)})"


def in_all(engines: Sequence[T], work: Callable[[T], None]) -> None:
    """Does it for all engines at once; the first error is raised when all are done."""
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
    """The living process of this engine on its folder, known by its command line: a recorded pid may belong to
    another process by now, and an `up` that was killed recorded none. The engine's forks have the same command line."""
    folder = str(engine.folder)
    found = []
    for process in psutil.process_iter(["cmdline", "create_time"]):
        words = process.info["cmdline"] or []  # a zombie has none
        if engine.is_command(words) and any(word == folder or word.startswith(folder + os.sep) for word in words):
            found.append(process)
    return min(found, key=lambda process: float(process.info["create_time"]), default=None)


def stop(process: psutil.Process, stop_signal: signal.Signals) -> None:
    """Sends the signal, waits, and only then kills: by then each engine has written what it acknowledged."""
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
    """Our environment for the engines, which may write bytecode files: without them every start compiles everything."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
