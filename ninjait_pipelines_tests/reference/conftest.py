"""Many small tests on one set of databases."""

import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.reference.rows import add_one_of_each
from ninjait_pipelines_tests.truncated_stores import module_stores, settings, shared_stores

__all__ = ["module_stores", "settings", "shared_stores"]


@pytest.fixture
def one_of_each(shared_stores: Stores) -> Stores:
    """The stores with a row of each reference table."""
    add_one_of_each(shared_stores)
    return shared_stores
