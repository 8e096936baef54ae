"""The audit of dependencies says what it found, and never looks green where it could not look."""

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest

from ninjait_pipelines.settings import ROOT


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOUND = {"name": "msgspec", "version": "0.22", "vulns": []}
WEAK = {"name": "jinja2", "version": "3.1.2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.3"]}]}
SKIPPED = {"name": "pika", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ([SOUND], 0, "1 packages, 0 known vulnerabilities"),
        ([SOUND, WEAK], 1, "jinja2 3.1.2: PYSEC-1, mended in 3.1.3"),
        ([SOUND, SKIPPED], 0, "1 not known to the database"),
        ([SKIPPED], 0, "NOT DONE"),
        (None, 0, "NOT DONE.*a reason"),
    ],
)
def test_what_is_said(
    audit: ModuleType,
    found: list[dict[str, Any]] | None,
    status: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pip-audit itself says "no known vulnerabilities" where its database knows none of the packages."""
    report = None if found is None else {"dependencies": found}
    monkeypatch.setattr(audit, "asked", lambda database: (report, "" if report else "a reason"))
    assert audit.main() == status
    assert re.search(words, capsys.readouterr().out)
