"""Agreements, and days as they were measured, with as little as a test needs to say."""

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ninjait_pipelines.billing.agreements import enter
from ninjait_pipelines.billing.local_time import DAY, day_window, next_month, overlapped_hours
from ninjait_pipelines.billing.rating.agreement import agreement
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines_tests.runs import add, content

NAMESPACE = uuid.UUID(int=17)
SINCE = datetime(2025, 12, 1, tzinfo=UTC)
LONG_AGO = date(2025, 12, 1)
RULE = "401,403,5xx"


def named(*parts: object) -> uuid.UUID:
    return uuid.uuid5(NAMESPACE, "/".join(map(str, parts)))


def days_of(month: date) -> list[date]:
    return [month + number * DAY for number in range((next_month(month) - month).days)]


class Books:
    """Enters what is agreed, and writes device_days and usage_days as billing would have measured them."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self._devices: dict[date, dict[Any, dict[str, Any]]] = defaultdict(dict)
        self._usage: dict[date, dict[Any, dict[str, Any]]] = defaultdict(dict)
        self._zones: dict[uuid.UUID, str] = {}

    def seller(self, **more: Any) -> uuid.UUID:
        row = {"id": named("seller", more.get("name", "Provider")), "name": "Provider", "is_default": True, **more}
        add(self.stores, "billing.sellers", [row])
        return row["id"]

    def organization(self, name: str, zone: str = "UTC") -> uuid.UUID:
        id_ = named(name)
        row = {"id": id_, "name": name, "slug": name, "time_zone": zone, "created_at": SINCE}
        add(self.stores, "organizations", [row])
        self._zones[id_] = zone
        return id_

    def agreement(self, organization: uuid.UUID, *items: dict[str, Any], **more: Any) -> uuid.UUID:
        """An agreement in EUR from long ago on, with these items; more: other fields of its JSON."""
        id_ = named(organization, more.pop("name", "agreement"))
        given = {
            "id": str(id_),
            "organization_id": str(organization),
            "currency": "EUR",
            "time_zone": self._zones.get(organization, "UTC"),
            "term": {"from": LONG_AGO.isoformat()},
            "items": [{"from": LONG_AGO.isoformat(), **item} for item in items],
        }
        with self.stores.postgres.transaction() as connection:
            enter(connection, agreement(json.dumps(given | more).encode()))
        return id_

    def device_id(self, organization: uuid.UUID, number: int) -> uuid.UUID:
        return named(organization, "device", number)

    def device(self, organization: uuid.UUID, number: int, since: datetime = SINCE) -> uuid.UUID:
        id_ = self.device_id(organization, number)
        row = {"id": id_, "organization_id": organization, "name": f"d{number}", "kind": "server", "os_type": "linux"}
        add(self.stores, "devices", [{**row, "os_version": "Debian 12", "created_at": since}])
        return id_

    def reported(self, organization: uuid.UUID, device: uuid.UUID, days: Iterable[date]) -> None:
        """A device reported on these days; `measure` writes them."""
        for day in days:
            row = self._key(organization, day) | {"device_id": device, "hours": 24, "samples": 2880}
            self._devices[day][organization, device] = row

    def used(self, organization: uuid.UUID, days: Iterable[date], calls: int = 0, storage: int = 0) -> None:
        """Each of these days was measured whole, with so many calls and GB; `measure` writes them."""
        for day in days:
            key = self._key(organization, day)
            start, end = day_window(day, self._zones[organization])
            length = (end - start) // timedelta(milliseconds=1)
            hours = len(overlapped_hours(start, end))
            none = {"gb_milliseconds": 0, "known_milliseconds": 0, "day_milliseconds": length, "inputs_hash": 0}
            none |= {"completeness": 1.0, "frozen": False}
            gb = none | {"gb_milliseconds": storage * length, "known_milliseconds": length, "rule": "7", "unit": "GB"}
            rows = [
                none | {"kind": "hours", "rule": "", "quantity": hours, "unit": "hours"},
                none | {"kind": "api_calls", "rule": RULE, "quantity": calls, "unit": "calls"},
                gb | {"kind": "storage", "quantity": storage},
                gb | {"kind": "backup", "quantity": 0, "gb_milliseconds": 0},
            ]
            for row in rows:
                self._usage[day][organization, row["kind"]] = key | row

    def measure(self, days: Sequence[date]) -> None:
        """Writes these days, a new version of each, as a run of billing does: of all organizations."""
        as_of = self.stores.clickhouse.now()
        for table, written in (("device_days", self._devices), ("usage_days", self._usage)):
            rows = [row for day in days for row in written[day].values()]
            self.stores.clickhouse.replace_slice(table, mart_rows(table, rows), as_of, days)

    def _key(self, organization: uuid.UUID, day: date) -> dict[str, Any]:
        return {"organization_id": organization, "time_zone": self._zones[organization], "local_day": day}


def everything(stores: Stores) -> dict[str, list[Any]]:
    """All documents and lines of both stores, without the times of runs."""
    heads = stores.postgres.rows("SELECT * FROM billing.invoices ORDER BY id")
    lines = stores.postgres.rows("SELECT * FROM billing.invoice_lines ORDER BY invoice_id, line_number")
    times = ("as_of", "watermark")
    return {
        "heads": [{name: value for name, value in row.items() if name not in times} for row in heads],
        "lines": lines,
        "invoices": content(stores, "invoices"),
        "invoice_lines": content(stores, "invoice_lines"),
    }
