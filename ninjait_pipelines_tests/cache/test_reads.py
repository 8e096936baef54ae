"""What the caches are built from, read from real stores."""

from collections import Counter
from datetime import datetime, timedelta

from ninjait_pipelines import keys
from ninjait_pipelines.cache import assets, reads
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.clickhouse_schema import snapshot
from ninjait_pipelines_tests.cache.caches import H, cached, sighting
from ninjait_pipelines_tests.cache.data import ALPHA, BETA, EMPTY, HOUR, Fleet
from ninjait_pipelines_tests.runs import run

# minutes ago: (the last heartbeat and what it says, the newest reading) -> status, and when it was last heard of
STATUSES = {
    "readings alone": (None, 2, "online", 2),
    "readings alone, silent": (None, 6, "offline", 6),
    "a heartbeat alone": ((200, "online"), None, "online", 200),
    "readings between heartbeats": ((3, "maintenance"), 1, "maintenance", 1),
    "a heartbeat after the last reading": ((1, "offline"), 2, "offline", 1),
    "readings after it went offline": ((3, "offline"), 1, "online", 1),
    "heartbeats have ended, readings go on": ((20, "maintenance"), 1, "online", 1),
    "heartbeats have ended, and readings later": ((60, "online"), 30, "offline", 30),
    "silent for a week": (None, 60 * 24 * 8, "unknown", None),
}


def test_devices_without_heartbeats_are_known_by_their_readings(shared_stores: Stores) -> None:
    """Devices of Telegraf and collectd were `unknown` for ever, and in no row of device_status_realtime."""
    fleet, now = Fleet(shared_stores), shared_stores.clickhouse.now()
    for name, (heartbeat, seen, _, _) in STATUSES.items():
        one = fleet.device(ALPHA, name)
        if heartbeat:
            fleet.heartbeat(ALPHA, one, now - timedelta(minutes=heartbeat[0]), heartbeat[1])
        if seen:
            sighting(shared_stores, ALPHA, one, now - timedelta(minutes=seen))
            sighting(shared_stores, ALPHA, one, now - timedelta(days=90))
    run(shared_stores, assets.device_caches)
    found = {one["hostname"]: one for one in cached(shared_stores, keys.organization_devices(ALPHA))["devices"]}
    assert {name: one["status"] for name, one in found.items()} == {name: row[2] for name, row in STATUSES.items()}
    for name, (_, _, _, minutes) in STATUSES.items():
        heard = found[name]["last_seen"]
        assert (heard and round((now - datetime.fromisoformat(heard)) / timedelta(minutes=1))) == minutes, name
    rows = shared_stores.clickhouse.rows("SELECT * EXCEPT (device_count, last_update) FROM device_status_realtime")
    expected = Counter("offline" if row[2] == "unknown" else row[2] for row in STATUSES.values())
    assert {row["status"]: row["devices"] for row in rows} == expected


def test_the_fields_sent_lately_are_bits_in_the_order_of_fields() -> None:
    """The query takes the columns of device_sightings in the order of the table."""
    others = ("sent_at", "understood_at")
    columns = [column.name for column in snapshot()["device_sightings"].columns if column.name.endswith("_at")]
    assert [name for name in columns if name not in others] == [f"{name}_at" for name in FIELDS]
    assert f"COLUMNS('_at$') EXCEPT ({', '.join(others)})" in sql("cache/statuses")


def test_only_an_object_counts_as_a_document(shared_stores: Stores) -> None:
    client = shared_stores.dragonfly.client
    for name, value in {"good": '{"a": 1}', "text": "x", "list": "[1]", "number": "7", "null": "null"}.items():
        client.set(name, value)
    client.rpush("another type", "x")
    names = ["list", "good", "text", "number", "null", "another type", "none"]
    assert reads.documents(shared_stores.dragonfly, names) == [None, {"a": 1}, None, None, None, None, None]
    assert reads.documents(shared_stores.dragonfly, []) == []


def test_retired_devices_and_deactivated_organizations_are_not_read(shared_stores: Stores) -> None:
    fleet, now = Fleet(shared_stores), shared_stores.clickhouse.now()
    one = fleet.device(ALPHA, "one")
    fleet.device(ALPHA, "retired", retired_at=now)
    fleet.device(BETA, "other")
    with shared_stores.postgres.transaction() as connection:
        connection.execute("UPDATE organizations SET deactivated_at = now() WHERE id = %s", (BETA,))
    organizations = reads.organizations(shared_stores.postgres, {})
    found = {one.organization_id: [device.device_id for device in one.devices(LeftOut())] for one in organizations}
    assert found == {ALPHA: [str(one)], EMPTY: []}


def test_a_window_has_the_last_hours_of_data_and_their_shares_only(shared_stores: Stores) -> None:
    fleet = Fleet(shared_stores)
    one = fleet.device(ALPHA, "one")
    rolled_up = [H, H + HOUR, H + 2 * HOUR, H + 4 * HOUR]
    fleet.rolled_up(rolled_up)
    fleet.hourly(ALPHA, one, [*rolled_up, H + 3 * HOUR], 60, cpu_avg=5.0)
    hours = list(reads.rolled_up_hours(shared_stores.clickhouse, 4))
    window = reads.rolled_up_window(shared_stores.clickhouse, 4, hours)
    assert (window.length, window.hours) == (4, rolled_up[1:])
    assert window.shares == {(str(ALPHA), str(one)): 1.5}, "neither of an older hour nor of one that was not rolled up"
    assert reads.means_by_organization(shared_stores.clickhouse, hours)[ALPHA]["cpu_avg"] == 5.0


def test_before_the_first_roll_up_there_is_an_empty_window(shared_stores: Stores) -> None:
    assert reads.rolled_up_hours(shared_stores.clickhouse, 4) == {}
    window = reads.rolled_up_window(shared_stores.clickhouse, 4, [])
    assert (window.hours, window.shares) == ([], {})
    assert reads.means_by_organization(shared_stores.clickhouse, []) == {}
