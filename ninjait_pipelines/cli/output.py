"""What the commands share: the stores, one line for a failure, a table for a person, JSON for a script.

All output goes through here, because it may contain text from outside (a host's name, a message, a server's error),
which must not reach a terminal with escape sequences that move the cursor or hide text.

Heavy imports stand inside the functions, here and in the commands, so that `ninjait --help` answers at once.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

if TYPE_CHECKING:
    from ninjait_pipelines.resources import Stores

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]


def fail(reason: str) -> NoReturn:
    """One line on standard error, and exit code 1."""
    say(f"ninjait: {reason}", err=True)
    raise typer.Exit(1)


def safe(text: str, kept: str = "") -> str:
    """Untrusted text with everything that is not printable escaped, except for the characters in `kept`."""
    return (
        text
        if text.isprintable()
        else "".join(one if one.isprintable() or one in kept else _escape(one) for one in text)
    )


def _escape(one: str) -> str:
    return repr(one)[1:-1]


def say(text: str, err: bool = False) -> None:
    """Prints lines that may contain text from outside."""
    typer.echo(safe(text, "\n\t"), err=err)


def counted(count: int, noun: str) -> str:
    """`1 message`, `2,000 messages`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextmanager
def opened_stores() -> Iterator[Stores]:
    """The stores of the settings. Raises SettingsError, which names what is missing."""
    from ninjait_pipelines.resources import open_stores
    from ninjait_pipelines.settings import load

    with open_stores(load()) as stores:
        yield stores


def print_json(data: Any) -> None:
    """Any value: times as RFC 3339, decimals and ids as text, what JSON has no number for (NaN) as null. What is not
    printable is written as JSON's escapes: to a reader it is the same."""
    text = msgspec.json.format(msgspec.json.encode(data, enc_hook=str)).decode()
    typer.echo("".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text))


def print_csv(headers: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """CSV, unchanged in a pipe or file; on a terminal with everything that is not printable escaped."""
    writer = csv.writer(sys.stdout)
    for row in (headers, *rows):
        shown = sys.stdout.isatty()
        writer.writerow([safe(cell) if shown and isinstance(cell, str) else cell for cell in row])


def print_table(headers: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """One line per row; None is blank. In a pipe no cell is cut or wrapped, however long the line."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(Text(safe(header))) for header in headers), box=None, pad_edge=False)
    for row in rows:
        cells = (cell if isinstance(cell, Text) else Text("" if cell is None else safe(str(cell))) for cell in row)
        table.add_row(*cells)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100_000
    console.print(table)
