"""What a quantity costs under a price version: exact fractions, rounded nowhere."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from ninjait_pipelines.billing.rating.agreement import Price


class Part(NamedTuple):
    """Units, or packages, at one price each."""

    quantity: Fraction
    unit_price: Decimal

    @property
    def amount(self) -> Fraction:
        return self.quantity * Fraction(self.unit_price)


def price(
    version: Price, quantity: Fraction, before: Fraction = Fraction(0), total: Fraction | None = None
) -> list[Part]:
    """The parts of what `quantity` units cost.

    before: units of the period that were charged already, which fill the first tiers and packages. total: units of the
    whole period, which decide the tier of all of them under `volume`; by default, these alone.
    """
    if version.model == "graduated":
        return list(_graduated(version, before, before + quantity))
    if version.model == "volume":
        return [Part(quantity, _tier_of(version, before + quantity if total is None else total))]
    amount = version.amount or Decimal(0)
    if version.model == "flat":
        return [Part(Fraction(1), amount)]
    if version.model == "package":
        size = Fraction(version.size or 1)
        return [Part(Fraction(ceil((before + quantity) / size) - ceil(before / size)), amount)]
    return [Part(quantity, amount)]


def _graduated(version: Price, start: Fraction, end: Fraction) -> Iterator[Part]:
    floor = Fraction(0)
    for tier in version.tiers:
        ceiling = end if tier.up_to is None else Fraction(tier.up_to)
        if (within := min(end, ceiling) - max(start, floor)) > 0:
            yield Part(within, tier.price)
        floor = ceiling


def _tier_of(version: Price, quantity: Fraction) -> Decimal:
    return next(tier.price for tier in version.tiers if tier.up_to is None or quantity <= Fraction(tier.up_to))
