"""Finds in the original bytes of a quarantined message what was refused. Pure; it never raises, whatever the bytes."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest.decode import collectd, telegraf
from ninjait_pipelines.ingest.decode.routing import format_of
from ninjait_pipelines.ingest.decode.third_party import Format, text_of
from ninjait_pipelines.ingest.quarantine.edit import TAG, spans_of, unescaped
from ninjait_pipelines.ingest.quarantine.reasons import Entry, entries, read

# [first character, end)
Span = tuple[int, int]
_SPACE = re.compile(r"[ \t\n\r]*")
# Numbers stay text: Python refuses to convert an integer of 5,000 digits.
_scan = json.JSONDecoder(strict=False, parse_int=str, parse_float=str).raw_decode
_FIELD = re.compile(r'((?:\\[,= ]?|[^,= \\])+)=("(?:\\.|[^"\\])*"|[^,]*)', re.S)
_AT_BYTE = re.compile(r"\(byte (\d+)\)")


def locate_errors(document: Mapping[str, Any], body: bytes) -> tuple[str, list[Span | None]]:
    """The uncompressed body as text, with \\x escapes for bytes that are not text, and the place in it of each refusal
    kept as an example.

    The place is None for what is not in the body: a missing field, a routing key, a dead letter's reason.
    """
    refusals = entries(read(document))
    try:
        text = text_of(body)
    except UnicodeDecodeError as error:
        start, end = (len(error.object[:at].decode(errors="backslashreplace")) for at in (error.start, error.end))
        text = error.object.decode(errors="backslashreplace")
        return text, [(start, end) if one.reason == "invalid_utf8" else None for one in refusals]
    except ContractViolation:
        return body.decode(errors="backslashreplace"), [None for _ in refusals]
    third_party = format_of(document["queue"], document["routing_key"], document["content_type"], body)
    try:
        return text, _spans(text, third_party, refusals)
    except (ValueError, RecursionError, StopIteration, ContractViolation, IndexError, KeyError, TypeError):
        return text, [None for _ in refusals]


def _spans(text: str, third_party: Format | None, reasons: Sequence[Entry]) -> list[Span | None]:
    if any(entry.reason == "not_json" for entry in reasons):
        return [_stopped(text) for _ in reasons]
    if all(entry.index is None and entry.field is None for entry in reasons):
        return [None for _ in reasons]
    if third_party is telegraf.LINE_PROTOCOL:
        lines = third_party.entries(text)
        return [_in_line(lines[entry.index], entry.field) for entry in reasons]
    top = dict(_members(text, 0))
    if third_party is collectd.COLLECTD:
        return [_in_value_list(text, top[entry.index], entry.field) for entry in reasons]
    samples = dict(_members(text, top["samples"][1])) if any(entry.index is not None for entry in reasons) else {}
    return [_in_json(text, top, samples, entry) for entry in reasons]


def _stopped(text: str) -> Span | None:
    """Where the parser stopped."""
    try:
        json.loads(text)
        msgspec.json.decode(text)
    except json.JSONDecodeError as error:
        return error.pos, error.pos + 1
    except msgspec.DecodeError as error:
        found = _AT_BYTE.search(str(error))
        at = len(text.encode()[: int(found[1])].decode(errors="ignore")) if found else len(text)
        return at, at + 1
    return None


# (the member with its name, where its value starts)
Member = tuple[Span, int]


def _members(text: str, at: int) -> Iterator[tuple[str | int, Member]]:
    """The members of the object, or the items of the list, that begins there. If a name is repeated, a caller's `dict`
    keeps the last one, as JSON readers do."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    named, number = text[at] == "{", 0
    at += 1
    while True:
        start = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[start] in "]}":
            return
        name: str | int = number
        value = start
        if named:
            name, at = _scan(text, start)
            value = _SPACE.match(text, text.index(":", at) + 1).end()  # type: ignore[union-attr]
        _, end = _scan(text, value)
        yield name, ((start, end), value)
        at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        if text[at] != ",":
            return
        at, number = at + 1, number + 1


def _in_json(
    text: str, top: Mapping[str | int, Member], samples: Mapping[str | int, Member], entry: Entry
) -> Span | None:
    index, field = entry.index, entry.field
    if index is None:
        return top[field][0] if field in top else None
    sample = samples[index]
    fields = dict(_members(text, sample[1])) if field else {}
    return fields.get(field, sample)[0]


def _in_value_list(text: str, entry: Member, field: str | None) -> Span:
    if field is None:
        return entry[0]
    members = dict(_members(text, entry[1]))
    name = {"interface": "plugin_instance", "volume": "plugin_instance"}.get(field, field)
    if name in members:
        return members[name][0]
    names = msgspec.json.decode(text[entry[1] : entry[0][1]])["dsnames"]
    index = max(names.index(name) for name in collectd.names_of(field) & set(names))
    return dict(_members(text, members["values"][1]))[index][0]


def _in_line(line: re.Match[str], field: str | None) -> Span:
    whole = line.start(), line.start() + len(line[0].rstrip("\r\n"))
    spans = spans_of(line)
    if not spans or field is None:
        return whole
    key, values, time = spans
    if field == "time":
        return time if time[1] > 0 else whole
    tags = {unescaped(tag[1]): (tag.start() + 1, tag.end()) for tag in TAG.finditer(line.string, *key)}
    fields = {unescaped(one[1]): one.span() for one in _FIELD.finditer(line.string, *values)}
    theirs = telegraf.names_of(field)
    named = {"volume": ("path", "instance"), "interface": ("interface", "instance")}.get(field, (field,))
    found = [fields[name] for name in sorted(theirs & fields.keys())] + [tags[name] for name in named if name in tags]
    return found[0] if found else whole
