"""The stack's life: up, healed, down, up again; who may read its secrets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import psycopg
import pymongo
import pytest
import redis

from ninjait_pipelines.stack.engines import Identity, StackError, write_private
from ninjait_pipelines.stack.local import LocalStack, Recorded, gone
from ninjait_pipelines_tests.stack.conftest import connect

NAMES = {
    "DRAGONFLY_URL",
    "CLICKHOUSE_URL",
    "CLICKHOUSE_USER",
    "CLICKHOUSE_PASSWORD",
    "CLICKHOUSE_DATABASE",
    "DATABASE_URL",
    "DAGSTER_DATABASE_URL",
    "MONGODB_URL",
    "ARCHIVE_URL",
}
ALL_UP = {"postgres": True, "clickhouse": True, "dragonfly": True, "mongodb": True}


def pids(stack: LocalStack) -> dict[str, int | None]:
    return {name: recorded.pid for name, recorded in stack._recorded().items()}


def kill(pid: int | None) -> None:
    assert pid is not None
    process = psutil.Process(pid)
    process.kill()
    assert gone(process, 5)


def write_everywhere(settings: dict[str, str]) -> None:
    with psycopg.connect(settings["DATABASE_URL"]) as postgres:
        postgres.execute("CREATE TABLE kept (n int)")
        postgres.execute("INSERT INTO kept VALUES (7)")
    with redis.Redis.from_url(settings["DRAGONFLY_URL"]) as dragonfly:
        dragonfly.set("kept", 7)
    with connect(settings) as clickhouse:
        clickhouse.command("CREATE TABLE kept (n UInt8) ENGINE = MergeTree ORDER BY n")
        clickhouse.insert("kept", [[7]])
    with pymongo.MongoClient(settings["MONGODB_URL"]) as mongodb:
        mongodb.get_default_database().kept.insert_one({"_id": 7})


def read_everywhere(settings: dict[str, str]) -> list[object]:
    with (
        psycopg.connect(settings["DATABASE_URL"]) as postgres,
        redis.Redis.from_url(settings["DRAGONFLY_URL"]) as dragonfly,
        connect(settings) as clickhouse,
        pymongo.MongoClient(settings["MONGODB_URL"]) as mongodb,
    ):
        row = postgres.execute("SELECT n FROM kept").fetchone()
        kept = mongodb.get_default_database().kept.find_one()
        return [row and row[0], int(dragonfly.get("kept") or 0), clickhouse.command("SELECT n FROM kept"), kept["_id"]]


def test_up_twice_leaves_everything_as_it_is(shared_stack: LocalStack) -> None:
    before, settings = pids(shared_stack), shared_stack.settings()
    began = time.monotonic()
    assert shared_stack.up() == settings
    assert time.monotonic() - began < 1
    assert pids(shared_stack) == before
    assert set(settings or {}) == NAMES
    assert shared_stack.running() == ALL_UP


def test_both_postgres_databases_exist(shared_stack: LocalStack) -> None:
    settings = shared_stack.up()
    for name in ("DATABASE_URL", "DAGSTER_DATABASE_URL"):
        with psycopg.connect(settings[name].replace("+psycopg2", "")) as connection:
            assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_killed_engines_lose_nothing_and_only_they_are_started_again(own_stack: LocalStack) -> None:
    settings = own_stack.up()
    write_everywhere(settings)
    for victim in ("clickhouse", "postgres", "dragonfly", "mongodb"):
        before = pids(own_stack)
        kill(before[victim])
        assert own_stack.running() == ALL_UP | {victim: False}
        assert own_stack.up() == settings
        changed = {name for name, pid in pids(own_stack).items() if pid != before[name]}
        assert changed == {victim}
    assert read_everywhere(settings) == [7, 7, 7, 7]


def test_down_and_up_keeps_data_ports_and_passwords(own_stack: LocalStack) -> None:
    settings = own_stack.up()
    write_everywhere(settings)
    own_stack.down()
    assert not any(own_stack.running().values())
    own_stack.down()
    assert own_stack.up() == settings
    assert read_everywhere(settings) == [7, 7, 7, 7]


def test_delete_leaves_nothing_behind(own_stack: LocalStack) -> None:
    own_stack.up()
    own_stack.delete()
    assert own_stack.settings() is None
    assert {path.name for path in own_stack.home.iterdir()} <= {"command.lock", "stack.lock"}


def test_two_ups_at_once_start_one_stack(own_stack: LocalStack) -> None:
    code = "import sys; from pathlib import Path; from ninjait_pipelines.stack.local import LocalStack"
    script = f"{code}; print(LocalStack(Path(sys.argv[1])).up())"
    command = [sys.executable, "-c", script, str(own_stack.home)]
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(subprocess.run, command, capture_output=True, text=True) for _ in range(2)]
    results = [future.result() for future in both]
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    assert results[0].stdout == results[1].stdout
    assert own_stack.running() == ALL_UP


def test_an_engine_that_was_started_but_never_recorded_is_replaced(own_stack: LocalStack) -> None:
    """`up` was killed between starting PostgreSQL and writing its pid: the next one met the folder's lock for ever."""
    settings = own_stack.up()
    forgotten = pids(own_stack)["postgres"]
    own_stack._record("postgres", pid=None, started=None)
    assert own_stack.up()["DATABASE_URL"].split("@")[0] == settings["DATABASE_URL"].split("@")[0]
    assert own_stack.running() == ALL_UP
    assert pids(own_stack)["postgres"] != forgotten


def test_a_recycled_pid_is_nobody() -> None:
    me = psutil.Process()
    assert Recorded(1, "", me.pid, me.create_time()).process() == me
    assert Recorded(1, "", me.pid, me.create_time() - 5).process() is None


def test_only_the_owner_reads_secrets_and_ps_shows_none(shared_stack: LocalStack) -> None:
    settings = shared_stack.up()
    assert stat.S_IMODE(shared_stack.home.stat().st_mode) == 0o700
    for name in ("settings.env", "stack.json", "dragonfly/redis.conf"):
        assert stat.S_IMODE((shared_stack.home / name).stat().st_mode) == 0o600, name
    secrets = {recorded.password for recorded in shared_stack._recorded().values()}
    assert settings["CLICKHOUSE_PASSWORD"] in secrets
    for process in psutil.process_iter(["cmdline"]):
        assert not any(secret in word for word in process.info["cmdline"] or [] for secret in secrets)
    logs = "".join(path.read_text() for path in (shared_stack.home / "logs").iterdir())
    assert not any(secret in logs for secret in secrets)


def test_wrong_passwords_are_refused(shared_stack: LocalStack) -> None:
    settings = shared_stack.up()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(settings["DATABASE_URL"].replace("ninjait:", "ninjait:x"))
    with pytest.raises(redis.AuthenticationError):
        redis.Redis.from_url(settings["DRAGONFLY_URL"].replace("redis://:", "redis://:x")).ping()


def test_a_private_file_is_replaced_whole(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_an_engine_that_cannot_start_is_one_clear_line(own_stack: LocalStack) -> None:
    own_stack.up()
    own_stack.down()
    (own_stack.home / "postgres" / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(StackError, match=r"^postgres stopped at once: .*contains errors.*postgres\.log\)$"):
        own_stack.up()
    assert own_stack.running() == ALL_UP | {"postgres": False}


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to become somebody else for PostgreSQL")
def test_root_without_user_namespaces_is_told_what_to_do(
    own_stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ninjait_pipelines.stack.engines.postgres_identity", lambda: Identity(user="nobody"))
    own_stack.home.parent.chmod(0o700)
    with pytest.raises(StackError, match=f"user nobody may not enter {own_stack.home.parent}; run ninjait as"):
        own_stack.up()
