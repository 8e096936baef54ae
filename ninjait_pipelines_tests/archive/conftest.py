"""Many small tests on one set of databases, each with its archive in a folder and on S3."""

import dataclasses

import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines_tests.archive.archive_backends import archive, s3
from ninjait_pipelines_tests.archive.archived_day import fleet
from ninjait_pipelines_tests.truncated_stores import module_stores, settings
from ninjait_pipelines_tests.truncated_stores import shared_stores as truncated_stores

__all__ = ["archive", "fleet", "module_stores", "s3", "settings", "truncated_stores"]


@pytest.fixture
def shared_stores(truncated_stores: Stores, archive: Archive) -> Stores:
    """The module's stores, emptied, with that archive."""
    return dataclasses.replace(truncated_stores, archive=archive)
