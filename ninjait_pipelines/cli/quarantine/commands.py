"""The commands of `ninjait quarantine`; what they do to the stores is in the stage ingest."""

from __future__ import annotations

import getpass
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ninjait_pipelines.cli.output import Json, counted, fail, opened_stores, print_json, print_table, say
from ninjait_pipelines.cli.quarantine import render, select

if TYPE_CHECKING:
    from ninjait_pipelines.ingest.quarantine.edit import Edits
    from ninjait_pipelines.ingest.quarantine.query import QuarantineFilter
    from ninjait_pipelines.resources import Stores

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
Id = Annotated[str | None, typer.Option("--id", help="Only this message.")]
Queue = Annotated[str | None, typer.Option(help="Only messages from this queue, such as agent.metrics.")]
Reason = Annotated[str | None, typer.Option(help="Only messages with this reason, such as unknown_device.")]
Since = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", help="Only messages quarantined at this UTC time or later.", formats=TIMES),
]
Until = Annotated[
    datetime | None, typer.Option(metavar="TIME", help="Only messages quarantined before this UTC time.", formats=TIMES)
]
Organization = Annotated[
    str | None, typer.Option(help="Only messages whose routing key names this organization, by its id.")
]
Everything = Annotated[bool, typer.Option("--everything", help="Every quarantined message.")]

MAX_GROUPS = 50


def register(app: typer.Typer) -> None:
    """Adds the commands to `ninjait`."""
    group = typer.Typer(no_args_is_help=True, help="Messages that could not be taken: inspect, edit, replay, discard.")
    group.command(name="list")(list_)
    group.command()(show)
    group.command()(replay)
    group.command()(discard)
    app.add_typer(group, name="quarantine")


def list_(
    queue: Queue = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    all_groups: Annotated[bool, typer.Option("--all-groups", help=f"Not only the {MAX_GROUPS} largest.")] = False,
    every: Annotated[bool, typer.Option("--all", help="One line per message, in every state, newest first.")] = False,
    limit: Annotated[int, typer.Option(help="With --all: at most this many messages.", min=1)] = 200,
    as_json: Json = False,
) -> None:
    """List quarantined messages by reason, queue, organization and agent version, most frequent first.

    While MongoDB is away it lists the messages that wait in the spool and exits with 1, because others are missing.

    Example: ninjait quarantine list --reason unknown_device
    """
    from ninjait_pipelines.ingest.quarantine import query
    from ninjait_pipelines.ingest.quarantine.documents import HELD
    from ninjait_pipelines.resources.store import StoreError

    selection = select.filter_of(None, queue, reason, since, until, organization)
    away, others, left = "", 0, 0
    with opened_stores() as stores:
        try:
            select.move_spool(stores.mongodb)
            rows, left = _rows(stores, selection, limit if every else None)
            others = 0 if rows else query.count(stores.mongodb, None if every else HELD)
        except StoreError as error:
            found = query.select_spooled(stores.mongodb, selection)
            rows = [render.message_row(one) for one in found] if every else _group_rows(stores, found, reason)
            away = f"{error} Only the spool {stores.mongodb.spool} can be listed: {counted(len(found), 'message')}."
    if as_json:
        print_json(rows)
    elif rows:
        _print_rows(rows, len(rows) if every or all_groups else MAX_GROUPS)
    elif others:
        where = "here" if every else "quarantined"
        say(f"No such message is {where}; {counted(others, 'other message')} {'is' if others == 1 else 'are'}.")
    elif not away:
        say("Nothing is quarantined.")
    if left:
        say(f"and {counted(left, 'older message')}: --limit" if every else "and more groups than are listed", err=True)
    if away:
        fail(away)


def _print_rows(rows: list[dict[str, Any]], max_rows: int) -> None:
    print_table(rows[0], [row.values() for row in rows[:max_rows]])
    if rest := rows[max_rows:]:
        messages = counted(sum(row["messages"] for row in rest), "message")
        say(f"and {counted(len(rest), 'more group')}, {messages}: --all-groups")


def _rows(stores: Stores, selection: QuarantineFilter, limit: int | None) -> tuple[list[dict[str, Any]], int]:
    """The rows of a list, messages or groups of them, and how many it leaves out."""
    from ninjait_pipelines.ingest.quarantine import query

    if limit is None:
        summaries, complete = query.summarize_selection(stores.mongodb, selection)
        names = select.organization_names(stores)
        return [render.group_row(summary, names) for summary in summaries], int(not complete)
    found = list(query.select(stores.mongodb, selection, None, newest=limit))
    left = query.count(stores.mongodb, None, selection) - len(found) if len(found) == limit else 0
    return [render.message_row(document) for document in found], left


def _group_rows(stores: Stores, documents: list[dict[str, Any]], reason: str | None) -> list[dict[str, Any]]:
    from ninjait_pipelines.ingest.quarantine.query import summarize

    names = select.organization_names(stores)
    return [render.group_row(summary, names) for summary in summarize(documents, reason)]


def show(
    document_id: Annotated[str, typer.Argument(metavar="ID", help="Id, from `ninjait quarantine list --all`.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write the original bytes, and nothing else.")] = False,
    as_json: Json = False,
) -> None:
    """Show one message: what was refused, highlighted in the original bytes, who did what with it, and the outcome.

    A long message is shown in part; --json prints all of it, with escapes for bytes that are not text. While MongoDB is
    away it shows a message that waits in the spool.

    Example: ninjait quarantine show agent.metrics/1700000000000-0
    """
    from ninjait_pipelines.ingest.quarantine.audit import trail_of

    with opened_stores() as stores:
        document, body = select.find_message(stores.mongodb, document_id)
        if raw and sys.stdout.isatty():
            fail("--raw writes the bytes as they came, which may control a terminal: redirect them to a file or a pipe")
        if raw:
            sys.stdout.buffer.write(body)
            sys.stdout.flush()
            return
        document["trail"] = trail_of(document)
        for step in document["trail"]:
            step["became"] = select.replay_outcome(stores, document, step)
    if as_json:
        print_json(render.message_json(document, body))
    else:
        render.print_message(document, body)


def replay(
    document_id: Id = None,
    queue: Queue = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    everything: Everything = False,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Set a field of our own agent's message, or of the samples rejected because of it: JSON, or text "
            "for a field that takes text. Not for Telegraf and collectd: --map changes their hosts and tags.",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="Replace a whole value wherever it occurs: an id or a host, as text, tag or in the routing key.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Publish nothing; print what would be accepted now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish quarantined messages again through the broker; of a partly good message, only the rejected samples.

    Replaying is idempotent: a whole message keeps its id, edited or not, and samples get one made from their content. A
    message stays in quarantine if --set or --map is impossible or changes nothing, or if someone began to replay it
    with other edits, because that may be out already. What is still bad comes back as a new quarantined message. The
    routing key follows --set organization_id, and --map of the organization in the key. Exits with 1 if nothing was
    replayed.

    Example: ninjait quarantine replay --reason unknown_device --map OLD_DEVICE_ID=NEW_DEVICE_ID --dry-run
    """
    from ninjait_pipelines.ingest.quarantine.edit import Edits

    edits = Edits(select.pairs("--set", "FIELD=VALUE", sets), select.pairs("--map", "OLD=NEW", maps))
    selection = select.filter_of(document_id, queue, reason, since, until, organization)
    with opened_stores() as stores:
        found = select.select_messages(stores.mongodb, selection, everything)
        select.check_edits_merge_nothing(found, edits)
        if dry_run:
            _rehearse(stores, found, edits, as_json)
        else:
            _publish(stores, found, edits, as_json)


def _rehearse(stores: Stores, found: list[dict[str, Any]], edits: Edits, as_json: bool) -> None:
    """Prints what a replay would publish; exits with 1 if it would publish nothing."""
    from ninjait_pipelines.ingest.quarantine.replay import rehearse
    from ninjait_pipelines.ingest.registry import load_sender_registry

    registry, now = load_sender_registry(stores.postgres), datetime.now(UTC)
    rehearsal = rehearse(stores.mongodb, stores.message_queue, found, edits, registry, now, bodies=as_json)
    if as_json:
        print_json(render.rehearsal_json(rehearsal))
    else:
        render.print_rehearsal(rehearsal)
    if not rehearsal.replays:
        raise typer.Exit(1)


def _publish(stores: Stores, found: list[dict[str, Any]], edits: Edits, as_json: bool) -> None:
    """Replays, and prints how many messages were published and which are left; exits with 1 if none was published."""
    from rich.console import Console
    from rich.progress import track

    from ninjait_pipelines.ingest.quarantine.replay import content_of, replay_each

    stores.message_queue.depth(found[0]["queue"])  # raises while the broker is away, before a message is bound to edits
    console = Console(stderr=True)
    done = replay_each(stores.mongodb, stores.message_queue, found, _who(), _now(stores), edits)
    hidden = not console.is_terminal
    contents, left = set(), {}
    for replayed in track(done, "replaying", len(found), console=console, transient=True, disable=hidden):
        if replayed.message:
            contents.add(content_of(replayed.message))
        else:
            left[replayed.document_id] = replayed.problem
    if as_json:
        print_json({"replayed": len(contents), "left": left})
    else:
        say(f"replayed {counted(len(contents), 'message')}")
        render.print_problems(left.values())
    if not contents:
        raise typer.Exit(1)


def discard(
    because: Annotated[str, typer.Option(help="Why; recorded in the audit trail.")],
    document_id: Id = None,
    queue: Queue = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    everything: Everything = False,
    yes: Annotated[bool, typer.Option("--yes", help="Required for more than one message.")] = False,
) -> None:
    """Give up quarantined messages. They are no longer listed or replayed, and are deleted 30 days later.

    Example: ninjait quarantine discard --id agent.metrics/1700000000000-0 --because "test device"
    """
    from ninjait_pipelines.ingest.quarantine import audit

    if not because.strip():
        fail("--because needs a reason")
    selection = select.filter_of(document_id, queue, reason, since, until, organization)
    with opened_stores() as stores:
        found = select.select_messages(stores.mongodb, selection, everything)
        if len(found) > 1 and not yes:
            fail(f"that is {counted(len(found), 'message')}: --yes discards them")
        now, who = _now(stores), _who()
        done = sum(audit.discard(stores.mongodb, one["_id"], because, who, now) for one in found)
    say(f"discarded {counted(done, 'message')}")


def _now(stores: Stores) -> datetime:
    """ClickHouse's clock, because `show` looks there for what became of a replay; this machine's while it is away."""
    from ninjait_pipelines.resources.store import StoreError

    try:
        return stores.clickhouse.now()
    except StoreError:
        return datetime.now(UTC)


def _who() -> str:
    """The name of the user that runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
