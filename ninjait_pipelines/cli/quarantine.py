"""`ninjait quarantine`: what a person or a script sees; what happens is in the stage ingest."""

from __future__ import annotations

import getpass
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ninjait_pipelines.cli.output import Json, fail, opened_stores, print_json, print_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ninjait_pipelines.ingest.marks import Span
    from ninjait_pipelines.ingest.mend import Change
    from ninjait_pipelines.ingest.quarantine import Line
    from ninjait_pipelines.resources import Stores
    from ninjait_pipelines.resources.message_queue import Message, Outgoing
    from ninjait_pipelines.resources.mongodb import MongoDB

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
Id = Annotated[str | None, typer.Option("--id", help="Only this copy.")]
Queue = Annotated[str | None, typer.Option(help="Only copies from this queue, such as agent.metrics.")]
Reason = Annotated[str | None, typer.Option(help="Only copies with this reason, such as unknown_device.")]
Since = Annotated[
    datetime | None, typer.Option(help="Only copies quarantined at this time, UTC, or later.", formats=TIMES)
]
Until = Annotated[datetime | None, typer.Option(help="Only copies quarantined before this time, UTC.", formats=TIMES)]
AllHeld = Annotated[bool, typer.Option("--all-held", help="Everything that is held.")]

MOST_GROUPS = 50
# What `show` prints of one copy: so many reasons, and the body if it is no longer than that. --json and --raw have all.
MOST_REASONS = 20
MOST_CHARACTERS = 4000
BEGINNING = 400
# Of a line that shows what was refused.
WIDTH = 110


def register(app: typer.Typer) -> None:
    """Adds the commands to `ninjait`."""
    group = typer.Typer(no_args_is_help=True, help="Messages that could not be taken: look, mend, replay, discard.")
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
    all_groups: Annotated[bool, typer.Option("--all-groups", help=f"Not only the {MOST_GROUPS} largest.")] = False,
    every: Annotated[bool, typer.Option("--all", help="A line for each copy, in every state.")] = False,
    as_json: Json = False,
) -> None:
    """List what is held: copies by reason, queue, organization and agent version, the most frequent first.

    While MongoDB is away it lists the copies that wait in the spool, and exits with 1: that is not all that is held.

    Example: ninjait quarantine list --reason unknown_device
    """
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreError

    wanted = {"queue": queue, "reason": reason, "since": _utc(since), "until": _utc(until)}
    away = ""
    with opened_stores() as stores:
        mongodb = stores.mongodb
        try:
            _move_spooled(mongodb)
            found = list(quarantine.select(mongodb, state=None if every else "held", **wanted))  # type: ignore[arg-type]
        except StoreError as error:
            found = quarantine.select_spooled(mongodb, **wanted)  # type: ignore[arg-type]
            away = f"{error} What waits in the spool {mongodb.spool} is all that can be listed: {len(found)} copies."
        names = _names(stores) if found else {}
    rows = (
        [_single(document) for document in found]
        if every
        else [_group(line, names) for line in quarantine.lines(found, reason)]
    )
    if as_json:
        print_json(rows)
    elif rows:
        _print_rows(rows, len(rows) if every or all_groups else MOST_GROUPS)
    elif not away:
        typer.echo("Nothing is held.")
    if away:
        fail(away)


def _names(stores: Stores) -> dict[str, str]:
    """The organizations' names; none while PostgreSQL is away."""
    from ninjait_pipelines.resources.store import StoreError

    try:
        return {
            row["id"]: row["name"] for row in stores.postgres.rows("SELECT id::text AS id, name FROM organizations")
        }
    except StoreError:
        return {}


def _group(line: Line, names: Mapping[str, str]) -> dict[str, Any]:
    row = msgspec.structs.asdict(line)
    return {name: row.pop(name) for name in ("reason", "queue")} | {
        "organization": names.get(line.organization_id or ""),
        **row,
    }


def _single(document: dict[str, Any]) -> dict[str, Any]:
    reasons = list(dict.fromkeys(entry["reason"] for entry in document["reasons"]))
    shown = ("queue", "organization_id", "device_id", "agent_version", "points_quarantined", "state", "quarantined_at")
    return {"id": document["_id"], "reasons": ", ".join(reasons), **{name: document[name] for name in shown}}


def _print_rows(rows: list[dict[str, Any]], most: int) -> None:
    print_table(rows[0], [[value and _safe(str(value)) for value in row.values()] for row in rows[:most]])
    left = rows[most:]
    if left:
        copies = sum(row["copies"] for row in left)
        typer.echo(f"and {len(left):,} more groups, {copies:,} copies: --all-groups")


def _safe(text: str) -> str:
    """Text of anybody, which may not move the terminal's cursor."""
    return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in text)


def _move_spooled(mongodb: MongoDB) -> None:
    """Moves what waits in the spool; a file that cannot be moved stops no command."""
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreFailed

    try:
        quarantine.move_spooled(mongodb, datetime.now(UTC))
    except StoreFailed as error:
        typer.echo(str(error), err=True)


def show(
    document_id: Annotated[str, typer.Argument(metavar="ID", help="Id, from `ninjait quarantine list --all`.")],
    raw: Annotated[bool, typer.Option("--raw", help="Write the original bytes, and nothing else.")] = False,
    as_json: Json = False,
) -> None:
    """Show one copy: what was refused, marked in the original bytes; who did what with it, and what became of that.

    Of a long message only what was refused is shown. With --json the bytes are text as far as they are, and all of it.
    While MongoDB is away it shows a copy that waits in the spool.

    Example: ninjait quarantine show agent.metrics/1700000000000-0
    """
    with opened_stores() as stores:
        document, body = _found(stores.mongodb, document_id)
        if raw:
            sys.stdout.buffer.write(body)
            sys.stdout.flush()
            return
        for step in document["trail"]:
            step["became"] = _became(stores, document, step)
    if as_json:
        print_json({**document, "body": body.decode(errors="backslashreplace")})
    else:
        _show(document, body)


def _found(mongodb: MongoDB, document_id: str) -> tuple[dict[str, Any], bytes]:
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreError

    try:
        _move_spooled(mongodb)
        document = quarantine.find(mongodb, document_id)
        body = quarantine.body_of(mongodb, document) if document else b""
    except StoreError as error:
        spooled = quarantine.select_spooled(mongodb)
        document = next((one for one in spooled if one["_id"] == document_id), None)
        if document is None:
            fail(f"{error} It is not among the {len(spooled)} copies in the spool {mongodb.spool}.")
        body = document["body"]
    if document is None:
        fail(f"{document_id} is not in quarantine")
    return document, body


def _became(stores: Stores, document: dict[str, Any], step: dict[str, Any]) -> str | None:
    """What became of the message that a copy was replayed as; None where there is none."""
    from ninjait_pipelines.resources.clickhouse import sql
    from ninjait_pipelines.resources.store import StoreError

    if not step.get("message_id"):
        return None
    try:
        rows = stores.clickhouse.rows(
            sql("ingest/replayed_message"),
            queue=document["queue"],
            message_id=step["message_id"],
            own=document["_id"].partition("/")[2],
            since=step["at"],
        )
    except StoreError as error:
        return f"not known: {error}"
    said = [
        f"{row['outcome']} ({row['points_written']} of {row['points']} points) by run {row['run_id']}"
        + ("" if row["outcome"] == "written" else f", see {document['queue']}/{row['delivery_id']}")
        for row in rows
    ]
    return "; ".join(said) or "not drained yet"


def _show(document: dict[str, Any], body: bytes) -> None:
    from rich.console import Console
    from rich.text import Text

    from ninjait_pipelines.ingest.marks import marked

    console = Console(soft_wrap=True, highlight=False)
    for name, value in document.items():
        if name not in ("body", "reasons", "trail"):
            console.print(Text(_safe(f"{name}: {value}")))
    for step in document["trail"]:
        console.print(Text(f"{step['at']:%Y-%m-%d %H:%M:%S} {step['who']} {step['action']}: {step['outcome']}"))
        for change in step.get("changes", ()):
            console.print(Text(f"   {_safe(change)}"))
        if step["became"]:
            console.print(Text(f"   {step['became']}"))
    text, spans = marked(document, body)
    for entry, span in list(zip(document["reasons"], spans, strict=True))[:MOST_REASONS]:
        where = "whole message" if entry["index"] is None else f"sample {entry['index']}"
        field = f", {entry['field']} = {entry['value']}" if entry["field"] else ""
        console.print(Text(_safe(f"-> {where}{field}: {entry['reason']}"), style="red"))
        if span:
            _print_window(console, text, span)
    more = len(spans) - MOST_REASONS
    if more > 0:
        counts = Counter(f"{entry['field']}: {entry['reason']}" for entry in document["reasons"][MOST_REASONS:])
        kinds = ", ".join(f"{count:,} of {_safe(kind)}" for kind, count in counts.most_common())
        console.print(Text(f"and {more:,} more: {kinds}; --json has them all"))
    is_unpacked = body.startswith(b"\x1f\x8b") and not text.startswith("\\x1f")
    unpacked = f", {len(text.encode()):,} unpacked" if is_unpacked else ""
    if len(text) > MOST_CHARACTERS:
        console.print(f"original bytes ({len(body):,}{unpacked}), of which --raw writes all, begin with:")
        console.print(Text(_safe(text[:BEGINNING]) + "..."))
    else:
        console.print(f"original bytes ({len(body):,}{unpacked}):")
        console.print(_colored(text, [span for span in spans if span]))


def _print_window(console: Console, text: str, span: Span) -> None:
    """A line of the text round what was refused, with carets below it: colors are lost in a pipe."""
    from rich.cells import cell_len
    from rich.text import Text

    width = min(WIDTH, max(20, console.width - 10)) if console.is_terminal else WIDTH
    start, end = span[0], min(span[1], span[0] + width)
    room = (width - (end - start)) // 2
    left, right = max(0, start - room), min(len(text), end + room)
    before, bad, after = (_one_line(text[a:b]) for a, b in ((left, start), (start, end), (end, right)))
    dots = "..." if left else ""
    rest = "..." if right < len(text) else ""
    console.print(Text.assemble("   ", dots, before, (bad, "bold red"), after, rest))
    console.print(Text(" " * (3 + len(dots) + cell_len(before)) + "^" * max(1, cell_len(bad)), style="red"))


def _one_line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)


def _colored(text: str, spans: list[Span]) -> Text:
    from rich.text import Text

    colored = Text()
    at = 0
    for start, end in sorted(set(spans)):
        start = max(start, at)
        if end > start:
            colored.append(_safe(text[at:start])).append(_safe(text[start:end]), "bold red")
            at = end
    return colored.append(_safe(text[at:]))


def replay(
    document_id: Id = None,
    queue: Queue = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    all_held: AllHeld = False,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Set a field of the message, or of those samples that were rejected for it. JSON, else text.",
        ),
    ] = None,
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="Replace a whole value wherever it stands: an id or a host, as text, tag or in the routing key.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Publish nothing; say what would be accepted now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish held copies again, through the front door: of a message that was partly good, the rejected samples only.

    Replayed twice is once: a whole message keeps its id, and samples, or a message that --set or --map changed, get one
    made from their content. A copy in which such a change is not possible, or changes nothing, stays held. What is
    still bad comes back, as a new copy.

    Example: ninjait quarantine replay --reason unknown_device --map OLD_DEVICE_ID=NEW_DEVICE_ID --dry-run
    """
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.ingest.mend import Change

    change = Change({name: _json_or_text(value) for name, value in _pairs("--set", sets)}, dict(_pairs("--map", maps)))
    with opened_stores() as stores:
        found = _selected(stores.mongodb, document_id, queue, reason, since, until, all_held)
        if dry_run:
            _rehearse(stores, found, change, as_json)
            return
        done = quarantine.replaying(stores.mongodb, stores.message_queue, found, _who(), datetime.now(UTC), change)
        results = list(_with_progress(done, len(found)))
    messages = {quarantine.content_of(one.message) for one in results if one.message}
    left = [one for one in results if not one.message]
    if as_json:
        print_json({"replayed": len(messages), "left": {one.copy: one.problem for one in left}})
    else:
        typer.echo(f"replayed {len(messages)} messages")
        _print_problems(Counter(one.problem for one in left), "still held")
    if left and not messages:
        raise typer.Exit(1)


def _pairs(option: str, given: Iterable[str] | None) -> Iterator[tuple[str, str]]:
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            fail(f"{option} {text}: write it as {'FIELD=VALUE' if option == '--set' else 'OLD=NEW'}")
        yield name, value


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _selected(
    mongodb: MongoDB,
    document_id: str | None,
    queue: str | None,
    reason: str | None,
    since: datetime | None,
    until: datetime | None,
    all_held: bool,
) -> list[dict[str, Any]]:
    """The held copies that a command is about, which has to say so."""
    from ninjait_pipelines.ingest import quarantine

    if not (document_id or queue or reason or since or until or all_held):
        fail("say which: --id, --queue, --reason, --since, --until or --all-held")
    _move_spooled(mongodb)
    found = list(
        quarantine.select(
            mongodb, document_id=document_id, queue=queue, reason=reason, since=_utc(since), until=_utc(until)
        )
    )
    if document_id and not found:
        fail(f"{document_id} is not held")
    return found


def _with_progress(results: Iterable[Any], total: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(results, "replaying", total, console=console, transient=True, disable=not console.is_terminal)


def _print_problems(problems: Counter[str], state: str) -> None:
    for problem, count in problems.most_common():
        typer.echo(f"{count} {'copy is' if count == 1 else 'copies are'} {state}: {_safe(problem)}")


def _rehearse(stores: Stores, found: list[dict[str, Any]], change: Change, as_json: bool) -> None:
    """What a replay would publish, decoded as a drain would decode it now. Publishes nothing, and marks nothing."""
    from ninjait_pipelines.ingest.decode import Period, decode
    from ninjait_pipelines.ingest.drain import load_registry

    registry, period = load_registry(stores.postgres), Period.at(datetime.now(UTC))
    rows: list[dict[str, Any]] = []
    problems: Counter[str] = Counter()
    messages: dict[Any, Outgoing] = {}
    for copy, message, problem in _made_again(stores.mongodb, found, change):
        if message is None:
            problems[problem] += 1
            rows.append({"copy": copy, "problem": problem})
            continue
        messages[message.message_id] = message
        decoded = decode(_as_delivered(message, copy), registry, period)
        reasons = sorted({rejection.reason for rejection in decoded.rejections})
        rows.append(
            {
                "copy": copy,
                "message_id": message.message_id,
                "routing_key": message.routing_key,
                "accepted": decoded.points_accepted,
                "rejected": decoded.points_rejected,
                "reasons": reasons,
                "body": message.body.decode(errors="backslashreplace"),
            }
        )
    if as_json:
        print_json(rows)
        return
    published = [row for row in rows if "message_id" in row]
    accepted, rejected = (sum(row[name] for row in published) for name in ("accepted", "rejected"))
    typer.echo(f"would publish {len(messages)} messages: {accepted} points accepted now, {rejected} rejected")
    again = Counter(reason for row in published for reason in row["reasons"])
    for reason, count in again.most_common():
        typer.echo(f"{count} would come back: {_safe(reason)}")
    _print_problems(problems, "left")
    if len(published) == 1:
        typer.echo(f"routing key {_safe(published[0]['routing_key'])}, body:")
        typer.echo(_safe(published[0]["body"][:MOST_CHARACTERS]))


def _made_again(
    mongodb: MongoDB, found: list[dict[str, Any]], change: Change
) -> Iterator[tuple[str, Outgoing | None, str]]:
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.ingest.mend import CannotChange

    for one in found:
        full = quarantine.find(mongodb, one["_id"])
        if full is None:
            continue
        try:
            yield full["_id"], quarantine.again(full, quarantine.body_of(mongodb, full), change), ""
        except CannotChange as problem:
            yield full["_id"], None, str(problem)


def _as_delivered(message: Outgoing, copy: str) -> Message:
    from ninjait_pipelines.resources.message_queue import Message

    return Message(
        message.queue, message.routing_key, message.body, message.content_type, message.message_id, "", copy, 1, 0
    )


def discard(
    because: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")],
    document_id: Id = None,
    queue: Queue = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    all_held: AllHeld = False,
    yes: Annotated[bool, typer.Option("--yes", help="Needed for more than one copy.")] = False,
) -> None:
    """Give up held copies. They are no longer listed or replayed, and are deleted 30 days later.

    Example: ninjait quarantine discard --id agent.metrics/1700000000000-0 --because "test device"
    """
    from ninjait_pipelines.ingest import quarantine

    if not because.strip():
        fail("--because needs a reason")
    with opened_stores() as stores:
        found = _selected(stores.mongodb, document_id, queue, reason, since, until, all_held)
        if len(found) > 1 and not yes:
            fail(f"that is {len(found)} copies: --yes discards them")
        now, who = datetime.now(UTC), _who()
        done = sum(quarantine.discard(stores.mongodb, one["_id"], because, who, now) for one in found)
    typer.echo(f"discarded {done} {'copy' if done == 1 else 'copies'}")


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def _who() -> str:
    """Who acts, as far as this machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
