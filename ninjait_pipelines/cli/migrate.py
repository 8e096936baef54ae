"""`ninjait migrate up|status|rollback`: what a person or a script sees; what happens is in migrations.py."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ninjait_pipelines.cli.output import Json, opened_stores, print_json, print_table


class StoreName(StrEnum):
    """The stores that have migrations."""

    postgres = "postgres"
    clickhouse = "clickhouse"


def register(app: typer.Typer) -> None:
    """Adds the command group to `ninjait`."""
    group = typer.Typer(no_args_is_help=True, help="The schema of PostgreSQL and ClickHouse.")
    group.command()(up)
    group.command()(status)
    group.command()(rollback)
    app.add_typer(group, name="migrate")


def up(as_json: Json = False) -> None:
    """Apply the migrations that are due in both stores.

    Example: ninjait migrate up
    """
    from ninjait_pipelines import migrations

    with opened_stores() as stores:
        applied = migrations.migrate_up(stores.postgres, stores.clickhouse, None if as_json else typer.echo)
    if as_json:
        print_json({"applied": applied})
    elif not applied:
        typer.echo("Nothing to apply: both stores are up to date.")


def status(as_json: Json = False) -> None:
    """List the migrations of both stores. Exits with 1 while one of them is not applied as its file says.

    Example: ninjait migrate status --json
    """
    from ninjait_pipelines import migrations

    with opened_stores() as stores:
        states = migrations.status(stores.postgres, stores.clickhouse)
    if as_json:
        print_json(states)
    else:
        rows = [
            (state.store, state.name, state.state, f"{state.applied_at:%Y-%m-%d %H:%M:%S}" if state.applied_at else "")
            for state in states
        ]
        print_table(("store", "migration", "state", "applied at (UTC)"), rows)
    raise typer.Exit(any(state.state != "applied" for state in states))


def rollback(
    store: Annotated[StoreName, typer.Option(help="The store whose newest migration is undone.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Undo the newest migration of one store. What its tables hold is lost.

    Example: ninjait migrate rollback --store clickhouse
    """
    from ninjait_pipelines import migrations

    with opened_stores() as stores:
        name = migrations.newest(stores.postgres, stores.clickhouse, store)
        if name and not yes:
            typer.confirm(f"Undo {store}/{name}, and delete what its tables hold?", abort=True)
        migrations.rollback(stores.postgres, stores.clickhouse, store, typer.echo)
