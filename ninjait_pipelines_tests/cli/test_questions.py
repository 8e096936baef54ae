"""`ninjait billing reconcile`, `explain`, `simulate` and `export` as a person and a script meet them."""

import csv
import json
import uuid
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, days_of
from ninjait_pipelines_tests.billing.rating.agreements import item

MAY = date(2026, 5, 1)


@pytest.fixture
def acme(fleet: Stores) -> uuid.UUID:
    """Two devices at 5.00, of which one is silent since the 3rd, and 100 calls a day at 0.01; issued as 2026-000001."""
    books = Books(fleet)
    books.seller()
    acme = books.organization("\x1b[31macme")
    books.agreement(acme, item("device", "5"), item("api_calls", "0.01"), currency="USD")
    books.reported(acme, books.device(acme, 1), days_of(MAY))
    books.reported(acme, books.device(acme, 2), days_of(MAY)[:3])
    books.used(acme, days_of(MAY), calls=100)
    books.measure(days_of(MAY))
    later = datetime(2026, 9, 1, tzinfo=UTC)
    finalise(fleet.postgres, fleet.clickhouse, MAY, clock=lambda: later)
    return acme


def asked(ninjait: Any, *arguments: str) -> str:
    done = ninjait("billing", *arguments)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def refused(ninjait: Any, *arguments: str) -> str:
    done = ninjait("billing", *arguments)
    assert done.exit_code == 1
    return f"{done.output}{done.exception}"


def test_findings_are_listed(ninjait: Any, acme: uuid.UUID) -> None:
    text = asked(ninjait, "reconcile", "--period", "2026-05", "--organization", str(acme))
    [line] = [line for line in text.splitlines() if line.startswith("silent_but_billed")]
    assert line.split()[3:] == ["device", "28", "4.52", "USD"]
    assert text.endswith("1 finding\n")
    found = json.loads(asked(ninjait, "reconcile", "--period", "2026-05", "--json"))
    assert (str(acme), 28) in {(row["organization_id"], row["days"]) for row in found["findings"]}
    assert "'x' is no id" in refused(ninjait, "reconcile", "--period", "2026-05", "--organization", "x")


def test_an_invoice_and_its_lines_are_explained(ninjait: Any, acme: uuid.UUID) -> None:
    text = asked(ninjait, "explain", "2026-000001")
    assert "invoice 2026-000001 (issued), 2026-05, USD" in text
    assert "1. total: 41.00\n  41.00 net + 0.00 tax\n  PostgreSQL:\n    SELECT total FROM billing.invoices" in text
    text = asked(ninjait, "explain", "2026-000001", "1")
    assert "calls, by day: 3100" in text
    assert "ClickHouse:\n    SELECT local_day AS day, toInt64(quantity) AS calls\n    FROM usage_days" in text
    assert "By now another number: " in text  # these calls have no ids: they were measured, and not sent
    found = json.loads(asked(ninjait, "explain", "2026-000001", "2", "--json"))
    assert [step["value"] for step in found["steps"]][:5] == ["10.00", "5", "2", "62", "2"]
    assert "'R-7'; there is no document" in refused(ninjait, "explain", "R-7")


def test_a_printed_query_runs_in_ninjait_sql(ninjait: Any, acme: uuid.UUID) -> None:
    found = json.loads(asked(ninjait, "explain", "2026-000001", "1", "--json"))
    [step] = [step for step in found["steps"] if step["title"] == "calls, by day"]
    rows = json.loads(ninjait("sql", step["query"], "--json").stdout)
    assert sum(row["calls"] for row in rows) == int(step["value"]) == 3100


def test_a_plan_is_simulated(ninjait: Any, acme: uuid.UUID, tmp_path: Path) -> None:
    """Standard: 5.00 for 31 and 3 of 31 device-days, 3,100 calls at 0.001."""
    text = asked(ninjait, "simulate", "--plan", "standard", "--period", "2026-05", "--organization", str(acme))
    assert "USD: 41.00 now, 8.58 then, -32.42" in text
    found = json.loads(asked(ninjait, "simulate", "--plan", "standard", "--period", "2026-05", "--json"))
    assert found["sums"] == {"USD": ["41.00", "8.58", "-32.42"]}
    assert "give one of --plan and --agreement" in refused(ninjait, "simulate", "--period", "2026-05")
    file = tmp_path / "agreement.json"
    given = {"id": "new", "organization_id": str(acme), "currency": "EUR", "time_zone": "UTC"}
    given |= {"term": {"from": "2026-01-01"}, "items": [{"from": "2026-01-01", **item("device", "3")}]}
    file.write_text(json.dumps(given))
    text = asked(ninjait, "simulate", "--agreement", str(file), "--period", "2026-05")
    assert "EUR: 0 now, 6.00 then, +6.00" in text


def test_what_was_exported_is_not_sent_again(ninjait: Any, acme: uuid.UUID, tmp_path: Path) -> None:
    file = tmp_path / "additions.csv"
    export = ("export", "--period", "2026-05", "--changed", "--output", str(file))
    assert f"2 rows in {file}, recorded as batch " in asked(ninjait, *export)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(row["product"], row["quantity"], row["invoice_number"]) for row in rows] == [
        ("api_calls", "3100", "2026-000001"),
        ("device", "2", "2026-000001"),
    ]
    assert asked(ninjait, *export) == f"0 rows in {file}\n"
    assert len(file.read_text().splitlines()) == 1
    [one, _] = json.loads(asked(ninjait, "export", "--period", "2026-05", "--format", "json"))
    assert (one["change"], one["customer"]) == ("unchanged", "\x1b[31macme")
    nowhere = str(tmp_path / "missing" / "file.csv")
    assert "cannot be written" in refused(ninjait, "export", "--period", "2026-05", "--output", nowhere)
