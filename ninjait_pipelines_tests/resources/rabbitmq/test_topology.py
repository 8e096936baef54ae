"""What is declared on the broker, and what happens if something else is there."""

import json
import re
import urllib.parse
import urllib.request
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ninjait_pipelines.cli.migrate import register
from ninjait_pipelines.messages import Outgoing, fits
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS
from ninjait_pipelines.resources.store import StoreFailed, StoreRefused
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.resources.queue_contract import (
    QUEUE,
    bodies,
    drain,
    outgoing,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import Node, assert_declared, held, make

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def test_what_is_declared_is_what_the_broker_has(node: Node, url: str, queue: RabbitMQ) -> None:
    queue.declare()
    assert_declared(node, url)


def test_a_queue_with_other_arguments_is_named_with_both_and_left_alone(url: str, queue: RabbitMQ) -> None:
    queue.publish([outgoing(1)])
    with make(url, max_length=5).open() as other:
        with pytest.raises(StoreFailed, match=r"queue agent\.metrics .*x-max-length.*2000.*ours.*5.*left as it is"):
            other.declare()
        assert other.depth(QUEUE).ready == 1
    with make(url, delivery_limit=9).open() as other, pytest.raises(StoreFailed, match=r"x-delivery-limit.*3.*ours.*9"):
        other.declare()
    queue.declare()
    assert bodies(drain(queue)) == [1]


def test_a_queue_and_an_exchange_of_another_type_are_named(url: str, raw: Any) -> None:
    raw.queue_declare("platform.logs", durable=True)
    with (
        make(url).open() as queue,
        pytest.raises(StoreFailed, match=r"queue platform\.logs .*: it has none, ours is"),
    ):
        queue.declare()
    raw.queue_delete("platform.logs")
    raw.exchange_delete(EVENTS)
    raw.exchange_declare(EVENTS, "fanout")
    with make(url).open() as queue, pytest.raises(StoreFailed, match=rf"exchange {EVENTS} .*fanout.*topic"):
        queue.declare()


def test_the_migrations_declare_it_and_say_what_differs(url: str, raw: Any, settings: Settings) -> None:
    app, runner = typer.Typer(), CliRunner(env={**settings, "RABBITMQ_URL": url})
    app.callback()(lambda: None)
    register(app)
    assert runner.invoke(app, ["migrate", "up"]).exit_code == 0
    assert raw.queue_declare("platform.logs.dead", passive=True).method.message_count == 0
    assert runner.invoke(app, ["migrate", "status"]).exit_code == 0
    raw.queue_delete("platform.logs")
    raw.queue_declare("platform.logs", durable=True)
    listed = runner.invoke(app, ["migrate", "status", "--json"])
    assert listed.exit_code == 1
    (queue,) = (row for row in json.loads(listed.output) if row["store"] == "message_queue")
    assert re.match(r"differs: .*the queue platform\.logs was declared with a different x-", queue["state"])
    failed = runner.invoke(app, ["migrate", "up"])
    assert isinstance(failed.exception, StoreFailed)


def test_a_user_who_may_not_declare_is_told(node: Node, url: str, queue: RabbitMQ) -> None:
    vhost = urllib.parse.urlsplit(url).path[1:]
    node.ask("PUT", "users/reader", {"password": "pass", "tags": ""})
    node.ask("PUT", f"permissions/{vhost}/reader", {"configure": "", "write": "", "read": ".*"})
    parts = urllib.parse.urlsplit(url)
    theirs = parts._replace(netloc=f"reader:pass@127.0.0.1:{parts.port}").geturl()
    with make(theirs).open() as reader:
        reader.declare()  # what the owner declared is there
        with pytest.raises(StoreRefused, match=r"(?i)access.*refused"):
            reader.publish([outgoing(1)])
        assert reader.depth(QUEUE).ready == 0
        node.ask("DELETE", f"queues/{vhost}/{QUEUE}.dead")
        with pytest.raises(StoreFailed, match=r"no queue.*ninjait migrate up"):
            reader.declare()


def test_dead_letters_may_be_looked_at_for_ever(queue: RabbitMQ) -> None:
    """RabbitMQ 4 drops a message that was given back 20 times."""
    queue.publish([outgoing(1), outgoing(2)])
    with queue.consume(QUEUE, 2) as consumer:
        for message in held(consumer, 2):
            consumer.reject(message, "why")
    first = queue.dead_letters(QUEUE)
    for _ in range(60):
        assert queue.dead_letters(QUEUE) == first
    assert [message.body for message, _ in first] == [b"body 1", b"body 2"]


def test_whatever_its_routing_key_a_dead_letter_has_a_place(queue: RabbitMQ, raw: Any) -> None:
    """Somebody's own binding, or the default exchange: a dead letter that no queue takes would stay for ever."""
    raw.queue_bind(QUEUE, EVENTS, "legacy.#")
    raw.basic_publish(EVENTS, "legacy.of.a", b"body 1")
    raw.basic_publish("", QUEUE, b"body 2")
    raw.basic_publish(EVENTS, b"metrics." + b"\xff" * 240, b"body 3")
    with queue.consume(QUEUE, 3) as consumer:
        for message in held(consumer, 3):
            consumer.reject(message, "why")
    keys = [letter.routing_key[:20] for letter, _ in queue.dead_letters(QUEUE)]
    assert keys == ["legacy.of.a", "", "metrics." + "\ufffd" * 12]


@pytest.mark.parametrize(
    "key",
    [
        "metrics.a",
        "metrics",
        "metrics.",
        "metrics.a.b",
        "metrics.telegraf",
        "metrics.telegraf.a.b",
        "metricsXa",
        "",
        "#",
    ],
)
def test_the_broker_routes_as_fits_says(queue: RabbitMQ, key: str) -> None:
    routed = True
    try:
        queue.publish([Outgoing(QUEUE, key, b"body")])
    except StoreFailed:
        routed = False
    assert fits(QUEUE, key) == queue.takes(Outgoing(QUEUE, key, b"")) == routed
