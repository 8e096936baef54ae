"""What was used, as quantities per local day: devices in their terms, calls by their ids, volumes over time.

Order, repetition and how it is cut into files change nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from ninjait_pipelines.billing.local_time import day_window
from ninjait_pipelines.billing.rating.agreement import (
    DATE,
    MAX_NUMBER,
    MAX_PLACES,
    DeviceFilter,
    Given,
    Item,
    Refused,
    Status,
    Text,
    check_number,
    decoded,
)

MICROSECOND = timedelta(microseconds=1)
# The longest local day has 25 hours today; a zone may move by a day.
MAX_HOURS = 50
MAX_DAY = MAX_HOURS * 3_600_000
# A local day, or an instant with its offset.
Moment = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}([T ].+)?$")]


class Device(Given, frozen=True, kw_only=True):
    """A term of a device: whose it is, where and of which class, from when to when.

    A device-day is that of the organization that has the device at the end of the local day.
    """

    device_id: Text
    organization_id: str | None = None
    class_: str = msgspec.field(name="class", default="")
    site: str = ""
    tags: frozenset[str] = frozenset()
    billable: bool = True
    from_: Moment | None = msgspec.field(name="from", default=None)
    to: Moment | None = None


class Reports(Given, frozen=True, kw_only=True):
    """When a device was heard of: instants, or local days."""

    device_id: Text
    at: tuple[Moment, ...]


class Call(Given, frozen=True, kw_only=True):
    """A call of the API. Its id is its identity: retried, it is one call, of its first billed attempt."""

    id: Text
    timestamp: datetime
    status_code: Annotated[int, msgspec.Meta(ge=100, le=599)] = 200


class CallCount(Given, frozen=True, kw_only=True):
    """Billed calls of a local day, counted elsewhere: by the rule of items that do not bill these statuses, or, without
    it, for all items."""

    day: date
    count: int
    not_billed_statuses: tuple[Status, ...] | None = None


class Measurement(Given, frozen=True, kw_only=True):
    """GB that a source stored at an instant; it holds until the source's next one."""

    timestamp: datetime
    gb: Decimal
    source: str = ""


class VolumeDay(Given, frozen=True, kw_only=True):
    """GB of a local day, weighted by time elsewhere: exact, for items that carry a silent reporter forward for so many
    days. It stands for all measurements of the day."""

    day: date
    gb_milliseconds: Decimal
    known_milliseconds: int
    day_milliseconds: int
    carried_forward_days: int = 7

    @property
    def level(self) -> "Level":
        length = self.day_milliseconds or 1
        return Level(Fraction(self.gb_milliseconds) / length, Fraction(self.known_milliseconds, length))


class HoursKnown(Given, frozen=True, kw_only=True):
    """For how many of a local day's hours the reports and calls are in; for a day that is not named, for all."""

    day: date
    hours: int
    of: int


class Usage(Given, frozen=True, kw_only=True):
    """All that is known. Several files are taken together."""

    devices: tuple[Device, ...] = ()
    reports: tuple[Reports, ...] = ()
    api_calls: tuple[Call, ...] = ()
    api_call_counts: tuple[CallCount, ...] = ()
    storage: tuple[Measurement, ...] = ()
    backup: tuple[Measurement, ...] = ()
    storage_days: tuple[VolumeDay, ...] = ()
    backup_days: tuple[VolumeDay, ...] = ()
    hours_known: tuple[HoursKnown, ...] = ()


class _OfDay(Protocol):
    @property
    def day(self) -> date: ...


T = TypeVar("T", bound=_OfDay)


class DeviceDays(NamedTuple):
    """A term in local days [first, end)."""

    device: Device
    first: date
    end: date

    def holds(self, day: date) -> bool:
        return self.first <= day < self.end


class Level(NamedTuple):
    """How much there is on a day: devices, GB weighted by time, or calls; `known`: for which share of it."""

    quantity: Fraction
    known: Fraction = Fraction(1)


def usage(files: Iterable[bytes]) -> Usage:
    """Usage from JSON files, together. Raises Refused."""
    parts = [decoded(data, Usage, "the usage") for data in files]
    together = {name: tuple(one for part in parts for one in getattr(part, name)) for name in Usage.__struct_fields__}
    for one in together["api_calls"] + together["storage"] + together["backup"]:
        if one.timestamp.tzinfo is None:
            raise Refused(f"timestamp: {one.timestamp} has no time zone; end it with Z or an offset")
    for name in ("storage", "backup"):
        for one in together[name]:
            check_number(f"{name}.gb", one.gb)
    for one in together["api_call_counts"]:
        if not 0 <= one.count < MAX_NUMBER:
            raise Refused(f"api_call_counts: {one.count} on {one.day}; it must be from 0 to below 10^15")
    for name in ("storage_days", "backup_days"):
        for one in together[name]:
            _check_volume_day(name, one)
    for one in together["hours_known"]:
        if not 0 <= one.hours <= one.of <= MAX_HOURS:
            raise Refused(
                f"hours_known: {one.hours} of {one.of} on {one.day}; of at most {MAX_HOURS} hours, and no more"
            )
    for name in ("api_call_counts", "storage_days", "backup_days", "hours_known"):
        together[name] = _each_day_once(name, together[name])
    return Usage(**together)


def _check_volume_day(name: str, one: VolumeDay) -> None:
    gb = one.gb_milliseconds
    if not gb.is_finite() or not 0 <= gb < MAX_NUMBER * MAX_DAY or int(gb.as_tuple().exponent) < -MAX_PLACES:
        raise Refused(f"{name}.gb_milliseconds: {gb} on {one.day}; it must be GB times the milliseconds of a day")
    if not 0 <= one.known_milliseconds <= one.day_milliseconds <= MAX_DAY:
        raise Refused(
            f"{name}: {one.known_milliseconds} of {one.day_milliseconds} milliseconds known on {one.day}; "
            f"it must be at most the day's, and the day at most {MAX_DAY}"
        )


def _each_day_once(name: str, given: Iterable[T]) -> tuple[T, ...]:
    """Without what is given twice. Raises Refused where a day has two values under one rule."""
    found: dict[tuple[Any, ...], T] = {}
    for one in given:
        rule = getattr(one, "not_billed_statuses", None)
        key = (one.day, getattr(one, "carried_forward_days", None), frozenset(rule) if rule is not None else None)
        if (other := found.setdefault(key, one)) != one:
            raise Refused(f"{name}: {one.day} has {_values(other)} and {_values(one)}; give each day once")
    return tuple(found.values())


def _values(one: Any) -> str:
    """What there is beside the day, for people."""
    return ", ".join(str(getattr(one, name)) for name in one.__struct_fields__[1:] if getattr(one, name) is not None)


def device_days(found: Usage, zone: ZoneInfo) -> list[DeviceDays]:
    """All terms in local days, each once. Raises Refused where two terms of one device overlap."""
    terms = [
        DeviceDays(
            device,
            local_day(device.from_, zone, "devices.from") if device.from_ else date.min,
            local_day(device.to, zone, "devices.to") if device.to else date.max,
        )
        for device in set(found.devices)
    ]
    terms.sort(key=lambda term: (term.device.device_id, term.first, term.end, term.device.organization_id or ""))
    for one in terms:
        if one.end < one.first:
            raise Refused(
                f"devices: {one.device.device_id!r} has a term from {one.first} to {one.end}; it must not end before"
            )
    for one, other in pairwise(terms):
        if one.device.device_id == other.device.device_id and other.first < one.end:
            raise Refused(
                f"devices: {one.device.device_id!r} has two terms on {other.first}; end one before the other begins"
            )
    return terms


def eligible(terms: Iterable[DeviceDays], rule: DeviceFilter) -> list[DeviceDays]:
    """The terms that an item counts."""
    return [term for term in terms if term.device.billable and _matches(term.device, rule)]


def _matches(device: Device, rule: DeviceFilter) -> bool:
    return (
        (not rule.classes or device.class_ in rule.classes)
        and (not rule.sites or device.site in rule.sites)
        and (not rule.tags or bool(device.tags & rule.tags))
        and not device.tags & rule.without_tags
    )


def reported_days(found: Usage, zone: ZoneInfo) -> dict[str, set[date]]:
    """The local days on which each device was heard of."""
    days: dict[str, set[date]] = defaultdict(set)
    for one in found.reports:
        days[one.device_id].update(local_day(at, zone, "reports.at") for at in one.at)
    return days


def calls_by_day(found: Usage, item: Item, zone: ZoneInfo) -> dict[date, int]:
    """Calls by local day: each id once, on the day of its first attempt whose answer is billed."""
    first: dict[str, datetime] = {}
    for call in found.api_calls:
        status = str(call.status_code)
        if status in item.not_billed_statuses or f"{status[:1]}xx" in item.not_billed_statuses:
            continue
        first[call.id] = min(first.get(call.id, call.timestamp), call.timestamp)
    days: dict[date, int] = defaultdict(int)
    for one in found.api_call_counts:
        if one.not_billed_statuses is None or set(one.not_billed_statuses) == set(item.not_billed_statuses):
            days[one.day] += one.count
    for at in first.values():
        days[_day_of(at, zone)] += 1
    return days


def hours_known(found: Usage) -> dict[date, Fraction]:
    """The share of each day for which reports and calls are in, of days for which it is given."""
    return {one.day: Fraction(one.hours, one.of or 1) for one in found.hours_known}


def volumes_by_day(
    measured: Sequence[Measurement], days: Sequence[date], time_zone: str, carried: timedelta
) -> dict[date, Level]:
    """Each day's GB, weighted by time. A measurement holds until its source's next one, but no longer than `carried`;
    then nothing is known of the source: its GB are missing from the sum, and `known` says for how much of the day."""
    spans = _spans(measured, carried)
    first = min((of_source[0][0] for of_source in spans.values()), default=None)
    found = {}
    for day in days:
        start, end = day_window(day, time_zone)
        end = max(end, start + MICROSECOND)  # a day that the zone skips has the level of its midnight
        gb, known, expected = Fraction(0), 0, 0
        for of_source in spans.values():
            # The first source of all is expected from the beginning, others from their first measurement on.
            since = start if of_source[0][0] == first else max(start, of_source[0][0])
            expected += max(0, (end - since) // MICROSECOND)
            for begins, ends, value in of_source:
                if begins < end and start < ends:
                    lasts = (min(end, ends) - max(start, begins)) // MICROSECOND
                    gb += Fraction(value) * lasts
                    known += lasts
        found[day] = Level(gb / ((end - start) // MICROSECOND), Fraction(known, expected or 1))
    return found


def _spans(measured: Iterable[Measurement], carried: timedelta) -> dict[str, list[tuple[datetime, datetime, Decimal]]]:
    """How long each measurement holds, by source, in order. Of two at one instant the larger counts."""
    of_source: dict[str, dict[datetime, Decimal]] = defaultdict(dict)
    for one in measured:
        known = of_source[one.source].get(one.timestamp, one.gb)
        of_source[one.source][one.timestamp] = max(known, one.gb)
    spans = {}
    for source, values in sorted(of_source.items()):
        instants = sorted(values)
        nexts = [*instants[1:], datetime.max.replace(tzinfo=instants[0].tzinfo)]
        spans[source] = [
            (at, at + carried if until - at > carried else until, values[at])
            for at, until in zip(instants, nexts, strict=True)
        ]
    return spans


@lru_cache(maxsize=100_000)
def local_day(moment: str, zone: ZoneInfo, where: str) -> date:
    """A local day as it is given, or that of an instant. Raises Refused."""
    try:
        if DATE.fullmatch(moment):
            return date.fromisoformat(moment)
        at = datetime.fromisoformat(moment)
    except ValueError as error:
        raise Refused(f"{where}: {moment!r} is neither a day nor an instant ({error})") from error
    if at.tzinfo is None:
        raise Refused(f"{where}: {moment!r} has no time zone; end it with Z or an offset, or give a local day")
    return _day_of(at, zone)


def _day_of(at: datetime, zone: ZoneInfo) -> date:
    """An instant's local day. In years 1 and 9999, which stand for `always`, it may lie beyond the calendar."""
    try:
        return at.astimezone(zone).date()
    except OverflowError:
        return date.min if at.year == 1 else date.max
