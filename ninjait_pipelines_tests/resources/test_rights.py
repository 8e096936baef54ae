"""The rights that docs/production.md gives: as they stand there, on a real broker and a real Redis."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import quote, urlsplit

import pytest
import redis.exceptions
from influxdb_client import InfluxDBClient, Permission, PermissionResource

from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.metrics.model import Tier
from ninjait_pipelines.paths import ROOT, SQL
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.influxdb.resource import InfluxDB
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.store import StoreError, StoreRefused
from ninjait_pipelines.settings import Settings, validate
from ninjait_pipelines_tests.compose import compose_definitions
from ninjait_pipelines_tests.conftest import _manage_rabbitmq

PAGE = (ROOT / "docs" / "production.md").read_text()
MINE = "39a970c9-0000-4000-8000-000000000000"
OTHER = "4b0c81d2-0000-4000-8000-000000000000"


def rights(command: str) -> list[str]:
    """The patterns of a rabbitmqctl command on the page."""
    found = re.search(rf"rabbitmqctl {command}((?:\s+\\?\s*'[^']*')+)", PAGE)
    assert found, command
    return re.findall(r"'([^']*)'", found[1])


@pytest.fixture
def by(stack: dict[str, str], settings: Settings, stores: Stores) -> Iterator[dict[str, RabbitMQ]]:
    """The broker by the page's users: the organization's, the pipeline's, the owner's."""
    parts = urlsplit(settings["RABBITMQ_URL"])
    vhost = quote(parts.path[1:], safe="%")
    users = {"sender": "org-39a970c9", "pipelines": "ninjait_pipelines", "owner": "ninjait_owner"}
    found = {}
    for name, user in users.items():
        _manage_rabbitmq(stack, "PUT", f"users/{user}", {"password": "of-the-test", "tags": ""})
        configure, write, read = rights(f"set_permissions {user}")
        given = {"configure": configure, "write": write, "read": read}
        _manage_rabbitmq(stack, "PUT", f"permissions/{vhost}/{user}", given)
        host = parts.netloc.rpartition("@")[2]
        found[name] = RabbitMQ(url=parts._replace(netloc=f"{user}:of-the-test@{host}").geturl())
    write, read = rights("set_topic_permissions org-39a970c9 ninjait.events")
    given = {"exchange": "ninjait.events", "write": write, "read": read}
    _manage_rabbitmq(stack, "PUT", f"topic-permissions/{vhost}/{users['sender']}", given)
    yield found
    for store in found.values():
        store.close()
    for user in users.values():
        _manage_rabbitmq(stack, "DELETE", f"users/{user}")


@pytest.mark.servers
def test_a_sender_writes_to_its_own_keys_and_nothing_else(by: dict[str, RabbitMQ]) -> None:
    sender = by["sender"]
    sender.publish([Outgoing("agent.metrics", f"metrics.{MINE}", b"{}")])
    sender.publish([Outgoing("agent.metrics", f"metrics.telegraf.{MINE}", b"{}")])
    for queue, key in (("agent.metrics", f"metrics.{OTHER}"), ("agent.metrics", f"metrics.{MINE}.{OTHER}")):
        with pytest.raises(StoreError):
            sender.publish([Outgoing(queue, key, b"{}")])
    with pytest.raises(StoreRefused), sender.consume("agent.metrics", 1):
        pass


@pytest.mark.servers
def test_the_pipeline_drains_and_replays_and_the_owner_declares(by: dict[str, RabbitMQ]) -> None:
    pipelines = by["pipelines"]
    list(by["owner"].upgrade())
    pipelines.declare()  # as every drain does: a user that may not configure is content with what there is
    assert pipelines.status().ok
    pipelines.publish([Outgoing("agent.metrics", f"metrics.{MINE}", b"{}")])
    with pipelines.consume("agent.metrics", 10) as consumer:
        [message] = consumer.receive(10, wait_seconds=2)
        consumer.acknowledge([message])
    pipelines.publish_dead_letter(message, "of the test")
    assert pipelines.depth("agent.metrics").dead == 1
    pipelines.discard_dead_letters([letter for letter, _ in pipelines.dead_letters("agent.metrics")])
    assert pipelines.depth("agent.metrics").dead == 0


@pytest.mark.servers
def test_a_broker_takes_the_definitions_of_compose(stack: dict[str, str]) -> None:
    """At its start, and by its management pages, it reads them with the same code."""
    users = {name: f"compose_{name}" for name in ("administrator", "ninjait_owner", "ninjait_pipelines")}
    text = json.dumps(compose_definitions()).replace('"/"', '"compose"')
    for name, other in users.items():
        text = text.replace(f'"{name}"', f'"{other}"')
    definitions = json.loads(text)
    passwords = {one["name"]: one["password"] for one in definitions["users"]}
    place = urlsplit(stack["RABBITMQ_URL"]).netloc.rpartition("@")[2]
    try:
        _manage_rabbitmq(stack, "POST", "definitions", definitions)
        owner, pipelines = (
            RabbitMQ(url=f"amqp://{user}:{passwords[user]}@{place}/compose")
            for user in (users["ninjait_owner"], users["ninjait_pipelines"])
        )
        with owner.open():
            list(owner.upgrade())
        with pipelines.open():
            assert pipelines.status().ok, pipelines.status().problem
            pipelines.publish([Outgoing("agent.metrics", f"metrics.{MINE}", b"{}")])
            with pipelines.consume("agent.metrics", 10) as consumer:
                consumer.acknowledge(consumer.receive(10, wait_seconds=2))
    finally:
        _manage_rabbitmq(stack, "DELETE", "vhosts/compose")
        for user in users.values():
            _manage_rabbitmq(stack, "DELETE", f"users/{user}")


def test_dragonfly_lets_each_do_its_work(stack: dict[str, str], settings: Settings) -> None:
    rules = dict(re.findall(r"ACL SETUSER (\w+) (.*)", PAGE))
    address = urlsplit(settings["DRAGONFLY_URL"])
    place = address.netloc.rpartition("@")[2]
    with Dragonfly(url=settings["DRAGONFLY_URL"]).open() as store:
        for user, rights in rules.items():
            store.client.execute_command("ACL", "SETUSER", user, *rights.split())
        try:
            urls = {user: address._replace(netloc=f"{user}:password@{place}").geturl() for user in rules}
            key, value = "org:1:summary", {"as_of": "2026-01-01T00:00:00.000000+00:00"}
            with Dragonfly(url=urls["ninjait_pipelines"]).open() as pipelines:
                pipelines.probe()
                assert pipelines.set_if_newer(key, value)
                assert pipelines.status().ok
            with DragonflyQueue(url=urls["ninjait_pipelines"]).open() as queue:
                queue.declare()
                queue.publish([Outgoing("agent.metrics", f"metrics.{MINE}", b"{}")])
                with queue.consume("agent.metrics", 10) as consumer:
                    consumer.acknowledge(consumer.receive(10, wait_seconds=2))
                assert queue.depth("agent.metrics").ready == 0
            with Dragonfly(url=urls["platform_api"]).open() as api, api.errors():
                assert api.client.get(key)
                for forbidden in (("SET", key, "x"), ("GET", "ninjait:anything"), ("FLUSHDB",)):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        api.client.execute_command(*forbidden)
        finally:
            store.client.execute_command("ACL", "DELUSER", *rules)


@pytest.mark.servers
def test_a_token_of_three_buckets_is_enough_for_the_pipeline_and_a_readers_writes_nothing(
    stack: dict[str, str], settings: Settings, stores: Stores
) -> None:
    store = stores.metrics_store
    assert isinstance(store, InfluxDB)
    store.declare()
    with InfluxDBClient(stack["INFLUXDB_URL"], stack["INFLUXDB_TOKEN"]) as client:
        organization = client.organizations_api().find_organizations(org=settings["INFLUXDB_ORG"])[0].id
        found = {
            bucket.name: bucket for bucket in client.buckets_api().find_buckets(org=settings["INFLUXDB_ORG"]).buckets
        }

        def token(*actions: str) -> str:
            places = [
                PermissionResource("buckets", id=found[store.bucket_of(tier)].id, org_id=organization) for tier in Tier
            ]
            permissions = [Permission(action, place) for place in places for action in actions]
            return str(client.authorizations_api().create_authorization(organization, permissions).token)

        place = {"url": store.url, "organization": store.organization, "bucket": store.bucket}
        with InfluxDB(token=token("read", "write"), **place).open() as pipelines:
            assert pipelines.status().ok, pipelines.status().problem
            pipelines.probe()
        with InfluxDB(token=token("read"), **place).open() as reader:
            now = stores.clickhouse.now()
            assert reader.read(now - timedelta(hours=1), now).num_rows == 0
            with pytest.raises(StoreRefused):
                reader.probe()


def test_clickhouse_reads_the_script_of_its_users(stack: dict[str, str]) -> None:
    """The local front has one user, so that only ClickHouse's parser is asked."""
    text = (SQL / "roles" / "clickhouse.sql").read_text()
    statements = [part for part in text.split(";\n") if part.strip()]
    assert len(statements) == 7
    with open_stores(validate(stack)) as opened:
        for statement in statements:
            opened.clickhouse.scalar("SELECT formatQuerySingleLine({statement:String})", statement=statement)
