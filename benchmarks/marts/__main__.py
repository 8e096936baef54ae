"""Measures what comes after ingest, each piece of work beside its limit in the same run. Nothing is asserted.

python -m benchmarks.marts --only rollup --rounds 3
"""

import importlib
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from benchmarks.marts import MODULES, page
from benchmarks.marts.figure import Figure


def main(
    only: Annotated[list[str] | None, typer.Option(help="Measure this module only; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(help="How many times everything is measured.", min=1)] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write JSON to this file, too.")] = None,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Write docs/performance.md and its chart.")] = False,
) -> None:
    """Measure what comes after ingest, on engines started for it."""
    if unknown := set(only or ()) - set(MODULES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not one of {', '.join(MODULES)}")
    figures: list[Figure] = []
    for name in only or MODULES:
        figures += importlib.import_module(f"benchmarks.marts.{name}").measure(rounds)
        if json_file:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    Console(width=180).print(page.table(figures, rounds))
    if write_docs:
        page.write_docs(figures, rounds)


if __name__ == "__main__":
    typer.run(main)
