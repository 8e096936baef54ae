"""What messages are: the queues and their routing keys, a message before and after the broker, and its identity."""

import hashlib
import re
import uuid
from functools import partial

import msgspec

# queue -> the routing keys of its messages, in which `*` is one word and `#` any number of them
QUEUES: dict[str, tuple[str, ...]] = {
    "agent.metrics": ("metrics.*", "metrics.telegraf.#", "metrics.collectd.#"),
    "agent.heartbeats": ("heartbeat.*",),
    "platform.api_calls": ("api_call.*",),
    "platform.usage": ("usage.*",),
    "platform.logs": ("log.*",),
}
JSON = "application/json"
LAST_MS = 7_258_118_400_000  # the year 2200: a time of publication beyond it is a mistake, and no store takes it
# Names the id of a message that brought none: the same content in the same queue has the same id.
CONTENT_NAMESPACE = uuid.UUID("0f0c7f52-6b0e-5a43-9d3c-6e0a3c1b7a11")
_HEX_BYTES = 8192
# The usual spelling of a UUID, in a third of the time; then all that Python knows.
_READERS = (partial(msgspec.convert, type=uuid.UUID), uuid.UUID)


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish. Without a `message_id` the reader uses the body's, else one made from the content.

    `routing_key` fits one of the queue's keys in QUEUES: RabbitMQ routes by it.
    """

    queue: str
    routing_key: str
    body: bytes
    message_id: str | None = None
    content_type: str = JSON


class Message(msgspec.Struct, frozen=True):
    """A message as it was delivered.

    `routing_key` is the envelope's: the one that the broker let the publisher use, also of a dead letter. Whose a
    message is follows from it, and from nothing that the publisher wrote.

    `receipt` settles this delivery and means something to its consumer only. `delivery_id` names this published copy
    and stays the same when it is delivered again, so that a ledger can tell "the same copy once more" (a drain that
    died) from "published twice". Where the broker names no copies, those are one that are equal in the mark that our
    publisher gives each, message id, time, content type, routing key and bytes; the mark alone names none, because
    anyone can set it. `deliveries` counts from 1, and counts what was sent to a consumer even
    if that never looked at it. `published_at` is in milliseconds since 1970, 0 where nobody says, or
    what is said cannot be true.
    """

    queue: str
    routing_key: str
    body: bytes
    content_type: str
    message_id: str | None
    receipt: str
    delivery_id: str
    deliveries: int
    published_at: int


def fits(queue: str, routing_key: str) -> bool:
    """Whether a routing key is one of the queue's."""
    patterns = (re.escape(key).replace(r"\.\#", r"(\..*)?").replace(r"\*", r"[^.]*") for key in QUEUES[queue])
    return any(re.fullmatch(pattern, routing_key, re.DOTALL) for pattern in patterns)


def identity(queue: str, body: bytes, *candidates: str | None) -> uuid.UUID:
    """The message's id: the first candidate that is a UUID, else a UUIDv5 of `queue + "\\0" + body.hex()`."""
    for candidate in candidates:
        for read in _READERS if candidate else ():
            try:
                return read(candidate)
            except ValueError:
                continue
    digest = hashlib.sha1(CONTENT_NAMESPACE.bytes + queue.encode() + b"\0", usedforsecurity=False)
    for first in range(0, len(body), _HEX_BYTES):  # piece by piece: as one text, a long body would be copied four times
        digest.update(body[first : first + _HEX_BYTES].hex().encode())
    return uuid.UUID(bytes=digest.digest()[:16], version=5)
