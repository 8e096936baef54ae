"""Many small tests on one set of databases."""

from ninjait_pipelines_tests.cache.caches import fleet
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["fleet", "module_stores", "settings", "shared_stores"]
