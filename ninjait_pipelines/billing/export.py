"""A month's documents as rows for the tools in which a provider keeps its customers' agreements (ConnectWise, Autotask,
HaloPSA: additions), and the record of what was sent to them.

A row has the same key in every export, and a hash of what it says: a receiver that knows the key changes its row, and
one that has the hash has nothing to do. The numbers are those of the documents; nothing is computed here.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID, uuid5

import msgspec
import psycopg
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from ninjait_pipelines.billing.rating.agreement import Agreement, agreement
from ninjait_pipelines.billing.rating.document import Document, Line, document
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.postgres import Postgres

Change = Literal["new", "changed", "removed", "unchanged"]
# With these a spreadsheet begins a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a document. effective_date and cancelled_date are the item's, the second one the first day without it;
    quantity and amount are the line's. `invoice_number` is null in drafts."""

    key: UUID
    organization_id: UUID
    customer: str
    bill_to: str
    agreement_id: UUID
    purchase_order: str | None
    period: date
    product: str
    description: str
    kind: str
    starts_on: date
    ends_on: date
    quantity: Decimal
    unit: str
    unit_price: Decimal | None
    amount: Decimal
    currency: str
    effective_date: date | None
    cancelled_date: date | None
    invoice_number: str | None

    @property
    def hash(self) -> str:
        """SHA-256 of what the row says."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


class Exported(msgspec.Struct, frozen=True):
    """A row, and how it differs from what was sent last under its key."""

    change: Change
    row: Row


def export(
    postgres: Postgres, month: date, organization: UUID | None = None, only_changed: bool = False
) -> list[Exported]:
    """The rows of a month (its first day), of all organizations or of one; what was sent and is no longer there is
    `removed`, with a quantity and an amount of 0. only_changed: without what was sent as it is."""
    given = {"period": month, "organization_id": organization}
    rows = [row for one in postgres.rows(sql("billing/exported_documents"), given) for row in _rows(one)]
    last = {one["key"]: one for one in postgres.rows(sql("billing/exported_last"), given)}
    found = [Exported(_change(row, last.get(row.key)), row) for row in rows]
    found += _removed(last, {row.key for row in rows})
    return [one for one in found if not only_changed or one.change != "unchanged"]


def record(postgres: Postgres, exported: Sequence[Exported]) -> int | None:
    """Records what was sent, in one transaction, and returns the number of the batch; None where there is nothing.

    1. The caller writes the file. Dying before the record: the rows are sent again, under the same keys.
    2. Record. Dying in it: nothing is recorded, as above.
    """
    if not exported:
        return None
    with postgres.transaction() as connection:
        [found] = connection.execute("SELECT nextval('billing.export_batches') AS batch").fetchall()
        _insert(connection, int(found["batch"]), [one.row for one in exported])
        return int(found["batch"])


def as_csv(exported: Iterable[Exported]) -> str:
    """With a header. No text begins a formula when a spreadsheet opens it: tenants choose names."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["change", *Row.__struct_fields__, "hash"])
    for one in exported:
        writer.writerow([one.change, *(_cell(value) for value in msgspec.structs.astuple(one.row)), one.row.hash])
    return text.getvalue()


def as_json(exported: Iterable[Exported]) -> str:
    """A list of objects; decimals, ids and dates are strings."""
    rows = [{"change": one.change, **msgspec.structs.asdict(one.row), "hash": one.row.hash} for one in exported]
    return msgspec.json.format(msgspec.json.encode(rows)).decode() + "\n"


def _rows(stored: Mapping[str, Any]) -> Iterator[Row]:
    found = document(bytes(stored["document"]))
    frozen = bytes(stored["agreement"]) if stored["agreement"] else (stored["agreement_now"] or "").encode()
    agreed = agreement(frozen) if frozen else None
    seen: dict[UUID, int] = {}
    for line in found.lines:
        row = _row(found, line, agreed, stored["organization"])
        seen[row.key] = seen.get(row.key, 0) + 1  # lines of tiers or discounts of one item and day
        again = seen[row.key]
        yield row if again == 1 else msgspec.structs.replace(row, key=uuid5(row.key, str(again)))


def _row(found: Document, line: Line, agreed: Agreement | None, organization: str) -> Row:
    item = next((one for one in agreed.items if one.key == line.item), None) if agreed else None
    agreement_id = UUID(found.agreement_id)
    parts = (found.period_from, line.item, line.from_, line.price_version, line.kind, line.corrects)
    return Row(
        key=uuid5(agreement_id, "/".join(map(str, parts))),
        organization_id=UUID(found.organization_id),
        customer=organization,
        bill_to=found.bill_to.name if found.bill_to else organization,
        agreement_id=agreement_id,
        purchase_order=found.purchase_order,
        period=found.period_from,
        product=line.product,
        description=line.description,
        kind=line.kind,
        starts_on=line.from_,
        ends_on=line.to,
        quantity=line.quantity,
        unit=line.unit,
        unit_price=line.unit_price,
        amount=line.amount,
        currency=found.currency,
        effective_date=max(item.from_, agreed.term.from_) if item and agreed else None,
        cancelled_date=_first([item.to, agreed.term.to]) if item and agreed else None,
        invoice_number=found.number,
    )


def _first(days: Iterable[date | None]) -> date | None:
    return min((day for day in days if day is not None), default=None)


def _change(row: Row, last: Mapping[str, Any] | None) -> Change:
    if last is None:
        return "new"
    return "unchanged" if last["hash"] == row.hash else "changed"


def _removed(last: Mapping[UUID, Mapping[str, Any]], there: set[UUID]) -> Iterator[Exported]:
    for key, one in sorted(last.items()):
        if key not in there:
            sent: Row = msgspec.convert(one["sent"], Row)
            row = msgspec.structs.replace(sent, quantity=Decimal(0), amount=Decimal(0))
            yield Exported("unchanged" if row.hash == one["hash"] else "removed", row)


def _insert(connection: psycopg.Connection[DictRow], batch: int, rows: Sequence[Row]) -> None:
    statement = (
        "INSERT INTO billing.exports (batch, key, organization_id, period, hash, sent) VALUES (%s, %s, %s, %s, %s, %s)"
    )
    values = [
        (batch, row.key, row.organization_id, row.period, row.hash, Jsonb(msgspec.to_builtins(row))) for row in rows
    ]
    with connection.cursor() as cursor:
        cursor.executemany(statement.encode(), values)


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(FORMULA) else value
