"""Queues that 0.3.0 declared are replaced without losing a message."""

import itertools
import urllib.parse
import urllib.request
from typing import Any

import pika
import pytest

from ninjait_pipelines.resources.rabbitmq.topology import DEAD_LETTER_DELIVERY_LIMIT, EVENTS, dead_queue
from ninjait_pipelines.resources.store import StoreFailed
from ninjait_pipelines.streams import QUEUES
from ninjait_pipelines_tests.resources.queue_contract import (
    DELIVERY_LIMIT,
    MAX_LENGTH,
    QUEUE,
    bodies,
    drain,
    outgoing,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import FORGED, Node, assert_declared, held, make
from ninjait_pipelines_tests.runs import Killed

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


def declare_as_0_3_0(raw: Any) -> None:
    raw.exchange_declare(EVENTS, "topic", durable=True)
    raw.exchange_declare("ninjait.dead", "direct", durable=True)
    for name, keys in QUEUES.items():
        raw.queue_declare(
            dead_queue(name),
            durable=True,
            arguments={"x-queue-type": "quorum", "x-delivery-limit": DEAD_LETTER_DELIVERY_LIMIT},
        )
        raw.queue_bind(dead_queue(name), "ninjait.dead", name)
        arguments = {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-max-length": MAX_LENGTH,
            "x-overflow": "reject-publish",
            "x-dead-letter-exchange": "ninjait.dead",
            "x-dead-letter-routing-key": name,
            "x-dead-letter-strategy": "at-least-once",
        }
        raw.queue_declare(name, durable=True, arguments=arguments)
        for key in keys:
            raw.queue_bind(name, EVENTS, key)


ODD = pika.BasicProperties("text/plain", message_id="m", headers={"a": [1, "b"]}, timestamp=1_795_257_771)


def test_queues_of_0_3_0_are_made_anew_with_all_that_they_hold(node: Node, url: str, raw: Any) -> None:
    declare_as_0_3_0(raw)
    with make(url).open() as queue:
        with pytest.raises(StoreFailed, match=r"different x-dead-letter-\S+: .*keeps its messages: ninjait migrate up"):
            queue.declare()
        queue.publish(outgoing(number) for number in range(20))
        raw.basic_publish(EVENTS, "metrics.telegraf.a", b"body 20", ODD)
        raw.basic_publish(EVENTS, "metrics.a", b"body 21", pika.BasicProperties(headers=FORGED))
        raw.basic_publish("ninjait.dead", QUEUE, b"body 22", pika.BasicProperties(headers=FORGED))
        lines = list(queue.upgrade())
        assert [line.partition(" ")[0] for line in lines] == list(QUEUES)
        assert list(queue.upgrade()) == []
        assert_declared(node, url)
        messages = drain(queue)
        assert bodies(messages) == list(range(22))
        assert {message.routing_key for message in messages} == {"metrics.a", "metrics.telegraf.a"}
        assert (messages[20].message_id, messages[20].published_at) == ("m", 1_795_257_771_000)
        ((letter, _),) = queue.dead_letters(QUEUE)
        assert (letter.body, letter.routing_key) == (b"body 22", "")  # what its header claims is not believed
        names = {one["name"] for one in node.ask("GET", f"exchanges/{urllib.parse.urlsplit(url).path[1:]}")}
        assert {name for name in names if name and not name.startswith("amq.")} == {EVENTS, *map(dead_queue, QUEUES)}


def test_queues_of_0_3_0_with_other_limits_are_made_anew_too(url: str, raw: Any) -> None:
    """They were compared with the limits of today: with others the upgrade left them, and no drain could begin."""
    declare_as_0_3_0(raw)
    limits = {"delivery_limit": DELIVERY_LIMIT + 4, "max_length": MAX_LENGTH + 1}
    with make(url).model_copy(update=limits).open() as queue:
        raw.basic_publish(EVENTS, "metrics.a", b"body 1", ODD)
        assert [line.partition(" ")[0] for line in queue.upgrade()] == list(QUEUES)
        assert bodies(drain(queue)) == [1]


def test_what_another_user_signed_moves_too_and_expires_nowhere(node: Node, url: str, raw: Any) -> None:
    """A message with its publisher's user_id stopped the move at its place, for ever: the broker took it from nobody
    else. Here by TLS with an authority of our own, which the move did not know."""
    declare_as_0_3_0(raw)
    name = urllib.parse.urlsplit(url).path[1:]
    node.ask("PUT", "users/tenant", {"password": "p", "tags": ""})
    node.ask("PUT", f"permissions/{name}/tenant", {"configure": "", "write": ".*", "read": ""})
    parameters = pika.URLParameters(url)
    parameters.credentials = pika.PlainCredentials("tenant", "p")
    with pika.BlockingConnection(parameters) as connection:
        signed = pika.BasicProperties(user_id="tenant", expiration="600000")
        connection.channel().basic_publish(EVENTS, "metrics.a", b"body 1", signed)
    parts = urllib.parse.urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    secure = parts._replace(scheme="amqps", netloc=f"{user}@localhost:{node.tls_port}").geturl()
    with make(secure, ca_file=str(node.cafile)).open() as queue:
        list(queue.upgrade())
    _, properties, body = raw.basic_get(QUEUE)
    assert (body, properties.user_id, properties.expiration) == (b"body 1", None, None)


def test_a_queue_that_is_read_is_not_made_anew(url: str, raw: Any) -> None:
    """What an old drain holds would be given back to a queue that is not there any more."""
    declare_as_0_3_0(raw)
    with make(url).open() as queue:
        queue.publish([outgoing(1)])
        with queue.consume(QUEUE, 1) as consumer:
            held(consumer, 1)
            with pytest.raises(StoreFailed, match=r"1 consumers read the queue agent\.metrics.*migrate up"):
                list(queue.upgrade())
        list(queue.upgrade())
        assert bodies(drain(queue)) == [1]


STEPS = [
    "queue_declare",
    "exchange_declare",
    "queue_bind",
    "queue_unbind",
    "basic_publish",
    "basic_ack",
    "queue_delete",
]


def dies_at(patch: pytest.MonkeyPatch, number: int) -> None:
    """In the upgrade's step of this number: before it reaches the broker, or after, in turns."""
    channel: Any = pika.adapters.blocking_connection.BlockingChannel
    calls = itertools.count(1)

    def dying(real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            call_number = next(calls)
            if call_number == number and number % 2:
                raise Killed("the process")
            result = real(*arguments, **more)
            if call_number == number:
                raise Killed("the process")
            return result

        return call

    for name in STEPS:
        patch.setattr(channel, name, dying(getattr(channel, name)))


def test_an_upgrade_that_is_killed_anywhere_is_ended_by_the_next(
    url: str, raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody publishes in between; every message is there at last."""
    for name in [*QUEUES][:0:-1]:  # all but the first, from the last: so they are put back in order
        monkeypatch.delitem(QUEUES, name)
    declare_as_0_3_0(raw)
    with make(url).open() as queue:
        queue.publish(outgoing(number) for number in range(3))
        for kill_at in itertools.count(1):
            with monkeypatch.context() as patch:
                dies_at(patch, kill_at)
                try:
                    list(queue.upgrade(settle_seconds=0))
                    break
                except Killed:
                    pass
            queue.publish([outgoing(2 + kill_at)])
        assert kill_at > 15
        assert sorted(set(bodies(drain(queue)))) == list(range(2 + kill_at))
        queue.declare()
