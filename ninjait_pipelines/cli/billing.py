"""`ninjait billing`: what an agreement costs, from files and without any store; and agreements entered from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ninjait_pipelines.cli import documents, questions
from ninjait_pipelines.cli.documents import month_of
from ninjait_pipelines.cli.output import fail, opened_stores, print_json, safe

if TYPE_CHECKING:
    from ninjait_pipelines.billing.rating.document import Document

Format = Annotated[Literal["json", "html", "pdf"], typer.Option("--format", help="What is written.")]
Month = Annotated[str, typer.Option(help="The month, in the agreement's time zone.", metavar="YYYY-MM")]


def register(app: typer.Typer) -> None:
    """Adds the commands to `ninjait`."""
    billing = typer.Typer(help="What agreements cost.", no_args_is_help=True, rich_markup_mode="markdown")
    billing.command()(rate)
    billing.command()(enter)
    billing.command()(show)
    documents.register(billing)
    questions.register(billing)
    app.add_typer(billing, name="billing")


def rate(
    agreement: Annotated[Path, typer.Option(help="The agreement, as docs/schemas/agreement.json describes it.")],
    period: Month,
    usage: Annotated[list[Path] | None, typer.Option(help="Usage (docs/schemas/usage.json); may be repeated.")] = None,
    issued: Annotated[list[Path] | None, typer.Option(help="A document issued before; may be repeated.")] = None,
    reconcile: Annotated[bool, typer.Option("--reconcile", help="Print what does not fit together instead.")] = False,
    format_: Format = "json",
    locale: Annotated[str, typer.Option(help="Language and formats of HTML and PDF: en, de, ja, de-CH ...")] = "en",
    output: Annotated[Path | None, typer.Option(help="A file to write instead of standard output.")] = None,
) -> None:
    """Price an agreement against usage, and print the month's document: JSON in one line, or as its reader sees it, in
    HTML or PDF. The same input always gives the same bytes.

    Example: ninjait billing rate --agreement agreement.json --usage usage.json --period 2026-02 --format pdf --output
    february.pdf
    """
    from ninjait_pipelines.billing.rating import agreement as agreements
    from ninjait_pipelines.billing.rating import document, reconciliation
    from ninjait_pipelines.billing.rating import usage as usages

    month = month_of(period)
    agreed = agreements.agreement(_read(agreement))
    if month < agreed.term.from_.replace(day=1):
        fail(f"--period {period!r} is before the agreement's term, which begins on {agreed.term.from_}")
    used = usages.usage(map(_read, usage or ()))
    if reconcile and (format_ != "json" or output):
        fail("--reconcile prints JSON to standard output; leave out --format and --output")
    if reconcile:
        print_json(reconciliation.reconciliation(agreed, used, month))
        return
    before = [document.Issued(document.document(_read(file))) for file in issued or ()]
    _write(_formatted(document.draft(agreed, used, month, before), format_, locale), output)


def _formatted(found: Document, format_: str, locale: str) -> bytes:
    if format_ == "json":
        from ninjait_pipelines.billing.rating.document import canonical

        return canonical(found) + b"\n"
    from ninjait_pipelines.billing.paper import render

    return render.pdf(found, locale) if format_ == "pdf" else render.html(found, locale).encode()


def _write(data: bytes, output: Path | None) -> None:
    """To a file, unchanged to a pipe, or to a terminal without what could move its cursor."""
    if output:
        try:
            output.write_bytes(data)
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}")
    elif not sys.stdout.isatty():
        sys.stdout.buffer.write(data)
    elif data.startswith(b"%PDF"):
        fail("a terminal cannot show a PDF; give --output FILE")
    else:
        typer.echo(safe(data.decode(), "\n"), nl=False)


def enter(
    agreement: Annotated[Path, typer.Option(help="The agreement, as docs/schemas/agreement.json describes it.")],
) -> None:
    """Enter an agreement into PostgreSQL, with its products and prices; prints its id.

    Its organization_id is that of the organization; an id that is no UUID gives one that follows from both.
    Needs the rights of the role that migrates: the pipeline's may not change what is agreed.

    Example: ninjait billing enter --agreement agreement.json
    """
    from ninjait_pipelines.billing import agreements
    from ninjait_pipelines.billing.rating.agreement import agreement as read

    agreed = read(_read(agreement))
    with opened_stores() as stores, stores.postgres.transaction() as connection:
        id_ = agreements.enter(connection, agreed)
    typer.echo(str(id_))


def show(
    number: Annotated[str, typer.Argument(help="The number of an issued document.")],
    format_: Format = "json",
    locale: Annotated[str, typer.Option(help="Language and formats of HTML and PDF: en, de, ja, de-CH ...")] = "en",
    output: Annotated[Path | None, typer.Option(help="A file to write instead of standard output.")] = None,
) -> None:
    """Write an issued document: the very bytes that were issued, in one line, or as its reader sees it, in HTML or PDF.

    Example: ninjait billing show 2026-000017 --format pdf --output 2026-000017.pdf
    """
    import msgspec

    from ninjait_pipelines.billing.history import stored
    from ninjait_pipelines.billing.rating.document import document

    with opened_stores() as stores:
        data, status = stored(stores.postgres, number)
    found = msgspec.structs.replace(document(data), status=status)
    _write(data + b"\n" if format_ == "json" else _formatted(found, format_, locale), output)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")
