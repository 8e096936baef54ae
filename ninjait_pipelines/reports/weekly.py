"""The weekly report: what is in it, where it goes, and which report gives way to which."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from iso4217 import Currency

from ninjait_pipelines.keys import WEEKLY_REPORT_TTL, as_of_text, weekly_report
from ninjait_pipelines.metrics.model import HOUR
from ninjait_pipelines.resources.archive.errors import ObjectCorrupt
from ninjait_pipelines.resources.archive.resource import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.dragonfly import Dragonfly

WEEK = timedelta(days=7)
QUERIES = ("organizations", "devices", "expected", "busiest", "tickets", "api", "billing", "invoices")
Report = dict[str, Any]
# Query -> one organization's rows of it.
Rows = Mapping[str, list[dict[str, Any]]]


def read_week(clickhouse: ClickHouse, start: datetime, stop: datetime) -> list[Rows]:
    """Every query of the report over [start, stop), of each organization that was a customer in it."""
    found: defaultdict[UUID, defaultdict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for name in QUERIES:
        for row in clickhouse.rows(sql(f"reports/{name}"), start=start, stop=stop):
            found[row["organization_id"]][name].append(row)
    return [own for own in found.values() if own["organizations"]]


def late_weeks(clickhouse: ClickHouse, _: Sequence[str] = ()) -> list[date]:
    """The weeks that API calls came for after their reports were computed."""
    return [row["day"] for row in clickhouse.rows(sql("reports/late_weeks"), today=clickhouse.now().date())]


def name_of(own: Rows) -> str:
    """Whose report it is."""
    return f"organization {own['organizations'][0]['organization_id']}"


def completeness(rolled_up_hours: int, start: datetime, as_of: datetime) -> float:
    """The share of the week's hours over by `as_of` that were rolled up; 0 while none is over."""
    elapsed = min(as_of - start, WEEK) // HOUR
    return min(1.0, rolled_up_hours / elapsed) if elapsed > 0 else 0.0


def report(own: Rows, week: date, as_of: datetime, complete: float) -> Report:
    """An organization's report, JSON-able: decimals as text, null where nothing was measured.

    Raises ValueError where a figure is no number: JSON has no NaN.
    """
    first = {name: rows[0] for name, rows in own.items() if rows}
    organization, devices = first["organizations"], first.get("devices", {})
    tickets, calls = first.get("tickets", {}), first.get("api", {})
    expected = first.get("expected", {}).get("expected")
    latest = {row["kind"]: _value(row["latest"]) for row in own["billing"]}
    breaches = ("first_response_breaches", "resolution_breaches")
    invoiced = ("period_starts_on", "currency", "total", "status", "kind", "number", "days_covered", "days_in_period")
    found = {
        "organization_id": str(organization["organization_id"]),
        "organization": organization["name"],
        "week": week.isoformat(),
        "as_of": as_of_text(as_of),
        "completeness": complete,
        "devices": {
            "reporting": devices.get("reporting", 0),
            **{name: devices.get(name) for name in ("cpu_avg", "cpu_max", "memory_avg", "memory_max")},
            "sample_share": min(1.0, devices.get("share", 0.0) / expected) if expected else None,
            "busiest": _plain(own["busiest"], "device_id", "hostname", "cpu_avg"),
        },
        "tickets": {name: tickets.get(name, 0) for name in ("opened", "closed", *breaches)},
        "api": {"calls": calls.get("calls", 0), "error_share": calls.get("error_share")},
        "usage": {"storage_gb": latest.get("storage"), "backup_gb": latest.get("backup")},
        "billing": {
            "quantities": _plain(own["billing"], "kind", "quantity", "complete_days"),
            "invoices": _plain([_in_its_currency(row) for row in own["invoices"]], *invoiced),
        },
    }
    json.dumps(found, allow_nan=False)
    return found


def _plain(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: _value(row[name]) for name in names} for row in rows]


def _in_its_currency(row: dict[str, Any]) -> dict[str, Any]:
    """A document whose total has the places of its currency: 1.10 EUR, 110 JPY."""
    try:
        places = Currency(row["currency"]).exponent or 0
    except ValueError:
        places = 2
    return {**row, "total": row["total"].quantize(Decimal(1).scaleb(-places))}


def _value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value) if isinstance(value, (UUID, date)) else value


def report_key(organization_id: UUID | str, week: date | str) -> str:
    """The report's object in the archive."""
    return f"weekly_reports/week={week}/organization_id={organization_id}.json"


class _Head(msgspec.Struct):
    """What every report says of itself."""

    organization_id: str
    week: str
    as_of: str
    completeness: float


def read_report(archive: Archive, organization_id: UUID | str, week: date | str) -> Report | None:
    """The archived report; None where there is none, or where the object is no report: the next run replaces it."""
    key = report_key(organization_id, week)
    try:
        found: Report | None = json.loads(archive.read(key)) if archive.exists(key) else None
        msgspec.convert(found, _Head | None)
    except (ValueError, ObjectCorrupt):  # msgspec.ValidationError is one
        return None
    return found


def publish(archive: Archive, dragonfly: Dragonfly, report: Report, cached: bool) -> bool:
    """Puts a report into the archive and, where `cached`, into Dragonfly; False where both hold a newer one already.

    1. The archive, which lasts. Dying here: the API shows the report before until a rerun, which repeats both.
    2. Dragonfly, for a day, unless it holds a later week's.
    """
    organization, week = report["organization_id"], report["week"]
    held = read_report(archive, organization, week)
    archived = held is None or held["as_of"] <= report["as_of"]
    if archived:
        archive.write(report_key(organization, week), json.dumps(report, indent=2).encode())
    return (cached and dragonfly.set_if_newer(weekly_report(organization), report, WEEKLY_REPORT_TTL)) or archived
