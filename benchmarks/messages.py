"""The messages that are measured, as bytes: the same for ours and for the peers, in every round."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import msgspec

from ninjait_pipelines.messages import JSON, Outgoing
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.resources.postgres import Postgres

QUEUE = "agent.metrics"
ORGANIZATION = str(UUID(int=0xBE7C))
DEVICES = 1_000
SAMPLES = 200  # of a batch; also the lines of a line protocol message
INTERVAL, TELEGRAF_INTERVAL = timedelta(seconds=30), timedelta(seconds=10)
MEASUREMENTS = 4  # lines that Telegraf sends of one moment

# (measurement, field) -> how many points of it a store must hold
Expected = dict[tuple[str, str], int]


class Load(msgspec.Struct, frozen=True):
    """Messages, what they hold (`units`: samples, lines or messages), and what must be in a store afterwards.

    One sample of each of `bad` messages is to be refused.
    """

    messages: list[Outgoing]
    units: int
    samples: int
    ours: Expected
    theirs: Expected
    bad: int = 0


def register(postgres: Postgres, now: datetime) -> None:
    """Makes the fleet known."""
    with postgres.transaction() as connection:
        connection.execute(
            "INSERT INTO organizations (id, name, slug, time_zone, created_at) "
            "VALUES (%s, 'Benchmark', 'benchmark', 'UTC', %s)",
            (ORGANIZATION, now),
        )
        rows = [(device(number), ORGANIZATION, host(number), now) for number in range(DEVICES)]
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO devices (id, organization_id, name, kind, os_version, created_at) "
                "VALUES (%s, %s, %s, 'server', 'Debian 12', %s)",
                rows,
            )


def device(number: int) -> str:
    return str(uuid5(UUID(ORGANIZATION), str(number)))


def host(number: int) -> str:
    return f"srv-{number:04}"


def batches(count: int, samples: int, now: datetime, broken_every: int = 0) -> Load:
    """Messages with `samples` samples of all fields, as our agents send them: one while online, more after an outage.

    A round of messages of all devices, then the next one, as they would be published. One in `broken_every` has a
    sample that is to be refused.
    """
    rng = random.Random(1)  # noqa: S311
    rounds = -(-count // DEVICES)
    first = _whole_hour(now) - INTERVAL * samples * rounds
    messages = []
    for number in range(count):
        round_, place = divmod(number, DEVICES)
        start = first + INTERVAL * samples * round_
        body: dict[str, Any] = {
            "schema": "ninjait.metrics.v1",
            "organization_id": ORGANIZATION,
            "device_id": device(place),
            "agent_version": "1.8.2",
            "samples": [_sample(rng, start + INTERVAL * index, index) for index in range(samples)],
        }
        if broken_every and number % broken_every == 0:
            body["samples"][0]["cpu"] = -1.0
        messages.append(Outgoing(QUEUE, f"metrics.{ORGANIZATION}", msgspec.json.encode(body), _message_id(rng), JSON))
    bad = -(-count // broken_every) if broken_every else 0
    good = count * samples - bad
    expected = {("device_metrics", field): good for field in _sample(rng, first, 0) if field in FIELDS}
    return Load(messages, count * samples, good, expected, expected, bad)


def _sample(rng: random.Random, moment: datetime, index: int) -> dict[str, object]:
    return {
        "timestamp": _rfc3339(moment),
        "cpu": round(rng.uniform(0, 100), 1),
        "memory": round(rng.uniform(2_000, 14_000), 3),
        "disk_used": round(rng.uniform(100_000, 200_000), 3),
        "network_in": rng.randrange(5_000_000),
        "network_out": rng.randrange(1_000_000),
        "uptime": 86_400 + 30 * index,
    }


def line_protocol(count: int, lines: int, now: datetime) -> Load:
    """Messages with `lines` lines of one host, with the fields that Telegraf 1.37 sends for cpu, mem, disk and net."""
    rng = random.Random(2)  # noqa: S311
    moments = lines // MEASUREMENTS
    rounds = -(-count // DEVICES)
    first = _whole_hour(now) - TELEGRAF_INTERVAL * moments * rounds
    messages = []
    for number in range(count):
        round_, place = divmod(number, DEVICES)
        start = first + TELEGRAF_INTERVAL * moments * round_
        text = "".join(
            line for index in range(moments) for line in _lines(rng, host(place), start + TELEGRAF_INTERVAL * index)
        )
        messages.append(
            Outgoing(QUEUE, f"metrics.telegraf.{ORGANIZATION}", text.encode(), _message_id(rng), "text/plain")
        )
    each = count * moments
    ours = {("device_metrics", field): each for field in ("cpu", "memory", "memory_total")}
    ours |= {("volumes", field): each for field in ("used", "total", "free")}
    ours |= {("interface_counters", field): each for field in ("network_in", "network_out")}
    theirs = {("cpu", "usage_idle"): each}
    theirs |= {(measurement, field): each for measurement in ("mem", "disk") for field in ("used", "total")}
    theirs |= {("net", field): each for field in ("bytes_recv", "bytes_sent")}
    # cpu, memory and the volume are samples of ours, each for itself
    return Load(messages, count * lines, count * lines, ours, theirs)


def _lines(rng: random.Random, name: str, moment: datetime) -> Iterator[str]:
    """The lines of one moment, as `telegraf` has sent them by outputs.amqp, figures aside."""
    stamp = int(moment.timestamp()) * 1_000_000_000
    percent = {field: rng.uniform(0, 30) for field in ("system", "user", "iowait")}
    idle = 100 - sum(percent.values())
    yield (
        f"cpu,cpu=cpu-total,host={name} usage_guest=0,usage_guest_nice=0,usage_idle={idle},"
        f"usage_iowait={percent['iowait']},usage_irq=0,usage_nice=0,usage_softirq=0,usage_steal=0,"
        f"usage_system={percent['system']},usage_user={percent['user']} {stamp}\n"
    )
    total = 25_276_502_016
    used = rng.randrange(total)
    yield (
        f"mem,host={name} active={used // 2}i,available={total - used}i,available_percent={100 - 100 * used / total},"
        f"buffered=84078592i,cached=2627878912i,commit_limit=12638248960i,committed_as={used // 3}i,dirty=147456i,"
        f"free={(total - used) // 2}i,high_free=0i,high_total=0i,huge_page_size=2097152i,huge_pages_free=0i,"
        f"huge_pages_total=0i,inactive=1146101760i,low_free=0i,low_total=0i,mapped=27344896i,page_tables=1810432i,"
        f"shared=14639104i,slab=953450496i,sreclaimable=882479104i,sunreclaim=70971392i,swap_cached=0i,swap_free=0i,"
        f"swap_total=0i,total={total}i,used={used}i,used_percent={100 * used / total},vmalloc_chunk=0i,"
        f"vmalloc_total=35184372087808i,vmalloc_used=14708736i,write_back=32768i,write_back_tmp=0i {stamp}\n"
    )
    disk = 270_553_174_016
    taken = rng.randrange(disk)
    yield (
        f"disk,device=vda,fstype=ext4,host={name},mode=rw,path=/ free={disk - taken}i,inodes_free=15987155i,"
        f"inodes_total=16777216i,inodes_used=790061i,inodes_used_percent=4.709130525588989,total={disk}i,"
        f"used={taken}i,used_percent={100 * taken / disk} {stamp}\n"
    )
    yield (
        f"net,host={name},interface=eth0 bytes_recv={rng.randrange(1 << 40)}i,bytes_sent={rng.randrange(1 << 36)}i,"
        f"drop_in=0i,drop_out=0i,err_in=0i,err_out=0i,packets_recv={rng.randrange(1 << 24)}i,"
        f"packets_sent={rng.randrange(1 << 24)}i,speed=-1i {stamp}\n"
    )


def _message_id(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def _whole_hour(now: datetime) -> datetime:
    """Nothing is in the future, and nothing is older than full resolution is kept."""
    return now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
