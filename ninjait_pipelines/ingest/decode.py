"""From the bytes of a message to rows and rejections. Pure: no store, no clock, and no exception for whatever bytes.

accepted + rejected = sent, for every message. Of a JSON object that names a key twice, the last one counts.
"""

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from ninjait_pipelines.ingest import contract as rules
from ninjait_pipelines.ingest.contract import CONTRACTS, METRICS, Contract, Field, Refused
from ninjait_pipelines.resources.message_queue import JSON, Message, identity
from ninjait_pipelines.resources.metrics_store import FIELDS

# Longer than any float has: such an integer is infinite to every store, and Python would refuse to read 5,000 digits.
_MOST_DIGITS = 400
_SHOWN = 200
NOBODY = str(uuid.UUID(int=0))
_metrics = msgspec.json.Decoder(rules.Metrics)
_agent_version = partial(rules.text, most=100)
_ID = Field(rules.identifier)
_SAMPLES = Field(rules.samples)


class Registry(msgspec.Struct, frozen=True):
    """Who may send: the organizations, the organization of each device, and the devices of each host name.

    Ids in canonical spelling. `hosts` is for agents that know no ids: host name -> organization -> device.
    """

    organizations: frozenset[str]
    devices: Mapping[str, str]
    hosts: Mapping[str, Mapping[str, str]] = {}


class Period(msgspec.Struct, frozen=True):
    """The times that are accepted, in milliseconds since 1970, both included."""

    oldest: int
    newest: int

    @classmethod
    def at(cls, now: datetime) -> "Period":
        """What the contract accepts at this moment."""
        return cls(rules.milliseconds(now - rules.BEHIND), rules.milliseconds(now + rules.AHEAD))

    def check(self, value: Any) -> int:
        """The time of a sample or an event, in milliseconds since 1970. Raises Refused."""
        moment = rules.instant(value)
        if moment > self.newest:
            raise Refused("in_the_future")
        if moment < self.oldest:
            raise Refused("too_old")
        return moment


class Rejection(msgspec.Struct, frozen=True):
    """Why a sample (`index`) or a whole message (None) was not taken; `value` is its repr, cut."""

    index: int | None
    field: str | None
    value: str
    reason: str


class Decoded(msgspec.Struct):
    """What a message holds. `columns` are those of the good points, `counters` those of the good readings of counters;
    empty where there are none.

    `points` counts the samples of a metrics message and is 1 for an event; 0 where that could not be read. `rows` and
    `counter_rows` say which of them each row of `columns` and `counters` is; empty means 0, 1, 2 and so on.
    """

    message_id: uuid.UUID
    organization_id: str | None = None
    device_id: str | None = None
    agent_version: str | None = None
    points: int = 0
    columns: dict[str, list[Any]] = {}
    counters: dict[str, list[Any]] = {}
    rows: list[int] = []
    counter_rows: list[int] = []
    rejections: list[Rejection] = []
    whole: bool = False
    unknown_fields: int = 0

    @property
    def points_rejected(self) -> int:
        """How many of the points were not taken."""
        return self.points if self.whole else len({rejection.index for rejection in self.rejections})

    @property
    def points_accepted(self) -> int:
        """How many of the points are to be written."""
        return self.points - self.points_rejected


def decode(message: Message, registry: Registry, period: Period) -> Decoded:
    """Decodes one message of any queue against its contract."""
    good = decode_good_metrics(message, registry, period) if message.queue == "agent.metrics" else None
    return good or decode_by_rules(message, registry, period)


def decode_good_metrics(message: Message, registry: Registry, period: Period) -> Decoded | None:
    """Decodes a metrics message in which everything is right; None where anything is not, or is unusual."""
    if len(message.body) > rules.MOST_BYTES or not _is_json(message.content_type):
        return None
    try:
        body = _metrics.decode(message.body.decode())
    except (ValueError, RecursionError):
        return None
    if (
        body.schema != METRICS.schema
        or registry.devices.get(body.device_id) != body.organization_id
        or message.routing_key != f"metrics.{body.organization_id}"
    ):
        return None
    moments, *values = zip(*map(msgspec.structs.astuple, body.samples), strict=True)
    times = [moment if type(moment) is int else rules.milliseconds(moment) for moment in moments]
    if min(times) < period.oldest or max(times) > period.newest:
        return None
    if all(None in column for column in values) and (None,) * len(values) in zip(*values, strict=True):
        return None  # a sample without any known field
    columns = _metric_columns(body.organization_id, body.device_id, times, values)
    return Decoded(
        message_id=identity(message.queue, message.body, message.message_id, body.message_id),
        organization_id=body.organization_id,
        device_id=body.device_id,
        agent_version=body.agent_version,
        points=len(times),
        columns=columns,
    )


def decode_by_rules(message: Message, registry: Registry, period: Period) -> Decoded:
    """Decodes a message rule by rule and says what is wrong with it, and where."""
    contract = CONTRACTS[message.queue]
    body: dict[str, Any] | None = None
    try:
        body = _load(message)
        decoded = _describe(message, body)
        _check_envelope(message, body, contract, decoded, registry)
        if contract is METRICS:
            _decode_samples(body["samples"], decoded, period)
        else:
            _decode_event(body, contract, decoded, period)
    except Refused as refused:
        return _refuse(message, body, refused)
    return decoded


def decode_nothing(message: Message, reason: str) -> Decoded:
    """A message that is not to be taken, for a reason that lies outside it; who sent it is read where it can be."""
    try:
        return _refuse(message, _load(message), Refused(reason))
    except Refused:
        return _refuse(message, None, Refused(reason))


def _load(message: Message) -> dict[str, Any]:
    """The body as a dict. NaN and 1e999 are values in it, so that they cost their sample and not the message."""
    if len(message.body) > rules.MOST_BYTES:
        raise Refused("too_large")
    if not _is_json(message.content_type):
        raise Refused("unknown_content_type")
    try:
        body = read_json(message.body)
    except UnicodeDecodeError:
        raise Refused("invalid_utf8") from None
    except RecursionError:
        raise Refused("nested_too_deeply") from None
    except ValueError:
        raise Refused("not_json") from None
    if not isinstance(body, dict):
        raise Refused("not_an_object")
    return body


def _is_json(content_type: str | None) -> bool:
    return not content_type or content_type.partition(";")[0].strip().lower() == JSON


def read_json(body: bytes) -> Any:
    """JSON as widely as Python reads it, with integers of any length. Raises ValueError or RecursionError."""
    return json.loads(body.decode(), parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def _refuse(message: Message, body: dict[str, Any] | None, refused: Refused) -> Decoded:
    """A message that is refused whole."""
    decoded = _describe(message, body)
    decoded.whole = True
    decoded.rejections = [_rejection(None, refused, body if refused.field else message.body[:_SHOWN])]
    return decoded


def _describe(message: Message, body: dict[str, Any] | None) -> Decoded:
    """Who sent it, as far as it says so in readable form, and how many points it carries; None cannot be read."""
    fields = body or {}
    own_id, samples = fields.get("message_id"), fields.get("samples")
    own_id = own_id if isinstance(own_id, str) else None
    points = samples if CONTRACTS[message.queue] is METRICS else [body]
    return Decoded(
        message_id=identity(message.queue, message.body, message.message_id, own_id),
        organization_id=_or_none(rules.identifier, fields.get("organization_id")),
        device_id=_or_none(rules.identifier, fields.get("device_id")),
        agent_version=_or_none(_agent_version, fields.get("agent_version")),
        points=len(points) if body is not None and isinstance(points, list) else 0,
    )


def _or_none(rule: rules.Rule, value: Any) -> Any:
    try:
        return rule(value)
    except Refused:
        return None


def _check_envelope(
    message: Message, body: dict[str, Any], contract: Contract, decoded: Decoded, registry: Registry
) -> None:
    """Raises Refused for a message that must not be taken at all, whatever its points are like."""
    if body.get("schema") != contract.schema:
        raise Refused("wrong_schema", "schema")
    organization = _value("organization_id", _ID, body)
    if organization not in registry.organizations:
        raise Refused("unknown_organization", "organization_id")
    device = _value("device_id", contract.device, body) if contract.device else None
    if device:
        if device not in registry.devices:
            raise Refused("unknown_device", "device_id")
        if registry.devices[device] != organization:
            raise Refused("device_of_another_organization", "device_id")
    routed_by = organization if contract.routed_by == "organization_id" else body.get(contract.routed_by)
    if message.routing_key != f"{contract.topic}.{routed_by}":
        raise Refused("not_of_its_routing_key", contract.routed_by)
    if contract is METRICS:
        _value("samples", _SAMPLES, body)


def _value(name: str, field: Field, body: Mapping[str, Any]) -> Any:
    """The field's value by its rule; None where it may be absent, and is. Raises Refused, with the field."""
    value = body.get(name)
    if value is None:
        if field.required:
            raise Refused("missing", name)
        return None
    try:
        return field.rule(value)
    except Refused as refused:
        raise Refused(str(refused), name) from None


def _decode_samples(samples: list[Any], decoded: Decoded, period: Period) -> None:
    fields = {"timestamp": Field(period.check), **METRICS.fields}
    rows: list[list[Any]] = []
    taken: list[int] = []
    decoded.rejections = []
    for index, sample in enumerate(samples):
        row, problems = _decode_sample(sample, fields)
        if problems:
            decoded.rejections += [_rejection(index, refused, sample) for refused in problems]
        else:
            rows.append(row)
            taken.append(index)
        if isinstance(sample, dict):
            decoded.unknown_fields += sum(name not in fields for name in sample)
    if decoded.rejections:
        decoded.rows = taken
    if rows and decoded.organization_id and decoded.device_id:
        times, *values = zip(*rows, strict=True)
        decoded.columns = _metric_columns(decoded.organization_id, decoded.device_id, list(times), values)


def _decode_sample(sample: Any, fields: Mapping[str, Field]) -> tuple[list[Any], list[Refused]]:
    """(the values of the fields, all that is wrong) of one sample."""
    if not isinstance(sample, dict):
        return [], [Refused("not_an_object")]
    row: list[Any] = []
    problems: list[Refused] = []
    for name, field in fields.items():
        try:
            row.append(_value(name, field, sample))
        except Refused as refused:
            problems.append(refused)
    if not problems and row.count(None) == len(FIELDS):
        problems.append(Refused("no_known_field"))
    return row, problems


def _metric_columns(organization: str, device: str, times: list[int], values: Any) -> dict[str, list[Any]]:
    key: dict[str, list[Any]] = {
        "organization_id": [organization] * len(times),
        "device_id": [device] * len(times),
        "time": times,
    }
    return key | {name: list(column) for name, column in zip(FIELDS, values, strict=True)}


def _decode_event(body: dict[str, Any], contract: Contract, decoded: Decoded, period: Period) -> None:
    """An event is one row: a field that is wrong costs the whole of it."""
    row: dict[str, Any] = {"organization_id": decoded.organization_id}
    if contract.device:
        row["device_id"] = decoded.device_id
    for name, field in {"timestamp": Field(period.check), **contract.fields}.items():
        row[name] = _value(name, field, body)
    row["message_id"] = str(decoded.message_id)
    decoded.columns = {name: [value] for name, value in row.items()}


def _rejection(index: int | None, refused: Refused, of: Any) -> Rejection:
    """`of` is the object that has the field, or all that was refused."""
    return Rejection(index, refused.field, _shown(of.get(refused.field) if refused.field else of), str(refused))


def _shown(value: Any) -> str:
    try:
        return repr(value)[:_SHOWN]
    except RecursionError:
        return "nested too deeply to be shown"
