"""A day written and read back, on real stores: overtaken, damaged, foreign, too large, and on a full disk."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ninjait_pipelines.archive.assets import DATASET, device_metrics_archive
from ninjait_pipelines.archive.checks import archived_day_is_whole
from ninjait_pipelines.archive.days import read_day, verify_day, write_day
from ninjait_pipelines.archive.objects import ArchiveDamaged, ManifestRefused, ObjectDiffers, split
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.archive.errors import ObjectChanged
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines_tests.archive.archive_backends import FEW_ROWS
from ninjait_pipelines_tests.archive.archived_day import (
    DAY,
    FOLDER,
    MANIFEST,
    D,
    archive_day,
    archived_by_0_3,
    damage_day,
    day_now,
    files,
    keys,
    late_row,
    manifest,
    rewrite_manifest,
)
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, HOUR, Fleet
from ninjait_pipelines_tests.conftest import SERVERS
from ninjait_pipelines_tests.rollup.data import check
from ninjait_pipelines_tests.runs import killed


@pytest.mark.parametrize("meanwhile", [False, True])
def test_an_older_run_does_not_bring_back_what_it_read(shared_stores: Stores, fleet: Fleet, meanwhile: bool) -> None:
    """A run that hung while late data was archived by another: before it began, or before it wrote its manifest.

    In the second case it replaced the newer manifest by its own, whose objects the newer run had deleted.
    """
    archive_day(shared_stores)
    old = day_now(shared_stores)
    late_row(fleet)
    new = day_now(shared_stores)
    archive: Any = shared_stores.archive
    if meanwhile:
        archive = overtaken(shared_stores, MANIFEST, lambda: write_day(shared_stores.archive, **new))
    else:
        write_day(archive, **new)
    assert write_day(archive, **old).as_of == new["as_of"]
    assert verify_day(shared_stores.archive, DATASET, D.date()).as_of == new["as_of"]


class Overtaken:
    """An archive to which something happens right before the first write of a key, when what it replaces has been
    looked at."""

    def __init__(self, archive: Archive, key: str, happens: Callable[[], Any]) -> None:
        self._archive, self._key, self._happens = archive, key, [happens]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    def write(self, key: str, data: bytes, over: str | None = None) -> None:
        if key == self._key and self._happens:
            self._happens.pop()()
        self._archive.write(key, data, over)


def overtaken(stores: Stores, key: str, happens: Callable[[], Any]) -> Any:
    return Overtaken(stores.archive, key, happens)


def test_a_newer_run_does_not_name_what_an_older_one_deleted(shared_stores: Stores, fleet: Fleet) -> None:
    """The day's rows changed and changed back. A run that has them as they were first found their object there; before
    its manifest a run that had read them between replaced the manifest and deleted that object."""
    archive_day(shared_stores)
    back = day_now(shared_stores)
    late_row(fleet)
    between = day_now(shared_stores)
    back["as_of"] = between["as_of"] + timedelta(seconds=1)
    archive = overtaken(shared_stores, MANIFEST, lambda: write_day(shared_stores.archive, **between))
    assert write_day(archive, **back).as_of == back["as_of"]
    assert verify_day(shared_stores.archive, DATASET, D.date()).as_of == back["as_of"]
    assert len(files(shared_stores)) == 3, "nothing of the other run is left"


@pytest.mark.parametrize("same", [True, False])
def test_two_runs_write_one_object_at_once(shared_stores: Stores, fleet: Fleet, same: bool) -> None:
    """The key has the content's hash: the other's object is fine if it has that content, and else a named error."""
    now = day_now(shared_stores)
    [(described, data), _] = split(DATASET, D.date(), now["rows"], FEW_ROWS)
    there = data if same else data[:-1]
    archive = overtaken(shared_stores, described.key, lambda: shared_stores.archive.write(described.key, there))
    if same:
        assert write_day(archive, **now).rows == 4
    else:
        with pytest.raises(ObjectDiffers, match="another hash"):
            write_day(archive, **now)
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


def test_a_day_of_0_3_is_read_and_verified_and_another_run_replaces_it(shared_stores: Stores, fleet: Fleet) -> None:
    old, rows = archived_by_0_3(shared_stores), day_now(shared_stores)["rows"]
    manifest = verify_day(shared_stores.archive, DATASET, D.date())
    assert [one.organizations for one in manifest.objects] == [{str(ALPHA): 2}, {str(BETA): 2}]
    assert read_day(shared_stores.archive, DATASET, D.date()).equals(rows)
    shared_stores.archive.write(old[0], shared_stores.archive.read(old[1]))
    with pytest.raises(ObjectDiffers, match=re.escape(old[0])):
        verify_day(shared_stores.archive, DATASET, D.date())
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    assert read_day(shared_stores.archive, DATASET, D.date()).equals(rows)
    assert set(files(shared_stores)) == {MANIFEST, *keys(shared_stores).values()}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("method", "call"), [("write", 1), ("write", 2), ("write", 3), ("delete", 1), ("delete", 2)], ids=str
)
def test_killed_while_it_replaces_a_day_of_0_3(
    shared_stores: Stores, fleet: Fleet, method: str, call: int, after: bool
) -> None:
    """Two objects and the manifest are written, then the two of before are deleted."""
    old = archived_by_0_3(shared_stores)
    with killed(Archive, method, call, after):
        archive_day(shared_stores, fails=True)
    switched = method == "delete" or (call == 3 and after)
    assert verify_day(shared_stores.archive, DATASET, D.date()).version == (2 if switched else 1)
    assert switched or set(old) <= set(files(shared_stores))
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}
    assert read_day(shared_stores.archive, DATASET, D.date()).equals(day_now(shared_stores)["rows"])


@pytest.mark.parametrize(
    ("archive", "by_0_3"),
    [("folder", False), *(pytest.param("s3", old, marks=pytest.mark.servers) for old in (False, True))],
    indirect=["archive"],
)
def test_the_documented_query_reads_an_organization_s_day(
    shared_stores: Stores, fleet: Fleet, archive: Archive, by_0_3: bool, clickhouse_version: str
) -> None:
    """In a ClickHouse of the reader's own: the pipeline's user may not read S3. (In a folder `**` finds no objects of
    0.3.0: there it does not reach into folders.)"""
    archived_by_0_3(shared_stores) if by_0_3 else archive_day(shared_stores)
    section = (ROOT / "docs" / "contracts.md").read_text().partition("\n## Archive objects\n")[2]
    [query] = re.findall(r"```sql\n(SELECT .+s3\(.+?)```", section, re.S)
    query, count = re.subn(
        r"s3\('https://s3.example.com/bucket/prefix/(.+?)', 'KEY', 'SECRET'\)", source(archive), query
    )
    assert count == 1
    query = query.replace("2026-03-01", DAY).replace("11111111-1111-4111-8111-111111111111", str(BETA))
    command = [sys.executable, "-c", "import chdb, sys; print(chdb.query(sys.argv[1], 'JSONEachRow'))", query]
    older = {"PYTHONPATH": str(SERVERS / f"clickhouse-{clickhouse_version}")} if clickhouse_version else {}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=os.environ | older)
    rows = sorted((row["hour"], row["cpu_avg"]) for row in map(json.loads, done.stdout.strip().split("\n")))
    assert rows == [(f"{hour:%Y-%m-%d %H:%M:%S.000}", 1.5) for hour in (D, D + 23 * HOUR)]


def source(archive: Archive) -> str:
    """ClickHouse's table function for the archive, of the keys \\1."""
    if archive.endpoint_url is None:
        return rf"file('{archive.url.removeprefix('file://')}/\1')"
    place = f"{archive.endpoint_url}/{archive.url.removeprefix('s3://')}"
    return rf"s3('{place}/\1', '{archive.access_key_id}', '{archive.secret_access_key}')"


@pytest.mark.parametrize("how", ["vanished object", "empty object", "a manifest with other rows"])
def test_a_reader_is_told_of_damage(shared_stores: Stores, fleet: Fleet, how: str) -> None:
    """Never fewer rows in silence."""
    archive_day(shared_stores)
    error, key = damage_day(shared_stores, how)
    with pytest.raises(error, match=re.escape(key)):
        read_day(shared_stores.archive, DATASET, D.date())


@pytest.mark.parametrize(
    "foreign",
    [
        "ours/of-another-kind.json",
        f"{DATASET}/day={D - 24 * HOUR:%Y-%m-%d}/0123456789abcdef.parquet",
        f"{DATASET}/day={D - 24 * HOUR:%Y-%m-%d}/organization_id={ALPHA}/0123456789abcdef.parquet",
        f"{FOLDER}/../day={DAY}/manifest.json",
        f"{FOLDER}/organization_id={BETA}/0123456789abcdef.parquet",
        f"{FOLDER}/x.parquet",
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
    rewrite_manifest(shared_stores, objects=[{**first, "key": foreign}, *others])
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


def test_a_manifest_or_object_that_is_too_large_is_not_read(shared_stores: Stores, fleet: Fleet) -> None:
    """Whatever lies under the key was read into memory whole."""
    archive_day(shared_stores)
    key = manifest(shared_stores)["objects"][0]["key"]
    shared_stores.archive.write(key, b"x" * 1_000_000)
    with pytest.raises(ObjectDiffers, match="is larger than"):
        verify_day(shared_stores.archive, DATASET, D.date())
    assert archive_day(shared_stores) == {"archived_day_is_whole": True}


def test_what_was_written_wrong_is_not_named_by_a_manifest(shared_stores: Stores, fleet: Fleet) -> None:
    """A disk that says yes and keeps something else: found before anything counts on it."""

    class Lossy(Overtaken):
        def write(self, key: str, data: bytes, over: str | None = None) -> None:
            super().write(key, data[:-1], over)

    archive: Any = Lossy(shared_stores.archive, "", print)
    with pytest.raises(ObjectDiffers):
        write_day(archive, **day_now(shared_stores))
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
