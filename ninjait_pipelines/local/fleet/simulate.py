"""A simulated fleet: the messages that the devices and the platform of some organizations would have sent in a window.

`simulate` is pure and deterministic: the same fleet, window and options give the same bytes with the same message ids.
It says of every message what must become of it, so that a ledger can be checked against the Tally. Three steps:
1. `_Device`, `_api_calls`, ... make perfect messages, each source in order of time.
2. `_Mischief` spoils a few, publishes a few twice, and keeps those of laptops that are away.
3. `_in_order_of_delivery` sorts in what was kept.
"""

import hashlib
import heapq
import itertools
import math
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from ninjait_pipelines.messages import QUEUES, Outgoing
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.postgres import Postgres

AGENT_VERSION = "1.8.2"
PUBLISHED_AT_ONCE = 2_000
SAMPLES_PER_MESSAGE = 20
MAX_SAMPLES, MAX_BYTES = 1000, 1024 * 1024  # of the contract: what is above is refused
DAY = 86_400.0
USAGE_EVERY = 6 * 3600

encode = msgspec.json.encode


class Device(msgspec.Struct, frozen=True):
    """A device of the fleet; kind: server, workstation or laptop."""

    id: str
    kind: str
    operating_system: str


class Organization(msgspec.Struct, frozen=True):
    """An organization with its devices and the ids of its users."""

    id: str
    time_zone: str
    devices: tuple[Device, ...]
    users: tuple[str, ...] = ()


class Window(msgspec.Struct, frozen=True):
    """The time that is simulated, half open."""

    start: datetime
    end: datetime


class Options(msgspec.Struct, frozen=True):
    """What the fleet is like; shares are 0 to 1."""

    seed: int = 1
    interval: int = 30  # seconds between two samples of a device
    broken: float = 0.005  # share of messages that are wrong, wholly or in some of their samples
    duplicates: float = 0.01  # share of messages that are published twice
    resent: float = 0.005  # share of metrics messages whose samples come again in another message
    away: float = 0.35  # share of laptops that lose their connection for a while, and deliver later
    heartbeat_interval: int = 300  # seconds
    api_calls: float = 3.0  # per device and hour
    logs: float = 0.5  # per device and hour


class Published(msgspec.Struct, frozen=True):
    """A message, and what must become of it.

    outcome: written, not_understood, partly_quarantined, quarantined or duplicate, as in the ledger; kind: good,
    duplicate, resent, or what is wrong with it; points that its store must have afterwards, those that must be in
    quarantine, and those that the store has already by another message. A duplicate adds none.
    """

    message: Outgoing
    outcome: str
    kind: str
    points: int = 0
    bad_points: int = 0
    resent_points: int = 0


class QueueTally(msgspec.Struct):
    """What was published to one queue. messages = written + not_understood + partly_quarantined + quarantined +
    duplicate."""

    messages: int = 0
    written: int = 0
    not_understood: int = 0
    partly_quarantined: int = 0
    quarantined: int = 0
    duplicate: int = 0
    points: int = 0  # distinct: what the store must have afterwards
    bad_points: int = 0  # in messages whose other points are good
    resent_points: int = 0  # written, but known already
    kinds: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, published: Published) -> None:
        """Counts one message."""
        self.messages += 1
        setattr(self, published.outcome, getattr(self, published.outcome) + 1)
        self.points += published.points
        self.bad_points += published.bad_points
        self.resent_points += published.resent_points
        self.kinds[published.kind] += 1


Tally = dict[str, QueueTally]


class Sample(msgspec.Struct):
    """A sample of ninjait.metrics.v1; timestamp: a UTC datetime, or milliseconds since 1970."""

    timestamp: Any
    cpu: float
    memory: float
    disk_used: float
    network_in: int
    network_out: int
    uptime: int
    memory_total: int
    disk_total: int


class Draft(NamedTuple):
    """A message as its sender means it, at second `at` since 1970; it cannot be delivered before `not_before`."""

    at: float
    queue: str
    routing_key: str
    body: dict[str, Any]
    not_before: float = 0.0


def read_fleet(
    postgres: Postgres, before: datetime, slugs: Sequence[str] = (), max_devices: int | None = None
) -> list[Organization]:
    """The organizations of PostgreSQL with what was registered before that moment and is still in use.

    slugs: only these; max_devices: at most so many of each organization. Raises LookupError where a slug is unknown.
    """
    rows = postgres.rows("SELECT id, slug, time_zone FROM organizations WHERE deactivated_at IS NULL ORDER BY slug")
    if missing := set(slugs) - {row["slug"] for row in rows}:
        raise LookupError(f"There is no organization {', '.join(sorted(missing))} in PostgreSQL. See: ninjait seed.")
    devices = postgres.rows(
        "SELECT organization_id, id::text AS id, kind, os_version AS operating_system FROM devices "
        "WHERE retired_at IS NULL AND created_at < %(before)s ORDER BY id",
        {"before": before},
    )
    users = postgres.rows("SELECT organization_id, id::text AS id FROM users WHERE deactivated_at IS NULL ORDER BY id")

    def owned(found: list[dict[str, Any]], organization: uuid.UUID) -> list[dict[str, Any]]:
        return [row for row in found if row["organization_id"] == organization]

    return [
        Organization(
            id=str(row["id"]),
            time_zone=row["time_zone"],
            devices=tuple(
                Device(device["id"], device["kind"], device["operating_system"])
                for device in owned(devices, row["id"])[:max_devices]
            ),
            users=tuple(user["id"] for user in owned(users, row["id"])),
        )
        for row in rows
        if not slugs or row["slug"] in slugs
    ]


def simulate(fleet: Sequence[Organization], window: Window, options: Options) -> Iterator[Published]:
    """The messages of a fleet in the order in which they are published."""
    # All that is random hangs on all of the arguments: another window or fleet never uses a message id again.
    root = hashlib.sha256(encode([fleet, window, options])).hexdigest()
    sources: list[Iterator[Draft]] = []
    for organization in fleet:
        scene = _Scene(organization, _LocalClock(organization.time_zone), window, options, root)
        sources += [_Device(device, scene).messages() for device in organization.devices]
        sources += [_api_calls(scene), _usage(scene), _logs(scene)]
    drafts = heapq.merge(*sources, key=lambda draft: draft.at)
    mischief = _Mischief(fleet, options, random.Random(f"{root}/mischief"))
    return _in_order_of_delivery(mischief.messages(draft) for draft in drafts)


def publish(queue: MessageQueue, messages: Iterable[Published], progress: Callable[[int], None] | None = None) -> Tally:
    """Publishes in order and returns what the broker has confirmed, by queue; progress is told the messages so far.

    Raises StoreError where the broker does not take a batch; part of that batch may have been taken.
    """
    tally: Tally = {}
    stream = iter(messages)
    total = 0
    while batch := list(itertools.islice(stream, PUBLISHED_AT_ONCE)):
        queue.publish(published.message for published in batch)
        for published in batch:
            tally.setdefault(published.message.queue, QueueTally()).add(published)
        total += len(batch)
        if progress:
            progress(total)
    return dict(sorted(tally.items()))


# --- what the sources send when nothing goes wrong ---


class _LocalClock:
    """How busy an organization is, by its own clock: 0 to 1."""

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)

    def at(self, second: float) -> tuple[int, float]:
        """(day of the week, Monday is 0; hour of the day with its fraction), local."""
        local = datetime.fromtimestamp(second, self._zone)
        return local.weekday(), local.hour + local.minute / 60

    def busy(self, second: float) -> float:
        """The day's curve: rises from 7, falls from 17, a dip at noon; a fifth of it at weekends."""
        weekday, hour = self.at(second)
        rise, fall = min(max((hour - 7) / 2, 0), 1), min(max((19 - hour) / 3, 0), 1)
        noon = 0.25 if 12 <= hour < 13 else 0.0
        return max(min(rise, fall) - noon, 0.05) * (0.2 if weekday >= 5 else 1.0)


class _Scene(NamedTuple):
    """What all sources of one organization have in common."""

    organization: Organization
    clock: _LocalClock
    window: Window
    options: Options
    root: str

    def random(self, *names: str) -> random.Random:
        """Chance of its own for each source, so that none depends on how often another asks."""
        return random.Random("/".join((self.root, self.organization.id, *names)))

    def draft(self, queue: str, at: float, fields: dict[str, Any], not_before: float = 0.0) -> Draft:
        """A message of the organization as its contract says."""
        topic = QUEUES[queue][0].removesuffix(".*")
        body = {"schema": f"ninjait.{topic}.v1", "organization_id": self.organization.id, **fields}
        routed_by = fields["level"] if topic == "log" else self.organization.id
        return Draft(at, queue, f"{topic}.{routed_by}", body, max(at, not_before))


class _Device:
    """A device over the window: what it has, when it is on and connected, and what it sends then."""

    def __init__(self, device: Device, scene: _Scene) -> None:
        self.device, self.scene, self.clock, self.options = device, scene, scene.clock, scene.options
        self.start, self.end = scene.window.start.timestamp(), scene.window.end.timestamp()
        self.random = scene.random(device.id)
        self.ids = {"device_id": device.id, "agent_version": AGENT_VERSION}
        own = random.Random(device.id)  # what a device has stays the same in every window
        self.memory_mib = own.choice((8, 16, 32) if device.kind != "server" else (32, 64, 128)) * 1024
        self.disk_total_mib = own.choice((256, 512, 1024)) * 1024
        self.disk_mib = self.disk_total_mib * own.uniform(0.3, 0.85)
        self.milliseconds = own.random() < 0.25  # some agents say the time so
        self.phase_ms = own.randrange(self.options.interval * 1000)
        self.early_bird, self.late_worker = own.uniform(-1, 1), own.uniform(-1, 2)
        self.weekends = own.random() < 0.4
        self.booted = self.start - self.random.uniform(600, 20 * DAY)
        self.on = False
        # When the laptop has no connection; what it reads then is delivered at its end, hours or days later.
        self.away_from = self.away_until = 0.0
        if device.kind == "laptop" and self.random.random() < self.options.away:
            self.away_from = self.random.uniform(self.start, self.end)
            self.away_until = self.away_from + self.random.choice((2, 5, 9, 30, 72)) * 3600

    def messages(self) -> Iterator[Draft]:
        length = SAMPLES_PER_MESSAGE * self.options.interval
        begin = self.start
        while begin < self.end:
            yield from sorted(self._slot(begin, min(begin + length, self.end)), key=lambda draft: draft.at)
            begin += length

    def _slot(self, begin: float, end: float) -> Iterator[Draft]:
        """What it sends in the time of one metrics message."""
        was_on, self.on = self.on, self._is_on(begin)
        if self.on:
            if not was_on and begin > self.start:
                self.booted = begin - self.random.uniform(5, 60)
            samples = self._samples(begin, end)
            if samples:
                yield self._draft("agent.metrics", self.last_sample_at, {"samples": samples})
            yield from self._heartbeats(begin, end)
        elif was_on:
            yield self._heartbeat(begin, "offline")

    def _is_on(self, second: float) -> bool:
        if self.device.kind != "laptop":
            return True
        weekday, hour = self.clock.at(second)
        return (weekday < 5 or self.weekends) and 7.5 + self.early_bird <= hour < 18 + self.late_worker

    def _samples(self, begin: float, end: float) -> list[Sample]:
        """The samples of [begin, end). A reboot, once in some days, costs a few and sets the uptime back."""
        interval, draw = self.options.interval, self.random.random
        busy = self.clock.busy(begin)
        server = self.device.kind == "server"
        cpu_level = (12 + 35 * busy if server else 3 + 40 * busy) * (0.5 + draw())
        memory = self.memory_mib * (0.45 if server else 0.3) + self.memory_mib * 0.35 * busy * draw()
        disk = self.disk_mib * (1 + 0.00002 * (begin / DAY % 365))
        traffic = int((2_000_000 if server else 300_000) * (0.05 + busy) * interval / 30)
        count = len(range(self.phase_ms, round((end - begin) * 1000), interval * 1000))
        rebooting = range(0)
        if draw() < interval * SAMPLES_PER_MESSAGE / (4 * DAY):
            down = int(draw() * count)
            rebooting = range(down, down + 3)
        first = begin + self.phase_ms / 1000
        moment = datetime.fromtimestamp(first, UTC)
        samples = []
        for index in range(count):
            second = first + index * interval
            if index in rebooting:
                self.booted = second + interval / 2
                continue
            noise = draw()
            samples.append(
                Sample(
                    round(second * 1000) if self.milliseconds else moment + timedelta(seconds=index * interval),
                    min(round(cpu_level * (0.6 + 0.8 * noise) + (30 if noise > 0.97 else 0), 1), 100.0),
                    round(memory * (0.98 + 0.04 * noise), 1),
                    round(disk + noise, 1),
                    int(traffic * draw()),
                    int(traffic * 0.3 * noise),
                    int(second - self.booted),
                    self.memory_mib,
                    self.disk_total_mib,
                )
            )
            self.last_sample_at = second
        return samples

    def _heartbeats(self, begin: float, end: float) -> Iterator[Draft]:
        every = self.options.heartbeat_interval
        weekday, hour = self.clock.at(begin)
        maintenance = self.device.kind == "server" and weekday == 6 and 3 <= hour < 4
        first = self.start + self.phase_ms / 1000
        at = first + max(math.ceil((begin - first) / every), 0) * every
        while at < end:
            yield self._heartbeat(at, "maintenance" if maintenance else "online")
            at += every

    def _heartbeat(self, at: float, status: str) -> Draft:
        fields = {
            "timestamp": datetime.fromtimestamp(at, UTC),
            "status": status,
            "os_version": self.device.operating_system,
            "uptime_seconds": max(int(at - self.booted), 0),
        }
        return self._draft("agent.heartbeats", at, fields)

    def _draft(self, queue: str, at: float, fields: dict[str, Any]) -> Draft:
        away = self.away_from <= at < self.away_until
        return self.scene.draft(queue, at, self.ids | fields, self.away_until if away else at)


ENDPOINTS = (
    ("GET", "/v2/devices", 40),
    ("GET", "/v2/devices/{id}", 90),
    ("GET", "/v2/tickets", 60),
    ("POST", "/v2/tickets", 120),
    ("PATCH", "/v2/tickets/{id}", 110),
    ("GET", "/v2/reports/{id}", 700),
)
STATUS_CODES = (200, 200, 200, 200, 200, 200, 200, 201, 304, 400, 401, 404, 429, 500)
LOG_LEVELS = ("debug", "info", "info", "info", "info", "warning", "warning", "error", "critical")
SERVICES = ("agent-gateway", "api", "scheduler", "notifications", "billing")


def _times(scene: _Scene, per_device: float, rng: random.Random) -> Iterator[float]:
    """Moments at random, `per_device` of them an hour while the organization is fully busy."""
    at, end = scene.window.start.timestamp(), scene.window.end.timestamp()
    per_second = per_device * len(scene.organization.devices) / 3600
    while per_second > 0:
        at += rng.expovariate(per_second)
        if at >= end:
            return
        if rng.random() < scene.clock.busy(at):
            yield at


def _api_calls(scene: _Scene) -> Iterator[Draft]:
    rng = scene.random("api_calls")
    for at in _times(scene, scene.options.api_calls, rng):
        method, endpoint, typical_ms = rng.choice(ENDPOINTS)
        fields = {
            "timestamp": datetime.fromtimestamp(at, UTC),
            "endpoint": endpoint,
            "method": method,
            "status_code": rng.choice(STATUS_CODES),
            "response_time_ms": round(typical_ms * rng.lognormvariate(0, 0.5), 2),
        }
        if scene.organization.users and rng.random() < 0.8:  # the rest are machines
            fields["user_id"] = rng.choice(scene.organization.users)
        yield scene.draft("platform.api_calls", at, fields)


def _usage(scene: _Scene) -> Iterator[Draft]:
    """What is stored grows by the day, by the same line in every window."""
    own, devices = random.Random(scene.organization.id), len(scene.organization.devices)
    start_mb, daily_mb = devices * own.randrange(20_000, 60_000), own.randrange(200, 900)
    at = scene.window.start.timestamp() + own.randrange(3600)
    while at < scene.window.end.timestamp():
        stored = start_mb + int((at - 1.7e9) / DAY * daily_mb * devices / 10)
        fields = {
            "timestamp": datetime.fromtimestamp(at, UTC),
            "storage_gb": f"{stored // 1000}.{stored % 1000:03}",
            "backup_gb": f"{stored * 3 // 1000}.{stored * 3 % 1000:03}",
        }
        yield scene.draft("platform.usage", at, fields)
        at += USAGE_EVERY


def _logs(scene: _Scene) -> Iterator[Draft]:
    rng = scene.random("logs")
    for at in _times(scene, scene.options.logs, rng):
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(at, UTC),
            "level": rng.choice(LOG_LEVELS),
            "service": rng.choice(SERVICES),
            "message": f"request {rng.randrange(10**6):06} took {rng.randrange(5, 900)} ms",
        }
        if rng.random() < 0.5:
            fields["device_id"] = rng.choice(scene.organization.devices).id
        if fields["level"] in ("error", "critical"):
            fields["error"] = {"type": "TimeoutError", "code": 504, "attempts": rng.randrange(1, 5)}
        yield scene.draft("platform.logs", at, fields)


# --- what goes wrong ---

# A sample that is wrong alone: its changed field, and the value.
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
# What makes a message unreadable or unacceptable as a whole, of any queue; behind it, of metrics alone.
BAD_MESSAGES = ("not_json", "wrong_schema", "unknown_organization", "invalid_utf8")
BAD_DEVICES = ("unknown_device", "device_of_another_organization", "not_of_its_routing_key")
BAD_METRICS = ("no_samples", "too_many_samples", "too_large")

# (made at, delivered at, message)
Delivery = tuple[float, float, Published]


class _Mischief:
    """What lies between a sender that means well and the broker."""

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


def _in_order_of_delivery(messages: Iterable[list[Delivery]]) -> Iterator[Published]:
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
