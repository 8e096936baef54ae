"""The check of the archive on real stores: whatever damages a day is found and named, and a rerun heals it."""

import pytest

from ninjait_pipelines.archive.assets import DATASET, device_metrics_archive
from ninjait_pipelines.archive.checks import archived_day_is_whole
from ninjait_pipelines.archive.days import verify_day
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.archive.archived_day import (
    DAY,
    MANIFEST,
    D,
    archive_day,
    damage_day,
    manifest,
    rewrite_manifest,
)
from ninjait_pipelines_tests.cache.data import EMPTY, Fleet
from ninjait_pipelines_tests.rollup.data import check


@pytest.mark.parametrize(
    "how",
    [
        "vanished object",
        "vanished manifest",
        "truncated object",
        "empty object",
        "one bit",
        "another organization's object",
        "truncated manifest",
        "no text",
        "a manifest of another day",
        "a manifest with other rows",
        "a manifest that names other rows of an object",
    ],
)
def test_the_check_finds_damage_and_a_rerun_heals_it(shared_stores: Stores, fleet: Fleet, how: str) -> None:
    archive_day(shared_stores)
    error, key = damage_day(shared_stores, how)
    with pytest.raises(error, match=r"Rerun the day's partition") as caught:
        verify_day(shared_stores.archive, DATASET, D.date())
    assert str(caught.value).startswith(key)
    found = check(shared_stores, [device_metrics_archive], [archived_day_is_whole], DAY)["archived_day_is_whole"]
    assert not found.passed
    assert key in str(found.description)
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}


def test_rows_of_another_organization_in_an_object_are_found(shared_stores: Stores, fleet: Fleet) -> None:
    """Hash and number of rows are as written; who erases or counts an organization's rows would miss these."""
    archive_day(shared_stores)
    first, second = manifest(shared_stores)["objects"]
    rewrite_manifest(shared_stores, objects=[first, {**second, "organizations": {str(EMPTY): 2}}])
    found = check(shared_stores, [device_metrics_archive], [archived_day_is_whole], DAY)["archived_day_is_whole"]
    assert not found.passed
    assert f"{second['key']}: has other rows per organization" in str(found.description)


def test_a_day_that_was_never_archived_fails(shared_stores: Stores) -> None:
    found = check(shared_stores, [device_metrics_archive], [archived_day_is_whole], DAY)["archived_day_is_whole"]
    assert not found.passed
    assert f"{MANIFEST}: is not there" in str(found.description)
