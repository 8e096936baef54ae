"""What stands on a document's paper: every figure of the document, in the reader's format."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec
import pytest
from babel import Locale

from ninjait_pipelines.billing.paper.content import Content, Formats, Row, content
from ninjait_pipelines.billing.rating.agreement import Refused
from ninjait_pipelines.billing.rating.document import Document
from ninjait_pipelines_tests.billing.paper.papers import (
    HOSTILE,
    correction,
    credit,
    hostile,
    incomplete,
    invoice,
    issued,
    japanese,
    product,
    right_to_left,
)
from ninjait_pipelines_tests.billing.rating.agreements import agreed, bill, devices


def facts(document: Document, locale: str = "en") -> dict[str, str]:
    return dict(content(document, locale).facts)


def rows(found: Content, description: str) -> list[Row]:
    return [row for row in found.rows if row.description == description]


def test_an_invoice_names_its_parties_and_dates() -> None:
    """Issued on 4 July at 00:30 in Berlin, which was 3 July in UTC; June's last day is the 30th."""
    assert facts(invoice()) == {
        "Number": "R-2026-042",
        "Date": "July 4, 2026",
        "Due date": "July 18, 2026",
        "Billing period": "Jun 1\u2009–\u200930, 2026",
        "Time zone": "Europe/Berlin",
        "Purchase order": "PO 4500",
        "Agreement": "A-17",
        "Currency": "EUR",
    }
    seller, payer = content(invoice()).parties
    assert seller.lines == ("Nordlicht IT GmbH", "Speicherstraße 12", "20457 Hamburg", "Tax ID: DE811907980")
    assert payer.lines == ("Acme GmbH", "Industrieweg 7", "70565 Stuttgart", "Tax ID: DE136695976")


def test_without_a_bill_to_the_organization_is_named() -> None:
    assert content(correction()).parties[1].lines == ("Organization acme",)


def test_what_is_multiplied_stands_beside_its_price() -> None:
    found = content(invoice())
    (calls,), (storage,), (clients,) = (rows(found, name) for name in ("API calls", "Storage", "Clients"))
    assert calls.factors == (("7", "packages", "2.00"),)
    assert storage.factors == (("100,000", "GB-months", "0.00045"),)
    assert storage.discount == "less 12.5%"
    assert storage.amount == "39.38", "100,000 x 0.00045, less an eighth"
    assert clients.factors == (("30", "device-months", "4.00"), ("100", "device-months", "5.00"))


def test_lines_of_one_product_stand_below_their_sum() -> None:
    found = content(invoice())
    (heading,) = rows(found, "Servers")
    below = [row for row in found.rows if row.style == "indented"]
    assert (heading.style, heading.amount) == ("heading", "93.00")
    assert [(row.days, row.factors, row.amount) for row in below] == [
        ("Jun 1\u2009–\u200915, 2026", (("1.5", "device-months", "30.00"),), "45.00"),
        ("Jun 16\u2009–\u200930, 2026", (("1.5", "device-months", "32.00"),), "48.00"),
    ]


def test_lines_have_the_document_s_numbers() -> None:
    numbers = [row.number for row in content(invoice()).rows if row.style != "heading"]
    assert numbers == [str(number) for number in range(1, len(invoice().lines) + 1)]


def test_products_whose_lines_differ_are_named_by_the_product() -> None:
    first, second = product("p", "flat", "Old plan", "1", to="2026-06-16"), product("p", "flat", "New plan", "2")
    found = content(bill(agreed(first, {**second, "from": "2026-06-16"}), "2026-06"))
    assert [row.description for row in found.rows] == ["p", "Old plan", "New plan"]


def test_a_correction_names_what_it_corrects() -> None:
    """Its days are those of May; tax at the rate of then."""
    heading, line = content(correction()).rows
    assert (heading.style, heading.description, heading.amount) == ("heading", "Correction of R-2026-031", "5.00")
    assert (line.description, line.days, line.tax) == ("Devices", "May 1\u2009–\u200931, 2026", "0% (AE)")
    assert line.factors == (("1", "device-month", "5.00"),)


def test_a_price_that_does_not_give_the_amount_is_left_out() -> None:
    """One device at 31.00, 50.00 at least; then two: 12.00 more, which is not 1 x 31.00."""
    terms = agreed(product("d", "device", "Devices", "31", minimum_amount="50", to="2026-04-01"))
    march = issued(bill(terms, "2026-03", devices=devices(1)))
    assert [row.small for row in content(march).rows if row.amount == "19.00"] == [
        "Difference to the agreed minimum · price version\xa01"
    ]
    line = content(bill(terms, "2026-04", march, devices=devices(2))).rows[1]
    assert (line.factors, line.amount) == ((("1", "device-month", ""),), "12.00")


def test_a_credit_note_says_which_lines_it_credits() -> None:
    found = content(credit())
    assert (found.title, facts(credit())["Credits invoice"]) == ("Credit note", "R-2026-042")
    assert [row.small.split(" · ")[0] for row in found.rows if row.number][:2] == [
        "line 1 of the invoice",
        "line 2 of the invoice",
    ]
    assert found.totals[-1] == ("Amount credited", f"-€{-credit().total:,}")
    assert found.notes[-1].lines == ("Goodwill",)


def test_missing_usage_is_marked_and_explained() -> None:
    found = content(incomplete())
    assert "23.33% of the usage is known *" in found.rows[0].small, "7 days of 30"
    assert any(note.lines[0].startswith("* Usage of some of these days") for note in found.notes)
    assert not any("known" in row.small for row in content(invoice()).rows)


def test_nearly_all_is_not_all() -> None:
    (line,) = incomplete().lines
    nearly = msgspec.structs.replace(line, completeness=Decimal("0.999999"))
    found = content(msgspec.structs.replace(incomplete(), lines=(nearly,)))
    assert "99.99% of the usage is known *" in found.rows[0].small


@pytest.mark.parametrize(
    ("category", "reason"),
    [
        ("AE", "AE: Reverse charge: the customer owes the tax"),
        ("E", "E: Exempt from tax"),
        ("O", "O: Not subject to tax"),
    ],
)
def test_no_tax_has_a_reason(category: str, reason: str) -> None:
    found = content(bill(agreed(product("f", "flat", "Fee", "10"), tax={"category": category}), "2026-06"))
    assert found.taxes == ((reason, "0%", "10.00", "0.00"),)


def test_taxes_are_listed_by_category_and_rate() -> None:
    reduced = {"tax": {"category": "S", "rate": "7"}}
    terms = agreed(
        product("a", "flat", "A", "10"), product("b", "flat", "B", "20", **reduced), tax={"category": "S", "rate": "19"}
    )
    assert [tax[1:] for tax in content(bill(terms, "2026-06")).taxes] == [
        ("7%", "20.00", "1.40"),
        ("19%", "10.00", "1.90"),
    ]


@pytest.mark.parametrize(
    ("document", "locale", "amount", "total"),
    [
        (japanese, "ja", "10,500", "￥11,550"),
        (japanese, "de", "10.500", "11.550\xa0¥"),
        (right_to_left, "en", "27.625", "KWD27.625"),
        (right_to_left, "fr", "27,625", "27,625\xa0KWD"),
    ],
)
def test_amounts_have_the_currency_s_places(
    document: Callable[[], Document], locale: str, amount: str, total: str
) -> None:
    """None in yen, three in dinars: ISO 4217's, whatever the locale."""
    found = content(document(), locale)
    assert (found.rows[0].amount, found.totals[-1][1]) == (amount, total)


@pytest.mark.parametrize(
    ("locale", "price", "day", "days"),
    [
        ("en", "1,234.00045", "June 15, 2026", "Dec 15, 2026\u2009–\u2009Jan 14, 2027"),
        ("de", "1.234,00045", "15. Juni 2026", "15. Dez. 2026\u2009–\u200914. Jan. 2027"),
        ("de-CH", "1'234.00045", "15. Juni 2026", "15. Dez. 2026\u2009–\u200914. Jan. 2027"),
        ("ja", "1,234.00045", "2026年6月15日", "2026年12月15日～2027年1月14日"),
    ],
)
def test_numbers_and_dates_are_the_reader_s(locale: str, price: str, day: str, days: str) -> None:
    formats = Formats(Locale.parse(locale, sep="-"), "EUR", 2)
    assert formats.price(Decimal("1234.00045")) == price
    assert formats.price(Decimal(7)) == ("7,00" if locale == "de" else "7.00"), "the currency's places at least"
    assert formats.day(date(2026, 6, 15)) == day
    assert formats.days(date(2026, 12, 15), date(2027, 1, 15)) == days


def test_figures_of_any_size_keep_every_digit() -> None:
    """33 digits: with Python's usual 28 Babel raised InvalidOperation, and there was no paper."""
    price = "123456789012345.123456789012345678"
    (row,) = content(bill(agreed(product("f", "flat", "Fee", price)), "2026-06")).rows
    assert (row.factors[0][2], row.amount) == ("123,456,789,012,345.123456789012345678", "123,456,789,012,345.12")


def test_a_language_without_words_has_the_english_ones() -> None:
    found = content(invoice(), "fr")
    assert (found.language, found.title) == ("en", "Invoice")
    assert dict(found.facts)["Date"] == "4 juillet 2026"
    assert found.rows[4].factors == (("1,5", "device-months", "30,00"),), "an English plural; in French 1.5 is singular"


@pytest.mark.parametrize("locale", ["", "xx", "english", "../de", "d\x00"])
def test_an_unknown_locale_is_refused(locale: str) -> None:
    with pytest.raises(Refused, match="locale"):
        content(invoice(), locale)


@pytest.mark.parametrize(
    ("change", "stamp", "outcome"),
    [({"status": "draft"}, "DRAFT", "Total"), ({"status": "void"}, "VOID", "Total"), ({}, "", "Amount due")],
)
def test_a_draft_and_a_void_document_say_so(change: dict[str, str], stamp: str, outcome: str) -> None:
    found = content(msgspec.structs.replace(invoice(), **change))
    assert (found.stamp, found.totals[-1][0]) == (stamp, outcome)
    assert any(stamp.casefold() in note.lines[0] for note in found.notes)


def test_a_document_without_lines_says_so() -> None:
    found = content(msgspec.structs.replace(invoice(), lines=()))
    assert [row.description for row in found.rows] == ["Nothing was used or agreed in this period."]


def test_text_has_no_controls_and_turns_no_reading_order() -> None:
    text = msgspec.json.encode(content(hostile())).decode()
    assert "drow" in text, "what was turned reads as it was written"
    assert [one for one in text if one in "\u202e\u2066\u2028" or ord(one) < 32] == []
    assert [one for one in HOSTILE if one in "\u202e\u2066\u2028" or ord(one) < 32] != []


def test_the_date_is_that_of_the_agreement_s_zone() -> None:
    at = datetime(2026, 6, 30, 15, 30, tzinfo=UTC)
    assert facts(msgspec.structs.replace(japanese(), issued_at=at))["Date"] == "July 1, 2026"
