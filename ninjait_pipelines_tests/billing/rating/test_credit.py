"""Credit notes: never more than was billed, and what was given back is neither charged again nor given back twice."""

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import pytest

from ninjait_pipelines.billing.rating.agreement import Refused
from ninjait_pipelines.billing.rating.credit import credit_note
from ninjait_pipelines.billing.rating.document import Document
from ninjait_pipelines_tests.billing.rating.agreements import agreed, bill, devices, item

TAXED = {"tax": {"category": "S", "rate": "19"}}
MAY = {"from": "2026-05-01", "to": "2026-06-01"}


def issue(draft: Document, number: str) -> Document:
    return msgspec.structs.replace(draft, status="issued", number=number, issued_at=datetime(2026, 6, 4, tzinfo=UTC))


def credit(invoice: Document, *before: Document, **amounts: str | None) -> Document:
    """Amounts by line number, as _1="5.00"."""
    wanted = {int(name[1:]): None if amount is None else Decimal(amount) for name, amount in amounts.items()}
    return credit_note(invoice, before, "wrong", 2, wanted or None)


@pytest.fixture
def invoice() -> Document:
    """Ten devices at 5.00 and a fee of 100.00, at 19 %: 150.00 and 28.50."""
    terms = agreed(item("device", "5"), item("flat", "100"), **TAXED)
    return issue(bill(terms, "2026-05", devices=devices(10, **MAY)), "7")


def test_a_whole_invoice_is_mirrored(invoice: Document) -> None:
    found = credit(invoice)
    assert (found.kind, found.credits, found.notes) == ("credit_note", "7", ("wrong",))
    assert (found.net, found.tax_total, found.total) == (-invoice.net, -invoice.tax_total, -invoice.total)
    assert [line.amount for line in found.lines] == [-line.amount for line in invoice.lines]
    assert [line.quantity for line in found.lines] == [-line.quantity for line in invoice.lines]
    assert {(line.kind, line.corrects, line.tax_rate) for line in found.lines} == {("credit", "7", Decimal(19))}


def test_a_part_of_a_line_and_then_what_is_left(invoice: Document) -> None:
    """15.00 of 50.00 are 3 of 10 device-months; then the other 35.00, and the fee."""
    first = credit(invoice, _1="15.00")
    assert [(str(line.amount), str(line.quantity)) for line in first.lines] == [("-15.00", "-3")]
    assert (str(first.tax_total), str(first.total)) == ("-2.85", "-17.85")
    second = credit(invoice, first)
    assert [str(line.amount) for line in second.lines] == ["-35.00", "-100.00"]
    assert first.total + second.total == -invoice.total


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ({"_1": "50.01"}, "amount: 50.01; of line 1 only 50.00 is left"),
        ({"_3": "1"}, "line 3: there is none; the invoice has lines 1 to 2"),
        ({"_1": "0"}, "amount: 0; it must be above 0"),
        ({"_1": "-1"}, "amount: -1; it must be from 0"),
        ({"_1": "0.001"}, "amount: 0.001; it must be above 0, with at most 2 decimal places"),
    ],
)
def test_what_cannot_be_credited(invoice: Document, amounts: dict[str, str], message: str) -> None:
    with pytest.raises(Refused, match=message):
        credit(invoice, **amounts)


def test_nothing_is_credited_twice(invoice: Document) -> None:
    whole = issue(credit(invoice), "8")
    with pytest.raises(Refused, match="nothing is left"):
        credit(invoice, whole)
    with pytest.raises(Refused, match="only an issued invoice"):
        credit(whole)


def test_cents_of_tax_that_are_rounded_up_twice_are_given_back_once() -> None:
    """0.06 at 25 % is 0.015, rounded to 0.02. A third of it, 0.02, has 0.005, which is 0.01: three would be 0.03."""
    invoice = issue(bill(agreed(item("flat", "0.06"), tax={"category": "S", "rate": "25"}), "2026-05"), "1")
    assert str(invoice.tax_total) == "0.02"
    notes: list[Document] = []
    for number in range(3):
        notes.append(issue(credit(invoice, *notes, _1="0.02"), f"c{number}"))
    assert [str(one.tax_total) for one in notes] == ["-0.01", "-0.01", "0.00"]
    assert sum(one.total for one in notes) == -invoice.total


def test_a_gift_is_not_charged_again(invoice: Document) -> None:
    """10.00 were given back, and all ten devices still cost 5.00."""
    note = issue(credit(invoice, _1="10.00"), "8")
    terms = agreed(item("device", "5"), item("flat", "100"), **TAXED)
    june = bill(terms, "2026-06", invoice, note, devices=devices(10, **MAY))
    assert [line for line in june.lines if line.kind == "correction"] == []


@pytest.mark.parametrize(
    ("count", "amounts"), [(8, []), (7, ["-5.00"]), (11, ["5.00"])], ids=["as credited", "one less", "one late"]
)
def test_a_mistake_that_was_credited_is_not_given_back_again(invoice: Document, count: int, amounts: list[str]) -> None:
    """Two of ten devices were credited, and then their terms are corrected; or one more; or one comes late."""
    note = issue(credit(invoice, _1="10.00"), "8")
    terms = agreed(item("device", "5"), item("flat", "100"), **TAXED)
    usage = {"devices": devices(count, **MAY)}
    june = bill(terms, "2026-06", invoice, note, **usage)
    assert [str(line.amount) for line in june.lines if line.kind == "correction"] == amounts
    july = bill(terms, "2026-07", invoice, note, issue(june, "9"), **usage)
    assert [line for line in july.lines if line.kind == "correction"] == []


def test_a_corrected_line_that_is_credited_counts_for_its_own_period(invoice: Document) -> None:
    """May had one device too few; June charges it, and that is given back: it is not charged again."""
    terms = agreed(item("device", "5"), item("flat", "100"), **TAXED)
    usage = {"devices": devices(11, **MAY)}
    june = issue(bill(terms, "2026-06", invoice, **usage), "8")
    [number] = [number for number, line in enumerate(june.lines, 1) if line.kind == "correction"]
    note = issue(credit(june, **{f"_{number}": None}), "9")
    assert [(line.corrects, str(line.amount)) for line in note.lines] == [("7", "-5.00")]
    july = bill(terms, "2026-07", invoice, june, note, **usage)
    assert [line for line in july.lines if line.kind == "correction"] == []


def test_the_order_in_which_usage_becomes_known_changes_nothing() -> None:
    """June 120.00, 36.00 of it credited; then 5 devices were there, then 8: 84.00 are owed, as for 8 at once."""
    terms, held = agreed(item("device", "12")), {"from": "2026-06-01", "to": "2026-07-01"}
    june = issue(bill(terms, "2026-06", devices=devices(10, **held)), "1")
    before = [june, issue(credit(june, _1="36.00"), "2")]
    paid = june.net - Decimal("36.00")
    for number, (count, owed) in enumerate([(5, 60), (8, 84), (6, 72), (11, 96), (0, 0), (7, 84)], 3):
        month = f"2026-{number + 4:02}"
        found = issue(bill(terms, month, *before, devices=devices(count, **held)), str(number))
        before.append(found)
        paid += found.net
        assert paid == owed, count


def test_the_last_credit_of_a_rate_gives_back_what_is_left_of_its_tax() -> None:
    terms = agreed(*(item("flat", "0.02", product=f"fee {number}") for number in range(40)), **TAXED)
    invoice = issue(bill(terms, "2026-05"), "1")
    assert (invoice.net, invoice.tax_total) == (Decimal("0.80"), Decimal("0.15"))
    notes: list[Document] = []
    for number in range(1, 41):
        notes.append(issue(credit(invoice, *notes, **{f"_{number}": None}), f"c{number}"))
    assert sum(note.total for note in notes) == -invoice.total


def test_what_a_correction_gave_back_is_not_credited_again() -> None:
    """June 120.00, of which July's document gave back 60.00: a credit note of 120.00 gave back more than was paid."""
    terms, held = agreed(item("device", "12")), {"from": "2026-06-01", "to": "2026-07-01"}
    june = issue(bill(terms, "2026-06", devices=devices(10, **held)), "1")
    july = issue(bill(terms, "2026-07", june, devices=devices(5, **held)), "2")
    assert july.net == Decimal("-60.00")
    assert credit_note(june, [], "wrong", 2, later=[july]).net == Decimal("-60.00")
    with pytest.raises(Refused, match=r"only 60\.00 is left"):
        credit_note(june, [], "wrong", 2, {1: Decimal("60.01")}, [july])
