"""A day of two organizations, archived: what the tests of the archive share."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ninjait_pipelines.archive.assets import DATASET, device_metrics_archive
from ninjait_pipelines.archive.checks import archived_day_is_whole
from ninjait_pipelines.archive.objects import ObjectDiffers, ObjectVanished
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, HOUR, Fleet, hours, midnight
from ninjait_pipelines_tests.runs import passed, run

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


def day_now(stores: Stores) -> dict[str, Any]:
    """Arguments of write_day for what is in ClickHouse."""
    as_of = stores.clickhouse.now()
    rows = stores.clickhouse.arrow(sql("rollup/day"), start=D, stop=D + 24 * HOUR)
    found = {"dataset": DATASET, "day": D.date(), "rows": rows, "as_of": as_of, "completeness": 1.0}
    return {**found, "now": lambda: as_of + HOUR}


def damage_day(stores: Stores, how: str) -> tuple[type[Exception], str]:
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


def rewrite_manifest(stores: Stores, **changes: Any) -> None:
    stores.archive.write(MANIFEST, json.dumps(manifest(stores) | changes).encode())
