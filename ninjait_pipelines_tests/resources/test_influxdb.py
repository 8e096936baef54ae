"""`InfluxDB` keeps the metrics store's contract on a real server; then its own: refusals, back-pressure, tags."""

import math
import os
import random
import re
import struct
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from influxdb_client import BucketRetentionRules, InfluxDBClient, Permission, PermissionResource, Point
from influxdb_client.client.write_api import SYNCHRONOUS

from ninjait_pipelines.local.stack import servers
from ninjait_pipelines.metrics.model import FIELDS, POINTS, WINDOWS, Tier
from ninjait_pipelines.resources.influxdb.line_protocol import held, lines, text_of
from ninjait_pipelines.resources.influxdb.resource import COUNTER_MEASUREMENT, LINES_AT_ONCE, InfluxDB
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused, StoreUnavailable
from ninjait_pipelines.resources.versions import numbers, problem
from ninjait_pipelines.rollup.assets import fill_tier
from ninjait_pipelines_tests.local.stack.standalone_engine import alone
from ninjait_pipelines_tests.resources.http_proxy import HttpProxy
from ninjait_pipelines_tests.resources.metrics_contract import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    MetricsContract,
    Sample,
    by_key,
    counters,
    few_examples,
    increases_of,
    new_id,
    points,
    windows_of,
    yesterday,
)
from ninjait_pipelines_tests.resources.queue_contract import eventually

pytestmark = pytest.mark.servers
SETTINGS = {"url": "INFLUXDB_URL", "token": "INFLUXDB_TOKEN", "organization": "INFLUXDB_ORG"}
# A server that the shell points at, with its organization and a token that may create buckets in it. Read at import:
# the suite takes the settings out of the environment.
GIVEN = {name: os.environ.get(setting, "") for name, setting in SETTINGS.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """url, token and organization of a real server: the given one, or one of our own."""
    if GIVEN["url"]:
        yield GIVEN
        return
    with alone(servers.InfluxDB, tmp_path_factory.mktemp("influxdb") / "influxdb") as engine:
        yield {name: engine.settings[setting] for name, setting in SETTINGS.items()}


@contextmanager
def opened(server: dict[str, str], **more: object) -> Iterator[InfluxDB]:
    """A store in buckets of its own, which are deleted at the end."""
    store = InfluxDB(**{**server, "bucket": f"contract-{uuid.uuid4()}", **more})
    with store.open():
        store.declare()
        try:
            yield store
        finally:
            with closing(admin(server)) as client:
                for tier in Tier:
                    found = client.buckets_api().find_bucket_by_name(store.bucket_of(tier))
                    client.buckets_api().delete_bucket(found)


def admin(server: dict[str, str]) -> InfluxDBClient:
    return InfluxDBClient(server["url"], server["token"], org=server["organization"])


@pytest.fixture
def store(server: dict[str, str]) -> Iterator[InfluxDB]:
    with opened(server) as store:
        yield store


@pytest.fixture
def proxy(server: dict[str, str]) -> Iterator[HttpProxy]:
    with HttpProxy(server["url"]).running() as proxy:
        yield proxy


class TestContract(MetricsContract):
    @pytest.fixture
    def store(self, store: InfluxDB) -> MetricsStore:
        return store


def test_its_version_is_told_before_there_is_a_bucket(server: dict[str, str]) -> None:
    """`migrate up` asks for it before it makes the buckets, and takes one that is new enough."""
    with opened(server, bucket="not_there_yet") as store:
        version = store.server_version()
        assert (numbers(version) or ())[:2] >= (2, 7), version
        assert problem(version, store.oldest) == ""


ORGANIZATION, LONG = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"


def sample(moment: datetime, cpu: float = 1.0) -> Sample:
    return (new_id(), new_id(), moment, {"cpu": cpu})


def write_by_hand(store: InfluxDB, line: str, tier: Tier = Tier.RAW) -> None:
    api = store.client.write_api(write_options=SYNCHRONOUS)
    api.write(store.bucket_of(tier), record=line, write_precision="us")


# --- what the server refuses ---


def test_points_before_the_retention_are_refused_with_the_servers_words_and_the_rest_is_written(
    store: InfluxDB,
) -> None:
    now = datetime.now(UTC)
    samples = [sample(now - (9 * DAY if n % 7 == 3 else HOUR)) for n in range(50)]
    refusals = store.write(points(samples))
    assert sorted(refusal.row for refusal in refusals) == list(range(3, 50, 7))
    assert all("Retention Policy Lower Bound" in refusal.words for refusal in refusals)
    assert store.read(now - DAY, now).num_rows == 50 - len(refusals)


def test_points_of_a_day_in_which_a_field_has_another_type_are_refused(store: InfluxDB) -> None:
    """Somebody wrote an integer by hand: InfluxDB keeps a field's type by the day."""
    day = yesterday()
    write_by_hand(store, f"device_metrics,device_id=x,organization_id=y cpu=1i {int(day.timestamp() * 1e6)}")
    samples = [sample(day + HOUR), sample(day - HOUR), sample(day + 2 * HOUR), sample(day - 2 * HOUR)]
    without_cpu: Sample = (new_id(), new_id(), day + HOUR, {"memory": 1.0})
    refusals = store.write(points([*samples, without_cpu]))
    assert sorted(refusal.row for refusal in refusals) == [0, 2]
    assert {"field type conflict" in refusal.words for refusal in refusals} == {True}
    store.delete([])
    assert store.read(day - DAY, day).num_rows == 2


def test_a_refused_window_fails_its_roll_up_with_the_servers_words(store: InfluxDB) -> None:
    """A window that nobody has would look like an hour without samples once full resolution has expired."""
    day = yesterday()
    line = f"device_metrics,device_id=x,organization_id=y cpu_sum=1i {int(day.timestamp() * 1e6)}"
    write_by_hand(store, line, Tier.FIVE_MINUTES)
    store.write(points([sample(day + HOUR)]))
    with pytest.raises(StoreFailed, match=r"refused 1 windows of metrics_5m.*field type conflict"):
        fill_tier(store, Tier.RAW, Tier.FIVE_MINUTES, [day + HOUR], day + DAY)


def test_a_number_that_is_none_is_refused_alone(store: InfluxDB) -> None:
    start = yesterday()
    samples = [sample(start, value) for value in (1.0, math.nan, 2.0, math.inf, 3.0)]
    assert sorted(refusal.row for refusal in store.write(points(samples))) == [1, 3]
    assert sorted(store.read(start, start + HOUR)["cpu"].to_pylist()) == [1.0, 2.0, 3.0]


def test_what_is_refused_for_several_reasons_at_once_is_found_to_the_row(store: InfluxDB) -> None:
    """The server's words name one reason only, of one day; a line that it cannot read costs the whole request."""
    now, day = datetime.now(UTC), yesterday()
    for conflict in (day, day - DAY):
        write_by_hand(store, f"device_metrics,device_id=x,organization_id=y cpu=1i {int(conflict.timestamp() * 1e6)}")
    kinds: list[tuple[datetime, dict[str, float], bool]] = [
        (now - 10 * DAY, {"cpu": 1.0}, False),
        (day + HOUR, {"cpu": 1.0}, False),
        (day - HOUR, {"cpu": 1.0, "memory": 1.0}, False),
        (day - 2 * DAY, {"cpu": 1.0}, True),
        (day + HOUR, {"memory": 1.0}, True),
    ]
    rows = [(new_id(), new_id(), *kinds[n % len(kinds)]) for n in range(200)]
    rows[17] = (new_id(), new_id(), day - 2 * DAY, {"cpu": math.nan}, False)
    refusals = store.write(points(row[:4] for row in rows))
    assert sorted(refusal.row for refusal in refusals) == [n for n, row in enumerate(rows) if not row[4]]
    written = {row["device_id"] for row in store.read(day - 3 * DAY, now).to_pylist()}
    assert written == {row[1] for row in rows if row[4]}


def test_an_interface_with_an_endless_name_is_refused_alone(store: InfluxDB) -> None:
    organization, device = new_id(), new_id()
    readings = [(organization, device, name, yesterday(), 1.0, 1.0) for name in ("eth0", "x" * 70_000, "eth1")]
    [refusal] = store.write_counters(counters(readings))
    assert (refusal.row, refusal.words.endswith("max key length exceeded: 70145 > 65535")) == (1, True)


def test_a_name_like_a_full_disk_is_refused_alone_too(store: InfluxDB) -> None:
    """The server's words quote the names of what it refuses: this one stopped every drain, as if the disk were full."""
    old = datetime.now(UTC) - 9 * DAY
    readings = [(new_id(), new_id(), "eth0", yesterday(), 1.0, 1.0), (new_id(), new_id(), "StorageFull", old, 1.0, 1.0)]
    [refusal] = store.write_counters(counters(readings))
    assert (refusal.row, "interface=StorageFull" in refusal.words) == (1, True)


def test_refused_rows_are_found_in_few_requests(server: dict[str, str], proxy: HttpProxy) -> None:
    now = datetime.now(UTC)
    with opened({**server, "url": proxy.url}) as store:
        samples = [sample(now - (10 * DAY if n % 2 else HOUR)) for n in range(LINES_AT_ONCE)]
        proxy.requests.clear()
        refusals = store.write(points(samples))
        assert sorted(refusal.row for refusal in refusals) == list(range(1, LINES_AT_ONCE, 2))
        assert len(proxy.requests) < 30


def test_the_parts_of_a_reading_are_one_point_and_a_refused_part_is_found(store: InfluxDB) -> None:
    """Other agents give cpu, memory and disk in lines of their own; of one field the last value counts."""
    now = datetime.now(UTC).replace(microsecond=0)
    key = {"organization_id": new_id(), "device_id": new_id()}
    good = [key | {"time": now - HOUR} | of for of in ({"cpu": 1.0}, {"memory": 2.0}, {"disk_used": 3.0}, {"cpu": 4.0})]
    old = [row | {"time": now - 10 * DAY} for row in good[:2]]
    refusals = store.write(pa.Table.from_pylist([*good[:2], *old, *good[2:]], schema=POINTS))
    assert sorted(refusal.row for refusal in refusals) == [2, 3]
    assert store.write(pa.Table.from_pylist(good, schema=POINTS)) == []
    [found] = store.read(now - DAY, now).to_pylist()
    values = dict.fromkeys(FIELDS) | {"cpu": 4.0, "memory": 2.0, "disk_used": 3.0}
    assert found == good[0] | values


# --- a server that is busy, or lost ---


def test_a_server_that_asks_to_wait_is_waited_for(server: dict[str, str], proxy: HttpProxy) -> None:
    with opened({**server, "url": proxy.url}) as store:
        answers = [(503, {"Retry-After": "1"}), (429, {"Retry-After": "1"})]
        proxy.instead = lambda method, path: answers.pop() if answers and "/write" in path else None
        one = sample(yesterday())
        started = time.monotonic()
        assert store.write(points([one])) == []
        assert time.monotonic() - started >= 2
        assert store.read(yesterday(), yesterday() + HOUR).num_rows == 1


def test_a_server_that_asks_for_too_long_is_unavailable(server: dict[str, str], proxy: HttpProxy) -> None:
    with opened({**server, "url": proxy.url}, max_wait_seconds=2) as store:
        proxy.instead = lambda method, path: (503, {"Retry-After": "60"}) if "/write" in path else None
        with pytest.raises(StoreUnavailable, match="503"):
            store.write(points([sample(yesterday())]))


def test_an_answer_that_is_lost_after_the_write_is_harmless(server: dict[str, str], proxy: HttpProxy) -> None:
    with opened({**server, "url": proxy.url}) as store:
        samples = [sample(yesterday() + n * SECOND) for n in range(10)]
        proxy.requests.clear()
        proxy.lose_answers = 2
        assert store.write(points(samples)) == []
        assert [path.startswith("/api/v2/write") for _, path in proxy.requests] == [True] * 3
        assert by_key(store.aggregate(Tier.RAW, yesterday(), yesterday() + HOUR, HOUR)) == windows_of(samples, HOUR)


def test_an_answer_that_is_lost_while_reading_is_asked_for_again(server: dict[str, str], proxy: HttpProxy) -> None:
    with opened({**server, "url": proxy.url}) as store:
        samples = [sample(yesterday() + n * SECOND) for n in range(10)]
        store.write(points(samples))
        proxy.lose_answers = 1
        assert by_key(store.aggregate(Tier.RAW, yesterday(), yesterday() + HOUR, HOUR)) == windows_of(samples, HOUR)


def test_an_answer_that_was_cut_off_is_never_taken_for_the_whole(
    server: dict[str, str], store: InfluxDB, proxy: HttpProxy
) -> None:
    """Cut off in the middle of its headers an answer once looked whole and empty, and an empty hour deletes rows."""
    store.write(points(sample(yesterday() + n * SECOND) for n in range(20)))
    query = "SELECT samples, cpu FROM device_metrics GROUP BY device_id"
    whole = 0
    with InfluxDB(**{**server, "url": proxy.url}, bucket=store.bucket).open() as behind:
        for proxy.cut_at in (*range(0, 400, 3), *range(400, 12_000, 201)):
            try:
                rows = [row for _, rows in behind._series(query, store.bucket) for row in rows]
            except StoreUnavailable:
                continue
            assert len(rows) == 20
            whole += 1
    assert whole


def test_an_answer_that_ends_after_one_of_its_lines_is_not_whole(
    server: dict[str, str], store: InfluxDB, proxy: HttpProxy
) -> None:
    """As it is where something between closes the connection, and no length was said. A line is a series, or 10,000
    rows of one."""
    long = [(ORGANIZATION, LONG, yesterday() + n * SECOND, {"cpu": 1.0}) for n in range(10_001)]
    store.write(points([*long, *(sample(yesterday() + n * SECOND) for n in range(3))]))
    query = "SELECT cpu FROM device_metrics GROUP BY device_id"
    with InfluxDB(**{**server, "url": proxy.url}, bucket=store.bucket).open() as behind:

        def answered(query: str, lines: int, of_the_next: int = 0) -> int:
            """Rows of an answer that ends after so many lines, and bytes of the next."""

            def cut(content: bytes) -> bytes:
                whole = content.splitlines(keepends=True)
                return b"".join([*whole[:lines], *(line[:of_the_next] for line in whole[lines : lines + 1])])

            proxy.changed = cut
            return sum(len(rows) for _, rows in behind._series(query, store.bucket))

        for query_, lines in ((query, 5), ("SELECT cpu FROM nothing", 1)):
            for ends in [(line, size) for line in range(lines) for size in (0, 1, 30)]:
                with pytest.raises(StoreUnavailable, match="ended before it was whole"):
                    answered(query_, *ends)
        assert (answered(query, 5), answered("SELECT cpu FROM nothing", 1)) == (10_004, 0)


def test_what_somebody_else_writes_into_the_bucket_costs_nobody_a_reading(store: InfluxDB) -> None:
    """Text, a truth value, an integer, in fields of ours, and a field with the name of a tag."""
    start, device = yesterday(), new_id()
    for other in ('cpu="x"', "memory=true", "disk_used=7i", f'device_id="{device}"'):
        write_by_hand(store, f"device_metrics,device_id=x,organization_id=y {other} {int(start.timestamp() * 1e6)}")
    ours = [(ORGANIZATION, device, start + SECOND, {"uptime": 1.0})]
    assert store.write(points(ours)) == []
    assert by_key(store.aggregate(Tier.RAW, start, start + HOUR, HOUR)) == windows_of(ours, HOUR)
    assert [row["uptime"] for row in store.read(start, start + HOUR, [device]).to_pylist()] == [1.0]
    assert [row["uptime"] for row in store.latest(start, start + HOUR).to_pylist()] == [1.0]
    store.delete([device])
    assert store.read(start, start + HOUR).num_rows == 0


def test_a_server_that_is_away_is_a_status() -> None:
    store = InfluxDB(url="http://127.0.0.1:1", token="t", organization="o", bucket="b")
    with store.open():
        status = store.status()
        assert (status.ok, status.store) == (False, "InfluxDB")
        assert "ninjait status" in status.problem


def test_a_query_that_fails_on_the_server_is_no_empty_answer(store: InfluxDB) -> None:
    """At once, and after rows have come."""
    store.write(points([sample(yesterday())]))
    wrong = "SELECT nonsense(cpu) FROM device_metrics"
    for query in (wrong, f"SELECT cpu FROM device_metrics; {wrong}"):
        with pytest.raises(StoreFailed, match=r"undefined function nonsense\(\)"):
            list(store._series(query, store.bucket))
    with pytest.raises(StoreFailed, match="found SELEKT"):
        list(store._series("SELEKT cpu", store.bucket))


# --- points that are in the server's files and in its cache ---


class QuicklyWritten(servers.InfluxDB):
    """Writes what it holds into a file when six seconds have gone by without a write."""

    def command(self) -> list[str]:
        return [*super().command(), "--storage-cache-snapshot-write-cold-duration", "6s"]


def test_points_that_flux_gives_twice_are_counted_once(tmp_path: Path) -> None:
    """Late samples are in the cache, before those of a file: of an hour Flux gives some twice (InfluxDB's issue 26711),
    and a roll-up made from it would say so."""
    chance, organization, devices = random.Random(26711), new_id(), [new_id() for _ in range(3)]

    def samples(day: datetime, moments: Iterable[int]) -> list[Sample]:
        """Of 30-second slots from 9 o'clock on; every value is a whole number, so that sums are exact."""
        return [
            (organization, device, day + 9 * HOUR + slot * 30 * SECOND, {name: float(chance.randrange(1_000))})
            for device in devices
            for slot in moments
            for name in (("cpu", "memory") if slot % 3 else ("cpu",))
        ]

    days = [yesterday() - n * DAY for n in range(3)]
    slots = range(1_800)
    late = [range(20), sorted(chance.sample(slots, 300)), range(700, 900)]
    files = [samples(day, sorted(set(slots) - set(late[0])) if day == days[0] else slots) for day in days]
    with (
        alone(QuicklyWritten, tmp_path / "influxdb") as engine,
        opened({name: engine.settings[setting] for name, setting in SETTINGS.items()}) as store,
    ):
        for of_day in files:
            store.write(points(of_day))
        assert eventually(lambda: len(list((tmp_path / "influxdb").rglob("*.tsm"))) == len(days), 30)
        cached = [samples(day, moments) for day, moments in zip(days, late, strict=True)]
        for of_day in cached:
            store.write(points(of_day))
        nine = days[0] + 9 * HOUR
        flux = (
            f'from(bucket: "{store.bucket}") |> range(start: {nine:%FT%TZ}, stop: {nine + HOUR:%FT%TZ}) '
            '|> filter(fn: (r) => r._field == "samples") |> count()'
        )
        counts = [record.get_value() for table in store.client.query_api().query(flux) for record in table.records]
        assert min(counts) > 120, "this server's Flux counts right: nothing is tested here any more"
        for day, *of_day in zip(days, files, cached, strict=True):
            everything = [one for some in of_day for one in some]
            for every in (HOUR, 5 * MINUTE):
                expected = windows_of(everything, every)
                assert by_key(store.aggregate(Tier.RAW, day, day + DAY, every)) == expected
                for start in {key[2] for key in expected} if every == HOUR else ():
                    of_hour = {key: row for key, row in expected.items() if key[2] == start}
                    assert by_key(store.aggregate(Tier.RAW, start, start + HOUR, HOUR)) == of_hour
            found = store.read(day, day + DAY)
            assert len(found) == len({one[1:3] for one in everything})


# --- credentials, buckets ---


def test_a_wrong_token_is_named(server: dict[str, str], store: InfluxDB) -> None:
    with InfluxDB(**{**server, "bucket": store.bucket, "token": "wrong-token"}).open() as stranger:
        for call in (
            stranger.declare,
            lambda: stranger.write(points([sample(yesterday())])),
            lambda: stranger.aggregate(Tier.RAW, yesterday(), yesterday() + HOUR, HOUR),
            lambda: stranger.delete([new_id()]),
        ):
            with pytest.raises(StoreRefused, match="INFLUXDB_TOKEN") as error:
                call()
            assert "wrong-token" not in str(error.value)
        assert not stranger.status().ok


def test_drains_that_start_at_one_moment_make_the_buckets_once(server: dict[str, str]) -> None:
    name = f"contract-{uuid.uuid4()}"
    stores = [InfluxDB(**server, bucket=name) for _ in range(8)]
    with closing(admin(server)) as client, ThreadPoolExecutor(8) as pool:
        try:
            list(pool.map(lambda store: store.declare(), stores))
        finally:
            found = [client.buckets_api().find_bucket_by_name(stores[0].bucket_of(tier)) for tier in Tier]
            for bucket in filter(None, found):
                client.buckets_api().delete_bucket(bucket)
            for store in stores:
                store.close()
    assert all(found)


def test_a_token_for_the_three_buckets_is_enough_and_one_for_less_is_named(
    server: dict[str, str], store: InfluxDB
) -> None:
    def restricted(actions: tuple[str, ...], tiers: Iterable[Tier]) -> InfluxDB:
        found = [store.client.buckets_api().find_bucket_by_name(store.bucket_of(tier)) for tier in tiers]
        resources = [PermissionResource("buckets", id=bucket.id, org_id=bucket.org_id) for bucket in found]
        permissions = [Permission(action, resource) for action in actions for resource in resources]
        api = store.client.authorizations_api()
        token = api.create_authorization(org_id=found[0].org_id, permissions=permissions).token
        return InfluxDB(**{**server, "token": token}, bucket=store.bucket)

    one = sample(yesterday())
    with restricted(("read", "write"), Tier).open() as enough:
        enough.declare()
        assert enough.write(points([one])) == []
        assert enough.aggregate(Tier.RAW, yesterday(), yesterday() + HOUR, HOUR).num_rows == 1
        enough.delete([one[1]])
    with restricted(("read",), Tier).open() as reader, pytest.raises(StoreRefused, match="rights of INFLUXDB_TOKEN"):
        reader.write(points([one]))
    with restricted(("write",), Tier).open() as writer, pytest.raises(StoreRefused, match="INFLUXDB_TOKEN"):
        writer.declare()
    with restricted(("read", "write"), [Tier.RAW]).open() as raw, pytest.raises(StoreRefused, match="INFLUXDB_TOKEN"):
        raw.declare()


def test_an_operators_token_of_another_organization_is_refused(
    server: dict[str, str], store: InfluxDB, proxy: HttpProxy
) -> None:
    """It may write there, and InfluxQL would read the bucket of this name in its own organization."""
    if GIVEN["url"]:
        pytest.skip("makes an organization, which the token of a given server need not allow")
    other = f"other-{uuid.uuid4()}"
    with closing(admin(server)) as client:
        made = client.organizations_api().create_organization(name=other)
        try:
            client.buckets_api().create_bucket(bucket_name=store.bucket, org=other)
            with InfluxDB(**{**server, "organization": other}, bucket=store.bucket).open() as stranger:
                with pytest.raises(StoreRefused, match=f"of the organization {server['organization']}"):
                    stranger.declare()
                assert other in stranger.status().problem
            # as InfluxDB 2.9 has it, which stores hashes
            proxy.changed = partial(re.sub, rb'"token": "[^"]+"', b'"token": "REDACTED"')
            for settings in ({**server, "organization": other}, server):
                refused = pytest.raises(StoreRefused, match="rights in several organizations")
                with InfluxDB(**{**settings, "url": proxy.url}, bucket=store.bucket).open() as hashed, refused:
                    hashed.declare()
        finally:
            client.organizations_api().delete_organization(made.id)


def test_a_name_of_1_x_that_somebody_gave_to_another_bucket_is_named(server: dict[str, str], store: InfluxDB) -> None:
    """As moving from InfluxDB 1 gives them: InfluxQL would read the other one."""
    with closing(admin(server)) as client, opened(server) as other:
        found = client.buckets_api().find_bucket_by_name(other.bucket)
        mapping = {"orgID": found.org_id, "bucketID": found.id, "database": store.bucket, "retention_policy": "autogen"}
        client.api_client.call_api("/api/v2/dbrps", "POST", body=mapping)
        said = f"{store.bucket}/autogen is mapped to the bucket {found.id}, not to {store.bucket}"
        with pytest.raises(StoreFailed, match=said):
            store.declare()
        assert said in store.status().problem


def test_a_missing_bucket_is_named_with_what_makes_it(server: dict[str, str]) -> None:
    with InfluxDB(**server, bucket="nowhere").open() as store:
        for call in (
            lambda: store.write(points([sample(yesterday())])),
            lambda: store.aggregate(Tier.RAW, yesterday(), yesterday() + HOUR, HOUR),
        ):
            with pytest.raises(StoreFailed, match="ninjait migrate up"):
                call()
        assert "no bucket nowhere" in store.status().problem


def test_the_buckets_are_made_once_with_their_retention(store: InfluxDB) -> None:
    store.declare()
    found = {tier: store.client.buckets_api().find_bucket_by_name(store.bucket_of(tier)) for tier in Tier}
    days = {tier: bucket.retention_rules[0].every_seconds / 86_400 for tier, bucket in found.items()}
    assert days == {Tier.RAW: 8, Tier.FIVE_MINUTES: 91, Tier.ONE_HOUR: 731}
    status = store.status()
    assert status.ok
    assert status.version


@pytest.mark.parametrize(("seconds", "words"), [(3 * 86_400, "3 days"), (0, "for ever")])
def test_a_retention_that_differs_is_named_and_not_changed(store: InfluxDB, seconds: int, words: str) -> None:
    api = store.client.buckets_api()
    bucket = api.find_bucket_by_name(store.bucket_of(Tier.FIVE_MINUTES))
    bucket.retention_rules = [BucketRetentionRules(type="expire", every_seconds=seconds)]
    api.update_bucket(bucket)
    with pytest.raises(StoreFailed, match=f"_5m keeps points {words}.*should 91 days"):
        store.declare()
    after = api.find_bucket_by_name(bucket.name).retention_rules
    assert sum(rule.every_seconds for rule in after) == seconds


def test_what_is_no_uuid_never_gets_into_a_predicate(store: InfluxDB) -> None:
    store.write(points([sample(yesterday())]))
    with pytest.raises(ValueError, match="badly formed"):
        store.delete(['x" or device_id!="'])
    assert store.read(yesterday(), yesterday() + HOUR).num_rows == 1


def test_a_device_id_is_bound_and_never_read_as_influxql(store: InfluxDB) -> None:
    store.write(points([sample(yesterday())]))
    assert store.read(yesterday(), yesterday() + HOUR, ["' OR device_id != '"]).num_rows == 0


# --- the encoder ---

NASTY = [
    "",
    " ",
    ",",
    "=",
    "\\",
    "a\\",
    "\\,",
    "a b",
    "\n",
    "\r\n",
    "\t",
    "%",
    "%5C",
    '"',
    "'",
    "\x00",
    "\x7f",
    "ü😀",
    "#",
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
floats = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(texts | st.sampled_from(NASTY)))
def test_any_text_is_held_as_a_tag_and_comes_back(values: list[str]) -> None:
    tags = held(pa.array(values, pa.string()))
    assert text_of(tags).to_pylist() == values
    assert not any(tag == "" or tag.endswith("\\") or set(tag) & {"\n", "\r"} for tag in tags.to_pylist())


@given(tag=texts.filter(bool), values=st.dictionaries(st.sampled_from(list(FIELDS)), floats, min_size=1))
def test_a_line_says_what_the_clients_own_point_says(tag: str, values: dict[str, float]) -> None:
    [tag] = held(pa.array([tag])).to_pylist()
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
    time_ = pa.array([moment], pa.timestamp("us", "UTC"))
    fields = {name: pa.array([values.get(name)], pa.float64()) for name in FIELDS}
    [line] = lines("m", {"b": pa.array([tag]), "a": pa.array(["x"])}, fields, time_).to_pylist()
    point = Point("m").tag("a", "x").tag("b", tag).time(moment, "us")
    for name, value in values.items():
        point.field(name, value)
    head, numbers, stamp = line.removesuffix("\n").rsplit(" ", 2)
    head_, numbers_, stamp_ = point.to_line_protocol().rsplit(" ", 2)
    # The point writes a tab as \\t, which InfluxDB reads back as these two characters.
    assert (head, stamp) == (head_.replace("\\t", "\t"), stamp_)
    bits = [
        {n: struct.pack("d", float(v)) for n, v in (f.split("=") for f in text.split(","))}
        for text in (numbers, numbers_)
    ]
    assert bits[0] == bits[1]


def test_an_interface_may_have_any_name(store: InfluxDB) -> None:
    start, organization, device = yesterday(), new_id(), new_id()
    readings = [
        (organization, device, name, start + n * MINUTE, 2.0**place * n, None)
        for place, name in enumerate(NASTY)
        for n in range(2)
    ]
    assert store.write_counters(counters(readings)) == []
    (row,) = store.aggregate(Tier.RAW, start, start + HOUR, HOUR).to_pylist()
    assert row["network_in_sum"] == 2.0 ** len(NASTY) - 1
    assert {part["interface"].to_pylist()[0] for part in store._counters(start, start + HOUR)} <= set(NASTY)
    names = {name for part in store._counters(start, start + HOUR) for name in part["interface"].to_pylist()}
    assert names == set(NASTY)
    assert COUNTER_MEASUREMENT == "interface_counters"


def test_increases_go_on_over_the_borders_of_what_is_read_at_once(
    store: InfluxDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the answer ends in the middle of a device."""
    monkeypatch.setattr("ninjait_pipelines.resources.influxdb.resource.ROWS_AT_ONCE", 10)
    start, organization = yesterday(), new_id()
    readings = [
        (organization, device, interface, start + n * 30 * SECOND, float((n % 17) * factor), float(n))
        for factor, device in enumerate([new_id() for _ in range(12)], 1)
        for interface in ("eth0", "wlan0", "wlan1")
        for n in range(factor * 5)
    ]
    assert store.write_counters(counters(readings)) == []
    assert len(list(store._counters(start, start + HOUR))) > 20
    got = by_key(store.aggregate(Tier.RAW, start, start + HOUR, 5 * MINUTE))
    assert got == windows_of(increases_of(readings), 5 * MINUTE)


def test_a_series_that_comes_in_several_parts_is_one(store: InfluxDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server sends 10,000 rows at once."""
    monkeypatch.setattr("ninjait_pipelines.resources.influxdb.resource.ROWS_AT_ONCE", 1_000)
    start, organization = yesterday(), new_id()
    samples: list[Sample] = [
        (organization, device, start + n * 150 * timedelta(milliseconds=1), {"cpu": float(n)})
        for device in (new_id(), new_id())
        for n in range(23_000)
    ]
    assert store.write(points(samples)) == []
    assert by_key(store.aggregate(Tier.RAW, start, start + HOUR, HOUR)) == windows_of(samples, HOUR)
    assert len(store.read(start, start + HOUR)) == len(samples)


def test_a_bucket_may_have_a_name_that_is_a_database_and_a_policy_in_1_x(server: dict[str, str]) -> None:
    """InfluxQL finds the bucket `a/b` as the policy b of the database a."""
    with opened(server, bucket=f"{uuid.uuid4()}/kept") as store:
        store.write(points([sample(yesterday())]))
        assert store.read(yesterday(), yesterday() + HOUR).num_rows == 1


def test_every_field_of_the_lower_tiers_comes_back_bit_by_bit(store: InfluxDB) -> None:
    start = yesterday()
    row = {name: 0.1 + index / 3 for index, name in enumerate(WINDOWS.names[3:])}
    key = {"organization_id": new_id(), "device_id": new_id(), "time": start}
    windows = pa.Table.from_pylist([{**key, **row}], schema=WINDOWS)
    for tier in (Tier.FIVE_MINUTES, Tier.ONE_HOUR):
        assert store.write_aggregates(tier, windows) == []
        assert store.aggregate(tier, start, start + HOUR, HOUR).equals(windows)


@few_examples
@given(seconds=st.lists(st.integers(0, 3_599), min_size=1, max_size=20))
def test_read_and_latest_agree_about_the_newest(store: InfluxDB, seconds: list[int]) -> None:
    start, organization, device = yesterday(), new_id(), new_id()
    store.write(points((organization, device, start + n * SECOND, {"cpu": float(n)}) for n in seconds))
    newest = store.read(start, start + HOUR, [device]).to_pylist()[-1]
    assert newest in store.latest(start, start + HOUR).to_pylist()
    assert newest["time"] - start == timedelta(seconds=max(seconds))
