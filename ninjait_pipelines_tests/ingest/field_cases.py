"""Cases from the field: what somebody's fleet really sends, made small, through the real drain and the roll-up.

A case is a folder of `ninjait_pipelines_tests/cases`: bodies of messages and a README with the right values. In a body
`@ns(S)`, `@sf(S)` and `@rfc(S)` stand for the start of the hour plus S seconds (as nanoseconds, as seconds with
fractions, as RFC 3339), and `@ORG` for the organization's id.
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ninjait_pipelines.ingest.drain import DrainSummary
from ninjait_pipelines.messages import JSON, Outgoing
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.samples import register_device
from ninjait_pipelines_tests.rollup.data import hourly, roll_up
from ninjait_pipelines_tests.runs import passed

CASES = Path(__file__).parents[1] / "cases"
# Those that the bodies of our own agents name.
ORG, OWN_DEVICE = "e10a6811-c2f7-5adc-a55d-20ab69961304", "0f681e6a-329e-515c-bd7e-4bdb134abf41"
SECOND = timedelta(seconds=1)
_TIME = re.compile(r"@(ns|sf|rfc)\((-?[\d.]+)\)")


def hour_before() -> datetime:
    """The start of the hour before this one: complete, and young enough for every tier."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


def device_of(host: str) -> str:
    """The id that `register_hosts` gives to a host."""
    return OWN_DEVICE if host == "own" else str(uuid.uuid5(uuid.NAMESPACE_DNS, f"case-{host}"))


def register_hosts(stores: Stores, *hosts: str) -> None:
    """Puts the cases' organization and devices with these host names into PostgreSQL."""
    with stores.postgres.transaction() as connection:
        connection.execute("INSERT INTO organizations VALUES (%s, %s, %s, 'UTC', now())", (ORG, ORG, ORG))
        for host in hosts:
            register_device(connection, device_of(host), ORG, host)
        connection.execute("UPDATE devices SET created_at = now() - INTERVAL '30 days'")


def body_at(text: str, hour: datetime) -> str:
    """A body with its times and its organization put in."""
    return _TIME.sub(lambda found: _time(found[1], hour + float(found[2]) * SECOND), text).replace("@ORG", ORG)


def _time(kind: str, moment: datetime) -> str:
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return {"ns": f"{microseconds}000", "sf": f"{microseconds / 1e6:.3f}", "rfc": moment.isoformat()}[kind]


def message_of(text: str, hour: datetime) -> Outgoing:
    """A body as its agent publishes it: lines are Telegraf's, a list is collectd's, an object is our own agent's."""
    agent = {"[": "collectd.", "{": ""}.get(text.lstrip()[:1], "telegraf.")
    kind = "text/plain" if agent == "telegraf." else JSON
    return Outgoing("agent.metrics", f"metrics.{agent}{ORG}", body_at(text, hour).encode(), content_type=kind)


def messages(case: str, hour: datetime) -> list[Outgoing]:
    """The messages of a case, in order of their names."""
    files = sorted(path for path in (CASES / case).iterdir() if not path.name.startswith("README"))
    return [message_of(path.read_text(), hour) for path in files]


def take(stores: Stores, published: Iterable[Outgoing]) -> DrainSummary:
    """Publishes and drains; what became of them."""
    stores.message_queue.publish(list(published))
    return drained(stores)


def rolled_up(stores: Stores, *hours: datetime) -> dict[str, dict[str, Any]]:
    """Rolls up consecutive hours and gives device_metrics_hourly of the last one: device -> row."""
    result = roll_up(stores, hours[0], hours[-1])
    assert set(passed(result).values()) == {True}
    return {str(row["device_id"]): row for row in hourly(stores) if row["timestamp"] == hours[-1]}


def rows_of(stores: Stores, case: str, *hosts: str) -> Mapping[str, dict[str, Any]]:
    """The whole way of a case: host -> its row of device_metrics_hourly."""
    hour = hour_before()
    register_hosts(stores, *hosts)
    summary = take(stores, messages(case, hour))
    assert summary.points_quarantined == 0, summary
    found = rolled_up(stores, hour)
    return {host: found[device_of(host)] for host in hosts}
