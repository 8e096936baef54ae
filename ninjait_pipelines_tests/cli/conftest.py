"""The commands' tests have the stores, the fleet and the command line of the ingest tests."""

from ninjait_pipelines_tests.ingest.conftest import fleet, module_stores, ninjait, settings, shared_stores

__all__ = ["fleet", "module_stores", "ninjait", "settings", "shared_stores"]
