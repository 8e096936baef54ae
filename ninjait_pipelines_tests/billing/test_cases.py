"""Each case comes out right at both ends: priced from files by rate, and through every store by the pipeline."""

import uuid
from collections import defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ninjait_pipelines.billing.agreements import agreements_in_force, enter
from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.local_time import HOUR, day_window, next_month
from ninjait_pipelines.billing.measure import store_days
from ninjait_pipelines.billing.rating.agreement import Agreement
from ninjait_pipelines.billing.rating.document import Document, canonical, document, draft
from ninjait_pipelines.billing.rating.usage import DATE, Usage
from ninjait_pipelines.billing.write import save_drafts
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.billing.cases import ANOTHER, CASES, Case
from ninjait_pipelines_tests.billing.usage_data import add_calls, add_rolled_up
from ninjait_pipelines_tests.cache.data import mart
from ninjait_pipelines_tests.runs import add

LONG_AGO = datetime(2023, 1, 1, tzinfo=UTC)
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def lines_of(found: Document) -> list[tuple[str, str, str]]:
    return [(line.product, str(line.from_), str(line.amount)) for line in found.lines]


@each
def test_by_rate(case: Case) -> None:
    assert lines_of(draft(case.agreement(), case.used(), case.first)) == case.lines


@pytest.fixture(scope="module")
def documents(module_stores: tuple[Settings, Stores]) -> dict[str, bytes]:
    """The document that is drawn up of each case, all of a month together, by the functions that the assets call:
    organization -> its bytes."""
    stores = module_stores[1]
    add(stores, "organizations", [organization(ANOTHER), *(organization(case.organization) for case in CASES)])
    for case in CASES:
        play(stores, case)
    found = {}
    for month in sorted({case.first for case in CASES}):
        as_of, agreements = stores.clickhouse.now(), agreements_in_force(stores.postgres, month, next_month(month))
        store_days(stores.clickhouse, agreements, month, next_month(month), as_of)
        drafts = draw_up(stores.postgres, stores.clickhouse, month)
        save_drafts(stores.postgres, stores.clickhouse, month, drafts, as_of)
        query = "SELECT organization_id, document FROM billing.invoices WHERE period_starts_on = %(month)s"
        drafted = {
            str(row["organization_id"]): bytes(row["document"]) for row in stores.postgres.rows(query, {"month": month})
        }
        found |= {case.organization: drafted[case.organization] for case in CASES if case.first == month}
    return found


@each
def test_through_the_pipeline(case: Case, documents: dict[str, bytes]) -> None:
    """The stored document has the same lines, and its bytes are canonical."""
    stored = documents[case.organization]
    assert lines_of(document(stored)) == case.lines
    assert canonical(document(stored)) == stored


def organization(id_: str) -> dict[str, Any]:
    return {"id": id_, "name": id_, "slug": id_, "time_zone": "UTC", "created_at": LONG_AGO}


def play(stores: Stores, case: Case) -> None:
    """Writes the agreement and its usage where the platform, ingest and the roll-up write them."""
    agreed, used = case.agreement(), case.used()
    add_terms(stores, agreed, used)
    with stores.postgres.transaction() as connection:
        enter(connection, agreed)
    add_heard(stores, agreed, used)
    id_, zone = agreed.organization_id, agreed.time_zone
    calls = [(str(name_id(id_, one.id)), one.timestamp, one.status_code) for one in used.api_calls]
    for count in used.api_call_counts:
        noon = day_window(count.day, zone)[0] + 12 * HOUR
        calls += [(str(name_id(id_, f"{count.day} {number}")), noon, 200) for number in range(count.count)]
    add_calls(stores, calls, id_)
    add_volumes(stores, id_, used)
    start, end = day_window(case.first, zone)[0], day_window(next_month(case.first), zone)[0]
    add_rolled_up(stores, [_hour(start) + number * HOUR for number in range((end - start) // HOUR + 1)])


def name_id(organization: str, name: str) -> uuid.UUID:
    """The id of a device, a call or a report."""
    return uuid.uuid5(uuid.UUID(organization), name)


def add_terms(stores: Stores, agreed: Agreement, used: Usage) -> None:
    id_, zone = agreed.organization_id, agreed.zone
    names = sorted({one.device_id for one in used.devices})
    row = {"organization_id": id_, "kind": "server", "created_at": LONG_AGO}
    if names:
        add(stores, "devices", [{**row, "id": name_id(id_, name), "name": name} for name in names])
    terms = [
        {
            "organization_id": one.organization_id or id_,
            "device_id": name_id(id_, one.device_id),
            "class": one.class_,
            "site": one.site,
            "tags": sorted(one.tags),
            "billable": one.billable,
            "first": instant(one.from_, zone) if one.from_ else LONG_AGO,
            "until": instant(one.to, zone) if one.to else None,
        }
        for one in used.devices
    ]
    with stores.postgres.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM billing.device_terms WHERE organization_id = %s", [id_])
        cursor.executemany(
            "INSERT INTO billing.device_terms (organization_id, device_id, term, class, site, tags, billable) VALUES "
            "(%(organization_id)s, %(device_id)s, tstzrange(%(first)s, %(until)s), %(class)s, %(site)s, %(tags)s, "
            "%(billable)s)",
            terms,
        )


def add_heard(stores: Stores, agreed: Agreement, used: Usage) -> None:
    """Hourly rows; a device that reported on a local day did so at its noon."""
    zone = agreed.zone
    hours: dict[tuple[str, datetime], list[datetime]] = defaultdict(list)
    for report in used.reports:
        for at in report.at:
            moment = instant(at, zone) + 12 * HOUR if DATE.fullmatch(at) else instant(at, zone)
            hours[report.device_id, _hour(moment)].append(moment)
    rows = [
        {
            "organization_id": agreed.organization_id,
            "device_id": name_id(agreed.organization_id, name),
            "timestamp": hour,
            "sample_count": len(moments),
            "first_sample": min(moments),
            "last_sample": max(moments),
        }
        for (name, hour), moments in hours.items()
    ]
    mart(stores, "device_metrics_hourly", *rows)


def add_volumes(stores: Stores, organization: str, used: Usage) -> None:
    measured: dict[datetime, dict[str, Any]] = defaultdict(dict)
    for name, found in (("storage_gb", used.storage), ("backup_gb", used.backup)):
        for one in found:
            measured[one.timestamp][name] = one.gb
    keys = {"organization_id": organization, "storage_gb": Decimal(0), "backup_gb": Decimal(0)}
    rows = [
        {**keys, "message_id": name_id(organization, f"{at}"), "timestamp": at, **gb} for at, gb in measured.items()
    ]
    mart(stores, "usage_reports", *rows)


def instant(moment: str, zone: ZoneInfo) -> datetime:
    if DATE.fullmatch(moment):
        return day_window(date.fromisoformat(moment), zone.key)[0]
    return datetime.fromisoformat(moment).astimezone(UTC)


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
