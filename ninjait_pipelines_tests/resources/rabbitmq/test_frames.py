"""The reader of deliveries against pika's own: the same bytes, cut at any place, give the same."""

from collections.abc import Callable
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.adapters.utils import io_services_utils
from pika.channel import ContentFrameAssembler
from pika.exceptions import BodyTooLongError, UnexpectedFrameError

from ninjait_pipelines.resources.rabbitmq.frames import RECEIVE_BYTES, Delivery, Reader, ReceivingConnection
from ninjait_pipelines_tests.resources.rabbitmq.strategies import KEYS, OURS, PROPERTIES

CHANNEL, FRAME_BYTES = 1, 10
OTHERS: list[frame.Frame] = [
    frame.Heartbeat(),
    frame.Method(CHANNEL, spec.Queue.DeclareOk("agent.metrics", 5, 1)),
    frame.Method(0, spec.Connection.Blocked("memory")),
    frame.Method(CHANNEL, spec.Basic.Cancel("a")),
]


def marshalled(deliver: Any, properties: Any, body: bytes) -> list[bytes]:
    """The frames of a delivery, with bodies that are cut into small frames."""
    pieces = [body[at : at + FRAME_BYTES] for at in range(0, len(body), FRAME_BYTES)]
    frames = [frame.Method(CHANNEL, deliver), frame.Header(CHANNEL, len(body), properties)]
    return [one.marshal() for one in [*frames, *(frame.Body(CHANNEL, piece) for piece in pieces)]]


DELIVERIES = st.builds(
    marshalled,
    st.builds(spec.Basic.Deliver, KEYS, st.integers(1, 2**64 - 1), st.booleans(), KEYS, KEYS),
    PROPERTIES | OURS,
    st.binary(max_size=3 * FRAME_BYTES),
)
RETURNS = st.builds(
    lambda properties, body: marshalled(spec.Basic.Return(312, "NO_ROUTE", "a", "b"), properties, body),
    PROPERTIES,
    st.binary(max_size=2 * FRAME_BYTES),
)
STREAMS = st.lists(DELIVERIES | RETURNS | st.sampled_from(OTHERS).map(lambda one: [one.marshal()]), max_size=6)


@st.composite
def streams(draw: Callable[..., Any]) -> tuple[bytes, list[bytes]]:
    """Frames, with heartbeats between those of one delivery too; and the same bytes cut anywhere."""
    frames = [one for part in draw(STREAMS) for one in part]
    for at in draw(st.lists(st.integers(0, len(frames)), max_size=3)):
        frames.insert(at, frame.Heartbeat().marshal())
    stream = b"".join(frames)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return stream, [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]


def by_pika(stream: bytes) -> list[Any]:
    """What pika's reader makes of it: deliveries as tuples, any other frame as bytes."""
    found: list[Any] = []
    assembler, coming = ContentFrameAssembler(), False
    while stream:
        size, one = frame.decode_frame(stream)
        coming = coming or (isinstance(one, frame.Method) and isinstance(one.method, spec.Basic.Deliver))
        if coming and isinstance(one, frame.Frame) and one.channel_number == CHANNEL:
            if content := assembler.process(one):
                method, header, body = content
                deliver, coming = method.method, False
                found.append(
                    (deliver.delivery_tag, deliver.redelivered, deliver.routing_key, vars(header.properties), body)
                )
        else:
            found.append(stream[:size])
        stream = stream[size:]
    return found


def readable(found: Delivery | bytes) -> Any:
    if isinstance(found, bytes):
        return found
    tag, redelivered, key, properties, body = found
    return tag, redelivered, key.decode(), vars(pika.BasicProperties().decode(properties)), body


@given(streams())
def test_any_cut_gives_what_pika_gives(drawn: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = drawn
    reader = Reader()
    assert [readable(one) for piece in pieces for one in reader.read(piece)] == by_pika(stream)
    assert reader.taken == len(stream)


@pytest.mark.parametrize(
    "wrong", [frame.Heartbeat().marshal()[:-1] + b"\0", b"\5" + bytes(6) + b"\xce", b"AMQP\0\0\x09\1"]
)
@pytest.mark.parametrize("cut", [1, 7, 100])
def test_from_what_is_no_frame_on_everything_is_pikas(wrong: bytes, cut: int) -> None:
    delivery = b"".join(marshalled(spec.Basic.Deliver("tag", 1, False, "", "a"), pika.BasicProperties(), b"x"))
    stream, reader = delivery + wrong + delivery, Reader()
    first, *rest = (one for at in range(0, len(stream), cut) for one in reader.read(stream[at : at + cut]))
    assert readable(first)[-1] == b"x"
    assert b"".join(one for one in rest if isinstance(one, bytes)) == wrong + delivery


def test_frames_that_do_not_fit_lose_the_connection() -> None:
    """Rather than a message, or bytes of two in one body."""
    method, header, body = marshalled(spec.Basic.Deliver("tag", 1, False, "", "a"), pika.BasicProperties(), b"x")
    with pytest.raises(BodyTooLongError):
        Reader().read(method + header + frame.Body(CHANNEL, b"xx").marshal())
    with pytest.raises(UnexpectedFrameError):
        Reader().read(method + header + method + header + body)


def test_deliveries_of_one_read_come_at_once_and_in_order_with_pikas_frames() -> None:
    """And pika still has what of its own is used here; the servers' tests have it on a connection."""
    assert io_services_utils._AsyncTransportBase._MAX_RECV_BYTES < RECEIVE_BYTES
    happened: list[Any] = []
    connection: Any = ReceivingConnection(
        lambda deliveries: happened.append([tag for tag, *_ in deliveries]),
        pika.ConnectionParameters(),
        internal_connection_workflow=False,
    )
    assert connection._transport is None
    connection.callbacks.add(0, spec.Connection.Blocked, lambda _: happened.append("blocked"), one_shot=False)
    blocked = frame.Method(0, spec.Connection.Blocked("memory")).marshal()
    one, two, three = (
        b"".join(marshalled(spec.Basic.Deliver("tag", tag, False, "", "a"), pika.BasicProperties(), b"x"))
        for tag in (1, 2, 3)
    )
    connection._on_data_available(one + two + blocked + three[:-1])
    assert happened == [[1, 2], "blocked"]
    received = connection.bytes_received
    assert received >= len(one + two + blocked)
    connection._on_data_available(three[-1:])
    assert happened == [[1, 2], "blocked", [3]]
    assert connection.bytes_received > received
