"""Contracts of 0.4.0 cost the same to the cent as the agreements that they became, but for what was wrong."""

import random
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.local_time import DAY, next_month
from ninjait_pipelines.billing.rating.document import Document, draft
from ninjait_pipelines.migrations import migrate_up
from ninjait_pipelines.paths import SQL
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines_tests.billing.rating.agreements import agreed, bill, item, used
from ninjait_pipelines_tests.conftest import drop, fresh
from ninjait_pipelines_tests.runs import add

MONTH = date(2026, 2, 1)
END = next_month(MONTH)
MONTH_DAYS = (END - MONTH).days
# The last migration that 0.4.0 had.
AT_0_4_0 = {"clickhouse": 24, "postgres": 11}
PRICES = ("base_fee", "device_month_price", "storage_gb_month_price", "backup_gb_month_price")
PRODUCTS = ("base_fee", "devices", "storage", "backup", "api_calls")


@pytest.fixture
def old(stack: dict[str, str], tmp_path: Path) -> Iterator[Stores]:
    """Databases as 0.4.0 left them."""
    for store, last in AT_0_4_0.items():
        (tmp_path / "sql" / store).mkdir(parents=True)
        for file in sorted((SQL / store).glob("*.sql"))[:last]:
            (tmp_path / "sql" / store / file.name).write_bytes(file.read_bytes())
    settings = fresh(stack, "test_taken_over", tmp_path)
    with open_stores(settings) as stores:
        migrate_up(stores.postgres, stores.clickhouse, folder=tmp_path / "sql")
        yield stores
    drop(stack, settings)


def by_0_4_0(plan: dict[str, Any], days: int, quantities: dict[str, Decimal]) -> dict[str, Decimal]:
    """The lines of a contract that is in force on so many days of the month, as 0.4.0 computed them."""
    calls = max(Decimal(0), quantities["api_calls"] * MONTH_DAYS - plan["api_calls_included"] * days)
    dividends = {
        "base_fee": plan["base_fee"] * days,
        "devices": plan["device_month_price"] * quantities["devices"],
        "storage": plan["storage_gb_month_price"] * quantities["storage"],
        "backup": plan["backup_gb_month_price"] * quantities["backup"],
        "api_calls": plan["api_calls_thousand_price"] * calls / 1000,
    }
    return {name: (value / MONTH_DAYS).quantize(Decimal("0.01"), ROUND_HALF_UP) for name, value in dividends.items()}


class Case:
    """An organization with one or two contracts, and what it used on each day of the month."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.id = uuid.UUID(int=1000 + number)
        renewed = MONTH + self.random.randrange(1, MONTH_DAYS) * DAY if number % 2 else None
        starts = [date(2026, 1, 1), *([renewed] if renewed else [])]
        ends = self.random.choice([None, date(2026, 2, 27)])
        self.terms = list(zip(starts, [*starts[1:], ends], strict=True))
        # Two contracts' included calls are pooled now: that was wrong, and is not compared.
        self.plans = [self._plan(number * 10 + place, 0 if renewed else 3100) for place in range(len(starts))]
        self.devices = [self.random.sample(range(4), self.random.randrange(5)) for _ in range(MONTH_DAYS)]
        self.gb = [Decimal(self.random.randrange(1, 10**6)) / 1000 for _ in range(MONTH_DAYS)]
        self.calls = [self.random.randrange(400) for _ in range(MONTH_DAYS)]

    def _plan(self, number: int, included: int) -> dict[str, Any]:
        prices = {name: Decimal(self.random.randrange(10**5)) / 100 for name in (*PRICES, "api_calls_thousand_price")}
        plan = {"id": uuid.UUID(int=5000 + number), "version": 1, "name": f"plan {number}", "currency": "EUR"}
        return plan | prices | {"api_calls_included": included, "published_at": datetime(2026, 1, 1, tzinfo=UTC)}

    def enter(self, stores: Stores) -> None:
        row = {"id": self.id, "name": f"o{self.id.int}", "slug": f"o{self.id.int}", "time_zone": "UTC"}
        add(stores, "organizations", [{**row, "created_at": datetime(2026, 1, 1, tzinfo=UTC)}])
        add(stores, "price_plans", self.plans)
        for place, ((start, end), plan) in enumerate(zip(self.terms, self.plans, strict=True)):
            contract = {"id": uuid.uuid5(self.id, str(place)), "organization_id": self.id, "price_plan_id": plan["id"]}
            add(stores, "contracts", [{**contract, "price_plan_version": 1, "starts_on": start, "ends_on": end}])

    def usage(self) -> Any:
        days = [str(MONTH + number * DAY) for number in range(MONTH_DAYS)]
        heard = [[day for day, of in zip(days, self.devices, strict=True) if device in of] for device in range(4)]
        length = timedelta(days=1) // timedelta(milliseconds=1)
        whole = {"known_milliseconds": length, "day_milliseconds": length}
        volumes = [
            {"day": day, "gb_milliseconds": str(gb * length), **whole} for day, gb in zip(days, self.gb, strict=True)
        ]
        return used(
            devices=[{"device_id": str(device)} for device in range(4)],
            reports=[{"device_id": str(device), "at": at} for device, at in enumerate(heard)],
            api_call_counts=[{"day": day, "count": count} for day, count in zip(days, self.calls, strict=True)],
            storage_days=volumes,
            backup_days=volumes,
        )

    def expected(self) -> list[dict[str, Decimal]]:
        """By contract and line."""
        found = []
        for (start, end), plan in zip(self.terms, self.plans, strict=True):
            days = range((max(start, MONTH) - MONTH).days, (min(end or END, END) - MONTH).days)
            gb = sum((self.gb[day] for day in days), Decimal(0))
            quantities = {"devices": Decimal(sum(len(self.devices[day]) for day in days)), "storage": gb, "backup": gb}
            quantities["api_calls"] = Decimal(sum(self.calls[day] for day in days))
            found.append(by_0_4_0(plan, len(days), quantities))
        return found


def by_item(found: Document) -> dict[tuple[date, str], Decimal]:
    return {(line.from_, line.product): line.amount for line in found.lines}


def test_a_contract_costs_the_same_as_the_agreement_that_it_became(old: Stores) -> None:
    """Renewed in the middle of the month or not; with all prices that a plan can have."""
    cases = [Case(number) for number in range(40)]
    for case in cases:
        case.enter(old)
    migrate_up(old.postgres, old.clickhouse)
    agreements = {one.organization_id: one for one in agreements_in_force(old.postgres, MONTH, END)}
    assert len(agreements) == len(cases)
    for case in cases:
        found = by_item(draft(agreements[str(case.id)], case.usage(), MONTH))
        expected = {
            (max(start, MONTH), product): amounts[product]
            for (start, _), amounts in zip(case.terms, case.expected(), strict=True)
            for product in PRODUCTS
        }
        assert found == expected, case.id
        assert agreements[str(case.id)].id == str(uuid.uuid5(case.id, "0"))


def test_what_was_wrong_costs_something_else() -> None:
    """0.4.0 billed calls that failed, and the last report of a day for all of it."""
    plan = dict.fromkeys((*PRICES, "api_calls_included"), Decimal(0)) | {"api_calls_thousand_price": Decimal(1000)}
    calls = [
        {"id": str(status), "timestamp": "2026-02-03T12:00:00Z", "status_code": status}
        for status in (200, 404, 401, 403, 500, 503)
    ]
    before = by_0_4_0(plan, MONTH_DAYS, dict.fromkeys(PRODUCTS, Decimal(0)) | {"api_calls": Decimal(len(calls))})
    now = bill(agreed(item("api_calls", "1")), "2026-02", api_calls=calls)
    assert (str(before["api_calls"]), str(now.total)) == ("6.00", "2.00")
    plan |= {"storage_gb_month_price": Decimal(28)}
    before = by_0_4_0(plan, 1, dict.fromkeys(PRODUCTS, Decimal(0)) | {"storage": Decimal(300)})
    reports = [{"timestamp": f"2026-02-03T{hour}:00:00Z", "gb": gb} for hour, gb in (("00", "100"), ("12", "300"))]
    one_day = {"from": "2026-02-03", "to": "2026-02-04"}
    now = bill(agreed(item("storage", "28", **one_day)), "2026-02", storage=reports)
    assert (str(before["storage"]), str(now.total)) == ("300.00", "200.00")
