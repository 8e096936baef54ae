"""Messages for the ingest tests: two organizations, three devices, and bodies as senders write them."""

import gzip
import json
import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg

from ninjait_pipelines.ingest.decode.model import SenderRegistry
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.resources.postgres import Postgres

ORG, OTHER_ORG = (str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in ("org", "other-org"))
DEVICE, SECOND_DEVICE, OTHER_DEVICE = (str(uuid.uuid5(uuid.NAMESPACE_DNS, name)) for name in ("a", "b", "c"))
# Of the organizations' devices, two have the same name.
HOSTS = {"lap-1": {ORG: DEVICE, OTHER_ORG: OTHER_DEVICE}, "lap-2": {ORG: SECOND_DEVICE}}
REGISTRY = SenderRegistry(
    frozenset([ORG, OTHER_ORG]), {DEVICE: ORG, SECOND_DEVICE: ORG, OTHER_DEVICE: OTHER_ORG}, HOSTS
)
# Where keys need not name an organization.
ANYBODY = SenderRegistry(REGISTRY.organizations, REGISTRY.devices, HOSTS, hosts_without_organization=True)
# Whole milliseconds, because that is what is stored. Of today, because the tiers' retention is real.
# One moment for all of pytest-xdist's workers: names of tests have it in them.
NOW = datetime.fromtimestamp(int(os.environ.get("NINJAIT_TESTS_NOW", time.time())), UTC)

# Without the time of packing, which gzip writes into what it packs.
gzipped = partial(gzip.compress, mtime=0)

TOPICS = {
    "agent.metrics": "metrics",
    "agent.heartbeats": "heartbeat",
    "platform.api_calls": "api_call",
    "platform.usage": "usage",
}


def ago(**delta: float) -> str:
    """A time before NOW as senders write it."""
    return (NOW - timedelta(**delta)).isoformat()


def sample(seconds_ago: float = 60, **fields: Any) -> dict[str, Any]:
    """A sample with every field; None takes a field away."""
    good = {
        "timestamp": ago(seconds=seconds_ago),
        "cpu": 12.5,
        "memory": 2048,
        "disk_used": 90000.25,
        "network_in": 1000,
        "network_out": 500.0,
        "uptime": 3600,
    }
    return {name: value for name, value in (good | fields).items() if value is not None}


def metrics(*samples: Any, **fields: Any) -> dict[str, Any]:
    """The body of a metrics message."""
    return {
        "schema": "ninjait.metrics.v1",
        "organization_id": ORG,
        "device_id": DEVICE,
        "agent_version": "2.4.1",
        "samples": list(samples),
    } | fields


EVENTS: dict[str, dict[str, Any]] = {
    "agent.heartbeats": {
        "schema": "ninjait.heartbeat.v1",
        "organization_id": ORG,
        "device_id": DEVICE,
        "timestamp": ago(minutes=1),
        "status": "online",
        "agent_version": "2.4.1",
        "os_version": "Debian 12",
        "uptime_seconds": 3600,
    },
    "platform.api_calls": {
        "schema": "ninjait.api_call.v1",
        "organization_id": ORG,
        "timestamp": ago(minutes=1),
        "endpoint": "/v1/devices/{id}",
        "method": "GET",
        "status_code": 200,
        "response_time_ms": 12.5,
        "user_id": str(uuid.UUID(int=7)),
    },
    "platform.usage": {
        "schema": "ninjait.usage.v1",
        "organization_id": ORG,
        "timestamp": ago(minutes=1),
        "storage_gb": "12.345",
        "backup_gb": "6.7",
    },
    "platform.logs": {
        "schema": "ninjait.log.v1",
        "organization_id": ORG,
        "timestamp": ago(minutes=1),
        "level": "error",
        "service": "patching",
        "message": "failed",
        "device_id": DEVICE,
        "error": {"code": 5, "chain": [{"at": "x"}]},
    },
}


def line(measurement: str, fields: str, seconds_ago: float = 60, host: str = "lap-2", **tags: str) -> str:
    """A line as Telegraf writes it, its tags in alphabetical order."""
    nanoseconds = round((NOW - timedelta(seconds=seconds_ago)).timestamp() * 1000) * 1_000_000
    named = "".join(f",{name}={value}" for name, value in sorted((tags | {"host": host}).items()))
    return f"{measurement}{named} {fields} {nanoseconds}"


def telegraf(*lines: str, organization: str | None = ORG, **fields: Any) -> Message:
    """A message of Telegraf's, as it is delivered."""
    key = "metrics.telegraf" + (f".{organization}" if organization else "")
    body = "".join(f"{one}\n" for one in lines).encode()
    given = {"routing_key": key, "content_type": "text/plain", "message_id": None}
    return message("agent.metrics", body, **given | fields)


def unknown_lines(host: str = "lap-2", minutes_ago: int = 1) -> list[str]:
    """Lines of Windows inputs that the decoder does not know."""
    return [
        line("win_services", "state=4i,startup_mode=2i", 60 * minutes_ago, host=host, service_name="Dhcp"),
        line("win_services", "state=1i,startup_mode=3i", 60 * minutes_ago, host=host, service_name="Fax"),
        line("win_wmi", "Depth=1i", 60 * minutes_ago, host=host),
    ]


def batch(lines: int, tag: int) -> Message:
    """A message of many lines of Telegraf's, each with a tag of so many characters."""
    label = "x" * tag
    return telegraf(*(line("mem", f"used={n}i", n % 3600, label=label) for n in range(lines)), organization=ORG)


def value_list(plugin: str, kind: str, *values: Any, seconds_ago: float = 60, **fields: Any) -> dict[str, Any]:
    """A value list as collectd writes it."""
    network = plugin == "interface"
    return {
        "values": list(values),
        "dstypes": ["derive", "derive"] if network else ["gauge"],
        "dsnames": ["rx", "tx"] if network else ["value"],
        "time": (NOW - timedelta(seconds=seconds_ago)).timestamp(),
        "interval": 10.0,
        "host": "lap-2",
        "plugin": plugin,
        "plugin_instance": "",
        "type": kind,
        "type_instance": "",
    } | fields


def collectd(*value_lists: Any, organization: str | None = ORG, **fields: Any) -> Message:
    """A message of collectd's, as it is delivered."""
    key = "metrics.collectd" + (f".{organization}" if organization else "")
    body = json.dumps(list(value_lists)).encode()
    return message("agent.metrics", body, **{"routing_key": key, "message_id": None} | fields)


def as_published(delivered: Message) -> Outgoing:
    """What was published to be delivered like that."""
    return Outgoing(
        delivered.queue, delivered.routing_key, delivered.body, delivered.message_id, delivered.content_type
    )


def encoded(body: Any) -> bytes:
    """A body as bytes; bytes stay as they are."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def routing_key(queue: str, body: Any) -> str:
    """The key that an honest sender uses."""
    fields = body if isinstance(body, dict) else {}
    if queue == "platform.logs":
        return f"log.{fields.get('level', 'error')}"
    return f"{TOPICS[queue]}.{fields.get('organization_id', ORG)}"


def message(queue: str, body: Any, number: int = 1, **fields: Any) -> Message:
    """A message as it is delivered."""
    given: dict[str, Any] = {
        "queue": queue,
        "routing_key": routing_key(queue, body),
        "body": encoded(body),
        "content_type": "application/json",
        "message_id": str(uuid.UUID(int=number)),
        "receipt": f"r{number}",
        "delivery_id": f"d{number}",
        "deliveries": 1,
        "published_at": 0,
    }
    return Message(**given | fields)


def outgoing(queue: str, body: Any, **fields: Any) -> Outgoing:
    """A message to publish."""
    given: dict[str, Any] = {"queue": queue, "routing_key": routing_key(queue, body), "body": encoded(body)}
    return Outgoing(**given | fields)


def register(postgres: Postgres) -> None:
    """Puts the organizations and devices of REGISTRY into PostgreSQL."""
    with postgres.transaction() as connection:
        for organization in REGISTRY.organizations:
            connection.execute(
                "INSERT INTO organizations VALUES (%s, %s, %s, 'UTC', now())",
                (organization, organization, organization),
            )
        for host, devices in HOSTS.items():
            for organization, device in devices.items():
                register_device(connection, device, organization, host)


def register_device(connection: psycopg.Connection[Any], device: str, organization: str, host: str) -> None:
    """Puts one device into PostgreSQL."""
    connection.execute(
        "INSERT INTO devices VALUES (%s, %s, %s, 'server', 'Debian 12', now())", (device, organization, host)
    )
