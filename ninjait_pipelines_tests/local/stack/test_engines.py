"""Each engine's files, command line and life on disk, without a stack."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ninjait_pipelines.local.stack.engines import (
    ENGINES,
    MAJOR_VERSION,
    Dragonfly,
    Engine,
    Identity,
    MongoDB,
    Postgres,
    StackError,
    our_code,
    postgres_identity,
    wheel_folder,
    write_private,
)
from ninjait_pipelines.paths import ROOT

SECRET = "the-secret"


def test_the_folder_of_another_postgres_is_named_and_left(tmp_path: Path) -> None:
    """PostgreSQL 16 of the former wheel: the new server would only say that the files are incompatible, in its log."""
    folder = tmp_path / "postgres"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match=r"was made by PostgreSQL 16, and this is 18.*ninjait down --delete"):
        Postgres(folder, 5432, "secret").prepare()
    assert [path.name for path in folder.iterdir()] == ["PG_VERSION"]


def test_a_private_file_is_replaced_whole(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_root_without_user_namespaces_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ninjait_pipelines.local.stack.engines.postgres_identity", lambda: Identity(user="nobody"))
    (home := tmp_path / "home").mkdir()
    tmp_path.chmod(0o700)
    with pytest.raises(StackError, match=f"user nobody may not enter {tmp_path}; run ninjait as"):
        Postgres(home / "postgres", 5432, SECRET).prepare()


@pytest.mark.engines
@pytest.mark.parametrize("kind", ENGINES)
def test_a_command_line_shows_no_secret_and_is_the_engine_s_own(kind: type[Engine], tmp_path: Path) -> None:
    """`ps` shows it to everybody, and a forgotten process is recognised by it alone."""
    engine = kind(tmp_path / kind.name, 5432, SECRET)
    command = engine.command()
    if kind is Postgres:
        command = command[len(postgres_identity().prefix) :]
    assert SECRET not in " ".join(command)
    assert str(engine.folder) in " ".join(command)
    assert [other for other in ENGINES if other(tmp_path, 1, "").is_command(command)] == [kind]


@pytest.mark.parametrize("kind", ENGINES)
def test_an_engine_that_is_not_there_is_not_ready_and_that_takes_no_time(kind: type[Engine], tmp_path: Path) -> None:
    """Redis's client tried again by itself for 3.7 s: a Redis that had stopped at once was named so much later."""
    engine = kind(tmp_path / kind.name, 1, SECRET)

    def ready() -> bool:
        try:
            return engine.ready()
        except OSError:
            return False

    assert not ready()
    started = time.monotonic()
    assert not ready()
    assert time.monotonic() - started < 2


def test_the_password_is_in_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    engine = Dragonfly(tmp_path / "dragonfly", 6379, SECRET)
    for _ in range(2):
        engine.prepare()
        file = engine.folder / "redis.conf"
        assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(engine.folder.stat().st_mode)) == (0o600, 0o700)
        assert f"requirepass {SECRET}\n" in file.read_text()


def test_the_pid_file_of_a_killed_mongodb_is_removed(tmp_path: Path) -> None:
    """Any process that has the number by now would be taken for the server, which would not start."""
    (pid := tmp_path / "mongodb.pid").write_text(str(os.getpid()))
    MongoDB(tmp_path / "mongodb", 27017, "").prepare()
    assert not pid.exists()


class Interrupted(Postgres):
    """Its initdb fails half-way."""

    def _initdb(self, draft: Path, passwords: Path) -> None:
        (draft / "PG_VERSION").write_text("half")
        assert passwords.read_text() == f"{SECRET}\n"
        raise StackError("no space left")


@pytest.mark.engines
def test_a_folder_of_postgres_appears_whole_and_what_a_killed_one_left_goes(tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    with pytest.raises(StackError):
        Interrupted(home / "postgres", 5432, SECRET).prepare()
    left = [path.name for path in home.iterdir()]
    assert [name.startswith("postgres.new.") and not name.endswith(".password") for name in left] == [True]
    with suppress(StackError):  # as root without user namespaces
        Postgres(home / "postgres", 5432, SECRET).prepare()
        assert [path.name for path in home.iterdir()] == ["postgres"]
        assert (home / "postgres" / "PG_VERSION").read_text().strip() == MAJOR_VERSION


@pytest.mark.engines
def test_a_dead_lock_goes_and_a_living_one_stays(tmp_path: Path) -> None:
    """After a reboot the number in the lock is anybody's, and PostgreSQL would not start."""
    engine = Postgres(tmp_path / "postgres", 5432, SECRET)
    engine.orphan_seconds = 0.2
    engine.folder.mkdir()
    (engine.folder / "PG_VERSION").write_text(f"{MAJOR_VERSION}\n")
    (lock := engine.folder / "postmaster.pid").write_text("1")
    server = subprocess.Popen(["sleep", "60"], cwd=engine.folder)
    try:
        engine.prepare()
        assert lock.exists()
    finally:
        server.kill()
        server.wait()
    engine.prepare()
    assert not lock.exists()


def test_a_wheel_that_is_missing_is_named_with_the_extra_that_has_it() -> None:
    with pytest.raises(StackError, match="the package no_such_wheel is missing: it comes with the extra `local`"):
        wheel_folder("no_such_wheel")


def test_our_modules_are_found_first_and_the_shell_s_path_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    assert our_code() == {"PYTHONPATH": f"{ROOT}{os.pathsep}/theirs"}
    monkeypatch.delenv("PYTHONPATH")
    assert our_code() == {"PYTHONPATH": str(ROOT)}
