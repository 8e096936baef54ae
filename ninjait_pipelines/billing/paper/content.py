"""What stands on the paper of a document, as text in the reader's language: the same for HTML and for PDF.

How it is laid out is not decided here, but in `paper.html` and `paper.typ`. Every figure is one of the document's.
"""

import copy
import unicodedata
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext
from fractions import Fraction
from itertools import groupby
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_interval
from babel.numbers import NumberPattern, format_decimal, format_percent

from ninjait_pipelines.billing.paper.words import WORDS
from ninjait_pipelines.billing.rating.agreement import MAX_NUMBER, MAX_PLACES, Party, Refused
from ninjait_pipelines.billing.rating.document import Document, Line, Tax, rounded, sum_of

MAX_DIGITS = MAX_NUMBER.adjusted() + MAX_PLACES
_COLUMNS = ("line", "description", "days", "quantity", "unit_price", "tax_rate", "amount")
_TAX_COLUMNS = ("tax_category", "tax_rate", "taxable", "tax")
# They turn the order of what follows, so a name could turn the figures beside it.
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Block(msgspec.Struct, frozen=True):
    """A party, or a paragraph: a heading and lines."""

    heading: str
    lines: tuple[str, ...]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table: a `heading` above the lines of a product or a corrected document, with their sum, or a `line`
    (indented below such a heading). `factors` are quantity, unit and unit price; `small` is in small print."""

    style: Literal["heading", "line", "indented"]
    description: str
    amount: str
    number: str = ""
    small: str = ""
    days: str = ""
    factors: tuple[tuple[str, str, str], ...] = ()
    discount: str = ""
    tax: str = ""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """All text of a paper, in the order of reading."""

    language: str
    title: str
    number: str
    stamp: str
    parties: tuple[Block, ...]
    facts: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    tax_columns: tuple[str, ...]
    taxes: tuple[tuple[str, ...], ...]
    totals: tuple[tuple[str, str], ...]
    notes: tuple[Block, ...]
    page: tuple[str, ...]


def content(document: Document, locale: str = "en") -> Content:
    """The text of a document. locale: such as `de` or `de-CH`; raises Refused for one that is not known."""
    with localcontext(prec=2 * MAX_DIGITS):  # of the usual 28 digits a price may have more, and Babel would raise
        found = _Writer(document, _locale(locale)).content()
    return msgspec.convert(_clean(msgspec.to_builtins(found)), Content)


def _locale(name: str) -> Locale:
    try:
        return Locale.parse(name.replace("-", "_"))
    except (ValueError, UnknownLocaleError) as error:
        raise Refused(f"locale: {name!r} is not known; give a language such as en, de, ja or de-CH") from error


def _clean(value: Any) -> Any:
    """Without characters that are not text: controls become spaces, what turns the reading order goes."""
    if isinstance(value, str):
        kept = (one for one in value if one not in _DIRECTIONS)
        return "".join(" " if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") else one for one in kept)
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return {name: _clean(one) for name, one in value.items()} if isinstance(value, dict) else value


class Formats(NamedTuple):
    """Numbers and dates of a locale; money with the decimal places that ISO 4217 gives the currency."""

    locale: Locale
    currency: str
    places: int

    def amount(self, value: Decimal) -> str:
        """Money in a column: without the currency."""
        return self._padded(self.locale.decimal_formats[None], self.places).apply(value, self.locale)

    def price(self, value: Decimal) -> str:
        """At least the currency's places, and all that the price has."""
        return self._padded(self.locale.decimal_formats[None], MAX_PLACES).apply(value, self.locale)

    def money(self, value: Decimal) -> str:
        """Money with the currency's sign."""
        pattern = self._padded(self.locale.currency_formats["standard"], self.places)
        return pattern.apply(value, self.locale, currency=self.currency, currency_digits=False)

    def _padded(self, pattern: NumberPattern, max_places: int) -> NumberPattern:
        padded = copy.copy(pattern)
        padded.frac_prec = (self.places, max_places)
        return padded

    def number(self, value: Decimal) -> str:
        return format_decimal(value, locale=self.locale, decimal_quantization=False)

    def percent(self, value: Decimal) -> str:
        return format_percent(value / 100, locale=self.locale, decimal_quantization=False)

    def day(self, day: date) -> str:
        return format_date(day, "long", locale=self.locale)

    def days(self, start: date, end: date) -> str:
        """The days of [start, end), the last one included."""
        return format_interval(start, end - timedelta(days=1), "yMMMd", locale=self.locale)


def _section(line: Line) -> tuple[str, str]:
    """The document that it corrects, if it is a correction, else its product."""
    return (line.corrects or "", "") if line.kind == "correction" else ("", line.product)


def _incomplete(line: Line) -> bool:
    return line.completeness < 1 and line.kind != "credit"


def _name(lines: list[Line]) -> str:
    """What the lines of a product are called together."""
    return lines[0].description if len({one.description for one in lines}) == 1 else lines[0].product


class _Writer:
    def __init__(self, document: Document, locale: Locale) -> None:
        self.document = document
        self.language = locale.language if locale.language in WORDS else "en"
        self.words = WORDS[self.language]
        places = -int(document.total.as_tuple().exponent)
        self.formats = Formats(locale, document.currency, places)

    def content(self) -> Content:
        document, words = self.document, self.words
        return Content(
            language=self.language,
            title=words[document.kind],
            number=document.number or "",
            stamp=words.get(document.status, ""),
            parties=tuple(self._parties()),
            facts=tuple(self._facts()),
            columns=tuple(words[name] for name in _COLUMNS),
            rows=tuple(self._rows()) or (Row(style="line", description=words["nothing"], amount=""),),
            tax_columns=tuple(words[name] for name in _TAX_COLUMNS),
            taxes=tuple(self._tax(one) for one in document.tax),
            totals=tuple(self._totals()),
            notes=tuple(self._notes()),
            page=tuple(words["page"].split("{}")),
        )

    def _parties(self) -> Iterator[Block]:
        document, words = self.document, self.words
        yield self._party(words["from"], document.seller)
        payer = document.bill_to or Party(name=words["organization"].format(document.organization_id))
        yield self._party(words["bill_to"], payer)

    def _party(self, heading: str, party: Party | None) -> Block:
        if party is None:
            return Block(heading, ())
        tax_id = (self.words["tax_id"].format(party.tax_id),) if party.tax_id else ()
        return Block(heading, (party.name, *party.address, *tax_id))

    def _facts(self) -> Iterator[tuple[str, str]]:
        document, formats = self.document, self.formats
        zone = ZoneInfo(document.time_zone)
        facts = {
            "number": document.number,
            "date": document.issued_at and formats.day(document.issued_at.astimezone(zone).date()),
            "due": document.due_on and formats.day(document.due_on),
            "credits": document.credits,
            "period": formats.days(document.period_from, document.period_to),
            "time_zone": document.time_zone,
            "purchase_order": document.purchase_order,
            "agreement": document.agreement_id,
            "currency": document.currency,
        }
        return ((self.words[name], value) for name, value in facts.items() if value)

    def _rows(self) -> Iterator[Row]:
        """Lines by product; below them corrections, by the document that they correct."""
        for (corrected, _), group in groupby(enumerate(self.document.lines, 1), lambda one: _section(one[1])):
            lines = dict(group)
            if len(lines) == 1 and not corrected:
                yield from (self._row("line", number, line) for number, line in lines.items())
                continue
            heading = self.words["correction"].format(corrected) if corrected else _name([*lines.values()])
            total = sum_of(lines.values(), self.formats.places)
            yield Row(style="heading", description=heading, amount=self.formats.amount(total))
            for number, line in lines.items():
                row = self._row("indented", number, line)
                yield msgspec.structs.replace(row, description="") if row.description == heading else row

    def _row(self, style: Literal["line", "indented"], number: int, line: Line) -> Row:
        formats = self.formats
        rate = formats.percent(line.tax_rate)
        return Row(
            style=style,
            number=str(number),
            description=line.description.removeprefix(f"Correction of {_section(line)[0]}: "),
            small=" · ".join(self._small(line)),
            days=formats.days(line.from_, line.to),
            factors=tuple(self._factors(line)),
            discount=self.words["discount"].format(formats.percent(line.discount_percent))
            if line.discount_percent
            else "",
            tax=rate if line.tax_rate else f"{rate} ({line.tax_category})",
            amount=formats.amount(line.amount),
        )

    def _small(self, line: Line) -> Iterator[str]:
        if line.credits_line is not None:
            yield self.words["credits_line"].format(line.credits_line)
        if line.kind == "minimum":
            yield self.words["minimum"]
        elif line.basis:
            yield self.words.get(f"basis.{line.basis}", line.basis)
        yield self.words["price_version"].format(line.price_version)
        if _incomplete(line):
            share = (line.completeness * 100).quantize(Decimal("0.01"), ROUND_FLOOR)  # 99.996 % is not all
            yield self.words["known"].format(self.formats.percent(share))

    def _factors(self, line: Line) -> Iterator[tuple[str, str, str]]:
        """What was multiplied with which price. There is no price where it would not give the amount: in a correction
        of tiers, or a credit of packages."""
        if line.kind == "minimum":
            return
        if parts := [part for part in line.parts if part[0]]:
            unit = {"package": "packages", "flat": "months"}.get(line.price_model, line.unit)
            for quantity, price in parts:
                yield self.formats.number(quantity), self._unit(unit, quantity), self.formats.price(price)
            return
        shown = self.formats.price(line.unit_price) if line.unit_price is not None and self._multiplies(line) else ""
        yield self.formats.number(line.quantity), self._unit(line.unit, line.quantity), shown

    def _multiplies(self, line: Line) -> bool:
        exact = Fraction(line.quantity) * Fraction(line.unit_price or 0) * (1 - Fraction(line.discount_percent) / 100)
        return line.kind == "charge" or rounded(exact, self.formats.places) == line.amount

    def _unit(self, unit: str, quantity: Decimal) -> str:
        one = Locale(self.language).plural_form(abs(quantity)) == "one"
        return self.words.get(f"unit.{unit}.one" if one else "", self.words.get(f"unit.{unit}", unit))

    def _tax(self, tax: Tax) -> tuple[str, ...]:
        meaning = self.words[f"category.{tax.category}"]
        amounts = self.formats.amount(tax.taxable), self.formats.amount(tax.amount)
        return f"{tax.category}: {meaning}", self.formats.percent(tax.rate), *amounts

    def _totals(self) -> Iterator[tuple[str, str]]:
        document, words, money = self.document, self.words, self.formats.money
        yield words["net"], money(document.net)
        yield words["tax"], money(document.tax_total)
        outcome = "total" if document.status != "issued" else "credited" if document.total < 0 else "payable"
        yield words[outcome], money(document.total)

    def _notes(self) -> Iterator[Block]:
        document, words = self.document, self.words
        if document.status != "issued":
            yield Block("", (words[f"{document.status}_note"],))
        if any(_incomplete(one) for one in document.lines):
            yield Block("", (words["incomplete"],))
        if document.payment_terms:
            yield Block(words["terms"], (document.payment_terms,))
        if document.notes:
            yield Block("", document.notes)
