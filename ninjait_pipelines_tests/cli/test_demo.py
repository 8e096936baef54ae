"""`ninjait demo`: what becomes of it where it cannot begin; its whole way is in local/demo/test_run.py."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ninjait_pipelines.cli import app


def test_a_checkout_that_cannot_be_written_to_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a traceback; and nothing may be left of a stack that never was."""
    (tmp_path / "file").touch()
    monkeypatch.setattr("ninjait_pipelines.local.demo.stack.ROOT", tmp_path / "file")
    before = dict(os.environ)
    refused = CliRunner().invoke(app, ["demo"])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert str(tmp_path / "file" / ".ninjait") in refused.stderr
    assert os.environ == before
