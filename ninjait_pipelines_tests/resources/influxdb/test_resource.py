"""`InfluxDB` keeps the metrics store's contract on a real server."""

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.metrics.model import WINDOWS, Tier
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.metrics_store import MetricsStore
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused
from ninjait_pipelines.resources.versions import numbers, problem
from ninjait_pipelines.rollup.assets import fill_tier
from ninjait_pipelines_tests.resources.influxdb.helpers import opened, sample, write_by_hand
from ninjait_pipelines_tests.resources.metrics_contract import (
    DAY,
    HOUR,
    SECOND,
    MetricsContract,
    few_examples,
    new_id,
    points,
    yesterday,
)

pytestmark = pytest.mark.servers


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


def test_a_server_that_is_away_is_a_status() -> None:
    store = InfluxDB(url="http://127.0.0.1:1", token="t", organization="o", bucket="b")
    with store.open():
        status = store.status()
        assert (status.ok, status.store) == (False, "InfluxDB")
        assert "ninjait status" in status.problem


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


def test_a_missing_bucket_is_named_with_what_makes_it(server: dict[str, str]) -> None:
    with InfluxDB(**server, bucket="nowhere").open() as store:
        for call in (
            lambda: store.write(points([sample(yesterday())])),
            lambda: store.aggregate(Tier.RAW, yesterday(), yesterday() + HOUR, HOUR),
        ):
            with pytest.raises(StoreFailed, match="ninjait migrate up"):
                call()
        assert "no bucket nowhere" in store.status().problem


def test_what_is_no_uuid_never_gets_into_a_predicate(store: InfluxDB) -> None:
    store.write(points([sample(yesterday())]))
    with pytest.raises(ValueError, match="badly formed"):
        store.delete(['x" or device_id!="'])
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


def test_a_refused_window_fails_its_roll_up_with_the_servers_words(store: InfluxDB) -> None:
    """A window that nobody has would look like an hour without samples once full resolution has expired."""
    day = yesterday()
    line = f"device_metrics,device_id=x,organization_id=y cpu_sum=1i {int(day.timestamp() * 1e6)}"
    write_by_hand(store, line, Tier.FIVE_MINUTES)
    store.write(points([sample(day + HOUR)]))
    with pytest.raises(StoreFailed, match=r"refused 1 windows of metrics_5m.*field type conflict"):
        fill_tier(store, Tier.RAW, Tier.FIVE_MINUTES, [day + HOUR], day + DAY)
