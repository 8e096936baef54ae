"""Documents of a local month, drawn up from what is agreed, used and issued so far: read here, computed by rating.

Writing them is the business of write.py, issuing them of finalise.py.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec

from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.billing.history import (
    AGREEMENT,
    NOTHING,
    Entry,
    Stored,
    changed,
    entries,
    fingerprints,
    issued,
)
from ninjait_pipelines.billing.local_time import DAY, next_month
from ninjait_pipelines.billing.rating.agreement import Agreement, Party, Term
from ninjait_pipelines.billing.rating.document import Document, canonical, document, draft
from ninjait_pipelines.billing.rating.usage import Usage
from ninjait_pipelines.billing.stored_usage import usage_of
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.postgres import Postgres


class Drawn(NamedTuple):
    """A draft, and what it was drawn up from.

    watermark: ClickHouse's clock before the usage was read. fingerprints: what was measured, by first day of a month.
    known: the agreement's issued and void documents that were taken into account: the draft holds as long as there are
    no others.
    """

    id: UUID
    document: Document
    agreement: Agreement
    usage: Usage
    watermark: datetime
    fingerprints: dict[str, str]
    known: frozenset[tuple[UUID, str]]
    days_covered: int
    days_in_period: int


class _Read(NamedTuple):
    """All that a month's drafts are computed from, by agreement."""

    month: date
    watermark: datetime
    history: Mapping[str, Sequence[Entry]]
    usage: Mapping[str, Usage]
    issued: Mapping[str, Sequence[Stored]]
    fingerprints: Mapping[str, dict[str, str]]


def draw_up(
    postgres: Postgres,
    clickhouse: ClickHouse,
    month: date,
    left_out: LeftOut | None = None,
    only: Collection[UUID] | None = None,
) -> list[Drawn]:
    """The drafts of a local month (its first day), of agreements that have no issued invoice of it: those that hold on
    a day of the month, and those that ended before and have something to correct.

    only: ids of agreements; None: all.
    """
    left_out = left_out or LeftOut()
    watermark = clickhouse.now()
    with postgres.transaction() as connection:
        history = entries(connection, only)
    agreements = _agreements(postgres, history, month, left_out, only)
    hashes = {id_: hash_of(one) for id_, one in agreements.items()}
    again = changed(clickhouse, history, month, hashes)
    due = [one for one in agreements.values() if _is_due(one, history.get(one.id, ()), month, again)]
    invoices = [one for agreement in due for one in history.get(agreement.id, ()) if one.id in again]
    read = _Read(
        month=month,
        watermark=watermark,
        history=history,
        fingerprints=_fingerprints(clickhouse, due, month, invoices, again, hashes),
        usage=_usage(postgres, clickhouse, due, month, invoices),
        issued=issued(postgres, {one.agreement_id for one in invoices}, again),
    )
    drawn = left_out.each(due, "organization {0.organization_id}, agreement {0.id}".format, partial(_draw_up, read))
    return [one for one in drawn if one.document.lines]


def frozen(what: Agreement | Usage) -> bytes:
    """The JSON of an agreement or of usage that `rate` takes: the same bytes for the same content."""
    return msgspec.json.encode(what, order="deterministic")


def hash_of(agreement: Agreement) -> str:
    """By which it is seen that an agreement has changed."""
    return hashlib.sha256(frozen(agreement)).hexdigest()


def _agreements(
    postgres: Postgres,
    history: Mapping[str, Sequence[Entry]],
    month: date,
    left_out: LeftOut,
    only: Collection[UUID] | None,
) -> dict[str, Agreement]:
    """Those that hold in the month, or held in one of an issued document. Who pays is the organization, by its own
    name, unless the agreement says otherwise."""
    first = min([month, *(one.period_starts_on for own in history.values() for one in own)])
    found = agreements_in_force(postgres, first, next_month(month), left_out)
    names = {str(row["id"]): row["name"] for row in postgres.rows("SELECT id, name FROM organizations")}
    return {
        one.id: one if one.bill_to else msgspec.structs.replace(one, bill_to=Party(name=names[one.organization_id]))
        for one in found
        if only is None or UUID(one.id) in only
    }


def _is_due(agreement: Agreement, own: Sequence[Entry], month: date, again: Mapping[UUID, str]) -> bool:
    if any(one.is_invoice and one.period_starts_on == month for one in own):
        return False
    return agreement.term.overlaps(_whole(month)) or any(one.id in again for one in own)


def _whole(month: date) -> Term:
    return Term(from_=month, to=next_month(month))


def _usage(
    postgres: Postgres, clickhouse: ClickHouse, due: Sequence[Agreement], month: date, invoices: Iterable[Entry]
) -> dict[str, Usage]:
    """What was used in the month, and in the months of invoices that are computed again."""
    wanted: dict[date, list[Agreement]] = defaultdict(list, {month: list(due)})
    of = {one.id: one for one in due}
    for one in invoices:
        wanted[one.period_starts_on].append(of[str(one.agreement_id)])
    found: dict[str, list[Usage]] = defaultdict(list)
    for first, agreements in sorted(wanted.items()):
        for id_, used in usage_of(postgres, clickhouse, agreements, first, next_month(first)).items():
            found[id_].append(used)
    return {id_: _together(parts) for id_, parts in found.items()}


def _together(parts: Sequence[Usage]) -> Usage:
    """One usage of several months; terms of devices are in each."""
    if len(parts) == 1:
        return parts[0]
    together: dict[str, tuple[Any, ...]] = {
        name: tuple(dict.fromkeys(one for part in parts for one in getattr(part, name)))
        for name in Usage.__struct_fields__
    }
    return Usage(**together)


def _fingerprints(
    clickhouse: ClickHouse,
    due: Sequence[Agreement],
    month: date,
    invoices: Iterable[Entry],
    again: Mapping[UUID, str],
    hashes: Mapping[str, str],
) -> dict[str, dict[str, str]]:
    measured = fingerprints(clickhouse, {one.organization_id for one in due}, [month])
    noted = {
        one.id: {
            month.isoformat(): measured.get((one.organization_id, one.time_zone, month), NOTHING),
            AGREEMENT: hashes[one.id],
        }
        for one in due
    }
    for one in invoices:
        noted[str(one.agreement_id)][one.period_starts_on.isoformat()] = again[one.id]
    return noted


def _draw_up(read: _Read, agreement: Agreement) -> Drawn:
    own = read.history.get(agreement.id, ())
    usage = read.usage.get(agreement.id, Usage())
    days = _days(agreement, read.month)
    drawn = draft(agreement, usage, read.month, [one.read() for one in read.issued.get(agreement.id, ())])
    document(canonical(drawn))  # a name that no document may have is found while it harms its own agreement only
    return Drawn(
        id=document_id(agreement.id, read.month, sum(_is_void(one, read.month) for one in own)),
        document=drawn,
        agreement=agreement,
        usage=usage,
        watermark=read.watermark,
        fingerprints=read.fingerprints[agreement.id],
        known=known(own),
        days_covered=len(set(days) - _incomplete(usage)),
        days_in_period=len(days),
    )


def known(own: Iterable[Entry]) -> frozenset[tuple[UUID, str]]:
    """What a draft takes into account of the documents before it."""
    return frozenset((one.id, one.status) for one in own)


def document_id(agreement_id: str, month: date, voided: int) -> UUID:
    """The id of an agreement's document of a month: the same in every run, until it is issued and voided."""
    return uuid5(UUID(agreement_id), f"{month.isoformat()}/{voided}" if voided else month.isoformat())


def _is_void(one: Entry, month: date) -> bool:
    return one.kind == "invoice" and one.status == "void" and one.period_starts_on == month


def _days(agreement: Agreement, month: date) -> list[date]:
    """The days of the month on which it is in force."""
    first, end = max(agreement.term.from_, month), min(agreement.term.to or date.max, next_month(month))
    return [first + number * DAY for number in range((end - first).days)]


def _incomplete(usage: Usage) -> set[date]:
    return {one.day for one in usage.hours_known if one.hours < one.of}
