"""Writes documents: drafts and their lines to PostgreSQL, the record; and the copy of a month to ClickHouse."""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from ninjait_pipelines.billing.drafts import Drawn
from ninjait_pipelines.billing.rating.document import Document, Line, canonical
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines.resources.postgres import Postgres

# Any numbers will do, as long as nothing else takes PostgreSQL's advisory locks of these classes.
_MONTH, _AGREEMENT = 0x1A0E, 0x1A0F


class Superseded(Exception):
    """A newer run has written the month while this one computed it. Its drafts stand; nothing is to be done."""


def save_drafts(
    postgres: Postgres, clickhouse: ClickHouse, month: date, drawn: Sequence[Drawn], as_of: datetime
) -> None:
    """Makes `drawn` the month's only drafts, in both stores; as_of: ClickHouse's clock before they were computed.

    1. PostgreSQL, in one transaction: it has all of the new drafts or all of the old. What was issued in the meantime
       stays. Dying in it: the old. Dying after it: the record is new and the copy old, which the check `stores_agree`
       says; the rerun writes the same amounts to both.
    2. The copy in ClickHouse, see `copy_month`.

    Raises Superseded, before anything is written; StoreError.
    """
    with postgres.transaction() as connection:
        _refuse_older(connection, month, as_of)
        ids = [one.id for one in drawn]
        connection.execute(  # their lines go with them
            "DELETE FROM billing.invoices WHERE period_starts_on = %s AND status = 'draft' AND NOT id = ANY(%s)",
            (month, ids),
        )
        write_drafts(connection, [(one.id, one.document, state_of(one, as_of)) for one in drawn])
    copy_month(postgres, clickhouse, month)


def copy_month(postgres: Postgres, clickhouse: ClickHouse, month: date) -> None:
    """Makes ClickHouse's copy of a month what PostgreSQL has; the version is taken before PostgreSQL is read, so that
    of two at once the one that read last counts.

    1. Documents. Dying after it: totals are new, lines old; `stores_agree` fails until any run copies the month.
    2. Lines.
    """
    version = clickhouse.now()
    with postgres.transaction() as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        heads, lines = (
            connection.execute(sql(f"billing/copied_{name}").encode(), {"month": month}).fetchall()
            for name in ("invoices", "lines")
        )
    clickhouse.replace_slice("invoices", mart_rows("invoices", heads), version, [month])
    clickhouse.replace_slice("invoice_lines", mart_rows("invoice_lines", lines), version, [month])


def lock_agreement(connection: psycopg.Connection[DictRow], agreement_id: UUID) -> None:
    """Until the transaction ends, no other one issues, voids or credits documents of the agreement."""
    connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_AGREEMENT, str(agreement_id)))


def state_of(drawn: Drawn, as_of: datetime) -> dict[str, Any]:
    """What the record has of a draft beside the document."""
    return {
        "days_covered": drawn.days_covered,
        "days_in_period": drawn.days_in_period,
        "as_of": as_of,
        "watermark": drawn.watermark,
        "fingerprints": Jsonb(drawn.fingerprints),
    }


def write_drafts(
    connection: psycopg.Connection[DictRow], drafts: Collection[tuple[UUID, Document, dict[str, Any]]]
) -> None:
    """Inserts drafts with their lines, or brings them up to date; one that was issued in the meantime stays."""
    with connection.cursor() as cursor:
        cursor.executemany(sql("billing/save_invoice").encode(), [head_row(*one) for one in drafts])
        query = "SELECT id FROM billing.invoices WHERE id = ANY(%s) AND status = 'draft' FOR UPDATE"
        open_ = {row["id"] for row in cursor.execute(query, ([id_ for id_, *_ in drafts],))}
        cursor.execute("DELETE FROM billing.invoice_lines WHERE invoice_id = ANY(%s)", (list(open_),))
        lines = [row for id_, document, _ in drafts if id_ in open_ for row in line_rows(id_, document)]
        cursor.executemany(sql("billing/save_line").encode(), lines)


def head_row(id_: UUID, document: Document, state: dict[str, Any]) -> dict[str, Any]:
    """The document's row of billing.invoices, as a draft."""
    same = (
        "organization_id",
        "agreement_id",
        "kind",
        "period_start",
        "period_end",
        "currency",
        "net",
        "tax_total",
        "total",
    )
    return {
        "id": id_,
        "period_starts_on": document.period_from,
        "period_ends_on": document.period_to,
        "document": canonical(document),
        **{name: getattr(document, name) for name in same},
        **state,
    }


def line_rows(id_: UUID, document: Document) -> list[dict[str, Any]]:
    """The document's rows of billing.invoice_lines."""
    head = {"invoice_id": id_, "organization_id": document.organization_id}
    return [{**head, "line_number": number, **_line_row(line)} for number, line in enumerate(document.lines, 1)]


def _line_row(line: Line) -> dict[str, Any]:
    row = {name: getattr(line, name) for name in line.__struct_fields__ if name not in ("from_", "to", "parts")}
    return {**row, "starts_on": line.from_, "ends_on": line.to}


def _refuse_older(connection: psycopg.Connection[DictRow], month: date, as_of: datetime) -> None:
    # Two runs of one month write one after the other, and the one that read its sources first does not win.
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_MONTH, month.toordinal()))
    drafts = "SELECT max(as_of) AS as_of FROM billing.invoices WHERE period_starts_on = %s AND status = 'draft'"
    newer = connection.execute(f"{drafts} AND as_of > %s".encode(), (month, as_of)).fetchone()
    if newer and newer["as_of"]:
        raise Superseded(f"The drafts of {month:%Y-%m} are of {newer['as_of']}, newer than this run's {as_of}.")
