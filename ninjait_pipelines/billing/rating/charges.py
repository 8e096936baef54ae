"""What each product costs in a period, by item, price version and segment, as exact fractions.

Devices and volumes are levels: a day's level costs its share of the period, and is priced alone, so that cutting a
term in two changes nothing. Calls are a flow: they fill included units, tiers and packages in the order of their days.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, groupby
from typing import Literal, NamedTuple

from ninjait_pipelines.billing.local_time import DAY, next_month
from ninjait_pipelines.billing.rating.agreement import Agreement, Item, Price
from ninjait_pipelines.billing.rating.price import Part, price
from ninjait_pipelines.billing.rating.usage import (
    DeviceDays,
    Level,
    Usage,
    calls_by_day,
    device_days,
    eligible,
    hours_known,
    reported_days,
    volumes_by_day,
)


class Slot(NamedTuple):
    """Days [first, end) of an item at one price: `share` of the period at a level of `quantity` units, or, of calls,
    `quantity` of them."""

    item: Item
    version: Price
    discount: Decimal
    first: date
    end: date
    share: Fraction
    quantity: Fraction
    known: Fraction = Fraction(1)


class Charge(NamedTuple):
    """A segment of an item, days [first, end): how many unit-periods (or calls, or one-offs) are charged, and how many
    of them (or packages) at which price. `known` is the share of its time for which the usage is known; `short`, of a
    minimum, what it adds."""

    item: Item
    version: Price
    discount: Decimal
    first: date
    end: date
    quantity: Fraction
    parts: dict[Decimal, Fraction]
    known: Fraction = Fraction(1)
    kind: Literal["charge", "minimum"] = "charge"
    short: Fraction = Fraction(0)

    @property
    def amount(self) -> Fraction:
        """What it costs, less its discount: exact."""
        full = sum((quantity * Fraction(price) for price, quantity in self.parts.items()), Fraction(0))
        return full * (1 - Fraction(self.discount) / 100) + self.short


class Measured:
    """Usage as an agreement sees it: in its time zone, of its organization."""

    def __init__(self, agreement: Agreement, usage: Usage) -> None:
        self.agreement, self.usage, self.zone = agreement, usage, agreement.zone
        self.all_terms = device_days(usage, self.zone)
        mine = agreement.organization_id
        self.terms = [term for term in self.all_terms if (term.device.organization_id or mine) == mine]
        self.reported = reported_days(usage, self.zone)
        self.hours_known = hours_known(usage)

    def devices(self, item: Item) -> list[DeviceDays]:
        """The terms that the item counts."""
        return eligible(self.terms, item.filter)

    def device_levels(self, item: Item, days: Sequence[date]) -> dict[date, int]:
        """How many devices hold, or report where the basis says so, on each of some days, given in order. No two terms
        of a device overlap."""
        terms = self.devices(item)
        if item.measured_by == "reporting":
            counted: Counter[date] = Counter()
            for term in terms:
                heard = self.reported.get(term.device.device_id, ())
                whole = term.first <= days[0] and days[-1] < term.end
                counted.update(heard if whole else filter(term.holds, heard))
            return counted
        changes: Counter[date] = Counter()
        for term in terms:
            changes[max(term.first, days[0])] += 1
            changes[max(term.end, days[0])] -= 1
        span = [days[0] + number * DAY for number in range((days[-1] - days[0]).days + 1)]
        return dict(zip(span, accumulate(changes[day] for day in span), strict=True))

    def devices_of(self, item: Item, days: Sequence[date]) -> int:
        """How many devices count on any of some days."""
        reporting = item.measured_by == "reporting"
        return len(
            {
                term.device.device_id
                for term in self.devices(item)
                if any(
                    term.holds(day) and (not reporting or day in self.reported.get(term.device.device_id, ()))
                    for day in days
                )
            }
        )

    def volumes(self, item: Item, days: Sequence[date]) -> dict[date, Level]:
        of_storage = item.kind == "storage"
        measured = self.usage.storage if of_storage else self.usage.backup
        carried = timedelta(days=item.carried_forward_days)
        known = {
            one.day: one.level
            for one in (self.usage.storage_days if of_storage else self.usage.backup_days)
            if one.carried_forward_days == item.carried_forward_days
        }
        return volumes_by_day(measured, days, self.agreement.time_zone, carried) | known

    def calls(self, item: Item) -> dict[date, int]:
        return calls_by_day(self.usage, item, self.zone)


def segments(item: Item, term: tuple[date, date], month: date) -> list[date]:
    """The local days of a month on which an item holds; term: the agreement's."""
    first = max(item.from_, term[0], month)
    end = min(item.to or date.max, term[1], next_month(month))
    return [first + number * DAY for number in range(max(0, (end - first).days))]


def charges(measured: Measured, month: date, items: Sequence[Item], known_at: datetime | None) -> list[Charge]:
    """What the items of one product cost in a month (its first day), at prices published by `known_at`."""
    agreement = measured.agreement
    term = (agreement.term.from_, agreement.term.to or date.max)
    days = {item.key: segments(item, term, month) for item in items}
    items = sorted((item for item in items if days[item.key]), key=lambda item: item.from_)
    if not items:
        return []
    product_days = sorted(day for of in days.values() for day in of)
    slots: list[Slot] = []
    for item in items:
        slots += _slots(measured, month, item, days[item.key], product_days, slots, known_at)
    flow = items[0].kind == "api_calls"
    found = _charge_flow(_beyond_included_flow(slots)) if flow else _charge_levels(_beyond_included_levels(slots))
    shares = {item.key: sum((one.share for one in slots if one.item.key == item.key), Fraction(0)) for item in items}
    return _with_minimum_amounts(found, shares)


def day_amount(item: Item, day: date, level: Level, share: Fraction) -> Fraction:
    """What a day costs, taken alone, in the order of no other day: its share of the month at that level.

    The same as on a document, except that included units, the minimum and the tiers of calls count by the day: a month
    lets one day use what another one leaves.
    """
    slot = Slot(item, item.price_on(day, None), item.discount_on(day), day, day + DAY, share, level.quantity)
    flow = item.kind == "api_calls"
    charged = _charge_flow(_beyond_included_flow([slot])) if flow else _charge_levels(_beyond_included_levels([slot]))
    return sum((one.amount for one in _with_minimum_amounts(charged, {item.key: share})), Fraction(0))


def _slots(
    measured: Measured,
    month: date,
    item: Item,
    days: list[date],
    product_days: list[date],
    before: Sequence[Slot],
    known_at: datetime | None,
) -> list[Slot]:
    month_days = (next_month(month) - month).days

    def slot(first: date, end: date, share: Fraction, quantity: Fraction, known: Fraction = Fraction(1)) -> Slot:
        return Slot(item, item.price_on(first, known_at), item.discount_on(first), first, end, share, quantity, known)

    if item.kind == "one_off":
        at = item.from_
        return [slot(at, at + DAY, Fraction(1), Fraction(item.quantity))] if at in days else []
    if item.proration == "full":
        left = 1 - sum((one.share for one in before), Fraction(0))
        level = _whole_level(measured, item, product_days)
        return [slot(days[0], days[-1] + DAY, left, level)] if left > 0 else []
    levels = _levels(measured, item, days, product_days)
    return [slot(day, day + DAY, Fraction(1, month_days), *levels[day]) for day in days]


def _levels(measured: Measured, item: Item, days: Sequence[date], product_days: Sequence[date]) -> Mapping[date, Level]:
    """Each day's level, or calls."""
    if item.kind == "flat":
        return dict.fromkeys(days, Level(Fraction(item.quantity)))
    if item.kind == "api_calls":
        calls = measured.calls(item)
        return {day: Level(Fraction(calls.get(day, 0)), measured.hours_known.get(day, Fraction(1))) for day in days}
    if item.kind == "device":
        of = measured.device_levels(item, product_days)
        known = measured.hours_known if item.measured_by == "reporting" else {}
        found = {day: Level(Fraction(of[day]), known.get(day, Fraction(1))) for day in product_days}
    else:
        found = measured.volumes(item, product_days)
    if item.measured_by == "last_day":
        return dict.fromkeys(days, found[product_days[-1]])
    if item.measured_by == "peak":
        peak = max(level.quantity for level in found.values())
        return {day: Level(peak, found[day].known) for day in days}
    return {day: found[day] for day in days}


def _whole_level(measured: Measured, item: Item, product_days: Sequence[date]) -> Fraction:
    """The level that a whole period is charged for: every device that counts on any of its days."""
    if item.kind == "flat":
        return Fraction(item.quantity)
    if item.measured_by == "last_day":
        return Fraction(measured.devices_of(item, product_days[-1:]))
    if item.measured_by == "peak":
        levels = measured.device_levels(item, product_days)
        return Fraction(max(levels[day] for day in product_days))
    return Fraction(measured.devices_of(item, product_days))


def _beyond_included_levels(slots: Sequence[Slot]) -> list[Slot]:
    """What is charged of each level: first each day's included units are taken off, then what other days leave of
    theirs, in the order of the days."""
    unused = sum(
        (
            one.share * max(Fraction(0), Fraction(one.item.included) - one.quantity)
            for one in slots
            if one.item.included
        ),
        Fraction(0),
    )
    charged = []
    for one in slots:
        if not unused and not one.item.included and not one.item.minimum_quantity:
            charged.append(one)
            continue
        over = max(Fraction(0), one.quantity - Fraction(one.item.included))
        if unused:
            covered = min(over, unused / one.share)
            over, unused = over - covered, unused - covered * one.share
        charged.append(one._replace(quantity=max(over, Fraction(one.item.minimum_quantity))))
    return charged


def _beyond_included_flow(slots: Sequence[Slot]) -> list[Slot]:
    """What is charged of each day's calls: the period's included ones are the first."""
    pool = sum((one.share * Fraction(one.item.included) for one in slots), Fraction(0))
    charged = []
    for one in slots:
        covered = min(one.quantity, pool)
        pool -= covered
        charged.append(one._replace(quantity=one.quantity - covered))
    return [one for _, own in groupby(charged, key=lambda one: one.item) for one in _at_least(list(own))]


def _at_least(slots: list[Slot]) -> list[Slot]:
    """An item's calls, with what they lack of its minimum on the last day."""
    wanted = sum((one.share * Fraction(one.item.minimum_quantity) for one in slots), Fraction(0))
    short = max(Fraction(0), wanted - sum(one.quantity for one in slots))
    return [*slots[:-1], slots[-1]._replace(quantity=slots[-1].quantity + short)]


def _charge_levels(slots: Sequence[Slot]) -> list[Charge]:
    return _in_segments(
        _charge(one, one.quantity * one.share, price(one.version, one.quantity), one.share) for one in _runs(slots)
    )


def _runs(slots: Iterable[Slot]) -> Iterator[Slot]:
    """Neighbouring days of one item at one price and level, together: they are priced once."""
    for _, days in groupby(slots, lambda one: (one.item.key, one.version, one.discount, one.quantity, one.known)):
        first, *more = days
        yield first._replace(end=(more or [first])[-1].end, share=first.share * (1 + len(more)))


def _charge_flow(slots: Sequence[Slot]) -> list[Charge]:
    total = sum((one.quantity for one in slots), Fraction(0))
    charged, before = [], Fraction(0)
    for one in slots:
        scale = one.share if one.version.model == "flat" else Fraction(1)
        charged.append(_charge(one, one.quantity, price(one.version, one.quantity, before, total), scale))
        before += one.quantity
    return _in_segments(charged)


def _charge(slot: Slot, quantity: Fraction, parts: Iterable[Part], scale: Fraction) -> Charge:
    by_price: dict[Decimal, Fraction] = {}
    for part in parts:
        by_price[part.unit_price] = by_price.get(part.unit_price, Fraction(0)) + part.quantity * scale
    return Charge(slot.item, slot.version, slot.discount, slot.first, slot.end, quantity, by_price, slot.known)


def _in_segments(charged: Iterable[Charge]) -> list[Charge]:
    """Neighbouring days of one item at one price and discount, together."""
    found: list[Charge] = []
    for one in charged:
        last = found[-1] if found else None
        if last and (last.item, last.version, last.discount, last.end) == (
            one.item,
            one.version,
            one.discount,
            one.first,
        ):
            found[-1] = _together(last, one)
        else:
            found.append(one)
    return found


def _together(one: Charge, other: Charge) -> Charge:
    prices = {**one.parts, **other.parts}
    days, more = (one.end - one.first).days, (other.end - other.first).days
    return one._replace(
        end=other.end,
        quantity=one.quantity + other.quantity,
        parts={price: one.parts.get(price, Fraction(0)) + other.parts.get(price, Fraction(0)) for price in prices},
        known=(one.known * days + other.known * more) / (days + more),
    )


def _with_minimum_amounts(found: list[Charge], shares: Mapping[str, Fraction]) -> list[Charge]:
    """After an item's charges, what it lacks of its minimum."""
    missing = []
    for item in {one.item.key: one.item for one in found}.values():
        own = [one for one in found if one.item.key == item.key]
        short = Fraction(item.minimum_amount) * shares[item.key] - sum(one.amount for one in own)
        if short > 0:
            parts = {Decimal(0): Fraction(0)}
            missing.append(
                own[-1]._replace(kind="minimum", first=own[0].first, quantity=Fraction(0), parts=parts, short=short)
            )
    return found + missing
