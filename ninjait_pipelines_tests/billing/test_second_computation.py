"""Documents computed a second time, in plain SQL from agreements and raw usage: equal amounts, and mutants caught."""

import importlib
import random
import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from ninjait_pipelines.billing.agreements import agreements_in_force, device_terms, enter
from ninjait_pipelines.billing.local_time import next_month
from ninjait_pipelines.billing.rating import document
from ninjait_pipelines.billing.rating.agreement import Agreement, agreement
from ninjait_pipelines.billing.rating.usage import Call, Measurement, Reports, Usage
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.runs import add

SECOND = (Path(__file__).parent / "second_computation.sql").read_text()
RATING = Path(document.__file__).parent
MONTHS = (date(2024, 2, 1), date(2026, 3, 1), date(2026, 10, 1))
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "America/Los_Angeles", "Pacific/Chatham")
CURRENCIES = ("EUR", "JPY", "KWD")
Lines = dict[tuple[str, str, str], Decimal]  # item, kind, first day -> amount


class Customer:
    """A random organization with one agreement and raw usage around a month."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed, self.month = seed, MONTHS[seed % len(MONTHS)]
        self.id = uuid.uuid5(uuid.NAMESPACE_OID, f"customer {seed}")
        self.devices = [uuid.uuid5(self.id, str(number)) for number in range(self.random.randint(0, 5))]

    def day(self, first: int = -3, last: int = 32) -> date:
        return self.month + timedelta(days=self.random.randint(first, last))

    def instant(self) -> datetime:
        return datetime(self.month.year, self.month.month, 1, tzinfo=UTC) + timedelta(
            minutes=self.random.randint(-3 * 1440, 34 * 1440)
        )

    def number(self, high: int, places: int) -> str:
        return str(Decimal(self.random.randint(0, high * 10**places)).scaleb(-places))

    def agreement(self) -> Agreement:
        kinds = self.random.sample(("device", "api_calls", "storage", "backup", "flat", "one_off"), 3)
        term = {"from": str(self.day(-60, 10)), **({"to": str(self.day(28, 60))} if self.random.random() < 0.2 else {})}
        items = [item for kind in kinds for item in self.items(kind, date.fromisoformat(term["from"]))]
        given = {"id": str(uuid.uuid5(self.id, "agreement")), "organization_id": str(self.id), "items": items}
        place = {"currency": self.random.choice(CURRENCIES), "time_zone": self.random.choice(ZONES), "term": term}
        return agreement(msgspec.json.encode({**given, **place}))

    def items(self, kind: str, first: date) -> Iterator[dict[str, Any]]:
        """One item of a product, or two that follow one another."""
        renewed = self.day(1, 27) if self.random.random() < 0.4 else None
        single = not renewed or renewed <= first
        yield self.item(kind, first, None if single else renewed, single)
        if renewed and not single:
            yield self.item(kind, renewed, None, single)

    def item(self, kind: str, first: date, end: date | None, single: bool) -> dict[str, Any]:
        chance = self.random.random
        item = {"product": f"{kind} of any", "kind": kind, "from": str(first), **({"to": str(end)} if end else {})}
        item["prices"] = [self.price(1, first - timedelta(days=9))]
        if chance() < 0.4:
            item["prices"].append(self.price(2, self.day(1, 27)))
        if kind in ("flat", "one_off"):
            item["quantity"] = self.number(3, 1)
        elif chance() < 0.5:
            item["included"] = str(self.random.randint(1, 3)) if kind == "device" else self.number(40, 2)
        if kind in ("device", "storage", "backup") and single and chance() < 0.4:
            item["basis"] = self.random.choice(("last_day", "peak"))
        elif kind == "device" and chance() < 0.5:
            item["basis"] = "reporting"
        if kind == "device":
            item["filter"] = {"classes": self.random.choice(([], ["server"])), "without_tags": ["spare"]}
        if kind == "flat" and chance() < 0.3:
            item["proration"] = "full"
        if chance() < 0.3:
            item["minimum_quantity"] = self.number(3, 1)
        if chance() < 0.3:
            item["minimum_amount"] = self.number(20, 3)
        if chance() < 0.3:
            start = self.day(0, 20)
            until = start + timedelta(days=self.random.randint(1, 20))
            item["discounts"] = [{"from": str(start), "to": str(until), "percent": self.number(100, 1)}]
        return item

    def price(self, version: int, first: date) -> dict[str, Any]:
        model = self.random.choice(("flat", "per_unit", "package", "graduated", "volume"))
        price = {"version": version, "from": str(first), "published_at": "2020-01-01T00:00:00Z", "model": model}
        if model in ("flat", "per_unit", "package"):
            price["amount"] = self.number(50, self.random.randint(0, 6))
        if model == "package":
            price["size"] = str(self.random.randint(1, 12))
        if model in ("graduated", "volume"):
            limits = sorted(self.random.sample(range(1, 60), 2))
            price["tiers"] = [{"up_to": str(limit), "price": self.number(9, 4)} for limit in limits]
            price["tiers"].append({"price": self.number(5, 4)})
        return price

    def terms(self) -> Iterator[dict[str, Any]]:
        """One term of each device, or two that meet."""
        for device in self.devices:
            row = {"organization_id": self.id, "device_id": device, "class": self.random.choice(("server", "laptop"))}
            row |= {"tags": self.random.choice(([], [], ["spare"])), "billable": self.random.random() < 0.9}
            cuts = sorted({self.instant() for _ in range(self.random.randint(1, 3))})
            ends = [*cuts[1:], None if self.random.random() < 0.5 else cuts[-1] + timedelta(days=9)]
            for first, end in zip(cuts, ends, strict=True):
                yield {**row, "first": first, "until": end}

    def reports(self) -> list[tuple[uuid.UUID, datetime]]:
        return [(device, self.instant()) for device in self.devices for _ in range(self.random.randint(0, 60))]

    def calls(self) -> list[tuple[str, datetime, int]]:
        """Some with one id, as retries have."""
        statuses = (200, 200, 404, 401, 500)
        return [
            (str(self.random.randint(0, 60)), self.instant(), self.random.choice(statuses))
            for _ in range(self.random.randint(0, 80))
        ]

    def measurements(self) -> list[tuple[str, datetime, Decimal]]:
        return [
            (kind, self.instant(), Decimal(self.number(90, 6)))
            for kind in ("storage", "backup")
            for _ in range(self.random.randint(0, 6))
        ]


class World:
    """Customers in PostgreSQL with their raw usage, and what rating takes."""

    def __init__(self, stores: Stores, seeds: Sequence[int]) -> None:
        self.stores = stores
        self.customers = [Customer(seed) for seed in seeds]
        self.usages: dict[str, dict[str, Any]] = {}
        row = {"time_zone": "UTC", "created_at": datetime(2020, 1, 1, tzinfo=UTC)}
        organizations = [{**row, "id": one.id, "name": str(one.seed), "slug": str(one.seed)} for one in self.customers]
        add(stores, "organizations", organizations)
        device = {"kind": "server", "created_at": datetime(2020, 1, 1, tzinfo=UTC)}
        owned = [(id_, one.id) for one in self.customers for id_ in one.devices]
        add(stores, "devices", [{**device, "id": id_, "organization_id": of, "name": str(id_)} for id_, of in owned])
        with stores.postgres.transaction() as connection:
            connection.execute("DELETE FROM billing.device_terms")
            connection.execute("CREATE TEMPORARY TABLE raw_reports (device_id uuid, at timestamptz)")
            connection.execute(
                "CREATE TEMPORARY TABLE raw_calls (organization_id uuid, id text, at timestamptz, status int)"
            )
            connection.execute(
                "CREATE TEMPORARY TABLE raw_measurements (organization_id uuid, kind text, at timestamptz, gb numeric)"
            )
            for customer in self.customers:
                enter(connection, customer.agreement())
                self.fill(connection, customer)

    def fill(self, connection: Any, customer: Customer) -> None:
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO billing.device_terms (organization_id, device_id, class, tags, billable, term) VALUES "
                "(%(organization_id)s, %(device_id)s, %(class)s, %(tags)s, %(billable)s, "
                "tstzrange(%(first)s, %(until)s))",
                [*customer.terms()],
            )
            reports, calls, measured = customer.reports(), customer.calls(), customer.measurements()
            cursor.executemany("INSERT INTO raw_reports VALUES (%s, %s)", reports)
            cursor.executemany("INSERT INTO raw_calls VALUES (%s, %s, %s, %s)", [(customer.id, *one) for one in calls])
            rows = [(customer.id, *one) for one in measured]
            cursor.executemany("INSERT INTO raw_measurements VALUES (%s, %s, %s, %s)", rows)
        self.usages[str(customer.id)] = {
            "reports": tuple(Reports(device_id=str(device), at=(at.isoformat(),)) for device, at in reports),
            "api_calls": tuple(Call(id=id_, timestamp=at, status_code=status) for id_, at, status in calls),
            "storage": tuple(Measurement(timestamp=at, gb=gb) for kind, at, gb in measured if kind == "storage"),
            "backup": tuple(Measurement(timestamp=at, gb=gb) for kind, at, gb in measured if kind == "backup"),
        }

    @cache  # noqa: B019 -- as long as the module's tests
    def by_sql(self, month: date) -> dict[str, Lines]:
        """The lines of each agreement, without those of a minimum that lacks nothing."""
        parameters = {"month": month, "next_month": next_month(month)}
        query = re.sub(r"%(?!\()", "%%", SECOND)
        with self.stores.postgres.transaction() as connection:
            rows = connection.execute(query.encode(), parameters).fetchall()
        found: dict[str, Lines] = {}
        for row in rows:
            if row["kind"] == "charge" or row["amount"]:
                key = (row["item_id"], row["kind"], str(row["first"]))
                found.setdefault(row["agreement_id"], {})[key] = row["amount"]
        return found

    def differing(self, rating: ModuleType = document) -> Iterator[str]:
        """The agreements whose lines are not those of SQL, one by one."""
        for month in MONTHS:
            customers = {str(one.id) for one in self.customers if one.month == month}
            agreements = agreements_in_force(self.stores.postgres, month, next_month(month))
            devices = device_terms(self.stores.postgres, customers)
            for one in (one for one in agreements if one.organization_id in customers):
                used = Usage(devices=tuple(devices.get(one.organization_id, ())), **self.usages[one.organization_id])
                lines = rating.draft(one, used, month).lines
                found = {(line.item, line.kind, str(line.from_)): line.amount for line in lines}
                if found != (wanted := self.by_sql(month).get(one.id, {})):
                    yield f"{month} {one.id}: {wanted} by SQL, {found} by rating"


@pytest.fixture(scope="module")
def world(module_stores: tuple[Any, Stores]) -> World:
    return World(module_stores[1], range(1000))


def test_a_thousand_agreements_cost_the_same_by_sql(world: World) -> None:
    lines = [line for month in MONTHS for agreement in world.by_sql(month).values() for line in agreement]
    assert len(lines) > 3 * len(world.customers)
    wrong = [*world.differing()]
    assert not wrong, "\n".join(wrong[:9])


MUTANTS = [  # file, what stands there, what may have been written instead
    ("charges.py", "Fraction(1, month_days)", "Fraction(1, 30)"),
    ("charges.py", "max(Fraction(0), Fraction(one.item.included) - one.quantity)", "Fraction(0)"),
    ("charges.py", "price(one.version, one.quantity, before, total)", "price(one.version, one.quantity)"),
    ("charges.py", "wanted - sum(one.quantity for one in slots)", "wanted - slots[-1].quantity"),
    ("price.py", "quantity <= Fraction(tier.up_to)", "quantity < Fraction(tier.up_to)"),
    ("price.py", "ceil(before / size)", "0"),
    ("document.py", ">= Fraction(1, 2)", "> Fraction(1, 2)"),
    ("usage.py", "self.first <= day < self.end", "self.first <= day <= self.end"),
    ("usage.py", "min(first.get(call.id, call.timestamp), call.timestamp)", "call.timestamp"),
    ("usage.py", "end = max(end, start + MICROSECOND)", "end = start + timedelta(days=1)"),
]


@pytest.mark.parametrize(("file", "right", "wrong"), MUTANTS)
def test_a_mutant_is_caught(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, right: str, wrong: str
) -> None:
    name = f"mutant_{uuid.uuid4().hex}"
    (tmp_path / name).mkdir()
    for source in RATING.glob("*.py"):
        text = source.read_text().replace("ninjait_pipelines.billing.rating", name)
        if source.name == file:
            assert text.count(right) == 1, "the mutant is not of this code any more"
            text = text.replace(right, wrong)
        (tmp_path / name / source.name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert next(world.differing(importlib.import_module(f"{name}.document")), None)
