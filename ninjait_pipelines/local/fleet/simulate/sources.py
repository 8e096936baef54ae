"""What each source of a fleet sends while nothing goes wrong, in order of time."""

import math
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from ninjait_pipelines.local.fleet.simulate.fleet import Device, Options, Organization, Window
from ninjait_pipelines.streams import QUEUES

AGENT_VERSION = "1.8.2"
DAY = 86_400.0
USAGE_EVERY = 6 * 3600
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


class LocalClock:
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


class Scene(NamedTuple):
    """What all sources of one organization have in common."""

    organization: Organization
    clock: LocalClock
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


class DeviceSource:
    """A device over the window: what it has, when it is on and connected, and what it sends then."""

    def __init__(self, device: Device, scene: Scene) -> None:
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
        length = self.options.samples_per_message * self.options.interval
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
        if draw() < interval * self.options.samples_per_message / (4 * DAY):
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


def _times(scene: Scene, per_device: float, rng: random.Random) -> Iterator[float]:
    """Moments at random, `per_device` of them an hour while the organization is fully busy."""
    at, end = scene.window.start.timestamp(), scene.window.end.timestamp()
    per_second = per_device * len(scene.organization.devices) / 3600
    while per_second > 0:
        at += rng.expovariate(per_second)
        if at >= end:
            return
        if rng.random() < scene.clock.busy(at):
            yield at


def api_calls(scene: Scene) -> Iterator[Draft]:
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


def usage(scene: Scene) -> Iterator[Draft]:
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


def logs(scene: Scene) -> Iterator[Draft]:
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
