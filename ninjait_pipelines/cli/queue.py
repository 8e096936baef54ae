"""`ninjait publish` and `ninjait quarantine`: what a person or a script sees; what happens is in the stage ingest."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec
import typer

from ninjait_pipelines.cli.output import Json, fail, opened_stores, print_json, print_table

if TYPE_CHECKING:
    from ninjait_pipelines.resources.message_queue import Outgoing
    from ninjait_pipelines.resources.mongodb import MongoDB

Reason = Annotated[str | None, typer.Option(help="Only copies with this reason, such as unknown_device.")]
Since = Annotated[
    datetime | None,
    typer.Option(help="Only copies quarantined since this time, UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M"]),
]
# Lines that are confirmed at once; when one is refused, those of its batch may have been taken.
BATCH = 500


def register(app: typer.Typer) -> None:
    """Adds the commands to `ninjait`."""
    app.command()(publish)
    group = typer.Typer(no_args_is_help=True, help="Messages that could not be taken: look, replay, discard.")
    group.command(name="list")(list_)
    group.command()(show)
    group.command()(replay)
    group.command()(discard)
    app.add_typer(group, name="quarantine")


def publish(
    queue: Annotated[str, typer.Argument(help="agent.metrics, agent.heartbeats, platform.api_calls, .usage or .logs.")],
    file: Annotated[Path, typer.Argument(help="One JSON message a line; - is standard input.")] = Path("-"),
    routing_key: Annotated[
        str | None, typer.Option(help="For every message. [default: from its organization_id or level]")
    ] = None,
    content_type: Annotated[str, typer.Option(help="For every message.")] = "application/json",
    raw: Annotated[bool, typer.Option("--raw", help="Publish lines that are not JSON too, as they are.")] = False,
    as_json: Json = False,
) -> None:
    """Publish messages, each confirmed by the broker. Stops at the first line that is refused.

    Example: ninjait publish agent.metrics readings.jsonl
    """
    from ninjait_pipelines.ingest.contract import CONTRACTS
    from ninjait_pipelines.resources.store import StoreError

    if queue not in CONTRACTS:
        fail(f"there is no queue {queue}; the queues are {', '.join(CONTRACTS)}")
    confirmed = 0
    problem = None
    with opened_stores() as stores, _opened(file) as lines:
        try:
            for batch in _batches(_messages(queue, lines, routing_key, content_type, raw)):
                confirmed += stores.message_queue.publish(batch)
        except (StoreError, _BadLine) as error:
            problem = str(error)
    if as_json:
        print_json({"queue": queue, "confirmed": confirmed, "problem": problem})
    else:
        typer.echo(f"{queue}: the broker confirmed {confirmed} messages")
    if problem:
        fail(problem)


class _BadLine(Exception):
    """A line that is not published, nor what comes after it."""


def _messages(queue: str, lines: BinaryIO, routing_key: str | None, content_type: str, raw: bool) -> Iterator[Outgoing]:
    from ninjait_pipelines.resources.message_queue import Outgoing

    for number, line in enumerate(lines, start=1):
        body = line.rstrip(b"\r\n")
        if body.strip():
            key = _routing_key(queue, body, routing_key, raw, number)
            yield Outgoing(queue, key, body, content_type=content_type)


def _routing_key(queue: str, body: bytes, given: str | None, raw: bool, number: int) -> str:
    from ninjait_pipelines.ingest.contract import CONTRACTS
    from ninjait_pipelines.ingest.decode import read_json

    contract = CONTRACTS[queue]
    try:
        fields = read_json(body)
    except (ValueError, RecursionError) as error:
        if not raw:
            raise _BadLine(f"line {number} is not JSON ({error}); --raw publishes it as it is") from error
        fields = None
    if given:
        return given
    value = fields.get(contract.routed_by) if isinstance(fields, dict) else None
    if isinstance(value, str) and value and "." not in value:
        return f"{contract.topic}.{value}"
    if raw:
        return f"{contract.topic}.unknown"
    raise _BadLine(f"line {number} has no {contract.routed_by} to make a routing key from; give --routing-key")


def _batches(messages: Iterator[Outgoing]) -> Iterator[list[Outgoing]]:
    """What comes before a bad line is given before its error is."""
    batch: list[Outgoing] = []
    try:
        for message in messages:
            batch.append(message)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except _BadLine:
        yield batch
        raise
    yield batch


def list_(
    reason: Reason = None,
    since: Since = None,
    every: Annotated[bool, typer.Option("--all", help="A line for each copy, in every state.")] = False,
    as_json: Json = False,
) -> None:
    """List what is held: copies by reason, organization and agent version.

    While MongoDB is away it lists the copies that wait in the spool, and exits with 1: that is not all that is held.

    Example: ninjait quarantine list --reason unknown_device
    """
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreError

    away = ""
    with opened_stores() as stores:
        mongodb, moment = stores.mongodb, _utc(since)
        try:
            _move_spooled(mongodb)
            found = list(quarantine.select(mongodb, reason=reason, since=moment, state=None if every else "held"))
        except StoreError as error:
            found = quarantine.select_spooled(mongodb, reason=reason, since=moment)
            away = f"{error} What waits in the spool {mongodb.spool} is all that can be listed: {len(found)} copies."
    rows = (
        [_single(document) for document in found]
        if every
        else [msgspec.structs.asdict(line) for line in quarantine.lines(found)]
    )
    if as_json:
        print_json(rows)
    elif rows:
        print_table(rows[0], [row.values() for row in rows])
    elif not away:
        typer.echo("Nothing is held.")
    if away:
        fail(away)


def _move_spooled(mongodb: MongoDB) -> None:
    """Moves what waits in the spool; a file that cannot be moved stops no command."""
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreFailed

    try:
        quarantine.move_spooled(mongodb, datetime.now(UTC))
    except StoreFailed as error:
        typer.echo(str(error), err=True)


def _single(document: dict[str, Any]) -> dict[str, Any]:
    reasons = list(dict.fromkeys(entry["reason"] for entry in document["reasons"]))
    shown = ("queue", "organization_id", "device_id", "agent_version", "points_quarantined", "state", "quarantined_at")
    return {"id": document["_id"], "reasons": ", ".join(reasons), **{name: document[name] for name in shown}}


def show(
    document_id: Annotated[str, typer.Argument(metavar="ID", help="Id, from `ninjait quarantine list --all`.")],
    as_json: Json = False,
) -> None:
    """Show one copy: its reasons, its trail, and its original bytes. With --json the bytes are text as far as they are.

    While MongoDB is away it shows a copy that waits in the spool.

    Example: ninjait quarantine show agent.metrics/1700000000000-0
    """
    from ninjait_pipelines.ingest import quarantine
    from ninjait_pipelines.resources.store import StoreError

    with opened_stores() as stores:
        try:
            _move_spooled(stores.mongodb)
            document = quarantine.find(stores.mongodb, document_id)
            body = quarantine.body_of(stores.mongodb, document) if document else b""
        except StoreError as error:
            spooled = quarantine.select_spooled(stores.mongodb)
            document = next((one for one in spooled if one["_id"] == document_id), None)
            if document is None:
                fail(f"{error} It is not among the {len(spooled)} copies in the spool {stores.mongodb.spool}.")
            body = document["body"]
        if document is None:
            fail(f"{document_id} is not in quarantine")
    if as_json:
        print_json({**document, "body": body.decode(errors="backslashreplace")})
    else:
        _show(document, body)


def _show(document: dict[str, Any], body: bytes) -> None:
    """The parts that a reason points at are marked: the sample in front, its field in red."""
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for name, value in document.items():
        if name not in ("body", "reasons", "trail"):
            console.print(Text(f"{name}: {value}"))
    for step in document["trail"]:
        console.print(Text(f"{step['at']:%Y-%m-%d %H:%M:%S} {step['who']} {step['action']}: {step['outcome']}"))
    for entry in document["reasons"]:
        where = "whole message" if entry["index"] is None else f"sample {entry['index']}"
        field = f", {entry['field']} = {entry['value']}" if entry["field"] else ""
        console.print(Text(f"-> {where}{field}: {entry['reason']}", style="red"))
        sample = _sample(document, body, entry["index"])
        if sample:
            console.print(Text.assemble("   ", *_marked(sample, entry["field"])))
    console.print(f"original bytes ({len(body)}):")
    console.print(Text(body[:100_000].decode(errors="backslashreplace")))


def _sample(document: dict[str, Any], body: bytes, index: int | None) -> str | None:
    """The sample, line or value list that was rejected; None where it was the whole message."""
    from ninjait_pipelines.ingest.decode import format_of, read_json
    from ninjait_pipelines.ingest.foreign import text_of

    if index is None:
        return None
    other = format_of(document["queue"], document["routing_key"], document["content_type"], body)
    if other:
        return other.join([other.entries(text_of(body))[index]]).decode().rstrip()
    return json.dumps(read_json(body)["samples"][index], ensure_ascii=False)


def _marked(sample: str, field: str | None) -> list[str | tuple[str, str]]:
    """The sample's text with the field's name and value in red."""
    import re

    found = re.search(rf'"{re.escape(field)}": ("(?:[^"\\]|\\.)*"|[^,}}]+)', sample) if field else None
    if not found:
        return [sample]
    return [sample[: found.start()], (found.group(), "bold red"), sample[found.end() :]]


def replay(
    document_id: Annotated[str | None, typer.Option("--id", help="Only this copy.")] = None,
    reason: Reason = None,
    since: Since = None,
    all_held: Annotated[bool, typer.Option("--all-held", help="Everything that is held.")] = False,
    as_json: Json = False,
) -> None:
    """Publish held copies again, through the front door: of a message that was partly good, the rejected samples only.

    Replayed twice is once: a whole message keeps its id, and samples get one made from their content. What is still bad
    comes back, as a new copy.

    Example: ninjait quarantine replay --reason unknown_device
    """
    from ninjait_pipelines.ingest import quarantine

    if not (document_id or reason or since or all_held):
        fail("say which: --id, --reason, --since or --all-held")
    with opened_stores() as stores:
        _move_spooled(stores.mongodb)
        found = list(quarantine.select(stores.mongodb, document_id=document_id, reason=reason, since=_utc(since)))
        if document_id and not found:
            fail(f"{document_id} is not held")
        count = quarantine.replay(stores.mongodb, stores.message_queue, found, _who(), datetime.now(UTC))
    if as_json:
        print_json({"replayed": count})
    else:
        typer.echo(f"replayed {count} messages")


def discard(
    document_id: Annotated[str, typer.Option("--id", help="The copy to give up.")],
    because: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")],
) -> None:
    """Give up a held copy. Its bytes stay; it is no longer listed or replayed.

    Example: ninjait quarantine discard --id agent.metrics/1700000000000-0 --because "test device"
    """
    from ninjait_pipelines.ingest import quarantine

    with opened_stores() as stores:
        _move_spooled(stores.mongodb)
        if not quarantine.discard(stores.mongodb, document_id, because, _who(), datetime.now(UTC)):
            fail(f"{document_id} is not held")
    typer.echo(f"discarded {document_id}")


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    try:
        with file.open("rb") as lines:
            yield lines
    except OSError as error:
        fail(f"{file}: {error.strerror}")


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment else None


def _who() -> str:
    """Who acts, as far as this machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
