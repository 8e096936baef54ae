"""`ninjait billing draft|finalise|void|credit|seller`: documents of agreements, from draft to what is issued."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ninjait_pipelines.cli.output import Json, counted, fail, opened_stores, print_json, print_table, safe, say

if TYPE_CHECKING:
    from collections.abc import Collection

    from ninjait_pipelines.billing.rating.document import Document
    from ninjait_pipelines.billing.review import Review
    from ninjait_pipelines.resources.postgres import Postgres

Month = Annotated[str, typer.Option(help="The month, in each agreement's time zone.", metavar="YYYY-MM")]
Agreements = Annotated[list[str] | None, typer.Option("--agreement", help="Only this agreement; may be repeated.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the document.")]
Number = Annotated[str, typer.Argument(help="The number of an issued document.")]


def register(billing: typer.Typer) -> None:
    """Adds the commands to `ninjait billing`."""
    for command in (draft, finalise, void, credit, seller):
        billing.command()(command)


def draft(period: Month, json: Json = False) -> None:
    """Draw up the drafts of a month again, as the asset `invoices` does, and list them.

    Example: ninjait billing draft --period 2026-05
    """
    from ninjait_pipelines.billing.drafts import draw_up
    from ninjait_pipelines.billing.review import review
    from ninjait_pipelines.billing.write import Superseded, save_drafts

    month = month_of(period)
    with opened_stores() as stores:
        as_of = stores.clickhouse.now()
        drawn = draw_up(stores.postgres, stores.clickhouse, month)
        try:
            save_drafts(stores.postgres, stores.clickhouse, month, drawn, as_of)
        except Superseded as error:
            say(str(error), err=True)
        found = review(stores.postgres, stores.clickhouse, month, datetime.now(UTC))
    _print_review(found, json)


def finalise(
    period: Month,
    agreement: Agreements = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be issued, and issue nothing.")] = False,
    force: Annotated[
        str | None, typer.Option(help="Why documents are issued before their time, or incomplete.")
    ] = None,
    json: Json = False,
) -> None:
    """Issue the documents of a month: they get their numbers, and nothing changes them any more.

    A month waits for its end and INVOICE_GRACE_DAYS, a document for all of its usage, unless there is a reason to
    --force it. Review the list of --dry-run first: what is incomplete, findings, totals beside the month before.

    Example: ninjait billing finalise --period 2026-05 --dry-run
    """
    from ninjait_pipelines.billing import finalise as issuing
    from ninjait_pipelines.billing.review import review

    month, only = month_of(period), _ids(agreement)
    with opened_stores() as stores:
        _check_known(stores.postgres, only or ())
        if dry_run:
            _print_review(review(stores.postgres, stores.clickhouse, month, issuing.clock(), only), json)
            return
        found = issuing.finalise(stores.postgres, stores.clickhouse, month, only, _reason(force))
    if json:
        print_json({"issued": [_summary(one) for one in found.issued], "waiting": found.waiting})
    else:
        for one in found.issued:
            say(f"{one.number}  {one.total} {one.currency}  {safe(_payer(one))}")
        for name, why in sorted(found.waiting.items()):
            say(f"{name} waits: {why}")
        say(f"{counted(len(found.issued), 'document')} issued, {len(found.waiting):,} waiting")
    if found.waiting:
        raise typer.Exit(1)


def void(number: Number, reason: Reason, json: Json = False) -> None:
    """Void an issued document: it keeps its number and its bytes, and its month is drafted again.

    Example: ninjait billing void 2026-000017 --reason "wrong customer"
    """
    from ninjait_pipelines.billing import finalise as issuing

    with opened_stores() as stores:
        found = issuing.void(stores.postgres, stores.clickhouse, number, _reason(reason) or "")
    print_json(_summary(found) | {"status": "void"}) if json else say(f"{number} is void")


def credit(
    number: Number,
    reason: Reason,
    line: Annotated[list[int] | None, typer.Option(help="A line to credit, from 1; may be repeated.")] = None,
    amount: Annotated[list[str] | None, typer.Option(help="How much of each --line, without tax; else all.")] = None,
    json: Json = False,
) -> None:
    """Credit an issued invoice, or some of its lines: a document of its own, never more than was billed.

    Typed again with the same reason and amounts, it credits nothing more.

    Example: ninjait billing credit 2026-000017 --reason "outage on 3 May" --line 2 --amount 10.00
    """
    from ninjait_pipelines.billing import finalise as issuing

    amounts = _amounts(line or [], amount or [])
    with opened_stores() as stores:
        found = issuing.credit(stores.postgres, stores.clickhouse, number, _reason(reason) or "", amounts)
    print_json(_summary(found)) if json else say(f"{found.number} credits {number}: {found.total} {found.currency}")


def seller(
    name: Annotated[str, typer.Option(help="As printed.")],
    address: Annotated[list[str] | None, typer.Option(help="A line of the address; may be repeated.")] = None,
    tax_id: Annotated[str | None, typer.Option(help="Tax or VAT number, as printed.")] = None,
    time_zone: Annotated[str, typer.Option(help="Decides the date of a document.")] = "UTC",
    prefix: Annotated[str, typer.Option(help="What numbers begin with.")] = "",
    by_year: Annotated[
        bool, typer.Option("--by-year/--continuous", help="Whether numbers begin at 1 each year.")
    ] = True,
    payment_days: Annotated[int, typer.Option(help="Days until a document is due.")] = 14,
) -> None:
    """Enter who issues documents, or change it, by name; the first one is that of agreements without a seller.

    Needs the rights of the role that migrates. Issued documents keep what stood there then.

    Example: ninjait billing seller --name "Provider GmbH" --address "Street 1" --address "10115 Berlin" --tax-id DE1
    """
    from ninjait_pipelines.resources.clickhouse import sql

    given: dict[str, object] = {"name": name, "address": address or [], "tax_id": tax_id, "time_zone": time_zone}
    given |= {"number_prefix": prefix, "numbered_by_year": by_year, "payment_days": payment_days}
    with opened_stores() as stores, stores.postgres.transaction() as connection:
        [row] = connection.execute(sql("billing/enter_seller").encode(), given).fetchall()
    say(str(row["id"]))


def month_of(text: str) -> date:
    """The first day of a month that was typed."""
    try:
        month = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        fail(f"--period {text!r} is no month; write it as 2026-02")
    if not 1970 <= month.year < 2149:
        fail(f"--period {text!r} is not from 1970-01 to 2148-12")
    return month


def _ids(texts: list[str] | None) -> set[UUID] | None:
    try:
        return {UUID(text) for text in texts} if texts else None
    except ValueError:
        fail(f"--agreement {', '.join(map(repr, texts or []))}: an id is a UUID")


def _check_known(postgres: Postgres, ids: Collection[UUID]) -> None:
    rows = postgres.rows("SELECT id FROM billing.agreements WHERE id = ANY(%(ids)s)", {"ids": list(ids)})
    for unknown in sorted(set(ids) - {row["id"] for row in rows}):
        fail(f"--agreement '{unknown}': there is none of this id; billing.agreements has those that there are")


def _reason(text: str | None) -> str | None:
    if text is not None and not 1 <= len(text.strip()) <= 500:
        fail(f"the reason has {len(text.strip())} characters; it must have 1 to 500")
    return text and text.strip()


def _amounts(lines: list[int], amounts: list[str]) -> dict[int, Decimal | None] | None:
    if amounts and len(amounts) != len(lines):
        fail(
            f"--amount is there {len(amounts)} times, --line {len(lines)} times; give an amount for each line, or none"
        )
    if len(set(lines)) != len(lines):
        fail("--line: each line once")
    try:
        wanted: list[Decimal | None] = [Decimal(text) for text in amounts] or [None] * len(lines)
    except InvalidOperation:
        fail(f"--amount {', '.join(map(repr, amounts))}: an amount is a number such as 10.00")
    return dict(zip(lines, wanted, strict=True)) or None


def _summary(document: Document) -> dict[str, object]:
    names = ("number", "kind", "status", "agreement_id", "organization_id", "currency", "net", "tax_total", "total")
    return {name: getattr(document, name) for name in (*names, "issued_at", "due_on", "period_from", "credits")}


def _payer(document: Document) -> str:
    return document.bill_to.name if document.bill_to else document.organization_id


def _print_review(found: Review, json: bool) -> None:
    if json:
        print_json(found)
        return
    columns = ("organization", "agreement", "net", "total", "month before", "complete", "findings", "corrections", "")
    rows = [
        (
            one.organization,
            one.agreement_id,
            f"{one.net} {one.currency}",
            f"{one.total} {one.currency}",
            "" if one.before is None else f"{one.before}",
            f"{one.completeness:.1%}",
            f"{one.findings}",
            f"{one.corrections}",
            f"waits: {one.waits}" if one.waits else "",
        )
        for one in found.drafts
    ]
    print_table(columns, rows)
    for name, why in sorted(found.left_out.items()):
        say(f"{name} is left out: {why}")
    ready = sum(one.waits is None for one in found.drafts)
    say(f"{counted(len(found.drafts), 'draft')}, {ready:,} ready, {len(found.left_out):,} left out")
