"""Writes a month's invoices to PostgreSQL, then to ClickHouse, so that a death in between costs nothing but a rerun."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import psycopg
from psycopg.rows import DictRow

from ninjait_pipelines.billing.invoice import Invoice
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines.resources.postgres import Postgres

# Any number will do, as long as nothing else takes PostgreSQL's advisory locks of this class.
_LOCK = 0x1A0E


class Superseded(Exception):
    """A newer run has written the month while this one computed it. Its invoices stand; nothing is to be done."""


def save_invoices(
    postgres: Postgres, clickhouse: ClickHouse, month: date, invoices: Sequence[Invoice], as_of: datetime
) -> None:
    """Makes `invoices` the month's only ones, in both stores; as_of: ClickHouse's clock before they were computed.

    1. PostgreSQL, in one transaction: it has all of the new invoices or all of the old. Dying in it: the old.
       Dying after it: the system of record is new, ClickHouse is old and says so by its as_of, and the check
       `stores_agree` does not pass. The rerun writes the same amounts to both.
    2. ClickHouse's invoices. Dying after it: its totals are new, its lines old; as above.
    3. ClickHouse's lines.

    Raises Superseded, before anything is written; StoreError.
    """
    heads = [head_row(invoice) for invoice in invoices]
    lines = [line for invoice in invoices for line in line_rows(invoice)]
    with postgres.transaction() as connection:
        _refuse_older(connection, month, as_of)
        _replace(connection, month, [{**head, "as_of": as_of} for head in heads], lines)
    clickhouse.replace_slice("invoices", mart_rows("invoices", heads), as_of, [month])
    clickhouse.replace_slice("invoice_lines", mart_rows("invoice_lines", lines), as_of, [month])


def head_row(invoice: Invoice) -> dict[str, Any]:
    """The invoice's row of invoices."""
    return {name: value for name, value in invoice._asdict().items() if name != "lines"}


def line_rows(invoice: Invoice) -> list[dict[str, Any]]:
    """The invoice's rows of invoice_lines."""
    head = {
        "invoice_id": invoice.id,
        "organization_id": invoice.organization_id,
        "period_starts_on": invoice.period_starts_on,
    }
    return [{**head, "line_number": number, **line._asdict()} for number, line in enumerate(invoice.lines, 1)]


def _refuse_older(connection: psycopg.Connection[DictRow], month: date, as_of: datetime) -> None:
    # Two runs of one month write one after the other, and the one that read its sources first does not win.
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCK, month.toordinal()))
    newer = connection.execute(
        "SELECT max(as_of) AS as_of FROM billing.invoices WHERE period_starts_on = %s AND as_of > %s", (month, as_of)
    ).fetchone()
    if newer and newer["as_of"]:
        raise Superseded(f"The invoices of {month:%Y-%m} are of {newer['as_of']}, newer than this run's {as_of}.")


def _replace(
    connection: psycopg.Connection[DictRow], month: date, heads: list[dict[str, Any]], lines: list[dict[str, Any]]
) -> None:
    ids = [head["id"] for head in heads]
    connection.execute(  # their lines go with them
        "DELETE FROM billing.invoices WHERE period_starts_on = %s AND NOT id = ANY(%s)", (month, ids)
    )
    connection.execute("DELETE FROM billing.invoice_lines WHERE invoice_id = ANY(%s)", (ids,))
    with connection.cursor() as cursor:
        cursor.executemany(sql("billing/save_invoice").encode(), heads)
        cursor.executemany(sql("billing/save_line").encode(), lines)
