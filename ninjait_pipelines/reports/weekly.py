"""The weekly report: what is in it, where it goes, and which report gives way to which."""

import json
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from redis.client import Pipeline

from ninjait_pipelines.cache.keys import WEEKLY_REPORT_TTL, weekly_report
from ninjait_pipelines.resources.archive import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.dragonfly import Dragonfly, as_of_text, errors

WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)
Report = dict[str, Any]
Rows = list[dict[str, Any]]


def read_week(clickhouse: ClickHouse, start: datetime, stop: datetime) -> dict[str, Rows]:
    """Every query of the report over [start, stop): name -> rows of all organizations."""
    names = ("organizations", "devices", "expected", "busiest", "tickets", "api", "billing", "invoices")
    return {name: clickhouse.rows(sql(f"reports/{name}"), start=start, stop=stop) for name in names}


def completeness(rolled_up_hours: int, start: datetime, as_of: datetime) -> float:
    """The share of the week's hours over by `as_of` that were rolled up; 0 while none is over."""
    elapsed = min(as_of - start, WEEK) // HOUR
    return min(1.0, rolled_up_hours / elapsed) if elapsed > 0 else 0.0


def reports(read: Mapping[str, Rows], week: date, as_of: datetime, complete: float) -> list[Report]:
    """One report for each organization, JSON-able: decimals as text, null where nothing was measured."""
    of = {name: _by_organization(rows) for name, rows in read.items()}
    return [
        {
            "organization_id": str(organization["organization_id"]),
            "organization": organization["name"],
            "week": week.isoformat(),
            "as_of": as_of_text(as_of),
            "completeness": complete,
            **_sections({name: rows.get(organization["organization_id"], []) for name, rows in of.items()}),
        }
        for organization in read["organizations"]
    ]


def _sections(own: Mapping[str, Rows]) -> Report:
    devices = _only(own["devices"])
    expected = _only(own["expected"]).get("expected", 0)
    tickets = _only(own["tickets"])
    calls = _only(own["api"])
    billed = {row["kind"]: row for row in own["billing"]}
    figures = {name: devices.get(name) for name in ("cpu_avg", "cpu_max", "memory_avg", "memory_max")}
    return {
        "devices": {
            "reporting": devices.get("reporting", 0),
            **figures,
            "sample_share": min(1.0, devices.get("samples", 0) / expected) if expected else None,
            "busiest": [_plain(row, "device_id", "hostname", "cpu_avg") for row in own["busiest"]],
        },
        "tickets": {
            name: tickets.get(name, 0)
            for name in ("opened", "closed", "first_response_breaches", "resolution_breaches")
        },
        "api": {"calls": calls.get("calls", 0), "error_share": calls.get("error_share")},
        "usage": {
            f"{kind}_gb": _value(billed[kind]["latest"]) if kind in billed else None for kind in ("storage", "backup")
        },
        "billing": {
            "quantities": [_plain(row, "kind", "quantity", "complete_days") for row in own["billing"]],
            "invoices": [
                _plain(row, "period_starts_on", "currency", "total", "status", "days_covered", "days_in_period")
                for row in own["invoices"]
            ],
        },
    }


def _by_organization(rows: Rows) -> dict[UUID, Rows]:
    grouped: dict[UUID, Rows] = {}
    for row in rows:
        grouped.setdefault(row["organization_id"], []).append(row)
    return grouped


def _only(rows: Rows) -> dict[str, Any]:
    return rows[0] if rows else {}


def _plain(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: _value(row[name]) for name in names}


def _value(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value) if isinstance(value, (UUID, date)) else value


def report_key(report: Report) -> str:
    """The report's object in the archive."""
    return f"weekly_reports/week={report['week']}/organization_id={report['organization_id']}.json"


def publish(archive: Archive, dragonfly: Dragonfly, report: Report, cached: bool) -> bool:
    """Puts a report into the archive and, where `cached`, into Dragonfly; False where both hold a newer one already.

    1. The archive, which lasts. Dying here: the API shows the report before until a rerun, which repeats both.
    2. Dragonfly, for a day.
    """
    key = report_key(report)
    held = json.loads(archive.read(key)) if archive.exists(key) else None
    archived = held is None or held["as_of"] <= report["as_of"]
    if archived:
        archive.write(key, json.dumps(report, indent=2).encode())
    return (cached and cache_report(dragonfly, report)) or archived


def cache_report(dragonfly: Dragonfly, report: Report) -> bool:
    """Caches the report unless the key holds a later week's, or this week's of a newer run."""
    key = weekly_report(report["organization_id"])

    def switch(pipeline: Pipeline) -> bool:
        held = pipeline.get(key)
        if held and _rank(json.loads(str(held))) > _rank(report):
            return False
        pipeline.multi()
        pipeline.set(key, json.dumps(report), ex=WEEKLY_REPORT_TTL)
        return True

    with errors(dragonfly.url):
        return bool(dragonfly.client.transaction(switch, key, value_from_callable=True))  # type: ignore[arg-type]


def _rank(report: Report) -> tuple[str, str]:
    return report["week"], report["as_of"]
