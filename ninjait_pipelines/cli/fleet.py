"""`ninjait seed`, `agent` and `simulate`: what a person sees; what happens is in ninjait_pipelines.local.fleet."""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ninjait_pipelines.cli.output import Json, fail, opened_stores, print_json, print_table, say

if TYPE_CHECKING:
    from ninjait_pipelines.local.fleet.simulate import Tally, Window

# The rows of what `simulate` prints: the numbers of fleet.simulate.QueueTally.
COUNTS = (
    "messages",
    "written",
    "not_understood",
    "partly_quarantined",
    "quarantined",
    "duplicate",
    "points",
    "bad_points",
    "resent_points",
)


class Environment(StrEnum):
    """The environments of fleet/seed_data.py."""

    demo = "demo"
    testing = "testing"


def seed(
    environment: Annotated[
        Environment, typer.Option(help="demo: 3 organizations; testing: 2 tiny ones.")
    ] = Environment.demo,
    clean: Annotated[bool, typer.Option("--clean", help="Delete what belongs to the environment instead.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Fill PostgreSQL with plausible organizations. A second run changes nothing.

    Example: ninjait seed --environment demo
    """
    from ninjait_pipelines.local.fleet import seed as fleet_seed

    if clean and not yes:
        typer.confirm(f"Delete the organizations of '{environment}' with everything that belongs to them?", abort=True)
    with opened_stores() as stores:
        if clean:
            deleted = fleet_seed.clean(stores.postgres, environment)
            _say(as_json, {"deleted": deleted}, f"deleted {deleted} rows of {environment}")
            return
        seeded = fleet_seed.seed(stores.postgres, environment, datetime.now(UTC).date())
    rows = ", ".join(f"{count} {table}" for table, count in seeded.rows.items())
    _say(as_json, seeded, f"{environment}: {rows}; {seeded.added} of these rows are new")


def agent(
    organization: Annotated[str, typer.Option(help="Id of the organization; with --register also its slug.")],
    device: Annotated[str | None, typer.Option(help="Id of this device.")] = None,
    register: Annotated[bool, typer.Option("--register", help="Make this machine a device, if it is none.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Take and deliver one reading.")] = False,
    interval: Annotated[int, typer.Option(min=1, help="Seconds from one reading to the next.")] = 30,
    spool: Annotated[
        Path | None,
        typer.Option(help="Folder for what the broker does not take yet. [default: .ninjait/agent/<device>]"),
    ] = None,
    spool_mib: Annotated[int, typer.Option(min=1, help="What the spool may hold, MiB.")] = 64,
    relay: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Take what Telegraf or collectd post here, instead of readings of its own, and deliver it confirmed. "
            "Without HOST on loopback.",
        ),
    ] = None,
) -> None:
    """Report this machine: its metrics every 30 seconds, a heartbeat every 2 minutes, until stopped.

    Example: ninjait agent --organization aoraki --register --once

    A relay for Telegraf: ninjait agent --organization aoraki --register --relay 8186
    """
    from ninjait_pipelines.local.fleet import agent as fleet_agent
    from ninjait_pipelines.local.fleet import relay as fleet_relay
    from ninjait_pipelines.metrics.interfaces import patterns_of
    from ninjait_pipelines.paths import LOCAL_STACK

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    device_id = _id("--device", device) if device else None
    try:
        with opened_stores() as stores:
            if register:
                owner, device_id = fleet_agent.register(stores.postgres, organization, device_id, datetime.now(UTC))
                say(f"this machine is device {device_id} of organization {owner}", err=True)
            else:
                owner = _id("--organization", organization)
            if device_id is None:
                fail("name this device with --device, or let --register make it one")
            folder = spool or LOCAL_STACK / "agent" / str(device_id)
            machine = fleet_agent.Machine(patterns_of(stores.postgres.interfaces_left_out))
            me = fleet_agent.Agent(owner, device_id, machine)
            with fleet_agent.Spool(folder, spool_mib * fleet_agent.MIB) as opened:
                if relay:
                    with fleet_relay.listening(_address(relay), opened, str(owner), _report) as port:
                        say(f"takes posts on port {port}", err=True)
                        fleet_relay.run(me, opened, stores.message_queue, stop, _report, _now)
                    return
                if once:
                    delivered = fleet_agent.run_once(me, opened, stores.message_queue, stop, _report, _now)
                    raise typer.Exit(not delivered)
                every = timedelta(seconds=interval)
                fleet_agent.run(me, opened, stores.message_queue, every, stop, _report, _now)
    except (LookupError, fleet_agent.SpoolInUse) as error:
        fail(str(error.args[0]))
    except OSError as error:
        if relay is None:
            raise
        fail(f"nothing can be taken on {relay}: {error.strerror or error}")


def _address(text: str) -> tuple[str, int]:
    from ninjait_pipelines.local.fleet.relay import address_of

    try:
        return address_of(text)
    except ValueError:
        fail(f"--relay {text!r} is not [HOST:]PORT")


def simulate(
    organization: Annotated[list[str] | None, typer.Option(help="Slug; may be given again. [default: all]")] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Maximum number of devices of each organization.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Start of the window, RFC 3339. [default: --hours before now]")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Length of the window.")] = 24,
    interval: Annotated[int, typer.Option(min=1, help="Seconds between two samples of a device.")] = 30,
    seed_number: Annotated[int, typer.Option("--seed", help="The same number gives the same messages.")] = 1,
    broken: Annotated[float, typer.Option(min=0, max=1, help="Share of messages that are wrong.")] = 0.005,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of messages published twice.")] = 0.01,
    resent: Annotated[float, typer.Option(min=0, max=1, help="Share whose samples come in two messages.")] = 0.005,
    away: Annotated[float, typer.Option(min=0, max=1, help="Share of laptops that deliver late.")] = 0.35,
    api_calls: Annotated[float, typer.Option(min=0, help="API calls per device and busy hour.")] = 3,
    logs: Annotated[float, typer.Option(min=0, help="Log lines per device and busy hour.")] = 0.5,
    as_json: Json = False,
) -> None:
    """Publish what the seeded fleet would have sent in a window, and say exactly what that was.

    Example: ninjait simulate --hours 24 --organization havelland
    """
    from ninjait_pipelines.local.fleet import simulate as fleet

    options = fleet.Options(
        seed=seed_number,
        interval=interval,
        broken=broken,
        duplicates=duplicates,
        resent=resent,
        away=away,
        api_calls=api_calls,
        logs=logs,
    )
    window = _window(start, timedelta(hours=hours), _now())
    with opened_stores() as stores:
        try:
            organizations = fleet.read_fleet(stores.postgres, window.end, organization or (), devices)
        except LookupError as error:
            fail(str(error.args[0]))
        if not any(one.devices for one in organizations):
            fail("no devices were registered by then; for some to try: ninjait seed")
        messages = fleet.simulate(organizations, window, options)
        tally = fleet.publish(stores.message_queue, messages, None if as_json else _progress)
    if as_json:
        print_json({"window": window, "queues": tally})
    else:
        _print_tally(window, tally)


def register(app: typer.Typer) -> None:
    """Adds the commands to `ninjait`."""
    for command in (seed, agent, simulate):
        app.command()(command)


def _now() -> datetime:
    return datetime.now(UTC)


def _window(start: str | None, length: timedelta, now: datetime) -> Window:
    """The window to simulate; one that starts by default lies before `now`, on whole minutes."""
    from ninjait_pipelines.local.fleet.simulate import Window

    try:
        begin = datetime.fromisoformat(start) if start else now.replace(second=0, microsecond=0) - length
    except ValueError:
        fail(f"--from must be a time such as 2026-05-01T00:00:00Z, not {start!r}")
    begin = begin.astimezone(UTC) if begin.tzinfo else begin.replace(tzinfo=UTC)
    if begin + length > now:
        fail(f"the window ends at {begin + length:%Y-%m-%d %H:%M} UTC, in the future: ingest would refuse its samples")
    return Window(begin, begin + length)


def _progress(messages: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{messages:,} messages published", err=True, nl=False)


def _print_tally(window: Window, tally: Tally) -> None:
    say(f"published for {window.start:%Y-%m-%d %H:%M} to {window.end:%Y-%m-%d %H:%M} UTC")
    rows = [
        (count.replace("_", " "), *(f"{getattr(counted, count):,}" for counted in tally.values())) for count in COUNTS
    ]
    print_table(("", *tally), rows)
    for queue, counted in tally.items():
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counted.kinds.items()) if kind != "good")
        say(f"{queue}: {kinds or 'nothing else than good messages'}")


def _id(option: str, value: str) -> uuid.UUID:
    try:
        return uuid.UUID(value)
    except ValueError:
        fail(f"{option} must be a UUID, not {value!r}.")


def _report(line: str) -> None:
    say(f"{datetime.now(UTC):%H:%M:%S} {line}", err=True)


def _say(as_json: bool, data: object, line: str) -> None:
    if as_json:
        print_json(data)
    else:
        say(line)
