"""Many small tests on one set of databases, each with its archive in a folder and on S3."""

import dataclasses

import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines_tests.archive.places import archive, s3
from ninjait_pipelines_tests.emptied import module_stores, settings
from ninjait_pipelines_tests.emptied import stores as emptied_stores

__all__ = ["archive", "emptied_stores", "module_stores", "s3", "settings"]


@pytest.fixture
def stores(emptied_stores: Stores, archive: Archive) -> Stores:
    """The module's stores, emptied, with that archive."""
    return dataclasses.replace(emptied_stores, archive=archive)
