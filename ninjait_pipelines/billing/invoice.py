"""What a month under a contract costs: pure, Decimal from end to end, no store, no clock.

Every line is price * a / b. It is divided once, with 50 digits, and rounded once, half up: the amount to a cent from
the undivided a and b, not from the rounded quantity beside it.
"""

from collections.abc import Mapping
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import NamedTuple
from uuid import UUID, uuid5

from ninjait_pipelines.billing.local_time import month_window, next_month

CENT = Decimal("0.01")
MILLIONTH = Decimal("0.000001")
# Decimal places of a day's share of its month, and of a day's cost, which ClickHouse sums in Decimal(38, 24).
PLACES = 18
WHOLE = 10**PLACES
COST_PLACES = Decimal(1).scaleb(-24)
COST_LIMIT = Decimal(10) ** 13
# The unit of a day's quantity in billing_quantities.
KINDS = {"devices": "device-days", "storage": "GB", "backup": "GB", "api_calls": "calls"}


class Contract(NamedTuple):
    """A contract in force on the local days [starts_on, ends_on), with the prices of its plan version."""

    id: UUID
    organization_id: UUID
    time_zone: str
    starts_on: date
    ends_on: date | None
    price_plan_id: UUID
    price_plan_version: int
    currency: str
    base_fee: Decimal
    device_month_price: Decimal
    storage_gb_month_price: Decimal
    backup_gb_month_price: Decimal
    api_calls_included: int
    api_calls_thousand_price: Decimal


class Line(NamedTuple):
    """One line; `quantity` is rounded to a millionth for people, `amount` to a cent."""

    kind: str
    description: str
    quantity: Decimal
    unit: str
    unit_price: Decimal
    amount: Decimal


class Invoice(NamedTuple):
    """A contract's local month. Period and days as sql/postgres/0003_billing.sql has them."""

    id: UUID
    organization_id: UUID
    contract_id: UUID
    price_plan_id: UUID
    price_plan_version: int
    period_starts_on: date
    period_ends_on: date
    period_start: datetime
    period_end: datetime
    status: str
    currency: str
    total: Decimal
    days_covered: int
    days_in_period: int
    lines: tuple[Line, ...]


def term_within(contract: Contract, month: date) -> tuple[date, date]:
    """The local days [first, end) of the month on which the contract is in force; month: its first day."""
    end = next_month(month)
    return max(contract.starts_on, month), min(contract.ends_on or end, end)


def invoice(contract: Contract, month: date, usage: Mapping[str, Decimal], days_covered: int) -> Invoice:
    """The draft of a contract's month.

    usage: sum of billing_quantities.quantity over the days in force, by kind (see KINDS); a kind without events is 0.
    The id is a UUIDv5 of contract and month, so the same invoice has the same id in every run.
    """
    first, end = term_within(contract, month)
    start, stop = month_window(month, contract.time_zone)
    days = (end - first).days
    lines = lines_of(contract, days, (next_month(month) - month).days, usage)
    return Invoice(
        id=uuid5(contract.id, month.isoformat()),
        organization_id=contract.organization_id,
        contract_id=contract.id,
        price_plan_id=contract.price_plan_id,
        price_plan_version=contract.price_plan_version,
        period_starts_on=month,
        period_ends_on=next_month(month),
        period_start=start,
        period_end=stop,
        status="draft",
        currency=contract.currency,
        total=sum((line.amount for line in lines), Decimal("0.00")),
        days_covered=days_covered,
        days_in_period=days,
        lines=lines,
    )


def lines_of(contract: Contract, days: int, month_days: int, usage: Mapping[str, Decimal]) -> tuple[Line, ...]:
    """The lines of a month of `month_days` days, on `days` of which the contract is in force.

    base_fee: base_fee * days / month_days.
    devices: device_month_price * device-days / month_days; a device with one sample on a day is a device-day.
    storage, backup: price of a GB and month * sum of the daily GB / month_days.
    api_calls: price of a thousand * max(0, calls - included * days / month_days) / 1000.
    """
    used = {kind: usage.get(kind, Decimal(0)) for kind in KINDS}
    billable_calls = max(Decimal(0), used["api_calls"] * month_days - contract.api_calls_included * days)
    of_month = f"of a month of {month_days} days"
    return (
        line("base_fee", f"Base fee, {days} days {of_month}", Decimal(days), month_days, "months", contract.base_fee),
        line(
            "devices",
            f"Devices, {_text(used['devices'])} device-days {of_month}",
            used["devices"],
            month_days,
            "device-months",
            contract.device_month_price,
        ),
        line(
            "storage",
            f"Storage, {_text(used['storage'])} GB-days {of_month}",
            used["storage"],
            month_days,
            "GB-months",
            contract.storage_gb_month_price,
        ),
        line(
            "backup",
            f"Backup, {_text(used['backup'])} GB-days {of_month}",
            used["backup"],
            month_days,
            "GB-months",
            contract.backup_gb_month_price,
        ),
        line(
            "api_calls",
            f"API calls, {_text(used['api_calls'])}; {contract.api_calls_included} a month are included, "
            f"for {days} days {of_month}",
            billable_calls,
            month_days * 1000,
            "thousand calls",
            contract.api_calls_thousand_price,
        ),
    )


def day_share(day: date) -> Decimal:
    """The share that a day is of its month, to 18 places: those of a month's days add up to exactly 1."""
    month_days = (next_month(day) - day.replace(day=1)).days
    until, before = (number * WHOLE // month_days for number in (day.day, day.day - 1))
    return Decimal(until - before).scaleb(-PLACES)


def costs_of_day(contract: Contract, day: date, quantities: Mapping[str, Decimal]) -> dict[str, Decimal | None]:
    """What a day costs by kind, and its share of the base fee.

    Not rounded: a month's days add up to its invoice, but for the cents of its lines, and for included calls, which the
    invoice sets against the calls of the month.

    None for an amount that cannot be: of a price that is no number, or too large to be stored.
    """
    with localcontext(prec=80):
        share = day_share(day)
        billable_calls = max(Decimal(0), quantities["api_calls"] - contract.api_calls_included * share)
        amounts = {
            "base_fee": contract.base_fee * share,
            "devices": contract.device_month_price * quantities["devices"] * share,
            "storage": contract.storage_gb_month_price * quantities["storage"] * share,
            "backup": contract.backup_gb_month_price * quantities["backup"] * share,
            "api_calls": contract.api_calls_thousand_price * billable_calls / 1000,
        }
        return {
            kind: amount.quantize(COST_PLACES) if amount.is_finite() and abs(amount) < COST_LIMIT else None
            for kind, amount in amounts.items()
        }


def line(kind: str, description: str, dividend: Decimal, divisor: int, unit: str, price: Decimal) -> Line:
    """A line of the quantity dividend / divisor: amount = price * dividend / divisor, rounded half up to a cent."""
    with localcontext(prec=50):
        return Line(
            kind=kind,
            description=description,
            quantity=(dividend / divisor).quantize(MILLIONTH, ROUND_HALF_UP),
            unit=unit,
            unit_price=price,
            amount=(price * dividend / divisor).quantize(CENT, ROUND_HALF_UP),
        )


def _text(quantity: Decimal) -> str:
    return f"{quantity.normalize():f}"
