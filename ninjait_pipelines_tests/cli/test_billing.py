"""`ninjait billing rate` as a person and a script meet it: no store, the same bytes each time, one line of error."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from ninjait_pipelines.billing.agreements import agreements_in_force
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.cli.forked import in_a_pipe
from ninjait_pipelines_tests.generated import SCHEMAS, schema, schema_file

EXAMPLES = re.findall(r"```json (\w+)\n(.*?)```", (ROOT / "docs" / "billing.md").read_text(), re.S)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The examples of the page, as files."""
    found = {name: tmp_path / f"{name}.json" for name, _ in EXAMPLES}
    for name, text in EXAMPLES:
        found[name].write_text(text)
    return found


def rate(files: dict[str, Path], *more: str, month: str = "2026-06") -> Any:
    given = ("--agreement", str(files["agreement"]), "--usage", str(files["usage"]), "--period", month)
    return in_a_pipe("billing", "rate", *given, *more, env={})


def test_the_example_of_the_page_costs_what_the_page_says(files: dict[str, Path]) -> None:
    done = rate(files)
    found = json.loads(done.stdout)
    page = (ROOT / "docs" / "billing.md").read_text()
    for line in found["lines"]:
        assert re.search(rf"\| {re.escape(line['description'])} .*\| {line['amount']} \|", page), line
    assert f"net {found['net']}, tax {found['tax_total']}, total {found['total']}" in page
    assert done.stdout.encode().rstrip(b"\n") == rfc8785.dumps(found)


def test_usage_that_is_given_twice_changes_no_byte(files: dict[str, Path]) -> None:
    assert rate(files, "--usage", str(files["usage"])).stdout == rate(files).stdout


def test_an_issued_document_is_not_billed_again(files: dict[str, Path], tmp_path: Path) -> None:
    june = tmp_path / "june.json"
    june.write_text(rate(files).stdout)
    july = json.loads(rate(files, "--issued", str(june), month="2026-07").stdout)
    assert "correction" not in {line["kind"] for line in july["lines"]}


def test_what_does_not_fit_together_is_listed(files: dict[str, Path]) -> None:
    found = json.loads(rate(files, "--reconcile").stdout)
    assert {
        "finding": "silent_but_billed",
        "device_id": "srv-1",
        "product": "servers",
        "days": 27,
        "amount": "28.00",
    } in found


@pytest.mark.parametrize(
    ("agreement", "period", "message"),
    [
        ("{", "2026-06", "the agreement is not as its schema says"),
        ("{}", "2026-13", "'2026-13' is no month"),
        ("{}", "9999-12", "'9999-12' is not from 1970-01 to 2999-12"),
        (EXAMPLES[0][1], "2025-12", "'2025-12' is before the agreement's term, which begins on 2026-01-01"),
        ('{"a\\nb": 1}', "2026-06", "unknown field `a b`"),
        (None, "2026-06", "cannot be read"),
    ],
)
def test_an_error_is_one_line(tmp_path: Path, agreement: str | None, period: str, message: str) -> None:
    file = tmp_path / "agreement.json"
    if agreement:
        file.write_text(agreement)
    done = in_a_pipe("billing", "rate", "--agreement", str(file), "--period", period, env={})
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (1, "", 1)
    assert message in done.stderr


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_those_of_the_code(name: str) -> None:
    assert schema_file(name).read_text() == schema(name), "make generated"


def test_an_agreement_is_entered_by_its_file(ninjait: Any, fleet: Stores, files: dict[str, Path]) -> None:
    organization = str(fleet.postgres.rows("SELECT id FROM organizations LIMIT 1")[0]["id"])
    files["agreement"].write_text(files["agreement"].read_text().replace('"acme"', f'"{organization}"'))
    done = ninjait("billing", "enter", "--agreement", str(files["agreement"]))
    assert done.exit_code == 0, done.output
    [found] = agreements_in_force(fleet.postgres, date(2026, 6, 1), date(2026, 7, 1))
    assert (found.id, found.organization_id) == (done.stdout.strip(), organization)
    assert {item.product for item in found.items} == {"servers", "calls", "platform"}
    again = ninjait("billing", "enter", "--agreement", str(files["agreement"]))
    assert again.exit_code == 1
    assert "already exists" in str(again.exception)
