"""Edits a quarantined message before it is replayed: `--set field=value`, `--map old=new`. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from ninjait_pipelines import contract as rules
from ninjait_pipelines.contract import METRICS, ContractViolation, Rule
from ninjait_pipelines.ingest.decode.routing import AGENTS, format_of, organization_of
from ninjait_pipelines.ingest.decode.rules import read_json
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines.ingest.decode.third_party import Format, text_of
from ninjait_pipelines.ingest.quarantine.reasons import Kind, indexes_of
from ninjait_pipelines.messages import Outgoing, fits
from ninjait_pipelines.streams import CONTRACTS

_SAMPLE_FIELDS = {"timestamp", *METRICS.fields}
_ENVELOPE: dict[str, Rule] = {
    "schema": partial(rules.text, limit=100),
    "organization_id": rules.identifier,
    "device_id": rules.identifier,
    "agent_version": partial(rules.text, limit=100),
    "timestamp": rules.instant,
}
# Fields with these rules refuse a JSON number.
_RULES_OF_TEXT = {rules.text, rules.name, rules.choice, rules.identifier, rules.decimal_text}
# A tag in the key of a good line; the characters that a name escapes.
TAG = re.compile(r"(?<!\\),((?:\\[,= ]?|[^,= \\])+)=((?:\\[,= ]?|[^,= \\])+)")
_ESCAPED = re.compile(r"\\([,= ])")
_TO_BE_ESCAPED = re.compile(r"[,= ]")
# Kinds of refusals that an error names.
MAX_KINDS = 10


class EditRejected(Exception):
    """The edits are impossible in this message, or change nothing in it; the text says why."""


class Edits(msgspec.Struct, frozen=True):
    """What to change in a message.

    `fields`: name -> value as typed, set on the message, or on the samples that were rejected because of that field.
    `values`: old -> new, replacing every whole value equal to `old` (a JSON string, a tag of line protocol, the
    organization in the routing key).
    """

    fields: Mapping[str, str] = {}
    values: Mapping[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.fields or self.values)

    def described(self) -> list[str]:
        """The edits as options of the command line."""
        sets = [f"--set {name}={value}" for name, value in self.fields.items()]
        return [*sets, *(f"--map {old}={new}" for old, new in self.values.items())]


def apply_edits(message: Outgoing, reasons: Sequence[Kind], edits: Edits) -> Outgoing:
    """The edited message, under the id it had: however often and in whatever ways it is edited, it counts once.

    The indexes of `reasons` are those of this message's samples. Raises EditRejected.
    """
    third_party = format_of(message.queue, message.routing_key, message.content_type, message.body)
    try:
        body = _edited_entries(message, third_party, edits) if third_party else _edited_json(message, reasons, edits)
        key = _edited_key(message, third_party, edits)
    except ContractViolation as refused:
        raise EditRejected(f"it cannot be read: {refused}") from None
    except (ValueError, RecursionError):  # ValueError also for bytes that are not text
        raise EditRejected("it cannot be read as JSON, so nothing in it can be changed") from None
    if (body, key) == (message.body, message.routing_key):
        raise EditRejected("the edits change nothing in it")
    return msgspec.structs.replace(message, body=body, routing_key=key)


def _edited_json(message: Outgoing, reasons: Sequence[Kind], edits: Edits) -> bytes:
    contract = CONTRACTS[message.queue]
    body = read_json(message.body)
    before = json.dumps(body)
    if edits.fields and not isinstance(body, dict):
        raise EditRejected("it is not a JSON object, so there is no field to set")
    for name, typed in edits.fields.items():
        value = _value(name, typed, message.queue)
        if contract is METRICS and name in _SAMPLE_FIELDS:
            for sample in _rejected_for(name, body, reasons):
                sample[name] = value
        elif name == contract.routed_by and _names_no_organization(message) and body.get(name, value) != value:
            raise EditRejected(f"its routing key is lost, and its body has {name} {body[name]}")
        else:
            body[name] = value
    body = replaced(body, edits.values)
    return message.body if json.dumps(body) == before else json.dumps(body, separators=(",", ":")).encode()


def _value(name: str, typed: str, queue: str) -> Any:
    """The value that was typed for a field: JSON if it is JSON, otherwise text. In a field that takes text a number is
    text too: version `2.10` is not 2.1, and a decimal is never a float. Raises EditRejected for an unknown field."""
    known = _ENVELOPE | {name: field.rule for name, field in CONTRACTS[queue].fields.items()}
    if name not in known:
        raise EditRejected(f"{queue} has no field {name}; it has {', '.join(known)}")
    try:
        value = json.loads(typed)
    except (ValueError, RecursionError):
        return typed
    takes_text = getattr(known[name], "func", known[name]) in _RULES_OF_TEXT
    return typed if takes_text and value is not None and not isinstance(value, str) else value


def _rejected_for(name: str, body: Mapping[str, Any], reasons: Sequence[Kind]) -> list[dict[str, Any]]:
    """The samples that were rejected because of this field, or as a whole: no good value is overwritten."""
    indexes = indexes_of(kind for kind in reasons if kind.field in (name, None))
    samples = [body["samples"][index] for index in indexes]
    if not samples:
        raise EditRejected(f"none of its samples was rejected for {name}, but for {_refused(reasons)}")
    if not all(isinstance(sample, dict) for sample in samples):
        raise EditRejected("one of its samples is not a JSON object")
    if name == "timestamp" and len(samples) > 1:
        raise EditRejected("several of its samples would get the same timestamp, and only one of them would remain")
    return samples


def _refused(reasons: Sequence[Kind]) -> str:
    """The refusals, each kind once."""
    kinds = {f"{kind.field or 'the message'}: {kind.reason}" for kind in reasons}
    return ", ".join(sorted(kinds)[:MAX_KINDS])


def replaced(value: Any, values: Mapping[str, str]) -> Any:
    """A JSON value with each string that is a key of `values` replaced. Names of fields stay."""
    if isinstance(value, dict):
        return {name: replaced(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, values) for inner in value]
    return values.get(value, value) if isinstance(value, str) else value


def _names_no_organization(message: Outgoing) -> bool:
    return names_no_organization(message.queue, message.routing_key)


def names_no_organization(queue: str, routing_key: str) -> bool:
    """Whether a routing key names no organization: it is lost, or a third-party agent left it out."""
    return not fits(queue, routing_key) or organization_of(routing_key) is None


def _edited_key(message: Outgoing, third_party: Format | None, edits: Edits) -> str:
    """The routing key follows a field that is set, or a replacement of the organization in the key itself. It never
    follows the body, which may lie, whereas the broker checked the key."""
    contract = CONTRACTS[message.queue]
    named = organization_of(message.routing_key) or ""
    if contract.routed_by in edits.fields:
        typed = edits.fields[contract.routed_by]
        value = replaced(_value(contract.routed_by, typed, message.queue), edits.values)
        start = f"{contract.topic}." + "".join(f"{agent}." for agent, form in AGENTS.items() if form is third_party)
    elif named in edits.values:
        value, start = edits.values[named], message.routing_key.removesuffix(named)
    else:
        return message.routing_key
    if not isinstance(value, str) or not re.fullmatch(r"[\w-]+", value):
        raise EditRejected(f"{contract.routed_by} is part of the routing key, where {value!r} is not possible")
    return start + value


def _edited_entries(message: Outgoing, third_party: Format, edits: Edits) -> bytes:
    if edits.fields and not (edits.fields.keys() == {METRICS.routed_by} and _names_no_organization(message)):
        raise EditRejected(
            "it is from a third-party agent: --set is for our own messages; --map changes hosts and tags"
        )
    text = text_of(message.body)
    entries = list(third_party.entries(text))
    if third_party is LINE_PROTOCOL:
        new = "".join(_edited_line(line, edits.values) for line in entries)
        return new.encode() if new != text else message.body
    mapped = replaced(entries, edits.values)
    return third_party.join(mapped) if mapped != entries else message.body


def _edited_line(line: re.Match[str], values: Mapping[str, str]) -> str:
    """The line with replaced tags; one that cannot be read stays as it is."""

    def edited(tag: re.Match[str]) -> str:
        value = unescaped(tag[2])
        return f",{tag[1]}={_escaped(values[value])}" if value in values else tag[0]

    spans = spans_of(line)
    start, end = spans[0] if spans else (line.start(), line.start())
    text = line.string
    return text[line.start() : start] + TAG.sub(edited, text[start:end]) + text[end : line.end()]


def spans_of(line: re.Match[str]) -> list[tuple[int, int]] | None:
    """Where key, fields and time of a line of line protocol are in the text; None for a comment or a bad line."""
    try:
        LINE_PROTOCOL.read(line)
    except ContractViolation:
        return None
    return [line.span(group) for group in (1, 2, 3)] if line[1] else None


def unescaped(text: str) -> str:
    """A name or value of line protocol without its escapes."""
    return _ESCAPED.sub(r"\1", text)


def _escaped(value: str) -> str:
    try:
        is_name = bool(rules.name(value))
    except ContractViolation:
        is_name = False
    if not is_name or "\\" in value:
        raise EditRejected(f"{value!r} cannot be a tag's value")
    return _TO_BE_ESCAPED.sub(r"\\\g<0>", value)
