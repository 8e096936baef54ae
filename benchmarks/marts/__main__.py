"""Measures what comes after ingest, each piece of work beside its limit in the same run. Nothing is asserted.

python -m benchmarks.marts --only rollup --rounds 3
"""

import importlib
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.marts import MODULES
from benchmarks.marts.figure import Figure


def main(
    only: Annotated[list[str] | None, typer.Option(help="Measure this module only; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="How many times everything is measured.", min=1)] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write JSON to this file, too.")] = None,
) -> None:
    """Measure what comes after ingest, on engines started for it."""
    if unknown := set(only or ()) - set(MODULES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not one of {', '.join(MODULES)}")
    figures: list[Figure] = []
    for name in only or MODULES:
        figures += importlib.import_module(f"benchmarks.marts.{name}").measure(rounds)
    Console(width=180).print(_table(figures, rounds))
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))


def _table(figures: list[Figure], rounds: int) -> Table:
    table = Table(title=f"medians of {rounds}")
    for header in ("name", "work", "ours (least to most)", "limit", "ratio", "bound", "aim", "reached"):
        table.add_column(header, overflow="fold")
    for one in figures:
        ours = f"{one.ours:.3g} {one.unit} ({one.least:.3g} to {one.most:.3g})"
        limit = f"{one.limit_name} {one.limit:.3g} {one.unit}" if one.limit is not None else one.limit_name
        numbers = (_number(one.ratio, "x"), _number(one.bound), _number(one.aim))
        reached = {True: "yes", False: "no", None: ""}[one.reached]
        table.add_row(one.name, one.work, ours, limit, *numbers, reached)
    return table


def _number(value: float | None, unit: str = "") -> str:
    return "" if value is None else f"{value:.3g}{unit}"


if __name__ == "__main__":
    typer.run(main)
