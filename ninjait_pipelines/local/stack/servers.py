"""RabbitMQ, InfluxDB 2 and S3 as engines of the local stack, from the binaries that `make servers` puts in place.

Each runs as any user, on loopback, with everything it keeps in its own folder. A first start that was killed half-way
is deleted and repeated: until it is complete, nothing knows where the engine is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from ninjait_pipelines.local.stack.engines import HOST, USER, Engine, StackError, write_private
from ninjait_pipelines.paths import ROOT

# what `make servers` builds: bin/ with the programs, versions.json
SERVERS = ROOT / ".servers"
ORGANIZATION = "ninjait"
BUCKET = "metrics"
REGION = "us-east-1"
ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Server(Engine):
    """An engine from `make servers`; a file in its folder marks that its first start was completed."""

    servers: Path = SERVERS

    def prepare(self) -> None:
        if not self._completed().exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        super().prepare()

    def binary(self) -> Path:
        """The program itself: a script that is found by a link would look for its own files beside the link."""
        return (self.servers / "bin" / self.program).resolve()

    def _completed(self) -> Path:
        return self.folder / "first-start-completed"

    def _unknown_password(self) -> StackError:
        known = f"the password of {self.folder} is no longer known; restore stack.json"
        half = "its first start was interrupted; ninjait down, then ninjait up"
        advice = "or start afresh: ninjait down --delete"
        return StackError(f"{self.name}: {known if self._completed().exists() else half}, {advice}")


@dataclass(frozen=True)
class RabbitMQ(Server):
    """A node of its own, with the management plugin and an Erlang port mapper of its own.

    `more_ports` are those of Erlang's distribution, of the management plugin and of the port mapper. The node keeps its
    name when its ports change: its data are found by the name.
    """

    name = "rabbitmq"
    program = "rabbitmq-server"
    ports_needed = 3

    # lines of rabbitmq.conf beside ours
    extra_config: str = ""

    @property
    def title(self) -> str:  # type: ignore[override]
        """With the version, which the folder of the program is named after."""
        _, _, version = self.binary().parent.parent.name.partition("-")
        return f"RabbitMQ {version}".strip()

    def prepare(self) -> None:
        if "'" in str(self.folder):
            raise StackError(f"rabbitmq: cannot run in {self.folder}: it hangs where a folder's name has an apostrophe")
        super().prepare()
        lines = [
            f"listeners.tcp.1 = {HOST}:{self.port}",
            f"management.tcp.ip = {HOST}",
            f"management.tcp.port = {self._management}",
            f"default_user = {USER}",
            f"default_pass = {self.password}",
            "log.console.level = warning",
            self.extra_config,
        ]
        write_private(self.folder / "rabbitmq.conf", "\n".join(lines) + "\n")
        write_private(self.folder / "plugins", "[rabbitmq_management].\n")

    def command(self) -> list[str]:
        # The first argument means nothing to Erlang: it keeps the folder on the command line.
        return [
            *(str(self.binary()), "-folder", str(self.folder)),
            *("-kernel", "inet_dist_use_interface", "{" + HOST.replace(".", ",") + "}"),
        ]

    def is_command(self, words: list[str]) -> bool:
        # the script becomes `erl`, that `erlexec`, and that the virtual machine, all with our arguments
        programs = (self.program, "erl", "erlexec", "beam.smp")
        return "-folder" in words and any(Path(word).name in programs for word in words[:4])

    def environment(self) -> dict[str, str]:
        distribution, _, mapper = self.more_ports
        folder = self.folder
        return {
            "HOME": str(folder),  # of Erlang's cookie, which it makes itself
            "LC_ALL": "C.UTF-8",
            # the script becomes the server, instead of being its parent
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_NODENAME": "ninjait@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            # Nothing of /etc/rabbitmq is read.
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(mapper),
            # no crash dump: its announcement would be the last line of the log, instead of the reason
            "ERL_CRASH_DUMP_SECONDS": "0",
        }

    def clean_up(self) -> None:
        """The port mapper outlives every node. Ours is known by the home folder in its environment; it keeps nothing,
        and may have been started with SIGTERM ignored."""
        # Not by process_iter's `info`, which other threads share: `find` reads it at the same time.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "epmd" and process.environ().get("HOME") == str(self.folder):
                    process.kill()

    def ready(self) -> bool:
        # The management plugin first: it answers once the default user exists, which is after the first port opens.
        login = b64encode(f"{USER}:{self.password}".encode()).decode()
        status, _ = call(f"{self._management_url()}/api/permissions/%2F/{USER}", f"Basic {login}")
        if status == 401:
            raise self._unknown_password()
        return status == 200 and self._takes_connections()

    def _takes_connections(self) -> bool:
        import pika
        from pika.adapters.utils.connection_workflow import AMQPConnectorException
        from pika.exceptions import AMQPError

        try:
            pika.BlockingConnection(pika.URLParameters(self.settings()["RABBITMQ_URL"])).close()
        except (AMQPError, AMQPConnectorException):
            return False
        self._completed().touch()
        return True

    def settings(self) -> dict[str, str]:
        return {
            "RABBITMQ_URL": f"amqp://{USER}:{self.password}@{HOST}:{self.port}/%2F",
            "RABBITMQ_MANAGEMENT_URL": self._management_url(f"{USER}:{self.password}@"),
        }

    @property
    def _management(self) -> int:
        return self.more_ports[1]

    def _management_url(self, login: str = "") -> str:
        return f"http://{login}{HOST}:{self._management}"


@dataclass(frozen=True)
class InfluxDB(Server):
    """influxd with one organization, one user and one token, which is also the user's password."""

    name = "influxdb"
    program = "influxd"
    # SIGTERM it does not know, and would be gone in the middle of a write
    stop_signal = signal.SIGINT

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"InfluxDB {version(self.servers, self.program)}".strip()

    def command(self) -> list[str]:
        return [
            *(str(self.binary()), "--http-bind-address", f"{HOST}:{self.port}"),
            *("--engine-path", str(self.folder / "engine")),
            *("--bolt-path", str(self.folder / "influxd.bolt")),
            *("--sqlite-path", str(self.folder / "influxd.sqlite")),
            *("--reporting-disabled", "--log-level", "warn"),
        ]

    def environment(self) -> dict[str, str]:
        return {"INFLUXD_CONFIG_PATH": str(self.folder)}  # else a config.yml of the working folder would count

    def ready(self) -> bool:
        address = f"http://{HOST}:{self.port}"
        if call(f"{address}/health")[0] != 200:
            return False
        if json.loads(call(f"{address}/api/v2/setup")[1])["allowed"]:
            # Killed here: the folder is not marked, and the next start begins again.
            call(f"{address}/api/v2/setup", body=json.dumps(self._first_setup()).encode())
        query = urllib.parse.urlencode({"name": BUCKET, "org": ORGANIZATION})
        status, _ = call(f"{address}/api/v2/buckets?{query}", f"Token {self.password}")
        if status == 401:
            raise self._unknown_password()
        if status == 200:
            self._completed().touch()
        return status == 200

    def settings(self) -> dict[str, str]:
        return {
            "INFLUXDB_URL": f"http://{HOST}:{self.port}",
            "INFLUXDB_TOKEN": self.password,
            "INFLUXDB_ORG": ORGANIZATION,
            "INFLUXDB_BUCKET": BUCKET,
        }

    def _first_setup(self) -> dict[str, Any]:
        from ninjait_pipelines.metrics.model import RETENTION, RETENTION_GRACE, Tier

        return {
            "username": USER,
            "password": self.password,
            "token": self.password,
            "org": ORGANIZATION,
            "bucket": BUCKET,
            "retentionPeriodSeconds": (RETENTION[Tier.RAW] + RETENTION_GRACE) // timedelta(seconds=1),
        }


@dataclass(frozen=True)
class S3Gateway(Server):
    """versitygw: S3 in front of a folder, in which each bucket is a folder."""

    name = "s3"
    program = "versitygw"

    @property
    def title(self) -> str:  # type: ignore[override]
        return f"versitygw {version(self.servers, self.program)}".strip() + " for S3"

    def prepare(self) -> None:
        super().prepare()
        (self._buckets / ORGANIZATION).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._completed().touch()

    def command(self) -> list[str]:
        return [str(self.binary()), "--quiet", "--port", f"{HOST}:{self.port}", "posix", str(self._buckets)]

    def environment(self) -> dict[str, str]:
        return {"ROOT_ACCESS_KEY": USER, "ROOT_SECRET_KEY": self.password, "VGW_REGION": REGION}

    def ready(self) -> bool:
        # S3's own answer to a request without a signature; anything else has taken the port.
        status, answer = call(f"http://{HOST}:{self.port}/{ORGANIZATION}")
        return status == 403 and "<Code>AccessDenied</Code>" in answer.decode()

    def settings(self) -> dict[str, str]:
        return {
            "ARCHIVE_URL": f"s3://{ORGANIZATION}/archive",
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self.port}",
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": self.password,
            "AWS_REGION": REGION,
        }

    @property
    def _buckets(self) -> Path:
        return self.folder / "buckets"


SERVER_ENGINES: tuple[type[Server], ...] = (RabbitMQ, InfluxDB, S3Gateway)

# Never through a proxy that the environment names: everything here is on loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(address: str, authorization: str = "", body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of an HTTP request, whatever the status; raises OSError if nothing answers."""
    headers = {"Authorization": authorization} if authorization else {}
    request = urllib.request.Request(address, body, headers)  # noqa: S310 -- our own address
    try:
        with _direct.open(request, timeout=ANSWER_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def version(servers: Path, program: str) -> str:
    """What `make servers` noted of a program; empty where it noted nothing."""
    try:
        return str(json.loads((servers / "versions.json").read_bytes())[program]["version"])
    except (FileNotFoundError, KeyError):
        return ""


def built(servers: Path = SERVERS) -> Path | None:
    """The folder of the servers, if it has all that the stack runs; otherwise None."""
    there = all((servers / "bin" / engine.program).exists() for engine in SERVER_ENGINES)
    return servers if there else None
