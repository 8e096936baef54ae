"""`ninjait publish`: messages from a file, each confirmed by the broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ninjait_pipelines.cli.output import Json, counted, fail, opened_stores, print_json, say

if TYPE_CHECKING:
    from ninjait_pipelines.messages import Outgoing
# Lines confirmed together; if one is refused, others of its batch may have been accepted.
BATCH = 500


def register(app: typer.Typer) -> None:
    """Adds the command to `ninjait`."""
    app.command()(publish)


def publish(
    queue: Annotated[str, typer.Argument(help="Such as agent.metrics; a wrong name lists all of them.")],
    file: Annotated[Path, typer.Argument(help="One JSON message per line; - is standard input.")] = Path("-"),
    routing_key: Annotated[
        str | None, typer.Option(help="For every message. [default: from its organization_id or level]")
    ] = None,
    content_type: Annotated[str, typer.Option(help="For every message.")] = "application/json",
    raw: Annotated[bool, typer.Option("--raw", help="Also publish lines that are not JSON, unchanged.")] = False,
    as_json: Json = False,
) -> None:
    """Publish messages, each confirmed by the broker. Stops at the first line that is refused.

    Example: ninjait publish agent.metrics readings.jsonl
    """
    from ninjait_pipelines.resources.store import StoreError
    from ninjait_pipelines.streams import CONTRACTS

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
        say(f"{queue}: the broker confirmed {counted(confirmed, 'message')}")
    if problem:
        fail(problem)


class _BadLine(Exception):
    """A line at which publishing stops."""


def _messages(queue: str, lines: BinaryIO, routing_key: str | None, content_type: str, raw: bool) -> Iterator[Outgoing]:
    from ninjait_pipelines.messages import Outgoing

    for number, line in enumerate(lines, start=1):
        body = line.rstrip(b"\r\n")
        if body.strip():
            key = _routing_key(queue, body, routing_key, raw, number)
            yield Outgoing(queue, key, body, content_type=content_type)


def _routing_key(queue: str, body: bytes, given: str | None, raw: bool, number: int) -> str:
    from ninjait_pipelines.ingest.decode.rules import read_json
    from ninjait_pipelines.streams import CONTRACTS

    contract = CONTRACTS[queue]
    try:
        fields = read_json(body)
    except (ValueError, RecursionError) as error:
        if not raw:
            raise _BadLine(f"line {number} is not JSON ({error}); --raw publishes it unchanged") from error
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
    """Batches of messages; those before a bad line come before its error."""
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
