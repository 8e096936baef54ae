"""Many small tests on one set of databases."""

import pytest

from ninjait_pipelines.rollup import checks
from ninjait_pipelines_tests.rollup.ticks import instance
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["instance", "module_stores", "settings", "shared_stores"]


@pytest.fixture
def no_drain_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks of hours do not wait for one."""
    monkeypatch.setattr(checks, "TOUCHED_AFTER_SECONDS", 0.0)
