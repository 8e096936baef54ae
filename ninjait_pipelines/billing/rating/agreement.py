"""What is agreed, as it is entered: parties, items and prices. What cannot be right is refused here, by name and value.

All ranges are half open: `from` is the first local day on which something holds, `to` the first on which it does not.
Money and quantities are Decimal, written as strings or as numbers.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from iso4217 import Currency

from ninjait_pipelines.errors import UserError

_BASES_OF = {
    "device": ("registered", "reporting", "last_day", "peak"),
    "storage": ("average", "last_day", "peak"),
    "backup": ("average", "last_day", "peak"),
}
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Version = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
Status = Annotated[str, msgspec.Meta(pattern="^[1-5]([0-9]{2}|xx)$", max_length=3)]
# Beyond these, an amount is a mistake of typing and not a price.
MAX_NUMBER, MAX_PLACES = Decimal(10) ** 15, 18


class Refused(UserError):
    """Something in the input cannot be right. The message names where it stands, the value, and what would do."""


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a person enters: a misspelt field is an error, not a default."""


class Party(Given, frozen=True, kw_only=True):
    """Who sells, or who pays."""

    name: Text
    address: tuple[str, ...] = ()
    tax_id: str | None = None


class Term(Given, frozen=True, kw_only=True):
    """Local days [from, to); open-ended without `to`."""

    from_: date = msgspec.field(name="from")
    to: date | None = None

    def holds(self, day: date) -> bool:
        return self.from_ <= day and (self.to is None or day < self.to)

    def overlaps(self, other: "Term") -> bool:
        return (self.to is None or other.from_ < self.to) and (other.to is None or self.from_ < other.to)


class Tier(Given, frozen=True, kw_only=True):
    """Units up to and including `up_to` (the last tier has none) cost `price` each."""

    price: Decimal
    up_to: Decimal | None = None


class Price(Given, frozen=True, kw_only=True):
    """A version of a price, in use from a day on until the next version's.

    flat: `amount` for the period, whatever the quantity. per_unit: `amount` for each unit. package: `amount` for each
    begun package of `size` units. graduated: each unit at the price of the tier in which it lies. volume: all units at
    the price of the tier in which the quantity lies.
    """

    version: Version
    from_: date = msgspec.field(name="from")
    model: Literal["flat", "per_unit", "graduated", "volume", "package"] = "per_unit"
    amount: Decimal | None = None
    size: Decimal | None = None
    tiers: tuple[Tier, ...] = ()
    published_at: datetime | msgspec.UnsetType | None = msgspec.UNSET


class Discount(Term, frozen=True, kw_only=True):
    """Percent off on the days of its term."""

    percent: Decimal


class DeviceFilter(Given, frozen=True, kw_only=True):
    """Which devices count: of one of these classes and sites, with one of these tags (empty: any), and with none of
    `without_tags`. A device that is not billable never counts."""

    classes: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    without_tags: frozenset[str] = frozenset()


class TaxCode(Given, frozen=True, kw_only=True):
    """Category (UNCL5305 as in EN 16931: S standard, Z zero, E exempt, AE reverse charge, O out of scope ...) and rate,
    in percent."""

    category: Literal["S", "Z", "E", "AE", "K", "G", "O", "L", "M", "B"] = "O"
    rate: Decimal = Decimal(0)


class Item(Term, frozen=True, kw_only=True):
    """A product on the agreement.

    included: units free of charge in a whole period, pooled over all items of the product in the period.
    minimum_quantity: units that are charged at least; minimum_amount: what the item costs at least; both for a whole
    period. proration: `daily` charges the share of the period's days on which the item holds; `full` the whole period
    as soon as it holds on a day, at the price of the first. billed: in `arrears` on the document of its own period, in
    `advance` on that of the period before.
    """

    product: Text
    kind: Literal["device", "api_calls", "storage", "backup", "flat", "one_off"]
    prices: tuple[Price, ...]
    id: str = ""
    description: str = ""
    quantity: Decimal = Decimal(1)
    basis: Literal["registered", "reporting", "last_day", "peak", "average"] | None = None
    filter: DeviceFilter = DeviceFilter()
    included: Decimal = Decimal(0)
    minimum_quantity: Decimal = Decimal(0)
    minimum_amount: Decimal = Decimal(0)
    proration: Literal["daily", "full"] = "daily"
    billed: Literal["arrears", "advance"] = "arrears"
    discounts: tuple[Discount, ...] = ()
    tax: TaxCode | None = None
    not_billed_statuses: tuple[Status, ...] = ("401", "403", "5xx")
    carried_forward_days: int = 7

    @property
    def key(self) -> str:
        return self.id or f"{self.product}@{self.from_}"

    @property
    def measured_by(self) -> str:
        """The quantity basis: as given, or the kind's usual one."""
        return self.basis or {"device": "registered", "storage": "average", "backup": "average"}.get(self.kind, "")

    def price_on(self, day: date, known_at: datetime | None) -> Price:
        """The price version in use on a day, of those published by `known_at` (None: all). An item that was agreed
        later than that has the price that was published first. Raises Refused."""
        in_use = [price for price in self.prices if price.from_ <= day]
        if not in_use:
            raise Refused(f"item {self.key!r}: no price is in use on {day}; add a version from that day on or earlier")
        if known := [price for price in in_use if _published(price, known_at)]:
            return max(known, key=lambda price: (price.from_, price.version))
        return self.price_on(day, min(at for price in in_use if isinstance(at := price.published_at, datetime)))

    def discount_on(self, day: date) -> Decimal:
        return next((discount.percent for discount in self.discounts if discount.holds(day)), Decimal(0))


class Agreement(Given, frozen=True, kw_only=True):
    """Who gets what, at which prices, from when to when, in which currency and time zone."""

    id: Text
    organization_id: Text
    currency: str
    time_zone: str
    items: tuple[Item, ...]
    term: Term
    bill_to: Party | None = None
    purchase_order: str | None = None
    tax: TaxCode = TaxCode()

    @property
    def exponent(self) -> int:
        """Decimal places of the currency's smallest unit (ISO 4217): 0 for JPY, 2 for EUR, 3 for KWD."""
        return Currency(self.currency).exponent or 0

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)


def agreement(data: bytes) -> Agreement:
    """An agreement from JSON. Raises Refused for whatever the database would refuse, too."""
    found = decoded(data, Agreement, "the agreement")
    _check_currency(found.currency)
    _check_zone(found.time_zone)
    _check_term("term", found.term)
    _check_tax("tax", found.tax)
    _check_distinct("items", [item.key for item in found.items])
    for item in found.items:
        _check_item(f"item {item.key!r}", item, found.term)
    for product in sorted({item.product for item in found.items}):
        own = sorted((item for item in found.items if item.product == product), key=lambda item: item.from_)
        if own[0].kind != "one_off":
            _check_apart(f"product {product!r}", own)
        if len({item.kind for item in own}) > 1:
            raise Refused(f"product {product!r}: its items are of several kinds; give each kind a product of its own")
    return found


def decoded(data: bytes, type_: Any, what: str) -> Any:
    """JSON of a type. Raises Refused, which says where in the JSON something else stands."""
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(f"{error}{_value_at(data, str(error))}".splitlines())
        raise Refused(f"{what} is not as its schema says: {reason}") from error


def _value_at(data: bytes, message: str) -> str:
    """The value at the path with which a message ends, such as `$.items[0].from`; nothing if it has none."""
    path = re.search(r"at `\$([^`]*)`$", message)
    if not path:
        return ""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return ""
    for name, number in re.findall(r"\.(\w+)|\[(\d+)\]", path[1]):
        value = value[name] if name else value[int(number)]
    return f": {value!r:.60}" if isinstance(value, str | int | float | None) else ""


def _published(price: Price, known_at: datetime | None) -> bool:
    at = price.published_at
    return known_at is None or not isinstance(at, datetime) or at <= known_at


def _check_currency(code: str) -> None:
    try:
        exponent = Currency(code).exponent
    except ValueError:
        exponent = None
    if exponent is None:
        raise Refused(f"currency: {code!r} is no currency of ISO 4217; give a code such as EUR, JPY or KWD")


def _check_zone(name: str) -> None:
    try:
        if name in ("localtime", "posixrules"):
            raise ValueError("a name for the zone of each computer")
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise Refused(f"time_zone: {name!r} is no time zone; give an IANA name such as Europe/Berlin") from error


def _check_item(where: str, item: Item, term: Term) -> None:
    _check_term(where, item)
    if not (term.holds(item.from_) if item.kind == "one_off" else item.overlaps(term)):
        raise Refused(
            f"{where}: from {item.from_} to {item.to} is outside the agreement's term, {term.from_} to {term.to}"
        )
    for name in ("quantity", "included", "minimum_quantity", "minimum_amount"):
        check_number(f"{where}.{name}", getattr(item, name))
    if item.quantity != 1 and item.kind not in ("flat", "one_off"):
        raise Refused(f"{where}.quantity: {item.quantity}; of kind {item.kind!r} it is measured, so leave it out")
    if item.filter != DeviceFilter() and item.kind != "device":
        raise Refused(f"{where}.filter: it is for kind 'device', not for kind {item.kind!r}")
    bases = _BASES_OF.get(item.kind, ())
    if item.basis and item.basis not in bases:
        can = f"one of {', '.join(bases)}" if bases else "none"
        raise Refused(f"{where}.basis: {item.basis!r} is no basis of kind {item.kind!r}, which has {can}")
    if not 0 <= item.carried_forward_days <= 366:
        raise Refused(f"{where}.carried_forward_days: {item.carried_forward_days}; it must be 0 to 366")
    if item.proration == "full" and item.kind not in ("device", "flat"):
        raise Refused(f"{where}.proration: 'full' is for devices and flat fees, not for kind {item.kind!r}")
    if item.billed == "advance" and item.kind != "flat" and item.measured_by != "registered":
        raise Refused(f"{where}.billed: 'advance' is for fees and registered devices; what is used is not known before")
    if item.tax:
        _check_tax(f"{where}.tax", item.tax)
    for discount in item.discounts:
        _check_term(f"{where}.discounts", discount)
        if not 0 <= check_number(f"{where}.discounts.percent", discount.percent) <= 100:
            raise Refused(f"{where}.discounts.percent: {discount.percent}; it must be 0 to 100")
    _check_apart(f"{where}.discounts", sorted(item.discounts, key=lambda one: one.from_))
    if not item.prices:
        raise Refused(f"{where}.prices: there is none; add a version")
    _check_distinct(f"{where}.prices", [str(price.version) for price in item.prices])
    for price in item.prices:
        _check_price(f"{where}.prices, version {price.version}", price)


def _check_price(where: str, price: Price) -> None:
    if price.published_at is None:
        raise Refused(f"{where}: it is not published; give published_at, the time at which it was")
    if isinstance(price.published_at, datetime) and price.published_at.tzinfo is None:
        raise Refused(f"{where}.published_at: {price.published_at} has no time zone; end it with Z or an offset")
    tiered = price.model in ("graduated", "volume")
    if tiered != bool(price.tiers) or tiered == (price.amount is not None):
        wanted = "tiers and no amount" if tiered else "an amount and no tiers"
        raise Refused(f"{where}: model {price.model!r} needs {wanted}")
    if (price.model == "package") != (price.size is not None):
        raise Refused(f"{where}.size: {price.size}; packages have a size, and nothing else has one")
    if price.amount is not None:
        check_number(f"{where}.amount", price.amount)
    if price.size is not None and not check_number(f"{where}.size", price.size):
        raise Refused(f"{where}.size: 0; it must be more")
    bounds = [tier.up_to for tier in price.tiers]
    if any(bound is None for bound in bounds[:-1]) or (bounds and bounds[-1] is not None):
        raise Refused(f"{where}.tiers: all but the last need up_to, and the last must have none")
    for tier in price.tiers:
        check_number(f"{where}.tiers.price", tier.price)
    limits = [check_number(f"{where}.tiers.up_to", bound) for bound in bounds if bound is not None]
    if any(low >= high for low, high in pairwise([Decimal(0), *limits])):
        raise Refused(f"{where}.tiers.up_to: {', '.join(map(str, limits))}; each must be more than the one before")


def check_number(where: str, value: Decimal) -> Decimal:
    """The value, if it is a number that is not negative, of a size that occurs. Raises Refused."""
    exponent = value.as_tuple().exponent
    if not value.is_finite() or value < 0 or value >= MAX_NUMBER or int(exponent) < -MAX_PLACES:
        raise Refused(f"{where}: {value}; it must be from 0 to below 10^15, with at most {MAX_PLACES} decimal places")
    return value


def _check_term(where: str, term: Term) -> None:
    if term.to is not None and term.to <= term.from_:
        raise Refused(f"{where}: from {term.from_} to {term.to} is empty; `to` is the first day after the last")


def _check_tax(where: str, tax: TaxCode) -> None:
    if not 0 <= check_number(f"{where}.rate", tax.rate) <= 100:
        raise Refused(f"{where}.rate: {tax.rate}; it must be 0 to 100, in percent")
    if tax.rate and tax.category in ("Z", "E", "AE", "O", "G", "K"):
        raise Refused(f"{where}.rate: {tax.rate}; category {tax.category} has the rate 0")


def _check_apart(where: str, terms: Sequence[Term]) -> None:
    for one, other in pairwise(terms):
        if one.overlaps(other):
            raise Refused(
                f"{where}: from {other.from_} to {other.to} overlaps from {one.from_} to {one.to}; end the first sooner"
            )


def _check_distinct(where: str, names: Iterable[str]) -> None:
    for name in _repeated(names):
        raise Refused(f"{where}: {name!r} stands there twice")


def _repeated(names: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
