"""Devices that are billed and silent, and devices that report and are not billed: days and money, by device."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from fractions import Fraction

import msgspec

from ninjait_pipelines.billing.local_time import next_month
from ninjait_pipelines.billing.rating.agreement import Agreement, Item
from ninjait_pipelines.billing.rating.charges import Measured, charges, segments
from ninjait_pipelines.billing.rating.document import rounded
from ninjait_pipelines.billing.rating.usage import Usage


class Finding(msgspec.Struct, frozen=True):
    """A device that a person should look at.

    silent_but_billed: it has a term and did not report on these days, which cost `amount`.
    retired_and_sending, reporting_unbilled: it reported on these days after its last term, or without any, or it is
    marked as not billable; they cost nothing.
    """

    finding: str
    device_id: str
    product: str | None
    days: int
    amount: Decimal


def reconciliation(agreement: Agreement, usage: Usage, month: date) -> list[Finding]:
    """What does not fit together in an agreement's month (its first day). Raises Refused."""
    measured = Measured(agreement, usage)
    found = [*_silent(measured, month), *_unbilled(measured, month)]
    return sorted(found, key=lambda one: (one.finding, one.device_id, one.product or ""))


def _silent(measured: Measured, month: date) -> Iterator[Finding]:
    """By item: what its silent device-days cost is what the month costs more than if only reporting devices counted,
    shared by days."""
    agreement = measured.agreement
    term = (agreement.term.from_, agreement.term.to or date.max)
    for item in agreement.items:
        if item.kind != "device" or item.measured_by != "registered":
            continue
        item_days = segments(item, term, month)
        days: dict[str, int] = {}
        for one in measured.devices(item):
            heard = measured.reported.get(one.device.device_id, set())
            silent = sum(one.holds(day) and day not in heard for day in item_days)
            days[one.device.device_id] = days.get(one.device.device_id, 0) + silent
        total = sum(days.values())
        cost = _cost(measured, item, month) - _cost(measured, msgspec.structs.replace(item, basis="reporting"), month)
        for device_id, silent in days.items():
            if silent:
                amount = rounded(cost * silent / total, agreement.exponent)
                yield Finding("silent_but_billed", device_id, item.product, silent, amount)


def _cost(measured: Measured, item: Item, month: date) -> Fraction:
    items = [item if one.key == item.key else one for one in measured.agreement.items if one.product == item.product]
    return sum((one.amount for one in charges(measured, month, items, None)), Fraction(0))


def _unbilled(measured: Measured, month: date) -> Iterator[Finding]:
    """Devices that report on days on which no billable term of theirs holds; of any organization, as one that moved
    away is not unbilled."""
    terms: dict[str, list[tuple[date, date]]] = {}
    for one in measured.all_terms:
        own = terms.setdefault(one.device.device_id, [])
        own += [(one.first, one.end)] if one.device.billable else []
    zero = rounded(Fraction(0), measured.agreement.exponent)
    for device_id, heard in measured.reported.items():
        own = terms.get(device_id, [])
        days = [day for day in heard if month <= day < next_month(month) and not any(a <= day < b for a, b in own)]
        if days:
            retired = any(end <= min(days) for _, end in own)
            finding = "retired_and_sending" if retired else "reporting_unbilled"
            yield Finding(finding, device_id, None, len(days), zero)
