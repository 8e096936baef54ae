"""What `make servers` says and does about the older engines of ClickHouse; fetching them is what CI does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ninjait_pipelines.paths import ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of the repository as far as the script needs it."""
    shutil.copytree(ROOT / "servers", tmp_path / "servers", ignore=shutil.ignore_patterns("go.*", "__pycache__"))
    return tmp_path


def install(clone: Path) -> subprocess.CompletedProcess[str]:
    """As a machine that reaches no index."""
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    environment = {"PATH": os.environ["PATH"], "HOME": str(clone), **nowhere}
    command = [sys.executable, str(clone / "servers" / "engines.py")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")


def test_what_is_there_is_left_alone_and_other_requirements_are_installed(clone: Path) -> None:
    """Without an index it says so, and leaves neither half a folder nor the old one damaged."""
    requirements = sorted((clone / "servers").glob("clickhouse-*.txt"))
    assert [path.stem for path in requirements] == ["clickhouse-25.8", "clickhouse-26.3"]
    for path in requirements:
        (clone / ".servers" / path.stem).mkdir(parents=True)
        shutil.copy(path, clone / ".servers" / path.stem)
    done = install(clone)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    requirements[0].write_text(requirements[0].read_text().replace("4.0.2", "4.0.3"))
    done = install(clone)
    assert done.returncode == 1
    assert "clickhouse-25.8 could not be installed. Is there a network, and does pip reach its index?" in done.stderr
    left = sorted(path.name for path in (clone / ".servers").iterdir())
    assert left == ["clickhouse-25.8", "clickhouse-26.3"]


def test_every_wheel_is_pinned_by_its_hash_for_other_processors_too() -> None:
    for path in (ROOT / "servers").glob("clickhouse-*.txt"):
        text = path.read_text()
        assert text.count("==") == 1
        assert text.count("--hash=sha256:") == 4, "Linux and macOS, x86-64 and arm64"
