"""The daily archive on real stores: twice, late, killed half-way, damaged, overtaken, and on a full disk."""

import hashlib
import io
import random
import re
from collections import Counter
from uuid import UUID

import dagster as dg
import pyarrow.parquet as pq
import pytest

from ninjait_pipelines.archive.assets import DATASET, device_metrics_archive
from ninjait_pipelines.archive.checks import archived_day_is_whole
from ninjait_pipelines.archive.days import verify_day
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines_tests.archive.archived_day import (
    DAY,
    FOLDER,
    MANIFEST,
    D,
    archive_day,
    archived_rows,
    files,
    keys,
    late_row,
    manifest,
    rewrite_manifest,
    roll_up_again,
)
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, HOUR, Fleet
from ninjait_pipelines_tests.runs import killed, passed, run


def test_the_objects_have_the_rows_and_the_manifest_describes_them(shared_stores: Stores, fleet: Fleet) -> None:
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    found = manifest(shared_stores)
    assert (found["dataset"], found["day"], found["rows"], found["completeness"]) == (DATASET, DAY, 4, 3 / 24)
    assert ["cpu_avg", "double"] in found["columns"]
    assert ["hour", "timestamp[ms, tz=UTC]"] in found["columns"], "ClickHouse gives Arrow a DateTime as a bare number"
    assert [one["organizations"] for one in found["objects"]] == [{str(ALPHA): 2}, {str(BETA): 2}]
    for one in found["objects"]:
        data = shared_stores.archive.read(one["key"])
        assert (one["bytes"], one["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert one["key"] == f"{FOLDER}/{one['sha256'][:16]}.parquet"
        own = Counter(pq.read_table(io.BytesIO(data))["organization_id"].to_pylist())
        assert (own, own.total()) == (one["organizations"], one["rows"])
    window = {"start": D, "stop": D + 24 * HOUR}
    assert archived_rows(shared_stores) == shared_stores.clickhouse.arrow(sql("rollup/day"), **window).to_pylist()


def test_the_same_data_again_is_the_same_objects(shared_stores: Stores, fleet: Fleet) -> None:
    """Rolled up again, the rows have another as_of: it is not in the objects, so that nothing changes."""
    archive_day(shared_stores)
    before, first = manifest(shared_stores), files(shared_stores)
    roll_up_again(fleet)
    archive_day(shared_stores)
    after, again = manifest(shared_stores), files(shared_stores)
    assert before.pop("as_of") < after.pop("as_of")
    assert before == after
    del first[MANIFEST], again[MANIFEST]
    assert first == again


def test_organizations_of_any_id_lie_in_order(shared_stores: Stores, fleet: Fleet) -> None:
    """Objects are cut from rows in the order of ids as text. ClickHouse orders UUIDs by their second half."""
    chance = random.Random(1)
    for number in range(20):
        fleet.hourly(UUID(int=chance.getrandbits(128)), UUID(int=number), [D, D + HOUR])
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    objects = [one["organizations"] for one in manifest(shared_stores)["objects"]]
    assert objects == [{name: 2} for name in sorted(keys(shared_stores))]
    assert len(objects) == 22
    assert [row["organization_id"] for row in archived_rows(shared_stores)] == [
        name for one in objects for name in one for _ in range(2)
    ]


def test_late_data_is_a_new_object_and_the_old_one_goes(shared_stores: Stores, fleet: Fleet) -> None:
    archive_day(shared_stores)
    old = keys(shared_stores)
    late_row(fleet)
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    new = keys(shared_stores)
    assert new[str(ALPHA)] != old[str(ALPHA)]
    assert new[str(BETA)] == old[str(BETA)]
    assert shared_stores.archive.list_keys(FOLDER) == sorted([MANIFEST, *new.values()])


def test_a_day_without_rows_is_archived_as_empty_and_a_range_is_its_days(shared_stores: Stores, fleet: Fleet) -> None:
    empty = f"{D - 48 * HOUR:%Y-%m-%d}"
    result = run(shared_stores, device_metrics_archive, archived_day_is_whole, span=(empty, DAY))
    assert passed(result) == {"archived_day_is_whole": True}
    [nothing, some, all_] = result.asset_materializations_for_node("device_metrics_archive")
    assert [one.metadata["dagster/partition_row_count"].value for one in (nothing, some, all_)] == [0, 1, 4]
    of_nothing = verify_day(shared_stores.archive, DATASET, (D - 48 * HOUR).date())
    assert (of_nothing.rows, of_nothing.objects, of_nothing.completeness) == (0, [], 0.0)
    assert of_nothing.columns == verify_day(shared_stores.archive, DATASET, D.date()).columns


def test_a_day_that_lost_its_rows_becomes_empty(shared_stores: Stores, fleet: Fleet) -> None:
    archive_day(shared_stores)
    shared_stores.clickhouse.command("TRUNCATE TABLE device_metrics_hourly_versions")
    archive_day(shared_stores)
    assert shared_stores.archive.list_keys(FOLDER) == [MANIFEST]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_killed_at_any_write_of_a_first_archive_and_again(
    shared_stores: Stores, fleet: Fleet, call: int, after: bool
) -> None:
    """Two objects, then the manifest: before that is there, nothing counts."""
    with killed(Archive, "write", call, after):
        archive_day(shared_stores, fails=True)
    assert shared_stores.archive.exists(MANIFEST) == (call == 3 and after)
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    assert shared_stores.archive.list_keys(FOLDER) == sorted(
        [MANIFEST, *(one["key"] for one in manifest(shared_stores)["objects"])]
    )
    assert len(archived_rows(shared_stores)) == 4


@pytest.mark.parametrize(
    ("method", "call", "after", "switched"),
    [
        ("write", 1, False, False),  # the new object
        ("write", 1, True, False),
        ("write", 2, False, False),  # the manifest
        ("write", 2, True, True),
        ("delete", 1, False, True),  # the old object
        ("delete", 1, True, True),
    ],
)
def test_killed_in_a_rewrite_a_whole_day_stays_readable(
    shared_stores: Stores, fleet: Fleet, method: str, call: int, after: bool, switched: bool
) -> None:
    archive_day(shared_stores)
    before = files(shared_stores)
    late_row(fleet)
    with killed(Archive, method, call, after):
        archive_day(shared_stores, fails=True)
    assert verify_day(shared_stores.archive, DATASET, D.date()).rows == 4
    if not switched:
        assert before.items() <= files(shared_stores).items()
    assert ({row["sample_count"] for row in archived_rows(shared_stores)} == {121, 60, 120}) is switched
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    assert sorted(row["sample_count"] for row in archived_rows(shared_stores)) == [60, 120, 120, 121]


def test_a_manifest_from_the_future_is_an_error(shared_stores: Stores, fleet: Fleet) -> None:
    """Its as_of lay ahead, so every rerun found it newer than itself, did nothing and reported success."""
    archive_day(shared_stores)
    late_row(fleet)
    rewrite_manifest(shared_stores, as_of=f"{shared_stores.clickhouse.now() + 24 * HOUR:%Y-%m-%dT%H:%M:%SZ}")
    failed = run(shared_stores, device_metrics_archive, key=DAY, fails=True)
    [event] = [event for event in failed.all_events if event.is_step_failure]
    assert re.search(r"manifest.json: its as_of, .*, is ahead of ClickHouse's clock", str(event.event_specific_data))
    next_day = f"{D + 24 * HOUR:%Y-%m-%d}"
    with dg.DagsterInstance.ephemeral() as instance:
        run(shared_stores, device_metrics_archive, span=(DAY, next_day), fails=True, instance=instance)
        assert instance.get_materialized_partitions(device_metrics_archive.key) == {next_day}, "its neighbour goes on"
    assert shared_stores.archive.exists(MANIFEST.replace(DAY, next_day))
    rewrite_manifest(
        shared_stores, as_of="2026-01-01T00:00:00"
    )  # of no zone: it cannot be compared, and counts as damaged
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    assert 121 in [row["sample_count"] for row in archived_rows(shared_stores)]
