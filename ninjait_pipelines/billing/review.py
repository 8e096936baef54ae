"""The list that a person reviews before documents are issued: what is incomplete, what has findings, and totals beside
those of the month before."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec

from ninjait_pipelines.billing.drafts import Drawn, draw_up
from ninjait_pipelines.billing.finalise import why_not
from ninjait_pipelines.billing.reconciliation import findings
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres


class Reviewed(msgspec.Struct, frozen=True):
    """A draft. before: the total of the agreement's invoice of the month before, issued or draft. findings: devices
    that are silent and billed, or the reverse. completeness: of its least complete line. waits: why it is not issued.
    """

    agreement_id: str
    organization: str
    currency: str
    net: Decimal
    total: Decimal
    before: Decimal | None
    corrections: int
    completeness: Decimal
    findings: int
    waits: str | None


class Review(msgspec.Struct, frozen=True):
    """drafts: what would be issued, or waits. left_out: what could not be drawn up, with the reason."""

    drafts: list[Reviewed]
    left_out: dict[str, str]


def review(
    postgres: Postgres,
    clickhouse: ClickHouse,
    month: date,
    now: datetime,
    only: Collection[UUID] | None = None,
) -> Review:
    """What `finalise` would do with a month (its first day). Writes nothing."""
    left_out = LeftOut()
    drawn = draw_up(postgres, clickhouse, month, left_out, only)
    names = {str(row["id"]): row["name"] for row in postgres.rows("SELECT id, name FROM organizations")}
    before = _totals(postgres, (month - timedelta(days=1)).replace(day=1))
    found = _findings(
        postgres, clickhouse, month, None if only is None else {one.document.organization_id for one in drawn}
    )
    rows = [_reviewed(one, names, before, found[one.agreement.id], now) for one in drawn]
    return Review(sorted(rows, key=lambda row: (row.organization, row.agreement_id)), left_out.reasons)


def _findings(
    postgres: Postgres, clickhouse: ClickHouse, month: date, organizations: Collection[str] | None
) -> Counter[str]:
    """Findings per agreement, of these organizations or all: a device that another agreement bills is none."""
    asked = [None] if organizations is None else sorted(organizations)
    rows = [row for one in asked for row in findings(postgres, clickhouse, month, one, LeftOut())]
    return Counter(str(row["agreement_id"]) for row in rows)


def _reviewed(
    drawn: Drawn, names: Mapping[str, str], before: Mapping[str, Decimal], found: int, now: datetime
) -> Reviewed:
    document = drawn.document
    return Reviewed(
        agreement_id=document.agreement_id,
        organization=names[document.organization_id],
        currency=document.currency,
        net=document.net,
        total=document.total,
        before=before.get(document.agreement_id),
        corrections=sum(line.kind == "correction" for line in document.lines),
        completeness=_least(line.completeness for line in document.lines),
        findings=found,
        waits=why_not(document, now),
    )


def _least(shares: Iterable[Decimal]) -> Decimal:
    return min(shares, default=Decimal(1))


def _totals(postgres: Postgres, month: date) -> dict[str, Decimal]:
    rows = postgres.rows(sql("billing/totals_of_agreements"), {"month": month})
    return {str(row["agreement_id"]): row["total"] for row in rows}
