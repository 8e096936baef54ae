"""`ninjait status`: the health of every store, for a person or a script."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from ninjait_pipelines.cli.output import Json, fail, opened_stores, print_json, print_table, say
from ninjait_pipelines.paths import LOCAL_STACK

if TYPE_CHECKING:
    from ninjait_pipelines.resources.postgres import Postgres
    from ninjait_pipelines.resources.store import StoreStatus

REMEDY = "The local stack comes up with: ninjait up. For other servers, check the settings."


def register(app: typer.Typer) -> None:
    """Adds the command to `ninjait`."""
    app.command()(status)


def status(
    as_json: Json = False,
    seconds: Annotated[float, typer.Option(help="How long to wait for an answer, seconds.", min=0.1)] = 5,
) -> None:
    """Show every store's state, version, latency and size. Exits with 1 while one is down or too old, optional or not.

    It also exits with 1 while PIPELINE_START is not the day on which this installation began.

    "away" means that an optional store is down: the pipeline goes on, and a line below the table says what differs.

    Example: ninjait status --json
    """
    from rich.text import Text

    from ninjait_pipelines.operations.health import check_all
    from ninjait_pipelines.resources.versions import problem, too_old
    from ninjait_pipelines.settings import REQUIRED

    if not (LOCAL_STACK / "settings.env").exists() and not any(os.environ.get(name) for name in REQUIRED):
        fail("the local stack was never started; start it with: ninjait up")
    with opened_stores() as stores:
        statuses = check_all(stores.all(), seconds)
        start_problem = _start_problem(stores.postgres, statuses)
    old = [store for store in statuses if too_old(store.version, store.oldest)]
    down = [store for store in statuses if not store.ok and store not in old]
    if start_problem:
        say(start_problem, err=True)
    if as_json:
        print_json(statuses)
        raise typer.Exit(bool(down or old or start_problem))
    rows = []
    for store in statuses:
        state = Text("up", "green") if store.ok else Text("away", "yellow") if store.optional else Text("down", "red")
        state = Text("too old", "red") if store in old else state
        latency = None if store.latency_seconds is None else f"{store.latency_seconds * 1000:.0f} ms"
        rows.append((store.store, state, store.version, latency, size(store.size_bytes), store.address))
    print_table(("store", "state", "version", "latency", "size", "address"), rows)
    for store in statuses:
        for text in filter(None, (store.problem, store.note)):
            say(text, err=True)
        if store.ok and (words := problem(store.version, store.oldest)):
            say(f"{store.store} at {store.address}: {words}.", err=True)
    if down:
        say(f"down: {', '.join(store.store for store in down)}. {REMEDY}", err=True)
    raise typer.Exit(bool(down or old or start_problem))


def _start_problem(postgres: Postgres, statuses: list[StoreStatus]) -> str | None:
    """None also while PostgreSQL does not answer: the table names it then."""
    from ninjait_pipelines.installation import recorded_start, start_problem
    from ninjait_pipelines.settings import load

    if not all(status.ok for status in statuses if status.store == postgres.title):
        return None
    return start_problem(load().pipeline_start, recorded_start(postgres))


def size(count: int | None) -> str:
    """Bytes for people: 1.4 MiB; empty if unknown."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
