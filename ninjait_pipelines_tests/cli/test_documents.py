"""Documents as a person issues them: a list to review, numbers, reasons, and one line for what is refused."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, named
from ninjait_pipelines_tests.billing.rating.agreements import item

Command = Callable[..., Any]
PERIOD = ("--period", "2026-05")


@pytest.fixture
def books(shared_stores: Stores, ninjait: Command) -> Books:
    """Two agreements with a fee: of 100.00 at 19 %, and of 1,000 yen."""
    assert ninjait("billing", "seller", "--name", "Provider", "--address", "Street 1", "--prefix", "R-").exit_code == 0
    books = Books(shared_stores)
    books.agreement(books.organization("acme"), item("flat", "100"), tax={"category": "S", "rate": "19"})
    books.agreement(books.organization("tokyo", "Asia/Tokyo"), item("flat", "1000"), currency="JPY")
    return books


def test_from_draft_to_credit_note(books: Books, ninjait: Command) -> None:
    drafted = json.loads(ninjait("billing", "draft", *PERIOD, "--json").stdout)
    assert [(one["organization"], one["total"], one["waits"]) for one in drafted["drafts"]] == [
        ("acme", "119.00", None),
        ("tokyo", "1000", None),
    ]
    assert books.stores.clickhouse.scalar("SELECT count() FROM invoices WHERE status = 'draft'") == 2
    listed = ninjait("billing", "finalise", *PERIOD, "--dry-run")
    assert "2 drafts, 2 ready, 0 left out" in listed.stdout
    assert books.stores.clickhouse.scalar("SELECT count() FROM invoices WHERE status = 'issued'") == 0
    acme = ("--agreement", str(named(named("acme"), "agreement")))
    issued = ninjait("billing", "finalise", *PERIOD, *acme)
    assert issued.exit_code == 0
    [number] = books.stores.clickhouse.rows("SELECT number FROM invoices WHERE status = 'issued'")
    assert number["number"].startswith("R-")
    assert f"{number['number']}  119.00 EUR  acme\n1 document issued, 0 waiting" in issued.stdout
    rest = json.loads(ninjait("billing", "finalise", *PERIOD, "--json").stdout)
    assert [one["total"] for one in rest["issued"]] == ["1000"]
    credit = ("--reason", "outage", "--line", "1", "--amount", "10.00")
    for _ in range(2):
        credited = ninjait("billing", "credit", number["number"], *credit)
        assert f"credits {number['number']}: -11.90 EUR" in credited.stdout
    assert books.stores.clickhouse.scalar("SELECT count() FROM invoices") == 3
    refused = ninjait("billing", "void", number["number"], "--reason", "x")
    assert refused.exit_code == 1
    assert "corrects or credits it; void that first" in str(refused.exception)
    [note] = books.stores.clickhouse.rows("SELECT number FROM invoices WHERE kind = 'credit_note'")
    for one in (note["number"], number["number"]):
        assert ninjait("billing", "void", one, "--reason", "x").stdout == f"{one} is void\n"


def test_what_waits_is_named_and_the_exit_code_says_so(books: Books, ninjait: Command) -> None:
    """May was not measured, and an item counts what is reported."""
    id_ = books.agreement(books.organization("later"), item("device", "5", basis="reporting"))
    found = ninjait("billing", "finalise", *PERIOD)
    assert found.exit_code == 1
    assert f"{id_} waits: usage is incomplete: device" in found.stdout
    assert "2 documents issued, 1 waiting" in found.stdout
    forced = ninjait("billing", "finalise", *PERIOD, "--force", "closing the books")
    assert forced.exit_code == 0
    assert "1 document issued, 0 waiting" in forced.stdout


def test_a_document_is_shown_as_it_was_issued(books: Books, ninjait: Command) -> None:
    ninjait("billing", "finalise", *PERIOD)
    [row] = books.stores.postgres.rows("SELECT number, document FROM billing.invoices WHERE currency = 'JPY'")
    shown = ninjait("billing", "show", row["number"])
    assert shown.stdout == bytes(row["document"]).decode() + "\n"
    page = ninjait("billing", "show", row["number"], "--format", "html").stdout
    assert row["number"] in page
    ninjait("billing", "void", row["number"], "--reason", "x")
    assert "void" in ninjait("billing", "show", row["number"], "--format", "html").stdout.casefold()


def test_a_seller_is_changed_by_name(books: Books, ninjait: Command) -> None:
    again = ninjait("billing", "seller", "--name", "Provider", "--tax-id", "DE1", "--continuous")
    other = ninjait("billing", "seller", "--name", "Other")
    rows = books.stores.postgres.rows(
        "SELECT id, name, tax_id, numbered_by_year, is_default FROM billing.sellers ORDER BY name"
    )
    assert [str(row.pop("id")) for row in rows] == [other.stdout.strip(), again.stdout.strip()]
    assert rows == [
        {"name": "Other", "tax_id": None, "numbered_by_year": True, "is_default": False},
        {"name": "Provider", "tax_id": "DE1", "numbered_by_year": False, "is_default": True},
    ]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("finalise", "--period", "2026-5x"), "--period '2026-5x' is no month"),
        (("finalise", *PERIOD, "--agreement", "A-1"), "--agreement 'A-1': an id is a UUID"),
        (("finalise", *PERIOD, "--force", " "), "the reason has 0 characters; it must have 1 to 500"),
        (("credit", "7", "--reason", "x"), "there is no document of it"),
        (("credit", "7", "--reason", "x", "--line", "1", "--line", "1"), "--line: each line once"),
        (("credit", "7", "--reason", "x", "--amount", "1"), "--amount is there 1 times, --line 0 times"),
        (("credit", "7", "--reason", "x", "--line", "1", "--amount", "ten"), "--amount 'ten': an amount is a number"),
        (("show", "7"), "there is no document of it"),
        (("seller", "--name", "x", "--time-zone", "Mars/Olympus"), "time_zone"),
    ],
)
def test_what_is_refused(shared_stores: Stores, ninjait: Command, command: tuple[str, ...], message: str) -> None:
    done = ninjait("billing", *command)
    assert done.exit_code == 1
    assert message in (done.stderr or str(done.exception))


def test_an_agreement_that_there_is_not_is_an_error_and_not_nothing(books: Books, ninjait: Command) -> None:
    unknown = str(uuid.UUID(int=99))
    done = ninjait("billing", "finalise", "--period", "2026-05", "--agreement", unknown, "--dry-run")
    assert done.exit_code == 1
    assert f"--agreement '{unknown}': there is none of this id" in done.output
