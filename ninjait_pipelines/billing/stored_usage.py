"""The usage of agreements, as rating takes it, from what is stored: terms of devices in PostgreSQL, measured days in
ClickHouse.

Nothing is measured here, and no amount computed: with the agreement as JSON, what is returned gives the same document
by `ninjait billing rate`, byte for byte.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from ninjait_pipelines.billing.agreements import device_terms
from ninjait_pipelines.billing.local_time import DAY, day_window, overlapped_hours
from ninjait_pipelines.billing.measure import BATCH, Wanted, reporting_devices, rule_of, usage_days, wanted
from ninjait_pipelines.billing.rating.agreement import Agreement
from ninjait_pipelines.billing.rating.usage import CallCount, Device, HoursKnown, Reports, Usage, VolumeDay
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

EPOCH = date(1970, 1, 1)
Place = TypeVar("Place")


class _Stored(msgspec.Struct):
    """What is stored of an organization's days in one time zone."""

    reports: list[Reports] = msgspec.field(default_factory=list)
    days: list[Mapping[str, Any]] = msgspec.field(default_factory=list)


def usage_of(
    postgres: Postgres, clickhouse: ClickHouse, agreements: Sequence[Agreement], first_day: date, end_day: date
) -> dict[str, Usage]:
    """Agreement id -> what was used on the local days [first_day, end_day) of its time zone.

    Nothing is known of a day that has not been measured: `hours_known` has none of its hours, and volumes lack it.
    """
    stored = _stored(clickhouse, agreements, first_day, end_day)
    return _usages(postgres, clickhouse, agreements, stored, first_day, end_day)


def usage_if_agreed(
    postgres: Postgres,
    clickhouse: ClickHouse,
    agreements: Sequence[Agreement],
    in_force: Sequence[Agreement],
    first_day: date,
    end_day: date,
) -> dict[str, Usage]:
    """The same for agreements that are not in force: what they count and those in force do not is measured now, without
    writing it. At most 31 days."""
    stored = _stored(clickhouse, agreements, first_day, end_day)
    missing = _beyond(wanted(agreements), wanted(in_force))
    for row in reporting_devices(clickhouse, missing, first_day, end_day).sort_by("device_id").to_pylist():
        at = tuple((EPOCH + number * DAY).isoformat() for number in row["days"])
        stored[row["time_zone"], row["organization_id"]].reports.append(Reports(device_id=row["device_id"], at=at))
    for row in usage_days(clickhouse, missing, first_day, end_day, clickhouse.now()):
        stored[row["time_zone"], row["organization_id"]].days.append(row)
    return _usages(postgres, clickhouse, agreements, stored, first_day, end_day)


def _beyond(asked: Wanted, measured: Wanted) -> Wanted:
    """What is wanted and not measured. Each time zone stays, perhaps with no organization."""
    return Wanted(
        _less(asked.devices, measured.devices),
        _less(asked.calls, measured.calls),
        _less(asked.volumes, measured.volumes),
    )


def _less(asked: Mapping[Place, set[str]], measured: Mapping[Place, set[str]]) -> dict[Place, set[str]]:
    return {place: organizations - measured.get(place, set()) for place, organizations in asked.items()}


def _usages(
    postgres: Postgres,
    clickhouse: ClickHouse,
    agreements: Sequence[Agreement],
    stored: Mapping[tuple[str, str], _Stored],
    first_day: date,
    end_day: date,
) -> dict[str, Usage]:
    terms = device_terms(postgres, {one.organization_id for one in agreements})
    _add_moved(clickhouse, terms, stored, first_day, end_day)
    return {
        one.id: _usage(
            one, terms.get(one.organization_id, []), stored[one.time_zone, one.organization_id], first_day, end_day
        )
        for one in agreements
    }


def _add_moved(
    clickhouse: ClickHouse,
    terms: Mapping[str, Sequence[Device]],
    stored: Mapping[tuple[str, str], _Stored],
    first_day: date,
    end_day: date,
) -> None:
    """Adds what a device that moved reported for its other organizations: a device-day is that of the organization that
    has it at the end of the day, also if it reported for another one before."""
    for (zone, organization), found in stored.items():
        moved = {one.device_id for one in terms.get(organization, ()) if one.organization_id != organization}
        if moved:
            given = {"devices": sorted(moved), "time_zone": zone, "first_day": first_day, "end_day": end_day}
            for row in clickhouse.rows(sql("billing/moved_days"), **given):
                at = tuple((EPOCH + number * DAY).isoformat() for number in row["days"])
                found.reports.append(Reports(device_id=row["device_id"], at=at))


def _usage(agreement: Agreement, terms: Sequence[Device], stored: _Stored, first_day: date, end_day: date) -> Usage:
    rules = {rule_of(item) for item in agreement.items if item.kind == "api_calls"}
    return Usage(
        devices=tuple(terms),
        reports=tuple(stored.reports),
        api_call_counts=tuple(_counts(stored.days, rules)),
        storage_days=tuple(_volumes(agreement, stored.days, "storage")),
        backup_days=tuple(_volumes(agreement, stored.days, "backup")),
        hours_known=tuple(_hours(agreement, stored.days, first_day, end_day)),
    )


def _counts(days: Sequence[Mapping[str, Any]], rules: set[tuple[str, ...]]) -> Iterator[CallCount]:
    for row in days:
        rule = tuple(row["rule"].split(","))
        if row["kind"] == "api_calls" and rule in rules and row["quantity"]:
            yield CallCount(day=row["local_day"], count=int(row["quantity"]), not_billed_statuses=rule)


def _volumes(agreement: Agreement, days: Sequence[Mapping[str, Any]], kind: str) -> Iterator[VolumeDay]:
    rules = {str(item.carried_forward_days) for item in agreement.items if item.kind == kind}
    for row in days:
        if row["kind"] == kind and row["rule"] in rules:
            yield VolumeDay(
                day=row["local_day"],
                gb_milliseconds=_plain(row["gb_milliseconds"]),
                known_milliseconds=row["known_milliseconds"],
                day_milliseconds=row["day_milliseconds"],
                carried_forward_days=int(row["rule"]),
            )


def _hours(
    agreement: Agreement, days: Sequence[Mapping[str, Any]], first_day: date, end_day: date
) -> Iterator[HoursKnown]:
    """The days that are not known whole."""
    known = {row["local_day"]: int(row["quantity"]) for row in days if row["kind"] == "hours"}
    for day in (first_day + number * DAY for number in range((end_day - first_day).days)):
        of = len(overlapped_hours(*day_window(day, agreement.time_zone)))
        if (hours := known.get(day, 0)) < of:
            yield HoursKnown(day=day, hours=hours, of=of)


def _stored(
    clickhouse: ClickHouse, agreements: Sequence[Agreement], first_day: date, end_day: date
) -> dict[tuple[str, str], _Stored]:
    zones: dict[str, set[str]] = defaultdict(set)
    for one in agreements:
        zones[one.time_zone].add(one.organization_id)
    names = [(first_day + number * DAY).isoformat() for number in range((end_day - first_day).days)]
    offset = (first_day - EPOCH).days
    found = {(one.time_zone, one.organization_id): _Stored() for one in agreements}
    for zone, organizations in zones.items():
        ordered = sorted(organizations)
        for batch in (ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)):
            given = {"organizations": batch, "time_zone": zone, "first_day": first_day, "end_day": end_day}
            for row in clickhouse.arrow(sql("billing/reported_days"), **given).to_pylist():
                at = tuple(names[day - offset] for day in row["days"])
                found[zone, row["organization_id"]].reports.append(Reports(device_id=row["device_id"], at=at))
            for row in clickhouse.rows(sql("billing/stored_days"), **given):
                found[zone, row["organization_id"]].days.append(row)
    return found


def _plain(value: Decimal) -> Decimal:
    """Without the zeros that its column adds."""
    text = f"{value:f}".rstrip("0").rstrip(".")
    return Decimal(text or "0")
