"""The stack's life: up, healed, down, up again; who may read its secrets."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import psutil
import psycopg
import pymongo
import pytest
import redis

from ninjait_pipelines.local.stack.engines import StackError
from ninjait_pipelines.local.stack.local import LocalStack, find, gone
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import open_stores
from ninjait_pipelines.settings import read_env_file, validate
from ninjait_pipelines_tests.local.stack.conftest import connect

NAMES = {
    "QUARANTINE_SPOOL",
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
    found = {engine.name: find(engine) for engine in stack._engines(stack._recorded())}
    return {name: process and process.pid for name, process in found.items()}


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


def test_the_first_up_sets_the_start_and_no_later_one_moves_it(tmp_path: Path) -> None:
    stack, first = LocalStack(tmp_path / "home"), date(2026, 3, 1)
    try:
        settings = stack.up(start=first)
        assert settings["PIPELINE_START"] == "2026-03-01"
        assert read_env_file(stack.home / "settings.env") == settings == stack.up(start=first + timedelta(days=1))
    finally:
        stack.delete()
    assert not (stack.home / "pipeline-start").exists()


def test_a_stack_that_was_made_without_a_start_gets_none(shared_stack: LocalStack) -> None:
    """Its partitions begin on 2024-01-01, and what it has of them would be hidden."""
    assert "PIPELINE_START" not in shared_stack.up(start=date(2026, 3, 1))


def test_up_twice_leaves_everything_as_it_is(shared_stack: LocalStack) -> None:
    before, settings = pids(shared_stack), shared_stack.settings()
    assert shared_stack.up() == settings
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
    assert {path.name for path in own_stack.home.iterdir()} <= {"command.lock"}


def test_two_ups_at_once_start_one_stack(own_stack: LocalStack) -> None:
    code = "import sys; from pathlib import Path; from ninjait_pipelines.local.stack.local import LocalStack"
    script = f"{code}; print(LocalStack(Path(sys.argv[1])).up())"
    command = [sys.executable, "-c", script, str(own_stack.home)]
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(subprocess.run, command, capture_output=True, text=True) for _ in range(2)]
    results = [future.result() for future in both]
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    assert results[0].stdout == results[1].stdout
    assert own_stack.running() == ALL_UP


def test_an_up_that_was_killed_half_way_is_finished_by_the_next(own_stack: LocalStack) -> None:
    """`up` was killed between starting PostgreSQL and noting its pid: the next one met the folder's lock for ever."""
    script = "import sys; from pathlib import Path; from ninjait_pipelines.local.stack.local import LocalStack"
    script += "; LocalStack(Path(sys.argv[1])).up()"
    process = subprocess.Popen([sys.executable, "-c", script, str(own_stack.home)])
    while not any(pids(own_stack).values()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    own_stack.up()
    assert own_stack.running() == ALL_UP


def test_a_lost_or_damaged_state_is_said_in_one_line_and_can_be_deleted(own_stack: LocalStack) -> None:
    """A full disk had cut stack.json: `up`, `down` and even `down --delete` died with a traceback."""
    own_stack.up()
    state = own_stack.home / "stack.json"
    state.write_text('{"postgres": {"port": 1')
    with pytest.raises(StackError, match=r"stack\.json is damaged .*: restore it, or start afresh: ninjait down --del"):
        own_stack.up()
    state.unlink()
    with pytest.raises(StackError, match=r"the password of .*postgres is no longer known; restore stack\.json, or"):
        own_stack.up()
    state.write_text("[]")
    own_stack.delete()
    assert own_stack.up() == own_stack.settings()
    assert own_stack.running() == ALL_UP


def test_a_folder_with_any_name_holds_the_whole_stack(tmp_path: Path) -> None:
    """In a folder with a space, everything but the archive was found: its address was never decoded."""
    stack = LocalStack(tmp_path / "a folder's ü %41" / ("d" * 120))
    try:
        with open_stores(validate(stack.up())) as stores:
            assert [status.problem for status in check_all(stores.all())] == [""] * 7
            stores.archive.write("k", b"v")
        assert (stack.home / "archive" / "k").read_bytes() == b"v"
    finally:
        stack.delete()


def test_a_hung_engine_is_not_taken_for_a_running_one(own_stack: LocalStack) -> None:
    """A stopped process still accepts connections: `up` said that all was well, and `status` advised `up`."""
    own_stack.up()
    hung = psutil.Process(pids(own_stack)["mongodb"])
    hung.suspend()
    impatient = LocalStack(own_stack.home)
    impatient.start_seconds = 2
    with pytest.raises(StackError, match=r"mongodb does not answer .*If it hangs: ninjait down, then ninjait up"):
        impatient.up()
    hung.resume()
    own_stack.up()


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


def test_an_engine_that_cannot_start_is_one_clear_line(own_stack: LocalStack) -> None:
    own_stack.up()
    own_stack.down()
    (own_stack.home / "postgres" / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(StackError, match=r"^postgres stopped at once: .*contains errors.*postgres\.log\)$"):
        own_stack.up()
    assert own_stack.running() == ALL_UP | {"postgres": False}
