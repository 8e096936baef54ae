"""What was issued before: the agreements' documents in PostgreSQL, and which of their periods must be computed again.

An issued document has corrected whatever had changed until its watermark, in all earlier periods. So a period is
computed again only if something in it changed since the last of the documents that took it into account.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import DictRow

from ninjait_pipelines.billing.rating.agreement import Refused, agreement
from ninjait_pipelines.billing.rating.document import Issued, document
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

# What a document notes beside the fingerprints of months: the hash of its agreement.
AGREEMENT = "agreement"
NOTHING = "0"
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
# A change of a term may be stamped so long before it is committed, and by another clock.
_MARGIN = timedelta(hours=1)


class Entry(NamedTuple):
    """A document that is issued or void, without its bytes.

    fingerprints: by first day of a month, of what it took into account. terms_changed_at: when terms of devices changed
    last within the months that it charges for.
    """

    id: UUID
    agreement_id: UUID
    organization_id: UUID
    time_zone: str
    kind: str
    status: str
    period_starts_on: date
    watermark: datetime | None
    fingerprints: dict[str, str] | None
    terms_changed_at: datetime | None

    @property
    def is_invoice(self) -> bool:
        """Whether it is an invoice that holds."""
        return self.kind == "invoice" and self.status == "issued"


History = Mapping[str, Sequence[Entry]]


def entries(connection: psycopg.Connection[DictRow], agreements: Collection[UUID] | None = None) -> History:
    """The documents of these agreements (None: of all) that are issued or void, by agreement."""
    parameters = {"agreements": None if agreements is None else list(agreements)}
    found: dict[str, list[Entry]] = defaultdict(list)
    for row in connection.execute(sql("billing/issued").encode(), parameters):
        found[str(row["agreement_id"])].append(Entry(**row))
    return dict(found)


def changed(clickhouse: ClickHouse, history: History, month: date, agreements: Mapping[str, str]) -> dict[UUID, str]:
    """The issued invoices of months before `month` (a first day) that must be computed again: id -> the fingerprint of
    what is measured of their period now. agreements: the hash of each agreement that is in force, by id."""
    invoices = [
        (one, _taken_into_account(one, own))
        for own in history.values()
        for one in own
        if one.is_invoice and one.period_starts_on < month
    ]
    if not invoices:
        return {}
    measured = measured_months(clickhouse, min(last.watermark for _, last in invoices))
    surely = {one.id for one, last in invoices if last.is_outdated(one, agreements)}
    perhaps = [one for one, last in invoices if measured.get(one.period_starts_on, _NEVER) > last.watermark]
    asked = [one for one, _ in invoices if one.id in surely | {one.id for one in perhaps}]
    now = fingerprints(clickhouse, {str(one.organization_id) for one in asked}, {one.period_starts_on for one in asked})
    found = {one.id: now.get((str(one.organization_id), one.time_zone, one.period_starts_on), NOTHING) for one in asked}
    before = {one.id: last.fingerprint for one, last in invoices}
    return {id_: hash_ for id_, hash_ in found.items() if id_ in surely or hash_ != before[id_]}


class _Last(NamedTuple):
    """When a period was last taken into account, and what was known then."""

    watermark: datetime
    fingerprint: str | None
    agreement: str | None

    def is_outdated(self, invoice: Entry, agreements: Mapping[str, str]) -> bool:
        now = agreements.get(str(invoice.agreement_id), self.agreement)
        terms = (invoice.terms_changed_at or _NEVER) > self.watermark - _MARGIN
        return terms or now != self.agreement  # what it has in advance by now is charged from the day it was agreed


def _taken_into_account(invoice: Entry, own: Sequence[Entry]) -> _Last:
    month = invoice.period_starts_on.isoformat()
    noted = [one for one in own if one.is_invoice and one.period_starts_on >= invoice.period_starts_on]
    maps = [one.fingerprints or {} for one in noted]
    known = [notes[month] for notes in maps if month in notes]
    return _Last(noted[-1].watermark or _NEVER, known[-1] if known else None, maps[-1].get(AGREEMENT))


def measured_months(clickhouse: ClickHouse, since: datetime) -> dict[date, datetime]:
    """The local months of which days were measured after `since`, and when last."""
    rows = clickhouse.rows(sql("billing/measured_months"), since=since)
    return {row["month"]: row["measured_at"] for row in rows}


def fingerprints(
    clickhouse: ClickHouse, organizations: Collection[str], months: Collection[date]
) -> dict[tuple[str, str, date], str]:
    """Hashes of what was measured, by organization, time zone and first day of a month; without one, nothing was."""
    if not organizations:
        return {}
    rows = clickhouse.rows(sql("billing/fingerprints"), organizations=sorted(organizations), months=sorted(months))
    return {(str(row["organization_id"]), row["time_zone"], row["month"]): row["fingerprint"] for row in rows}


def stored(postgres: Postgres, number: str) -> tuple[bytes, str]:
    """The bytes of an issued document, and whether it is issued or void by now. Raises Refused."""
    found = postgres.rows("SELECT document, status FROM billing.invoices WHERE number = %(n)s", {"n": number})
    if len(found) != 1:
        raise Refused(f"number: {number!r}; {'several sellers have' if found else 'there is no'} document of it")
    return bytes(found[0]["document"]), found[0]["status"]


class Stored(NamedTuple):
    """An issued document as it is stored; changed: whether it is to be computed again."""

    number: str
    document: bytes
    agreement: bytes | None
    changed: bool

    def read(self) -> Issued:
        """Raises Refused, naming the document, if it cannot be read: that harms its own agreement alone."""
        try:
            then = agreement(self.agreement) if self.agreement else None
            return Issued(document(self.document), then, self.changed)
        except Refused as error:
            raise Refused(f"document {self.number}: {error}; void it") from error


def issued(postgres: Postgres, agreements: Collection[UUID], changed: Collection[UUID]) -> dict[str, list[Stored]]:
    """All issued documents of these agreements, by agreement; changed: ids of the invoices to compute again."""
    found: dict[str, list[Stored]] = defaultdict(list)
    for row in postgres.rows(sql("billing/issued_bytes"), {"agreements": list(agreements)}):
        then = bytes(row["agreement"]) if row["agreement"] else None
        stored = Stored(row["number"], bytes(row["document"]), then, row["id"] in changed)
        found[str(row["agreement_id"])].append(stored)
    return dict(found)
