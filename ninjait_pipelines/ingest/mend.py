"""What a person changes in a quarantined message before it is replayed: `--set field=value`, `--map old=new`. Pure."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from ninjait_pipelines.ingest.contract import CONTRACTS, METRICS, Refused
from ninjait_pipelines.ingest.decode import format_of, organization_of, read_json
from ninjait_pipelines.ingest.foreign import Format, text_of
from ninjait_pipelines.ingest.telegraf import LINE_PROTOCOL
from ninjait_pipelines.resources.message_queue import Outgoing, identity

_SAMPLE_FIELDS = {"timestamp", *METRICS.fields}
# Of a line that is good: its key, its fields and its time; the tags of its key; what a name escapes.
LINE = re.compile(r' *+((?:\\[,= ]?|[^ \\])+) +((?:"(?:\\.|[^"\\])*"|\\[,= ]?|[^ "\\])+)(?: +(-?\d+))?', re.S)
TAG = re.compile(r",((?:\\[,= ]?|[^,= \\])+)=((?:\\[,= ]?|[^,= \\])+)")
_ESCAPED = re.compile(r"\\([,= ])")
_TO_BE_ESCAPED = re.compile(r"[,= ]")


class CannotChange(Exception):
    """A message in which a change is not possible, or changes nothing; its text says why."""


class Change(msgspec.Struct, frozen=True):
    """`fields` are set, of the message or of those samples that were rejected for them; wherever a whole value is a key
    of `values` (text in JSON, a tag in line protocol, the organization of the routing key), it becomes the other one.
    """

    fields: Mapping[str, Any] = {}
    values: Mapping[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self.fields or self.values)

    def described(self) -> list[str]:
        """The changes, as they are typed."""
        sets = [f"--set {name}={json.dumps(value)}" for name, value in self.fields.items()]
        return [*sets, *(f"--map {old}={new}" for old, new in self.values.items())]


def mended(message: Outgoing, reasons: Sequence[Mapping[str, Any]], change: Change) -> Outgoing:
    """The message with the change, under an id made from its new content: the same one however often it is made.

    `reasons` are those of its own samples. Raises CannotChange.
    """
    foreign = format_of(message.queue, message.routing_key, message.content_type, message.body)
    try:
        if foreign:
            body, key = _mended_foreign(message, foreign, change)
        else:
            body, key = _mended_json(message, reasons, change)
    except Refused as refused:
        raise CannotChange(f"it cannot be read: {refused}") from None
    except (ValueError, RecursionError):  # also of bytes that are no text
        raise CannotChange("it cannot be read as JSON, so nothing in it can be changed") from None
    if (body, key) == (message.body, message.routing_key):
        raise CannotChange("the change changes nothing in it")
    return msgspec.structs.replace(message, body=body, routing_key=key, message_id=str(identity(message.queue, body)))


def _mended_json(message: Outgoing, reasons: Sequence[Mapping[str, Any]], change: Change) -> tuple[bytes, str]:
    contract = CONTRACTS[message.queue]
    body = read_json(message.body)
    before = json.dumps(body)
    if change.fields and not isinstance(body, dict):
        raise CannotChange("it is not a JSON object, so there is no field to set")
    routed_by = body.get(contract.routed_by) if isinstance(body, dict) else None
    for name, value in change.fields.items():
        if contract is METRICS and name in _SAMPLE_FIELDS:
            for sample in _rejected_for(name, body, reasons):
                sample[name] = value
        else:
            body[name] = value
    body = replaced(body, change.values)
    key = _mended_key(message.routing_key, change)
    if isinstance(body, dict) and (body.get(contract.routed_by) != routed_by or contract.routed_by in change.fields):
        key = f"{contract.topic}.{_word(contract.routed_by, body.get(contract.routed_by))}"
    return message.body if json.dumps(body) == before else json.dumps(body, separators=(",", ":")).encode(), key


def _rejected_for(name: str, body: Mapping[str, Any], reasons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The samples that were rejected for this field, or as a whole: nobody's good value is overwritten."""
    indexes = {entry["index"] for entry in reasons if entry["index"] is not None and entry["field"] in (name, None)}
    samples = [body["samples"][index] for index in sorted(indexes)]
    if not samples:
        raise CannotChange(f"none of its samples was rejected for {name}")
    if not all(isinstance(sample, dict) for sample in samples):
        raise CannotChange("a sample of it is not a JSON object")
    return samples


def replaced(value: Any, values: Mapping[str, str]) -> Any:
    """A JSON value in which each text that is a key of `values` has become the other one. Names stay."""
    if isinstance(value, dict):
        return {name: replaced(inner, values) for name, inner in value.items()}
    if isinstance(value, list):
        return [replaced(inner, values) for inner in value]
    return values.get(value, value) if isinstance(value, str) else value


def _mended_key(routing_key: str, change: Change) -> str:
    organization = organization_of(routing_key)
    if organization is None or organization not in change.values:
        return routing_key
    return routing_key.removesuffix(organization) + _word("organization_id", change.values[organization])


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w-]+", value):
        raise CannotChange(f"the routing key is made from {name}, and cannot be made from {value!r}")
    return value


def _mended_foreign(message: Outgoing, foreign: Format, change: Change) -> tuple[bytes, str]:
    if change.fields:
        raise CannotChange("it is of another agent, and --set knows our own messages only; --map changes a host")
    text = text_of(message.body)
    if foreign is LINE_PROTOCOL:
        new = "".join(_mended_line(line, change.values) for line in foreign.entries(text))
        body = new.encode() if new != text else message.body
    else:
        entries = list(foreign.entries(text))
        mapped = replaced(entries, change.values)
        body = foreign.join(mapped) if mapped != entries else message.body
    return body, _mended_key(message.routing_key, change)


def _mended_line(line: re.Match[str], values: Mapping[str, str]) -> str:
    """What cannot be read as a line stays as it is."""
    text, parts = line[0], good_line(line)
    if not parts:
        return text
    start, end = parts.span(1)
    return text[:start] + TAG.sub(_mended_tag(values), text[start:end]) + text[end:]


def good_line(line: re.Match[str]) -> re.Match[str] | None:
    """Key, fields and time of a line of line protocol; None where it is none: a comment, or not read at all."""
    try:
        LINE_PROTOCOL.read(line)
    except Refused:
        return None
    return None if line[0].lstrip().startswith("#") else LINE.match(line[0])


def _mended_tag(values: Mapping[str, str]) -> Callable[[re.Match[str]], str]:
    def change(tag: re.Match[str]) -> str:
        value = unescaped(tag[2])
        return tag[0] if value not in values else f",{tag[1]}={_escaped(values[value])}"

    return change


def unescaped(text: str) -> str:
    """The name or value that is meant by how line protocol writes it."""
    return _ESCAPED.sub(r"\1", text)


def _escaped(value: str) -> str:
    if not value or "\\" in value or not value.isprintable():
        raise CannotChange(f"{value!r} cannot be a tag's value")
    return _TO_BE_ESCAPED.sub(r"\\\g<0>", value)
