"""What a message is to RabbitMQ: its properties and headers, written and read. Nothing here knows of a connection."""

import hashlib
import re
import struct
import time
import uuid
from typing import Any

import msgspec
import pika

from ninjait_pipelines.messages import JSON, LAST_MS, Message, Outgoing
from ninjait_pipelines.resources.rabbitmq.frames import Delivery

# Headers of ours. A message of somebody else has none of them, or any value in them, and is read all the same. Nothing
# in them decides whose a message is, or which copy: that follows from the broker's envelope and from the bytes.
DELIVERY_ID, PUBLISHED_MS = "ninjait-delivery-id", "ninjait-published-ms"
REASON, DELIVERIES = "ninjait-reason", "ninjait-deliveries"
SPARED = "ninjait-spared"  # how often it began anew, to blame for a store's failure: whoever sets it harms itself only
OLD_ROUTING_KEY = "ninjait-routing-key"  # of dead letters that 0.3.0 made, whose envelope names their queue
UNREADABLE = "ninjait-unreadable"  # never sent: what `_Properties` puts there
# hashlib gives Python's lock away for 2,048 bytes and more, and getting it back from a thread that decodes takes
# milliseconds: a third of a drain's rate.
HASHED_AT_ONCE = 2047
_NOT_KEPT = {"CC", "BCC", UNREADABLE}
MAX_SHORT_BYTES = 255  # of a routing key, a message id or a content type: AMQP's short strings
MAX_REASON = 1_000  # characters; all headers go into one frame
# What `properties_of` makes of a message, as it is encoded, unless its content type or id is an odd one.
_OURS = re.compile(
    rb"\xb0(?:(\xc0)|\x40)\x10application/json\0\0\0\x57\x13ninjait-delivery-idS\0\0\0\x20([0-9a-f]{32})"
    rb"\x14ninjait-published-msl\0\0(.{6})\x02(?(1)\x24([ -~]{36})).{8}",
    re.DOTALL,
)


def properties_of(message: Outgoing) -> pika.BasicProperties:
    """Those of a message that is published, under a delivery_id of its own."""
    now = time.time_ns() // 1_000_000
    return _properties(message.content_type, message.message_id, uuid.uuid4().hex, now, {})


def letter_properties(message: Message, reason: str) -> pika.BasicProperties:
    """Those of a dead letter, with what `dead_letter` reads."""
    headers = {
        REASON: reason[:MAX_REASON].encode(errors="replace").decode(),
        DELIVERIES: message.deliveries,
    }
    return _properties(message.content_type, message.message_id, message.delivery_id, message.published_at, headers)


def spares(delivery: Delivery) -> int:
    """How often a delivered message was published anew as the one to blame."""
    return _number((_Properties().decode(delivery[3]).headers or {}).get(SPARED), 1_000_000)


def anew(delivery: Delivery, spared: int | None = None) -> tuple[str, bytes, pika.BasicProperties]:
    """(routing key, body, properties) that publish a delivered message once more as the same copy, delivered never;
    with a new count of `spares` where one is given.

    All that its identity is made from stays as it came. What the broker has added goes, and so does what would have the
    broker do something else with it than keep it: other queues to copy it to, an expiry, a user that it is checked for.
    """
    _, _, routing_key, encoded, body = delivery
    came = _Properties().decode(encoded)
    headers = {name: value for name, value in (came.headers or {}).items() if name not in _NOT_KEPT}
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
    """The message of a delivery; its receipt begins with the generation of the session that it came by."""
    tag, redelivered, routing_key, encoded, body = delivery
    receipt = f"{generation}{tag}"
    if not redelivered and (ours := _OURS.fullmatch(encoded)):
        _, header_id, milliseconds, message_id = ours.groups()
        published_at = int.from_bytes(milliseconds)
        if 0 < published_at <= LAST_MS:
            key, own_id = text(routing_key), message_id.decode() if message_id else None
            copy = _copy_id(header_id.decode(), own_id, published_at, JSON, key, body)
            return Message(queue, key, body, JSON, own_id, receipt, copy, 1, published_at)
    # The count is the broker's only where the message comes again: a publisher may have sent one. One that cannot
    # be read is taken for high enough to be handled with suspicion.
    properties = _Properties().decode(encoded)
    headers = properties.headers or {}
    returned = 2 if UNREADABLE in headers else _number(headers.get("x-delivery-count"), 1_000_000)
    return _message(queue, text(routing_key), properties, body, receipt, 1 + (returned if redelivered else 0))


def dead_letter(queue: str, method: Any, properties: Any, body: bytes, delivery_limit: int) -> tuple[Message, str]:
    """(message, reason): as it was delivered, but that the receipt is the dead letter's.

    The routing key is the envelope's, which is the one that the broker let the publisher use: `x-death` may be the
    publisher's own. What we made a dead letter of has our headers; only we may publish to the dead letters' exchange,
    and the broker adds `x-death` to whatever it puts there itself.
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


def _key_of_dead_letter(queue: str, envelopes: str, headers: dict[str, Any], ours: bool) -> str:
    """The routing key; of what 0.3.0 left, whose envelope names the queue, only if we wrote it down ourselves."""
    if envelopes != queue:
        return envelopes
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
    """Names a copy: those are one that are equal in all of this. A header alone names none, as anyone may set it."""
    digest = hashlib.sha256(repr((header_id, message_id, published_at, content_type, routing_key)).encode())
    view = memoryview(body)
    for first in range(0, len(view), HASHED_AT_ONCE):
        digest.update(view[first : first + HASHED_AT_ONCE])
    return digest.hexdigest()[:32]


def _number(value: object, limit: int) -> int:
    """What a header should be; 0 where it is something else, or out of all reason."""
    return int(value) if isinstance(value, int) and 0 < value <= limit else 0  # pika's own kind of int shows as 5L


def _death(headers: dict[str, Any], delivery_limit: int) -> str:
    """Why the broker itself made it a dead letter: the broker puts its own word first."""
    if UNREADABLE in headers:
        return f"its headers cannot be read ({headers[UNREADABLE]})"
    deaths = headers.get("x-death")
    death = deaths[0] if isinstance(deaths, list) and deaths else None
    if not isinstance(death, dict):
        return "somebody put it among the dead letters"
    why = text(death.get("reason"))
    if why == "delivery_limit":
        why = f"delivered {delivery_limit + 1} times and never settled; the limit is {delivery_limit}"
    return why


def text(value: object) -> str:
    """What should be text; pika gives bytes where it is not UTF-8, which would be longer as text: it is cut, so that
    what came can be published again."""
    if isinstance(value, bytes):
        return value.decode(errors="replace").encode()[:MAX_SHORT_BYTES].decode(errors="ignore")
    return str(value or "")


class _Properties(pika.BasicProperties):
    """Also of a message with a header that pika cannot read, such as a time after the year 9999: it comes without its
    headers then. pika would give up the connection, and after each further delivery again."""

    def decode(self, encoded: bytes, offset: int = 0) -> Any:
        try:
            return super().decode(encoded, offset)
        except Exception as error:  # noqa: BLE001 -- any of them, a nesting too deep among them
            start = offset + 2
            for flag in (self.FLAG_CONTENT_TYPE, self.FLAG_CONTENT_ENCODING):
                if struct.unpack_from(">H", encoded, offset)[0] & flag:
                    start += 1 + encoded[start]
            end = start + 4 + struct.unpack_from(">I", encoded, start)[0]
            super().decode(encoded[offset:start] + bytes(4) + encoded[end:])
            self.headers = {UNREADABLE: f"{type(error).__name__}: {error}"}
            return self


pika.spec.props[pika.BasicProperties.INDEX] = _Properties  # what pika makes of every header frame that comes
