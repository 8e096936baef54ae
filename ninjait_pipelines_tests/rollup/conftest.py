"""Many small tests on one set of databases."""

from ninjait_pipelines_tests.rollup.ticks import instance
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["instance", "module_stores", "settings", "shared_stores"]
