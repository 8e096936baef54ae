"""How the stores fail: refused, away, silent, full. And what is tried again: what may pass, and nothing else."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources import Stores, stores_from
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, check_no_bytes
from ninjait_pipelines.resources.dragonfly import Dragonfly, errors
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import Store, StoreError, StoreFailed, StoreRefused, StoreUnavailable, retrying
from ninjait_pipelines.settings import validate

SETTING = {
    "message_queue": "DRAGONFLY_URL",
    "dragonfly": "DRAGONFLY_URL",
    "clickhouse": "CLICKHOUSE_URL",
    "metrics_store": "CLICKHOUSE_URL",
    "postgres": "DATABASE_URL",
    "mongodb": "MONGODB_URL",
}
# The local stack's MongoDB knows no passwords.
WITH_PASSWORD = [name for name in SETTING if name != "mongodb"]


def use(store: Store) -> None:
    """The smallest honest use of a store."""
    match store:
        case DragonflyQueue():
            store.publish([Outgoing("platform.logs", "log.info", b"{}")])
        case Dragonfly():
            store.set_if_newer("key", {"as_of": "2026-01-01T00:00:00.000000+00:00"})
        case ClickHouse():
            assert store.scalar("SELECT 1") == 1
        case Postgres():
            assert store.rows("SELECT 1 AS one") == [{"one": 1}]
        case MongoDB():
            with store.errors():
                store.database.command("ping")


@contextmanager
def opened(
    stack: dict[str, str], name: str, host: str | None = None, password: str | None = None, patient: bool = False
) -> Iterator[Any]:
    """One store of the stack, at another host:port or with another password; impatient, unless told otherwise."""
    settings = dict(stack)
    url = urlsplit(stack[SETTING[name]])
    netloc = url.netloc if host is None else f"{url.netloc.rpartition('@')[0]}@{host}".removeprefix("@")
    if password is not None:
        netloc = netloc.replace(f":{url.password}@", f":{password}@")
        settings["CLICKHOUSE_PASSWORD"] = password
    settings[SETTING[name]] = url._replace(netloc=netloc).geturl()
    store = getattr(stores_from(settings.__getitem__), name)
    short = {field: 1 for field in type(store).model_fields if re.fullmatch(r"(connect_)?timeout_seconds", field)}
    with store.model_copy(update={} if patient else short).open() as opened:
        yield opened


class Door:
    """A port that closes the first `refuse` connections at once and passes the others on; it counts them all."""

    def __init__(self, target: str, refuse: int = 0) -> None:
        host, _, port = target.rpartition("@")[2].rpartition(":")
        self._target, self._refuse, self.connections = (host, int(port)), refuse, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                self.connections += 1
                if self.connections <= self._refuse:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        # `accept` in another thread would keep a merely closed port open.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def door(stack: dict[str, str]) -> Iterator[Callable[..., Door]]:
    doors: list[Door] = []

    def open_door(name: str, refuse: int = 0) -> Door:
        doors.append(Door(urlsplit(stack[SETTING[name]]).netloc, refuse))
        return doors[-1]

    yield open_door
    for door in doors:
        door.close()


@pytest.mark.parametrize("name", WITH_PASSWORD)
def test_a_refused_password_is_said_at_once_and_never_shown(
    stack: dict[str, str], name: str, door: Callable[..., Door]
) -> None:
    entrance = door(name)
    with opened(stack, name, entrance.host, password="not-the-password") as store:
        started = time.monotonic()
        with pytest.raises(StoreRefused, match=rf"{entrance.host}.*\. Check [A-Z_]+") as refused:
            use(store)
        assert time.monotonic() - started < 2
        assert "not-the-password" not in str(refused.value)
        tried = entrance.connections
        assert tried == 1
        status = store.status()
    assert (status.ok, status.latency_seconds) == (False, None)
    assert "not-the-password" not in status.problem + status.address


def failures(stack: dict[str, str], host: str) -> dict[str, StoreError]:
    """How each store fails at a host, all at once: each tries several times."""

    def fail(name: str) -> StoreError:
        with opened(stack, name, host) as store, pytest.raises(StoreError) as failed:
            use(store)
        return failed.value

    with ThreadPoolExecutor(len(SETTING)) as pool:
        return dict(zip(SETTING, pool.map(fail, SETTING), strict=True))


@pytest.mark.usefixtures("retries_at_once")
def test_a_dead_server_is_unavailable_and_says_what_to_do(stack: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    for name, error in failures(stack, host).items():
        assert isinstance(error, StoreUnavailable)
        assert re.fullmatch(rf"[\w ()]+ at \w+://{host}.*\. See what runs with: ninjait status\.", str(error)), str(
            error
        )
        assert (urlsplit(stack[SETTING[name]]).password or "no password") not in str(error)


@pytest.mark.usefixtures("retries_at_once")
def test_a_wrong_host_is_unavailable(stack: dict[str, str]) -> None:
    for error in failures(stack, "no-such-host.invalid:1").values():
        assert isinstance(error, StoreUnavailable)
        assert "no-such-host.invalid:1" in str(error)


@pytest.mark.usefixtures("retries_at_once")
def test_a_server_that_never_answers_is_given_up(stack: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        for error in failures(stack, host).values():
            assert isinstance(error, StoreUnavailable)
            assert host in str(error)


@pytest.mark.parametrize("name", SETTING)
def test_a_server_that_comes_back_is_not_noticed(stack: dict[str, str], name: str, door: Callable[..., Door]) -> None:
    entrance = door(name, refuse=2)
    with opened(stack, name, entrance.host, patient=True) as store:
        use(store)
    assert entrance.connections >= 3


@pytest.mark.parametrize("name", SETTING)
def test_a_store_may_be_closed_twice_and_used_again(stack: dict[str, str], name: str) -> None:
    with opened(stack, name) as store:
        store.close()
        use(store)
        status = store.status()
        assert (status.ok, status.problem, "@" in status.address) == (True, "", False)
        assert status.version
        assert status.latency_seconds is not None
        store.close()
        store.close()
        use(store)


@pytest.mark.parametrize("spoil", ["SET", "RPUSH"])
def test_a_key_that_holds_something_else_is_replaced(stores: Stores, spoil: str) -> None:
    """One foreign value kept 499 devices out of the cache, in every batch; later it failed every run of the caches."""
    spoiled = ("no document", "[1]", "7", '{"as_of": 9}', '{"as_of": {}, "week": 1}', "null", "[" * 2000)
    for number, value in enumerate(spoiled):
        stores.dragonfly.client.execute_command(spoil, str(number), value)
    documents = [(str(number), {"as_of": "1"}) for number in range(len(spoiled) + 2)]
    assert stores.dragonfly.set_many_if_newer(documents) == len(documents)
    assert set(stores.dragonfly.client.mget([key for key, _ in documents])) == {'{"as_of":"1"}'}


def test_a_wrong_query_is_not_tried_again(stores: Stores) -> None:
    started = time.monotonic()
    with pytest.raises(StoreFailed, match=r"ClickHouse at http://.*no_such_table"):
        stores.clickhouse.rows("SELECT * FROM no_such_table")
    with pytest.raises(StoreFailed, match=r"PostgreSQL at postgresql://.*no_such_table.*ninjait migrate up"):
        stores.postgres.rows("SELECT * FROM no_such_table")
    stores.mongodb.database.kept.insert_one({"_id": 1})
    with pytest.raises(StoreFailed, match=r"MongoDB at mongodb://"), stores.mongodb.errors():
        stores.mongodb.database.kept.insert_one({"_id": 1})
    stores.dragonfly.client.rpush("list", "1")
    with pytest.raises(StoreFailed, match=r"Dragonfly at redis://"), errors(stores.dragonfly.url):
        stores.dragonfly.client.get("list")
    assert time.monotonic() - started < 5


def test_only_what_may_pass_is_tried_again() -> None:
    def attempts(error: type[StoreError], max_seconds: float = 30) -> int:
        count = 0
        try:
            for attempt in retrying(attempts=3, first_wait=0.001, max_seconds=max_seconds):
                with attempt:
                    count += 1
                    time.sleep(0.01)
                    raise error("Store", "redis://:secret@host:1/0", "a problem", "Some advice.")
        except error:
            return count
        raise AssertionError("it did not fail")

    assert [attempts(error) for error in (StoreUnavailable, StoreRefused, StoreFailed)] == [3, 1, 1]
    assert attempts(StoreUnavailable, max_seconds=0.001) == 1


def test_an_error_names_store_address_problem_and_advice_but_no_password() -> None:
    error = StoreError(
        "PostgreSQL", "postgresql://me:secret@db.example:5432/ninjait", ValueError("  it is so \n"), "Do this."
    )
    assert str(error) == "PostgreSQL at postgresql://db.example:5432/ninjait: it is so. Do this."
    assert (
        str(StoreError("S3", "s3://bucket/prefix", TimeoutError(), "Wait."))
        == "S3 at s3://bucket/prefix: TimeoutError. Wait."
    )


@pytest.mark.usefixtures("retries_at_once")
@pytest.mark.parametrize(
    ("answer", "kind", "limit"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", StoreUnavailable, 9),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", StoreRefused, 1),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\ncode 60", StoreFailed, 1),
        (b"", StoreUnavailable, 9),
    ],
)
def test_a_server_that_is_no_clickhouse(
    stack: dict[str, str], answer: bytes, kind: type[StoreError], limit: int
) -> None:
    """A proxy's 401 and another server's 404 were tried again for seconds, and a page with the words "code 60" was
    taken for a missing table."""
    seen: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # closed
                while True:
                    client, _ = server.accept()
                    seen.append(len(client.recv(65536)))
                    client.sendall(answer)
                    client.close()

        threading.Thread(target=serve, daemon=True).start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        with opened(stack, "clickhouse", host=host) as clickhouse, pytest.raises(kind) as error:
            clickhouse.rows("SELECT 1")
    assert "migrate" not in str(error.value)
    assert 1 <= len(seen) <= limit


def test_postgres_rolls_back_what_fails_half_way(stack: dict[str, str]) -> None:
    with opened(stack, "postgres") as postgres:
        with postgres.transaction() as connection:
            connection.execute("CREATE TEMPORARY TABLE kept (n integer PRIMARY KEY)")

        def insert_twice() -> None:
            with postgres.transaction() as connection:
                connection.execute("INSERT INTO kept VALUES (1)")
                connection.execute("INSERT INTO kept VALUES (1)")

        with pytest.raises(StoreFailed, match="duplicate key"):
            insert_twice()
        assert postgres.rows("SELECT count(*) AS n FROM kept") == [{"n": 0}]


def test_postgres_opens_a_new_connection_after_a_broken_one(stack: dict[str, str]) -> None:
    with opened(stack, "postgres") as postgres, opened(stack, "postgres") as other:
        first = postgres.rows("SELECT pg_backend_pid() AS pid")[0]["pid"]
        other.rows("SELECT pg_terminate_backend(%(pid)s)", {"pid": first})
        assert postgres.rows("SELECT pg_backend_pid() AS pid")[0]["pid"] != first


def test_clickhouse_gives_uuids_as_text_and_exact_versions(stack: dict[str, str]) -> None:
    text = "0f0c7f52-6b0e-5a43-9d3c-6e0a3c1b7a11"
    with opened(stack, "clickhouse") as clickhouse:
        table = clickhouse.arrow("SELECT {id:UUID} AS id, NULL::Nullable(UUID) AS nothing", id=text)
        assert table.to_pylist() == [{"id": text, "nothing": None}]
        now = clickhouse.now()
        assert clickhouse.scalar("SELECT {now:DateTime64(6, 'UTC')}", now=now) == now


BYTES = pa.binary(16)
AS_BYTES = {
    "sixteen bytes": BYTES,
    "any bytes": pa.large_binary(),
    "a view of bytes": pa.binary_view(),
    "a UUID": pa.uuid(),
    "in a list": pa.list_(BYTES),
    "in a map": pa.map_(pa.string(), BYTES),
    "in a struct in a list": pa.list_(pa.struct([("id", pa.uuid())])),
    "in a dictionary": pa.dictionary(pa.int8(), pa.binary()),
}


@pytest.mark.parametrize("type_", AS_BYTES.values(), ids=AS_BYTES)
def test_ids_never_travel_as_bytes(type_: pa.DataType) -> None:
    """The ledger sent its ids as 16 bytes: ClickHouse before 26.1 refused every drain's rows, and 26.1 to 26.3 stored
    another id without an error."""
    with pytest.raises(ValueError, match="column message_id is"):
        check_no_bytes(pa.schema([("queue", pa.string()), ("message_id", type_)]))


def test_an_insert_of_bytes_is_refused_before_it_is_sent() -> None:
    clickhouse = ClickHouse(url="http://127.0.0.1:1", user="", password="", database="")
    with pytest.raises(ValueError, match="column message_id is"):
        clickhouse.insert("message_deliveries", pa.schema([("message_id", BYTES)]).empty_table())


FILL = """
import resource, signal, sys
from ninjait_pipelines.resources.archive.resource import Archive
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
Archive(url=sys.argv[1]).write("reports/week.json", bytes(100_000))
"""


def test_a_full_disk_leaves_the_archive_as_it_was(tmp_path: Path) -> None:
    """A limit of the process stands for the disk: the same failed write, without a disk to fill."""
    archive = Archive(url=tmp_path.as_uri())
    archive.write("reports/week.json", b"old")
    done = subprocess.run([sys.executable, "-c", FILL, archive.url], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(
        r"OutOfSpace: Archive at file:///.*: it is out of disk space: no room for 'reports/week.json'.*Make room", last
    )
    assert archive.read("reports/week.json") == b"old"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["week.json"]


def test_an_archive_without_its_folder_says_so(tmp_path: Path) -> None:
    with Archive(url=(tmp_path / "missing").as_uri()).open() as archive:
        status = archive.status()
        assert (status.ok, "Check ARCHIVE_URL" in status.problem) == (False, True)


def test_an_archive_in_a_folder_with_any_name(tmp_path: Path) -> None:
    """In a folder with a space the archive looked for one called "a%20folder"."""
    folder = tmp_path / "a folder's ü %41"
    folder.mkdir()
    with Archive(url=folder.as_uri()).open() as archive:
        archive.write("a/b", b"1")
        assert (archive.status().ok, archive.list_keys("a"), (folder / "a" / "b").read_bytes()) == (True, ["a/b"], b"1")


def test_an_archive_object_is_whole_or_not_there(tmp_path: Path) -> None:
    with Archive(url=tmp_path.as_uri()).open() as archive:
        assert archive.list_keys("a") == []
        archive.write("a/day=2026-01-01/b.parquet", b"1")
        archive.write("a/day=2026-01-01/b.parquet", b"22")
        (tmp_path / "a" / "killed.1.unfinished").write_bytes(b"half of")
        assert archive.list_keys("a") == ["a/day=2026-01-01/b.parquet"]
        assert archive.read("a/day=2026-01-01/b.parquet") == b"22"
        assert (archive.exists("a/day=2026-01-01/b.parquet"), archive.exists("a/none")) == (True, False)
        with pytest.raises(StoreFailed, match=r"no object 'a/none'"):
            archive.read("a/none")
        archive.delete("a/day=2026-01-01/b.parquet")
        archive.delete("a/day=2026-01-01/b.parquet")
        assert archive.list_keys("a") == []
        assert archive.status().size_bytes == len(b"half of")


def test_the_second_host_is_asked_where_the_first_is_away(stack: dict[str, str]) -> None:
    """A URL with several hosts was "not a URL"; a primary and its standbys are named so."""
    url = urlsplit(stack["DATABASE_URL"])
    user, _, host = url.netloc.rpartition("@")
    both = url._replace(netloc=f"{user}@127.0.0.1:1,{host}", query="target_session_attrs=read-write").geturl()
    settings = validate({**stack, "DATABASE_URL": both})
    with stores_from(settings.__getitem__, settings).postgres.open() as store:
        use(store)
        assert store.address.startswith(f"postgresql://127.0.0.1:1,{host}/")
