"""A real agent: reads this machine, keeps what it read on disk until the broker has it, and delivers it in order.

Every reading goes the same way:
1. It gets its message id and is appended to the spool, which is synced. Dying before: the reading was never taken.
2. What is in the spool is published, oldest first, and confirmed. Dying here: all of it is published again later, with
   the same ids, so consumers recognize the second copies as duplicates.
3. What was confirmed is taken out of the spool. Dying before: as in 2.
"""

import fcntl
import os
import platform
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import msgspec
import psutil

from ninjait_pipelines.ingest.decode.volumes import Place, place_of
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.metrics.interfaces import LEFT_OUT, is_left_out
from ninjait_pipelines.metrics.volumes import Volume, disk_of
from ninjait_pipelines.resources.message_queue import MessageQueue
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.resources.store import StoreError

HEARTBEAT_EVERY = timedelta(minutes=2)
# CPU and network are measured between two readings, so the first one has to wait a moment.
FIRST_READING_AFTER = timedelta(seconds=1)
MIB = 1024 * 1024
_PUBLISHED_AT_ONCE = 500

Report = Callable[[str], None]
Counters = Mapping[str, tuple[int, int]]  # interface -> bytes received and sent since boot


class SpoolFull(Exception):
    """The spool is full; the message says what that means and what to do."""


class SpoolInUse(Exception):
    """Another agent writes to the same spool."""


class Spool:
    """Messages on disk in order, one JSON line each.

    with Spool(folder, max_bytes=64 * MIB) as spool:
        spool.append(message)
        spool.deliver(queue.publish)
    """

    def __init__(self, folder: Path, max_bytes: int = 64 * MIB) -> None:
        self._path = folder / "spool.jsonl"
        self._max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("wb")
        self._changing = threading.Lock()  # a relay appends while this is delivered

    def __enter__(self) -> "Spool":
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpoolInUse(f"Another agent uses {self._path}: give this one its own with --spool.") from None
        self._cut_unfinished_line()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def __len__(self) -> int:
        with self._path.open("rb") as file:
            return sum(1 for _ in file)

    def append(self, message: Outgoing) -> None:
        """Adds a message, which then survives a crash of the machine. Raises SpoolFull, and keeps what is there."""
        self.append_all([message])

    def append_all(self, messages: list[Outgoing]) -> None:
        """Adds messages: all of them, or none."""
        lines = b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
        with self._changing:
            size = self._path.stat().st_size
            if size + len(lines) > self._max_bytes:
                raise self._full(f"it may take {self._max_bytes / MIB:g} MiB")
            try:
                with self._path.open("ab") as file:
                    _write_synced(file, lines)
            except OSError as error:  # the disk is full: half a line would spoil the next one
                os.truncate(self._path, size)
                raise self._full(error) from error

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._path.stat().st_size

    def _full(self, why: object) -> SpoolFull:
        return SpoolFull(
            f"The spool {self._path} is full ({why}): this reading is not kept. Older ones wait for the broker; "
            "see ninjait status."
        )

    def deliver(self, publish: Callable[[list[Outgoing]], int]) -> int:
        """Publishes everything, oldest first, and returns how many; what was confirmed leaves the spool."""
        delivered, done = 0, 0
        try:
            for batch, end in self._batches():
                publish(batch)
                delivered, done = delivered + len(batch), end
        finally:
            if done:
                self._drop(done)
        return delivered

    def _batches(self) -> Iterator[tuple[list[Outgoing], int]]:
        """(messages, position after them), bounded, so that a long outage is not published at once."""
        position = 0
        while lines := self._lines_from(position):
            position += sum(map(len, lines))
            yield [message for line in lines if (message := _readable(line))], position

    def _lines_from(self, position: int) -> list[bytes]:
        with self._changing, self._path.open("rb") as file:
            file.seek(position)
            return list(islice(file, _PUBLISHED_AT_ONCE))

    def _drop(self, position: int) -> None:
        """Takes out what lies before `position`, by a new file that replaces the old one whole.

        Where the disk is full, all of it stays, and is published again later: as if the agent had died before.
        """
        replacement = self._path.with_suffix(".new")
        with self._changing:
            try:
                with self._path.open("rb") as old, replacement.open("wb") as new:
                    old.seek(position)
                    _write_synced(new, old.read())
                replacement.replace(self._path)
            except OSError:
                replacement.unlink(missing_ok=True)

    def _cut_unfinished_line(self) -> None:
        """What an append left that a crash interrupted was never promised to be kept."""
        with self._path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
            _write_synced(file, b"")


def _readable(line: bytes) -> Outgoing | None:
    """The message of a line; None for one that a power cut left as zeros, which must not hold up later ones."""
    try:
        return msgspec.json.decode(line, type=Outgoing)
    except msgspec.DecodeError:
        return None


def _write_synced(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


class Machine:
    """This machine, by psutil. Rates are since the previous reading, so one is taken (and thrown away) at the start.

    interfaces_left_out: patterns of the interfaces whose bytes do not count, as everywhere.
    """

    def __init__(self, interfaces_left_out: Sequence[str] = LEFT_OUT) -> None:
        psutil.cpu_percent()
        self._left_out = interfaces_left_out
        self._network = _network()

    def sample(self, now: datetime) -> dict[str, Any]:
        """One sample of ninjait.metrics.v1; a field that this machine cannot tell is left out."""
        before, self._network = self._network, _network()
        received, sent = increase(before, self._network, self._left_out) or (None, None)
        memory = psutil.virtual_memory()
        disk_used, disk_total, disk_free = disk_of(_volumes())
        values = {
            "cpu": psutil.cpu_percent(),
            "memory": memory.used / MIB,
            "disk_used": disk_used,
            "network_in": received,
            "network_out": sent,
            "uptime": self.uptime(now),
            "memory_total": memory.total / MIB,
            "disk_total": disk_total,
            "disk_free": disk_free,
        }
        known = {name: round(value, 3) for name, value in values.items() if value is not None}
        return {"timestamp": _rfc3339(now), **known}

    @staticmethod
    def uptime(now: datetime) -> int:
        """Seconds since the machine started."""
        return max(int(now.timestamp() - psutil.boot_time()), 0)


class Agent:
    """Makes the messages of one device."""

    def __init__(self, organization_id: uuid.UUID, device_id: uuid.UUID, machine: Machine | None = None) -> None:
        self._organization_id = str(organization_id)
        self._device_id = str(device_id)
        self._machine = machine or Machine()
        self._version = version("ninjait-pipelines")

    def metrics(self, now: datetime) -> Outgoing:
        """A reading of this moment."""
        samples = [self._machine.sample(now)]
        return self._message("agent.metrics", "metrics", {"schema": "ninjait.metrics.v1", "samples": samples})

    def heartbeat(self, now: datetime, status: str = "online") -> Outgoing:
        """A sign of life; status: online, offline or maintenance."""
        body = {
            "schema": "ninjait.heartbeat.v1",
            "timestamp": _rfc3339(now),
            "status": status,
            "os_version": platform.platform()[:200],
            "uptime_seconds": self._machine.uptime(now),
        }
        return self._message("agent.heartbeats", "heartbeat", body)

    def _message(self, queue: str, topic: str, body: dict[str, Any]) -> Outgoing:
        ids = {"organization_id": self._organization_id, "device_id": self._device_id, "agent_version": self._version}
        return Outgoing(
            queue=queue,
            routing_key=f"{topic}.{self._organization_id}",
            body=msgspec.json.encode(body | ids),
            message_id=str(uuid.uuid4()),
        )


def run(
    agent: Agent,
    spool: Spool,
    queue: MessageQueue,
    interval: timedelta,
    stop: threading.Event,
    report: Report,
    clock: Callable[[], datetime],
    heartbeat_every: timedelta = HEARTBEAT_EVERY,
) -> None:
    """Reads and delivers every `interval` until `stop` is set, then reports the device offline.

    A broker that answers slowly delays the next reading; missed readings are not made up for.
    """
    due = monotonic() + FIRST_READING_AFTER.total_seconds()
    next_heartbeat = (
        due  # by the monotonic clock: while a clock that was set back catches up, the device would seem offline
    )
    while not stop.wait(due - monotonic()):
        messages = [agent.metrics(clock())]
        if monotonic() >= next_heartbeat:
            messages.insert(0, agent.heartbeat(clock()))
            next_heartbeat += heartbeat_every.total_seconds()
        keep_and_deliver(spool, queue, messages, report)
        due = max(due + interval.total_seconds(), monotonic())
    keep_and_deliver(spool, queue, [agent.heartbeat(clock(), "offline")], report)


def run_once(
    agent: Agent,
    spool: Spool,
    queue: MessageQueue,
    stop: threading.Event,
    report: Report,
    clock: Callable[[], datetime],
) -> bool:
    """One reading with a heartbeat; False where the broker did not take them, and they wait on disk."""
    stop.wait(FIRST_READING_AFTER.total_seconds())
    now = clock()
    return keep_and_deliver(spool, queue, [agent.heartbeat(now), agent.metrics(now)], report)


def keep_and_deliver(spool: Spool, queue: MessageQueue, messages: list[Outgoing], report: Report) -> bool:
    """Spools the messages and delivers what is spooled; False, with a report, where the broker does not take it."""
    for message in messages:
        try:
            spool.append(message)
        except SpoolFull as full:
            report(str(full))
    try:
        delivered = spool.deliver(queue.publish)
    except StoreError as error:
        report(f"{len(spool)} messages wait on disk: {error}")
        return False
    report(f"delivered {delivered} messages")
    return True


def register(
    postgres: Postgres, organization: str, device_id: uuid.UUID | None, now: datetime
) -> tuple[uuid.UUID, uuid.UUID]:
    """Makes this machine a device of an organization (id or slug) where it is none, and returns (organization, device).

    Raises LookupError for an organization that is not there.
    """
    found = postgres.rows(
        "SELECT id FROM organizations WHERE id::text = %(name)s OR slug = %(name)s", {"name": organization}
    )
    if not found:
        raise LookupError(f"There is no organization {organization!r} in PostgreSQL. For one to try: ninjait seed.")
    device = {
        "organization_id": found[0]["id"],
        "hostname": socket.gethostname(),
        "id": device_id or uuid.uuid5(found[0]["id"], socket.gethostname()),
        "kind": "laptop" if psutil.sensors_battery() else "server",
        "operating_system": platform.platform(terse=True),
        "now": now,
    }
    with postgres.transaction() as connection:
        connection.execute(
            "INSERT INTO devices (id, organization_id, name, kind, os_version, created_at) "
            "VALUES (%(id)s, %(organization_id)s, %(hostname)s, %(kind)s, %(operating_system)s, %(now)s) "
            "ON CONFLICT DO NOTHING",
            device,
        )
        row = connection.execute(
            "SELECT id FROM devices WHERE organization_id = %(organization_id)s AND name = %(hostname)s", device
        ).fetchone()
    if row is None or device_id not in (None, row["id"]):
        raise LookupError(
            f"{device['hostname']} cannot be device {device['id']} of {organization}: "
            "that id, or this machine, is registered otherwise. Leave --device out."
        )
    return device["organization_id"], row["id"]


def _network() -> Counters:
    """Bytes received and sent since boot, by interface."""
    counters = psutil.net_io_counters(pernic=True)
    return {name: (one.bytes_recv, one.bytes_sent) for name, one in counters.items()}


def increase(before: Counters, now: Counters, left_out: Sequence[str]) -> tuple[int, int] | None:
    """Bytes received and sent in between, by the interfaces that count; None where there is none.

    An interface that has come only begins; one whose counter ran backwards was taken away meanwhile.
    """
    counted = [name for name in now if not is_left_out(name, left_out)]
    both = [(before[name], now[name]) for name in counted if name in before]
    received, sent = (sum(max(new[way] - old[way], 0) for old, new in both) for way in (0, 1))
    return (received, sent) if counted else None


def _volumes() -> Iterator[Volume]:
    """Each fixed local volume, in MiB; in a container, which shows none, the one that it stands on."""
    shown = False
    for one in psutil.disk_partitions():
        place = place_of(one.mountpoint, one.device, one.fstype)
        try:
            usage = psutil.disk_usage(one.mountpoint) if place else None
        except OSError:  # a drive without a disc, or a folder that is not for us
            continue
        if place and usage:
            shown = True
            yield volume_of(place, usage.used, usage.total, usage.free)
    if not shown:
        usage = psutil.disk_usage("/")
        yield Volume("", "/", usage.used / MIB, usage.total / MIB, usage.free / MIB)


def volume_of(place: Place, used: int, total: int, free: int) -> Volume:
    """The size of a volume, bytes."""
    return Volume(place.disk, place.volume, used / MIB, total / MIB, free / MIB)


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
