"""Refused rows are found, and a server that asks to wait is waited for."""

import math
import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from ninjait_pipelines.metrics.model import FIELDS, POINTS, Tier
from ninjait_pipelines.resources.influxdb.resource import COUNTER_MEASUREMENT, InfluxDB
from ninjait_pipelines.resources.influxdb.write import LINES_AT_ONCE
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines_tests.resources.http_proxy import HttpProxy
from ninjait_pipelines_tests.resources.influxdb.helpers import (
    NASTY,
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
    new_id,
    points,
    windows_of,
    yesterday,
)

pytestmark = pytest.mark.servers


def test_points_before_the_retention_are_refused_with_the_servers_words_and_the_rest_is_written(
    store: InfluxDB,
) -> None:
    now = datetime.now(UTC)
    samples = [sample(now - (9 * DAY if n % 7 == 3 else HOUR)) for n in range(50)]
    refusals = store.write(points(samples))
    assert sorted(refusal.row for refusal in refusals) == list(range(3, 50, 7))
    assert all("Retention Policy Lower Bound" in refusal.message for refusal in refusals)
    assert store.read(now - DAY, now).num_rows == 50 - len(refusals)


def test_points_of_a_day_in_which_a_field_has_another_type_are_refused(store: InfluxDB) -> None:
    """Somebody wrote an integer by hand: InfluxDB keeps a field's type by the day."""
    day = yesterday()
    write_by_hand(store, f"device_metrics,device_id=x,organization_id=y cpu=1i {int(day.timestamp() * 1e6)}")
    samples = [sample(day + HOUR), sample(day - HOUR), sample(day + 2 * HOUR), sample(day - 2 * HOUR)]
    without_cpu: Sample = (new_id(), new_id(), day + HOUR, {"memory": 1.0})
    refusals = store.write(points([*samples, without_cpu]))
    assert sorted(refusal.row for refusal in refusals) == [0, 2]
    assert {"field type conflict" in refusal.message for refusal in refusals} == {True}
    store.delete([])
    assert store.read(day - DAY, day).num_rows == 2


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
    assert (refusal.row, refusal.message.endswith("max key length exceeded: 70145 > 65535")) == (1, True)


def test_a_name_like_a_full_disk_is_refused_alone_too(store: InfluxDB) -> None:
    """The server's words quote the names of what it refuses: this one stopped every drain, as if the disk were full."""
    old = datetime.now(UTC) - 9 * DAY
    readings = [(new_id(), new_id(), "eth0", yesterday(), 1.0, 1.0), (new_id(), new_id(), "StorageFull", old, 1.0, 1.0)]
    [refusal] = store.write_counters(counters(readings))
    assert (refusal.row, "interface=StorageFull" in refusal.message) == (1, True)


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
