"""Seeded organizations in PostgreSQL: plausible, small enough to read, and the same in every run.

Ids and all that is random follow from the environment's name alone; times are relative to the day of the first run,
which is read back from the rows, so that a second run, however much later, finds every row there and changes none.
Nothing happens after that day's beginning in UTC.
"""

import hashlib
import random
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from psycopg import Connection, sql
from psycopg.types.json import Jsonb
from psycopg.types.range import DateRange

from ninjait_pipelines.local.fleet import seed_data as data
from ninjait_pipelines.local.fleet.seed_data import ENVIRONMENTS, Shape
from ninjait_pipelines.resources.postgres import Postgres

NAMESPACE = uuid.UUID("5d3a8b1e-40c7-5c0e-8a86-7a0e1c0f5e11")
# The days over which tickets, alerts and executions are spread, and the age of the organizations.
DAYS = 40
AGE = timedelta(days=500)
# In an order in which rows can be inserted; the other way round they can be deleted.
TABLES = (
    "organizations",
    "users",
    "devices",
    "billing.prices",
    "billing.price_versions",
    "billing.parties",
    "billing.agreements",
    "billing.agreement_items",
    "sla_targets",
    "tickets",
    "ticket_history",
    "alerts",
    "scripts",
    "script_executions",
    "audit.audit_logs",
)
# Published prices stay when an environment goes.
PUBLISHED = ("billing.prices", "billing.price_versions")
# What 0.4.0 seeded, besides price plans.
FORMERLY = ("contracts",)
# Product -> its kind. Their ids are those of sql/postgres/0012_agreements.sql.
PRODUCTS = {"base_fee": "flat", "devices": "device", "storage": "storage", "backup": "backup", "api_calls": "api_calls"}
WRITTEN_BY_THE_PIPELINE = ("billing.invoices", "billing.invoice_lines")

Row = dict[str, Any]


class Seeded(msgspec.Struct, frozen=True):
    """An environment: ids by the organization's slug, rows by table, and how many of those were new."""

    environment: str
    organizations: dict[str, uuid.UUID]
    devices: dict[str, list[uuid.UUID]]
    rows: dict[str, int]
    added: int


def seed(postgres: Postgres, environment: str, today: date) -> Seeded:
    """Adds what is missing of an environment, in one transaction: killed anywhere, it has added nothing."""
    rows = build(environment, _first_day(postgres, environment) or today)
    with postgres.transaction() as connection:
        added = sum(_insert(connection, table, rows[table]) for table in TABLES)
    organizations = {row["slug"]: row["id"] for row in rows["organizations"]}
    return Seeded(
        environment=environment,
        organizations=organizations,
        devices={
            slug: [row["id"] for row in rows["devices"] if row["organization_id"] == organization]
            for slug, organization in organizations.items()
        },
        rows={table: len(content) for table, content in rows.items()},
        added=added,
    )


def clean(postgres: Postgres, environment: str) -> int:
    """Deletes the environment's organizations with all that belongs to them, and its price plans; returns the rows.
    Prices stay, as published ones do.

    That includes what came later (an agent's device, an invoice): it cannot be without its organization. Other
    organizations stay untouched.
    """
    organizations = [identifier(environment, "organization", shape.slug) for shape in ENVIRONMENTS[environment]]
    plans = [identifier(environment, "plan", plan) for plan in _plans(environment)]
    kept = ("organizations", *PUBLISHED)
    owned = [table for table in (*FORMERLY, *TABLES, *WRITTEN_BY_THE_PIPELINE) if table not in kept]
    deletions = [(table, "organization_id", organizations) for table in reversed(owned)]
    deletions += [("organizations", "id", organizations), ("price_plans", "id", plans)]
    with postgres.transaction() as connection:
        return sum(_delete(connection, *deletion) for deletion in deletions)


def identifier(*parts: object) -> uuid.UUID:
    """The id of what these parts name: environment, kind, and name within it."""
    return uuid.uuid5(NAMESPACE, "/".join(map(str, parts)))


def build(environment: str, today: date) -> dict[str, list[Row]]:
    """All rows of an environment by table. Pure."""
    plans = [*_price_plans(environment, today)]
    prices = [row for plan in plans for row in _prices(plan)]
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    rows["billing.prices"] = [price for price, _ in prices]
    rows["billing.price_versions"] = [version for _, version in prices]
    for shape in ENVIRONMENTS[environment]:
        _Organization(environment, shape, today, rows).build()
    return rows


def _first_day(postgres: Postgres, environment: str) -> date | None:
    """The `today` of the run that seeded the environment, None where it is not seeded."""
    slug = ENVIRONMENTS[environment][0].slug
    found = postgres.rows(
        "SELECT created_at FROM organizations WHERE id = %(id)s", {"id": identifier(environment, "organization", slug)}
    )
    return (found[0]["created_at"] + AGE).date() if found else None


def _plans(environment: str) -> list[str]:
    return sorted({plan for shape in ENVIRONMENTS[environment] for plan, _, _ in shape.contracts})


def _price_plans(environment: str, today: date) -> Iterator[Row]:
    for plan in _plans(environment):
        currency, *versions = data.PLANS[plan]
        for version, prices in enumerate(versions, start=1):
            yield {
                "id": identifier(environment, "plan", plan),
                "version": version,
                "name": plan,
                "currency": currency,
                **dict(zip(data.PRICES, prices.split(), strict=True)),
                "published_at": datetime(today.year - 3 + version, 1, 1, tzinfo=UTC),
            }


def _prices(plan: Row) -> Iterator[tuple[Row, Row]]:
    """The price of each product of a plan's version, and that price's only version."""
    name, version = plan["name"], plan["version"]
    amounts = dict(
        zip(PRODUCTS, (plan[column] for column in data.PRICES if column != "api_calls_included"), strict=True)
    )
    for product, amount in amounts.items():
        per_unit = Decimal(amount) / (1000 if product == "api_calls" else 1)
        price = {"id": _price(plan["id"], version, product), "product_id": _product(product)}
        used = {"price_id": price["id"], "version": version, "used_from": date(1970, 1, 1)}
        yield (
            {**price, "name": f"{name} {version} {plan['id']}", "currency": plan["currency"]},
            {**used, "published_at": plan["published_at"], "amount": per_unit.normalize()},
        )


def _price(plan: uuid.UUID, version: int, product: str) -> uuid.UUID:
    return uuid.uuid5(plan, f"{version}/{product}")


def _product(name: str) -> uuid.UUID:
    return uuid.UUID(hashlib.md5(f"product {name}".encode(), usedforsecurity=False).hexdigest())


class _Organization:
    """Builds the rows of one organization; each method adds those of one kind."""

    def __init__(self, environment: str, shape: Shape, today: date, rows: dict[str, list[Row]]) -> None:
        self.environment, self.shape, self.today, self.rows = environment, shape, today, rows
        self.now = datetime.combine(today, time(), UTC)
        self.id = identifier(environment, "organization", shape.slug)
        self.random = random.Random(f"{environment}/{shape.slug}")
        self.zone = ZoneInfo(shape.time_zone)
        self.users: dict[str, list[uuid.UUID]] = {}
        self.device_rows: list[Row] = []

    def build(self) -> None:
        shape = self.shape
        row = {"id": self.id, "name": shape.name, "slug": shape.slug, "time_zone": shape.time_zone}
        self.rows["organizations"].append({**row, "created_at": self.now - AGE})
        self.add_users()
        self.add_devices()
        self.add_agreement()
        self.add_sla_targets()
        for number in range(1, shape.tickets + 1):
            self.add_ticket(number)
        self.add_alerts()
        self.add_scripts()
        self.add_audit_logs()

    def add(self, table: str, key: object, values: Row) -> Row:
        """Adds a row; its id follows from the environment, the organization, the table and `key`."""
        row = {"id": identifier(self.environment, self.shape.slug, table, key), "organization_id": self.id, **values}
        self.rows[table].append(row)
        return row

    def some_moment(self) -> datetime:
        return self.now - timedelta(seconds=self.random.randint(60, DAYS * 86_400))

    def add_users(self) -> None:
        counts = {"owner": 1, "admin": 1, "technician": self.shape.technicians, "customer": self.shape.customers}
        for role, count in counts.items():
            for number in range(1, count + 1):
                user = {
                    "email": f"{role}{number}@{self.shape.slug}.example",
                    "full_name": f"{self.random.choice(data.GIVEN)} {self.random.choice(data.FAMILY)}",
                    "role": role,
                    "created_at": self.now - timedelta(days=400 - number),
                }
                self.users.setdefault(role, []).append(self.add("users", user["email"], user)["id"])

    def add_devices(self) -> None:
        for (kind, (prefix, systems)), count in zip(data.KINDS.items(), self.shape.devices, strict=True):
            for number in range(1, count + 1):
                system = self.random.choice(systems)
                device = {
                    "name": f"{prefix}-{number:03}",
                    "kind": kind,
                    "os_type": _os_type(system),
                    "os_version": system,
                    "created_at": self.now - timedelta(days=self.random.randint(DAYS, 390)),
                }
                self.device_rows.append(self.add("devices", device["name"], device))

    def add_agreement(self) -> None:
        """One agreement, whose items follow one another from plan to plan."""
        starts = [_contract_day(when, self.today) for _, _, when in self.shape.contracts]
        shape, (category, rate, tax_id) = self.shape, self.shape.tax
        party = self.add("billing.parties", 0, {"name": shape.name, "address": [*shape.address], "tax_id": tax_id})
        currency = data.PLANS[shape.contracts[0][0]][0]
        term = {"currency": currency, "time_zone": shape.time_zone, "term": DateRange(starts[0], None)}
        tax = {"tax_category": category, "tax_rate": rate}
        agreement = self.add("billing.agreements", 0, {"bill_to": party["id"], **term, **tax})
        for (plan, version, _), first, end in zip(shape.contracts, starts, [*starts[1:], None], strict=True):
            included = int(data.PLANS[plan][version].split()[data.PRICES.index("api_calls_included")])
            for product, kind in PRODUCTS.items():
                keys = {"agreement_id": agreement["id"], "currency": currency, "product_id": _product(product)}
                price = _price(identifier(self.environment, "plan", plan), version, product)
                item = {**keys, "kind": kind, "price_id": price, "term": DateRange(first, end)}
                item |= {"basis": shape.basis if kind == "device" else None}
                item |= {"included": included if kind == "api_calls" else 0}
                self.add("billing.agreement_items", (product, first), item)

    def add_sla_targets(self) -> None:
        for priority in self.shape.targets:
            response, resolution = data.TARGETS[priority]
            target = {"priority": priority, "first_response_minutes": response, "resolution_minutes": resolution}
            self.rows["sla_targets"].append({"organization_id": self.id, **target})

    def add_ticket(self, number: int) -> None:
        """One ticket of each scenario first, so that every scenario occurs; the rest are drawn by weight."""
        scenarios = list(data.SCENARIOS.values())
        weights = [scenario.weight for scenario in scenarios]
        scenario = scenarios[number - 1] if number <= len(scenarios) else self.random.choices(scenarios, weights)[0]
        device = self.random.choice([*self.device_rows, None])
        ticket: Row = {
            "number": number,
            "device_id": device and device["id"],
            "created_by": self.random.choice(self.users["customer"]),
            "assigned_to": None,
            "title": self.random.choice(data.SUBJECTS),
            "priority": self.random.choices(list(data.TARGETS), (2, 5, 3, 1))[0],
            "status": "new",
            "created_at": self.created_at(scenario.created),
        }
        ticket = self.add("tickets", number, ticket)
        self.add_event(ticket, 0, "created", ticket["created_by"], ticket["created_at"])
        self.play(ticket, scenario)

    def play(self, ticket: Row, scenario: data.Scenario) -> None:
        """Adds the steps of the scenario that have happened by now, and what they made of the ticket."""
        at = ticket["created_at"]
        for index, step in enumerate(filter(None, scenario.steps.split(", ")), start=1):
            minutes, what = step.split()
            # a scenario that crosses a certain boundary keeps its times; the others vary
            pace = self.random.uniform(0.6, 1.5) if scenario.created == "any" else 1.0
            at += timedelta(seconds=round(int(minutes) * 60 * pace))
            if at >= self.now:
                break
            self.take_step(ticket, index, what, at)

    def take_step(self, ticket: Row, index: int, what: str, at: datetime) -> None:
        actor = ticket["assigned_to"] or self.random.choice(self.users["technician"])
        if what in ("assign", "reassign"):
            others = [one for one in self.users["technician"] if one != ticket["assigned_to"]]
            self.change(ticket, index, "assigned", "assigned_to", self.random.choice(others), actor, at)
        if what == "escalate":
            self.change(ticket, index, "priority_changed", "priority", _another(ticket["priority"]), actor, at)
        elif what == "respond":
            self.add_event(ticket, index, "responded", actor, at)
        elif what == "comment":
            self.add_event(ticket, index, "commented", ticket["created_by"], at)
        elif what != "reassign":
            status = "open" if what == "assign" else what
            self.change(ticket, index, "status_changed", "status", status, actor, at)

    def change(
        self, ticket: Row, index: int, event: str, column: str, value: Any, actor: uuid.UUID, at: datetime
    ) -> None:
        old, ticket[column] = ticket[column], value
        self.add_event(ticket, index, event, actor, at, old and str(old), str(value))

    def add_event(
        self, ticket: Row, index: int, event: str, actor: uuid.UUID, at: datetime, *values: str | None
    ) -> None:
        old, new = values or (None, None)
        row = {"ticket_id": ticket["id"], "actor_id": actor, "event": event, "old_value": old, "new_value": new}
        self.add("ticket_history", f"{ticket['number']}/{index}/{event}", {**row, "occurred_at": at})

    def created_at(self, when: str) -> datetime:
        """A moment of this kind within the last DAYS (the month's end may be younger or older)."""
        day = self.today - timedelta(days=self.random.randint(2, DAYS))
        if when == "23:50 UTC":
            return datetime.combine(day, time(23, 50), UTC)
        if when == "23:40 local":
            return self.local(day, time(23, 40))
        if when == "friday":
            return self.local(day - timedelta(days=(day.weekday() - 4) % 7), time(17, 30))
        if when == "month end":
            return self.local((self.today - timedelta(days=1)).replace(day=1) - timedelta(days=1), time(22))
        hour = self.random.choices((9, 11, 13, 15, 17, 21, 2), (5, 5, 4, 4, 2, 1, 1))[0]
        return self.local(day, time(hour, self.random.randint(0, 59), self.random.randint(0, 59)))

    def local(self, day: date, at: time) -> datetime:
        return datetime.combine(day, at, self.zone).astimezone(UTC)

    def add_alerts(self) -> None:
        for number, device in enumerate(self.device_rows[::2]):
            kind, severity, message = self.random.choice(data.ALERTS)
            raised = self.some_moment()
            acknowledged = raised + timedelta(minutes=self.random.randint(2, 90))
            resolved = acknowledged + timedelta(minutes=self.random.randint(5, 900))
            alert = {
                "device_id": device["id"],
                "severity": severity,
                "kind": kind,
                "message": message,
                "raised_at": raised,
                "acknowledged_at": acknowledged if acknowledged < self.now else None,
                "resolved_at": resolved if resolved < self.now and self.random.random() < 0.8 else None,
            }
            self.add("alerts", number, alert)

    def add_scripts(self) -> None:
        scripts = []
        for name, language, body in data.SCRIPTS:
            script = {"name": name, "language": language, "body": body, "created_at": self.now - timedelta(days=300)}
            scripts.append(self.add("scripts", name, script)["id"])
        for number, device in enumerate(self.device_rows):
            started, failed = self.some_moment(), self.random.random() < 0.15
            execution = {
                "script_id": self.random.choice(scripts),
                "device_id": device["id"],
                "started_by": self.random.choice(self.users["technician"]),
                "status": "failed" if failed else "succeeded",
                "started_at": started,
                "finished_at": started + timedelta(seconds=self.random.randint(1, 55)),
                "exit_code": int(failed),
                "output": "Access is denied." if failed else "Done.",
            }
            self.add("script_executions", number, execution)

    def add_audit_logs(self) -> None:
        """A row of each action: devices were created, tickets changed, users read, and a script deleted."""
        admin = self.users["admin"][0]
        for device in self.device_rows:
            new = {"name": device["name"], "kind": device["kind"]}
            self.audit("CREATE", "device", device["id"], admin, device["created_at"], new=new)
        for ticket in self.rows["tickets"]:
            if ticket["organization_id"] == self.id and ticket["assigned_to"]:
                old, new = {"status": "new"}, {"status": ticket["status"]}
                self.audit("UPDATE", "ticket", ticket["id"], ticket["assigned_to"], ticket["created_at"], old, new)
        for customer in self.users["customer"]:
            self.audit("READ", "user", customer, admin, self.some_moment())
        script = identifier(self.environment, self.shape.slug, "scripts", "Old script")
        self.audit("DELETE", "script", script, None, self.some_moment(), old={"name": "Old script"})

    def audit(
        self,
        action: str,
        entity: str,
        entity_id: uuid.UUID,
        actor: uuid.UUID | None,
        at: datetime,
        old: Row | None = None,
        new: Row | None = None,
    ) -> None:
        log = {
            "user_id": actor,
            "entity_type": entity,
            "entity_id": entity_id,
            "action": action,
            "old_values": old and Jsonb(old),
            "new_values": new and Jsonb(new),
            "ip_address": f"203.0.113.{self.random.randint(1, 254)}" if actor else None,
            "user_agent": "NinjaIT web" if actor else "NinjaIT platform",
            "created_at": at,
        }
        self.add("audit.audit_logs", f"{entity}/{entity_id}/{action}", log)


def _os_type(version: str) -> str:
    """windows, macos or linux."""
    return {"Windows": "windows", "macOS": "macos"}.get(version.split()[0], "linux")


def _another(priority: str) -> str:
    """The next higher priority; urgent is lowered."""
    return {"low": "normal", "normal": "high", "high": "urgent"}.get(priority, "high")


def _contract_day(when: str, today: date) -> date:
    """The first local day of a contract, as Shape describes it."""
    last_month = (today.replace(day=1) - timedelta(days=1)).replace(day=1)
    if when == "long ago":
        return date(today.year - 1, 1, 1)
    day = int(when.rstrip("sth"))
    return today.replace(day=day) if today.day > day > 1 else last_month.replace(day=day)


def _insert(connection: Connection[Any], table: str, rows: Sequence[Row]) -> int:
    """Inserts the rows that are not there yet, and returns how many those were."""
    names = list(rows[0])
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
        sql.Identifier(*table.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, names)),
        sql.SQL(", ").join(map(sql.Placeholder, names)),
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, rows)
        return cursor.rowcount


def _delete(connection: Connection[Any], table: str, column: str, ids: list[uuid.UUID]) -> int:
    statement = sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(
        sql.Identifier(*table.split(".")), sql.Identifier(column)
    )
    return connection.execute(statement, [ids]).rowcount
