"""A certificate is verified, at every store: the right authority, a wrong one, none, and another host's certificate."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trustme

from ninjait_pipelines.resources import stores_from
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable
from ninjait_pipelines.settings import Settings, SettingsError, validate
from ninjait_pipelines_tests.tls import HOST_NAME, Secured, secured

# store -> the setting that has its address, what it becomes with TLS, the setting of its own authority
STORES: dict[str, tuple[str, Callable[[str], str], str]] = {
    "clickhouse": ("CLICKHOUSE_URL", lambda url: url.replace("http:", "https:"), "CLICKHOUSE_CA_FILE"),
    "dragonfly": ("DRAGONFLY_URL", lambda url: url.replace("redis:", "rediss:"), "DRAGONFLY_CA_FILE"),
    "postgres": ("DATABASE_URL", lambda url: f"{url}?sslmode=verify-full", "DATABASE_CA_FILE"),
    "mongodb": ("MONGODB_URL", lambda url: f"{url}?tls=true", "MONGODB_CA_FILE"),
}
SERVERS: dict[str, tuple[str, Callable[[str], str], str]] = {
    "metrics_store": ("INFLUXDB_URL", lambda url: url.replace("http:", "https:"), "INFLUXDB_CA_FILE"),
    "archive": ("AWS_ENDPOINT_URL", lambda url: url.replace("http:", "https:"), "ARCHIVE_CA_FILE"),
}
ALL = STORES | SERVERS
CASES = [*STORES, *(pytest.param(name, marks=pytest.mark.servers) for name in SERVERS)]


def settings_with_tls(stack: dict[str, str], name: str, port: int, host: str = HOST_NAME, **more: str) -> Settings:
    variable, with_tls, _ = ALL[name]
    parts = urlsplit(stack[variable])
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    url = with_tls(parts._replace(netloc=f"{user}{host}:{port}").geturl())
    return validate({**stack, variable: url, **more})


@contextmanager
def opened(settings: Settings, name: str) -> Iterator[Any]:
    """One store; MongoDB's client looks for a server until its time is over, whatever is wrong."""
    store = stores_from(settings.__getitem__, settings).all()[name]
    with store.model_copy(update={"timeout_seconds": 2} if name == "mongodb" else {}).open() as found:
        yield found


def use(store: Any) -> None:
    if isinstance(store, InfluxDB):
        store.declare()
    assert store.status().ok, store.status().problem


@pytest.fixture
def tls(stack: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Secured]]:
    with ExitStack() as held:

        def start(name: str) -> Secured:
            parts = urlsplit(stack[ALL[name][0]])
            assert parts.port
            return held.enter_context(secured("127.0.0.1", parts.port, tmp_path, postgres=name == "postgres"))

        yield start


@pytest.mark.parametrize("name", CASES)
def test_only_the_right_authority_and_host_are_trusted(
    stack: dict[str, str], name: str, tls: Callable[[str], Secured]
) -> None:
    """`https://host:9440` connected by plain HTTP, with the password in the clear; no CA could be named."""
    door = tls(name)
    _, _, own = ALL[name]
    for given in ({own: door.ca_file}, {"CA_FILE": door.ca_file}, {own: door.ca_file, "CA_FILE": door.strangers_file}):
        with opened(settings_with_tls(stack, name, door.port, **given), name) as store:
            use(store)
    refused = {
        "another authority": settings_with_tls(stack, name, door.port, **{own: door.strangers_file}),
        "the system's authorities": settings_with_tls(stack, name, door.port),
        "another host": settings_with_tls(stack, name, door.port, "127.0.0.1", **{own: door.ca_file}),
    }
    for case, wrong in refused.items():
        started = time.monotonic()
        with opened(wrong, name) as store:
            problem = store.status().problem
        assert "certificate is not trusted" in problem, f"{case}: {problem}"
        assert own in problem
        assert ALL[name][0] in problem
        assert time.monotonic() - started < 15, f"{case}: it was tried again"


@pytest.mark.servers
def test_a_scan_of_the_archive_verifies_too(stack: dict[str, str], tls: Callable[[str], Secured]) -> None:
    """Scans go through Arrow's own S3, which knew no authority but the system's."""
    door = tls("archive")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1, 2]}), sink)

    def archive(file: str, host: str = HOST_NAME) -> Archive:
        found = settings_with_tls(stack, "archive", door.port, host, ARCHIVE_CA_FILE=file)
        return stores_from(found.__getitem__, found).archive

    with archive(door.ca_file).open() as store:
        store.write("day/rows.parquet", sink.getvalue().to_pybytes())
        assert store.scan(["day/rows.parquet"]).num_rows == 2
    nobody = settings_with_tls(stack, "archive", door.port)
    no_authority = stores_from(nobody.__getitem__, nobody).archive
    for wrong in (archive(door.strangers_file), archive(door.ca_file, "127.0.0.1"), no_authority):
        with wrong.open() as store, pytest.raises(StoreFailed, match="certificate is not trusted"):
            store.scan(["day/rows.parquet"])


@pytest.mark.parametrize("name", ["postgres", "mongodb"])
def test_where_the_url_says_nothing_of_tls_a_named_authority_asks_for_it(
    stack: dict[str, str], name: str, tls: Callable[[str], Secured]
) -> None:
    """postgresql:// and mongodb:// are the same with and without TLS: naming a CA must not leave the line open."""
    door = tls(name)
    variable, _, own = ALL[name]
    plain = urlsplit(stack[variable])
    user = f"{plain.netloc.rpartition('@')[0]}@" if "@" in plain.netloc else ""

    def at(host: str, port: int | None, query: str = "", **more: str) -> Settings:
        url = plain._replace(netloc=f"{user}{host}:{port}", query=query).geturl()
        return validate({**stack, variable: url, **more})

    with opened(at(HOST_NAME, door.port, **{own: door.ca_file}), name) as store:
        use(store)
    with opened(at("127.0.0.1", door.port, **{own: door.ca_file}), name) as store:
        assert "certificate is not trusted" in store.status().problem
    off = {"postgres": "sslmode=disable", "mongodb": "tls=false"}[name]
    with opened(at("127.0.0.1", plain.port, off, CA_FILE=door.ca_file), name) as store:
        use(store)


@pytest.mark.parametrize("name", ["postgres", "mongodb"])
def test_of_several_hosts_each_is_verified(stack: dict[str, str], name: str, tls: Callable[[str], Secured]) -> None:
    """A primary and its standbys; a replica set, of which only the refusals are shown: the local server is none."""
    door = tls(name)
    variable, _, own = ALL[name]
    plain = urlsplit(stack[variable])
    user = f"{plain.netloc.rpartition('@')[0]}@" if "@" in plain.netloc else ""
    query = {"postgres": "sslmode=verify-full", "mongodb": "tls=true"}[name]

    def at(host: str, **more: str) -> Settings:
        hosts = f"{user}{host}:1,{host}:{door.port}"  # nobody listens at the first
        return validate({**stack, variable: plain._replace(netloc=hosts, query=query).geturl(), **more})

    if name == "postgres":
        with opened(at(HOST_NAME, **{own: door.ca_file}), name) as store:
            use(store)
    for wrong in (at(HOST_NAME, **{own: door.strangers_file}), at("127.0.0.1", **{own: door.ca_file}), at(HOST_NAME)):
        with opened(wrong, name) as store:
            assert "certificate is not trusted" in store.status().problem


@pytest.mark.parametrize("name", CASES)
def test_a_server_without_tls_is_said_to_have_none(stack: dict[str, str], name: str) -> None:
    """The scheme is obeyed: nothing falls back to plain text, whatever the port."""
    port = urlsplit(stack[ALL[name][0]]).port
    assert port
    with opened(settings_with_tls(stack, name, port), name) as store:
        status = store.status()
    assert not status.ok
    if name in ("clickhouse", "metrics_store"):  # the others hang up, or wait; libpq looks for the authority first
        assert "does not answer in TLS" in status.problem


def test_the_default_ports_of_clickhouse_follow_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def get_client(**given: Any) -> Any:
        asked.append(given)
        raise StoreUnavailable("ClickHouse", "http://host", "not here", "")

    monkeypatch.setattr("clickhouse_connect.get_client", get_client)
    for url in ("http://host", "https://host", "https://host:9440", "http://host:443", "https://[::1]:8123"):
        store = ClickHouse(url=url, user="user", password="secret", database="ninjait")
        with pytest.raises(StoreUnavailable):
            _ = store.client
    found = [(one["interface"], one["secure"], one["host"], one["port"]) for one in asked]
    assert found == [
        ("http", False, "host", 8123),
        ("https", True, "host", 8443),
        ("https", True, "host", 9440),
        ("http", False, "host", 443),
        ("https", True, "::1", 8123),
    ]


def test_a_file_of_authorities_is_looked_at_when_the_pipeline_starts(stack: dict[str, str], tmp_path: Path) -> None:
    """A wrong path came out as "certificate not trusted", at the first use, from each store in other words."""
    (tmp_path / "empty.pem").touch()
    for path, words in (
        (tmp_path / "nowhere.pem", "cannot be read"),
        (tmp_path / "empty.pem", "without a certificate"),
    ):
        for name in ("CA_FILE", "DATABASE_CA_FILE"):
            with pytest.raises(SettingsError, match=f"{name} names a file.*{words}"):
                validate({**stack, name: str(path)})


def test_an_authority_for_a_store_without_tls_is_a_mistake(stack: dict[str, str], tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(file := tmp_path / "ca.pem"))
    with pytest.raises(SettingsError, match=r"CLICKHOUSE_CA_FILE is set, but CLICKHOUSE_URL has no TLS"):
        validate({**stack, "CLICKHOUSE_CA_FILE": str(file)})
    assert validate({**stack, "CA_FILE": str(file)})
