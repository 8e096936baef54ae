"""`ninjait bench`; what it does lives beside the package, in the checkout's folder benchmarks."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from ninjait_pipelines.cli.output import fail
from ninjait_pipelines.paths import ROOT


def register(app: typer.Typer) -> None:
    """Adds the command to `ninjait`."""
    app.command()(bench)


def bench(
    rounds: Annotated[int, typer.Option(help="How many times everything is measured.", min=1)] = 5,
    only: Annotated[list[str] | None, typer.Option(help="Measure this row only; may be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A quarter of the messages, to see that it runs.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Show where our drain's time goes instead.")] = False,
    json_file: Annotated[str | None, typer.Option("--json", help="Write JSON to this file; - is the output.")] = None,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Write docs/performance.md and its chart.")] = False,
) -> None:
    """Measure ingest against Telegraf, pika and a plain script, on a RabbitMQ and an InfluxDB started for it.

    Takes about 20 minutes on an idle machine, and needs a checkout and the servers that `make servers` builds.
    Exits with 1 if a run failed; a ratio below its bound is only reported.

    Rows: json, json-two, influxdb, influxdb-tuned, influxdb-two,
    lines, lines-two, lines-tuned, scaling-stubbed, scaling, scaling-lines,
    singles, singles-influxdb, script, script-gathering, script-singles, extras, memory, share.

    Example: ninjait bench --only influxdb --rounds 3
    """
    if not (ROOT / "benchmarks" / "ingest.py").exists():
        fail(f"the benchmarks are not part of the package: run it from a checkout; {ROOT} has no folder benchmarks")
    sys.path.insert(0, str(ROOT))
    benchmark = importlib.import_module("benchmarks.ingest")
    if not benchmark.run(rounds, only or (), quick, profile, json_file, write_docs):
        raise typer.Exit(1)
