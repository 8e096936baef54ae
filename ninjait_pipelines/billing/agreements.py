"""Agreements and device terms between PostgreSQL and the pure functions of rating: read, and entered from JSON."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any
from uuid import UUID, uuid5

import msgspec
import psycopg
from psycopg.rows import DictRow
from psycopg.types.range import DateRange

from ninjait_pipelines.billing.rating.agreement import Agreement, Item, Party, Price, Refused, Term, agreement
from ninjait_pipelines.billing.rating.usage import Device
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.postgres import Postgres


def agreements_in_force(
    postgres: Postgres, first_day: date, end_day: date, left_out: LeftOut | None = None
) -> list[Agreement]:
    """The agreements that hold on a local day of [first_day, end_day), in the order of organizations and ids.

    One that rating refuses is left out, as organization and agreement, and named with the reason.
    """
    rows = postgres.rows(sql("billing/agreements"), {"first_day": first_day, "end_day": end_day})
    name = "organization {organization_id}, agreement {id}".format_map
    return list((left_out or LeftOut()).each(rows, name, lambda row: agreement(row["document"].encode())))


def device_terms(postgres: Postgres, organizations: Iterable[str]) -> dict[str, list[Device]]:
    """The terms of each organization's devices; of a device that moved, also those that other organizations have."""
    rows = postgres.rows(sql("billing/device_terms"), {"organizations": sorted(set(organizations))})
    found: dict[str, list[Device]] = defaultdict(list)
    for row in rows:
        device = Device(
            device_id=row["device_id"],
            organization_id=row["organization_id"],
            class_=row["class"],
            site=row["site"],
            tags=frozenset(row["tags"]),
            billable=row["billable"],
            from_=row["from"],
            to=row["to"],
        )
        for organization in row["organizations"]:
            found[organization].append(device)
    return dict(found)


def enter(connection: psycopg.Connection[DictRow], agreed: Agreement) -> UUID:
    """Enters an agreement that rating has read, with its products and prices where there are none of the name, and
    returns its id: its own if that is a UUID, else one that follows from organization and id.

    Raises Refused for what contradicts what is there, and psycopg's errors for what the database refuses.
    """
    try:
        organization = UUID(agreed.organization_id)
    except ValueError as error:
        raise Refused(f"organization_id: {agreed.organization_id!r} is no UUID; give the organization's id") from error
    id_ = identifier(organization, agreed.id)
    if connection.execute("SELECT FROM billing.agreements WHERE id = %s", [id_]).fetchall():
        raise Refused(f"id: {agreed.id!r} is entered already, as {id_}; give another id, or change that one's items")
    columns = {
        "id": id_,
        "organization_id": organization,
        "bill_to": _enter_party(connection, id_, organization, agreed.bill_to) if agreed.bill_to else None,
        "currency": agreed.currency,
        "time_zone": agreed.time_zone,
        "purchase_order": agreed.purchase_order,
        "term": _range(agreed.term),
        "tax_category": agreed.tax.category,
        "tax_rate": agreed.tax.rate,
    }
    _insert(connection, "agreements", columns)
    for item in agreed.items:
        _enter_item(connection, {"agreement_id": id_, "organization_id": organization}, agreed.currency, item)
    return id_


def _enter_party(connection: psycopg.Connection[DictRow], agreement_id: UUID, organization: UUID, party: Party) -> UUID:
    id_ = uuid5(agreement_id, "bill_to")
    columns = {"name": party.name, "address": list(party.address), "tax_id": party.tax_id}
    _insert(connection, "parties", {"id": id_, "organization_id": organization, **columns})
    return id_


def _enter_item(connection: psycopg.Connection[DictRow], owner: dict[str, UUID], currency: str, item: Item) -> None:
    id_ = identifier(owner["agreement_id"], item.key)
    product = _product(connection, item)
    price = uuid5(id_, "price")
    columns = {"id": price, "product_id": product, "name": f"item {id_}", "currency": currency}
    _insert(connection, "prices", columns, unless="(id)")
    for version in item.prices:
        _enter_version(connection, price, version)
    tax = {"tax_category": item.tax.category, "tax_rate": item.tax.rate} if item.tax else {}
    names = ("kind", "description", "quantity", "basis", "included", "minimum_quantity", "minimum_amount")
    same = {name: getattr(item, name) for name in (*names, "proration", "billed")}
    filters = {name: sorted(getattr(item.filter, name)) for name in ("classes", "sites", "tags", "without_tags")}
    keys: dict[str, Any] = {
        "id": id_,
        **owner,
        "currency": currency,
        "product_id": product,
        "price_id": price,
        "term": _range(item),
    }
    _insert(connection, "agreement_items", {**keys, **same, **filters, **tax})
    for discount in item.discounts:
        keys = {"item_id": id_, "organization_id": owner["organization_id"], "term": _range(discount)}
        _insert(connection, "discounts", {**keys, "percent": discount.percent})


def _product(connection: psycopg.Connection[DictRow], item: Item) -> UUID:
    """The id of the item's product, which is entered unless there is one. Raises Refused where that one differs."""
    rules = {
        "kind": item.kind,
        "not_billed_statuses": sorted(item.not_billed_statuses),
        "carried_forward_days": item.carried_forward_days,
    }
    connection.execute(
        "INSERT INTO billing.products (name, kind, not_billed_statuses, carried_forward_days) "
        "VALUES (%(name)s, %(kind)s, %(not_billed_statuses)s, %(carried_forward_days)s) ON CONFLICT (name) DO NOTHING",
        {"name": item.product, **rules},
    )
    query = "SELECT * FROM billing.products WHERE name = %s"
    [found] = connection.execute(query, [item.product]).fetchall()
    there = {name: sorted(found[name]) if name == "not_billed_statuses" else found[name] for name in rules}
    for name, value in rules.items():
        if there[name] != value:
            raise Refused(
                f"product {item.product!r}: {name} is {there[name]}, not {value}; "
                "name another product, or give the same rule"
            )
    id_: UUID = found["id"]
    return id_


def _enter_version(connection: psycopg.Connection[DictRow], price: UUID, version: Price) -> None:
    """A version stays when its agreement goes, so it may be there. Raises Refused where it is another one."""
    columns = _price_columns(version)
    if _insert(connection, "price_versions", {"price_id": price, **columns}, unless="(price_id, version)"):
        return
    query = "SELECT * FROM billing.price_versions WHERE (price_id, version) = (%s, %s)"
    [there] = connection.execute(query, [price, version.version]).fetchall()
    for name, value in columns.items():
        if there[name] != value:
            raise Refused(f"price {price}, version {version.version}: {name} is {there[name]}, not {value}")


def _price_columns(version: Price) -> dict[str, Any]:
    columns = {name: getattr(version, name) for name in ("version", "model", "amount", "size")}
    columns["used_from"] = version.from_
    if version.published_at is not msgspec.UNSET:
        columns["published_at"] = version.published_at
    if version.tiers:
        columns["tier_limits"] = [tier.up_to for tier in version.tiers if tier.up_to is not None]
        columns["tier_prices"] = [tier.price for tier in version.tiers]
    return columns


def _insert(connection: psycopg.Connection[DictRow], table: str, columns: Mapping[str, Any], unless: str = "") -> int:
    """Inserts a row, unless one has these columns already; returns how many."""
    names, values = ", ".join(columns), ", ".join(f"%({name})s" for name in columns)
    there = f" ON CONFLICT {unless} DO NOTHING" if unless else ""
    statement = f"INSERT INTO billing.{table} ({names}) VALUES ({values}){there}"  # noqa: S608
    return connection.execute(statement.encode(), columns).rowcount


def identifier(within: UUID, name: str) -> UUID:
    """The id under which something is entered: its own if that is a UUID, else one that follows from both."""
    try:
        return UUID(name)
    except ValueError:
        return uuid5(within, name)


def _range(term: Term) -> DateRange:
    return DateRange(term.from_, term.to)
