"""How all stores fail: refused, unavailable, silent. And what is retried: what may pass, and nothing else."""

import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from ninjait_pipelines.resources import Stores, stores_from
from ninjait_pipelines.resources.store import StoreError, StoreFailed, StoreRefused, StoreUnavailable, retrying
from ninjait_pipelines.settings import validate
from ninjait_pipelines_tests.resources.store_helpers import SETTING, WITH_PASSWORD, Door, opened, use


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
        assert re.fullmatch(rf"[\w ()]+ at \w+://{host}.*\. Check what is running: ninjait status\.", str(error)), str(
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
    with pytest.raises(StoreFailed, match=r"Dragonfly at redis://"), stores.dragonfly.errors():
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


def test_the_second_host_is_asked_where_the_first_is_away(stack: dict[str, str]) -> None:
    """A URL with several hosts was "not a URL"; a primary and its standbys are named so."""
    url = urlsplit(stack["DATABASE_URL"])
    user, _, host = url.netloc.rpartition("@")
    both = url._replace(netloc=f"{user}@127.0.0.1:1,{host}", query="target_session_attrs=read-write").geturl()
    settings = validate({**stack, "DATABASE_URL": both})
    with stores_from(settings.__getitem__, settings).postgres.open() as store:
        use(store)
        assert store.address.startswith(f"postgresql://127.0.0.1:1,{host}/")
