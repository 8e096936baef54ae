"""What a person changes in a quarantined message before it is replayed: `--set field=value`, `--map old=new`. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ninjait_pipelines.ingest.decode import contract as rules
from ninjait_pipelines.ingest.decode.contract import CONTRACTS, METRICS, ContractViolation, Rule
from ninjait_pipelines.ingest.decode.line_protocol import LINE_PROTOCOL
from ninjait_pipelines.ingest.decode.message import AGENTS, format_of, organization_of, read_json
from ninjait_pipelines.ingest.decode.third_party import Format, text_of
from ninjait_pipelines.ingest.quarantine.reasons import Kind, indexes_of
from ninjait_pipelines.messages import Outgoing, fits

_SAMPLE_FIELDS = {"timestamp", *METRICS.fields}
_ENVELOPE: dict[str, Rule] = {
    "schema": partial(rules.text, limit=100),
    "organization_id": rules.identifier,
    "device_id": rules.identifier,
    "agent_version": partial(rules.text, limit=100),
    "timestamp": rules.instant,
}
# What a JSON number would be refused for.
_RULES_OF_TEXT = {rules.text, rules.name, rules.choice, rules.identifier, rules.decimal_text}
# A tag in the key of a good line; what a name escapes.
TAG = re.compile(r"(?<!\\),((?:\\[,= ]?|[^,= \\])+)=((?:\\[,= ]?|[^,= \\])+)")
_ESCAPED = re.compile(r"\\([,= ])")
_TO_BE_ESCAPED = re.compile(r"[,= ]")
# Of what was refused, in one line.
MAX_KINDS = 10


class EditRejected(Exception):
    """A message in which a change is not possible, or changes nothing; its text says why."""


class Change(msgspec.Struct, frozen=True):
    """`fields`, as they are typed, are set, of the message or of those samples that were rejected for them; wherever a
    whole value is a key of `values` (text in JSON, a tag in line protocol, the organization of the routing key), it
    becomes the other one.
    """

    fields: Mapping[str, str] = {}
    values: Mapping[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.fields or self.values)

    def described(self) -> list[str]:
        """The changes, as they are typed."""
        sets = [f"--set {name}={value}" for name, value in self.fields.items()]
        return [*sets, *(f"--map {old}={new}" for old, new in self.values.items())]


def mended(message: Outgoing, reasons: Sequence[Kind], change: Change) -> Outgoing:
    """The message with the change, under its own id: mended twice, in whatever ways, it counts once.

    The indexes of `reasons` are those of its own samples. Raises CannotChange.
    """
    foreign = format_of(message.queue, message.routing_key, message.content_type, message.body)
    try:
        body = _mended_foreign(message, foreign, change) if foreign else _mended_json(message, reasons, change)
        key = _mended_key(message, foreign, change)
    except ContractViolation as refused:
        raise EditRejected(f"it cannot be read: {refused}") from None
    except (ValueError, RecursionError):  # also of bytes that are no text
        raise EditRejected("it cannot be read as JSON, so nothing in it can be changed") from None
    if (body, key) == (message.body, message.routing_key):
        raise EditRejected("the change changes nothing in it")
    return msgspec.structs.replace(message, body=body, routing_key=key)


def _mended_json(message: Outgoing, reasons: Sequence[Kind], change: Change) -> bytes:
    contract = CONTRACTS[message.queue]
    body = read_json(message.body)
    before = json.dumps(body)
    if change.fields and not isinstance(body, dict):
        raise EditRejected("it is not a JSON object, so there is no field to set")
    for name, typed in change.fields.items():
        value = _value(name, typed, message.queue)
        if contract is METRICS and name in _SAMPLE_FIELDS:
            for sample in _rejected_for(name, body, reasons):
                sample[name] = value
        elif name == contract.routed_by and _names_nobody(message) and body.get(name, value) != value:
            raise EditRejected(f"its routing key is lost, and it says of itself: {name} {body[name]}")
        else:
            body[name] = value
    body = replaced(body, change.values)
    return message.body if json.dumps(body) == before else json.dumps(body, separators=(",", ":")).encode()


def _value(name: str, typed: str, queue: str) -> Any:
    """What is meant by what was typed for a field: JSON, else text. Of a field that takes text a number is text too:
    `2.10` is no version 2.1, and a decimal is never a float. Raises CannotChange for a field that nobody knows."""
    known = _ENVELOPE | {name: field.rule for name, field in CONTRACTS[queue].fields.items()}
    if name not in known:
        raise EditRejected(f"{queue} knows no field {name}; it knows {', '.join(known)}")
    try:
        value = json.loads(typed)
    except (ValueError, RecursionError):
        return typed
    takes_text = getattr(known[name], "func", known[name]) in _RULES_OF_TEXT
    return typed if takes_text and value is not None and not isinstance(value, str) else value


def _rejected_for(name: str, body: Mapping[str, Any], reasons: Sequence[Kind]) -> list[dict[str, Any]]:
    """The samples that were rejected for this field, or as a whole: nobody's good value is overwritten."""
    indexes = indexes_of(kind for kind in reasons if kind.field in (name, None))
    samples = [body["samples"][index] for index in indexes]
    if not samples:
        raise EditRejected(f"none of its samples was rejected for {name}; refused was {_refused(reasons)}")
    if not all(isinstance(sample, dict) for sample in samples):
        raise EditRejected("a sample of it is not a JSON object")
    if name == "timestamp" and len(samples) > 1:
        raise EditRejected("several of its samples would get one timestamp, and only one of them would stay")
    return samples


def _refused(reasons: Sequence[Kind]) -> str:
    """What was refused, each kind once."""
    kinds = {f"{kind.field or 'the message'}: {kind.reason}" for kind in reasons}
    return ", ".join(sorted(kinds)[:MAX_KINDS])


def replaced(value: Any, values: Mapping[str, str]) -> Any:
    """A JSON value in which each text that is a key of `values` has become the other one. Names stay."""
    if isinstance(value, dict):
        return {name: replaced(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, values) for inner in value]
    return values.get(value, value) if isinstance(value, str) else value


def _names_nobody(message: Outgoing) -> bool:
    """Whether its routing key says of no organization: it is lost, or another agent left it out."""
    return names_nobody(message.queue, message.routing_key)


def names_nobody(queue: str, routing_key: str) -> bool:
    """The same of a quarantined copy."""
    return not fits(queue, routing_key) or organization_of(routing_key) is None


def _mended_key(message: Outgoing, foreign: Format | None, change: Change) -> str:
    """The routing key, which is what the broker let its sender say: it follows what is said of the key itself, or set,
    and never what a body that may lie is mapped to."""
    contract = CONTRACTS[message.queue]
    named = organization_of(message.routing_key) or ""
    if contract.routed_by in change.fields:
        typed = change.fields[contract.routed_by]
        value = replaced(_value(contract.routed_by, typed, message.queue), change.values)
        start = f"{contract.topic}." + "".join(f"{agent}." for agent, of in AGENTS.items() if of is foreign)
    elif named in change.values:
        value, start = change.values[named], message.routing_key.removesuffix(named)
    else:
        return message.routing_key
    if not isinstance(value, str) or not re.fullmatch(r"[\w-]+", value):
        raise EditRejected(f"the routing key is made from {contract.routed_by}, and cannot be made from {value!r}")
    return start + value


def _mended_foreign(message: Outgoing, foreign: Format, change: Change) -> bytes:
    if change.fields and not (change.fields.keys() == {METRICS.routed_by} and _names_nobody(message)):
        raise EditRejected(
            "it is of another agent, and --set knows our own messages only; --map changes hosts and tags"
        )
    text = text_of(message.body)
    entries = list(foreign.entries(text))
    if foreign is LINE_PROTOCOL:
        new = "".join(_mended_line(line, change.values) for line in entries)
        return new.encode() if new != text else message.body
    mapped = replaced(entries, change.values)
    return foreign.join(mapped) if mapped != entries else message.body


def _mended_line(line: re.Match[str], values: Mapping[str, str]) -> str:
    """What cannot be read as a line stays as it is."""

    def change(tag: re.Match[str]) -> str:
        value = unescaped(tag[2])
        return f",{tag[1]}={_escaped(values[value])}" if value in values else tag[0]

    spans = spans_of(line)
    start, end = spans[0] if spans else (line.start(), line.start())
    text = line.string
    return text[line.start() : start] + TAG.sub(change, text[start:end]) + text[end : line.end()]


def spans_of(line: re.Match[str]) -> list[tuple[int, int]] | None:
    """Where in the text key, fields and time of a line of line protocol are; None where it is none: a comment, bad."""
    try:
        LINE_PROTOCOL.read(line)
    except ContractViolation:
        return None
    return [line.span(group) for group in (1, 2, 3)] if line[1] else None


def unescaped(text: str) -> str:
    """The name or value that is meant by how line protocol writes it."""
    return _ESCAPED.sub(r"\1", text)


def _escaped(value: str) -> str:
    try:
        is_name = bool(rules.name(value))
    except ContractViolation:
        is_name = False
    if not is_name or "\\" in value:
        raise EditRejected(f"{value!r} cannot be a tag's value")
    return _TO_BE_ESCAPED.sub(r"\\\g<0>", value)
