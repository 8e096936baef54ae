"""What goes wrong: broken, repeated and resent messages, and the order in which everything is delivered."""

import heapq
import itertools
import random
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from ninjait_pipelines.local.fleet.simulate.fleet import Options, Organization
from ninjait_pipelines.local.fleet.simulate.sources import Draft
from ninjait_pipelines.local.fleet.simulate.tally import Published
from ninjait_pipelines.messages import Outgoing

MAX_SAMPLES, MAX_BYTES = 1000, 1024 * 1024  # of the contract: what is above is refused
encode = msgspec.json.encode
# One bad sample among good ones: the field that is changed, and its value.
BAD_SAMPLES: dict[str, tuple[str, Any]] = {
    "number_as_text": ("cpu", "12.5"),
    "true_as_number": ("memory", True),
    "nan": ("network_in", msgspec.Raw(b"NaN")),
    "infinite": ("network_out", msgspec.Raw(b"1e999")),
    "negative": ("disk_used", -1.0),
    "in_the_future": ("timestamp", "2199-01-01T00:00:00Z"),
    "too_old": ("timestamp", "2001-01-01T00:00:00Z"),
    "no_time_zone": ("timestamp", "2026-01-01T00:00:00"),
}
_BAD_TIMES = ("in_the_future", "too_old", "no_time_zone")
# What makes a message unreadable or unacceptable as a whole: of any queue, then of metrics only.
BAD_MESSAGES = ("not_json", "wrong_schema", "unknown_organization", "invalid_utf8")
BAD_DEVICES = ("unknown_device", "device_of_another_organization", "not_of_its_routing_key")
BAD_METRICS = ("no_samples", "too_many_samples", "too_large")
# (made at, delivered at, message)
Delivery = tuple[float, float, Published]


class Mischief:
    """What happens to perfect messages on their way to the broker."""

    def __init__(self, fleet: Sequence[Organization], options: Options, rng: random.Random) -> None:
        self._options, self._random = options, rng
        owners = [organization for organization in fleet if organization.devices]
        # organization -> a device of another one
        self._foreign = {one.id: other.devices[0].id for one in owners for other in owners if other.id != one.id}
        devices = BAD_DEVICES if len(owners) > 1 else BAD_DEVICES[:1]
        # In turn, so that even a small share has something of every kind.
        self._metrics = itertools.cycle([*BAD_SAMPLES, *BAD_MESSAGES, *devices, *BAD_METRICS])
        self._events = itertools.cycle([*BAD_MESSAGES, *_BAD_TIMES])

    def messages(self, draft: Draft) -> list[Delivery]:
        """The draft, and what is published once more."""
        broken = self._random.random() < self._options.broken
        first = self._broken(draft) if broken else self._good(draft)
        published = [(draft.not_before, first)]
        if self._random.random() < self._options.duplicates:
            published.append((self._soon(draft), Published(first.message, "duplicate", "duplicate")))
        if not broken and draft.queue == "agent.metrics" and self._random.random() < self._options.resent:
            again = msgspec.structs.replace(first.message, message_id=self._message_id())
            published.append((self._soon(draft), Published(again, "written", "resent", resent_points=first.points)))
        return [(draft.at, delivered_at, one) for delivered_at, one in published]

    def _soon(self, draft: Draft) -> float:
        return draft.not_before + self._random.uniform(0, 900)

    def _message_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _message(self, draft: Draft, body: bytes) -> Outgoing:
        return Outgoing(draft.queue, draft.routing_key, body, self._message_id())

    def _good(self, draft: Draft) -> Published:
        points = len(draft.body["samples"]) if draft.queue == "agent.metrics" else 1
        return Published(self._message(draft, encode(draft.body)), "written", "good", points=points)

    def _broken(self, draft: Draft) -> Published:
        kind = next(self._metrics if draft.queue == "agent.metrics" else self._events)
        if kind in BAD_SAMPLES and draft.queue == "agent.metrics":
            return self._partly_broken(draft, kind)
        if kind == "not_of_its_routing_key":
            other = next(one for one in self._foreign if one != draft.body["organization_id"])
            draft = draft._replace(routing_key=f"metrics.{other}")
        return Published(self._message(draft, self._spoiled(draft, kind)), "quarantined", kind)

    def _partly_broken(self, draft: Draft, kind: str) -> Published:
        """Up to three bad samples; of a message with only one sample that one, so that nothing is left of it."""
        samples: list[Any] = list(draft.body["samples"])
        bad = min(self._random.randint(1, 3), max(len(samples) - 1, 1))
        field, value = BAD_SAMPLES[kind]
        for index in self._random.sample(range(len(samples)), bad):
            samples[index] = msgspec.structs.asdict(samples[index]) | {field: value}
        message = self._message(draft, encode(draft.body | {"samples": samples}))
        if bad == len(samples):
            return Published(message, "quarantined", kind)
        return Published(message, "partly_quarantined", kind, points=len(samples) - bad, bad_points=bad)

    def _spoiled(self, draft: Draft, kind: str) -> bytes:
        """The body, wrong as a whole in this way."""
        body = dict(draft.body)
        match kind:
            case "not_json":
                return encode(body)[:-20]
            case "invalid_utf8":
                return encode(body).replace(b'"schema":"', b'"schema":"\xff', 1)
            case "too_large":
                body["note"] = "x" * MAX_BYTES
            case "wrong_schema":
                body["schema"] += "99"
            case "unknown_organization":
                body["organization_id"] = self._message_id()
            case "unknown_device":
                body["device_id"] = self._message_id()
            case "device_of_another_organization":
                body["device_id"] = self._foreign[body["organization_id"]]
            case "no_samples":
                body["samples"] = []
            case "too_many_samples":
                body["samples"] = body["samples"][:1] * (MAX_SAMPLES + 1)
            case "in_the_future" | "too_old" | "no_time_zone":
                body["timestamp"] = BAD_SAMPLES[kind][1]
        return encode(body)


def in_order_of_delivery(messages: Iterable[list[Delivery]]) -> Iterator[Published]:
    """Keeps what comes later until its time; what is still kept at the end follows then, in the same order."""
    kept: list[tuple[float, int, Published]] = []
    numbers = itertools.count()
    for deliveries in messages:
        for made_at, delivered_at, published in deliveries:
            while kept and kept[0][0] <= made_at:
                yield heapq.heappop(kept)[2]
            if delivered_at <= made_at:
                yield published
            else:
                heapq.heappush(kept, (delivered_at, next(numbers), published))
    while kept:
        yield heapq.heappop(kept)[2]
