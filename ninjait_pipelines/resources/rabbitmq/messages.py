"""Messages as RabbitMQ carries them: properties and headers, written and read. Nothing here knows of a connection."""

import hashlib
import re
import time
import uuid
from typing import Any, Self

import msgspec
import pika

from ninjait_pipelines.messages import JSON, LAST_MS, Message, Outgoing
from ninjait_pipelines.resources.rabbitmq.frames import UNREADABLE, Delivery, LenientProperties

# Our headers. A third party's message may lack them or have any value in them, and is still read. They never
# decide which organization a message belongs to, or which copy it is: that follows from the broker's envelope and from
# the bytes.
DELIVERY_ID, PUBLISHED_MS = "ninjait-delivery-id", "ninjait-published-ms"
REASON, DELIVERIES = "ninjait-reason", "ninjait-deliveries"
SPARED = "ninjait-spared"  # times republished while blamed for a store's failure; forging it harms only the forger
OLD_ROUTING_KEY = "ninjait-routing-key"  # in dead letters of 0.3.0, whose envelope names their queue
# hashlib releases the GIL for 2,048 bytes and more, and getting it back from a decoding thread takes milliseconds:
# it cost a third of a drain's rate.
HASHED_AT_ONCE = 2047
_DROPPED_HEADERS = {"CC", "BCC", UNREADABLE}
MAX_SHORT_BYTES = 255  # AMQP's short strings: routing key, message id, content type
MAX_REASON = 1_000  # characters; all headers must fit into one frame
# The encoding of what `properties_of` makes, for the usual content type and a message id that is a UUID or absent.
_OURS = re.compile(
    rb"\xb0(?:(\xc0)|\x40)\x10application/json\0\0\0\x57\x13ninjait-delivery-idS\0\0\0\x20([0-9a-f]{32})"
    rb"\x14ninjait-published-msl\0\0(.{6})\x02(?(1)\x24([ -~]{36})).{8}",
    re.DOTALL,
)


class Envelope(msgspec.Struct, frozen=True):
    """A message to send: to which exchange, and in which queue it should end up."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Any
    queue: str

    @classmethod
    def of_dead_letter(cls, exchange: str, message: Message, reason: str) -> Self:
        return cls(exchange, message.routing_key, message.body, dead_letter_properties(message, reason), message.queue)


def properties_of(message: Outgoing) -> pika.BasicProperties:
    """The properties of a message to publish, with a new delivery_id."""
    now = time.time_ns() // 1_000_000
    return _properties(message.content_type, message.message_id, uuid.uuid4().hex, now, {})


def dead_letter_properties(message: Message, reason: str) -> pika.BasicProperties:
    """The properties of a dead letter, which `dead_letter` reads."""
    headers = {
        REASON: reason[:MAX_REASON].encode(errors="replace").decode(),
        DELIVERIES: message.deliveries,
    }
    return _properties(message.content_type, message.message_id, message.delivery_id, message.published_at, headers)


def times_spared(delivery: Delivery) -> int:
    """How often a delivered message was republished as the one to blame."""
    return _number((LenientProperties().decode(delivery[3]).headers or {}).get(SPARED), 1_000_000)


def republished(delivery: Delivery, spared: int | None = None) -> tuple[str, bytes, pika.BasicProperties]:
    """(routing key, body, properties) that publish a delivered message again as the same copy, with no deliveries;
    `spared` sets a new count of `times_spared`.

    Everything that its identity is derived from is kept. Headers that the broker added are dropped, and so is what
    would make the broker do more than keep it: other queues to copy it to, an expiry, a user to check.
    """
    _, _, routing_key, encoded, body = delivery
    came = LenientProperties().decode(encoded)
    headers = {name: value for name, value in (came.headers or {}).items() if name not in _DROPPED_HEADERS}
    headers |= {} if spared is None else {SPARED: spared}
    properties = pika.BasicProperties(
        content_type=came.content_type,
        content_encoding=came.content_encoding,
        headers={name: value for name, value in headers.items() if not str(name).startswith("x-")},
        delivery_mode=2,
        message_id=came.message_id,
        timestamp=came.timestamp,
    )
    return text(routing_key), body, properties


def _properties(
    content_type: str, message_id: str | None, delivery_id: str, published_at: int, headers: dict[str, Any]
) -> pika.BasicProperties:
    return pika.BasicProperties(
        content_type=content_type,
        message_id=message_id,
        delivery_mode=2,
        timestamp=published_at // 1000 or None,
        headers={DELIVERY_ID: delivery_id, PUBLISHED_MS: published_at, **headers},
    )


def delivered(queue: str, generation: str, delivery: Delivery) -> Message:
    """The message of a delivery; its receipt begins with the generation of its session."""
    tag, redelivered, routing_key, encoded, body = delivery
    receipt = f"{generation}{tag}"
    if not redelivered and (ours := _OURS.fullmatch(encoded)):
        _, header_id, milliseconds, message_id = ours.groups()
        published_at = int.from_bytes(milliseconds)
        if 0 < published_at <= LAST_MS:
            key, own_id = text(routing_key), message_id.decode() if message_id else None
            copy = _copy_id(header_id.decode(), own_id, published_at, JSON, key, body)
            return Message(queue, key, body, JSON, own_id, receipt, copy, 1, published_at)
    # x-delivery-count is the broker's only on a redelivery: a publisher may have sent one. If the headers cannot be
    # read, the count is assumed high enough to arouse suspicion.
    properties = LenientProperties().decode(encoded)
    headers = properties.headers or {}
    returned = 2 if UNREADABLE in headers else _number(headers.get("x-delivery-count"), 1_000_000)
    return _message(queue, text(routing_key), properties, body, receipt, 1 + (returned if redelivered else 0))


def dead_letter(queue: str, method: Any, properties: Any, body: bytes, delivery_limit: int) -> tuple[Message, str]:
    """(message, reason): the message as it was delivered, except that the receipt is the dead letter's.

    The routing key is the envelope's, because the broker checked the publisher's right to use it; a publisher can forge
    `x-death`. Dead letters that we published have our headers: only we may publish to that exchange, and the broker
    adds `x-death` to whatever it puts there itself.
    """
    headers = properties.headers or {}
    ours = REASON in headers and "x-death" not in headers
    key = _key_of_dead_letter(queue, text(method.routing_key), headers, ours)
    if ours:
        reason, deliveries = text(headers[REASON]), _number(headers.get(DELIVERIES), 1_000_000) or 1
    else:
        reason, deliveries = _death(headers, delivery_limit), delivery_limit + 1
    message = _message(queue, key, properties, body, receipt="", deliveries=deliveries)
    if ours and isinstance(known := headers.get(DELIVERY_ID), str) and len(known) == 32:
        message = msgspec.structs.replace(message, delivery_id=known)
    return msgspec.structs.replace(message, receipt=message.delivery_id), reason


def _key_of_dead_letter(queue: str, envelope_key: str, headers: dict[str, Any], ours: bool) -> str:
    """The routing key. Dead letters of 0.3.0 have the queue's name there; then only our own header is trusted."""
    if envelope_key != queue:
        return envelope_key
    return text(headers.get(OLD_ROUTING_KEY)) if ours else ""


def _message(queue: str, routing_key: str, properties: Any, body: bytes, receipt: str, deliveries: int) -> Message:
    headers = properties.headers or {}
    message_id, content_type = text(properties.message_id) or None, text(properties.content_type)
    seconds, named = properties.timestamp or 0, headers.get(DELIVERY_ID)
    header_id = named if isinstance(named, str) and len(named) == 32 else ""
    published_at = _number(headers.get(PUBLISHED_MS), LAST_MS) or _number(seconds * 1000, LAST_MS)
    return Message(
        queue=queue,
        routing_key=routing_key,
        body=body,
        content_type=content_type,
        message_id=message_id,
        receipt=receipt,
        delivery_id=_copy_id(header_id, message_id, published_at, content_type, routing_key, body),
        deliveries=deliveries,
        published_at=published_at,
    )


def _copy_id(
    header_id: str, message_id: str | None, published_at: int, content_type: str, routing_key: str, body: bytes
) -> str:
    """Identifies a copy by everything that distinguishes it; a header alone would not do, because anyone can set it."""
    digest = hashlib.sha256(repr((header_id, message_id, published_at, content_type, routing_key)).encode())
    view = memoryview(body)
    for first in range(0, len(view), HASHED_AT_ONCE):
        digest.update(view[first : first + HASHED_AT_ONCE])
    return digest.hexdigest()[:32]


def _number(value: object, limit: int) -> int:
    """A header that should be a positive number; 0 if it is anything else, or above the limit."""
    return int(value) if isinstance(value, int) and 0 < value <= limit else 0  # pika's own kind of int shows as 5L


def _death(headers: dict[str, Any], delivery_limit: int) -> str:
    """Why the broker dead-lettered it: the broker's own entry comes first."""
    if UNREADABLE in headers:
        return f"its headers cannot be read ({headers[UNREADABLE]})"
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths else None
    if not isinstance(death, dict):
        return "it was published to the dead letters by another program"
    reason = text(death.get("reason"))
    if reason == "delivery_limit":
        return f"delivered {delivery_limit + 1} times and never settled; the limit is {delivery_limit}"
    return reason


def text(value: object) -> str:
    """A value that should be text. pika returns bytes where it is not UTF-8; as text those are longer, so they are cut
    to what can be published again."""
    if isinstance(value, bytes):
        return value.decode(errors="replace").encode()[:MAX_SHORT_BYTES].decode(errors="ignore")
    return str(value or "")
