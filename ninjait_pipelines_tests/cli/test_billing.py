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
from ninjait_pipelines_tests.cli.forked import in_a_pipe, on_a_terminal
from ninjait_pipelines_tests.generated import SCHEMAS, schema, schema_file

EXAMPLES = re.findall(r"```json (\w+)\n(.*?)```", (ROOT / "docs" / "billing.md").read_text(), re.S)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The examples of the page, as files."""
    found = {name: tmp_path / f"{name}.json" for name, _ in EXAMPLES}
    for name, text in EXAMPLES:
        found[name].write_text(text)
    return found


def given(files: dict[str, Path], month: str = "2026-06") -> tuple[str, ...]:
    inputs = ("--agreement", str(files["agreement"]), "--usage", str(files["usage"]))
    return ("billing", "rate", *inputs, "--period", month)


def rate(files: dict[str, Path], *more: str, month: str = "2026-06", **env: str) -> Any:
    return in_a_pipe(*given(files, month), *more, env=env)


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


@pytest.mark.parametrize("format_", ["json", "html", "pdf"])
def test_the_document_is_written_to_a_file_the_same_on_each_machine(
    files: dict[str, Path], tmp_path: Path, format_: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert rate(files, "--format", format_, "--output", str(here), TZ="UTC").returncode == 0
    elsewhere = {"TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8"}
    assert rate(files, "--format", format_, "--output", str(there), **elsewhere).returncode == 0
    assert here.read_bytes() == there.read_bytes()
    assert here.read_bytes().startswith(
        {"json": b'{"agreement_id"', "html": b"<!DOCTYPE html>", "pdf": b"%PDF-"}[format_]
    )


def test_the_document_is_printed_in_the_reader_s_language(files: dict[str, Path]) -> None:
    page = rate(files, "--format", "html", "--locale", "de").stdout
    assert "ENTWURF" in page
    assert "176,32\xa0€" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "html", "--locale", "xx"), "locale: 'xx' is not known"),
        (("--format", "pdf", "--output", "/no/such/folder/x.pdf"), "/no/such/folder/x.pdf cannot be written"),
        (("--reconcile", "--format", "pdf"), "--reconcile prints JSON"),
    ],
)
def test_what_cannot_be_written_is_one_line(files: dict[str, Path], options: tuple[str, ...], message: str) -> None:
    done = rate(files, *options)
    assert (done.returncode, done.stdout, len(done.stderr.strip().splitlines())) == (1, "", 1)
    assert message in done.stderr


def test_a_terminal_gets_no_pdf(files: dict[str, Path]) -> None:
    shown = on_a_terminal(*given(files), "--format", "pdf", env={})
    assert shown == "ninjait: a terminal cannot show a PDF; give --output FILE\n"


@pytest.mark.parametrize(
    ("agreement", "period", "message"),
    [
        ("{", "2026-06", "the agreement is not as its schema says"),
        ("{}", "2026-13", "'2026-13' is no month"),
        ("{}", "9999-12", "'9999-12' is not from 1970-01 to 2148-12"),
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
    assert f"id: 'A-17' is entered already, as {found.id}" in str(again.exception)
