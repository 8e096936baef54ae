"""`ninjait migrate up|status|rollback|new`: options and output; migrations.py does the work.

Exchanges, queues, bindings and buckets have no numbered files: code declares them, and the stores compare that with
what is there, create what is missing, and refuse what differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ninjait_pipelines.cli.output import Json, opened_stores, print_json, print_table, say

if TYPE_CHECKING:
    from ninjait_pipelines.migrations import State
    from ninjait_pipelines.resources import Stores


class StoreName(StrEnum):
    """The stores that have migrations."""

    postgres = "postgres"
    clickhouse = "clickhouse"


def register(app: typer.Typer) -> None:
    """Adds the command group to `ninjait`."""
    about = "The schema of PostgreSQL and ClickHouse, and what is declared of the queue and the metrics store."
    group = typer.Typer(no_args_is_help=True, help=about)
    group.command()(up)
    group.command()(status)
    group.command()(rollback)
    group.command()(new)
    app.add_typer(group, name="migrate")


def up(as_json: Json = False) -> None:
    """Apply the migrations that are due, and declare the queue's topology and the metrics store's buckets.

    The first time, PIPELINE_START is recorded: the first day that has partitions. Another one is refused from then on.

    Example: ninjait migrate up
    """
    from ninjait_pipelines import migrations
    from ninjait_pipelines.settings import load

    with opened_stores() as stores:
        report = None if as_json else say
        both = (stores.postgres, stores.clickhouse)
        migrations.check_versions((store for store in stores.all().values() if store not in both), report)
        applied = migrations.migrate_up(*both, report, start=load().pipeline_start)
        moved = list(_told(stores.message_queue.upgrade(), as_json))
        stores.metrics_store.declare()
    if as_json:
        print_json({"applied": applied, "moved": moved})
    elif not applied and not moved:
        say("Nothing to apply: both stores are up to date.")


def _told(lines: Iterator[str], quiet: bool) -> Iterator[str]:
    for line in lines:
        if not quiet:
            say(line)
        yield line


def status(as_json: Json = False) -> None:
    """List the migrations, and whether the queue and the metrics store are as declared. Exits with 1 while one is not.

    Creates and changes nothing.

    Example: ninjait migrate status --json
    """
    from ninjait_pipelines import migrations

    with opened_stores() as stores:
        states = [*migrations.status(stores.postgres, stores.clickhouse), *declared(stores)]
    if as_json:
        print_json(states)
    else:
        rows = [
            (state.store, state.name, state.state, f"{state.applied_at:%Y-%m-%d %H:%M:%S}" if state.applied_at else "")
            for state in states
        ]
        print_table(("store", "migration", "state", "applied at (UTC)"), rows)
    raise typer.Exit(any(state.state not in ("applied", "ok") for state in states))


def declared(stores: Stores) -> list[State]:
    """A line for the queue and one for the metrics store: ok, or how it differs from what is declared."""
    from ninjait_pipelines.migrations import State
    from ninjait_pipelines.resources.store import StoreFailed

    found: list[State] = []
    for key, store in (("message_queue", stores.message_queue), ("metrics_store", stores.metrics_store)):
        state = "ok"
        try:
            store.check_declared()
        except StoreFailed as error:
            state = f"differs: {error}"
        found.append(State(key, store.title, state, None))
    return found


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
        migrations.rollback(stores.postgres, stores.clickhouse, store, say)


def new(
    name: Annotated[str, typer.Argument(help="What it does, in lower case and underscores.")],
    field: Annotated[str | None, typer.Option(help="Adds the columns of this metric.")] = None,
) -> None:
    """Write the next migration of ClickHouse: an empty one, or the columns of a metric that was added to FIELDS.

    Example: ninjait migrate new battery --field battery
    """
    from ninjait_pipelines.migration_drafts import new_migration

    say(f"Wrote {new_migration(name, field)}.")
