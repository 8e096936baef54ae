"""The buckets: created and checked, as well as the token and the names by which InfluxQL finds them."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from influxdb_client import Bucket, BucketRetentionRules
from influxdb_client.rest import ApiException

from ninjait_pipelines.resources.influxdb.errors import NOT_FOUND, TITLE, message_of
from ninjait_pipelines.resources.influxdb.server import Server
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused

T = TypeVar("T")


def check_token(server: Server) -> None:
    """Raises StoreRefused unless the token belongs to the organization: InfluxQL takes the organization from the token,
    and an operator's token has rights in others as well."""
    tokens = _visible(server.client.authorizations_api().find_authorizations)
    owner = next((token.org for token in tokens if token.token == server.token), None)
    problem = ""
    if owner and owner != server.organization:
        problem = f"INFLUXDB_TOKEN belongs to the organization {owner}, but INFLUXDB_ORG is {server.organization}"
    elif not owner and len(_visible(server.client.organizations_api().find_organizations)) > 1:
        # From 2.9 on the server stores only hashes of tokens, and cannot tell which is ours.
        problem = "INFLUXDB_TOKEN has rights in several organizations, and the server does not tell which it belongs to"
    if problem:
        raise StoreRefused(TITLE, server.url, problem, f"Create a token in {server.organization}.")


def _visible(find: Callable[[], list[T]]) -> list[T]:
    """What the token may see; one with rights on the buckets alone sees nothing else."""
    try:
        return find()
    except ApiException as error:
        if error.status not in (401, 403):
            raise
        return []


def declare(server: Server, name: str, kept: timedelta) -> None:
    """Creates the bucket if it is missing. Raises StoreFailed if its retention differs, or if InfluxQL would read
    another bucket; changes nothing then."""
    bucket = find(server, name) or _create(server, name, kept)
    check_mapping(server, bucket)
    seconds = [rule.every_seconds for rule in bucket.retention_rules if rule.type == "expire"]
    if seconds != [int(kept.total_seconds())]:
        found = str(timedelta(seconds=seconds[0])) if seconds and seconds[0] else "for ever"
        problem = f"the bucket {name} keeps points {found}, and should {kept}; it was not changed"
        advice = f"Set it: influx bucket update --id {bucket.id} --retention {int(kept.total_seconds())}s."
        raise StoreFailed(TITLE, server.url, problem, advice)


def check(server: Server, name: str) -> None:
    """Raises StoreFailed if there is no such bucket, or if InfluxQL would read another one."""
    bucket = find(server, name)
    if bucket is None:
        raise StoreFailed(TITLE, server.url, f"there is no bucket {name}", NOT_FOUND)
    check_mapping(server, bucket)


def check_mapping(server: Server, bucket: Bucket) -> None:
    """InfluxQL finds a bucket by its names of 1.x, which may be mapped to another bucket."""
    query = {"orgID": bucket.org_id} | names_in_1_x(bucket.name)
    for mapping in server.request("GET", "/api/v2/dbrps", query).json()["content"]:
        if mapping["bucketID"] != bucket.id:
            name, other = "/".join(mapping[part] for part in ("database", "retention_policy")), mapping["bucketID"]
            problem = f"{name} is mapped to the bucket {other}, not to {bucket.name}"
            advice = (
                f"Delete that mapping: influx v1 dbrp delete --id {mapping['id']}; or choose another INFLUXDB_BUCKET."
            )
            raise StoreFailed(TITLE, server.url, problem, advice)


def names_in_1_x(bucket: str) -> dict[str, str]:
    """Database and retention policy, by which InfluxQL knows a bucket
    (docs.influxdata.com/influxdb/v2/reference/api/influxdb-1x/dbrp)."""
    database, _, policy = bucket.partition("/")
    return {"db": database, "rp": policy or "autogen"}


def find(server: Server, name: str) -> Bucket | None:
    """The bucket, if there is one."""
    try:
        buckets = server.client.buckets_api().find_buckets(name=name, org=server.organization).buckets
    except ApiException as error:
        # 404 is also the answer if the organization does not exist, or the token may not see it.
        if error.status == 404 and message_of(error).startswith(f'bucket "{name}"'):
            return None
        raise
    return buckets[0] if buckets else None


def _create(server: Server, name: str, kept: timedelta) -> Bucket:
    rule = BucketRetentionRules(type="expire", every_seconds=int(kept.total_seconds()))
    try:
        return server.client.buckets_api().create_bucket(bucket_name=name, retention_rules=[rule])
    except ApiException as error:
        # Another drain may have created it just now.
        if error.status in (400, 409, 422) and (bucket := find(server, name)):
            return bucket
        raise
