"""`ninjait sql` as a person and a script meet it: outputs, refusals, exit codes."""

import json
from pathlib import Path

import pytest

from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.cli.forked import in_a_pipe


def test_sql_answers_as_table_json_and_csv(stack: dict[str, str]) -> None:
    sql = "SELECT 'a [red] ' || repeat('x', 200) AS long, nan AS n, 1.50::Decimal(5, 2) AS d, NULL AS nothing"
    table = in_a_pipe("sql", sql, env=stack)
    assert table.stdout.splitlines()[1].split() == ["a", "[red]", "x" * 200, "nan", "1.50"]  # nothing cut in a pipe
    rows = json.loads(in_a_pipe("sql", "--json", sql, env=stack).stdout, parse_constant=pytest.fail)  # NaN is no JSON
    assert rows == [{"long": "a [red] " + "x" * 200, "n": None, "d": "1.50", "nothing": None}]
    assert in_a_pipe("sql", "--csv", "SELECT 1 AS a", env=stack).stdout.split() == ["a", "1"]
    assert in_a_pipe("sql", "SHOW DATABASES", env=stack).returncode == 0


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
    done = in_a_pipe("sql", sql.format(folder=tmp_path), env=stack)
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (1, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_sql_writes_when_told(settings: Settings) -> None:
    assert in_a_pipe("sql", "--write", "CREATE TABLE x (n UInt8) ENGINE = Log", env=settings).returncode == 0
    assert in_a_pipe("sql", "--write", "INSERT INTO x VALUES (7)", env=settings).stdout == ""
    assert in_a_pipe("sql", "--csv", "SELECT n FROM x", env=settings).stdout.split() == ["n", "7"]


@pytest.mark.parametrize(
    ("statement", "says"), [("SELECT * FROM nowhere", "nowhere"), ("SELECT (", "yntax"), ("SELECT 1/'a'", "Code: ")]
)
def test_a_wrong_statement_is_one_clear_line(stack: dict[str, str], statement: str, says: str) -> None:
    result = in_a_pipe("sql", statement, env=stack)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
    assert result.stdout == ""


def test_two_formats_at_once_are_refused() -> None:
    done = in_a_pipe("sql", "SELECT 1", "--json", "--csv")
    assert (done.returncode, done.stderr) == (1, "ninjait: choose one of --json and --csv\n")


def test_a_statement_may_begin_with_a_comment_and_rows_are_counted(stack: dict[str, str]) -> None:
    """A comment looks like an option."""
    assert in_a_pipe("sql", "-- how many\nSELECT 1 AS n", env=stack).stdout == "n\n1\n1 row\n"
    assert in_a_pipe("sql", "SELECT 1 AS n WHERE 0", env=stack).stdout.endswith("\n0 rows\n")
