"""`ninjait up`, `down` and `env`: the local stack from the command line.

Only what a person or a script sees belongs here; what happens is in ninjait_pipelines.stack. Heavy imports stand
inside the commands, so that `ninjait --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from ninjait_pipelines.stack.local import LocalStack

Home = Annotated[Path | None, typer.Option(help="Folder of the stack's data and settings. [default: <repo>/.ninjait]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, passwords included.")]


def up(home: Home = None, as_json: Json = False) -> None:
    """Start the local stack: PostgreSQL, ClickHouse, Dragonfly and MongoDB on loopback, without Docker.

    What runs already is left alone; what was killed is started again, on the port it had.

    Example: ninjait up && eval "$(ninjait env)"
    """
    from ninjait_pipelines.stack.engines import StackError

    stack = open_stack(home)
    try:
        settings = stack.up(None if as_json else lambda line: typer.echo(line, err=True))
    except (StackError, OSError) as error:
        fail(str(error))
    if as_json:
        print_json(settings)
    else:
        print_places(stack)


def down(
    home: Home = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete data, settings and logs too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
) -> None:
    """Stop the local stack. Its data stays, unless --delete is given.

    Example: ninjait down --delete --yes
    """
    stack = open_stack(home)
    if delete and not yes:
        typer.confirm(f"Delete all data of the local stack in {stack.home}?", abort=True)
    try:
        stack.delete(typer.echo) if delete else stack.down(typer.echo)
    except OSError as error:
        fail(str(error))
    typer.echo(f"the local stack is {'deleted' if delete else 'down'}")


def env(home: Home = None, as_json: Json = False) -> None:
    """Print the settings of the local stack as shell exports.

    Example: eval "$(ninjait env)"
    """
    import shlex

    from ninjait_pipelines.stack.local import REPOSITORY

    settings = open_stack(home).settings()
    if settings is None:
        fail("the local stack was never up; run `ninjait up` first")
    settings["DAGSTER_HOME"] = str(REPOSITORY)
    if as_json:
        print_json(settings)
        return
    for name, value in settings.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def register(app: typer.Typer) -> None:
    for command in (up, down, env):
        app.command()(command)


def open_stack(home: Path | None) -> LocalStack:
    from ninjait_pipelines.stack.local import DEFAULT_HOME, LocalStack

    return LocalStack(home or DEFAULT_HOME)


def print_places(stack: LocalStack) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("engine", "what it is", "where", box=None, pad_edge=False)
    for place in stack.places():
        table.add_row(*place)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print('settings: eval "$(ninjait env)"', highlight=False)


def print_json(settings: dict[str, str]) -> None:
    import json

    typer.echo(json.dumps(settings, indent=2))


def fail(reason: str) -> NoReturn:
    typer.echo(f"ninjait: {reason}", err=True)
    raise typer.Exit(1)
