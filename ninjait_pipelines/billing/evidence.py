"""Queries that show where a number of a document comes from, ready to be pasted into psql or `ninjait sql`.

A query has its values in it, quoted by the drivers, and runs exactly as it is shown. What number it should give is
known from the document before; what it gives today is beside it.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from clickhouse_connect.driver.binding import finalize_query

from ninjait_pipelines.billing.local_time import DAY, day_window
from ninjait_pipelines.billing.measure import QUANTITY_PLACES, RETRIED_DAYS, not_billed_codes, rule_of
from ninjait_pipelines.billing.rating.agreement import Agreement, Item
from ninjait_pipelines.billing.rating.charges import Measured
from ninjait_pipelines.billing.rating.usage import DeviceDays, eligible
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

# The ledger keeps the times of samples for so long.
TIMES_KEPT = timedelta(days=9)
# Messages of older days are looked for among those that were recorded so soon: the ledger has no other order.
RECORDED_WITHIN = timedelta(days=2)


# What each field of an item's filter asks of a term.
_FILTERS = {
    "classes": "AND t.class = ANY(%(classes)s::text[])",
    "sites": "AND t.site = ANY(%(sites)s::text[])",
    "tags": "AND t.tags && %(tags)s::text[]",
    "without_tags": "AND NOT t.tags && %(without_tags)s::text[]",
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A number, how the one above follows from it, and the query that gives it.

    value: what the query must give, in the sum of `column`; null where only the query knows. found: what it gives
    today. rows: the first ones.
    """

    title: str
    rule: str
    value: Decimal | None
    found: Decimal | None
    store: Literal["PostgreSQL", "ClickHouse"]
    query: str
    column: str
    rows: tuple[dict[str, Any], ...]

    @property
    def agrees(self) -> bool:
        """Whether the query gives the number."""
        return self.value is None or self.value == self.found


class Evidence:
    """Runs the queries of sql/queries/billing/explain."""

    def __init__(self, postgres: Postgres, clickhouse: ClickHouse) -> None:
        self.postgres, self.clickhouse = postgres, clickhouse

    def record(
        self,
        name: str,
        given: Mapping[str, Any],
        title: str,
        column: str,
        rule: str = "",
        value: Decimal | int | None = None,
        part: str = "",
    ) -> Step:
        """A step that PostgreSQL shows; part: of the query, instead of {part}, with placeholders of its own."""
        values = {name: str(one) if isinstance(one, date | UUID) else one for name, one in given.items()}
        with self.postgres.transaction() as connection:
            query = psycopg.ClientCursor(connection).mogrify(_with_part(name, part), values)
            rows: list[dict[str, Any]] = [dict(row) for row in connection.execute(query.encode()).fetchall()]
        return _step("PostgreSQL", query, rows, title, column, rule, value)

    def measured(
        self,
        name: str,
        given: Mapping[str, Any],
        title: str,
        column: str,
        rule: str = "",
        value: Decimal | int | None = None,
        part: str = "",
    ) -> Step:
        """A step that ClickHouse shows; part: of the query, instead of {part}, which is no value."""
        query = finalize_query(_with_part(name, part), dict(given))
        return _step("ClickHouse", query, self.clickhouse.rows(query), title, column, rule, value)


def _with_part(name: str, part: str) -> str:
    """The query without its header, and with its part."""
    lines = [line.replace("{part}", part) for line in sql(f"billing/explain/{name}").splitlines()]
    return "\n".join(line for line in lines if line.strip() and not line.startswith("--"))


def _step(
    store: Literal["PostgreSQL", "ClickHouse"],
    query: str,
    rows: Sequence[dict[str, Any]],
    title: str,
    column: str,
    rule: str,
    value: Decimal | int | None,
) -> Step:
    numbers = [row[column] for row in rows if row[column] is not None]
    return Step(
        title=title,
        rule=rule,
        value=None if value is None else Decimal(value),
        found=sum(map(Decimal, numbers), Decimal(0)) if numbers or rows == [] else None,
        store=store,
        query=query,
        column=column,
        rows=tuple(rows),
    )


class Counted(NamedTuple):
    """What an item counts on the local days [first, end), which lie in one month, by what was known for a document."""

    measured: Measured
    item: Item
    first: date
    end: date

    @property
    def agreement(self) -> Agreement:
        return self.measured.agreement

    @property
    def days(self) -> list[date]:
        return [self.first + number * DAY for number in range((self.end - self.first).days)]

    @property
    def place(self) -> dict[str, Any]:
        """What every query of days is asked by."""
        return {"organization_id": self.agreement.organization_id, "time_zone": self.agreement.time_zone}


# --- devices ---


def device_steps(evidence: Evidence, counted: Counted, rule: str) -> Iterator[Step]:
    """From the device-days of a line to devices, hours and messages."""
    item, days = counted.item, counted.days
    if item.proration == "full" and item.measured_by in ("registered", "reporting"):
        value = counted.measured.devices_of(item, days)
        yield _devices(evidence, counted, "devices on any day", rule, value, any_day=True)
    elif item.measured_by in ("registered", "reporting"):
        levels = counted.measured.device_levels(item, days)
        yield _devices(evidence, counted, "device-days, by day", rule, sum(levels.get(day, 0) for day in days))
    day = decisive_day(counted)
    level = counted.measured.device_levels(item, days).get(day, 0)
    rule = "" if item.measured_by in ("registered", "reporting") else rule
    on_day = _devices(
        evidence, counted._replace(first=day, end=day + DAY), f"devices on {day}", rule or f"among them {day}", level
    )
    yield on_day
    device = next(iter(on_day.rows[0]["some"] or ()), None) if on_day.rows else None
    if device is not None:
        yield from _hours(evidence, counted, str(_heard(counted, day) or device), day)


def decisive_day(counted: Counted) -> date:
    """The day that is followed further: the last one, for a peak the highest, else the last that has a device."""
    item, days = counted.item, counted.days
    levels = counted.measured.device_levels(item, days)
    if item.measured_by == "last_day":
        return days[-1]
    if item.measured_by == "peak":
        return max(days, key=lambda day: levels.get(day, 0))
    return next((day for day in reversed(days) if levels.get(day, 0)), days[-1])


def _heard(counted: Counted, day: date) -> str | None:
    """A device that counts and reported on the day."""
    ids = sorted(term.device.device_id for term in counted.measured.devices(counted.item) if term.holds(day))
    return next((id_ for id_ in ids if day in counted.measured.reported.get(id_, ())), None)


def _devices(evidence: Evidence, counted: Counted, title: str, rule: str, value: int, any_day: bool = False) -> Step:
    suffix = "_any" if any_day else ""
    if counted.item.measured_by == "reporting":
        days = {"first": str(counted.first), "end": str(counted.end), **counted.place}
        return evidence.measured(
            f"reporting{suffix}", days, title, "devices", rule, value, part=counted_condition(counted)
        )
    rules = {name: sorted(getattr(counted.item.filter, name)) for name in _FILTERS}
    part = "\n    ".join(condition for name, condition in _FILTERS.items() if rules[name])
    given = {"first": counted.first, "end": counted.end, **rules, **counted.place}
    return evidence.record(f"registered{suffix}", given, title, "devices", rule, value, part)


def counted_condition(counted: Counted) -> str:
    """Which rows of device_days the item counts, as a condition: devices that it counts whenever they report, or all
    but those that it does not, whichever is shorter; and those that it counts on some days."""
    whole, some_days = set(), []
    for term in eligible(counted.measured.terms, counted.item.filter):
        if term.first <= counted.first and counted.end <= term.end:
            whole.add(term.device.device_id)
        elif term.first < counted.end and counted.first < term.end:
            some_days.append(term)
    others = set(counted.measured.reported) - whole
    always = f"device_id IN {_listed(whole)}" if len(whole) < len(others) else f"device_id NOT IN {_listed(others)}"
    parts = [always if whole and (others or not whole) else ("1" if whole else "0")]
    return f"({' OR '.join([*parts, *map(_on_its_days, some_days)])})"


def _on_its_days(term: DeviceDays) -> str:
    given = {"id": term.device.device_id, "first": str(max(term.first, _FIRST)), "end": str(min(term.end, _LAST))}
    return finalize_query("(device_id = %(id)s AND local_day >= %(first)s AND local_day < %(end)s)", given)


# What a Date of ClickHouse holds.
_FIRST, _LAST = date(1970, 1, 1), date(2149, 6, 6)


def _listed(ids: set[str]) -> str:
    return finalize_query("%(ids)s", {"ids": sorted(ids)})


def _hours(evidence: Evidence, counted: Counted, device: str, day: date) -> Iterator[Step]:
    start, stop = day_window(day, counted.agreement.time_zone)
    given = {**counted.place, "device_id": device, "day": str(day)}
    title = f"hours of device {device} on {day}"
    of_day = evidence.measured("device_day", given, title, "hours", "one of these devices; 0: silent")
    yield of_day
    given |= {"start": _utc(start), "stop": _utc(stop)}
    hours = evidence.measured("hours", given, "these hours in the roll-up", "hours", "", of_day.found)
    yield hours
    samples = Decimal(hours.rows[0]["samples"] or 0)
    now = evidence.clickhouse.now()
    given["recorded_until"] = _utc(now + DAY if now - start < TIMES_KEPT else stop + RECORDED_WITHIN)
    if now - start < TIMES_KEPT:
        title, rule = "samples of these hours, in the ledger's messages", f"the hours have {samples} samples"
        yield evidence.measured("messages", given, title, "samples", rule, samples)
    else:
        rule = f"{samples} samples, whose times were kept for 9 days; messages (kept for 90) recorded within 2"
        yield evidence.measured("messages", given, "messages that brought them", "messages", rule)


# --- calls and volumes ---


def call_steps(evidence: Evidence, counted: Counted, rule: str) -> Iterator[Step]:
    """From the calls of a line to those of a day, with ids."""
    calls = counted.measured.calls(counted.item)
    days = counted.days
    answers = ",".join(rule_of(counted.item))
    span = {"first": str(counted.first), "end": str(counted.end)}
    value = sum(calls.get(day, 0) for day in days)
    given = {"rule": answers, **span, **counted.place}
    yield evidence.measured("calls", given, "calls, by day", "calls", rule, value)
    day = next((day for day in reversed(days) if calls.get(day)), None)
    if day is None:
        return
    start, stop = day_window(day, counted.agreement.time_zone)
    since, _ = day_window(day - RETRIED_DAYS * DAY, counted.agreement.time_zone)
    given = {
        "organization_id": counted.agreement.organization_id,
        "not_billed": not_billed_codes(rule_of(counted.item)) or [0],
        "retried_since": _utc(since),
        "start": _utc(start),
        "stop": _utc(stop),
    }
    rule = f"among them {day}; not billed are answers {answers or 'of no kind'}"
    yield evidence.measured("calls_of_day", given, f"calls on {day}, by id", "calls", rule, calls[day])


def volume_steps(evidence: Evidence, counted: Counted, rule: str) -> Iterator[Step]:
    """From the GB-days of a line to the reports of a day."""
    item = counted.item
    stored = counted.measured.usage.storage_days if item.kind == "storage" else counted.measured.usage.backup_days
    own = [one for one in stored if one.carried_forward_days == item.carried_forward_days]
    gb = {one.day: to_places(one.level.quantity) for one in own if counted.first <= one.day < counted.end}
    carried = item.carried_forward_days
    span = {"first": str(counted.first), "end": str(counted.end)}
    given = {"kind": item.kind, "rule": str(carried), **span, **counted.place}
    yield evidence.measured("volume", given, "GB-days, by day", "gb", rule, sum(gb.values(), Decimal(0)))
    day = next((day for day in sorted(gb, reverse=True) if gb[day]), None)
    if day is None:
        return
    start, stop = day_window(day, counted.agreement.time_zone)
    given = {
        "organization_id": counted.agreement.organization_id,
        "carried_days": carried,
        "start": _utc(start),
        "stop": _utc(stop),
    }
    title = f"GB of {day}, from the reports that held on it"
    rule = f"among them {day}; a report is carried forward for {carried} days"
    yield evidence.measured("reports_of_day", given, title, "gb", rule, gb[day], part=f"{item.kind}_gb")


def to_places(value: Fraction) -> Decimal:
    """A quantity as usage_days has it."""
    return (Decimal(value.numerator) / Decimal(value.denominator)).quantize(QUANTITY_PLACES)


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def shown(step: Step) -> str:
    """A step for a person: the number, how it follows, and the query."""
    lines = [f"{step.title}: {_plain(step.found if step.value is None else step.value)}"]
    if step.rule:
        lines.append(f"  {step.rule}")
    if not step.agrees:
        lines.append(f"  by now the query gives {_plain(step.found)}")
    if len(step.rows) == 1 and (some := step.rows[0].get("some")):
        lines.append(f"  such as {', '.join(map(str, some[:3]))}")
    lines.append(f"  {step.store}:")
    return "\n".join([*lines, textwrap.indent(step.query.strip(), "    ")])


def _plain(number: Decimal | None) -> str:
    return "nothing" if number is None else f"{number:f}"
