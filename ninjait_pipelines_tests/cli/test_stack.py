"""`ninjait up`, `down` and `env` without engines: where none can be, where none was, and what they print and ask."""

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ninjait_pipelines.cli import app
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines_tests.cli.forked import in_a_pipe


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a stack that is down, with a folder and a password that a shell would take apart."""
    home = tmp_path / "a folder's $HOME"
    (home / "archive").mkdir(parents=True)
    (home / "archive" / "kept").touch()
    (home / "stack.json").write_text(json.dumps({"clickhouse": {"port": 1, "password": "it's `$(date)` \\"}}))
    return home


def test_up_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        done = in_a_pipe("up", "--home", str(home))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_what_was_never_up_says_so(tmp_path: Path) -> None:
    done = in_a_pipe("env", "--home", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "ninjait: the local stack was never up; run `ninjait up` first\n")
    assert in_a_pipe("down", "--home", str(tmp_path / "never")).returncode == 0


def test_a_shell_reads_the_settings_as_they_are(home: Path) -> None:
    printed = in_a_pipe("env", "--home", str(home)).stdout
    shown = 'printf "%s\\n" "$CLICKHOUSE_PASSWORD" "$ARCHIVE_URL" "$DAGSTER_HOME"'
    shell = subprocess.run(["sh", "-c", f"{printed}\n{shown}"], capture_output=True, text=True, check=True)
    archive = home.resolve() / "archive"
    assert shell.stdout.splitlines() == ["it's `$(date)` \\", archive.as_uri(), str(ROOT)]
    settings = json.loads(in_a_pipe("env", "--home", str(home), "--json").stdout)
    assert [settings[name] for name in ("CLICKHOUSE_PASSWORD", "ARCHIVE_URL", "DAGSTER_HOME")] == (
        shell.stdout.splitlines()
    )


def test_a_damaged_state_is_one_line(home: Path) -> None:
    (home / "stack.json").write_text("{")
    done = in_a_pipe("env", "--home", str(home))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert "stack.json is damaged" in done.stderr


def test_a_stack_is_deleted_only_after_a_yes(home: Path) -> None:
    def down(*options: str, typed: str = "") -> tuple[int, bool]:
        done = CliRunner().invoke(app, ["down", "--home", str(home), *options], input=typed)
        return done.exit_code, (home / "archive" / "kept").exists()

    assert down() == (0, True)
    assert down("--delete", typed="n\n") == (1, True)
    assert down("--delete") == (1, True), "a script that has nothing to type"
    assert down("--delete", typed="y\n") == (0, False)
    assert down("--delete", "--yes") == (0, False)
    assert not (home / "stack.json").exists()
