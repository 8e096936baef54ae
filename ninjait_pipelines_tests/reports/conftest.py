"""Many small tests on one set of databases."""

from ninjait_pipelines_tests.reports.weeks import marts
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["marts", "module_stores", "settings", "shared_stores"]
