"""What a local day of an agreement has of each of its items, and what that costs, taken alone: the rows of the mart
billing_quantities. Pure: devices and measured days are given.

Documents are not made from these rows but from the usage itself, by the same functions of rating; a day's cost is what
analysts add up, and differs from a document's lines where a month is more than its days: see `day_amount`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow as pa

from ninjait_pipelines.billing.local_time import day_window, next_month
from ninjait_pipelines.billing.measure import rule_of
from ninjait_pipelines.billing.rating.agreement import Agreement, Item
from ninjait_pipelines.billing.rating.charges import day_amount, segments
from ninjait_pipelines.billing.rating.usage import Device, DeviceDays, Level, Usage, device_days, eligible

KINDS = {"device": "devices"}
UNITS = {
    "device": "device-days",
    "storage": "GB",
    "backup": "GB",
    "api_calls": "calls",
    "flat": "months",
    "one_off": "units",
}
# What the columns hold: Decimal(38, 9) and Decimal(38, 24).
QUANTITY_PLACES, COST_PLACES, COST_LIMIT = Decimal(1).scaleb(-9), Decimal(1).scaleb(-24), Decimal(10) ** 14
_HASH = 2**64
_PLACE = ["organization_id", "time_zone", "device_id"]
COUNTED = pa.schema(
    [
        pa.field("key", pa.uint32()),
        *(pa.field(name, pa.string()) for name in _PLACE),
        *(pa.field(name, pa.date32()) for name in ("first", "end")),
        pa.field("hash", pa.uint64()),
    ]
)


class Count(NamedTuple):
    """Devices of an item on a day, and the hash of which they are."""

    devices: int = 0
    hash: int = 0


# (agreement id, item key) -> day -> devices
Counts = Mapping[tuple[str, str], Mapping[date, Count]]
# (organization, time zone, day, kind, rule) -> the row of usage_days
Measured = Mapping[tuple[str, str, date, str, str], Mapping[str, Any]]


def terms_of(agreement: Agreement, devices: Iterable[Device]) -> list[DeviceDays]:
    """The terms of the agreement's organization, in local days. Raises Refused."""
    found = device_days(Usage(devices=tuple(devices)), agreement.zone)
    return [term for term in found if (term.device.organization_id or "") == agreement.organization_id]


def registered(terms: Sequence[DeviceDays], item: Item, days: Sequence[date]) -> dict[date, Count]:
    """The devices that an item counts on each of consecutive days, whether or not they report."""
    devices: Counter[date] = Counter()
    hashes: Counter[date] = Counter()
    for term in eligible(terms, item.filter):
        first, end, key = max(term.first, days[0]), max(term.end, days[0]), _hash(term.device.device_id)
        devices[first] += 1
        devices[end] -= 1
        hashes[first] += key
        hashes[end] -= key
    numbers = accumulate(devices[day] for day in days)
    keys = accumulate(hashes[day] for day in days)
    return {day: Count(number, key % _HASH) for day, number, key in zip(days, numbers, keys, strict=True)}


def reporting(reported: pa.Table, terms: Iterable[tuple[Agreement, Item, Sequence[DeviceDays]]]) -> Counts:
    """The devices that items count on the days on which they report, of all agreements at once.

    reported: devices with their days (schema DEVICES of measure.py); terms: the items that count so, with the terms of
    their organization.
    """
    import polars as pl  # here because it takes 0.2 s to load

    keys: dict[tuple[str, str], int] = {}
    rows: dict[str, list[Any]] = {name: [] for name in COUNTED.names}
    for agreement, item, of in terms:
        key = keys.setdefault((agreement.id, item.key), len(keys))
        place = (key, agreement.organization_id, agreement.time_zone)
        for term in eligible(of, item.filter):
            device = term.device.device_id
            for column, value in zip(rows.values(), (*place, device, term.first, term.end, _hash(device)), strict=True):
                column.append(value)
    held = (pl.col("first") <= pl.col("days")) & (pl.col("days") < pl.col("end"))
    found = pl.DataFrame(reported.select([*_PLACE, "days"])).join(pl.DataFrame(pa.table(rows, schema=COUNTED)), _PLACE)
    found = found.explode("days").with_columns(pl.col("days").cast(pl.Int32).cast(pl.Date)).filter(held)
    counts: dict[int, dict[date, Count]] = defaultdict(dict)
    for key, day, number, hashed in found.group_by("key", "days").agg(pl.len(), pl.col("hash").sum()).iter_rows():
        counts[key][day] = Count(number, hashed)
    return {name: counts[key] for name, key in keys.items()}


def quantity_rows(
    agreement: Agreement, devices: Callable[[Item], Mapping[date, Count]], measured: Measured, first: date, end: date
) -> Iterator[dict[str, Any]]:
    """The rows of the local days [first, end), without as_of, of each item on the days on which it holds."""
    term = (agreement.term.from_, agreement.term.to or date.max)
    windows: dict[date, tuple[datetime, datetime]] = {}
    month = first.replace(day=1)
    while month < end:
        for item in agreement.items:
            days = segments(item, term, month)
            whole = len(days) if item.proration == "full" else (next_month(month) - month).days
            shared = [day for day in days if first <= day < end]
            if item.kind == "one_off":
                whole, shared = 1, [day for day in shared if day == item.from_]
            counts = devices(item) if item.kind == "device" and shared else {}
            costs: dict[tuple[Any, ...], tuple[Decimal, Decimal | None]] = {}
            for day in shared:
                if day not in windows:
                    windows[day] = day_window(day, agreement.time_zone)
                found = _of(agreement, item, day, counts, measured)
                yield _row(agreement, item, day, windows[day], found, whole, costs)
        month = next_month(month)


class _Measured(NamedTuple):
    """An item's level on a day, and what is to be said of it."""

    level: Level
    completeness: float = 1.0
    hash: int = 0
    frozen: bool = False


def _of(agreement: Agreement, item: Item, day: date, counts: Mapping[date, Count], measured: Measured) -> _Measured:
    if item.kind in ("flat", "one_off"):
        return _Measured(Level(Fraction(item.quantity)))
    place = (agreement.organization_id, agreement.time_zone, day)
    if item.kind == "device":
        count = counts.get(day, Count())
        known = measured[*place, "hours", ""]["completeness"] if item.measured_by == "reporting" else 1.0
        return _Measured(Level(Fraction(count.devices)), known, count.hash)
    rule = ",".join(rule_of(item)) if item.kind == "api_calls" else str(item.carried_forward_days)
    row = measured[*place, item.kind, rule]
    level = Level(Fraction(row["quantity"]))
    if item.kind != "api_calls":
        level = Level(Fraction(row["gb_milliseconds"]) / max(row["day_milliseconds"], 1))
    return _Measured(level, row["completeness"], row["inputs_hash"], row["frozen"])


def _row(
    agreement: Agreement,
    item: Item,
    day: date,
    window: tuple[datetime, datetime],
    measured: _Measured,
    whole: int,
    costs: dict[tuple[Any, ...], tuple[Decimal, Decimal | None]],
) -> dict[str, Any]:
    """costs: quantity and cost of the item's days that were computed before, since most are like others."""
    version, quantity = item.price_on(day, None), measured.level.quantity
    key = (quantity.numerator, quantity.denominator, version.version, item.discount_on(day))
    if key not in costs:
        cost = _decimal(day_amount(item, day, measured.level, Fraction(1, whole)), COST_PLACES)
        costs[key] = (_decimal(quantity, QUANTITY_PLACES), None if cost >= COST_LIMIT else cost)
    return {
        "organization_id": agreement.organization_id,
        "agreement_id": agreement.id,
        "local_day": day,
        "item": item.key,
        "product": item.product,
        "kind": KINDS.get(item.kind, item.kind),
        "quantity": costs[key][0],
        "unit": UNITS[item.kind],
        "basis": item.measured_by,
        "cost": costs[key][1],
        "currency": agreement.currency,
        "time_zone": agreement.time_zone,
        "price_version": version.version,
        "window_start": window[0],
        "window_end": window[1],
        "completeness": measured.completeness,
        "inputs_hash": measured.hash,
        "frozen": measured.frozen,
    }


def _decimal(value: Fraction, places: Decimal) -> Decimal:
    with localcontext(prec=80):
        return (Decimal(value.numerator) / value.denominator).quantize(places)


def _hash(device: str) -> int:
    """A device's part of a hash that does not depend on the order: half of its id."""
    try:
        return UUID(device).int % _HASH
    except ValueError:
        return 0


def measured_days(rows: Iterable[Mapping[str, Any]]) -> Measured:
    """Rows of usage_days by what they are of."""
    return {
        (str(row["organization_id"]), row["time_zone"], row["local_day"], row["kind"], row["rule"]): row for row in rows
    }
