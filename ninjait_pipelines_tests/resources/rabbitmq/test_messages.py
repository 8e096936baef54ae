"""Identity and headers of messages, ours and third parties', on a real broker."""

import re
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources.rabbitmq import messages as rabbitmq_messages
from ninjait_pipelines.resources.rabbitmq.messages import delivered, properties_of
from ninjait_pipelines.resources.rabbitmq.resource import RabbitMQ
from ninjait_pipelines.resources.rabbitmq.topology import EVENTS, dead_queue
from ninjait_pipelines_tests.resources.queue_contract import (
    QUEUE,
    drain,
    eventually,
)
from ninjait_pipelines_tests.resources.rabbitmq.node import FORGED, held
from ninjait_pipelines_tests.resources.rabbitmq.strategies import OURS, PROPERTIES


def message(encoded: bytes, redelivered: bool) -> Message | str:
    """What is made of a delivery with these properties."""
    try:
        return delivered("agent.metrics", "1:", (7, redelivered, b"metrics.\xff", encoded, b"body"))
    except Exception as error:  # noqa: BLE001 -- whichever pika raises
        return type(error).__name__


@given(OURS | PROPERTIES, st.booleans(), st.none() | st.tuples(st.integers(0), st.integers(0, 255)))
def test_the_short_way_through_our_own_properties_changes_nothing(
    properties: Any, redelivered: bool, wrong: tuple[int, int] | None
) -> None:
    encoded = bytearray(b"".join(properties.encode()))
    if wrong:
        encoded[wrong[0] % len(encoded)] = wrong[1]
    short = message(bytes(encoded), redelivered)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rabbitmq_messages, "_OURS", re.compile(rb"(?!)"))
        assert message(bytes(encoded), redelivered) == short


@pytest.mark.parametrize("message_id", [None, "9b2c1c1e-93b0-4a83-a3f2-6d2a3f7c0d11"])
def test_what_we_publish_goes_the_short_way(message_id: str | None) -> None:
    """Another version of pika may encode it otherwise: then nothing is wrong, but slow."""
    properties = properties_of(Outgoing("agent.metrics", "metrics.a", b"", message_id))
    assert rabbitmq_messages._OURS.fullmatch(b"".join(properties.encode()))


# --- on a broker ---


@pytest.mark.servers
def test_foreign_messages_have_an_identity_of_their_content(queue: RabbitMQ, raw: Any) -> None:
    def send(body: bytes, **properties: Any) -> None:
        raw.basic_publish(EVENTS, "metrics.telegraf.a", body, pika.BasicProperties(**properties))

    send(b"cpu 1", content_type="text/plain", headers={"database": "telegraf"})
    send(b"cpu 1", content_type="text/plain")
    send(b"cpu 2", timestamp=1_795_257_771)
    send(b"cpu 2", message_id="m")
    with queue.consume(QUEUE, 10) as consumer:
        first = held(consumer, 4)
        consumer.requeue(first)
        again = held(consumer, 4)
    assert [message.delivery_id for message in first] == [message.delivery_id for message in again]
    assert len({message.delivery_id for message in first}) == 3
    assert [(one.content_type, one.message_id, one.published_at) for one in first] == [
        ("text/plain", None, 0),
        ("text/plain", None, 0),
        ("", None, 1_795_257_771_000),
        ("", "m", 0),
    ]
    with queue.consume(QUEUE, 10) as consumer:
        consumer.reject(held(consumer, 4)[0], "why")
    ((letter, _),) = queue.dead_letters(QUEUE)
    assert (letter.delivery_id, letter.routing_key) == (first[0].delivery_id, "metrics.telegraf.a")


@pytest.mark.servers
def test_ten_messages_with_one_delivery_id_are_ten_copies(queue: RabbitMQ, raw: Any) -> None:
    """Ten messages with one `ninjait-delivery-id`, eight of them bad, left two ledger rows and one quarantined body."""
    ours = {"ninjait-delivery-id": "f" * 32, "ninjait-published-ms": 1_795_257_771_000}
    for number in range(8):
        raw.basic_publish(EVENTS, "metrics.a", b"bad %d" % number, pika.BasicProperties(headers=ours))
    raw.basic_publish(EVENTS, "metrics.b", b"bad 7", pika.BasicProperties(headers=ours))
    raw.basic_publish(EVENTS, "metrics.b", b"bad 7", pika.BasicProperties(headers=ours, message_id="other"))
    for _ in range(2):  # the same in all: one copy, and nobody can tell
        raw.basic_publish(EVENTS, "metrics.b", b"bad 7", pika.BasicProperties("text/plain", headers=ours))
    with queue.consume(QUEUE, 12) as consumer:
        first = held(consumer, 12)
        consumer.requeue(first)
        again = held(consumer, 12)
        for message in again:
            consumer.reject(message, "why")
    assert len({message.delivery_id for message in first}) == 11
    assert {message.delivery_id for message in first} == {message.delivery_id for message in again}
    letters = [letter for letter, _ in queue.dead_letters(QUEUE)]
    assert {(one.delivery_id, one.routing_key, one.body) for one in letters} == {
        (one.delivery_id, one.routing_key, one.body) for one in first
    }


@pytest.mark.servers
def test_our_own_copies_are_told_apart_by_their_bytes_too(queue: RabbitMQ, raw: Any) -> None:
    """Somebody who saw a copy's headers sends other bytes under them, or as another organization."""
    queue.publish([Outgoing(QUEUE, "metrics.a", b"body 1")])
    _, properties, body = raw.basic_get(QUEUE, auto_ack=True)
    for key, content in (("metrics.a", body), ("metrics.b", body), ("metrics.a", b"body 2")):
        raw.basic_publish(EVENTS, key, content, properties)
    with queue.consume(QUEUE, 3) as consumer:
        first = held(consumer, 3)
        consumer.requeue(first)
        again = held(consumer, 3)
    assert len({message.delivery_id for message in first}) == 3
    assert {message.delivery_id for message in first} == {message.delivery_id for message in again}


@pytest.mark.servers
@pytest.mark.parametrize("way", ["rejected by us", "given back too often"])
def test_a_dead_letter_is_of_whom_the_broker_let_publish_it(queue: RabbitMQ, raw: Any, way: str) -> None:
    """A forged `x-death` named another tenant's routing key, and the operator's replay wrote into that one's device."""
    raw.basic_publish(EVENTS, "metrics.attacker", b"body 1", pika.BasicProperties(headers=FORGED))
    with queue.consume(QUEUE, 1) as consumer:
        if way == "rejected by us":
            consumer.reject(held(consumer, 1)[0], "too much")
        while way != "rejected by us" and (got := consumer.receive(1, wait_seconds=1)):
            consumer.requeue(got)
    assert eventually(lambda: queue.depth(QUEUE).dead == 1)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert letter.routing_key == "metrics.attacker"
    assert reason == "too much" if way == "rejected by us" else reason.startswith("delivered 4 times")
    queue.discard_dead_letters([letter])
    assert queue.depth(QUEUE).dead == 0


@pytest.mark.servers
def test_dead_letters_that_are_one_copy_go_together(queue: RabbitMQ, raw: Any) -> None:
    """Equal to the last byte and header: one by one they kept the others waiting."""
    for _ in range(10):
        raw.basic_publish(EVENTS, "metrics.a", b"body 1")
    with queue.consume(QUEUE, 10) as consumer:
        for message in held(consumer, 10):
            consumer.reject(message, "why")
    queue.discard_dead_letters([letter for letter, _ in queue.dead_letters(QUEUE)])
    assert queue.dead_letters(QUEUE) == []


@pytest.mark.servers
def test_text_that_is_not_utf8_does_not_stop_it(queue: RabbitMQ, raw: Any) -> None:
    raw.basic_publish(EVENTS, b"metrics.\xff", b"x", pika.BasicProperties(content_type=b"\xfe", headers={"a": b"\xff"}))
    (message,) = drain(queue)
    assert (message.routing_key, message.content_type) == ("metrics.\ufffd", "\ufffd")


_FAR = b"T" + (2**63).to_bytes(8, "big")  # a time that no calendar has


def _nested(levels: int) -> bytes:
    """A table in a table in a table."""
    inner = bytes(4)
    for _ in range(levels):
        inner = (len(inner) + 3).to_bytes(4, "big") + b"\1xF" + inner
    return b"F" + inner


class Encoded(pika.BasicProperties):
    """Properties with one header, `when`, whose value is encoded already."""

    def __init__(self, value: bytes, **properties: Any) -> None:
        super().__init__(headers={}, **properties)
        self._table = b"\4when" + value

    def encode(self) -> list[bytes]:
        pieces: list[bytes] = super().encode()
        at = pieces.index(bytes(4))
        pieces[at] = len(self._table).to_bytes(4, "big") + self._table
        return pieces


@pytest.mark.servers
@pytest.mark.parametrize("value", [_FAR, _nested(4_000)], ids=["far", "nested"])
def test_a_header_that_pika_cannot_read_is_left_out(queue: RabbitMQ, raw: Any, value: bytes) -> None:
    """It lost the connection at each delivery; as a dead letter then, it stopped every drain of its queue for ever."""
    properties = {"content_type": "text/plain", "message_id": "m", "timestamp": 1_795_257_771}
    raw.basic_publish(EVENTS, "metrics.a", b"body 1", Encoded(value, **properties))
    counted = []
    with queue.consume(QUEUE, 1) as consumer:
        while got := consumer.receive(1, wait_seconds=1):
            assert (got[0].body, got[0].content_type, got[0].message_id) == (b"body 1", "text/plain", "m")
            assert got[0].published_at == 1_795_257_771_000
            counted.append(got[0].deliveries)
            consumer.requeue(got)
    assert counted == [1, 3, 3, 3]
    assert eventually(lambda: queue.depth(QUEUE).dead == 1)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert (letter.body, letter.routing_key, "cannot be read" in reason) == (b"body 1", "metrics.a", True)
    queue.discard_dead_letters([letter])
    assert queue.dead_letters(QUEUE) == []


ODD_HEADERS: list[dict[str, Any]] = [
    {"ninjait-delivery-id": 5, "ninjait-published-ms": "x", "x-delivery-count": 99, "x-death": "x"},
    {"ninjait-delivery-id": "", "ninjait-published-ms": 2**62, "x-delivery-count": -7, "x-death": ["x"]},
    {"ninjait-delivery-id": b"\xff", "ninjait-published-ms": -1, "x-death": [{"reason": 5, "routing-keys": 5}]},
    {"ninjait-reason": {"a": [1]}, "ninjait-routing-key": b"\xff", "ninjait-deliveries": "x"},
]


@pytest.mark.servers
def test_headers_of_ours_with_any_value_stop_nothing(queue: RabbitMQ, raw: Any) -> None:
    """A time of publication that no store takes stopped the drain; a strange x-death every drain of its queue."""
    for headers in ODD_HEADERS:
        for exchange, key in ((EVENTS, "metrics.a"), (dead_queue(QUEUE), "metrics.a")):
            raw.basic_publish(exchange, key, b"body 1", pika.BasicProperties(headers=headers, timestamp=2**63))
    messages = drain(queue)
    assert {(one.deliveries, one.published_at, len(one.delivery_id)) for one in messages} == {(1, 0, 32)}
    assert eventually(lambda: queue.depth(QUEUE).dead == len(ODD_HEADERS))
    letters = [message for message, _ in queue.dead_letters(QUEUE)]
    assert {letter.published_at for letter in letters} == {0}
    for letter in letters:
        queue.discard_dead_letters([letter])
    assert queue.dead_letters(QUEUE) == []


@pytest.mark.servers
def test_whatever_came_can_be_rejected_for_whatever_reason(queue: RabbitMQ, raw: Any) -> None:
    """255 bytes that are no UTF-8 are 765 as text; a lone surrogate comes out of a decoder's error."""
    raw.basic_publish(EVENTS, "metrics.a", b"x", pika.BasicProperties(content_type=b"\xff" * 255, message_id="m" * 255))
    with queue.consume(QUEUE, 1) as consumer:
        consumer.reject(held(consumer, 1)[0], "not_json: \ud83d" + "x" * 10_000)
    ((letter, reason),) = queue.dead_letters(QUEUE)
    assert (letter.body, letter.message_id, reason[:12]) == (b"x", "m" * 255, "not_json: ?x")
    assert drain(queue) == []
