"""`ninjait quarantine`: what a person or a script sees; what happens is in the stage ingest."""

from __future__ import annotations

import getpass
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ninjait_pipelines.cli.output import Json, fail, opened_stores, print_json, print_table, safe, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ninjait_pipelines.ingest.quarantine import Line, Wanted
    from ninjait_pipelines.ingest.quarantine.edit import Change
    from ninjait_pipelines.ingest.quarantine.highlight import Span
    from ninjait_pipelines.resources import Stores
    from ninjait_pipelines.resources.mongodb import MongoDB

TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
Id = Annotated[str | None, typer.Option("--id", help="Only this copy.")]
Queue = Annotated[str | None, typer.Option(help="Only copies from this queue, such as agent.metrics.")]
Reason = Annotated[str | None, typer.Option(help="Only copies with this reason, such as unknown_device.")]
Since = Annotated[
    datetime | None, typer.Option(help="Only copies quarantined at this time, UTC, or later.", formats=TIMES)
]
Until = Annotated[datetime | None, typer.Option(help="Only copies quarantined before this time, UTC.", formats=TIMES)]
Organization = Annotated[
    str | None, typer.Option(help="Only copies whose routing key names this organization, by its id.")
]
AllHeld = Annotated[bool, typer.Option("--all-held", help="Everything that is held.")]

MAX_GROUPS = 50
# Of what is held, where nothing of it was meant.
MAX_HELD = 10
# What somebody else says beside these is not in the body.
REASONS_WITH_WORDS = ("dead_letter", "refused_by_store")
# `show` prints the body of one copy if it is no longer than that. --json and --raw have all.
MAX_CHARACTERS = 4000
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
    organization: Organization = None,
    all_groups: Annotated[bool, typer.Option("--all-groups", help=f"Not only the {MAX_GROUPS} largest.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="A line for each copy, in every state, the newest first.")
    ] = False,
    limit: Annotated[int, typer.Option(help="With --all: so many copies.", min=1)] = 200,
    as_json: Json = False,
) -> None:
    """List what is held: copies by reason, queue, organization and agent version, the most frequent first.

    While MongoDB is away it lists the copies that wait in the spool, and exits with 1: that is not all that is held.

    Example: ninjait quarantine list --reason unknown_device
    """
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreError

    wanted = _wanted(None, queue, reason, since, until, organization)
    away, others, left = "", 0, 0
    with opened_stores() as stores:
        try:
            _move_spooled(stores.mongodb)
            rows, left = _rows(stores, wanted, limit if every else None)
            others = 0 if rows else quarantine.count(stores.mongodb, None if every else "held")
        except StoreError as error:
            found = quarantine.select_spooled(stores.mongodb, wanted)
            names = {} if every else _names(stores)
            grouped = [] if every else quarantine.lines(found, reason)
            rows = [*map(_single, found)] if every else [_group(one, names) for one in grouped]
            folder = stores.mongodb.spool
            away = f"{error} What waits in the spool {folder} is all that can be listed: {len(found)} copies."
    if as_json:
        print_json(rows)
    elif rows:
        max_rows = len(rows) if every or all_groups else MAX_GROUPS
        print_table(rows[0], [row.values() for row in rows[:max_rows]])
        if rest := rows[max_rows:]:
            copies = sum(row["copies"] for row in rest)
            say(f"and {len(rest):,} more groups, {copies:,} copies: --all-groups")
    elif others:
        say(f"Nothing like that is {'here' if every else 'held'}; {others:,} other {_copies_are(others)}.")
    elif not away:
        say("Nothing is held.")
    if left:
        say(
            f"and {left:,} more copies, older ones: --most" if every else "and more groups than can be listed", err=True
        )
    if away:
        fail(away)


def _rows(stores: Stores, wanted: Wanted, limit: int | None) -> tuple[list[dict[str, Any]], int]:
    """What a list shows, copies or groups of them, and how much it leaves out."""
    from ninjait_pipelines.ingest import quarantine

    if limit is None:
        groups, complete = quarantine.groups(stores.mongodb, wanted)
        names = _names(stores)
        return [_group(one, names) for one in groups], int(not complete)
    found = list(quarantine.select(stores.mongodb, wanted, None, newest=limit))
    left = quarantine.count(stores.mongodb, None, wanted) - len(found) if len(found) == limit else 0
    return [*map(_single, found)], left


def _wanted(
    document_id: str | None,
    queue: str | None,
    reason: str | None,
    since: datetime | None,
    until: datetime | None,
    organization: str | None,
) -> Wanted:
    from ninjait_pipelines.ingest.decode.contract import CONTRACTS
    from ninjait_pipelines.ingest.quarantine import Wanted

    if queue is not None and queue not in CONTRACTS:
        fail(f"there is no queue {queue}; the queues are {', '.join(CONTRACTS)}")
    return Wanted(document_id, queue, reason, _utc(since), _utc(until), organization)


def _copies_are(count: int) -> str:
    return "copy is" if count == 1 else "copies are"


def _names(stores: Stores) -> dict[str, str]:
    """The organizations' names; none while PostgreSQL is away."""
    from ninjait_pipelines.resources.store import StoreError

    try:
        rows = stores.postgres.rows("SELECT id::text AS id, name FROM organizations")
    except StoreError:
        return {}
    return {row["id"]: row["name"] for row in rows}


def _group(line: Line, names: Mapping[str, str]) -> dict[str, Any]:
    named = {"reason": line.reason, "queue": line.queue, "organization": names.get(line.organization_id or "")}
    return named | msgspec.structs.asdict(line)


def _single(document: dict[str, Any]) -> dict[str, Any]:
    named = ", ".join(dict.fromkeys(entry["reason"] for entry in document["reasons"]))
    shown = ("queue", "organization_id", "device_id", "agent_version", "points_quarantined", "state", "quarantined_at")
    return {"id": document["_id"], "reasons": named, **{name: document[name] for name in shown}}


def _move_spooled(mongodb: MongoDB) -> None:
    """Moves what waits in the spool; a file that cannot be moved stops no command."""
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreFailed

    try:
        quarantine.move_spooled(mongodb, datetime.now(UTC))
    except StoreFailed as error:
        say(str(error), err=True)


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
    from ninjait_pipelines.ingest import quarantine

    with opened_stores() as stores:
        document, body = _found(stores.mongodb, document_id)
        if raw and sys.stdout.isatty():
            fail("--raw writes whatever bytes came, and a terminal would obey them: into a file, or a pipe")
        if raw:
            sys.stdout.buffer.write(body)
            sys.stdout.flush()
            return
        document["trail"] = quarantine.trail_of(document)
        for step in document["trail"]:
            step["became"] = _became(stores, document, step)
    if as_json:
        kinds = [{name: one[name] for name in one if name != "indexes"} for one in document["reasons"]]
        hidden = {name: value for name, value in document.items() if name not in ("hosts", "summary")}
        print_json({**hidden, "reasons": kinds, "body": body.decode(errors="backslashreplace")})
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
        from ninjait_pipelines.ingest.quarantine.spool import Spool

        this = quarantine.Wanted(document_id)
        spooled = {one["_id"]: one for one in quarantine.select_spooled(mongodb, this, bodies=True)}
        if document_id not in spooled:
            fail(f"{error} It is not among the {Spool(mongodb).waiting()[0]} copies in the spool {mongodb.spool}.")
        return spooled[document_id], spooled[document_id]["body"]
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
        + ("" if row["outcome"] in ("written", "not_understood") else f", see {document['queue']}/{row['delivery_id']}")
        for row in rows
    ]
    return "; ".join(said) or "not drained yet"


def _show(document: dict[str, Any], body: bytes) -> None:
    from rich.console import Console
    from rich.text import Text

    from ninjait_pipelines.ingest.quarantine.highlight import marked
    from ninjait_pipelines.ingest.quarantine.reasons import entries, read

    console = Console(soft_wrap=True, highlight=False)

    def tell(line: str, style: str = "") -> None:
        console.print(Text(safe(line), style))

    for name, value in document.items():
        if name not in ("body", "reasons", "trail", "intent", "hosts", "summary"):
            tell(f"{name}: {value}")
    for step in document["trail"]:
        tell(f"{step['at']:%Y-%m-%d %H:%M:%S} {step['who']} {step['action']}: {step['outcome']}")
        for line in (*step.get("changes", ()), *filter(None, [step["became"]])):
            tell(f"   {line}")
    kinds = read(document)
    examples = entries(kinds)
    text, spans = marked(document, body)
    for entry, span in zip(examples, spans, strict=True):
        where = "whole message" if entry.index is None else f"sample {entry.index}"
        field = f", {entry.field} = {entry.value}" if entry.field else ""
        words = f": {entry.value}" if entry.reason in REASONS_WITH_WORDS else ""
        tell(f"-> {where}{field}: {entry.reason}{words}", "red")
        if span:
            _print_window(console, text, span)
    if rest := sum(kind.count for kind in kinds) - len(examples):
        counts = sorted(((kind.count - len(kind.examples), kind) for kind in kinds), key=lambda one: -one[0])
        said = ", ".join(f"{count:,} of {kind.field}: {kind.reason}" for count, kind in counts if count)
        tell(f"and {rest:,} more: {said}")
    is_unpacked = body.startswith(b"\x1f\x8b") and not text.startswith("\\x1f")
    unpacked = f", {len(text.encode()):,} unpacked" if is_unpacked else ""
    if len(text) > MAX_CHARACTERS:
        tell(f"original bytes ({len(body):,}{unpacked}), of which --raw writes all, begin with:")
        console.print(Text(safe(text[:BEGINNING], "\n\t") + "..."))
    else:
        tell(f"original bytes ({len(body):,}{unpacked}):")
        console.print(_colored(text, [span for span in spans if span]))


def _print_window(console: Console, text: str, span: Span) -> None:
    """A line of the text round what was refused, with carets below it: colors are lost in a pipe."""
    from rich.cells import cell_len
    from rich.text import Text

    width = min(WIDTH, max(20, console.width - 10)) if console.is_terminal else WIDTH
    start, end = span[0], min(span[1], span[0] + width)
    room = (width - (end - start)) // 2
    left, right = max(0, start - room), min(len(text), end + room)
    around = "".join(one if one.isprintable() else " " for one in text[left:right])
    before, bad, after = around[: start - left], around[start - left : end - left], around[end - left :]
    dots, rest = "..." if left else "", "..." if right < len(text) else ""
    console.print(Text.assemble("   ", dots, before, (bad, "bold red"), after, rest))
    console.print(Text(" " * (3 + len(dots) + cell_len(before)) + "^" * max(1, cell_len(bad)), style="red"))


def _colored(text: str, spans: list[Span]) -> Text:
    from rich.text import Text

    colored, at = Text(), 0
    for start, end in sorted(spans):
        if end > at:
            start = max(start, at)
            colored.append(safe(text[at:start], "\n\t")).append(safe(text[start:end], "\n\t"), "bold red")
            at = end
    return colored.append(safe(text[at:], "\n\t"))


def replay(
    document_id: Id = None,
    queue: Queue = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    all_held: AllHeld = False,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Set a field of a message of our own, or of those samples that were rejected for it: JSON, or text "
            "where the field takes text. It is not for Telegraf's and collectd's: --map changes their hosts and tags.",
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

    Replayed twice is once: a whole message keeps its id, changed or not, and samples get one made from their content. A
    copy in which --set or --map is not possible, or changes nothing, stays held; so does one that somebody began to
    replay with other changes, because that may be out already. What is still bad comes back, as a new copy. The routing
    key follows --set organization_id, and --map where it is in the key itself. It exits with 1 if nothing was replayed.

    Example: ninjait quarantine replay --reason unknown_device --map OLD_DEVICE_ID=NEW_DEVICE_ID --dry-run
    """
    from ninjait_pipelines.ingest.quarantine.edit import Change

    change = Change(_pairs("--set", "FIELD=VALUE", sets), _pairs("--map", "OLD=NEW", maps))
    wanted = _wanted(document_id, queue, reason, since, until, organization)
    with opened_stores() as stores:
        found = _selected(stores.mongodb, wanted, all_held)
        _check_merges_nothing(found, change)
        if dry_run:
            _rehearse(stores, found, change, as_json)
        else:
            _publish(stores, found, change, as_json)


def _pairs(option: str, form: str, given: Iterable[str] | None) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not name or not equals:
            fail(f"{option} {text}: write it as {form}")
        if name in pairs:
            fail(f"{option} {text}: {name} is given twice")
        pairs[name] = value
    return pairs


def _check_merges_nothing(found: list[dict[str, Any]], change: Change) -> None:
    """What tells several messages apart is not to be set to one value: they would become one without a word."""
    from ninjait_pipelines.ingest.quarantine.edit import names_nobody

    if "organization_id" in change.fields and len({copy["routing_key"] for copy in found}) > 1:
        fail("--set organization_id is for copies of one organization, and these are of several: --map, or --id each")
    # Those of other agents name no organization, and hosts of one name may be of several.
    lost = [one for one in found if one["queue"] == "agent.metrics" and names_nobody(one["queue"], one["routing_key"])]
    if "organization_id" in change.fields and len(lost) > 1:
        fail(f"{len(lost)} of these copies have no routing key that says whose they are: choose one by --id")
    # A copy that names no device that could be read is of a device of its own.
    if "device_id" in change.fields and len({copy["device_id"] or copy["message_id"] for copy in found}) > 1:
        fail("--set device_id is for copies of one device, and these are of several: --map, or --id each")
    if "timestamp" in change.fields and len({copy["message_id"] for copy in found}) > 1:
        fail(f"--set timestamp is for one message, and these are {len(found)} copies of several: choose one by --id")


def _selected(mongodb: MongoDB, wanted: Wanted, all_held: bool) -> list[dict[str, Any]]:
    """The held copies that a command is about, which has to say so: what names them. Exits with 1 if there is none."""
    from ninjait_pipelines.ingest import quarantine

    if wanted == quarantine.ALL and not all_held:
        fail("say which: --id, --queue, --reason, --since, --until, --organization or --all-held")
    _move_spooled(mongodb)
    names = ("_id", "queue", "routing_key", "message_id", "device_id", "envelope_organization", "reasons")
    found = [
        {**one, "routing_key": quarantine.routing_key_of(one)}
        for one in quarantine.select(mongodb, wanted, names=names)
    ]
    if not found:
        fail(_nothing_selected(mongodb, wanted))
    return found


def _nothing_selected(mongodb: MongoDB, wanted: Wanted) -> str:
    """Why: it was settled, nothing is held, or what else is."""
    from ninjait_pipelines.ingest import quarantine

    if wanted.document_id is not None:
        step = quarantine.last_step(mongodb, wanted.document_id)
        if step:
            settled = f"{step['who']} {step['action']} it at {step['at']:%Y-%m-%d %H:%M:%S} UTC: {step['outcome']}"
            return safe(f"{wanted.document_id} is not held: {settled}")
        held = quarantine.find(mongodb, wanted.document_id)
        return f"{wanted.document_id} is {'held, but not one of those' if held else 'not held: there is no such copy'}"
    copies: Counter[str] = Counter()
    for line in quarantine.groups(mongodb)[0]:
        copies[line.reason] += line.copies
    if not copies:
        return "nothing is held"
    kinds = ", ".join(f"{count:,} of {reason}" for reason, count in copies.most_common(MAX_HELD))
    rest = f" and {len(copies) - MAX_HELD:,} more reasons" if len(copies) > MAX_HELD else ""
    return safe(f"no held copy is one of those; held are {kinds}{rest}")


def _now(stores: Stores) -> datetime:
    """By ClickHouse's clock, with which `show` asks what became of a replay; while it is away by this machine's."""
    from ninjait_pipelines.resources.store import StoreError

    try:
        return stores.clickhouse.now()
    except StoreError:
        return datetime.now(UTC)


def _print_problems(problems: Iterable[str]) -> None:
    for problem, count in Counter(problems).most_common():
        say(f"{count} {_copies_are(count)} left: {problem}")


def _rehearse(stores: Stores, found: list[dict[str, Any]], change: Change, as_json: bool) -> None:
    """What a replay would publish, decoded as a drain would decode it now. Publishes nothing, and marks nothing; exits
    with 1 if it could publish nothing."""
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.ingest.decode.message import Period, decode
    from ninjait_pipelines.ingest.registry import load_sender_registry
    from ninjait_pipelines.messages import Message

    registry, period = load_sender_registry(stores.postgres), Period.at(datetime.now(UTC))
    left: dict[str, str] = {}
    published: list[dict[str, Any]] = []
    messages = set()
    for one in quarantine.remade(stores.mongodb, stores.message_queue, found, change):
        if one.message is None:
            left[one.copy] = one.problem
            continue
        new = one.message
        messages.add(quarantine.content_of(new))
        delivered = Message(new.queue, new.routing_key, new.body, new.content_type, new.message_id, "", one.copy, 1, 0)
        decoded = decode(delivered, registry, period)
        published.append(
            {
                "copy": one.copy,
                "message_id": new.message_id,
                "routing_key": new.routing_key,
                "accepted": decoded.points_accepted,
                "rejected": decoded.points_rejected,
                "reasons": sorted({rejection.reason for rejection in decoded.rejections}),
                "body": new.body.decode(errors="backslashreplace") if as_json or not published else "",
            }
        )
    if as_json:
        print_json(published + [{"copy": copy, "problem": problem} for copy, problem in left.items()])
    else:
        _print_rehearsed(published, len(messages), left)
    if not published:
        raise typer.Exit(1)


def _print_rehearsed(published: list[dict[str, Any]], messages: int, left: Mapping[str, str]) -> None:
    accepted, rejected = (sum(row[name] for row in published) for name in ("accepted", "rejected"))
    say(f"would publish {messages} messages: {accepted} points accepted now, {rejected} rejected")
    for reason, count in Counter(reason for row in published for reason in row["reasons"]).most_common():
        say(f"{count} would come back: {reason}")
    _print_problems(left.values())
    if len(published) == 1:
        say(f"routing key {safe(published[0]['routing_key'])}, body:")
        say(safe(published[0]["body"][:MAX_CHARACTERS], "\n\t"))


def _publish(stores: Stores, found: list[dict[str, Any]], change: Change, as_json: bool) -> None:
    """Publishes them again, and says how many messages went and what is left; exits with 1 if none went."""
    from rich.console import Console
    from rich.progress import track

    from ninjait_pipelines.ingest import quarantine

    stores.message_queue.depth(found[0]["queue"])  # raises while the broker is away, before a copy is bound to a change
    console = Console(stderr=True)
    done = quarantine.replaying(stores.mongodb, stores.message_queue, found, _who(), _now(stores), change)
    hidden = not console.is_terminal
    messages, left = set(), {}
    for one in track(done, "replaying", len(found), console=console, transient=True, disable=hidden):
        if one.message:
            messages.add(quarantine.content_of(one.message))
        else:
            left[one.copy] = one.problem
    if as_json:
        print_json({"replayed": len(messages), "left": left})
    else:
        say(f"replayed {len(messages)} messages")
        _print_problems(left.values())
    if not messages:
        raise typer.Exit(1)


def discard(
    because: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")],
    document_id: Id = None,
    queue: Queue = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    organization: Organization = None,
    all_held: AllHeld = False,
    yes: Annotated[bool, typer.Option("--yes", help="Needed for more than one copy.")] = False,
) -> None:
    """Give up held copies. They are no longer listed or replayed, and are deleted 30 days later.

    Example: ninjait quarantine discard --id agent.metrics/1700000000000-0 --because "test device"
    """
    from ninjait_pipelines.ingest import quarantine

    if not because.strip():
        fail("--because needs a reason")
    wanted = _wanted(document_id, queue, reason, since, until, organization)
    with opened_stores() as stores:
        found = _selected(stores.mongodb, wanted, all_held)
        if len(found) > 1 and not yes:
            fail(f"that is {len(found)} copies: --yes discards them")
        now, who = _now(stores), _who()
        done = sum(quarantine.discard(stores.mongodb, one["_id"], because, who, now) for one in found)
    say(f"discarded {done} {'copy' if done == 1 else 'copies'}")


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def _who() -> str:
    """Who acts, as far as this machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
