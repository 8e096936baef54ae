"""Devices that are billed and silent, that report and are not billed, or that are billed twice: days and money.

Pure: what an organization agreed and used is given. Nothing here changes an amount of a document.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import msgspec

from ninjait_pipelines.billing.local_time import DAY, day_window, next_month
from ninjait_pipelines.billing.rating.agreement import DATE, Agreement, Item
from ninjait_pipelines.billing.rating.charges import Measured, charges, segments
from ninjait_pipelines.billing.rating.document import rounded
from ninjait_pipelines.billing.rating.usage import DeviceDays, Usage, eligible


class Finding(msgspec.Struct, frozen=True):
    """A device, or without one a product, that a person should look at.

    silent_but_billed: it is billed for these days, on which it did not report; of basis last_day or peak: it reported
    on no day of the month. deactivated_but_billed: days after its organization was deactivated. billed_twice: days on
    which another agreement of the organization bills the same product for it. These days cost `amount`.
    retired_and_sending, reporting_unbilled: it reported on these days after its last term, or without a billable term,
    or no item counts it; they cost nothing.
    """

    finding: str
    device_id: str | None
    product: str | None
    days: int
    amount: Decimal


class Found(NamedTuple):
    """A finding, and the agreement that it is about."""

    agreement: Agreement
    finding: Finding


def reconciliation(agreement: Agreement, usage: Usage, month: date) -> list[Finding]:
    """What does not fit together in an agreement's month (its first day). Raises Refused."""
    return [one.finding for one in of_organization([(agreement, usage)], month)]


def of_organization(
    agreed: Sequence[tuple[Agreement, Usage]], month: date, deactivated_at: datetime | None = None
) -> list[Found]:
    """What does not fit together in a month of all agreements of one organization. Raises Refused."""
    measured = [Measured(*one) for one in sorted(agreed, key=lambda one: one[0].id)]
    found: list[Found] = []
    for one in measured:
        findings = [*_silent(one, month), *_deactivated(one, month, deactivated_at), *_twice(one, measured, month)]
        found += [Found(one.agreement, finding) for finding in findings]
    if measured:  # what no agreement bills is named once, under one that bills devices if there is one
        first = min(measured, key=lambda one: not _device_items(one.agreement))
        found += [Found(first.agreement, finding) for finding in _unbilled(first, measured, month)]
    return sorted(found, key=_order)


def _order(one: Found) -> tuple[str, str, str, str]:
    return (one.finding.finding, one.finding.device_id or "", one.finding.product or "", one.agreement.id)


def _device_items(agreement: Agreement) -> list[Item]:
    return [item for item in agreement.items if item.kind == "device"]


def _days(agreement: Agreement, item: Item, month: date) -> list[date]:
    return segments(item, (agreement.term.from_, agreement.term.to or date.max), month)


def _silent(measured: Measured, month: date) -> Iterator[Finding]:
    measured = _without_unknown(measured)
    for item in _device_items(measured.agreement):
        if item.measured_by == "registered":
            yield from _silent_days(measured, item, month)
        elif item.measured_by in ("last_day", "peak"):
            yield from _never_heard(measured, item, month)


def _without_unknown(measured: Measured) -> Measured:
    """As if all devices had reported on days that are not known whole, such as those to come: none is silent then."""
    unknown = {day for day, share in measured.hours_known.items() if share < 1}
    if not unknown:
        return measured
    found = copy(measured)
    found.reported = {
        term.device.device_id: measured.reported.get(term.device.device_id, set()) | unknown for term in measured.terms
    }
    return found


def _silent_days(measured: Measured, item: Item, month: date) -> Iterator[Finding]:
    """The silent device-days of an item cost what the month costs more than if only reporting devices counted."""
    days = _device_days(measured, item, _days(measured.agreement, item, month), heard=False)
    if days:
        cost = _cost(measured, item, month) - _cost(measured, _with_basis(item, "reporting"), month)
        yield from _shared("silent_but_billed", measured.agreement, item, days, cost)


def _never_heard(measured: Measured, item: Item, month: date) -> Iterator[Finding]:
    """Devices that count as of one day, and were heard of on no day of the month."""
    all_days = _days(measured.agreement, item, month)
    heard = {device_id for device_id, reported in measured.reported.items() if reported & set(all_days)}
    counted = _device_days(measured, item, all_days)
    days = {device_id: count for device_id, count in counted.items() if device_id not in heard}
    if days:
        others = tuple(one for one in measured.usage.devices if one.device_id not in days)
        without = Measured(measured.agreement, msgspec.structs.replace(measured.usage, devices=others))
        cost = _cost(measured, item, month) - _cost(without, item, month)
        yield from _shared("silent_but_billed", measured.agreement, item, days, cost)


def _deactivated(measured: Measured, month: date, at: datetime | None) -> Iterator[Finding]:
    """What the days after an organization was deactivated cost, by product; that of devices by device."""
    agreement = measured.agreement
    if at is None or (end := _day_after(at, measured)) >= min(agreement.term.to or date.max, next_month(month)):
        return
    stopped = _ended(measured, end)
    for item in agreement.items:
        after = [day for day in _days(agreement, item, month) if day >= end]
        if not after or item.kind == "one_off":
            continue
        cost = _cost(measured, item, month, alone=True)
        cost -= _cost(stopped, item, month, alone=True) if stopped else 0
        heard = True if item.measured_by == "reporting" else None
        days: dict[str | None, int] = {None: len(after)}
        if item.kind == "device":
            days = _device_days(measured, item, after, heard)
        yield from _shared("deactivated_but_billed", agreement, item, days, cost)


def _ended(measured: Measured, end: date) -> Measured | None:
    """The agreement as if it had ended on a day; None where it had not begun by then."""
    agreement = measured.agreement
    if end <= agreement.term.from_:
        return None
    term = msgspec.structs.replace(agreement.term, to=end)
    return Measured(msgspec.structs.replace(agreement, term=term), measured.usage)


def _twice(measured: Measured, others: Sequence[Measured], month: date) -> Iterator[Finding]:
    """Devices that another agreement of the organization bills for the same product on the same days."""
    for item in _device_items(measured.agreement):
        elsewhere: set[tuple[str, date]] = set()
        for other in others:
            same = [one for one in _device_items(other.agreement) if one.product == item.product]
            elsewhere |= {key for one in same if other is not measured for key in _billed_days(other, one, month)}
        if not elsewhere:
            continue
        own = _billed_days(measured, item, month)
        shared: dict[str | None, int] = Counter(device_id for device_id, _ in own & elsewhere)
        if shared:
            cost = _cost(measured, item, month, alone=True) * sum(shared.values()) / len(own)
            yield from _shared("billed_twice", measured.agreement, item, shared, cost)


def _billed_days(measured: Measured, item: Item, month: date) -> set[tuple[str, date]]:
    days = _days(measured.agreement, item, month)
    heard = item.measured_by == "reporting"
    return {
        (one.device.device_id, day)
        for one in measured.devices(item)
        for day in days
        if one.holds(day) and (not heard or day in measured.reported.get(one.device.device_id, ()))
    }


def _device_days(
    measured: Measured, item: Item, days: Sequence[date], heard: bool | None = None
) -> dict[str | None, int]:
    """Device -> on how many of the days it counts; heard: only days on which it was, or was not, heard of."""
    found: dict[str | None, int] = defaultdict(int)
    for one in measured.devices(item):
        reported = measured.reported.get(one.device.device_id, set())
        count = sum(one.holds(day) and (heard is None or heard == (day in reported)) for day in days)
        if count:
            found[one.device.device_id] += count
    return found


def _shared(
    finding: str, agreement: Agreement, item: Item, days: Mapping[str | None, int], cost: Fraction
) -> Iterator[Finding]:
    """A finding per device, with its share of the cost by days."""
    total = sum(days.values())
    for device_id, count in days.items():
        yield Finding(finding, device_id, item.product, count, rounded(cost * count / total, agreement.exponent))


def _with_basis(item: Item, basis: str) -> Item:
    return msgspec.structs.replace(item, basis=basis)


def _cost(measured: Measured, item: Item, month: date, alone: bool = False) -> Fraction:
    """What the items of a product cost in the month, with this one among them as it is given; alone: what it costs."""
    own = [one for one in measured.agreement.items if one.product == item.product]
    items = [item if one.key == item.key else one for one in own]
    found = charges(measured, month, items, None)
    return sum((one.amount for one in found if not alone or one.item.key == item.key), Fraction(0))


def _unbilled(first: Measured, measured: Sequence[Measured], month: date) -> Iterator[Finding]:
    """Devices that report on days for which no item of any agreement counts them. One that moved to another
    organization is billed there; on the day on which it was retired it may still report."""
    explained: dict[str, list[tuple[date, date]]] = defaultdict(list)
    ends: dict[str, list[date]] = defaultdict(list)
    for term in first.all_terms:
        if term.device.billable:
            whole = term._replace(end=_last_day_end(term, first))
            ends[term.device.device_id].append(whole.end)
            explained[term.device.device_id] += _explained(whole, first, measured)
    end, zero = next_month(month), rounded(Fraction(0), first.agreement.exponent)
    for device_id, heard in first.reported.items():
        spans = explained[device_id]
        days = [day for day in heard if month <= day < end and not any(a <= day < b for a, b in spans)]
        if days:
            retired = any(last <= min(days) for last in ends[device_id])
            finding = "retired_and_sending" if retired else "reporting_unbilled"
            yield Finding(finding, device_id, None, len(days), zero)


def _explained(term: DeviceDays, first: Measured, measured: Sequence[Measured]) -> Iterator[tuple[date, date]]:
    """The days of a term on which reports are right: it is another organization's, or an item counts it, or no item of
    any agreement counts devices."""
    counted = [(one.agreement, item) for one in measured for item in _device_items(one.agreement)]
    mine = first.agreement.organization_id
    if (term.device.organization_id or mine) != mine or not counted:
        yield term.first, term.end
        return
    for agreement, item in counted:
        if eligible([term], item.filter):
            ends = [day for day in (term.end, item.to, agreement.term.to) if day is not None]
            yield max(term.first, item.from_, agreement.term.from_), min(ends)


def _last_day_end(term: DeviceDays, measured: Measured) -> date:
    """The day after the last one on which the term holds at any time; as a device-day that one may be another's."""
    to = term.device.to
    return term.end if to is None or DATE.fullmatch(to) else _day_after(datetime.fromisoformat(to), measured)


def _day_after(at: datetime, measured: Measured) -> date:
    """The first local day that lies wholly after an instant, or begins with it."""
    day = at.astimezone(measured.zone).date()
    start, _ = day_window(day, measured.agreement.time_zone)
    return day if at <= start else day + DAY
