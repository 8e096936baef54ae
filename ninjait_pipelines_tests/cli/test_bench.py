"""`ninjait bench`: its options reach the benchmark, and its exit code tells a script."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from ninjait_pipelines.cli import app, bench

OPTIONS = ("--rounds", "2", "--only", "json", "--only", "lines", "--quick", "--json", "-")


@pytest.fixture(autouse=True)
def _path_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the benchmark, which takes 20 minutes, was asked for; it fails where JSON is asked for."""
    asked: list[Any] = []

    def run(*options: Any) -> bool:
        asked.append(options)
        return options[4] is None

    monkeypatch.setitem(sys.modules, "benchmarks.ingest", SimpleNamespace(run=run))
    return asked


def test_options_reach_the_benchmark_and_a_failed_run_is_exit_code_1(measured: list[Any]) -> None:
    assert CliRunner().invoke(app, ["bench"]).exit_code == 0
    assert CliRunner().invoke(app, ["bench", *OPTIONS]).exit_code == 1
    assert CliRunner().invoke(app, ["bench", "--rounds", "0"]).exit_code == 2
    assert measured == [(5, (), False, False, None, False), (2, ["json", "lines"], True, False, "-", False)]


def test_a_package_without_the_checkout_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    refused = CliRunner().invoke(app, ["bench"])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert f"run it from a checkout; {tmp_path} has no folder benchmarks" in refused.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--only", "jsn"], "There is no row jsn; there are json, "), (["--write-docs", "--quick"], "takes the whole")],
)
def test_what_cannot_be_measured_is_refused_before_a_server_starts(options: list[str], says: str) -> None:
    refused = CliRunner().invoke(app, ["bench", *options])
    assert refused.exit_code != 0
    assert says in str(refused.exception) + refused.output
