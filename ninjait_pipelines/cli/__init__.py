"""The command `ninjait`. Each module here registers its commands; what they do lives in the package beside it."""

import sys

import typer

from ninjait_pipelines.cli import bench, billing, demo, fleet, migrate, queue, sql, stack, status
from ninjait_pipelines.cli.output import say
from ninjait_pipelines.cli.quarantine import commands as quarantine
from ninjait_pipelines.errors import UserError

app = typer.Typer(
    name="ninjait",
    help="NinjaIT's data pipeline on this machine. Assets are materialized with Dagster's own commands and UI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (demo, stack, status, migrate, fleet, queue, quarantine, sql, billing, bench):
    module.register(app)


def main() -> None:
    """The entry point: an error that the user can fix is one line on standard error and exit code 1, no traceback."""
    try:
        app()
    except UserError as error:
        say(str(error), err=True)
        sys.exit(1)
