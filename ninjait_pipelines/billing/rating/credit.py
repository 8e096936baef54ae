"""Credit notes: what of an issued invoice is given back, line by line, and never more than it billed."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction

import msgspec

from ninjait_pipelines.billing.rating.agreement import Refused, check_number
from ninjait_pipelines.billing.rating.document import (
    QUANTITY_PLACES,
    Document,
    Line,
    Tax,
    plain,
    rounded,
    sum_of,
    tax,
)


def credit_note(
    invoice: Document,
    before: Sequence[Document],
    reason: str,
    exponent: int,
    amounts: Mapping[int, Decimal | None] | None = None,
    later: Sequence[Document] = (),
) -> Document:
    """The draft of a credit note for an issued invoice.

    before: its credit notes so far, without those that are void; later: issued invoices, whose corrections may have
    given back a part of it already. amounts: line number (from 1) -> how much of its
    amount is given back, without tax; None, whatever is left of it. Without `amounts`, all that is left of the invoice.
    exponent: the currency's decimal places. Raises Refused.
    """
    if invoice.kind != "invoice" or invoice.number is None:
        raise Refused(f"{invoice.number}: it is a {invoice.kind}; only an issued invoice can be credited")
    left = {number: line.amount for number, line in enumerate(invoice.lines, 1)}
    for one in (line for document in before for line in document.lines):
        if one.credits_line is not None:
            left[one.credits_line] += one.amount  # which is negative
    _take_off_corrections(invoice, left, later, exponent)
    given = dict.fromkeys(left) if amounts is None else amounts
    given_back = {number: _wanted(number, left, wanted, exponent) for number, wanted in given.items()}
    lines = [_credit(invoice, number, amount) for number, amount in sorted(given_back.items()) if amount]
    if not lines:
        raise Refused(f"{invoice.number}: nothing is left to credit")
    taxes = [_at_most(one, invoice, before, lines) for one in tax(lines, exponent)]
    net, tax_total = sum_of(lines, exponent), sum_of(taxes, exponent)
    return msgspec.structs.replace(
        invoice,
        kind="credit_note",
        status="draft",
        number=None,
        issued_at=None,
        due_on=None,
        payment_terms=None,
        credits=invoice.number,
        notes=(reason,),
        lines=tuple(lines),
        tax=tuple(taxes),
        net=net,
        tax_total=tax_total,
        total=net + tax_total,
    )


def _take_off_corrections(
    invoice: Document, left: dict[int, Decimal], later: Sequence[Document], exponent: int
) -> None:
    """What later invoices gave back of a line is not left of it. What they charged is a line of theirs."""
    corrections = [
        line for one in later for line in one.lines if line.kind == "correction" and line.corrects == invoice.number
    ]
    for key in {line.key for line in corrections}:
        back = sum_of([line for line in corrections if line.key == key], exponent)
        for number, line in enumerate(invoice.lines, 1):
            if line.key == key and line.kind != "correction" and back < 0:
                taken = min(left[number], -back)
                left[number], back = left[number] - taken, back + taken


def _wanted(number: int, left: Mapping[int, Decimal], wanted: Decimal | None, exponent: int) -> Decimal:
    if number not in left:
        raise Refused(f"line {number}: there is none; the invoice has lines 1 to {len(left)}")
    if wanted is None:
        return left[number]
    check_number("amount", wanted)
    if rounded(Fraction(wanted), exponent) != wanted or not wanted:
        raise Refused(f"amount: {wanted}; it must be above 0, with at most {exponent} decimal places")
    if wanted > left[number]:
        raise Refused(f"amount: {wanted}; of line {number} only {max(left[number], Decimal(0))} is left to credit")
    return rounded(Fraction(wanted), exponent)


def _credit(invoice: Document, number: int, amount: Decimal) -> Line:
    line = invoice.lines[number - 1]
    share = Fraction(amount) / Fraction(line.amount)
    return msgspec.structs.replace(
        line,
        kind="credit",
        quantity=plain(rounded(-Fraction(line.quantity) * share, QUANTITY_PLACES)),
        parts=(),
        amount=-amount,
        corrects=line.corrects or invoice.number,
        credits_line=number,
    )


def _at_most(credit: Tax, invoice: Document, before: Sequence[Document], lines: Sequence[Line]) -> Tax:
    """Several credits, rounded each, could give back a cent more tax than there was, or less: the last one of a rate
    gives back what is left."""
    of_invoice = sum((one.amount for one in invoice.tax if _same(one, credit)), Decimal(0))
    so_far = sum((one.amount for document in before for one in document.tax if _same(one, credit)), Decimal(0))
    left = of_invoice + so_far
    billed = (line for document in (invoice, *before) for line in document.lines)
    net = sum((one.amount for one in (*billed, *lines) if _coded(one, credit)), Decimal(0))
    if not net:
        return msgspec.structs.replace(credit, amount=-left)
    amount = max(credit.amount, -left) if left >= 0 else min(credit.amount, -left)
    return msgspec.structs.replace(credit, amount=amount)


def _same(one: Tax, other: Tax) -> bool:
    return (one.category, one.rate) == (other.category, other.rate)


def _coded(line: Line, credit: Tax) -> bool:
    return (line.tax_category, line.tax_rate) == (credit.category, credit.rate)
