"""The five queries that the platform publishes, letter by letter, over each of the ways that its people use.

They are in published_queries.sql. What they give is compared with what is computed here by hand.
"""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from ninjait_pipelines.billing.agreements import agreements_in_force, enter
from ninjait_pipelines.billing.assets import measure_windows
from ninjait_pipelines.billing.local_time import DAY, next_month
from ninjait_pipelines.billing.rating.agreement import Agreement, agreement
from ninjait_pipelines.billing.rating.document import draft
from ninjait_pipelines.billing.stored_usage import usage_of
from ninjait_pipelines.cli import app
from ninjait_pipelines.keys import DEVICES_TTL, WEEKLY_REPORT_TTL
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import Window
from ninjait_pipelines.metrics.model import RETENTION
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import Settings, Thresholds
from ninjait_pipelines.tickets import assets as tickets
from ninjait_pipelines_tests.cache.data import mart
from ninjait_pipelines_tests.runs import add, run

QUERIES = (Path(__file__).parent / "published_queries.sql").read_text().split("\n\n")
ALPHA, BETA, ANA, BEN, ASKER = (uuid.UUID(int=number) for number in range(1, 6))
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
Row = dict[str, Any]


class Platform:
    """Asks a published query in each way, and wants the same answer from all."""

    def __init__(self, stores: Stores, settings: Settings) -> None:
        self.stores, self.settings = stores, settings
        self.now = stores.clickhouse.now()
        self.month = self.now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)

    def ask(self, number: int) -> list[Row]:
        """The rows of query `number`, from 1: ids as text, numbers as Decimal."""
        answers = [[_plain(row) for row in way(QUERIES[number - 1])] for way in (self._client, self._curl, self._cli)]
        assert answers[0]
        for other in answers[1:]:
            assert sorted(other, key=repr) == sorted(answers[0], key=repr)
        return answers[0]

    def _client(self, query: str) -> Iterator[Row]:
        return self.stores.clickhouse.client.query(query).named_results()

    def _curl(self, query: str) -> Iterator[Row]:
        url = f"{self.settings['CLICKHOUSE_URL']}/?database={self.settings['CLICKHOUSE_DATABASE']}"
        user = f"{self.settings['CLICKHOUSE_USER']}:{self.settings['CLICKHOUSE_PASSWORD']}"
        command = ["curl", "--silent", "--fail-with-body", "--user", user, "--data-binary", "@-"]
        url += "&default_format=JSONEachRow&output_format_json_quote_decimals=1"
        done = subprocess.run([*command, url], input=query, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        return map(json.loads, done.stdout.splitlines())

    def _cli(self, query: str) -> Iterator[Row]:
        done = CliRunner(env=dict(self.settings)).invoke(app, ["sql", query, "--json"])
        assert done.exit_code == 0, done.output
        return iter(json.loads(done.stdout))


def _plain(row: Row) -> Row:
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    try:
        return None if value is None else Decimal(str(value)).quantize(Decimal("1e-9"))
    except ArithmeticError:
        return str(value)


def _numbers(row: Row, *names: str) -> tuple[float | None, ...]:
    return tuple(row[name] if row[name] is None else float(row[name]) for name in names)


@pytest.fixture
def platform(stores: Stores, settings: Settings) -> Platform:
    return Platform(stores, settings)


def test_cpu_by_device(platform: Platform) -> None:
    """Query 1: of the last 30 days, the highest peak first."""
    hour = platform.now.replace(minute=0, second=0, microsecond=0)
    devices = {ANA: [(10.0, 50.0), (40.0, 60.0)], BEN: [(20.0, 99.5)]}
    for device, values in devices.items():
        rows = [
            {"timestamp": hour - number * HOUR, "cpu_avg": mean, "cpu_max": peak, "sample_count": 120}
            for number, (mean, peak) in enumerate(values)
        ]
        old = {"timestamp": hour - timedelta(days=31), "cpu_avg": 100.0, "cpu_max": 100.0, "sample_count": 120}
        mart(
            platform.stores,
            "device_metrics_hourly",
            *({**row, "organization_id": ALPHA, "device_id": device} for row in (*rows, old)),
        )
    found = [(row["device_id"], *_numbers(row, "avg_cpu", "peak_cpu")) for row in platform.ask(1)]
    assert found == [(str(BEN), 20.0, 99.5), (str(ANA), 25.0, 60.0)]


def test_closings_by_technician(platform: Platform) -> None:
    """Query 2, from PostgreSQL's history on: Ana closes after 1 and 3 hours, the second too late; Ben after 2, a ticket
    that was Ana's at first and was never answered; one closing is 10 days old; one ticket is open again that day."""
    day = datetime.combine(platform.now.date() - 2 * DAY, datetime.min.time(), UTC)
    _add_people(platform.stores, day)
    _ticket(platform.stores, 1, day, ANA, (10, "responded", None, None), (60, "status_changed", "open", "closed"))
    _ticket(platform.stores, 2, day, ANA, (10, "responded", None, None), (180, "status_changed", "open", "closed"))
    _ticket(platform.stores, 3, day, BEN, (5, "assigned", ANA, BEN), (120, "status_changed", "open", "closed"))
    _ticket(platform.stores, 4, day - 8 * DAY, ANA, (60, "status_changed", "open", "closed"))
    again = ((90, "status_changed", "open", "closed"), (91, "status_changed", "closed", "open"))
    _ticket(platform.stores, 5, day, ANA, (10, "responded", None, None), *again)
    for key in (day - 8 * DAY, day):
        run(platform.stores, tickets.ticket_events, key=key.date().isoformat())
    columns = ("tickets_closed", "avg_hours", "sla_breaches")
    found = {row["technician_id"]: _numbers(row, *columns) for row in platform.ask(2)}
    assert found == {str(ANA): (2.0, 2.0, 1.0), str(BEN): (1.0, 2.0, 1.0)}


def test_api_calls_of_the_month(platform: Platform) -> None:
    """Query 3: last month's are not in it."""
    at = max(platform.month, platform.now - 60 * SECOND)
    calls = [(ALPHA, 200, 10.0, at), (ALPHA, 503, 20.0, at), (BETA, 404, 5.0, at)]
    calls.append((ALPHA, 500, 999.0, platform.month - SECOND))
    rows = [
        {"organization_id": id_, "status_code": status, "response_time_ms": took, "timestamp": moment}
        for id_, status, took, moment in calls
    ]
    mart(platform.stores, "api_calls", *({**row, "message_id": uuid.uuid4()} for row in rows))
    columns = ("total_calls", "avg_response_time", "error_count")
    found = {row["organization_id"]: _numbers(row, *columns) for row in platform.ask(3)}
    assert found == {str(ALPHA): (2.0, 15.0, 1.0), str(BETA): (1.0, 5.0, 0.0)}


def _standard(platform: Platform, organization: uuid.UUID, currency: str, **changes: Any) -> Agreement:
    """An organization on plan standard, whose prices the published query multiplies by, or on its like in EUR."""
    stores, since = platform.stores, datetime(2024, 1, 1, tzinfo=UTC)
    row = {"id": organization, "name": str(organization), "slug": str(organization), "time_zone": "UTC"}
    add(stores, "organizations", [{**row, "created_at": since}])
    price = {"version": 1, "from": "2024-01-01", "published_at": "2024-01-01T00:00:00Z"}
    items = [
        {"product": "devices", "kind": "device", "basis": "reporting", "prices": [{**price, "amount": "5"}]},
        {"product": "storage", "kind": "storage", "prices": [{**price, "amount": "0.1"}]},
        {"product": "api_calls", "kind": "api_calls", "prices": [{**price, "amount": "0.001"}]},
    ]
    term = {"from": "2024-01-01"}
    document = {"id": str(organization), "organization_id": str(organization), "currency": currency, "time_zone": "UTC"}
    document |= {"term": term, "items": [item | term for item in items] if currency != "USD" else []}
    agreed = agreement(msgspec.json.encode(document))
    with stores.postgres.transaction() as connection:
        enter(connection, agreed)
        if currency == "USD":
            connection.execute("SELECT billing.subscribe(%s, 'standard', '[2024-01-01,)')", [organization])
    return agreed


def _used(platform: Platform, organization: uuid.UUID, devices: int, storage: str, calls: int) -> None:
    """A month of hours, calls and reports, from the first instant on, even of days that are yet to come."""
    month, stores = platform.month, platform.stores
    days = (next_month(month.date()) - month.date()).days
    ids = [uuid.uuid5(organization, str(number)) for number in range(devices)]
    row = {"organization_id": organization, "kind": "laptop", "created_at": month - 90 * DAY}
    add(stores, "devices", [{**row, "id": id_, "name": str(id_)} for id_ in ids])
    hour = {"organization_id": organization, "sample_count": 120, "sample_share": 1.0}
    hours = [
        {**hour, "device_id": id_, "timestamp": month + number * DAY}
        for number in range(days)
        for id_ in ids[: devices - number % 3]
    ]
    mart(stores, "device_metrics_hourly", *hours)
    call = {"organization_id": organization, "status_code": 200}
    called = [
        {**call, "timestamp": month + number * DAY, "message_id": uuid.uuid4()}
        for number in range(days)
        for _ in range(calls + number)
    ]
    mart(stores, "api_calls", *called)
    report = {"organization_id": organization, "storage_gb": Decimal(storage), "backup_gb": Decimal("1.5")}
    reports = [{**report, "timestamp": month + n * DAY, "message_id": uuid.uuid4()} for n in range(days)]
    mart(stores, "usage_reports", *reports)


def _measure(platform: Platform) -> None:
    """All days of the month, as the asset measures those that are over."""
    first = platform.month
    days = (next_month(first.date()) - first.date()).days
    windows = [Window(first + number * DAY, first + (number + 1) * DAY) for number in range(days)]
    measure_windows(platform.stores.postgres, platform.stores.clickhouse, windows, LeftOut())


def test_the_invoice_of_plan_standard(platform: Platform) -> None:
    """Query 4 gives the lines of the document, and its total before these were rounded.

    In another currency the total is null, and the cost is beside it.
    """
    month, stores = platform.month.date(), platform.stores
    for organization, currency in ((ALPHA, "USD"), (BETA, "EUR")):
        _standard(platform, organization, currency)
        _used(platform, organization, 7, "123.456789", 20)
    _measure(platform)
    agreements = agreements_in_force(stores.postgres, month, next_month(month))
    usage = usage_of(stores.postgres, stores.clickhouse, agreements, month, next_month(month))
    for agreed in agreements:
        bill = draft(agreed, usage[agreed.id], month)
        amounts = {line.product: line.amount for line in bill.lines}
        [row] = [row for row in platform.ask(4) if row["organization_id"] == agreed.organization_id]
        values = {name: value for name, value in row.items() if isinstance(value, Decimal)}
        cents = {name: value.quantize(Decimal("0.01"), ROUND_HALF_UP) for name, value in values.items()}
        assert cents["device_cost"] == amounts["devices"]
        assert cents["api_cost"] == amounts["api_calls"]
        assert cents["storage_cost"] == amounts["storage"]
        cost = stores.clickhouse.scalar(
            "SELECT sum(cost) FROM billing_events WHERE organization_id = {id:UUID}", id=agreed.organization_id
        )
        assert abs(cost - bill.net) <= Decimal("0.005") * len(bill.lines)
        lines = row["device_cost"] + row["api_cost"] + row["storage_cost"]
        assert abs(cost - lines) < Decimal("1e-8")
        assert row["total_cost"] == (_value(cost) if agreed.currency == "USD" else None)


def test_a_month_of_equal_days_adds_up_exactly(platform: Platform) -> None:
    """A seventh or a thirtieth of a device has no end; the shares of all days are one whole all the same."""
    month = platform.month.date()
    days = (next_month(month) - month).days
    row = {"organization_id": ALPHA, "agreement_id": ALPHA, "currency": "USD"}
    quantities = {
        "devices": ("7", 35),
        "storage": ("0.000001", Decimal("0.0000001")),
        "backup": ("3", 0),
        "api_calls": ("1", Decimal(days) / 1000),
    }
    rows = [
        {**row, "local_day": month + n * DAY, "item": kind, "kind": kind, "quantity": Decimal(quantity)}
        | {"cost": (Decimal(cost) / days).quantize(Decimal("1e-24"))}
        for n in range(days)
        for kind, (quantity, cost) in quantities.items()
    ]
    mart(platform.stores, "billing_quantities", *rows)
    [found] = platform.stores.clickhouse.rows(
        "SELECT sum(device_count) AS devices, sum(storage_gb) AS storage, sum(backup_gb) AS backup, sum(api_calls) AS "
        "calls, sum(cost_usd) AS cost, count() AS days, min(billing_events.devices) AS plain, "
        "min(storage_gb_stored) AS stored FROM billing_events"
    )
    assert (found["devices"], found["storage"], found["backup"]) == (7, Decimal("0.000001"), 3)
    assert (found["calls"], found["days"], found["plain"], found["stored"]) == (days, days, 7, Decimal("0.000001"))
    assert round(found["cost"], 20) == 35 + Decimal("0.0000001") + Decimal(days) / 1000


def test_devices_by_status(platform: Platform) -> None:
    """Query 5: by the newest heartbeat of each device, whatever comes late, in another order, or twice."""
    fleet = {
        1: ("online", "offline", "online"),
        2: ("offline", "online", "maintenance"),
        3: ("online",),
        4: ("offline",),
    }
    beats = [
        {
            "organization_id": BETA if device == 4 else ALPHA,
            "device_id": uuid.UUID(int=device),
            "status": status,
            "timestamp": platform.now - (len(statuses) - number) * 60 * SECOND,
            "message_id": uuid.uuid5(ALPHA, f"{device} {number}"),
        }
        for device, statuses in fleet.items()
        for number, status in enumerate(statuses)
    ]
    expected = {(str(ALPHA), "online"): 2, (str(ALPHA), "maintenance"): 1, (str(BETA), "offline"): 1}

    def found() -> dict[tuple[str, str], int]:
        return {(row["organization_id"], row["status"]): int(row["total_devices"]) for row in platform.ask(5)}

    for beat in reversed(beats):  # the newest first, one by one
        mart(platform.stores, "device_heartbeats", beat)
    assert found() == expected
    mart(platform.stores, "device_heartbeats", *beats, *beats)
    mart(platform.stores, "device_heartbeats", beats[0])
    assert found() == expected
    platform.stores.clickhouse.command("OPTIMIZE TABLE device_newest_heartbeat FINAL")
    assert found() == expected
    assert platform.stores.clickhouse.scalar("SELECT count() FROM device_newest_heartbeat") == len(fleet)
    newest = platform.stores.clickhouse.scalar("SELECT maxMerge(last_update) FROM device_status_realtime")
    assert newest == max(beat["timestamp"] for beat in beats).replace(microsecond=newest.microsecond)
    assert platform.stores.clickhouse.scalar("SELECT sum(devices) FROM device_status_realtime") == len(fleet)


def _add_people(stores: Stores, since: datetime) -> None:
    row = {"id": ALPHA, "name": "Alpha", "slug": "alpha", "time_zone": "UTC", "created_at": since - 90 * DAY}
    add(stores, "organizations", [row])
    user = {"organization_id": ALPHA, "role": "technician", "created_at": since - 90 * DAY}
    people = {ANA: "ana", BEN: "ben", ASKER: "asker"}
    add(stores, "users", [{**user, "id": id_, "email": name, "full_name": name} for id_, name in people.items()])
    promise = {"organization_id": ALPHA, "priority": "normal", "first_response_minutes": 60, "resolution_minutes": 150}
    add(stores, "sla_targets", [promise])


def _ticket(stores: Stores, number: int, created: datetime, assignee: uuid.UUID, *events: tuple[Any, ...]) -> None:
    """A ticket and its history; events: minutes after its creation, event, old and new value."""
    ticket = {"id": uuid.uuid4(), "organization_id": ALPHA, "number": number, "created_by": ASKER}
    ticket |= {"assigned_to": assignee, "title": "?", "priority": "normal", "status": "closed", "created_at": created}
    add(stores, "tickets", [ticket])
    history = [
        {
            "id": uuid.uuid4(),
            "organization_id": ALPHA,
            "ticket_id": ticket["id"],
            "actor_id": assignee,
            "event": event,
            "old_value": old and str(old),
            "new_value": new and str(new),
            "occurred_at": created + timedelta(minutes=minutes),
        }
        for minutes, event, old, new in ((0, "created", None, None), *events)
    ]
    add(stores, "ticket_history", history)


def test_nothing_is_kept_for_a_shorter_time_than_is_published(stores: Stores) -> None:
    """A day longer in the metrics store; hourly rows for ever, there is no colder store that could give them back."""
    query = "SELECT name, create_table_query AS made_by FROM system.tables WHERE database = currentDatabase()"
    made_by = {row["name"]: row["made_by"] for row in stores.clickhouse.rows(query)}
    kept = {
        name: re.findall(r"TTL .*toIntervalDay\((\d+)\)", made_by[name])
        for name in ("metrics", "metrics_5m", "metrics_1h")
    }
    assert kept == {"metrics": ["8"], "metrics_5m": ["91"], "metrics_1h": ["731"]}
    assert [days.days for days in RETENTION.values()] == [7, 90, 730]
    assert "TTL" not in made_by["device_metrics_hourly_versions"]
    assert Thresholds().audit_kept_days > 365
    assert timedelta(minutes=5) == DEVICES_TTL
    assert timedelta(hours=24) == WEEKLY_REPORT_TTL
