"""A day of two organizations, archived: what the tests of the archive share."""

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
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
    roll_up_again(fleet, 121)


def roll_up_again(fleet: Fleet, samples: int = 120) -> None:
    """An hour's row is replaced."""
    device = fleet_device(fleet)
    earlier = "device_id = {device:UUID} AND timestamp = {hour:DateTime('UTC')}"
    fleet.stores.clickhouse.command(
        f"DELETE FROM device_metrics_hourly_versions WHERE {earlier}", device=device, hour=D
    )
    fleet.hourly(ALPHA, device, [D], samples)


def fleet_device(fleet: Fleet) -> Any:
    [row] = fleet.stores.postgres.rows("SELECT id FROM devices WHERE name = 'one'")
    return row["id"]


def archive_day(stores: Stores, fails: bool = False) -> dict[str, bool]:
    return passed(run(stores, device_metrics_archive, archived_day_is_whole, key=DAY, fails=fails))


def manifest(stores: Stores) -> dict[str, Any]:
    return json.loads(stores.archive.read(MANIFEST))


def files(stores: Stores) -> dict[str, bytes]:
    return {key: stores.archive.read(key) for key in stores.archive.list_keys(FOLDER)}


def keys(stores: Stores) -> dict[str, str]:
    """The object of each organization."""
    return {name: one["key"] for one in manifest(stores)["objects"] for name in one["organizations"]}


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


def archived_by_0_3(stores: Stores) -> list[str]:
    """The day as 0.3.0 archived it: an object for each organization, in a folder of its own. Returns their keys."""
    rows, objects = day_now(stores)["rows"], []
    for organization in rows["organization_id"].unique().to_pylist():
        own = rows.filter(pc.equal(rows["organization_id"], organization)).combine_chunks()
        pq.write_table(own, file := io.BytesIO(), compression="zstd")
        sha256 = hashlib.sha256(file.getvalue()).hexdigest()
        key = f"{FOLDER}/organization_id={organization}/{sha256[:16]}.parquet"
        stores.archive.write(key, file.getvalue())
        size = {"rows": own.num_rows, "bytes": len(file.getvalue())}
        objects.append({"organization_id": organization, "key": key, **size, "sha256": sha256})
    about = {"dataset": DATASET, "day": DAY, "columns": [[field.name, str(field.type)] for field in rows.schema]}
    about |= {"as_of": f"{stores.clickhouse.now():%Y-%m-%dT%H:%M:%S.%fZ}", "completeness": 1.0, "rows": rows.num_rows}
    stores.archive.write(MANIFEST, json.dumps({**about, "objects": objects}).encode())
    return [str(one["key"]) for one in objects]


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
