"""What the commands share: the stores, one line for a failure, a table for a person, JSON for a script.

Heavy imports stand inside the functions, here and in the commands, so that `ninjait --help` answers at once.
"""

from __future__ import annotations

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
    typer.echo(f"ninjait: {reason}", err=True)
    raise typer.Exit(1)


@contextmanager
def opened_stores() -> Iterator[Stores]:
    """The stores of the settings. Raises SettingsError, which names what is missing."""
    from ninjait_pipelines.resources import open_stores
    from ninjait_pipelines.settings import load

    with open_stores(load()) as stores:
        yield stores


def print_json(data: Any) -> None:
    """Any value: times as RFC 3339, decimals and ids as text, what JSON has no number for (NaN) as null."""
    typer.echo(msgspec.json.format(msgspec.json.encode(data, enc_hook=str)))


def print_table(headers: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A row a line; None is blank. In a pipe no cell is cut or folded, however long the line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 100_000
    console.print(table)
