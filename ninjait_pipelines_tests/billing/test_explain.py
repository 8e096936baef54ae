"""Every number of a document is followed to what it was measured from, by queries that anyone can run."""

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import clickhouse_connect
import psycopg
import pyarrow as pa
import pytest

from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.evidence import Step
from ninjait_pipelines.billing.explain import Explained, explain
from ninjait_pipelines.billing.finalise import credit, finalise, void
from ninjait_pipelines.billing.local_time import DAY, HOUR, next_month
from ninjait_pipelines.billing.measure import store_days
from ninjait_pipelines.billing.rating.agreement import Refused
from ninjait_pipelines.billing.rating.document import Document
from ninjait_pipelines.billing.write import save_drafts
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.billing.usage_data import add_calls, add_reports, add_rolled_up
from ninjait_pipelines_tests.cache.data import mart
from ninjait_pipelines_tests.runs import add

YESTERDAY = datetime.now(UTC).date() - DAY
MONTH = YESTERDAY.replace(day=1)
SO_FAR = (YESTERDAY - MONTH).days + 1
DAYS = (next_month(MONTH) - MONTH).days
NOON = datetime(YESTERDAY.year, YESTERDAY.month, YESTERDAY.day, 12, tzinfo=UTC)
LATER = datetime(2099, 1, 1, tzinfo=UTC)
GRADUATED = {"model": "graduated", "tiers": [{"up_to": "1", "price": "4"}, {"price": "3"}]}


@pytest.fixture
def stores(shared_stores: Stores) -> Stores:
    return shared_stores


@pytest.fixture
def acme(stores: Stores) -> uuid.UUID:
    """Everything that can be billed: two laptops that report each day at noon and a server that never does, ten calls
    per day of which one is retried and one fails, and 30 GB."""
    books = Books(stores)
    books.seller()
    acme = books.organization("acme")
    books.agreement(
        acme,
        item("device", "5", product="laptops", basis="reporting", filter={"classes": ["laptop"]}),
        item("device", "7", product="all", included="1", discounts=[{"from": "2020-01-01", "percent": "10"}]),
        item("device", "3", product="servers", filter={"classes": ["server"], "without_tags": ["spare", "100%"]}),
        item("device", price=GRADUATED, product="peak", basis="peak"),
        item("device", "2", product="last", basis="last_day", minimum_amount="50"),
        item("device", "1", product="whole", basis="reporting", proration="full"),
        item("device", "1", product="fleet", proration="full"),
        item("api_calls", "0.01", included="5"),
        item("storage", "0.10"),
        item("backup", "0.05", minimum_quantity="100"),
        item("flat", "100", quantity="2", **{"from": MONTH.isoformat(), "to": (MONTH + 2 * DAY).isoformat()}),
        item("one_off", "7", quantity="3", **{"from": MONTH.isoformat()}),
    )
    for number, kind in enumerate(("laptop", "laptop", "server")):
        device = books.device(acme, number)
        with stores.postgres.transaction() as connection:
            connection.execute("UPDATE devices SET kind = %s WHERE id = %s", (kind, device))
            connection.execute("DELETE FROM billing.device_terms WHERE device_id = %s", (device,))
        term = {"organization_id": acme, "device_id": device, "class": kind, "term": "[2025-12-01Z,)"}
        add(stores, "billing.device_terms", [term])
        if kind == "laptop":
            heard(stores, acme, device)
    calls = [(str(uuid.uuid4()), at(number) + timedelta(minutes=n), 200) for number in range(SO_FAR) for n in range(10)]
    calls += [(calls[-1][0], at(SO_FAR - 1, 13), 200), (str(uuid.uuid4()), at(0), 503)]
    add_calls(stores, calls, str(acme))
    add_reports(stores, [(at(number, 6), Decimal(30)) for number in range(SO_FAR)], str(acme))
    add_rolled_up(stores, [at(0, 0) + number * HOUR for number in range(24 * SO_FAR)])
    measure(stores)
    return acme


def at(number: int, hour: int = 12) -> datetime:
    """An hour of a day of the month."""
    return NOON - (SO_FAR - 1 - number) * DAY + (hour - 12) * HOUR


def heard(stores: Stores, organization: uuid.UUID, device: uuid.UUID) -> None:
    """A message of two samples at noon of each day so far, rolled up."""
    hours = [at(number) for number in range(SO_FAR)]
    row = {"organization_id": organization, "device_id": device, "sample_count": 2, "sample_share": 0.1}
    rows = [{**row, "timestamp": hour, "first_sample": hour, "last_sample": hour} for hour in hours]
    mart(stores, "device_metrics_hourly", *rows)
    count = len(hours)
    columns: dict[str, Any] = {
        "queue": ["agent.metrics"] * count,
        "message_id": [str(uuid.uuid5(device, str(hour))) for hour in hours],
        "delivery_id": [str(hour) for hour in hours],
        "organization_id": [str(organization)] * count,
        "device_id": [str(device)] * count,
        "points": pa.array([2] * count, pa.uint32()),
        "points_written": pa.array([2] * count, pa.uint32()),
        "instants": pa.array(
            [[hour, hour + timedelta(seconds=30)] for hour in hours], pa.list_(pa.timestamp("ms", "UTC"))
        ),
    }
    stores.clickhouse.insert("message_deliveries", pa.table(columns))


def measure(stores: Stores) -> None:
    agreements = agreements_in_force(stores.postgres, MONTH, next_month(MONTH))
    store_days(stores.clickhouse, agreements, MONTH, next_month(MONTH), stores.clickhouse.now())


def issued(stores: Stores) -> Document:
    [found] = finalise(stores.postgres, stores.clickhouse, MONTH, force="a test", clock=lambda: LATER).issued
    return found


def run_as_printed(stores: Stores, step: Step) -> Decimal | None:
    """What a person gets who pastes the query."""
    if step.store == "PostgreSQL":
        with psycopg.connect(stores.postgres.url, row_factory=psycopg.rows.dict_row) as connection:
            rows = connection.execute(step.query.encode()).fetchall()
    else:
        store = stores.clickhouse
        client = clickhouse_connect.get_client(
            dsn=store.url, username=store.user, password=store.password, database=store.database
        )
        rows = list(client.query(step.query).named_results())
    numbers = [row[step.column] for row in rows if row[step.column] is not None]
    return sum(map(Decimal, numbers), Decimal(0)) if numbers or not rows else None


def explained(stores: Stores, document: Document, product: str, kind: str = "charge") -> Explained:
    [number] = [number for number, line in enumerate(document.lines, 1) if (line.product, line.kind) == (product, kind)]
    return explain(stores.postgres, stores.clickhouse, str(document.number), number)


def values(found: Explained) -> dict[str, str]:
    return {
        step.title.split(" ", 1)[0] if step.title.startswith("hours of") else step.title: str(
            step.found if step.value is None else step.value
        )
        for step in found.steps
    }


def test_a_void_document_says_so(stores: Stores, acme: uuid.UUID) -> None:
    number = str(issued(stores).number)
    void(stores.postgres, stores.clickhouse, number, "wrong customer")
    assert explain(stores.postgres, stores.clickhouse, number).document.status == "void"


def test_every_printed_query_gives_its_number(stores: Stores, acme: uuid.UUID) -> None:
    document = issued(stores)
    steps = list(explain(stores.postgres, stores.clickhouse, str(document.number)).steps)
    assert [str(step.value) for step in steps] == [str(document.total), str(document.net)]
    for number in range(1, len(document.lines) + 1):
        found = explain(stores.postgres, stores.clickhouse, str(document.number), number)
        assert found.changed == []
        assert len(found.steps) >= 3
        steps += found.steps
    for step in steps:
        assert run_as_printed(stores, step) == step.found, step.query
        assert step.value in (None, step.found), step
    assert {step.title for step in steps if step.found is None} == {"price, version 1 (graduated)"}


def test_a_device_is_followed_to_its_messages(stores: Stores, acme: uuid.UUID) -> None:
    found = explained(stores, issued(stores), "laptops")
    line = found.document.lines[found.line_number - 1] if found.line_number else None
    assert line is not None
    assert values(found) == {
        "amount of the line": str(line.amount),
        "price, version 1 (per_unit)": "5",
        "quantity": str(line.quantity),
        "device-days, by day": str(2 * SO_FAR),
        f"devices on {YESTERDAY}": "2",
        "hours": "1",
        "these hours in the roll-up": "1",
        "samples of these hours, in the ledger's messages": "2",
    }
    rules = "\n".join(step.rule for step in found.steps)
    assert f"{line.quantity} device-months = {2 * SO_FAR} / {DAYS} days of the month" in rules
    assert f"{line.amount} = {line.quantity} device-months x 5, rounded half up once" in rules


def test_what_is_included_is_said(stores: Stores, acme: uuid.UUID) -> None:
    """Three registered devices, of which one is included: two are charged, less 10 %."""
    found = explained(stores, issued(stores), "all")
    assert values(found)["device-days, by day"] == str(3 * DAYS)
    rules = "\n".join(step.rule for step in found.steps)
    assert f"2 device-months = {2 * DAYS} / {DAYS} days of the month; 1 are included in a whole month" in rules
    assert "12.60 = 2 device-months x 7, less 10 %, rounded half up once" in rules


def test_calls_are_followed_to_their_ids(stores: Stores, acme: uuid.UUID) -> None:
    """One that is retried counts once, one that fails not at all."""
    found = explained(stores, issued(stores), "api_calls")
    steps = values(found)
    assert (steps["calls, by day"], steps[f"calls on {YESTERDAY}, by id"]) == (str(10 * SO_FAR), "10")
    assert len(found.steps[-1].rows[0]["some"]) == 10
    assert f"{10 * SO_FAR - 5} calls are charged; 5 are included" in found.steps[-2].rule


def test_volumes_are_followed_to_reports(stores: Stores, acme: uuid.UUID) -> None:
    """The first report is of six in the morning of the first day: before that, nothing is known."""
    found = explained(stores, issued(stores), "storage")
    *_, of_day = [step for step in found.steps if step.title.startswith("GB of")]
    assert (of_day.value, of_day.found) == (30, 30)
    assert of_day.rows[0]["reports"] == 2
    assert Decimal(values(found)["GB-days, by day"]) >= Decimal("22.5") + 30 * (SO_FAR - 1)


def test_fees_one_offs_and_minimums(stores: Stores, acme: uuid.UUID) -> None:
    document = issued(stores)
    fee = explained(stores, document, "flat").steps[-1]
    assert (fee.value, fee.rule) == (2, f"{plain(4, DAYS)} = 2 x days / {DAYS} days of the month")
    assert values(explained(stores, document, "one_off"))["units of the item"] == "3"
    minimum = values(explained(stores, document, "last", "minimum"))
    assert minimum["minimum of the item"] == "50"
    assert minimum["the other lines of the item"] == "6.00"


def plain(numerator: int, denominator: int) -> Decimal:
    text = f"{Decimal(numerator) / denominator:.6f}"
    return Decimal(text.rstrip("0").rstrip("."))


def test_a_draft_is_explained_by_what_is_known_now(stores: Stores, acme: uuid.UUID) -> None:
    [drawn] = draw_up(stores.postgres, stores.clickhouse, MONTH)
    save_drafts(stores.postgres, stores.clickhouse, MONTH, [drawn], stores.clickhouse.now())
    number = [line.product for line in drawn.document.lines].index("laptops") + 1
    found = explain(stores.postgres, stores.clickhouse, str(drawn.id), number)
    assert (found.changed, len(found.steps)) == ([], 8)


def test_what_changed_since_it_was_issued_is_said(stores: Stores, acme: uuid.UUID) -> None:
    """A laptop's reports of yesterday go: the frozen number stays, the query gives another one by now."""
    document = issued(stores)
    stores.clickhouse.command("TRUNCATE TABLE device_metrics_hourly_versions")
    measure(stores)
    found = explained(stores, document, "laptops")
    assert found.changed == ["device-days, by day", f"devices on {YESTERDAY}"]
    step = found.steps[3]
    assert (step.value, step.found) == (2 * SO_FAR, 0)


def test_raw_data_that_expired_is_said(stores: Stores, acme: uuid.UUID) -> None:
    """Calls and reports are kept for 731 days, measured days for longer."""
    document = issued(stores)
    for table in ("api_calls_versions", "usage_reports_versions", "message_deliveries"):
        stores.clickhouse.command(f"TRUNCATE TABLE {table}")
    for product in ("api_calls", "storage", "laptops"):
        found = explained(stores, document, product)
        assert found.changed == [found.steps[-1].title]
        assert found.steps[-1].found == 0


def test_a_credit_is_explained_by_what_it_gives_back(stores: Stores, acme: uuid.UUID) -> None:
    document = issued(stores)
    number = [line.product for line in document.lines].index("one_off") + 1
    note = credit(
        stores.postgres,
        stores.clickhouse,
        str(document.number),
        "wrong",
        {number: Decimal("5.00")},
        clock=lambda: LATER,
    )
    found = explain(stores.postgres, stores.clickhouse, str(note.number), 1)
    assert [str(step.found) for step in found.steps] == ["-5.00", "21.00"]


def test_a_correction_is_explained_by_what_was_billed(stores: Stores) -> None:
    """May had one device-day too few: it is 0.16 more on July's document."""
    may, july = date(2026, 5, 1), date(2026, 7, 1)
    books = Books(stores)
    books.seller()
    acme = books.organization("acme")
    books.agreement(acme, item("device", "5", basis="reporting"), item("flat", "1"))
    device = books.device(acme, 1)
    books.reported(acme, device, days_of(may)[1:])
    for month in (may, july):
        books.used(acme, days_of(month))
        books.measure(days_of(month))
    finalise(stores.postgres, stores.clickhouse, may, clock=lambda: datetime(2026, 7, 1, tzinfo=UTC))
    books.reported(acme, device, days_of(may))
    books.measure(days_of(may))
    [document] = finalise(
        stores.postgres, stores.clickhouse, july, clock=lambda: datetime(2026, 9, 1, tzinfo=UTC)
    ).issued
    found = explained(stores, document, "device", "correction")
    steps = values(found)
    assert (steps["amount of the line"], steps["billed for these days before"]) == ("0.16", "4.84")
    assert steps["device-days, by day"] == "31"
    assert "these days cost 5.00 by now" in [step.rule for step in found.steps]
    assert found.changed == ["these hours in the roll-up"]  # which this test has no rows of


def test_what_there_is_not_is_refused(stores: Stores, acme: uuid.UUID) -> None:
    document = issued(stores)
    with pytest.raises(Refused, match="invoice: 'R-1'; there is no document of this number or id"):
        explain(stores.postgres, stores.clickhouse, "R-1")
    with pytest.raises(Refused, match="line: 99; the document has lines 1 to "):
        explain(stores.postgres, stores.clickhouse, str(document.number), 99)
