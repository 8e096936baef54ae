"""The daily archive on real stores: twice, late, killed half-way, damaged, overtaken, and on a full disk."""

import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ninjait_pipelines.archive.assets import DATASET, device_metrics_archive
from ninjait_pipelines.archive.checks import archived_day_is_whole
from ninjait_pipelines.archive.days import read_day, verify_day, write_day
from ninjait_pipelines.archive.objects import ArchiveDamaged, ManifestRefused, ObjectDiffers, ObjectVanished, split
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.archive.errors import ObjectChanged
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, HOUR, Fleet, hours, midnight
from ninjait_pipelines_tests.rollup.data import check
from ninjait_pipelines_tests.runs import killed, passed, run

D = midnight(2)
DAY = f"{D:%Y-%m-%d}"
FOLDER = f"{DATASET}/day={DAY}"
MANIFEST = f"{FOLDER}/manifest.json"


@pytest.fixture
def fleet(shared_stores: Stores) -> Fleet:
    """A day: two hours of a device of Beta, one each of two devices of Alpha; and rows just outside it."""
    fleet = Fleet(shared_stores)
    fleet.rolled_up(hours(D, 3))
    one, two, other = fleet.device(ALPHA, "one"), fleet.device(ALPHA, "two"), fleet.device(BETA, "other")
    fleet.hourly(BETA, other, [D + 23 * HOUR, D, D - HOUR, D + 24 * HOUR], cpu_avg=1.5)
    fleet.hourly(ALPHA, two, [D + HOUR], 60, cpu_avg=None)
    fleet.hourly(ALPHA, one, [D])
    return fleet


def late_row(fleet: Fleet) -> None:
    """The hour is rolled up again, with more samples."""
    fleet.hourly(ALPHA, fleet_device(fleet), [D], 121)


def fleet_device(fleet: Fleet) -> Any:
    [row] = fleet.stores.postgres.rows("SELECT id FROM devices WHERE name = 'one'")
    return row["id"]


def archive_day(stores: Stores, fails: bool = False) -> dict[str, bool]:
    return passed(run(stores, device_metrics_archive, archived_day_is_whole, key=DAY, fails=fails))


def manifest(stores: Stores) -> dict[str, Any]:
    return json.loads(stores.archive.read(MANIFEST))


def files(stores: Stores) -> dict[str, bytes]:
    return {key: stores.archive.read(key) for key in stores.archive.list_keys(FOLDER)}


def archived_rows(stores: Stores) -> list[dict[str, Any]]:
    """What a reader of the archive gets: the rows of the objects that the manifest names."""
    tables = [pq.read_table(io.BytesIO(stores.archive.read(one["key"]))) for one in manifest(stores)["objects"]]
    return pa.concat_tables(tables).to_pylist()


def test_the_objects_have_the_rows_and_the_manifest_describes_them(shared_stores: Stores, fleet: Fleet) -> None:
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    found = manifest(shared_stores)
    assert (found["dataset"], found["day"], found["rows"], found["completeness"]) == (DATASET, DAY, 4, 3 / 24)
    assert ["cpu_avg", "double"] in found["columns"]
    assert ["hour", "timestamp[ms, tz=UTC]"] in found["columns"], "ClickHouse gives Arrow a DateTime as a bare number"
    assert [(one["organization_id"], one["rows"]) for one in found["objects"]] == [(str(ALPHA), 2), (str(BETA), 2)]
    for one in found["objects"]:
        data = shared_stores.archive.read(one["key"])
        assert (one["bytes"], one["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert one["key"] == f"{FOLDER}/organization_id={one['organization_id']}/{one['sha256'][:16]}.parquet"
        own = pq.read_table(io.BytesIO(data))
        assert set(own["organization_id"].to_pylist()) == {one["organization_id"]}, "tenants stay apart"
    window = {"start": D, "stop": D + 24 * HOUR}
    assert archived_rows(shared_stores) == shared_stores.clickhouse.arrow(sql("rollup/day"), **window).to_pylist()


def test_the_same_data_again_is_the_same_objects(shared_stores: Stores, fleet: Fleet) -> None:
    """Rolled up again, the rows have another as_of: it is not in the objects, so that nothing changes."""
    archive_day(shared_stores)
    before, first = manifest(shared_stores), files(shared_stores)
    fleet.hourly(ALPHA, fleet_device(fleet), [D])
    archive_day(shared_stores)
    after, again = manifest(shared_stores), files(shared_stores)
    assert before.pop("as_of") < after.pop("as_of")
    assert before == after
    del first[MANIFEST], again[MANIFEST]
    assert first == again


def test_late_data_is_a_new_object_and_the_old_one_goes(shared_stores: Stores, fleet: Fleet) -> None:
    archive_day(shared_stores)
    old = {one["organization_id"]: one["key"] for one in manifest(shared_stores)["objects"]}
    late_row(fleet)
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    new = {one["organization_id"]: one["key"] for one in manifest(shared_stores)["objects"]}
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


def day_now(stores: Stores) -> dict[str, Any]:
    """Arguments of write_day for what is in ClickHouse."""
    as_of = stores.clickhouse.now()
    rows = stores.clickhouse.arrow(sql("rollup/day"), start=D, stop=D + 24 * HOUR)
    found = {"dataset": DATASET, "day": D.date(), "rows": rows, "as_of": as_of, "completeness": 1.0}
    return {**found, "now": lambda: as_of + HOUR}


@pytest.mark.parametrize("meanwhile", [False, True])
def test_an_older_run_does_not_bring_back_what_it_read(
    shared_stores: Stores, fleet: Fleet, meanwhile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that hung while late data was archived by another: before it began, or before it wrote its manifest.

    In the second case it replaced the newer manifest by its own, whose objects the newer run had deleted.
    """
    archive_day(shared_stores)
    old = day_now(shared_stores)
    late_row(fleet)
    new = day_now(shared_stores)
    if meanwhile:
        _before(monkeypatch, MANIFEST, lambda: write_day(shared_stores.archive, **new))
    else:
        write_day(shared_stores.archive, **new)
    assert write_day(shared_stores.archive, **old).as_of == new["as_of"]
    assert verify_day(shared_stores.archive, DATASET, D.date()).as_of == new["as_of"]


def _before(monkeypatch: pytest.MonkeyPatch, key: str, happens: Callable[[], Any]) -> None:
    """Something happens right before the first write of a key, when what it replaces has been looked at."""
    real = Archive.write

    def write(self: Archive, written: str, data: bytes, over: str | None = None) -> None:
        if written == key:
            monkeypatch.undo()
            happens()
        real(self, written, data, over)

    monkeypatch.setattr(Archive, "write", write)


def test_a_newer_run_does_not_name_what_an_older_one_deleted(
    shared_stores: Stores, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day's rows changed and changed back. A run that has them as they were first found their object there; before
    its manifest a run that had read them between replaced the manifest and deleted that object."""
    archive_day(shared_stores)
    back = day_now(shared_stores)
    late_row(fleet)
    between = day_now(shared_stores)
    back["as_of"] = between["as_of"] + timedelta(seconds=1)
    _before(monkeypatch, MANIFEST, lambda: write_day(shared_stores.archive, **between))
    assert write_day(shared_stores.archive, **back).as_of == back["as_of"]
    assert verify_day(shared_stores.archive, DATASET, D.date()).as_of == back["as_of"]
    assert len(files(shared_stores)) == 3, "nothing of the other run is left"


@pytest.mark.parametrize("same", [True, False])
def test_two_runs_write_one_object_at_once(
    shared_stores: Stores, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """The key has the content's hash: the other's object is fine if it has that content, and else a named error."""
    now = day_now(shared_stores)
    [(described, data), _] = split(DATASET, D.date(), now["rows"]).items()
    there = data if same else data[:-1]
    _before(monkeypatch, described.key, lambda: shared_stores.archive.write(described.key, there))
    if same:
        assert write_day(shared_stores.archive, **now).rows == 4
    else:
        with pytest.raises(ObjectDiffers, match="another hash"):
            write_day(shared_stores.archive, **now)
        assert not shared_stores.archive.exists(MANIFEST)


def test_runs_of_a_day_at_once_leave_it_whole(shared_stores: Stores, fleet: Fleet) -> None:
    """Six runs, older and newer, at once: the newest counts, and all that it names is there."""
    first = day_now(shared_stores)
    late_row(fleet)
    second = day_now(shared_stores)
    runs = [{**(second if n % 2 else first), "as_of": first["as_of"] + timedelta(minutes=n)} for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda day: _attempted(shared_stores.archive, day), runs))
    assert any(done)
    write_day(shared_stores.archive, **runs[-1])
    assert verify_day(shared_stores.archive, DATASET, D.date()).as_of == runs[-1]["as_of"]


def _attempted(archive: Archive, day: dict[str, Any]) -> bool:
    """Whether the run went through. One that lost every race says so, and is rerun."""
    try:
        write_day(archive, **day)
    except (ObjectChanged, ArchiveDamaged):
        return False
    return True


def test_a_reader_gets_the_day_or_some_of_its_columns(shared_stores: Stores, fleet: Fleet) -> None:
    archive_day(shared_stores)
    window = {"start": D, "stop": D + 24 * HOUR}
    assert read_day(shared_stores.archive, DATASET, D.date()).equals(
        shared_stores.clickhouse.arrow(sql("rollup/day"), **window)
    )
    some = read_day(shared_stores.archive, DATASET, D.date(), ["organization_id", "hour"])
    assert (some.num_rows, some.column_names) == (4, ["organization_id", "hour"])
    shared_stores.clickhouse.command("TRUNCATE TABLE device_metrics_hourly_versions")
    archive_day(shared_stores)
    assert read_day(shared_stores.archive, DATASET, D.date()).num_rows == 0


@pytest.mark.parametrize("how", ["vanished object", "empty object", "a manifest with other rows"])
def test_a_reader_is_told_of_damage(shared_stores: Stores, fleet: Fleet, how: str) -> None:
    """Never fewer rows in silence."""
    archive_day(shared_stores)
    error, key = _damage(shared_stores, how)
    with pytest.raises(error, match=re.escape(key)):
        read_day(shared_stores.archive, DATASET, D.date())


def _damage(stores: Stores, how: str) -> tuple[type[Exception], str]:
    """Damages the day; returns the error that must tell, and the key that it must name."""
    one, other = (described["key"] for described in manifest(stores)["objects"])
    data, text = stores.archive.read(one), stores.archive.read(MANIFEST)
    damages: dict[str, tuple[str, bytes | None]] = {
        "vanished object": (one, None),
        "vanished manifest": (MANIFEST, None),
        "truncated object": (one, data[:-1]),
        "empty object": (one, b""),
        "one bit": (one, data[:99] + bytes([data[99] ^ 1]) + data[100:]),
        "another organization's object": (one, stores.archive.read(other)),
        "truncated manifest": (MANIFEST, text[:-10]),
        "no text": (MANIFEST, b"\xff\x00"),
        "a manifest of another day": (MANIFEST, text.replace(b'"day": "20', b'"day": "19')),
        "a manifest with other rows": (MANIFEST, text.replace(b'"rows": 4', b'"rows": 5')),
        "a manifest that names other rows of an object": (MANIFEST, text.replace(b'"rows": 2', b'"rows": 3')),
    }
    key, damaged = damages[how]
    assert damaged not in (data, text)
    stores.archive.delete(key)
    if damaged is not None:
        stores.archive.write(key, damaged)
    named = one if how == "a manifest that names other rows of an object" else key
    return ObjectVanished if "vanished" in how else ObjectDiffers, named


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
    error, key = _damage(shared_stores, how)
    with pytest.raises(error, match=r"Rerun the day's partition") as caught:
        verify_day(shared_stores.archive, DATASET, D.date())
    assert str(caught.value).startswith(key)
    found = check(shared_stores, [device_metrics_archive], [archived_day_is_whole], DAY)["archived_day_is_whole"]
    assert not found.passed
    assert key in str(found.description)
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}


def _rewrite(stores: Stores, **changes: Any) -> None:
    stores.archive.write(MANIFEST, json.dumps(manifest(stores) | changes).encode())


@pytest.mark.parametrize(
    "foreign",
    [
        "ours/of-another-kind.json",
        f"{DATASET}/day={D - 24 * HOUR:%Y-%m-%d}/organization_id={ALPHA}/0123456789abcdef.parquet",
        f"{FOLDER}/../day={DAY}/manifest.json",
        f"{FOLDER}/organization_id={BETA}/x.parquet",
        "/etc/hostname",
        MANIFEST,
    ],
)
def test_a_manifest_that_names_a_foreign_key_deletes_and_reads_nothing(
    shared_stores: Stores, fleet: Fleet, foreign: str
) -> None:
    """The rerun deleted whatever a manifest named and it did not name itself: any object of the bucket."""
    archive_day(shared_stores)
    first, *others = manifest(shared_stores)["objects"]
    if foreign.startswith(("ours", DATASET)) and ".." not in foreign and foreign != MANIFEST:
        shared_stores.archive.write(foreign, b"another's")
    _rewrite(shared_stores, objects=[{**first, "key": foreign}, *others])
    before = {key: shared_stores.archive.read(key) for key in shared_stores.archive.list_keys("")}
    words = rf"{re.escape(MANIFEST)}: names '{re.escape(foreign)}', which is no object of its day"
    late_row(fleet)
    for act in (
        lambda: write_day(shared_stores.archive, **day_now(shared_stores)),
        lambda: read_day(shared_stores.archive, DATASET, D.date()),
        lambda: verify_day(shared_stores.archive, DATASET, D.date()),
    ):
        with pytest.raises(ManifestRefused, match=words):
            act()
    assert {key: shared_stores.archive.read(key) for key in shared_stores.archive.list_keys("")} == before
    found = check(shared_stores, [device_metrics_archive], [archived_day_is_whole], DAY)["archived_day_is_whole"]
    assert not found.passed
    shared_stores.archive.delete(MANIFEST)
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}


def test_a_manifest_from_the_future_is_an_error(shared_stores: Stores, fleet: Fleet) -> None:
    """Its as_of lay ahead, so every rerun found it newer than itself, did nothing and reported success."""
    archive_day(shared_stores)
    late_row(fleet)
    _rewrite(shared_stores, as_of=f"{shared_stores.clickhouse.now() + 24 * HOUR:%Y-%m-%dT%H:%M:%SZ}")
    failed = run(shared_stores, device_metrics_archive, key=DAY, fails=True)
    [event] = [event for event in failed.all_events if event.is_step_failure]
    assert re.search(r"manifest.json: its as_of, .*, is ahead of ClickHouse's clock", str(event.event_specific_data))
    next_day = f"{D + 24 * HOUR:%Y-%m-%d}"
    with dg.DagsterInstance.ephemeral() as instance:
        run(shared_stores, device_metrics_archive, span=(DAY, next_day), fails=True, instance=instance)
        assert instance.get_materialized_partitions(device_metrics_archive.key) == {next_day}, "its neighbour goes on"
    assert shared_stores.archive.exists(MANIFEST.replace(DAY, next_day))
    _rewrite(shared_stores, as_of="2026-01-01T00:00:00")  # of no zone: it cannot be compared, and counts as damaged
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    assert 121 in [row["sample_count"] for row in archived_rows(shared_stores)]


def test_a_manifest_or_object_that_is_too_large_is_not_read(shared_stores: Stores, fleet: Fleet) -> None:
    """Whatever lies under the key was read into memory whole."""
    archive_day(shared_stores)
    key = manifest(shared_stores)["objects"][0]["key"]
    shared_stores.archive.write(key, b"x" * 1_000_000)
    with pytest.raises(ObjectDiffers, match="is larger than"):
        verify_day(shared_stores.archive, DATASET, D.date())
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}


@pytest.mark.parametrize("key", ["../outside", "/etc/hostname", "a//b", "a/./b", "", "a\\b"])
def test_a_key_never_leads_out_of_the_archive(shared_stores: Stores, key: str) -> None:
    """In a folder `..` and a leading slash are what they say."""
    for act in (
        lambda: shared_stores.archive.read(key),
        lambda: shared_stores.archive.write(key, b""),
        lambda: shared_stores.archive.delete(key),
        lambda: shared_stores.archive.version(key),
        lambda: shared_stores.archive.scan([key]),
    ):
        with pytest.raises(StoreFailed, match="is not a valid key"):
            act()


def test_what_was_written_wrong_is_not_named_by_a_manifest(
    shared_stores: Stores, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that says yes and keeps something else: found before anything counts on it."""
    real = Archive.write
    monkeypatch.setattr(Archive, "write", lambda self, key, data, over: real(self, key, data[:-1], over))
    with pytest.raises(ObjectDiffers):
        write_day(shared_stores.archive, **day_now(shared_stores))
    assert not shared_stores.archive.exists(MANIFEST)


FULL_DISK = """
import resource, sys
from datetime import date, datetime, UTC
import dagster as dg
import pyarrow as pa
from ninjait_pipelines.archive.days import write_day
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.archive.errors import ObjectChanged
from ninjait_pipelines.resources.store import OutOfSpace
rows = pa.table({"organization_id": ["a"] * 5000, "hour": [n * n % 7919 for n in range(5000)]})
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
with Archive(url=sys.argv[1]).open() as archive:
    try:
        now = datetime.now(UTC)
        write_day(archive, "device_metrics_hourly", date.fromisoformat(sys.argv[2]), rows, now, 1.0, lambda: now)
    except OutOfSpace as error:
        print(error)
"""


@pytest.mark.parametrize("archive", ["folder"], indirect=True)
def test_a_full_disk_leaves_the_day_as_it_was(shared_stores: Stores, fleet: Fleet, tmp_path: Path) -> None:
    """The limit of the process on file sizes stands for the disk: the same error, at the same place."""
    archive_day(shared_stores)
    before = files(shared_stores)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, shared_stores.archive.url, DAY],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert "no room for" in done.stdout
    assert "Free space" in done.stdout
    assert files(shared_stores) == before
    left = [path for path in (tmp_path / FOLDER).rglob("*") if path.is_file()]
    assert len(left) == len(before), "nor is the half of an object left"
    assert verify_day(shared_stores.archive, DATASET, D.date()).rows == 4
