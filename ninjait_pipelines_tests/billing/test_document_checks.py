"""The checks of documents fail where a cent, a document or a number is lost, or an issued document was changed."""

from datetime import UTC, date, datetime
from decimal import Decimal

import dagster as dg
import pyarrow as pa
import pytest

from ninjait_pipelines.billing import document_checks
from ninjait_pipelines.billing.documents import invoices
from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines_tests.billing.books import Books
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import faulty, passed, run

MAY = date(2026, 5, 1)
AT = datetime(2026, 9, 1, tzinfo=UTC)
SUMS = (document_checks.lines_add_up, document_checks.stores_agree)
ISSUED = (document_checks.issued_documents_are_unchanged, document_checks.numbers_have_no_gap)


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    """Two agreements with two lines each, at 19 %."""
    books = Books(shared_stores)
    books.seller()
    fee = {**item("flat", "0.33"), "product": "another"}
    for name in ("one", "two"):
        books.agreement(books.organization(name), item("flat", "100"), fee, tax={"category": "S", "rate": "19"})
    return books


def checked(
    stores: Stores, *checks: dg.AssetChecksDefinition, fails: bool = False, month: date = MAY
) -> dict[str, bool]:
    return passed(run(stores, invoices, *checks, key=month.isoformat(), fails=fails))


def _wrong_total(table: str, rows: pa.Table) -> pa.Table:
    if table != "invoices":
        return rows
    return mart_rows(table, [{**row, "total": row["total"] + Decimal("0.01")} for row in rows.to_pylist()])


def _lost_document(table: str, rows: pa.Table) -> pa.Table:
    return rows.slice(1) if table == "invoices" else rows


def _lost_line(table: str, rows: pa.Table) -> pa.Table:
    return rows.slice(1) if table == "invoice_lines" else rows


def test_the_stores_differ_when_clickhouse_is_a_cent_off_or_a_row_short(books: Books) -> None:
    assert all(checked(books.stores, *SUMS, *ISSUED).values())
    for fault, adds_up in ((_wrong_total, True), (_lost_document, False), (_lost_line, False)):
        found = checked(faulty(books.stores, fault), *SUMS, fails=True)
        assert found == {"lines_add_up": adds_up, "stores_agree": False}, fault


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing.invoice_lines SET amount = amount - 0.01 WHERE line_number = 1",
        "UPDATE billing.invoices SET tax_total = tax_total + 0.01, total = total + 0.01",
    ],
)
def test_lines_do_not_add_up_when_both_stores_are_equally_wrong(books: Books, change: str) -> None:
    """A superuser changed what was issued, and the run copied it."""
    finalise(books.stores.postgres, books.stores.clickhouse, MAY, force="x", clock=lambda: AT)
    with books.stores.postgres.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(change.encode())
    assert checked(books.stores, *SUMS, fails=True) == {"lines_add_up": False, "stores_agree": True}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("UPDATE billing.invoices SET net = net + 1, total = total + 1", "row does not say what its bytes say"),
        ("UPDATE billing.invoice_lines SET amount = amount + 1 WHERE line_number = 2", "lines are not those"),
        ("DELETE FROM billing.invoice_lines WHERE line_number = 2", "lines are not those"),
        ("UPDATE billing.invoices SET number = number || 'x'", "row does not say what its bytes say"),
    ],
)
def test_an_issued_document_that_a_superuser_changed_is_named(books: Books, change: str, problem: str) -> None:
    finalise(books.stores.postgres, books.stores.clickhouse, MAY, force="x", clock=lambda: AT)
    assert all(checked(books.stores, *SUMS, *ISSUED).values())
    with books.stores.postgres.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute(change.encode())
    result = run(books.stores, invoices, *ISSUED, key=MAY.isoformat())
    [failed] = [one for one in result.get_asset_check_evaluations() if not one.passed]
    assert failed.check_name == "issued_documents_are_unchanged"
    assert problem in str(failed.description)


def test_a_gap_is_found(books: Books) -> None:
    """The document of number 1 was deleted by a superuser."""
    finalise(books.stores.postgres, books.stores.clickhouse, MAY, force="x", clock=lambda: AT)
    with books.stores.postgres.transaction() as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("DELETE FROM billing.invoices WHERE series_number = 1")
    result = run(books.stores, invoices, document_checks.numbers_have_no_gap, key=MAY.isoformat())
    assert passed(result) == {"numbers_have_no_gap": False}
    [found] = result.get_asset_check_evaluations()
    assert "1 documents, numbers 2 to 2, the last that was taken is 2" in str(found.description)
