"""What is stored of usage gives the document that the raw calls, reports and samples give, byte for byte."""

import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec

from ninjait_pipelines.billing.agreements import agreements_in_force, enter
from ninjait_pipelines.billing.local_time import DAY, day_window, next_month, overlapped_hours
from ninjait_pipelines.billing.measure import store_days
from ninjait_pipelines.billing.rating.agreement import Agreement, agreement
from ninjait_pipelines.billing.rating.charges import Measured
from ninjait_pipelines.billing.rating.document import canonical, draft
from ninjait_pipelines.billing.rating.usage import Call, Measurement, Reports, Usage, usage
from ninjait_pipelines.billing.stored_usage import usage_of
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.conftest import MONTH, Platform
from ninjait_pipelines_tests.billing.usage_data import add_calls, add_reports, add_rolled_up
from ninjait_pipelines_tests.cache.data import mart
from ninjait_pipelines_tests.runs import add

ZONE = "Asia/Kolkata"
END = next_month(MONTH)
ONCE = {"version": 1, "from": "2020-01-01", "published_at": "2020-01-01T00:00:00Z"}


LAPTOPS = {"classes": ["laptop"]}


def agreed(organization: uuid.UUID) -> Agreement:
    price = {"prices": [{**ONCE, "amount": "0.07"}], "from": "2020-01-01"}
    document = {
        "id": str(uuid.uuid5(organization, "agreement")),
        "organization_id": str(organization),
        "currency": "EUR",
        "time_zone": ZONE,
        "term": {"from": "2020-01-01"},
        "items": [
            {"product": "registered", "kind": "device", **price},
            {
                "product": "reporting",
                "kind": "device",
                "basis": "reporting",
                "filter": {"classes": ["laptop"]},
                **price,
            },
            {"product": "calls", "kind": "api_calls", "included": "5", **price},
            {"product": "failures", "kind": "api_calls", "not_billed_statuses": ["2xx"], **price},
            {"product": "volume", "kind": "storage", "carried_forward_days": 2, **price},
            {"product": "copies", "kind": "backup", **price},
        ],
    }
    return agreement(json.dumps(document).encode())


def test_the_document_is_that_of_the_raw_usage(platform: Platform) -> None:
    """Kolkata, a month and what is around it: samples, calls that are retried, reports with gaps."""
    stores = platform.stores
    organization = platform.organization("acme", ZONE)
    terms = agreed(organization)
    with stores.postgres.transaction() as connection:
        enter(connection, terms)
    raw = _raw(stores, str(organization))
    [stored] = agreements_in_force(stores.postgres, MONTH, END)
    store_days(stores.clickhouse, [stored], MONTH, END, stores.clickhouse.now())
    found = usage_of(stores.postgres, stores.clickhouse, [stored], MONTH, END)[stored.id]
    assert found.hours_known == ()
    raw = msgspec.structs.replace(raw, devices=found.devices)
    assert canonical(draft(stored, found, MONTH)) == canonical(draft(stored, raw, MONTH))
    assert len(draft(stored, found, MONTH).lines) == 6
    twice = usage([msgspec.json.encode(found)] * 2)
    assert canonical(draft(stored, twice, MONTH)) == canonical(draft(stored, raw, MONTH)), "as JSON, given twice"


def _raw(stores: Stores, organization: str) -> Usage:
    """Writes random usage to the stores, and returns it."""
    chance = random.Random(3)
    start = day_window(MONTH - DAY, ZONE)[0]
    length = (END - MONTH).days * 86_400_000 + 2 * 86_400_000

    def instants(count: int, within: int = length) -> list[datetime]:
        return sorted(start + chance.randrange(within) * timedelta(milliseconds=1) for _ in range(count))

    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(150)]
    # Retries come within the days in which they are looked for: rating, which sees all calls, looks for them for ever.
    calls = [(id_, at, chance.choice([200, 404, 401, 503])) for id_, at in zip(ids, instants(150), strict=True)]
    calls += [(id_, at + timedelta(hours=chance.randrange(150)), 200) for id_, at, _ in calls[::4]]
    add_calls(stores, calls, organization)
    reports = [(at, Decimal(chance.randrange(10**9)).scaleb(-6)) for at in instants(12)]
    add_reports(stores, reports, organization)
    devices = [uuid.UUID(int=number + 1) for number in range(4)]
    kinds = ("laptop", "laptop", "server", "laptop")
    rows = [
        {"id": id_, "organization_id": organization, "name": str(id_), "kind": kind, "created_at": start}
        for id_, kind in zip(devices, kinds, strict=True)
    ]
    add(stores, "devices", rows)
    heard = {str(device): instants(40) for device in devices}
    for device, moments in heard.items():
        _add_samples(stores, organization, device, moments)
    add_rolled_up(stores, overlapped_hours(start, start + timedelta(milliseconds=length)))
    return Usage(
        reports=tuple(Reports(device_id=id_, at=tuple(at.isoformat() for at in of)) for id_, of in heard.items()),
        api_calls=tuple(Call(id=id_, timestamp=at, status_code=status) for id_, at, status in calls),
        storage=tuple(Measurement(timestamp=at, gb=gb) for at, gb in reports),
        backup=tuple(Measurement(timestamp=at, gb=gb * 2) for at, gb in reports),
    )


def _add_samples(stores: Stores, organization: str, device: str, moments: list[datetime]) -> None:
    hours: dict[datetime, list[datetime]] = {}
    for at in moments:
        five_minutes = at.replace(minute=at.minute // 5 * 5, second=0, microsecond=0)
        hours.setdefault(at.replace(minute=0, second=0, microsecond=0), []).append(five_minutes)
    row = {"organization_id": organization, "device_id": device, "sample_share": 1.0}
    rows = [
        {**row, "timestamp": hour, "sample_count": len(of), "first_sample": min(of), "last_sample": max(of)}
        for hour, of in hours.items()
    ]
    mart(stores, "device_metrics_hourly", *rows)


def test_a_day_that_has_not_been_measured_is_not_known(platform: Platform) -> None:
    organization = platform.organization("acme", ZONE)
    terms = agreed(organization)
    found = usage_of(platform.stores.postgres, platform.stores.clickhouse, [terms], MONTH, END)[terms.id]
    assert [(one.day, one.hours, one.of) for one in found.hours_known[:2]] == [(MONTH, 0, 25), (MONTH + DAY, 0, 25)]
    lines = {line.product: line.completeness for line in draft(terms, found, MONTH).lines}
    unknown = dict.fromkeys(("reporting", "calls", "failures", "volume", "copies"), 0)
    assert lines == {**unknown, "registered": 1}


def test_only_what_an_agreement_counts_is_in_its_usage(platform: Platform) -> None:
    """Another rule's calls are another agreement's; one in another zone has days of its own."""
    organization = platform.organization("acme", ZONE)
    one = agreed(organization)
    other = msgspec.structs.replace(one, id=str(uuid.uuid4()), time_zone="UTC", items=one.items[3:4])
    at = day_window(MONTH, ZONE)[0]
    add_calls(platform.stores, [(str(uuid.uuid4()), at, 200), (str(uuid.uuid4()), at, 500)], str(organization))
    clickhouse = platform.stores.clickhouse
    store_days(clickhouse, [one, other], MONTH - DAY, MONTH + DAY, clickhouse.now())
    found = usage_of(platform.stores.postgres, clickhouse, [one, other], MONTH - DAY, MONTH + DAY)
    counts = {id_: [(one.day, one.not_billed_statuses) for one in of.api_call_counts] for id_, of in found.items()}
    assert counts == {one.id: [(MONTH, ("2xx",)), (MONTH, ("401", "403", "5xx"))], other.id: [(MONTH - DAY, ("2xx",))]}
    assert {row.day for row in found[one.id].storage_days} == {MONTH - DAY, MONTH}
    assert found[other.id].storage_days == ()


def test_twice_and_as_a_range_the_days_are_the_same(platform: Platform) -> None:
    organization = platform.organization("acme", ZONE)
    terms = agreed(organization)
    _raw(platform.stores, str(organization))
    clickhouse = platform.stores.clickhouse

    def stored() -> list[list[dict[str, object]]]:
        return [clickhouse.rows(f"SELECT * EXCEPT (as_of) FROM {mart} ORDER BY ALL") for mart in MARTS]

    store_days(clickhouse, [terms], MONTH, MONTH + 5 * DAY, clickhouse.now())
    whole = stored()
    assert all(whole)
    for day in reversed([MONTH + number * DAY for number in range(5)]):
        store_days(clickhouse, [terms], day, day + DAY, clickhouse.now())
    assert stored() == whole


MARTS = ("device_days", "usage_days")


def test_what_is_gone_before_it_expired_is_measured_as_gone(platform: Platform) -> None:
    """Sources are right as long as they are kept: a person who deletes calls or an agreement means it."""
    organization = platform.organization("acme", "UTC")
    terms = msgspec.structs.replace(agreed(organization), time_zone="UTC")
    clickhouse = platform.stores.clickhouse
    old = (datetime.now(UTC) - timedelta(days=720)).date()
    at = datetime.combine(old, datetime.min.time(), UTC)
    add_calls(platform.stores, [(str(uuid.uuid4()), at, 200)], str(organization))
    add_reports(platform.stores, [(at, Decimal(5))], str(organization))
    query = "SELECT max(quantity) FROM usage_days WHERE kind != 'hours'"
    store_days(clickhouse, [terms], old, old + DAY, clickhouse.now())
    assert clickhouse.scalar(query) == 10
    for table in ("api_calls_versions", "usage_reports_versions"):
        clickhouse.command(f"TRUNCATE TABLE {table}")
    store_days(clickhouse, [terms], old, old + DAY, clickhouse.now())
    assert clickhouse.scalar(query) == 0
    store_days(clickhouse, [], old, old + DAY, clickhouse.now())
    assert clickhouse.scalar("SELECT count() FROM usage_days") == 0


def test_what_has_expired_stays_as_it_is_and_says_so(platform: Platform) -> None:
    """A day measured again after its calls and reports had expired was lower than what had been billed."""
    organization = platform.organization("acme", "UTC")
    terms = msgspec.structs.replace(agreed(organization), time_zone="UTC")
    clickhouse = platform.stores.clickhouse
    old = (datetime.now(UTC) - timedelta(days=735)).date()
    row = {"organization_id": organization, "time_zone": "UTC", "local_day": old, "kind": "api_calls"}
    row |= {"rule": "401,403,5xx", "quantity": Decimal(7), "unit": "calls", "completeness": 1.0, "day_milliseconds": 1}
    mart(platform.stores, "usage_days", row)
    gone = {**row, "organization_id": uuid.uuid4(), "quantity": Decimal(8)}
    mart(platform.stores, "usage_days", gone)
    store_days(clickhouse, [terms], old, old + DAY, clickhouse.now())
    query = "SELECT organization_id, quantity FROM usage_days WHERE quantity > 0 AND frozen"
    kept = {(row["organization_id"], row["quantity"]) for row in clickhouse.rows(query)}
    assert kept == {(organization, 7), (gone["organization_id"], 8)}
    assert clickhouse.scalar("SELECT count() FROM usage_days WHERE frozen") == 8


def test_a_device_that_moves_at_noon_and_reported_before_is_its_new_owners(platform: Platform) -> None:
    """It was billed to no organization: what it had reported was the former owner's, the day was the new one's."""
    stores = platform.stores
    before, after = (platform.organization(name, ZONE) for name in ("before", "after"))
    with stores.postgres.transaction() as connection:
        for organization in (before, after):
            enter(connection, agreed(organization))
    device, day = uuid.uuid4(), MONTH + 10 * DAY
    row = {"id": device, "organization_id": before, "name": "x", "kind": "laptop"}
    add(stores, "devices", [{**row, "created_at": datetime(2020, 1, 1, tzinfo=UTC)}])
    noon = day_window(day, ZONE)[0] + timedelta(hours=12)
    with stores.postgres.transaction() as connection:
        connection.execute("UPDATE billing.device_terms SET term = tstzrange(lower(term), %s)", [noon])
        connection.execute(
            "INSERT INTO billing.device_terms (organization_id, device_id, class, term) "
            "VALUES (%s, %s, 'laptop', tstzrange(%s, NULL))",
            [after, device, noon],
        )
    heard = {"organization_id": before, "device_id": device, "sample_count": 1, "sample_share": 1.0}
    for at in (noon - DAY, noon - timedelta(hours=2)):
        hour = at.replace(minute=0)
        mart(stores, "device_metrics_hourly", {**heard, "timestamp": hour, "first_sample": at, "last_sample": at})
    agreements = agreements_in_force(stores.postgres, MONTH, END)
    store_days(stores.clickhouse, agreements, MONTH, END, stores.clickhouse.now())
    found = usage_of(stores.postgres, stores.clickhouse, agreements, MONTH, END)
    days = {one.organization_id: Measured(one, found[one.id]) for one in agreements}
    span = [MONTH + number * DAY for number in range((END - MONTH).days)]
    reporting = {
        id_: [
            day
            for item in measured.agreement.items
            if item.basis == "reporting"
            for day, count in measured.device_levels(item, span).items()
            if count
        ]
        for id_, measured in days.items()
    }
    assert reporting == {str(before): [day - DAY], str(after): [day]}
