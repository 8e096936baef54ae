"""`ninjait status`: the health of every store, for a person or a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ninjait_pipelines.cli.stack import fail

if TYPE_CHECKING:
    from ninjait_pipelines.resources.store import StoreStatus
    from ninjait_pipelines.settings import Settings

NEVER_STARTED = "the local stack was never started; start it with: ninjait up"


def register(app: typer.Typer) -> None:
    """Adds the command to `ninjait`."""
    app.command()(status)


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
    seconds: Annotated[float, typer.Option(help="How long to wait for an answer, seconds.", min=0.1)] = 5,
) -> None:
    """Show every store's state, version, latency and size. Exits with 1 while a store is down.

    Example: ninjait status --json
    """
    import msgspec

    from ninjait_pipelines.operations.health import check_all
    from ninjait_pipelines.resources import open_stores

    settings = _settings()
    with open_stores(settings) as stores:
        statuses = check_all(stores.all(), seconds)
    down = [store for store in statuses if not store.ok]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(statuses)).decode())
    else:
        _print(statuses)
        for store in down:
            typer.echo(store.problem, err=True)
        if down:
            typer.echo(f"down: {', '.join(store.store for store in down)}. {_remedy(settings)}", err=True)
    if down:
        raise typer.Exit(1)


def _settings() -> Settings:
    import os

    from ninjait_pipelines import settings

    if not (settings.LOCAL_STACK / "settings.env").exists() and not any(os.environ.get(n) for n in settings.REQUIRED):
        fail(NEVER_STARTED)
    return settings.load(os.environ, settings.LOCAL_STACK)


def _remedy(settings: Settings) -> str:
    from ninjait_pipelines.settings import LOCAL_STACK, read_env_file

    env_file = LOCAL_STACK / "settings.env"
    local = env_file.exists() and settings.items() <= read_env_file(env_file).items()
    return (
        "Bring it up with: ninjait up" if local else "It is not of the local stack: check its server and the settings."
    )


def _print(statuses: list[StoreStatus]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("store", "state", "version", "latency", "size", "address", box=None, pad_edge=False)
    for store in statuses:
        state = "[green]up[/]" if store.ok else "[red]down[/]"
        latency = "" if store.latency_seconds is None else f"{store.latency_seconds * 1000:.0f} ms"
        table.add_row(store.store, state, store.version, latency, size(store.size_bytes), store.address)
    Console(soft_wrap=True, highlight=False).print(table)


def size(count: int | None) -> str:
    """Bytes for people: 1.4 MiB; empty where unknown."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
