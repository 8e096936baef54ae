"""The document of an agreement and period: lines, tax and totals, rounded once each, as JSON with one byte sequence."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import msgspec
import rfc8785

from ninjait_pipelines.billing.local_time import month_window, next_month
from ninjait_pipelines.billing.rating.agreement import (
    MAX_NUMBER,
    Agreement,
    Party,
    Refused,
    TaxCode,
    Version,
    check_number,
    decoded,
)
from ninjait_pipelines.billing.rating.charges import Charge, Measured, charges
from ninjait_pipelines.billing.rating.usage import Usage

SCHEMA: Literal["ninjait.invoice.v1"] = "ninjait.invoice.v1"
QUANTITY_PLACES = 6
UNITS = {
    "device": "device-months",
    "storage": "GB-months",
    "backup": "GB-months",
    "api_calls": "calls",
    "flat": "months",
    "one_off": "units",
}


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line: of which product and days, how much at which price, and its amount, rounded once.

    kind: `charge`, `minimum` (what an item lacks of its minimum), `correction` of a period that is closed: the
    difference to what was billed for these days before, or `credit`, of the invoice's line `credits_line`. `corrects`
    is the number of the invoice whose period a correction or credit is of. `parts` are (quantity, unit price) of tiers,
    (packages, price of one), or (share of the month, price) where it does not depend on the quantity.
    """

    kind: Literal["charge", "minimum", "correction", "credit"]
    product: str
    item: str
    description: str
    from_: date = msgspec.field(name="from")
    to: date
    quantity: Decimal
    unit: str
    basis: str
    price_version: Version
    price_model: str
    unit_price: Decimal | None
    parts: tuple[tuple[Decimal, Decimal], ...]
    discount_percent: Decimal
    completeness: Decimal
    tax_category: str
    tax_rate: Decimal
    amount: Decimal
    corrects: str | None = None
    credits_line: int | None = None

    @property
    def key(self) -> tuple[str, date, int]:
        """What is charged, with what it lacks of its minimum: the same in the issued document and whenever it is
        computed again."""
        return (self.item, self.from_, self.price_version)


class Tax(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The tax of one category and rate, on the sum of its lines."""

    category: str
    rate: Decimal
    taxable: Decimal
    amount: Decimal


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An invoice, or the credit note of one. Money has the currency's decimal places; net + tax = total.

    credits: the number of the invoice that a credit note is for; its amounts are negative. notes: paragraphs for its
    reader, such as the reason of a credit note.
    """

    schema: Literal["ninjait.invoice.v1"] = SCHEMA
    kind: Literal["invoice", "credit_note"] = "invoice"
    status: Literal["draft", "issued", "void"] = "draft"
    number: str | None = None
    issued_at: datetime | None = None
    due_on: date | None = None
    payment_terms: str | None = None
    credits: str | None = None
    notes: tuple[str, ...] = ()
    seller: Party | None = None
    agreement_id: str
    organization_id: str
    purchase_order: str | None
    bill_to: Party | None
    currency: str
    time_zone: str
    period_from: date
    period_to: date
    period_start: datetime
    period_end: datetime
    lines: tuple[Line, ...]
    tax: tuple[Tax, ...]
    net: Decimal
    tax_total: Decimal
    total: Decimal


class Issued(NamedTuple):
    """A document that was issued, and the agreement as it was then; None: as it is now.

    changed: whether its usage may have changed since. If it cannot have, its period is not computed again.
    """

    document: Document
    agreement: Agreement | None = None
    changed: bool = True


def draft(agreement: Agreement, usage: Usage, month: date, issued: Sequence[Issued] = ()) -> Document:
    """The document of an agreement's month (its first day).

    Items in arrears are charged for the month itself, those in advance for the next one (and, in the agreement's first
    month, for both). issued: the agreement's other documents, credit notes included, without those that are void. For
    each invoice of an earlier month, what its usage costs today, at the prices that were published when it was issued,
    less what was billed for it since, is a correction. Raises Refused.
    """
    measured = Measured(agreement, usage)
    lines = [line(agreement, charge) for charge in _due(measured, month)]
    lines += corrections(measured, month, issued)
    lines = sorted((one for one in lines if one.amount or one.kind == "charge"), key=_order)
    taxes = tax(lines, agreement.exponent)
    net, tax_total = sum_of(lines, agreement.exponent), sum_of(taxes, agreement.exponent)
    start, end = month_window(month, agreement.time_zone)
    return Document(
        agreement_id=agreement.id,
        organization_id=agreement.organization_id,
        purchase_order=agreement.purchase_order,
        bill_to=agreement.bill_to,
        currency=agreement.currency,
        time_zone=agreement.time_zone,
        period_from=month,
        period_to=next_month(month),
        period_start=start,
        period_end=end,
        lines=tuple(lines),
        tax=tuple(taxes),
        net=net,
        tax_total=tax_total,
        total=net + tax_total,
    )


def sum_of(parts: Iterable[Line | Tax], exponent: int) -> Decimal:
    """The sum of their amounts, with the currency's decimal places."""
    return sum((one.amount for one in parts), rounded(Fraction(0), exponent))


def _due(measured: Measured, month: date) -> Iterator[Charge]:
    """What a month's document charges, without corrections."""
    yield from _in_arrears(measured, month)
    yield from _in_advance(measured, month)


def _in_arrears(measured: Measured, month: date, known_at: datetime | None = None) -> Iterator[Charge]:
    return _of_products(measured, month, "arrears", known_at)


def _in_advance(measured: Measured, month: date, known_at: datetime | None = None) -> Iterator[Charge]:
    term = measured.agreement.term
    if term.from_ >= month:  # otherwise the document before has it
        yield from _of_products(measured, month, "advance", known_at)
    if term.from_ < next_month(month):  # otherwise the document of the first month will have it
        yield from _of_products(measured, next_month(month), "advance", known_at)


def _of_products(measured: Measured, period: date, billed: str, known_at: datetime | None) -> Iterator[Charge]:
    items = measured.agreement.items
    for product in sorted({item.product for item in items}):
        own = [item for item in items if item.product == product and item.billed == billed]
        yield from charges(measured, period, own, known_at)


def corrections(measured: Measured, month: date, issued: Collection[Issued]) -> Iterator[Line]:
    """What the periods of issued invoices cost by now, less what was billed for them: on a later document, once.

    Usage is charged under the agreement of then. Of what is billed in advance, the terms may have been changed since:
    there it is the agreement of now, at the prices of then.
    """
    agreement = measured.agreement
    of_each = {one.document: one for one in issued}
    documents = [*of_each]
    _check_issued(agreement, documents, month)
    for one in sorted(of_each.values(), key=lambda one: one.document.period_from):
        invoice = one.document
        if invoice.kind == "credit_note" or invoice.period_from >= month or not one.changed:
            continue
        then = Measured(one.agreement, measured.usage) if one.agreement else measured
        due = [
            *_in_arrears(then, invoice.period_from, invoice.issued_at),
            *_in_advance(measured, invoice.period_from, invoice.issued_at),
        ]
        yield from _differences(invoice, [line(agreement, charge) for charge in due], documents, agreement.exponent)


def _check_issued(agreement: Agreement, documents: Sequence[Document], month: date) -> None:
    for one in documents:
        if one.agreement_id != agreement.id:
            raise Refused(
                f"issued: a document is of agreement {one.agreement_id!r}, not {agreement.id!r}; leave it out"
            )
        if one.kind == "invoice" and one.period_from == month:
            raise Refused(f"issued: the document of {one.period_from} is not of a month before {month}")
        if one.currency != agreement.currency:
            raise Refused(f"issued: the document of {one.period_from} is in {one.currency}, not {agreement.currency}")
    invoices = sorted((one for one in documents if one.kind == "invoice"), key=lambda one: one.period_from)
    for one, other in pairwise(invoices):
        if one.period_from == other.period_from:
            raise Refused(f"issued: there are two documents of {one.period_from}; leave out the one that is void")
    names = [reference(one) for one in documents]
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"issued: {name!r} is the number of two documents")


def _differences(
    invoice: Document, now: Sequence[Line], documents: Sequence[Document], exponent: int
) -> Iterator[Line]:
    """By what is charged: what it costs now, less what was billed for it.

    What a credit note gave back is neither charged again nor given back a second time.
    """
    name = reference(invoice)
    in_order = [one for one in invoice.lines if one.kind != "correction"]
    in_order += [
        one for document in sorted(documents, key=_issue_order) for one in document.lines if one.corrects == name
    ]
    billed = [one for one in in_order if one.kind != "credit"]
    for key in sorted({one.key for one in (*now, *billed)}):
        now_of, billed_of, events = ([one for one in lines if one.key == key] for lines in (now, billed, in_order))
        amount = sum_of(now_of, exponent) - sum_of(billed_of, exponent)
        quantity = _quantity(now_of) - _quantity(billed_of)
        if len(events) > len(billed_of):
            amounts = ((one.kind == "credit", one.amount) for one in events)
            quantities = ((one.kind == "credit", one.quantity) for one in events)
            amount = _beyond_credits(amounts, sum_of(now_of, exponent))
            quantity = _beyond_credits(quantities, _quantity(now_of))
        if amount:
            taxed = (*billed_of, *now_of)[0]  # at the rate of then
            yield msgspec.structs.replace(
                (*now_of, *billed_of)[0],
                tax_category=taxed.tax_category,
                tax_rate=taxed.tax_rate,
                kind="correction",
                description=f"Correction of {name}: {(*now_of, *billed_of)[0].description}",
                quantity=quantity,
                parts=(),
                amount=amount,
                corrects=name,
            )


def _issue_order(document: Document) -> tuple[datetime, date]:
    return (document.issued_at or datetime.max.replace(tzinfo=UTC), document.period_from)


def _beyond_credits(events: Iterable[tuple[bool, Decimal]], now: Decimal) -> Decimal:
    """What is charged, or given back, where it is `now` by usage; events: what was billed and corrected, and (True)
    what was credited, which is negative, in the order of issue.

    A credit keeps `kept` of the `level` that was billed until then. Whatever usage says later, that much is owed of it
    and no more, besides what is beyond the level: so the order in which usage becomes known changes nothing.
    """
    kept = level = paid = Decimal(0)
    for is_credit, amount in events:
        if is_credit:
            level = paid if paid < kept else level + paid - kept
            kept = paid + amount
        paid += amount
    return min(now, kept) + max(Decimal(0), now - level) - paid


def _quantity(lines: Iterable[Line]) -> Decimal:
    return sum((one.quantity for one in lines), Decimal(0))


def reference(document: Document) -> str:
    """How a correction names what it corrects: by number, and by period where there is none."""
    return document.number or f"{document.period_from:%Y-%m}"


def line(agreement: Agreement, charge: Charge) -> Line:
    """A charge, rounded: the amount to the currency's smallest unit, half up; quantities to a millionth, for people."""
    item, version = charge.item, charge.version
    if charge.amount >= MAX_NUMBER:
        raise Refused(f"item {item.key!r} from {charge.first}: it costs {float(charge.amount):.3g}, not below 10^15")
    code: TaxCode = item.tax or agreement.tax
    tiered = version.model in ("graduated", "volume")
    in_parts = charge.kind == "charge" and version.model != "per_unit"
    return Line(
        kind=charge.kind,
        product=item.product,
        item=item.key,
        description=item.description or item.product,
        from_=charge.first,
        to=charge.end,
        quantity=plain(rounded(charge.quantity, QUANTITY_PLACES)),
        unit=UNITS[item.kind],
        basis=item.measured_by,
        price_version=version.version,
        price_model=version.model,
        unit_price=None if tiered or charge.kind == "minimum" else plain(version.amount or Decimal(0)),
        parts=tuple(
            (plain(rounded(quantity, QUANTITY_PLACES)), plain(price))
            for price, quantity in sorted(charge.parts.items())
        )
        if in_parts
        else (),
        discount_percent=plain(charge.discount),
        completeness=plain(rounded(charge.known, QUANTITY_PLACES)),
        tax_category=code.category,
        tax_rate=plain(code.rate),
        amount=rounded(charge.amount, agreement.exponent),
    )


def tax(lines: Iterable[Line], exponent: int) -> list[Tax]:
    """The tax of each category and rate, on the sum of its lines' amounts, rounded once (EN 16931, BR-CO-17)."""
    sums: dict[tuple[str, Decimal], Decimal] = {}
    for one in lines:
        code = (one.tax_category, one.tax_rate)
        sums[code] = sums.get(code, Decimal(0)) + one.amount
    return [
        Tax(category, rate, taxable, rounded(Fraction(taxable) * Fraction(rate) / 100, exponent))
        for (category, rate), taxable in sorted(sums.items())
    ]


def canonical(document: Document) -> bytes:
    """The document's bytes (RFC 8785); decimals are strings."""
    return rfc8785.dumps(msgspec.to_builtins(document))


def sha256(document: Document) -> str:
    """The hash of the canonical bytes, in hexadecimal."""
    return hashlib.sha256(canonical(document)).hexdigest()


def document(data: bytes) -> Document:
    """A document from its JSON. Raises Refused."""
    found: Document = decoded(data, Document, "the issued document")
    if found.period_from.day != 1 or not 1970 <= found.period_from.year < 3000:
        raise Refused(f"the issued document's period_from: {found.period_from}; it must be the first day of a month")
    if found.issued_at is not None and found.issued_at.tzinfo is None:
        raise Refused(
            f"the issued document's issued_at: {found.issued_at} has no time zone; end it with Z or an offset"
        )
    for one in found.lines:
        for name in ("quantity", "unit_price", "discount_percent", "completeness", "tax_rate", "amount"):
            value = getattr(one, name)
            if value is not None:
                check_number(f"the issued document's line {one.item!r}, {name}", value.copy_abs())
    return found


def _order(one: Line) -> tuple[Any, ...]:
    return (one.corrects or "", one.product, one.from_, one.item, one.kind)


def rounded(value: Fraction, places: int) -> Decimal:
    """Rounded half up, away from zero: a credit is the mirror of what it credits."""
    scaled = abs(value) * 10**places
    units = int(scaled) + (scaled - int(scaled) >= Fraction(1, 2))
    return Decimal(units if value >= 0 else -units).scaleb(-places)


def plain(value: Decimal) -> Decimal:
    """Without trailing zeros, and never in powers of ten."""
    text = f"{value:f}"
    return Decimal(text.rstrip("0").rstrip(".") if "." in text else text)
