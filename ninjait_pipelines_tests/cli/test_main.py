"""`ninjait up`, `env`, `sql` and `status` as a person and a script meet them: outputs, refusals, exit codes."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import ninjait_pipelines.cli
import ninjait_pipelines.resources
from ninjait_pipelines.settings import Settings

# Commands are forked from a process that has imported them: at each start that takes ten times what they do themselves.
_context = multiprocessing.get_context("forkserver")


def ninjait(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a command writes into two pipes, and its exit code."""
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        process = _begun(arguments, env or {}, out.name, err.name)
        process.join(120)
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read(), err.read())


def _begun(arguments: tuple[str, ...], env: dict[str, str], *streams: str) -> Any:
    _context.set_forkserver_preload([__name__])
    process = _context.Process(target=_ninjait, args=(arguments, {"PATH": "/usr/bin:/bin", **env}, streams))
    process.start()
    return process


def _ninjait(arguments: tuple[str, ...], env: dict[str, str], streams: tuple[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_RDWR | os.O_NOCTTY), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", encoding="utf-8"), os.fdopen(2, "w", encoding="utf-8")
    sys.argv = ["ninjait", *arguments]
    ninjait_pipelines.cli.main()


def test_the_module_is_the_command(stack: dict[str, str]) -> None:
    """As a person starts it; the tests below start it without the imports."""
    command = [sys.executable, "-m", "ninjait_pipelines.cli", "sql", "--csv"]
    environment = {"PATH": "/usr/bin:/bin", **stack}
    for sql, expected in (("SELECT 1 AS a", (0, ["a", "1"], 0)), ("nonsense", (1, [], 1))):
        done = subprocess.run([*command, sql], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout.split(), len(done.stderr.splitlines())) == expected


@pytest.mark.parametrize(
    ("module", "not_yet"),
    [
        ("cli", "dagster pyarrow numpy psycopg pydantic_settings pymongo"),
        ("resources", "boto3 pika influxdb_client pandas"),
    ],
)
def test_a_command_imports_only_what_it_uses(module: str, not_yet: str) -> None:
    """Every command that opened stores paid half a second of the processor for clients that it never used."""
    code = f"import sys, ninjait_pipelines.{module}; print(*sys.modules.keys() & set({not_yet.split()}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_sql_answers_as_table_json_and_csv(stack: dict[str, str]) -> None:
    sql = "SELECT 'a [red] ' || repeat('x', 200) AS long, nan AS n, 1.50::Decimal(5, 2) AS d, NULL AS nothing"
    table = ninjait("sql", sql, env=stack)
    assert table.stdout.splitlines()[1].split() == ["a", "[red]", "x" * 200, "nan", "1.50"]  # nothing cut in a pipe
    rows = json.loads(ninjait("sql", "--json", sql, env=stack).stdout, parse_constant=pytest.fail)  # NaN is no JSON
    assert rows == [{"long": "a [red] " + "x" * 200, "n": None, "d": "1.50", "nothing": None}]
    assert ninjait("sql", "--csv", "SELECT 1 AS a", env=stack).stdout.split() == ["a", "1"]
    assert ninjait("sql", "SHOW DATABASES", env=stack).returncode == 0


def on_a_terminal(*arguments: str, env: dict[str, str]) -> str:
    """What a command writes to a terminal, both streams, with line ends as in a pipe."""
    ours, theirs = os.openpty()
    terminal = os.ttyname(theirs)
    process = _begun(arguments, {"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "300", **env}, terminal, terminal)
    written = bytearray()

    def read() -> None:
        with suppress(OSError):  # Linux's word for the end of a terminal
            while chunk := os.read(ours, 65_536):
                written.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    process.join(120)
    os.close(theirs)
    reader.join()
    os.close(ours)
    return re.sub("\r+\n", "\n", written.decode())  # CSV's lines have a return of their own


# A title, a cleared screen, C1's CSI, text that runs backwards, a line of its own, an answer typed for the person.
HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\rc\x08\x7f"


@pytest.mark.parametrize("form", ["--table", "--json", "--csv"])
def test_nothing_from_outside_reaches_a_terminal_as_a_command_to_it(stack: dict[str, str], form: str) -> None:
    """`ninjait sql` printed escapes raw, also as CSV."""
    as_hex = HOSTILE.encode().hex()
    sql = f"SELECT unhex('{as_hex}') AS a, [unhex('{as_hex}')] AS b, 'é日' AS \"c\x1b[31m\""
    options = [] if form == "--table" else [form]
    shown = on_a_terminal("sql", *options, sql, env=stack)
    assert [one for one in shown if not one.isprintable() and one != "\n"] == []
    assert "é日" in shown
    if form == "--json":
        assert json.loads(shown)[0]["a"] == HOSTILE
    piped = ninjait("sql", *options, sql, env=stack).stdout
    assert ("\x1b]0;title" in piped) == (form == "--csv"), "a file has what there is"


def test_no_words_of_a_server_or_of_an_argument_reach_a_terminal_as_a_command(stack: dict[str, str]) -> None:
    for arguments in (
        ("sql", "SELECT throwIf(1, 'x\x1b[2J')"),
        ("quarantine", "show", "x\x1b[2J"),
        ("quarantine", "replay", "--set", "x\x1b[2J"),
        ("publish", "x\x1b[2J", "/dev/null"),
    ):
        shown = on_a_terminal(*arguments, env=stack)
        assert [one for one in shown if not one.isprintable() and one != "\n"] == [], arguments
        assert "[2J" in shown


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
