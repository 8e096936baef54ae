"""Where an amount comes from: a document or one of its lines, down to price version, quantity, days, hours, messages.

An issued document is explained by the agreement and usage that it was drawn up from, a draft by those of today.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.evidence import (
    Counted,
    Evidence,
    Step,
    call_steps,
    device_steps,
    volume_steps,
)
from ninjait_pipelines.billing.local_time import next_month
from ninjait_pipelines.billing.rating.agreement import Agreement, Item, Refused, agreement
from ninjait_pipelines.billing.rating.charges import Charge, Measured, charges
from ninjait_pipelines.billing.rating.document import Document, Line, document, plain, rounded
from ninjait_pipelines.billing.rating.usage import usage
from ninjait_pipelines.billing.stored_usage import usage_of
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

BY_KIND = {"device": device_steps, "api_calls": call_steps, "storage": volume_steps, "backup": volume_steps}


class Explained(msgspec.Struct, frozen=True):
    """A document, or a line of it, with its steps: each gives the number above it, or says by what rule."""

    document: Document
    line_number: int | None
    steps: tuple[Step, ...]

    @property
    def changed(self) -> list[str]:
        """Titles of the steps whose query gives another number by now."""
        return [step.title for step in self.steps if not step.agrees]


class _Case(NamedTuple):
    """A document as it is stored."""

    evidence: Evidence
    id: UUID
    document: Document
    issued_at: datetime | None
    agreement: bytes | None
    usage: bytes | None


def explain(postgres: Postgres, clickhouse: ClickHouse, name: str, line_number: int | None = None) -> Explained:
    """Explains a document, by its number or id, or one of its lines (from 1). Raises Refused where there is none."""
    rows = postgres.rows(sql("billing/explain/document"), {"name": name})
    if len(rows) != 1:
        raise Refused(
            f"invoice: {name!r}; {'several sellers have' if rows else 'there is no'} document of this number or id"
        )
    row = rows[0]
    case = _Case(
        Evidence(postgres, clickhouse),
        row["id"],
        msgspec.structs.replace(document(bytes(row["document"])), status=row["status"]),
        row["issued_at"],
        bytes(row["agreement"]) if row["agreement"] else None,
        bytes(row["usage"]) if row["usage"] else None,
    )
    lines = case.document.lines
    if line_number is not None and not 1 <= line_number <= len(lines):
        raise Refused(f"line: {line_number}; the document has lines 1 to {len(lines)}")
    steps = _of_document(case) if line_number is None else _of_line(case, line_number, lines[line_number - 1])
    return Explained(case.document, line_number, tuple(steps))


def _of_document(case: _Case) -> Iterator[Step]:
    one, given = case.document, {"id": case.id}
    yield case.evidence.record("total", given, "total", "total", f"{one.net} net + {one.tax_total} tax", one.total)
    yield case.evidence.record("net", given, "net, by line", "amount", "the sum of the lines", one.net)


def _of_line(case: _Case, number: int, line: Line) -> Iterator[Step]:
    given, record = {"id": case.id, "line": number}, case.evidence.record
    yield record("amount", given, "amount of the line", "amount", "", line.amount)
    if line.kind == "credit":
        given["line"] = line.credits_line
        yield record("credited", given, "amount of the line that it gives back", "amount", "in whole or part")
    elif line.kind == "minimum":
        yield from _minimum(case, line)
    else:
        if line.kind == "correction":
            yield _billed(case, line)
        yield from _charged(case, given, line)


def _minimum(case: _Case, line: Line) -> Iterator[Step]:
    rule = "its share of the month's days, less what the other lines of the item charge"
    given = {"id": case.id, "item": line.item, "first": line.from_, "end": line.to}
    yield case.evidence.record("minimum", given, "minimum of the item", "minimum_amount", rule)
    own = [one for one in case.document.lines if one.item == line.item and one.kind == "charge"]
    value = sum((one.amount for one in own if line.from_ <= one.from_ and one.to <= line.to), Decimal(0))
    yield case.evidence.record("charged", given, "the other lines of the item", "amount", "", value)


def _billed(case: _Case, line: Line) -> Step:
    given = {
        "agreement_id": case.document.agreement_id,
        "id": case.id,
        "item": line.item,
        "first": line.from_,
        "version": line.price_version,
        "corrects": line.corrects,
        "issued_at": case.issued_at,
    }
    rule = f"what they cost by now, less this, is {line.amount}; what a credit note gave back is not billed again"
    return case.evidence.record("billed", given, "billed for these days before", "amount", rule)


def _charged(case: _Case, where: Mapping[str, Any], line: Line) -> Iterator[Step]:
    """From a charge to its price and quantity, and on."""
    measured, known_at = _measured(case, line)
    item = next((one for one in measured.agreement.items if one.key == line.item), None) if measured else None
    if measured is None or item is None:
        return  # the item went while this was a draft: the next one lacks the line
    charge = _charge(measured, item, line, known_at)
    yield _price(case, line, charge)
    record, counted = case.evidence.record, Counted(measured, item, line.from_, line.to)
    days = (next_month(line.from_.replace(day=1)) - line.from_.replace(day=1)).days
    if line.kind == "charge":
        yield record("quantity", where, "quantity", "quantity", "", line.quantity)
    if item.kind in BY_KIND:
        yield from BY_KIND[item.kind](case.evidence, counted, _rule_of_quantity(item, line, charge, days))
        return
    given = {"item": item.key, "first": line.from_, "end": line.to}
    if item.kind == "one_off":
        yield record("one_off", given, "units of the item", "quantity", "", item.quantity)
    else:
        share = f"{line.quantity} = {item.quantity} x days / {days} days of the month"
        rule = share if item.proration == "daily" else "the whole month, as soon as it holds on a day"
        yield record("days", given, "days of the item", "days", rule, (line.to - line.from_).days)


def _price(case: _Case, line: Line, charge: Charge | None) -> Step:
    """The price version; a rule with the amount as it is before it is rounded."""
    discount = f", less {line.discount_percent} %" if line.discount_percent else ""
    parts = " + ".join(f"{quantity} x {price}" for quantity, price in line.parts)
    made_of = parts or f"{line.quantity} {line.unit} x {line.unit_price}"
    if line.kind == "correction":
        cost = rounded(charge.amount, _exponent(case)) if charge else Decimal(0)
        rule = f"these days cost {cost} by now"
    else:
        rule = f"{line.amount} = {made_of}{discount}, rounded half up once"
    title = f"price, version {line.price_version} ({line.price_model})"
    given = {"item": line.item, "version": line.price_version}
    return case.evidence.record("price", given, title, "amount", rule, line.unit_price)


def _exponent(case: _Case) -> int:
    return -int(case.document.total.as_tuple().exponent)


def _rule_of_quantity(item: Item, line: Line, charge: Charge | None, month_days: int) -> str:
    quantity = charge.quantity if charge else None
    if item.kind == "api_calls":
        rule = f"{plain(rounded(quantity, 6)) if quantity is not None else line.quantity} calls are charged"
    else:
        charged = plain(rounded(quantity * month_days, 6)) if quantity is not None else "?"
        of = plain(rounded(quantity, 6)) if quantity is not None else line.quantity
        rule = f"{of} {line.unit} = {charged} / {month_days} days of the month"
    if item.measured_by in ("last_day", "peak"):
        rule += f"; the {item.measured_by.replace('_', ' ')}'s count holds for all {(line.to - line.from_).days} days"
    if item.included:
        rule += f"; {item.included} are included in a whole month"
    if item.minimum_quantity:
        rule += f"; at least {item.minimum_quantity} in a whole month"
    if item.proration == "full":
        rule += "; the whole month, as soon as it holds on a day"
    return rule


def _charge(measured: Measured, item: Item, line: Line, known_at: datetime | None) -> Charge | None:
    own = [one for one in measured.agreement.items if one.product == item.product and one.billed == item.billed]
    for charge in charges(measured, line.from_.replace(day=1), own, known_at):
        key = (charge.item.key, charge.first, charge.version.version, charge.kind)
        if key == (line.item, line.from_, line.price_version, "charge"):
            return charge
    return None


def _measured(case: _Case, line: Line) -> tuple[Measured | None, datetime | None]:
    """The agreement and usage that a line was computed from; a correction's is the agreement of then."""
    one = case.document
    agreed = agreement(case.agreement) if case.agreement else _agreement_now(case, one.period_from)
    known_at = None
    if line.corrects is not None:
        given = {"agreement_id": one.agreement_id, "corrects": line.corrects}
        [then] = case.evidence.postgres.rows(sql("billing/explain/corrected"), given)
        agreed, known_at = agreement(bytes(then["agreement"])), then["issued_at"]
    if agreed is None:
        return None, None
    if case.usage is not None:
        return Measured(agreed, usage([case.usage])), known_at
    month = line.from_.replace(day=1)
    used = usage_of(case.evidence.postgres, case.evidence.clickhouse, [agreed], month, next_month(month))
    return Measured(agreed, used[agreed.id]), known_at


def _agreement_now(case: _Case, month: date) -> Agreement | None:
    found = agreements_in_force(case.evidence.postgres, month, next_month(month))
    return next((one for one in found if one.id == case.document.agreement_id), None)
