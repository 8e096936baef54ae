"""`ClickHouseMetrics` keeps the metrics store's contract; then what is its own: missing tables, merges, partitions."""

import re
from collections.abc import Iterator
from datetime import timedelta

import pyarrow as pa
import pytest

from ninjait_pipelines.metrics.model import FIELDS, POINTS, WINDOWS, Tier
from ninjait_pipelines.migrations import load, parse
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_metrics import TABLES, ClickHouseMetrics
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines_tests.resources.metrics_contract import (
    HOUR,
    SECOND,
    MetricsContract,
    new_id,
    points,
    yesterday,
)

DATABASE = "metrics_contract"
# Statements that make or alter a table of metrics, of whichever migration.
OURS = re.compile(
    rf"^(?:CREATE|ALTER|EXCHANGE|DROP) TABLES? (?:IF EXISTS )?(?:{'|'.join(TABLES)}|metrics_merging)\b", re.M
)


@pytest.fixture(scope="module")
def database(stack: dict[str, str]) -> Iterator[ClickHouse]:
    """A database with the tables of the metrics and nothing else, made once: a test empties them."""
    server = ClickHouse(
        url=stack["CLICKHOUSE_URL"],
        user=stack["CLICKHOUSE_USER"],
        password=stack["CLICKHOUSE_PASSWORD"],
        database=stack["CLICKHOUSE_DATABASE"],
    )
    with server.open():
        server.command(f"CREATE DATABASE {DATABASE}")
        database = ClickHouse(url=server.url, user=server.user, password=server.password, database=DATABASE)
        with database.open():
            for migration in load(SQL / "clickhouse"):
                for statement in filter(OURS.search, migration.up):
                    database.command(statement)
            yield database
        server.command(f"DROP DATABASE {DATABASE}")


@pytest.fixture
def store(database: ClickHouse) -> Iterator[MetricsStore]:
    for table in TABLES:
        database.command(f"TRUNCATE TABLE {table}")
    metrics = ClickHouseMetrics(url=database.url, user=database.user, password=database.password, database=DATABASE)
    with metrics.open() as store:
        store.declare()
        yield store


class TestContract(MetricsContract):
    @pytest.fixture
    def store(self, store: MetricsStore) -> MetricsStore:
        return store


def test_missing_tables_are_named_with_the_command_that_makes_them(database: ClickHouse) -> None:
    empty = ClickHouseMetrics(
        url=database.url, user=database.user, password=database.password, database="INFORMATION_SCHEMA"
    )
    with (
        empty.open(),
        pytest.raises(
            StoreFailed, match=r"no table interface_counters, metrics, metrics_1h, metrics_5m, volumes\. .*migrate up"
        ),
    ):
        empty.declare()


def test_the_tables_have_the_columns_of_the_interface(database: ClickHouse) -> None:
    """The migration spells them out; a field that is added to the contract and not to the tables fails here."""
    for tier in Tier:
        columns = database.rows(
            "SELECT name FROM system.columns WHERE database = {db:String} AND table = {t:String} ORDER BY position",
            db=DATABASE,
            t=tier,
        )
        expected = (POINTS if tier is Tier.RAW else WINDOWS).names
        assert [column["name"] for column in columns] == [*expected, "received_at"]


def test_the_last_value_also_wins_after_a_merge(store: MetricsStore, database: ClickHouse) -> None:
    """The rows of one insert share their version: which of them stays is the engine's word, so it is tested."""
    start, organization, device = yesterday(), new_id(), new_id()
    for values in ((1.0, 9.0, 2.0), (8.0, 7.0, 3.0)):
        store.write(points((organization, device, start, {"cpu": value}) for value in values))
    database.command("OPTIMIZE TABLE metrics FINAL")
    assert database.scalar("SELECT count() FROM metrics") == 1
    assert store.read(start, start + HOUR)["cpu"].to_pylist() == [3.0]


def test_the_later_row_wins_across_the_batches_of_one_table(store: MetricsStore) -> None:
    start, organization, device = yesterday(), new_id(), new_id()
    tables = [points([(organization, device, start, {"cpu": value})]) for value in (5.0, 1.0, 4.0)]
    store.write(pa.concat_tables(tables))
    assert store.read(start, start + HOUR)["cpu"].to_pylist() == [4.0]


def test_two_years_of_windows_are_one_insert(store: MetricsStore) -> None:
    """ClickHouse refuses an insert into more than 100 partitions: a laptop that comes back after long stays below."""
    start, organization, device = yesterday(), new_id(), new_id()
    store.write(points([(organization, device, start, dict.fromkeys(FIELDS, 1.0))]))
    row = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()[0]
    hours = [{**row, "time": start - timedelta(days=days)} for days in range(729)]
    store.write_aggregates(Tier.ONE_HOUR, pa.Table.from_pylist(hours, schema=WINDOWS))
    assert store.aggregate(Tier.ONE_HOUR, start - timedelta(days=728), start + HOUR, HOUR).num_rows == 729


def test_the_status_counts_the_tiers_only(store: MetricsStore) -> None:
    assert store.status().size_bytes == 0
    store.write(points([(new_id(), new_id(), yesterday(), {"cpu": 1.0})]))
    status = store.status()
    assert (status.ok, status.store) == (True, "Metrics store (ClickHouse)")
    assert status.size_bytes


def test_the_migration_to_merging_rows_loses_none_wherever_it_is_killed(database: ClickHouse) -> None:
    """A killed migration is undone by its down section, which may be killed as well, and applied again."""
    name, migration = f"{DATABASE}_killed", load(SQL / "clickhouse")[7]
    up = [statement for statement in migration.up if "device_metrics_hourly" not in statement]
    start, organization, device = yesterday(), new_id(), new_id()
    names = POINTS.names[:9]  # those of that time
    for killed_at in range(len(up) + 1):
        database.command(f"CREATE DATABASE {name}")
        metrics = ClickHouseMetrics(url=database.url, user=database.user, password=database.password, database=name)
        with metrics.open() as store:
            for statement in load(SQL / "clickhouse")[0].up:
                store.command(statement)
            store.insert(
                Tier.RAW,
                points([(organization, device, start, {"cpu": 1.0}), (organization, device, start + HOUR, {})]).select(
                    names
                ),
            )
            for statement in up[:killed_at]:
                store.command(statement)
            store.insert(Tier.RAW, points([(organization, device, start + 2 * HOUR, {"cpu": 3.0})]).select(names))
            for done in range(len(migration.down) + 1):
                for statement in migration.down[:done]:
                    store.command(statement)
            for statement in (*migration.down, *up):
                store.command(statement)
            store.insert(Tier.RAW, points([(organization, device, start, {"memory": 2.0})]).select(names))
            rows = store.rows("SELECT cpu, memory FROM metrics FINAL ORDER BY time")
            assert [(row["cpu"], row["memory"]) for row in rows] == [(1.0, 2.0), (None, None), (3.0, None)]
        database.command(f"DROP DATABASE {name}")


def test_the_migration_to_sources_keeps_what_is_there(database: ClickHouse) -> None:
    """A database of 0.3.0 with data: rows of every table that 0011 changes are read as before, and windows that do not
    say what they cover count half a minute for each sample."""
    name, files = f"{DATABASE}_of_0_3_0", sorted((SQL / "clickhouse").glob("*.sql"))
    before, (changing, *later) = files[:10], files[10:]
    start, organization, device = yesterday(), new_id(), new_id()
    database.command(f"CREATE DATABASE {name}")
    metrics = ClickHouseMetrics(url=database.url, user=database.user, password=database.password, database=name)
    with metrics.open() as store:
        for file in before:
            for statement in parse(file.name, file.read_bytes()).up:
                store.command(statement)
        key = {"organization_id": [organization], "device_id": [device]}
        at = pa.array([start], POINTS.field("time").type)
        of_time = {**key, "time": at}
        store.insert("metrics", pa.table({**of_time, "cpu": [5.0]}))
        counts = {"samples": [120.0], "cpu_sum": [600.0], "cpu_count": [60.0]}
        for tier in ("metrics_5m", "metrics_1h"):
            store.insert(tier, pa.table({**of_time, **counts}))
        for second, value in ((0, 100.0), (60, 150.0)):
            moment = pa.array([start + second * SECOND], at.type)
            store.insert(
                "interface_counters", pa.table({**key, "time": moment, "interface": ["eth0"], "network_in": [value]})
            )
        hour = {
            "hour": pa.array([start], pa.timestamp("s", "UTC")),
            "sample_count": [120],
            "sample_share": [0.5],
            "as_of": at,
        }
        store.insert("device_metrics_hourly_versions", pa.table({**key, **hour}))
        store.insert(
            "message_deliveries", pa.table({"queue": ["q"], "delivery_id": ["d"], "instants": pa.array([[start]])})
        )
        migration = parse(changing.name, changing.read_bytes())
        for statement in (*migration.up, *migration.down, *migration.up):
            store.command(statement)
        for file in later:  # today's store reads today's columns
            for statement in parse(file.name, file.read_bytes()).up:
                store.command(statement)
        (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
        assert (row["cpu_sum"], row["network_in_sum"], row["samples"], row["covered"]) == (5.0, 50.0, 3.0, 2.0)
        for tier in (Tier.FIVE_MINUTES, Tier.ONE_HOUR):
            (row,) = store.aggregate(tier, start, start + HOUR, HOUR).to_pylist()
            assert (row["cpu_sum"], row["covered"], row["several_senders"]) == (600.0, 30.0, 0.0)
        (row,) = store.rows("SELECT * FROM device_metrics_hourly")
        assert (row["sample_count"], row["sample_share"], row["cpu_count"], row["several_senders"]) == (
            120,
            0.5,
            None,
            None,
        )
        assert store.rows("SELECT first_time, volume_instants FROM message_deliveries")[0]["volume_instants"] == []
    database.command(f"DROP DATABASE {name}")
