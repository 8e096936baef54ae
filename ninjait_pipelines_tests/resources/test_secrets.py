"""No secret leaves by what a store says: a canary in every URL and secret, stores that fail in every way, and a look at
errors with all that they came from, logs, statuses, Dagster's events, snapshots and its GraphQL."""

import json
import logging
import os
import socket
import socketserver
import subprocess
import sys
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_graphql.schema import create_schema

from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import stores_from
from ninjait_pipelines.resources.store import Store, StoreError
from ninjait_pipelines.settings import SettingsError, validate
from ninjait_pipelines_tests.tls import HOST_NAME, secured

pytestmark = pytest.mark.usefixtures("retries_at_once")
CANARY = "c4n4ry-0f-the-test"
SECRETS = ("CLICKHOUSE_PASSWORD", "INFLUXDB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
URLS = {
    "RABBITMQ_URL": "amqp://ninjait:{secret}@{host}/%2F",
    "INFLUXDB_URL": "http://{host}",
    "DRAGONFLY_URL": "redis://:{secret}@{host}/0",
    "CLICKHOUSE_URL": "http://{host}",
    "DATABASE_URL": "postgresql://ninjait:{secret}@{host}/ninjait?sslpassword={secret}",
    "MONGODB_URL": "mongodb://ninjait:{secret}@{host}/ninjait?serverSelectionTimeoutMS=500",
    "ARCHIVE_URL": "s3://bucket/prefix",
    "AWS_ENDPOINT_URL": "http://{host}",
}
WITH_TLS = {"amqp:": "amqps:", "http:": "https:", "redis:": "rediss:"}
NAMES = ("message_queue", "metrics_store", "dragonfly", "clickhouse", "postgres", "mongodb", "archive")


def environment(host: str, secret: str = CANARY, tls: bool = False) -> dict[str, str]:
    found = {name: url.format(secret=secret, host=host) for name, url in URLS.items()}
    if tls:
        for plain, secure in WITH_TLS.items():
            found = {name: url.replace(plain, secure, 1) for name, url in found.items()}
        found["DATABASE_URL"] += "&sslmode=verify-full"
        found["MONGODB_URL"] += "&tls=true"
    others = {"CLICKHOUSE_USER": "ninjait", "CLICKHOUSE_DATABASE": "ninjait", "INFLUXDB_ORG": "ninjait"}
    return {**found, **others, "AWS_ACCESS_KEY_ID": "key", "AWS_REGION": "us-east-1", **dict.fromkeys(SECRETS, secret)}


def impatient(store: Store) -> Store:
    names = ("timeout_seconds", "connect_timeout_seconds")
    return store.model_copy(update={name: 1 for name in names if name in type(store).model_fields})


def fail(store: Store) -> str:
    """Everything that is said when a store is used, in vain."""
    with store.open():
        status = store.status()
        assert not status.ok
        try:
            store._ping()
        except StoreError as error:
            return "\n".join([repr(status), repr(store), str(store), *traceback.format_exception(error)])
    raise AssertionError(f"{store} did not fail")


@pytest.fixture
def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):  # of the clients' libraries too
        yield
    out, err = capfd.readouterr()
    assert CANARY not in caplog.text + out + err


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_is_away(name: str, nowhere: str) -> None:
    settings = validate(environment(nowhere))
    assert CANARY not in fail(impatient(stores_from(settings.__getitem__, settings).all()[name]))


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", NAMES)
def test_a_certificate_that_is_not_trusted(name: str, tmp_path: Path) -> None:
    with secured("127.0.0.1", 1, tmp_path, postgres=name == "postgres") as door:  # nobody gets as far as the engine
        settings = validate(environment(f"{HOST_NAME}:{door.port}", tls=True) | {"CA_FILE": door.strangers_file})
        said = fail(impatient(stores_from(settings.__getitem__, settings).all()[name]))
    assert "certificate is not trusted" in said
    assert CANARY not in said


@contextmanager
def listening(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """host:port of a server that is none of ours, and answers whatever it hears by `answer`."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                while heard := self.request.recv(65536):
                    self.request.sendall(answer(heard))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def http(heard: bytes) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(heard), heard)


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "echo": lambda heard: heard,
    "HTTP that quotes what it was asked": http,
    "Redis that quotes what it was asked": lambda heard: b"-ERR " + heard.replace(b"\r\n", b" ") + b"\r\n",
    "PostgreSQL that quotes what it was asked": lambda heard: (
        b"E" + (len(heard) + 13).to_bytes(4, "big") + b"SFATAL\0M" + heard.replace(b"\0", b" ") + b"\0\0"
    ),
}


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("answer", "tls"), [*((answer, False) for answer in ANSWERS), ("echo", True)])
def test_a_server_of_another_kind(name: str, answer: str, tls: bool) -> None:
    """A wrong port: whoever listens there has the password now, and its answer may quote it."""
    with listening(ANSWERS[answer]) as host:
        settings = validate(environment(host, tls=tls))
        said = fail(impatient(stores_from(settings.__getitem__, settings).all()[name]))
    for form in (CANARY, b64encode(CANARY.encode()).decode(), b64encode(f"ninjait:{CANARY}".encode()).decode()):
        assert form not in said


@pytest.mark.parametrize("arguments", [["status", "--json"], ["status"], ["migrate", "status"]])
def test_commands_say_none(arguments: list[str]) -> None:
    """`ninjait env` alone prints them: that is what it is for."""
    with listening(http) as host:
        values = {**os.environ, **environment(host), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "ninjait_pipelines.cli", *arguments]
        done = subprocess.run(command, env=values, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode
    assert host in said
    assert CANARY not in said


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("name", ["dragonfly", "clickhouse", "postgres"])
def test_a_password_that_is_refused(name: str, stack: dict[str, str]) -> None:
    setting = {"dragonfly": "DRAGONFLY_URL", "clickhouse": "CLICKHOUSE_URL", "postgres": "DATABASE_URL"}[name]
    settings = validate(environment(urlsplit(stack[setting]).netloc.rpartition("@")[2]))
    said = fail(impatient(stores_from(settings.__getitem__, settings).all()[name]))
    assert "StoreRefused" in said
    assert CANARY not in said


@pytest.mark.usefixtures("logs")
@pytest.mark.parametrize("bad", [f"%zz{CANARY}", f"{CANARY} x", f"{CANARY}/x", f"1/{CANARY}", f"{CANARY}\u2100"])
def test_a_password_that_is_not_encoded(bad: str) -> None:
    """`invalid percent-encoded token: "<the password>"` stood in the run's events. Settings refuse it; and a store that
    is made without them says nothing either."""
    if bad.isascii():  # what urllib refuses for its letters may be a password all the same
        with pytest.raises(SettingsError) as refused:
            validate(environment("127.0.0.1:1", bad))
        assert CANARY not in str(refused.value)
    stores = stores_from(environment("127.0.0.1:1", bad).__getitem__, validate(environment("127.0.0.1:1")))
    for name in ("message_queue", "dragonfly", "postgres", "mongodb"):
        assert CANARY not in fail(impatient(stores.all()[name])), name


@pytest.mark.usefixtures("logs")
def test_dagster_keeps_none_in_events_snapshots_and_graphql(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the UI shows: resources and their configuration, runs, their configuration, and how they failed."""
    values = environment(nowhere)
    for name, value in (values | {"DAGSTER_DATABASE_URL": f"postgresql+psycopg2://u:{CANARY}@{nowhere}/d"}).items():
        monkeypatch.setenv(name, value)
    stores = stores_from(dg.EnvVar, validate(values)).all()

    @dg.asset(required_resource_keys=set(NAMES))
    def asks(context: dg.AssetExecutionContext) -> None:
        errors = []
        for name in NAMES:
            try:
                impatient(getattr(context.resources, name))._ping()
            except StoreError as error:
                context.log.exception("failed: %r", error)
                errors.append(error)
        context.add_output_metadata({"problems": [str(error) for error in errors]})
        raise ExceptionGroup("all of them", errors)

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        result = dg.materialize([asks], resources=stores, instance=instance, raise_on_error=False)
        events = [dg.serialize_value(entry) for entry in instance.all_logs(result.run_id)]
        assert len(events) > 10
        run = instance.get_run_by_id(result.run_id)
        assert run
        snapshot = instance.get_job_snapshot(run.job_snapshot_id or "")
        assert CANARY not in "\n".join([*events, dg.serialize_value(run), dg.serialize_value(snapshot)])
        assert CANARY not in graphql(instance)


def graphql(instance: dg.DagsterInstance) -> str:
    """What the UI asks of the code location, and of the instance's runs."""
    query = """{
      repositoriesOrError { ... on RepositoryConnection { nodes {
        pipelines { name runs { runConfigYaml tags { key value } stats { __typename } } }
        allTopLevelResourceDetails { name description configFields { name defaultValueAsJson }
          configuredValues { key value type } nestedResources { name } }
      } } }
      runsOrError { ... on Runs { results { runId runConfigYaml } } }
    }"""
    target = ModuleTarget("ninjait_pipelines.definitions", None, str(ROOT), "ninjait_pipelines")
    with WorkspaceProcessContext(instance, target) as process:
        answer = create_schema().execute(query, context_value=process.create_request_context())
    assert not answer.errors, answer.errors
    text = json.dumps(answer.data)
    assert "DATABASE_URL" in text, "the UI names the variable"
    return text
