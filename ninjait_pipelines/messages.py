"""Messages before and after the broker, and their identity. Their queues are in streams.py."""

import hashlib
import re
import uuid
from functools import partial

import msgspec

from ninjait_pipelines.streams import QUEUES

JSON = "application/json"
LAST_MS = 7_258_118_400_000  # the year 2200: a later time of publication is an error, and no store accepts it
# For ids of messages that have none: the same content in the same queue gets the same id.
CONTENT_NAMESPACE = uuid.UUID("0f0c7f52-6b0e-5a43-9d3c-6e0a3c1b7a11")
_HEX_BYTES = 8192
# msgspec reads the usual spelling in a third of the time; Python reads all others.
_READERS = (partial(msgspec.convert, type=uuid.UUID), uuid.UUID)


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish. Without a `message_id`, its reader takes the body's, or derives one from the content.

    `routing_key` must fit one of the queue's keys in QUEUES: RabbitMQ routes by it.
    """

    queue: str
    routing_key: str
    body: bytes
    message_id: str | None = None
    content_type: str = JSON


class Message(msgspec.Struct, frozen=True):
    """A message as it was delivered.

    `routing_key` is the envelope's, which the broker permitted the publisher to use; dead letters keep it. It alone
    decides which organization a message belongs to, never anything in the message.

    `receipt` settles this delivery and is meaningful only to its consumer. `delivery_id` identifies the published copy
    and stays the same on redelivery, so that a ledger can tell a redelivery (a drain died) from a second publication.
    RabbitMQ does not identify copies: two are the same if they agree in the mark that our publisher sets, message id,
    time, content type, routing key and bytes. The mark alone does not suffice, because anyone can set it. `deliveries`
    starts at 1, and counts whatever was sent to a consumer, whether or not it was looked at. `published_at` is in
    milliseconds since 1970; 0 if absent or implausible.
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

    @property
    def copy_id(self) -> str:
        """Names this copy among those of all queues; the ledger and the quarantine use it."""
        return f"{self.queue}/{self.delivery_id}"


def fits(queue: str, routing_key: str) -> bool:
    """Whether a routing key fits one of the queue's."""
    patterns = (re.escape(key).replace(r"\.\#", r"(\..*)?").replace(r"\*", r"[^.]*") for key in QUEUES[queue])
    return any(re.fullmatch(pattern, routing_key, re.DOTALL) for pattern in patterns)


def identity(queue: str, body: bytes, *candidates: str | None) -> uuid.UUID:
    """The message's id: the first candidate that is a UUID, or else a UUIDv5 of `queue + "\\0" + body.hex()`."""
    for candidate in candidates:
        for read in _READERS if candidate else ():
            try:
                return read(candidate)
            except ValueError:
                continue
    digest = hashlib.sha1(CONTENT_NAMESPACE.bytes + queue.encode() + b"\0", usedforsecurity=False)
    for first in range(
        0, len(body), _HEX_BYTES
    ):  # in pieces: hex() of a long body in one piece would copy it four times
        digest.update(body[first : first + _HEX_BYTES].hex().encode())
    return uuid.UUID(bytes=digest.digest()[:16], version=5)
