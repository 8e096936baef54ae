"""The fixtures of the whole suite: one local stack a session, and databases of its own for each test.

With `--servers` the same tests run on RabbitMQ, InfluxDB and S3: on those that the environment names (RABBITMQ_URL and
the other settings, for a staging system), else on those that `make servers` has built.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
import urllib3
from hypothesis import settings as hypothesis_settings
from influxdb_client import InfluxDBClient, Permission, PermissionResource
from tenacity import wait_none

from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import DESCRIPTIONS, Settings, validate
from ninjait_pipelines_tests import databases
from ninjait_pipelines_tests.databases import with_path
from ninjait_pipelines_tests.orphans import ended_with_us

os.environ.pop("PIPELINE_START", None)  # partitions read it when they are imported; the tests' begin on the default
os.environ.setdefault("NINJAIT_TESTS_NOW", str(int(time.time())))  # read by the workers that pytest-xdist starts
hypothesis_settings.register_profile("fast", max_examples=10)  # of 100: make test-fast
SERVERS = ROOT / ".servers"
TESTS = Path(__file__).parent
# The files that take longest, on real servers or without, first.
LONGEST = (
    "faults/test_faults",
    "local/demo/test_run",
    "resources/rabbitmq/test_resource",
    "resources/rabbitmq/test_consumer",
    "ingest/test_third_party_servers",
    "resources/influxdb/test_resource",
    "resources/influxdb/test_read",
    "rollup/test_tiers",
    "resources/test_clickhouse_metrics",
    "resources/test_secrets",
    "test_migrations",
    "test_migrations_stopped",
    "ingest/quarantine/test_spool",
    "rollup/test_checks",
    "local/stack/test_local",
    "ingest/test_outages",
    "resources/test_hangs",
    "tickets/test_assets",
    "test_executor",
    "cache/test_assets",
    "rollup/test_sensors",
    "test_roles",
    "archive/test_days",
    "reports/test_weekly_edges",
    "cache/test_unchanged",
    "test_upgrade",
    "resources/test_fences",
    "ingest/test_drain",
    "ingest/test_drain_dies",
    "ingest/test_sinks",
    "cli/quarantine/test_commands",
    "billing/test_write",
    "billing/test_assets",
    "test_databases",
    "test_installation",
    "local/stack/test_clickhouse_http",
    "rollup/test_assets",
    "archive/test_assets",
    "tickets/test_sensors",
    "cache/test_one_bad_row",
    "resources/archive/test_bucket",
    "resources/test_dragonfly_queue",
    "resources/test_store",
    "ingest/quarantine/test_replay",
)
# The files whose tests start engines, servers or interpreters without asking for the stack.
OWN_ENGINES = (
    "billing/test_automation",
    "cli/test_main",
    "cli/test_sql",
    "cli/test_stack",
    "local/fleet/test_agent",
    "local/fleet/test_relay",
    "local/stack/test_clickhouse_engine",
    "local/stack/test_clickhouse_http",
    "local/stack/test_local",
    "local/stack/test_mongodb_server",
    "local/stack/test_servers",
    "operations/test_run_queue",
    "resources/test_disk_full",
    "resources/test_dragonfly_queue",
    "resources/test_hangs",
    "resources/test_secrets",
    "resources/archive/test_bucket",
    "resources/influxdb/test_resource",
    "resources/rabbitmq/test_connection",
    "resources/test_clickhouse",
    "resources/test_dragonfly",
    "resources/test_postgres",
    "resources/test_store",
    "resources/test_tls",
    "rollup/test_sensors",
    "servers/test_build",
    "servers/test_engines",
    "test_audit",
    "test_orphans",
    "test_wheel",
    "test_without_pandas",
)
# Pure tests that take a second each
LARGE = ("billing/paper/test_render",)
BY_MARKER = {"servers": "make test-servers", "faults": "make test-faults"}
_not_run: Counter[str] = Counter()
_numbers = itertools.count(1)
_taken: set[str] = set()  # Dragonfly's databases that a test has now
# What the environment names, for `--servers`; empty where it names no RabbitMQ.
NAMED = {name: os.environ[name] for name in (*DESCRIPTIONS, "RABBITMQ_MANAGEMENT_URL") if name in os.environ}
NAMED = NAMED if "RABBITMQ_URL" in NAMED else {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--servers", action="store_true", help="on RabbitMQ, InfluxDB and S3 instead of the wheels")
    parser.addoption("--clickhouse", metavar="VERSION", help="on an older engine of ClickHouse: 25.8 or 26.3")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what needs engines: whatever asks for the stack. The workers begin with what takes longest, so that none
    is waited for at the end."""
    own, large = ({TESTS / f"{name}.py" for name in names} for names in (OWN_ENGINES, LARGE))
    for item in items:
        if item.path in own or "stack" in getattr(item, "fixturenames", ()):
            item.add_marker("engines")
        if item.path in large:
            item.add_marker("large")
    if hasattr(config, "workerinput"):
        places = {TESTS / f"{name}.py": place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    _not_run.update(marker for item in items for marker in BY_MARKER if item.get_closest_marker(marker))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the others' controller, which selects nothing itself."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = dict(_not_run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _not_run.update(Counter(getattr(node, "workeroutput", {}).get("not_run", {})) - _not_run)  # each selects from all


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says what was left out, and how it is run."""
    if not terminalreporter.config.option.keyword:
        for marker, count in _not_run.items():
            terminalreporter.write_line(f"not run: {count} tests of real servers: {BY_MARKER[marker]}")


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_shell() -> Iterator[None]:
    """A test never reaches a store that the developer's shell points at."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (*DESCRIPTIONS, "DAGSTER_HOME", "DAGSTER_DATABASE_URL"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _engines_end_with_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """However the tests end."""
    with ended_with_us(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(scope="session")
def on_servers(request: pytest.FixtureRequest) -> bool:
    """Whether the tests run on RabbitMQ, InfluxDB and S3."""
    return bool(request.config.getoption("--servers"))


@pytest.fixture(scope="session")
def clickhouse_version(request: pytest.FixtureRequest) -> Iterator[str]:
    """With `--clickhouse` the local stack's ClickHouse is of that version; else this is empty."""
    from ninjait_pipelines.local.stack.engines import ClickHouse

    version: str = request.config.getoption("--clickhouse") or ""
    folder, environment = SERVERS / f"clickhouse-{version}", ClickHouse.environment
    with pytest.MonkeyPatch.context() as patch:
        if version:
            assert (folder / "chdb").is_dir(), f"ClickHouse {version} is missing: make servers"
            older = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
            patch.setattr(ClickHouse, "program", "ninjait_pipelines_tests.old_clickhouse")
            patch.setattr(ClickHouse, "environment", lambda self: environment(self) | older)
        yield version


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, on_servers: bool, clickhouse_version: str
) -> Iterator[dict[str, str]]:
    """A local stack in a folder of its own, or the servers that the environment names: settings as variables."""
    from ninjait_pipelines.local.stack.local import LocalStack
    from ninjait_pipelines.local.stack.servers import built

    if on_servers and NAMED:
        yield NAMED
        return
    assert not on_servers or built(SERVERS), "RabbitMQ, InfluxDB and S3 are missing: make servers"
    stack = LocalStack(tmp_path_factory.mktemp("stack") / "home", SERVERS if on_servers else None)
    try:
        yield stack.up()
    finally:
        stack.down()


@pytest.fixture(scope="session")
def migrated(stack: dict[str, str]) -> Iterator[str]:
    """The name of migrated, empty databases: a copy of them costs a third of migrating anew."""
    from ninjait_pipelines.migrations import migrate_up

    name = f"migrated_{os.getpid()}"
    place = {"DATABASE_URL": with_path(stack["DATABASE_URL"], name), "CLICKHOUSE_DATABASE": name}
    try:
        databases.create(stack, name)
        with open_stores(validate({**stack, **place})) as stores:
            migrate_up(stores.postgres, stores.clickhouse)
        yield name
    finally:
        databases.drop_spare(stack)
        databases.drop(stack, name)


@pytest.fixture
def settings(stack: dict[str, str], migrated: str, tmp_path: Path) -> Iterator[Settings]:
    """Settings that name fresh, migrated databases, an empty key space and an empty archive."""
    settings = fresh(stack, f"test_{os.getpid()}_{next(_numbers)}", tmp_path, like=migrated)
    try:
        yield settings
    finally:
        drop(stack, settings)


def fresh(stack: dict[str, str], name: str, folder: Path, like: str | None = None) -> Settings:
    """Settings for databases, a virtual host, an organization and an archive called `name`, all of them empty; or,
    called otherwise, with the tables of the databases that are called `like`."""
    name = databases.take(stack, name, like)
    settings = {
        **stack,
        "DATABASE_URL": with_path(stack["DATABASE_URL"], name),
        "MONGODB_URL": with_path(stack["MONGODB_URL"], name),
        "CLICKHOUSE_DATABASE": name,
        "QUARANTINE_SPOOL": str(folder / "spool"),
    }
    if "RABBITMQ_URL" in stack:
        settings["RABBITMQ_URL"] = make_virtual_host(stack, name)
    if "INFLUXDB_URL" in stack:
        settings |= {"INFLUXDB_ORG": name, "INFLUXDB_TOKEN": make_organization(stack, name)}
    if stack["ARCHIVE_URL"].startswith("s3:"):
        settings["ARCHIVE_URL"] = f"{stack['ARCHIVE_URL'].rstrip('/')}/{name}"
    else:
        (folder / "archive").mkdir()
        settings["ARCHIVE_URL"] = (folder / "archive").as_uri()
    settings["DRAGONFLY_URL"] = _empty_dragonfly(stack)
    return validate(settings)


def make_virtual_host(stack: dict[str, str], name: str) -> str:
    """A virtual host of RabbitMQ: its URL."""
    _manage_rabbitmq(stack, "PUT", f"vhosts/{name}")
    user = unquote(urlsplit(stack["RABBITMQ_URL"]).username or "")
    rights = {"configure": ".*", "write": ".*", "read": ".*"}
    _manage_rabbitmq(stack, "PUT", f"permissions/{name}/{quote(user)}", rights)
    return with_path(stack["RABBITMQ_URL"], name)


def drop_virtual_host(stack: dict[str, str], name: str) -> None:
    _manage_rabbitmq(stack, "DELETE", f"vhosts/{name}")


def make_organization(stack: dict[str, str], name: str) -> str:
    """An organization of InfluxDB, without buckets: a token for all that it will have."""
    with InfluxDBClient(stack["INFLUXDB_URL"], stack["INFLUXDB_TOKEN"]) as client:
        made = client.organizations_api().create_organization(name=name)
        buckets = PermissionResource("buckets", org_id=made.id)
        permissions = [Permission(action, buckets) for action in ("read", "write")]
        permissions.append(Permission("read", PermissionResource("orgs", id=made.id)))  # to make buckets in it
        return str(client.authorizations_api().create_authorization(made.id, permissions).token)


def drop_organization(stack: dict[str, str], name: str) -> None:
    """With its buckets and tokens."""
    with InfluxDBClient(stack["INFLUXDB_URL"], stack["INFLUXDB_TOKEN"]) as client:
        for bucket in client.buckets_api().find_buckets(org=name, limit=100).buckets:
            if bucket.type == "user":
                client.buckets_api().delete_bucket(bucket)
        organizations, tokens = client.organizations_api(), client.authorizations_api()
        organization = organizations.find_organizations(org=name)[0].id
        for token in tokens.find_authorizations(org_id=organization):
            tokens.delete_authorization(token)
        organizations.delete_organization(organization)


def _empty_dragonfly(stack: dict[str, str]) -> str:
    """The first empty one of Dragonfly's databases 1 to 15: nothing of anybody else is ever emptied."""
    for url in (with_path(stack["DRAGONFLY_URL"], str(number)) for number in range(1, 16)):
        with open_stores(validate({**stack, "DRAGONFLY_URL": url})) as stores:
            if url not in _taken and not stores.dragonfly.client.dbsize():
                _taken.add(url)
                return url
    raise RuntimeError("all of Dragonfly's databases 1 to 15 hold something: empty one for the tests")


def _manage_rabbitmq(stack: dict[str, str], method: str, path: str, body: Any = None) -> None:
    """One request to RabbitMQ's management plugin: at RABBITMQ_MANAGEMENT_URL, else on its usual port."""
    broker = urlsplit(stack["RABBITMQ_URL"])
    usual = f"http://{broker.username}:{broker.password}@{broker.hostname}:15672"
    place = urlsplit(stack.get("RABBITMQ_MANAGEMENT_URL", usual))
    headers = urllib3.make_headers(basic_auth=f"{unquote(place.username or '')}:{unquote(place.password or '')}")
    url = f"{place.scheme}://{place.hostname}:{place.port}/api/{path}"
    answer = urllib3.request(method, url, json=body if body is not None else {}, headers=headers, timeout=20)
    assert answer.status < 300, f"{method} {path}: {answer.status} {answer.data!r}"


def drop(stack: dict[str, str], settings: Settings) -> None:
    """Removes what `fresh` has made, and all that was put there."""
    name = settings["CLICKHOUSE_DATABASE"]
    with open_stores(settings) as stores:
        stores.dragonfly.client.flushdb()
        _taken.discard(settings["DRAGONFLY_URL"])
        if settings["ARCHIVE_URL"].startswith("s3:"):
            for key in stores.archive.list_keys(""):
                stores.archive.delete(key)
    with open_stores(validate(stack)) as stores:
        stores.mongodb.database.client.drop_database(name)
    databases.give_back(stack, name)
    if "RABBITMQ_URL" in stack:
        drop_virtual_host(stack, name)
    if "INFLUXDB_URL" in stack:
        drop_organization(stack, name)


@pytest.fixture
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away is tried as often as ever, without the seconds in between."""
    monkeypatch.setattr("ninjait_pipelines.resources.store.wait_exponential_jitter", lambda **_: wait_none())


@pytest.fixture
def stores(settings: Settings) -> Iterator[Stores]:
    """The stores of `settings`, opened."""
    with open_stores(settings) as opened:
        opened.message_queue.declare()
        yield opened
