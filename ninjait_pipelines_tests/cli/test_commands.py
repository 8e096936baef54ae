"""`ninjait up`, `env`, `sql` and `status` as a person and a script meet them: outputs, refusals, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ninjait_pipelines.settings import Settings


def ninjait(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ninjait_pipelines.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", **(env or {})})


def test_sql_answers_as_table_json_and_csv(stack: dict[str, str]) -> None:
    sql = "SELECT 'a [red] ' || repeat('x', 200) AS long, nan AS n, 1.50::Decimal(5, 2) AS d, NULL AS nothing"
    table = ninjait("sql", sql, env=stack)
    assert table.stdout.splitlines()[1].split() == ["a", "[red]", "x" * 200, "nan", "1.50"]  # nothing cut in a pipe
    rows = json.loads(ninjait("sql", "--json", sql, env=stack).stdout, parse_constant=pytest.fail)  # NaN is no JSON
    assert rows == [{"long": "a [red] " + "x" * 200, "n": None, "d": "1.50", "nothing": None}]
    assert ninjait("sql", "--csv", "SELECT 1 AS a", env=stack).stdout.split() == ["a", "1"]
    assert ninjait("sql", "SHOW DATABASES", env=stack).returncode == 0


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO FUNCTION file('{folder}/written.csv', 'CSV', 'a UInt8') SELECT 1",
        "KILL QUERY WHERE 1",
        "CREATE TABLE x (n UInt8) ENGINE = Memory",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1 INTO OUTFILE '{folder}/written'",
        "",
    ],
)
def test_sql_only_reads(stack: dict[str, str], tmp_path: Path, sql: str) -> None:
    """The engine's readonly mode let a file be written, and other people's queries be killed."""
    done = ninjait("sql", sql.format(folder=tmp_path), env=stack)
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (1, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_sql_writes_when_told(settings: Settings) -> None:
    assert ninjait("sql", "--write", "CREATE TABLE x (n UInt8) ENGINE = Log", env=settings).returncode == 0
    assert ninjait("sql", "--write", "INSERT INTO x VALUES (7)", env=settings).stdout == ""
    assert ninjait("sql", "--csv", "SELECT n FROM x", env=settings).stdout.split() == ["n", "7"]


def test_status_names_what_is_down_and_what_brings_it_up(settings: Settings) -> None:
    up = ninjait("status", "--json", env=settings)
    assert (up.returncode, {store["ok"] for store in json.loads(up.stdout)}) == (0, {True})
    assert all(store["version"] for store in json.loads(up.stdout))
    down = ninjait("status", "--seconds", "4", env={**settings, "CLICKHOUSE_URL": "http://127.0.0.1:1"})
    assert down.returncode == 1
    assert "down: Metrics store (ClickHouse), ClickHouse. The local stack comes up with: ninjait up" in down.stderr
    assert settings["CLICKHOUSE_PASSWORD"] not in down.stdout + down.stderr
    assert "Unexpected Http Driver Exception" not in down.stderr  # the client's own, placeless words


def test_up_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        done = ninjait("up", "--home", str(home))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_what_was_never_up_says_so(tmp_path: Path) -> None:
    done = ninjait("env", "--home", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "ninjait: the local stack was never up; run `ninjait up` first\n")
    assert ninjait("down", "--home", str(tmp_path / "never")).returncode == 0
