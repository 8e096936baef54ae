"""What the commands print: rows of a list, a message with its errors highlighted, a rehearsal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ninjait_pipelines.cli.output import counted, safe, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ninjait_pipelines.ingest.quarantine.highlight import Span
    from ninjait_pipelines.ingest.quarantine.query import ReasonSummary
    from ninjait_pipelines.ingest.quarantine.reasons import Entry, Kind
    from ninjait_pipelines.ingest.quarantine.replay import Rehearsal

# Reasons whose explanation comes from a store or the broker, and is not in the body.
EXPLAINED = ("dead_letter", "refused_by_store")
# `show` prints a body of up to this many characters whole, otherwise its beginning. --json and --raw print all of it.
MAX_CHARACTERS = 4000
BEGINNING = 400
WIDTH = 110  # of a line that shows what was refused
INTERNAL = ("body", "reasons", "trail", "intent", "hosts", "summary")


def group_row(summary: ReasonSummary, names: Mapping[str, str]) -> dict[str, Any]:
    """A row of the list: how many messages have a reason."""
    named = {"reason": summary.reason, "queue": summary.queue, "organization": names.get(summary.organization_id or "")}
    return named | msgspec.structs.asdict(summary)


def message_row(document: dict[str, Any]) -> dict[str, Any]:
    """A row of `list --all`: one message."""
    reasons = ", ".join(dict.fromkeys(entry["reason"] for entry in document["reasons"]))
    shown = ("queue", "organization_id", "device_id", "agent_version", "points_quarantined", "state", "quarantined_at")
    return {"id": document["_id"], "reasons": reasons, **{name: shown_state(document)[name] for name in shown}}


def shown_state(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its state in the words of people."""
    from ninjait_pipelines.ingest.quarantine.documents import HELD

    return document | {"state": "quarantined"} if document["state"] == HELD else document


def message_json(document: dict[str, Any], body: bytes) -> dict[str, Any]:
    """A message for a script."""
    kinds = [{name: kind[name] for name in kind if name != "indexes"} for kind in document["reasons"]]
    visible = {name: value for name, value in shown_state(document).items() if name not in ("hosts", "summary")}
    return {**visible, "reasons": kinds, "body": body.decode(errors="backslashreplace")}


def print_message(document: dict[str, Any], body: bytes) -> None:
    """A message for a person: its fields, its trail, what was refused, and the body."""
    from rich.console import Console
    from rich.text import Text

    from ninjait_pipelines.ingest.quarantine.highlight import locate_errors
    from ninjait_pipelines.ingest.quarantine.reasons import entries, read

    console = Console(soft_wrap=True, highlight=False)
    for name, value in shown_state(document).items():
        if name not in INTERNAL:
            _print_line(console, f"{name}: {value}")
    _print_trail(console, document["trail"])
    kinds = read(document)
    examples = entries(kinds)
    text, spans = locate_errors(document, body)
    for entry, span in zip(examples, spans, strict=True):
        _print_entry(console, entry)
        if span:
            _print_window(console, text, span)
    _print_rest(console, kinds, len(examples))
    is_compressed = body.startswith(b"\x1f\x8b") and not text.startswith("\\x1f")
    size = f"{len(body):,}, {len(text.encode()):,} uncompressed" if is_compressed else f"{len(body):,}"
    if len(text) > MAX_CHARACTERS:
        _print_line(console, f"the original bytes ({size}; --raw writes all of them) begin with:")
        console.print(Text(safe(text[:BEGINNING], "\n\t") + "..."))
    else:
        _print_line(console, f"original bytes ({size}):")
        console.print(_colored(text, [span for span in spans if span]))


def _print_line(console: Console, line: str, style: str = "") -> None:
    from rich.text import Text

    console.print(Text(safe(line), style))


def _print_trail(console: Console, trail: Iterable[Mapping[str, Any]]) -> None:
    for step in trail:
        _print_line(console, f"{step['at']:%Y-%m-%d %H:%M:%S} {step['who']} {step['action']}: {step['outcome']}")
        for line in (*step.get("changes", ()), *filter(None, [step["became"]])):
            _print_line(console, f"   {line}")


def _print_entry(console: Console, entry: Entry) -> None:
    where = "whole message" if entry.index is None else f"sample {entry.index}"
    field = f", {entry.field} = {entry.value}" if entry.field else ""
    explanation = f": {entry.value}" if entry.reason in EXPLAINED else ""
    _print_line(console, f"-> {where}{field}: {entry.reason}{explanation}", "red")


def _print_rest(console: Console, kinds: Iterable[Kind], shown: int) -> None:
    """Counts the refusals that are not kept as examples."""
    rest = [(kind.count - len(kind.examples), kind) for kind in kinds]
    if total := sum(kind.count for kind in kinds) - shown:
        named = sorted(((count, kind) for count, kind in rest if count), key=lambda entry: -entry[0])
        counts = ", ".join(f"{count:,} of {kind.field}: {kind.reason}" for count, kind in named)
        _print_line(console, f"and {total:,} more: {counts}")


def _print_window(console: Console, text: str, span: Span) -> None:
    """The text around what was refused, with carets below it: colors are lost in a pipe."""
    from rich.cells import cell_len
    from rich.text import Text

    width = min(WIDTH, max(20, console.width - 10)) if console.is_terminal else WIDTH
    start, end = span[0], min(span[1], span[0] + width)
    room = (width - (end - start)) // 2
    left, right = max(0, start - room), min(len(text), end + room)
    around = "".join(character if character.isprintable() else " " for character in text[left:right])
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


def print_problems(problems: Iterable[str]) -> None:
    """Why messages were left in quarantine, each problem once."""
    for problem, count in Counter(problems).most_common():
        say(f"{counted(count, 'message')} left: {problem}")


def rehearsal_json(rehearsal: Rehearsal) -> list[dict[str, Any]]:
    """A rehearsal for a script."""
    replays = [
        {
            "id": replay.document_id,
            "message_id": replay.message_id,
            "routing_key": replay.routing_key,
            "accepted": replay.accepted,
            "rejected": replay.rejected,
            "reasons": replay.reasons,
            "body": replay.body.decode(errors="backslashreplace"),
        }
        for replay in rehearsal.replays
    ]
    return replays + [{"id": document_id, "problem": problem} for document_id, problem in rehearsal.left.items()]


def print_rehearsal(rehearsal: Rehearsal) -> None:
    """A rehearsal for a person: totals, what would come back, and the body if there is only one."""
    replays = rehearsal.replays
    accepted, rejected = sum(replay.accepted for replay in replays), sum(replay.rejected for replay in replays)
    points = counted(accepted, "point")
    say(f"would publish {counted(rehearsal.messages, 'message')}: {points} accepted now, {rejected:,} rejected")
    for reason, count in Counter(reason for replay in replays for reason in replay.reasons).most_common():
        say(f"{count} would come back: {reason}")
    print_problems(rehearsal.left.values())
    if len(replays) == 1:
        say(f"routing key {safe(replays[0].routing_key)}, body:")
        say(safe(replays[0].body.decode(errors="backslashreplace")[:MAX_CHARACTERS], "\n\t"))
