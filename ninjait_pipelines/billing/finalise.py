"""Documents are issued, voided and credited here: each in one transaction of PostgreSQL, with the reasons of people.

A document is drawn up again from what is measured right before it is issued: a draft may be hours old, and what it
lacks could only be corrected a month later. Numbers follow one another without gaps, because a number and its document
are committed together, or not at all.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

import msgspec
import psycopg
from iso4217 import Currency
from psycopg.rows import DictRow

from ninjait_pipelines.billing.drafts import Drawn, draw_up, frozen, known
from ninjait_pipelines.billing.history import entries
from ninjait_pipelines.billing.rating.agreement import Party, Refused
from ninjait_pipelines.billing.rating.credit import credit_note
from ninjait_pipelines.billing.rating.document import Document, canonical, document, plain, sha256
from ninjait_pipelines.billing.write import copy_month, lock_agreement, state_of, write_drafts
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.settings import THRESHOLDS

GRACE = timedelta(days=THRESHOLDS.invoice_grace_days)
# A draft that became outdated while it was being issued is drawn up again so often.
ATTEMPTS = 5
Clock = Callable[[], datetime]


def clock() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class Outdated(Exception):
    """Documents of the agreement were issued or voided since the draft was drawn up."""


class Seller(NamedTuple):
    """A row of billing.sellers."""

    id: UUID
    name: str
    address: list[str]
    tax_id: str | None
    time_zone: str
    number_prefix: str
    numbered_by_year: bool
    payment_days: int

    @property
    def party(self) -> Party:
        return Party(name=self.name, address=tuple(self.address), tax_id=self.tax_id)

    def day(self, at: datetime) -> date:
        """The seller's day of an instant."""
        return at.astimezone(ZoneInfo(self.time_zone)).date()

    def year(self, at: datetime) -> int:
        """The year of the series; 0 if there is only one."""
        return self.day(at).year if self.numbered_by_year else 0

    def number(self, year: int, count: int) -> str:
        """As it is printed: R-2026-000123, or R-000123."""
        return f"{self.number_prefix}{f'{year}-' if year else ''}{count:06}"


class Finalised(NamedTuple):
    """issued: what was issued, in order. waiting: what was not, by agreement, each with its reason."""

    issued: list[Document]
    waiting: dict[str, str]


def finalise(
    postgres: Postgres,
    clickhouse: ClickHouse,
    month: date,
    only: Collection[UUID] | None = None,
    force: str | None = None,
    clock: Clock = clock,
) -> Finalised:
    """Issues the documents of a month (its first day), of all agreements or `only` some.

    1. Draw up what is not issued yet. Dying after it: nothing has happened.
    2. Issue one after the other, see `issue`. Dying among them: those are issued, and a rerun goes on with the others.
    3. Copy the month to ClickHouse. Dying before: the copy shows drafts, `stores_agree` says so, and a rerun copies it.

    A document whose month ended less than the grace time ago, or whose usage is incomplete, waits, unless there is a
    reason to `force` it.
    """
    found, wanted, outdated = Finalised([], {}), only, list[UUID]()
    for _ in range(ATTEMPTS):
        for one in outdated:  # drawn up again, or issued by another run since
            found.waiting.pop(str(one))
        left_out = LeftOut()
        outdated = _issue_all(postgres, draw_up(postgres, clickhouse, month, left_out, wanted), force, clock, found)
        found.waiting.update({name: why for name, why in left_out.reasons.items() if _is_asked(name, only)})
        if not outdated:
            break
        wanted = outdated
    copy_month(postgres, clickhouse, month)
    return found


def _is_asked(name: str, only: Collection[UUID] | None) -> bool:
    """Whether what is left out is one of the agreements that were asked for."""
    return only is None or any(str(one) in name for one in only)


def _issue_all(
    postgres: Postgres, drafts: Iterable[Drawn], force: str | None, clock: Clock, found: Finalised
) -> list[UUID]:
    """Issues what need not wait; returns the agreements whose draft was outdated."""
    outdated = []
    for drawn in drafts:
        if why := why_not(drawn.document, clock(), force):
            found.waiting[drawn.agreement.id] = why
            continue
        try:
            found.issued.append(issue(postgres, drawn, force, clock))
            found.waiting.pop(drawn.agreement.id, None)
        except Outdated:
            found.waiting[drawn.agreement.id] = "its other documents are being issued or voided; try again"
            outdated.append(UUID(drawn.agreement.id))
    return outdated


def why_not(draft: Document, now: datetime, force: str | None = None) -> str | None:
    """Why a document waits; None where it need not. A reason to force it does not issue a month that has not begun."""
    if now < draft.period_start:
        return f"its month begins at {draft.period_start:%Y-%m-%d %H:%M} UTC"
    if force:
        return None
    if now < draft.period_end + GRACE:
        return f"its grace time ends at {draft.period_end + GRACE:%Y-%m-%d %H:%M} UTC"
    incomplete = sorted({line.description for line in draft.lines if line.completeness < 1})
    return f"usage is incomplete: {', '.join(incomplete)}" if incomplete else None


def issue(postgres: Postgres, drawn: Drawn, reason: str | None = None, clock: Clock = clock) -> Document:
    """Issues a draft, in one transaction: dying anywhere in it, nothing has happened, and no number is taken.

    1. Lock the agreement, and see that its other documents are those that the draft took into account.
    2. Take the next number; its series is locked until the end.
    3. Write the document with number, dates, parties, agreement and usage; the database keeps it from now on.

    Raises Outdated; Refused if there is no seller; StoreError.
    """
    agreement_id = UUID(drawn.agreement.id)
    with postgres.transaction() as connection:
        lock_agreement(connection, agreement_id)
        if known(entries(connection, [agreement_id]).get(drawn.agreement.id, ())) != drawn.known:
            raise Outdated(drawn.agreement.id)
        at = clock()
        evidence = {"agreement": frozen(drawn.agreement), "usage": frozen(drawn.usage), "reason": reason}
        state = state_of(drawn, drawn.watermark)
        seller = _seller(connection, agreement_id)
        return _issue(connection, drawn.id, drawn.document, seller, at, state, evidence)


def void(postgres: Postgres, clickhouse: ClickHouse, number: str, reason: str, clock: Clock = clock) -> Document:
    """Voids a document, which keeps its number and bytes; its month is drafted again. Returns it.

    1. PostgreSQL, in one transaction. Dying in it: nothing has happened. Dying after it: the copy shows it as issued,
       and `stores_agree` says so; a rerun finds it void and goes on.
    2. The draft of its month. Dying before: the next run of the month, or of this command, draws it up.
    3. The copy in ClickHouse.

    Raises Refused if there is none of this number, or another document corrects or credits it.
    """
    with postgres.transaction() as connection:
        row = _locked(connection, number)
        if row["status"] == "issued":
            _refuse_dependents(connection, row["id"], number)
            connection.execute(
                "UPDATE billing.invoices SET status = 'void', voided_at = %s, void_reason = %s WHERE id = %s",
                (clock(), reason, row["id"]),
            )
    if row["kind"] == "invoice":
        _draft_again(postgres, clickhouse, row["agreement_id"], row["period_starts_on"])
    copy_month(postgres, clickhouse, row["period_starts_on"])
    return document(bytes(row["document"]))


def _draft_again(postgres: Postgres, clickhouse: ClickHouse, agreement_id: UUID, month: date) -> None:
    as_of = clickhouse.now()
    drawn = draw_up(postgres, clickhouse, month, only={agreement_id})
    with postgres.transaction() as connection:
        write_drafts(connection, [(one.id, one.document, state_of(one, as_of)) for one in drawn])


def credit(
    postgres: Postgres,
    clickhouse: ClickHouse,
    number: str,
    reason: str,
    amounts: Mapping[int, Decimal | None] | None = None,
    clock: Clock = clock,
) -> Document:
    """Issues a credit note for an invoice, or for parts of its lines (see `credit_note`), and returns it.

    1. PostgreSQL, in one transaction. Dying in it: nothing has happened. Dying after it: the copy lacks it, and
       `stores_agree` says so; the same credit again, for the same reason, finds it and copies the month.
    2. The copy in ClickHouse.

    Raises Refused.
    """
    with postgres.transaction() as connection:
        row = _locked(connection, number)
        id_ = _credit_id(row["id"], reason, amounts)
        there = connection.execute("SELECT status, document FROM billing.invoices WHERE id = %s", (id_,)).fetchone()
        if there and there["status"] == "void":
            raise Refused(f"{number}: it was credited so, and that was voided; give another reason")
        found = (
            document(bytes(there["document"])) if there else _new_credit(connection, row, id_, reason, amounts, clock())
        )
    copy_month(postgres, clickhouse, found.period_from)
    return found


def _new_credit(
    connection: psycopg.Connection[DictRow],
    row: DictRow,
    id_: UUID,
    reason: str,
    amounts: Mapping[int, Decimal | None] | None,
    at: datetime,
) -> Document:
    if row["status"] != "issued":
        raise Refused(f"{row['number']}: it is {row['status']}; only an issued invoice can be credited")
    invoice = document(bytes(row["document"]))
    query = "SELECT credits, document FROM billing.invoices WHERE agreement_id = %s AND status = 'issued'"
    rows = connection.execute(query, (row["agreement_id"],)).fetchall()
    before = [document(bytes(one["document"])) for one in rows if one["credits"] == row["id"]]
    later = [document(bytes(one["document"])) for one in rows if one["credits"] is None]
    draft = credit_note(invoice, before, reason, Currency(invoice.currency).exponent or 0, amounts, later)
    seller = _seller_of(connection, row["seller_id"])._replace(payment_days=0)
    state = {"days_covered": row["days_covered"], "days_in_period": row["days_in_period"], "as_of": row["as_of"]}
    state |= {"watermark": None, "fingerprints": None}
    evidence = {"agreement": None, "usage": None, "reason": reason}
    return _issue(connection, id_, draft, seller, at, state, {**evidence, "credits": row["id"]})


def _issue(
    connection: psycopg.Connection[DictRow],
    id_: UUID,
    draft: Document,
    seller: Seller,
    at: datetime,
    state: dict[str, Any],
    evidence: dict[str, Any],
) -> Document:
    year = seller.year(at)
    count = _next_number(connection, seller.id, year)
    due = seller.day(at) + timedelta(days=seller.payment_days)
    found = msgspec.structs.replace(
        draft,
        status="issued",
        number=seller.number(year, count),
        issued_at=at,
        due_on=due,
        seller=seller.party,
    )
    document(canonical(found))  # what could not be read again is not issued
    write_drafts(connection, [(id_, found, state)])
    connection.execute(
        sql("billing/issue").encode(),
        {
            "id": id_,
            "seller_id": seller.id,
            "series_year": year,
            "series_number": count,
            "number": found.number,
            "issued_at": at,
            "due_on": due,
            "sha256": sha256(found),
            "credits": None,
            **evidence,
        },
    )
    return found


def _next_number(connection: psycopg.Connection[DictRow], seller: UUID, year: int) -> int:
    key = (seller, year)
    connection.execute("INSERT INTO billing.series (seller_id, year) VALUES (%s, %s) ON CONFLICT DO NOTHING", key)
    counted = "UPDATE billing.series SET last_number = last_number + 1 WHERE seller_id = %s AND year = %s"
    [row] = connection.execute(f"{counted} RETURNING last_number".encode(), key).fetchall()
    return int(row["last_number"])


def _seller(connection: psycopg.Connection[DictRow], agreement_id: UUID) -> Seller:
    default = "(SELECT id FROM billing.sellers WHERE is_default)"
    query = f"SELECT coalesce(seller_id, {default}) AS id FROM billing.agreements WHERE id = %s"  # noqa: S608
    row = connection.execute(query.encode(), (agreement_id,)).fetchone()
    if row is None or row["id"] is None:
        raise Refused(
            f"agreement {agreement_id}: it has no seller, and there is no default one; ninjait billing seller enters it"
        )
    return _seller_of(connection, row["id"])


def _seller_of(connection: psycopg.Connection[DictRow], id_: UUID) -> Seller:
    [row] = connection.execute("SELECT * FROM billing.sellers WHERE id = %s", (id_,)).fetchall()
    return Seller(*(row[name] for name in Seller._fields))


def _locked(connection: psycopg.Connection[DictRow], number: str) -> DictRow:
    """The document of a number. Until the transaction ends no other one issues, voids or credits for its agreement."""
    query = "SELECT * FROM billing.invoices WHERE number = %s"
    found = connection.execute(query, (number,)).fetchall()
    if len(found) != 1:
        raise Refused(f"number: {number!r}; {'several sellers have' if found else 'there is no'} document of it")
    lock_agreement(connection, found[0]["agreement_id"])
    [row] = connection.execute(query, (number,)).fetchall()
    return row


def _refuse_dependents(connection: psycopg.Connection[DictRow], id_: UUID, number: str) -> None:
    rows = connection.execute(sql("billing/dependents").encode(), {"id": id_, "number": number}).fetchall()
    if rows:
        named = ", ".join(row["number"] for row in rows)
        raise Refused(f"{number}: {named} corrects or credits it; void that first")


def _credit_id(invoice: UUID, reason: str, amounts: Mapping[int, Decimal | None] | None) -> UUID:
    wanted = sorted(
        (number, None if amount is None else str(plain(amount))) for number, amount in (amounts or {}).items()
    )
    return uuid5(invoice, msgspec.json.encode(["credit", reason, wanted]).decode())
