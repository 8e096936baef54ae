"""`ninjait up`, `down` and `env`: the local stack from the command line; see ninjait_pipelines.local.stack."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ninjait_pipelines.cli.output import fail, print_json, print_table, say
from ninjait_pipelines.paths import LOCAL_STACK, ROOT

Home = Annotated[Path, typer.Option(help="Folder of the stack's data and settings.", show_default=".ninjait")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, passwords included.")]


def up(
    home: Home = LOCAL_STACK,
    wheels: Annotated[
        bool,
        typer.Option("--wheels", help="Without RabbitMQ, InfluxDB and S3, now and later, even if they are built."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the local stack: PostgreSQL, ClickHouse, Dragonfly and MongoDB on loopback, without Docker.

    RabbitMQ, InfluxDB and S3 join them if `make servers` has built them. Engines that run are left alone; those that
    were killed are started again, on the same port.

    Example: ninjait up && eval "$(ninjait env)"
    """
    from ninjait_pipelines.local.stack.local import HISTORY, LocalStack
    from ninjait_pipelines.local.stack.servers import built

    stack = LocalStack(home, built())
    try:
        report = None if as_json else lambda line: say(line, err=True)
        settings = stack.up(report, wheels, datetime.now(UTC).date() - HISTORY)
    except OSError as error:
        fail(str(error))
    if as_json:
        print_json(settings)
    else:
        print_table(("engine", "what it is", "where"), stack.places())
        say('settings: eval "$(ninjait env)"')


def down(
    home: Home = LOCAL_STACK,
    delete: Annotated[bool, typer.Option("--delete", help="Delete data, settings and logs too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Stop the local stack. Its data stays, unless --delete is given.

    Example: ninjait down --delete --yes
    """
    from ninjait_pipelines.local.stack.local import LocalStack

    stack = LocalStack(home)
    if delete and not yes:
        typer.confirm(f"Delete all data of the local stack in {stack.home}?", abort=True)
    try:
        stack.delete(say) if delete else stack.down(say)
    except OSError as error:
        fail(str(error))
    say(f"the local stack is {'deleted' if delete else 'down'}")


def env(home: Home = LOCAL_STACK, as_json: Json = False) -> None:
    """Print the settings of the local stack as shell exports.

    Example: eval "$(ninjait env)"
    """
    from ninjait_pipelines.local.stack.local import LocalStack

    settings = LocalStack(home).settings()
    if settings is None:
        fail("the local stack was never up; run `ninjait up` first")
    settings["DAGSTER_HOME"] = str(ROOT)
    if as_json:
        print_json(settings)
        return
    for name, value in settings.items():
        say(f"export {name}={shlex.quote(value)}")


def register(app: typer.Typer) -> None:
    """Adds the commands to `ninjait`."""
    for command in (up, down, env):
        app.command()(command)
