"""A database of 0.3.0 with data in it: after `migrate up` every number is there, under its new name."""

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ninjait_pipelines.billing.document_checks import lines_add_up, stores_agree
from ninjait_pipelines.billing.documents import invoices
from ninjait_pipelines.billing.local_time import next_month
from ninjait_pipelines.migrations import migrate_up, rollback
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines.resources.clickhouse_versions import in_slices, sliced_marts, slices_from
from ninjait_pipelines_tests.conftest import drop, fresh
from ninjait_pipelines_tests.runs import Killed, add, killed, run

# The last migration that 0.3.0 had.
AT_0_3_0 = {"clickhouse": 10, "postgres": 4}
ALPHA, BETA, ANA, BEN, ASKER, DESKTOP, LAPTOP, TICKET, OTHER = (uuid.UUID(int=number) for number in range(1, 10))
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = datetime.combine(NOW.date() - timedelta(days=3), datetime.min.time(), UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
AS_OF = pa.timestamp("us", "UTC")
MONTH = DAY.date().replace(day=1)
CONTRACT = uuid.UUID(int=20)
INVOICE = uuid.uuid5(CONTRACT, MONTH.isoformat())
# 0.3.0 had nothing like them.
NEW_MARTS = {"agreements", "billing_reconciliation", "device_days", "device_terms", "usage_days"}

# What was asked of 0.3.0, and what is asked now.
NUMBERS = {
    "hourly rows by device": (
        "SELECT device_id, count() AS n, sum(sample_count) AS samples, avg(cpu_avg) AS mean, max(cpu_max) AS peak, "
        "min(hour) AS first, max(hour) AS last FROM device_metrics_hourly GROUP BY device_id ORDER BY 1",
        "SELECT device_id, count() AS n, sum(sample_count) AS samples, avg(cpu_avg) AS mean, max(cpu_max) AS peak, "
        "min(timestamp) AS first, max(timestamp) AS last FROM device_metrics_hourly GROUP BY device_id ORDER BY 1",
    ),
    "ticket events": (
        "SELECT event_id, ticket_id, actor_id, event, old_value, new_value, occurred_at FROM ticket_events ORDER BY 1",
        "SELECT event_id, ticket_id, actor_id, if(event_type = 'closed', 'status_changed', event_type) AS event, "
        "old_value, new_value, timestamp AS occurred_at FROM ticket_events ORDER BY 1",
    ),
    "billed quantities": (
        "SELECT * EXCEPT (as_of) FROM billing_events ORDER BY ALL",
        "SELECT organization_id, local_day, kind, quantity, unit, contract_id, price_plan_id, price_plan_version, "
        "window_start, window_end, completeness FROM billing_quantities ORDER BY ALL",
    ),
    "devices by status": (
        "SELECT organization_id, status, devices, as_of FROM device_status_realtime ORDER BY ALL",
        "SELECT organization_id, status, devices, as_of FROM device_status_realtime ORDER BY ALL",
    ),
    "facts": ("SELECT * FROM ticket_facts ORDER BY ALL", "SELECT * FROM ticket_facts ORDER BY ALL"),
    "invoices": 2 * ("SELECT id, contract_id, price_plan_id, status, currency, total, days_covered FROM invoices",),
    "lines": (
        "SELECT invoice_id, line_number, kind AS product, quantity, unit_price, amount FROM invoice_lines ORDER BY 2",
        "SELECT invoice_id, line_number, product, quantity, unit_price, amount FROM invoice_lines ORDER BY 2",
    ),
}
RECORDS = {
    "invoices": 2
    * ("SELECT id, contract_id, price_plan_id, price_plan_version, status, total, as_of FROM billing.invoices",),
    "lines": (
        "SELECT invoice_id, line_number, kind AS product, quantity, unit_price, amount FROM billing.invoice_lines "
        "ORDER BY 2",
        "SELECT invoice_id, line_number, product, quantity, unit_price, amount FROM billing.invoice_lines ORDER BY 2",
    ),
    "users": (
        "SELECT id, organization_id, email, full_name, role, created_at FROM users ORDER BY id",
        "SELECT id, organization_id, email, full_name, role, created_at FROM users ORDER BY id",
    ),
    "devices": (
        "SELECT id, hostname, kind, operating_system, registered_at, retired_at FROM devices ORDER BY id",
        "SELECT id, name AS hostname, kind, os_version AS operating_system, created_at AS registered_at, retired_at "
        "FROM devices ORDER BY id",
    ),
    "tickets": (
        "SELECT id, number, requester_id, assignee_id, subject, priority, status, created_at FROM tickets ORDER BY id",
        "SELECT id, number, created_by AS requester_id, assigned_to AS assignee_id, title AS subject, priority, "
        "status, created_at FROM tickets ORDER BY id",
    ),
    "audit": (
        "SELECT id, actor_id, entity_type, entity_id, action, new_values, host(ip_address) AS ip, occurred_at "
        "FROM audit.audit_logs ORDER BY id",
        "SELECT id, user_id AS actor_id, entity_type, entity_id, action::text AS action, new_values, ip_address AS ip, "
        "created_at AS occurred_at FROM audit.audit_logs ORDER BY id",
    ),
}


@pytest.fixture
def old(stack: dict[str, str], tmp_path: Path) -> Iterator[Stores]:
    """Databases as 0.3.0 left them."""
    for store, last in AT_0_3_0.items():
        (tmp_path / "sql" / store).mkdir(parents=True)
        for file in sorted((SQL / store).glob("*.sql"))[:last]:
            (tmp_path / "sql" / store / file.name).write_bytes(file.read_bytes())
    settings = fresh(stack, "test_upgrade", tmp_path)
    with open_stores(settings) as stores:
        migrate_up(stores.postgres, stores.clickhouse, folder=tmp_path / "sql")
        _fill_postgres(stores)
        _fill_clickhouse(stores)
        yield stores
    drop(stack, settings)


def asked(stores: Stores, place: int) -> dict[str, list[dict[str, Any]]]:
    """The numbers of both stores, by the queries of before (0) or of now (1)."""
    found = {name: stores.clickhouse.rows(queries[place]) for name, queries in NUMBERS.items()}
    found |= {f"PostgreSQL's {name}": stores.postgres.rows(queries[place]) for name, queries in RECORDS.items()}
    assert all(found.values())
    return found


def test_every_number_is_the_same_and_back_again(old: Stores) -> None:
    before = asked(old, 0)
    migrate_up(old.postgres, old.clickhouse)
    assert asked(old, 1) == before
    for store, last in AT_0_3_0.items():
        for _ in sorted((SQL / store).glob("*.sql"))[last:]:
            rollback(old.postgres, old.clickhouse, store)
    assert asked(old, 0) == before


def test_drafts_of_contracts_become_those_of_their_agreement(old: Stores) -> None:
    """Until their month is drafted again, which replaces them: by a document of the same id."""
    migrate_up(old.postgres, old.clickhouse)
    [draft] = old.postgres.rows("SELECT agreement_id, kind, net, tax_total, total, document FROM billing.invoices")
    assert draft == {
        "agreement_id": CONTRACT,
        "kind": "invoice",
        "net": Decimal("100.50"),
        "tax_total": 0,
        "total": Decimal("100.50"),
        "document": None,
    }
    [copied] = old.clickhouse.rows("SELECT agreement_id, kind, number, net, tax_total FROM invoices")
    assert copied == {"agreement_id": CONTRACT, "kind": "invoice", "number": "", "net": draft["net"], "tax_total": 0}
    run(old, invoices, lines_add_up, stores_agree, key=MONTH.isoformat())
    [again] = old.postgres.rows("SELECT id, contract_id, status, document IS NOT NULL AS whole FROM billing.invoices")
    assert again == {"id": INVOICE, "contract_id": None, "status": "draft", "whole": True}


def test_what_is_new_is_computed_of_what_was_there(old: Stores) -> None:
    migrate_up(old.postgres, old.clickhouse)
    events = old.clickhouse.rows("SELECT * FROM ticket_events ORDER BY timestamp, event_id")
    found = [(row["event_type"], row["duration_seconds"], row["sla_breached"], row["technician_id"]) for row in events]
    assert found == [
        ("created", 0, 0, BEN),
        ("responded", 3660, 1, BEN),
        ("status_changed", 7200, 0, BEN),
        ("closed", 10800, 0, ANA),
    ]
    [day] = old.clickhouse.rows("SELECT * FROM billing_events")
    days = (((DAY.replace(day=1) + timedelta(days=32)).replace(day=1)) - DAY.replace(day=1)).days
    assert (day["event_date"], day["devices"], day["api_calls"], day["storage_gb_stored"]) == (
        DAY.date(),
        7,
        1000,
        12.5,
    )
    assert abs(float(day["device_count"]) - 7 / days) < 1e-12
    assert (day["cost"], day["cost_usd"], day["currency"]) == (None, None, "")
    late = old.clickhouse.rows("SELECT day FROM late_days WHERE asset = 'billing_events'")
    assert late == [{"day": DAY.date()}], "what it costs is computed by itself"
    devices = old.postgres.rows("SELECT name, status, os_type FROM devices ORDER BY id")
    assert [tuple(row.values()) for row in devices] == [("pc", "active", "windows"), ("mac", "retired", "macos")]
    [ticket] = old.postgres.rows("SELECT description, updated_at = created_at AS same FROM tickets")
    assert ticket == {"description": None, "same": True}
    hashes = old.postgres.rows("SELECT DISTINCT password_hash FROM users")
    assert hashes == [{"password_hash": "!"}], "nobody can sign in by it"


def test_the_next_version_of_a_slice_hides_what_0_3_0_wrote_even_if_its_run_dies(old: Stores) -> None:
    """Rows of 0.3.0 had no marker: until they were deleted, a device's hour was there twice."""
    _fill_other_marts(old)
    migrate_up(old.postgres, old.clickhouse)
    for mart in set(sliced_marts()) - NEW_MARTS:
        slices = slices_from(mart, DAY)
        where, parameters = in_slices(mart, slices)
        rows = f"SELECT count() FROM {mart} WHERE {where}"
        assert old.clickhouse.scalar(rows, **parameters), mart
        with killed(ClickHouse, "_delete"), pytest.raises(Killed):
            old.clickhouse.replace_slice(mart, mart_rows(mart, []), old.clickhouse.now(), slices)
        assert old.clickhouse.scalar(rows, **parameters) == 0, mart


def _fill_other_marts(stores: Stores) -> None:
    """A row in each mart that no number of the others is about."""
    columns = {"technician_performance": "day", "invoices": "period_starts_on", "invoice_lines": "period_starts_on"}
    for mart, day in columns.items():
        _put(stores, f"{mart}_versions", [{"organization_id": ALPHA, day: DAY.date()}])
    for mart in ("users", "devices", "contracts"):
        _put(stores, f"{mart}_versions", [{"organization_id": ALPHA, "id": OTHER}])
    _put(stores, "organizations_versions", [{"id": ALPHA, "slug": "alpha"}])


def _fill_postgres(stores: Stores) -> None:
    organization = {"id": ALPHA, "name": "Alpha", "slug": "alpha", "time_zone": "UTC", "created_at": DAY}
    add(stores, "organizations", [organization])
    user = {"organization_id": ALPHA, "role": "technician", "created_at": DAY}
    people = {ANA: "ana", BEN: "ben", ASKER: "asker"}
    add(stores, "users", [{**user, "id": id_, "email": name, "full_name": name} for id_, name in people.items()])
    device = {"organization_id": ALPHA, "kind": "laptop", "registered_at": DAY}
    systems = ((DESKTOP, "pc", "Windows 11 Pro", None), (LAPTOP, "mac", "macOS 15.1", NOW))
    rows = [
        {**device, "id": id_, "hostname": name, "operating_system": system, "retired_at": retired}
        for id_, name, system, retired in systems
    ]
    add(stores, "devices", rows)
    ticket = {"id": TICKET, "organization_id": ALPHA, "number": 1, "requester_id": ASKER, "assignee_id": BEN}
    add(stores, "tickets", [{**ticket, "subject": "?", "priority": "high", "status": "closed", "created_at": DAY}])
    log = {"id": OTHER, "organization_id": ALPHA, "actor_id": ANA, "entity_type": "device", "entity_id": DESKTOP}
    log |= {"action": "CREATE", "new_values": '{"a": 1}', "ip_address": "203.0.113.7", "occurred_at": DAY}
    add(stores, "audit.audit_logs", [log])

    _fill_invoices(stores)


def _fill_invoices(stores: Stores) -> None:
    """A contract with a draft in both stores."""
    prices = {"base_fee": 99, "device_month_price": "1.5", "storage_gb_month_price": 0, "backup_gb_month_price": 0}
    prices |= {"api_calls_included": 0, "api_calls_thousand_price": 0}
    plan = {
        "id": ANA,
        "version": 2,
        "name": "Plan",
        "currency": "EUR",
        "published_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    add(stores, "price_plans", [plan | prices])
    terms = {"price_plan_id": ANA, "price_plan_version": 2, "starts_on": date(2026, 1, 1)}
    add(stores, "contracts", [{"id": CONTRACT, "organization_id": ALPHA, **terms}])
    end = next_month(MONTH)
    head = {
        "id": INVOICE,
        "organization_id": ALPHA,
        "contract_id": CONTRACT,
        "price_plan_id": ANA,
        "price_plan_version": 2,
    }
    head |= {"period_starts_on": MONTH, "period_ends_on": end, "status": "draft", "currency": "EUR"}
    head |= {"period_start": _midnight(MONTH), "period_end": _midnight(end), "days_covered": 3, "days_in_period": 30}
    add(stores, "billing.invoices", [{**head, "total": Decimal("100.50"), "as_of": DAY}])
    row = {"invoice_id": INVOICE, "organization_id": ALPHA, "description": "?"}
    lines = [(1, "base_fee", "1", "months", "99", "99"), (2, "devices", "1", "device-months", "1.5", "1.5")]
    names = ("line_number", "kind", "quantity", "unit", "unit_price", "amount")
    rows = [row | dict(zip(names, line, strict=True)) for line in lines]
    add(stores, "billing.invoice_lines", rows)
    _put(stores, "invoices_versions", [{**head, "total": 100.5}])
    numbers = ("quantity", "unit_price", "amount")
    of_month = [{**one, **{name: float(str(one[name])) for name in numbers}, "period_starts_on": MONTH} for one in rows]
    _put(stores, "invoice_lines_versions", of_month)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


def _fill_clickhouse(stores: Stores) -> None:
    hours = [
        {"device_id": device, "hour": DAY + hour * HOUR, "cpu_avg": 10.0 * hour, "cpu_max": 50.0 + hour}
        for device in (DESKTOP, LAPTOP)
        for hour in range(5)
    ]
    row = {"organization_id": ALPHA, "sample_count": 120, "sample_share": 1.0, "source_tier": "metrics"}
    _put(stores, "device_metrics_hourly_versions", [row | one for one in hours])
    replaced = [row | {"device_id": DESKTOP, "hour": DAY, "cpu_avg": 99.0, "cpu_max": 99.0, "sample_count": 1}]
    _put(stores, "device_metrics_hourly_versions", replaced, DAY - HOUR)  # its run died before it deleted it
    events = [
        (0, "created", None, None),
        (61, "responded", None, None),
        (120, "status_changed", "new", "open"),
        (180, "status_changed", "open", "closed"),
    ]
    row = {"organization_id": ALPHA, "ticket_id": TICKET, "actor_id": ANA}
    rows = [
        {
            **row,
            "event_id": uuid.UUID(int=100 + number),
            "event": event,
            "old_value": before,
            "new_value": after,
            "occurred_at": DAY + minutes * MINUTE,
        }
        for number, (minutes, event, before, after) in enumerate(events)
    ]
    _put(stores, "ticket_events_versions", rows)
    fact = {"day": DAY.date(), "organization_id": ALPHA, "ticket_id": TICKET, "number": 1, "assignee_id": BEN}
    fact |= {"priority": "high", "status": "closed", "created_at": DAY, "first_responded_at": DAY + 61 * MINUTE}
    fact |= {"closed_at": DAY + 180 * MINUTE, "closed_assignee_id": ANA, "first_response_breached": True}
    _put(stores, "ticket_facts_versions", [{**fact, "resolution_breached": False}])
    _put(stores, "ticket_facts_versions", [{**fact, "resolution_breached": True}], DAY - HOUR)
    quantities = {"devices": "7", "storage": "12.5", "backup": "3.25", "api_calls": "1000"}
    row = {"organization_id": ALPHA, "local_day": DAY.date(), "unit": "?", "contract_id": OTHER, "price_plan_id": ANA}
    row |= {"price_plan_version": 2, "window_start": DAY, "window_end": DAY + 24 * HOUR, "completeness": 0.5}
    rows = [{**row, "kind": kind, "quantity": float(quantity)} for kind, quantity in quantities.items()]
    _put(stores, "billing_events_versions", rows)
    beats = [(DESKTOP, "online", 9), (DESKTOP, "offline", 3), (LAPTOP, "maintenance", 2), (LAPTOP, "online", 7)]
    rows = [
        {
            "organization_id": ALPHA,
            "device_id": device,
            "status": status,
            "timestamp": NOW - minutes * MINUTE,
            "message_id": uuid.uuid5(device, str(minutes)),
        }
        for device, status, minutes in beats
    ]
    _put(stores, "device_heartbeats_versions", rows)


def _put(stores: Stores, storage: str, rows: list[dict[str, Any]], version: datetime = DAY) -> None:
    """Rows of a storage; ids as text."""
    columns = {name: pa.array([_text(row[name]) for row in rows], _type(rows[0][name])) for name in rows[0]}
    stores.clickhouse.insert(storage, pa.table({**columns, "as_of": pa.array([version] * len(rows), AS_OF)}))


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value


def _type(value: Any) -> pa.DataType | None:
    if isinstance(value, datetime):
        return pa.timestamp("ms", "UTC")
    return pa.date32() if isinstance(value, date) else None
