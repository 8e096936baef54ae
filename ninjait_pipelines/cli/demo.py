"""`ninjait demo`; what it does lives in ninjait_pipelines.local.demo."""

import sys

import typer

from ninjait_pipelines.cli.output import fail


def demo() -> None:
    """Send a simulated fleet's day through every stage, on the local stack, and check that all figures add up.

    Exits with 1 if one does not. May be repeated.

    Example: ninjait demo
    """
    from rich.console import Console

    from ninjait_pipelines.local.demo.stack import bring_up

    # A log file is not limited to 80 columns.
    console = Console(width=None if sys.stdout.isatty() else 118)
    seconds: dict[str, float] = {}
    try:
        settings = bring_up(console, seconds)
    except OSError as error:
        fail(str(error))
    # Only now: partitions read PIPELINE_START when they are imported.
    from ninjait_pipelines.local.demo.report import Report
    from ninjait_pipelines.local.demo.run import prepared, run

    with prepared(console, seconds, settings) as stores:
        story = run(console, stores, seconds)
        if not Report(console, stores, story).show():
            raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Adds the command to `ninjait`."""
    app.command()(demo)
