"""What is exported has the numbers of the documents and the same key each time, and what was sent is recorded once."""

import csv
import io
import json
import uuid
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest

from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.export import Exported, as_csv, as_json, export, record
from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.billing.write import save_drafts
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import Killed, killed

MAY = date(2026, 5, 1)


@pytest.fixture
def books(shared_stores: Stores) -> Books:
    books = Books(shared_stores)
    books.seller()
    return books


@pytest.fixture
def acme(books: Books) -> uuid.UUID:
    """5.00 a device until 20 May, one device; 100.00 a month; a name that a spreadsheet would run."""
    acme = books.organization('=HYPERLINK("http://x","acme")')
    fee = item("flat", "100", description="@fee")
    books.agreement(acme, item("device", "5.00", to="2026-05-21"), fee, purchase_order="PO 17")
    books.device(acme, 1)
    draw(books)
    return acme


def draw(books: Books) -> None:
    """Measures May and draws its drafts up, as the asset does."""
    for one in list(books._zones):
        books.used(one, days_of(MAY))
    books.measure(days_of(MAY))
    stores = books.stores
    drawn = draw_up(stores.postgres, stores.clickhouse, MAY)
    save_drafts(stores.postgres, stores.clickhouse, MAY, drawn, stores.clickhouse.now())


def exported(books: Books, **more: Any) -> list[Exported]:
    return export(books.stores.postgres, MAY, **more)


def seen(rows: list[Exported]) -> list[tuple[str, str, str, str]]:
    return [(one.change, one.row.product, str(one.row.quantity), str(one.row.amount)) for one in rows]


def test_a_row_per_line_of_the_document(books: Books, acme: uuid.UUID) -> None:
    device, flat = (one.row for one in exported(books))
    assert (device.product, str(device.unit_price), str(device.amount)) == ("device", "5", "3.23")
    assert (str(device.quantity), device.unit) == ("0.645161", "device-months")
    assert (device.effective_date, device.cancelled_date) == (date(2025, 12, 1), date(2026, 5, 21))
    assert (device.organization_id, device.purchase_order, device.invoice_number) == (acme, "PO 17", None)
    assert (flat.effective_date, flat.cancelled_date, str(flat.amount)) == (date(2025, 12, 1), None, "100.00")


def test_only_what_changed_is_sent_again(books: Books, acme: uuid.UUID) -> None:
    first = exported(books, only_changed=True)
    assert seen(first) == [("new", "device", "0.645161", "3.23"), ("new", "flat", "1", "100.00")]
    assert record(books.stores.postgres, first)
    assert exported(books, only_changed=True) == []
    assert [one.change for one in exported(books)] == ["unchanged", "unchanged"]
    books.device(acme, 2)
    draw(books)
    [changed] = exported(books, only_changed=True)
    assert (changed.change, str(changed.row.amount), changed.row.key) == ("changed", "6.45", first[0].row.key)
    assert changed.row.hash != first[0].row.hash


def test_an_issued_invoice_gives_its_number_to_the_same_rows(books: Books, acme: uuid.UUID) -> None:
    record(books.stores.postgres, exported(books))
    later = datetime(2026, 9, 1, tzinfo=UTC)
    finalise(books.stores.postgres, books.stores.clickhouse, MAY, clock=lambda: later)
    again = exported(books, only_changed=True)
    assert {(one.change, one.row.invoice_number) for one in again} == {("changed", "2026-000001")}
    assert {one.row.key for one in again} == {one.row.key for one in exported(books)}


def test_what_is_gone_is_removed_once(books: Books, acme: uuid.UUID) -> None:
    record(books.stores.postgres, exported(books))
    with books.stores.postgres.transaction() as connection:
        connection.execute("DELETE FROM billing.agreement_items WHERE kind = 'device'")
    draw(books)
    removed = exported(books, only_changed=True)
    assert seen(removed) == [("removed", "device", "0", "0")]
    record(books.stores.postgres, removed)
    assert exported(books, only_changed=True) == []


def test_a_death_before_the_record_sends_the_same_keys_again(books: Books, acme: uuid.UUID) -> None:
    first = exported(books, only_changed=True)
    with killed(psycopg.Cursor, "executemany", after=True), pytest.raises(Killed):
        record(books.stores.postgres, first)
    assert books.stores.postgres.rows("SELECT count(*) AS n FROM billing.exports") == [{"n": 0}]
    assert exported(books, only_changed=True) == first


def test_organizations_are_exported_apart(books: Books, acme: uuid.UUID) -> None:
    other = books.organization("other")
    books.agreement(other, item("flat", "7"))
    draw(books)
    record(books.stores.postgres, exported(books))
    assert seen(exported(books, organization=other)) == [("unchanged", "flat", "1", "7.00")]
    assert exported(books, organization=other, only_changed=True) == []


def test_no_cell_is_a_formula(books: Books, acme: uuid.UUID) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(exported(books)))))
    assert rows[0]["customer"] == '\'=HYPERLINK("http://x","acme")'
    assert (rows[1]["description"], rows[1]["amount"], rows[1]["cancelled_date"]) == ("'@fee", "100.00", "")
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]


def test_json_has_the_names_as_they_are(books: Books, acme: uuid.UUID) -> None:
    first, second = json.loads(as_json(exported(books)))
    assert first["customer"] == '=HYPERLINK("http://x","acme")'
    assert (second["amount"], second["cancelled_date"], second["change"]) == ("100.00", None, "new")
    assert second["hash"] == exported(books)[1].row.hash


def test_what_was_sent_stays_recorded(books: Books, acme: uuid.UUID) -> None:
    record(books.stores.postgres, exported(books))
    for change in ("UPDATE billing.exports SET hash = hash", "DELETE FROM billing.exports"):
        with pytest.raises(psycopg.Error, match="what was sent stays recorded"):  # noqa: SIM117
            with psycopg.connect(books.stores.postgres.url) as connection:
                connection.execute(change.encode())
