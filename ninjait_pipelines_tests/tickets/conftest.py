"""Many small tests on one set of databases."""

from ninjait_pipelines_tests.tickets.desk import desk
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["desk", "module_stores", "settings", "shared_stores"]
