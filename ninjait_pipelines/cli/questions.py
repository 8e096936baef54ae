"""`ninjait billing reconcile|explain|simulate|export`: what does not fit together, where an amount comes from, what
another plan would cost, and what other tools are sent."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ninjait_pipelines.cli.documents import Month, month_of
from ninjait_pipelines.cli.output import Json, counted, fail, opened_stores, print_json, print_table, safe, say

if TYPE_CHECKING:
    from uuid import UUID

    from ninjait_pipelines.billing.simulate import Simulation

Organization = Annotated[str | None, typer.Option(help="Only this organization.", metavar="ID")]


def register(billing: typer.Typer) -> None:
    """Adds the commands to `ninjait billing`."""
    for command in (reconcile, explain, simulate, export):
        billing.command()(command)


def reconcile(period: Month, organization: Organization = None, as_json: Json = False) -> None:
    """List devices that are billed and silent, report and are not billed, or are billed twice, with days and money.

    The mart billing_reconciliation has the same of its last run; here it is computed now.

    Example: ninjait billing reconcile --period 2026-05
    """
    from ninjait_pipelines.billing.reconciliation import NONE, findings
    from ninjait_pipelines.left_out import LeftOut

    month, left_out = month_of(period), LeftOut()
    with opened_stores() as stores:
        rows = findings(stores.postgres, stores.clickhouse, month, _id(organization), left_out)
    if as_json:
        print_json({"findings": rows, "left_out": left_out.reasons})
        return
    rows.sort(key=lambda row: (row["finding"], str(row["organization_id"]), -row["amount"], str(row["device_id"])))
    print_table(
        ("finding", "organization", "device", "product", "days", "amount", ""),
        (
            (
                row["finding"],
                row["organization_id"],
                None if row["device_id"] == NONE else row["device_id"],
                row["product"],
                row["days"],
                row["amount"],
                row["currency"],
            )
            for row in rows
        ),
    )
    say(counted(len(rows), "finding"))
    _say_left_out(left_out.reasons)


def explain(
    invoice: Annotated[str, typer.Argument(help="The document's number, or its id if it is a draft.")],
    line: Annotated[
        int | None, typer.Argument(help="The line, from 1; without one, the document and its lines.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show where an amount comes from: price version, quantity, device-days, hours, messages.

    Each step prints the query that gives its number, to paste into psql or `ninjait sql`.

    Example: ninjait billing explain 2026-000123 2
    """
    from ninjait_pipelines.billing.evidence import shown
    from ninjait_pipelines.billing.explain import explain as explained

    with opened_stores() as stores:
        found = explained(stores.postgres, stores.clickhouse, invoice, line)
    if as_json:
        print_json({"document": found.document, "line": line, "steps": found.steps, "changed": found.changed})
        return
    one = found.document
    say(f"{one.kind} {one.number or 'without number'} ({one.status}), {one.period_from:%Y-%m}, {one.currency}")
    if line is None:
        _print_lines(one)
    for number, step in enumerate(found.steps, 1):
        say(f"\n{number}. {shown(step)}")
    if found.changed:
        say(f"\nBy now another number: {', '.join(found.changed)}.")
        say("Usage that came after the document was issued is corrected on a later one; raw data that expired is not.")


def _print_lines(one: Any) -> None:
    print_table(
        ("line", "what", "days", "quantity", "", "amount"),
        (
            (
                number,
                line.description,
                f"{line.from_} to {line.to - timedelta(days=1)}",
                line.quantity,
                line.unit,
                line.amount,
            )
            for number, line in enumerate(one.lines, 1)
        ),
    )


def simulate(
    period: Month,
    plan: Annotated[str | None, typer.Option(help="The plan whose items every agreement gets.")] = None,
    agreement: Annotated[Path | None, typer.Option(help="An agreement as JSON (docs/schemas/agreement.json).")] = None,
    organization: Organization = None,
    as_json: Json = False,
) -> None:
    """Compute what a month would cost under another plan, or under an agreement as given. Nothing is written.

    The usage and the functions are those of the run. Agreements in a currency that the plan does not have are left as
    they are.

    Example: ninjait billing simulate --plan standard --period 2026-05
    """
    from ninjait_pipelines.billing.rating.agreement import agreement as read
    from ninjait_pipelines.billing.simulate import simulate_agreement, simulate_plan

    month = month_of(period)
    if (plan is None) == (agreement is None):
        fail("give one of --plan and --agreement")
    agreed = read(_read(agreement)) if agreement else None
    with opened_stores() as stores:
        if agreed:
            found = simulate_agreement(stores.postgres, stores.clickhouse, month, agreed)
        else:
            found = simulate_plan(stores.postgres, stores.clickhouse, month, str(plan), _id(organization))
    if as_json:
        print_json(found)
    else:
        _print_simulation(found)


def _print_simulation(found: Simulation) -> None:
    print_table(
        ("organization", "agreement", "", "now", "then", "difference", "not all usage is known of"),
        (
            (
                one.organization_id,
                one.agreement_id,
                one.currency,
                one.before,
                one.after,
                f"{one.difference:+}",
                ", ".join(one.incomplete),
            )
            for one in found.agreements
        ),
    )
    for currency, (before, after, difference) in found.sums.items():
        say(f"{currency}: {before} now, {after} then, {difference:+}")
    if found.left_as_they_are:
        say(f"In other currencies, left as they are: {', '.join(found.left_as_they_are)}")
    _say_left_out(found.left_out)


def export(
    period: Month,
    format_: Annotated[Literal["csv", "json"], typer.Option("--format", help="csv or json.")] = "csv",
    output: Annotated[
        Path | None, typer.Option(help="The file to write; without one, print and record nothing.")
    ] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what was not sent as it is.")] = False,
    organization: Organization = None,
) -> None:
    """Write a month's lines for the tools in which agreements are kept (PSA additions), and record what was sent.

    A row keeps its key in every export. With --output it is recorded as sent once the file is written, and --changed
    leaves it out from then on.

    Example: ninjait billing export --period 2026-05 --changed --output additions.csv
    """
    from ninjait_pipelines.billing import export as exports
    from ninjait_pipelines.durable import write_whole

    month, id_ = month_of(period), _id(organization)
    with opened_stores() as stores:
        rows = exports.export(stores.postgres, month, _uuid(id_), changed)
        text = exports.as_csv(rows) if format_ == "csv" else exports.as_json(rows)
        if output is None:
            typer.echo(safe(text, "\n\r\t") if sys.stdout.isatty() else text, nl=False)
            return
        try:
            write_whole(output, text.encode())
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}")
        batch = exports.record(stores.postgres, rows)
    say(f"{counted(len(rows), 'row')} in {output}" + (f", recorded as batch {batch}" if batch else ""))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")


def _id(organization: str | None) -> str | None:
    """The id as it is stored."""
    return None if organization is None else str(_uuid(organization))


def _uuid(text: str | None) -> UUID | None:
    from uuid import UUID

    try:
        return UUID(text) if text else None
    except ValueError:
        fail(f"--organization {text!r} is no id; it is the UUID of an organization")


def _say_left_out(reasons: dict[str, str]) -> None:
    for name, reason in sorted(reasons.items()):
        say(f"left out: {name}: {reason}", err=True)
