"""Checks of documents, by month: the same cents in both stores, and what is issued is whole and as it was."""

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

import dagster as dg

from ninjait_pipelines.billing.documents import invoices
from ninjait_pipelines.left_out import nothing_is_left_out
from ninjait_pipelines.marts import Window, check, none_of
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

invoices_left_nothing_out = nothing_is_left_out(invoices)


class Totals(NamedTuple):
    """What one store has of a document: status, number, net and total, and the sum of its lines."""

    status: str
    number: str
    net: Decimal
    total: Decimal
    lines: Decimal


@check(invoices, blocking=True)
def lines_add_up(window: Window, postgres: Postgres, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """The lines of every document add up to its net, to the last digit, in each store; and its tax is that of its
    lines."""
    stores = {
        "PostgreSQL": totals_in_postgres(postgres, window.day),
        "ClickHouse": totals_in_clickhouse(clickhouse, window.day),
    }
    wrong = [
        f"{name} {id_}: lines {one.lines}, net {one.net}"
        for name, totals in stores.items()
        for id_, one in totals.items()
        if one.net != one.lines
    ]
    taxed = postgres.rows(sql("billing/wrong_taxes"), {"month": window.day})
    wrong += [f"PostgreSQL {row['id']}: {row['problem']}" for row in taxed]
    counted = {f"invoices_{name.lower()}": len(totals) for name, totals in stores.items()}
    return none_of(wrong, "documents do not add up", metadata=counted)


@check(invoices, blocking=True)
def stores_agree(window: Window, postgres: Postgres, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """PostgreSQL and ClickHouse have the same documents, with the same status, number and amounts."""
    record, copy = totals_in_postgres(postgres, window.day), totals_in_clickhouse(clickhouse, window.day)
    wrong = [
        f"{id_}: {_text(record.get(id_))}, {_text(copy.get(id_))}"
        for id_ in record.keys() | copy.keys()
        if record.get(id_) != copy.get(id_)
    ]
    counted = {"invoices": len(record), "total_of_all": str(sum(one.total for one in record.values()))}
    return none_of(wrong, "documents differ", ". Rerun the month.", metadata=counted)


@check(invoices)
def issued_documents_are_unchanged(window: Window, postgres: Postgres) -> dg.AssetCheckResult:
    """The bytes of every issued document have the hash that was recorded, and say what its row and its lines say."""
    rows = postgres.rows(sql("billing/changed_documents"), {"month": window.day})
    wrong = [f"{row['number']}: {row['problem']}" for row in rows]
    return none_of(wrong, "issued documents differ from what was issued")


@check(invoices)
def numbers_have_no_gap(window: Window, postgres: Postgres) -> dg.AssetCheckResult:
    """Each series has all numbers from 1 to its last, each once."""
    # Whatever the month: a gap is in a series.
    rows = postgres.rows(sql("billing/gaps"))
    wrong = [f"seller {row['seller_id']}, {row['year']}: {row['problem']}" for row in rows]
    return none_of(wrong, "series have gaps")


all_document_checks = [
    invoices_left_nothing_out,
    lines_add_up,
    stores_agree,
    issued_documents_are_unchanged,
    numbers_have_no_gap,
]


def totals_in_postgres(postgres: Postgres, month: date) -> Mapping[UUID, Totals]:
    """The record's totals of a month; month: its first day."""
    rows = postgres.rows(sql("billing/totals_postgres"), {"month": month})
    return {row["id"]: Totals(*(row[name] for name in Totals._fields)) for row in rows}


def totals_in_clickhouse(clickhouse: ClickHouse, month: date) -> Mapping[UUID, Totals]:
    """The copy's totals of a month; month: its first day."""
    rows = clickhouse.rows(sql("billing/totals_clickhouse"), month=month)
    return {row["id"]: Totals(*(row[name] for name in Totals._fields)) for row in rows}


def _text(totals: Totals | None) -> str:
    return "missing" if totals is None else f"{totals.status} {totals.number} {totals.total:f} ({totals.lines:f})"
