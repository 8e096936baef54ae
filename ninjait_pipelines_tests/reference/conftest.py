"""Many small tests on one set of databases."""

from ninjait_pipelines_tests.reference.rows import one_of_each
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, stores

__all__ = ["module_stores", "one_of_each", "settings", "stores"]
