"""Answers that are cut short, in parts, or about rows of other programs."""

import random
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ninjait_pipelines.local.stack import servers
from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources.influxdb import read
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable
from ninjait_pipelines_tests.local.stack.standalone_engine import alone
from ninjait_pipelines_tests.resources.http_proxy import HttpProxy
from ninjait_pipelines_tests.resources.influxdb.helpers import (
    LONG,
    ORGANIZATION,
    SETTINGS,
    opened,
    sample,
    write_by_hand,
)
from ninjait_pipelines_tests.resources.metrics_contract import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    Sample,
    by_key,
    counters,
    increases_of,
    new_id,
    points,
    windows_of,
    yesterday,
)
from ninjait_pipelines_tests.resources.queue_contract import eventually

pytestmark = pytest.mark.servers


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
                rows = [row for _, rows in read.series(behind.server, query, store.bucket) for row in rows]
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
            return sum(len(rows) for _, rows in read.series(behind.server, query, store.bucket))

        for query_, lines in ((query, 5), ("SELECT cpu FROM nothing", 1)):
            for ends in [(line, size) for line in range(lines) for size in (0, 1, 30)]:
                with pytest.raises(StoreUnavailable, match="its answer was cut short"):
                    answered(query_, *ends)
        assert (answered(query, 5), answered("SELECT cpu FROM nothing", 1)) == (10_004, 0)


@pytest.mark.parametrize("damage", [(b"],[", b"]["), (b",4]", b',"x"]'), (b"[[", b"[[1,2,3],["), (b"[[", b"[[],[")])
def test_rows_that_cannot_be_read_are_an_error(
    server: dict[str, str], store: InfluxDB, proxy: HttpProxy, damage: tuple[bytes, bytes]
) -> None:
    """They are parsed as CSV, whose readers drop a line here and guess a column there."""
    store.write(points((ORGANIZATION, LONG, yesterday() + n * SECOND, {"cpu": 4.0}) for n in range(20)))
    proxy.changed = lambda content: content.replace(*damage, 1)
    with InfluxDB(**{**server, "url": proxy.url}, bucket=store.bucket).open() as behind:
        with pytest.raises(StoreFailed, match=r"cannot be decoded|of the 21 rows of its answer"):
            list(read.tables(behind.server, store.bucket, "device_metrics", ["cpu"], yesterday(), yesterday() + HOUR))
        proxy.changed = lambda content: content
        [whole] = read.tables(behind.server, store.bucket, "device_metrics", ["cpu"], yesterday(), yesterday() + HOUR)
        assert len(whole) == 20


def test_every_float_is_read_as_it_was_written(store: InfluxDB) -> None:
    """To the last bit: tiny, huge, with an exponent, and the negative zero, which the server writes as an integer."""
    chance = random.Random(7)
    values = [-0.0, 0.0, 5e-324, 1.7976931348623157e308, 1e21, 1e-7, 0.1 + 0.2, 2.0**53 + 1, -1 / 3]
    values += [chance.uniform(-1, 1) * 10 ** chance.randrange(-300, 300) for _ in range(300)]
    start = yesterday()
    store.write(points((ORGANIZATION, LONG, start + n * SECOND, {"cpu": one}) for n, one in enumerate(values)))
    found = store.read(start, start + HOUR, [LONG])["cpu"].to_pylist()
    assert [one.hex() for one in found] == [one.hex() for one in values]


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


def test_a_query_that_fails_on_the_server_is_no_empty_answer(store: InfluxDB) -> None:
    """At once, and after rows have come."""
    store.write(points([sample(yesterday())]))
    wrong = "SELECT nonsense(cpu) FROM device_metrics"
    for query in (wrong, f"SELECT cpu FROM device_metrics; {wrong}"):
        with pytest.raises(StoreFailed, match=r"undefined function nonsense\(\)"):
            list(read.series(store.server, query, store.bucket))
    with pytest.raises(StoreFailed, match="found SELEKT"):
        list(read.series(store.server, "SELEKT cpu", store.bucket))


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


def test_a_device_id_is_bound_and_never_read_as_influxql(store: InfluxDB) -> None:
    store.write(points([sample(yesterday())]))
    assert store.read(yesterday(), yesterday() + HOUR, ["' OR device_id != '"]).num_rows == 0


def test_increases_go_on_over_the_borders_of_what_is_read_at_once(store: InfluxDB) -> None:
    """A part of the answer ends in the middle of a device."""
    store.server.rows_at_once = 10
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


def test_a_series_that_comes_in_several_parts_is_one(store: InfluxDB) -> None:
    """The server sends 10,000 rows at once."""
    store.server.rows_at_once = 1_000
    start, organization = yesterday(), new_id()
    samples: list[Sample] = [
        (organization, device, start + n * 150 * timedelta(milliseconds=1), {"cpu": float(n)})
        for device in (new_id(), new_id())
        for n in range(23_000)
    ]
    assert store.write(points(samples)) == []
    assert by_key(store.aggregate(Tier.RAW, start, start + HOUR, HOUR)) == windows_of(samples, HOUR)
    assert len(store.read(start, start + HOUR)) == len(samples)
