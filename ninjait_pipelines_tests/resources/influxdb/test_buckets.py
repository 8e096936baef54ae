"""Buckets, tokens and names of 1.x: created, checked, and refused with a reason."""

import re
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest
from influxdb_client import BucketRetentionRules, Permission, PermissionResource

from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused
from ninjait_pipelines_tests.resources.http_proxy import HttpProxy
from ninjait_pipelines_tests.resources.influxdb.helpers import GIVEN, admin, opened, sample
from ninjait_pipelines_tests.resources.metrics_contract import (
    HOUR,
    points,
    yesterday,
)

pytestmark = pytest.mark.servers


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
                with pytest.raises(StoreRefused, match=f"belongs to the organization {server['organization']}"):
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


def test_a_bucket_may_have_a_name_that_is_a_database_and_a_policy_in_1_x(server: dict[str, str]) -> None:
    """InfluxQL finds the bucket `a/b` as the policy b of the database a."""
    with opened(server, bucket=f"{uuid.uuid4()}/kept") as store:
        store.write(points([sample(yesterday())]))
        assert store.read(yesterday(), yesterday() + HOUR).num_rows == 1
