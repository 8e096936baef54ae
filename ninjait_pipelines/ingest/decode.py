"""From the bytes of a message to rows and rejections. Pure: no store, no clock, and no exception for whatever bytes.

accepted + rejected = sent, for every message. Of a JSON object that names a key twice, the last one counts.
"""

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ninjait_pipelines.ingest import contract as rules
from ninjait_pipelines.ingest.contract import CONTRACTS, METRICS, Contract, Refused
from ninjait_pipelines.resources.message_queue import JSON, Message, identity
from ninjait_pipelines.resources.metrics_store import FIELDS

# Longer than any float has: such an integer is infinite to every store, and Python would refuse to read 5,000 digits.
_MOST_DIGITS = 400
_SHOWN = 200
# field, value, reason
_Problem = tuple[str | None, Any, str]
_metrics = msgspec.json.Decoder(rules.Metrics)


class Registry(msgspec.Struct, frozen=True):
    """Who may send: the organizations, and the organization of each device. Ids in canonical spelling."""

    organizations: frozenset[str]
    devices: Mapping[str, str]


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
    """What a message holds. `columns` are those of the good points, empty where there are none.

    `points` counts the samples of a metrics message and is 1 for an event; 0 where that could not be read.
    """

    message_id: uuid.UUID
    organization_id: str | None = None
    device_id: str | None = None
    agent_version: str | None = None
    points: int = 0
    columns: dict[str, list[Any]] = {}
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
    if message.queue == "agent.metrics":
        good = decode_good_metrics(message, registry, period)
        if good is not None:
            return good
    return decode_by_rules(message, registry, period)


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
    try:
        body = _load(message)
    except Refused as refused:
        return _refuse(Decoded(identity(message.queue, message.body, message.message_id)), None, message.body, refused)
    decoded = _describe(message, body)
    try:
        _check_envelope(message, body, contract, decoded, registry)
        if contract is METRICS:
            _decode_samples(body["samples"], decoded, period)
        else:
            _decode_event(body, contract, decoded, period)
    except _RefusedField as refused:
        return _refuse(decoded, refused.field, body.get(refused.field), refused)
    return decoded


def decode_nothing(message: Message, reason: str) -> Decoded:
    """A message that is not to be taken, for a reason that lies outside it; who sent it is read where it can be."""
    try:
        decoded = _describe(message, _load(message))
    except Refused:
        decoded = Decoded(identity(message.queue, message.body, message.message_id))
    return _refuse(decoded, None, message.body, Refused(reason))


class _RefusedField(Refused):
    """A message refused because of one field of its body."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


def _is_json(content_type: str | None) -> bool:
    return not content_type or content_type.partition(";")[0].strip().lower() == JSON


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


def read_json(body: bytes) -> Any:
    """JSON as widely as Python reads it, with integers of any length. Raises ValueError or RecursionError."""
    return json.loads(body.decode(), parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < _MOST_DIGITS else float(digits)


def _describe(message: Message, body: dict[str, Any]) -> Decoded:
    """Who sent it, as far as it says so in readable form, and how many points it carries."""
    own_id, samples = body.get("message_id"), body.get("samples")
    own_id = own_id if isinstance(own_id, str) else None
    return Decoded(
        message_id=identity(message.queue, message.body, message.message_id, own_id),
        organization_id=_or_none(rules.identifier, body.get("organization_id")),
        device_id=_or_none(rules.identifier, body.get("device_id")),
        agent_version=_or_none(rules.text(100), body.get("agent_version")),
        points=1 if CONTRACTS[message.queue] is not METRICS else len(samples) if isinstance(samples, list) else 0,
    )


def _or_none(rule: rules.Rule, value: Any) -> Any:
    try:
        return rule(value)
    except Refused:
        return None


def _check_envelope(
    message: Message, body: dict[str, Any], contract: Contract, decoded: Decoded, registry: Registry
) -> None:
    """Raises _RefusedField for a message that must not be taken at all, whatever its points are like."""
    if body.get("schema") != contract.schema:
        raise _RefusedField("schema", "wrong_schema")
    organization = _checked("organization_id", rules.identifier, body)
    if organization not in registry.organizations:
        raise _RefusedField("organization_id", "unknown_organization")
    if contract.device and (contract.device.required or body.get("device_id") is not None):
        owner = registry.devices.get(_checked("device_id", contract.device.rule, body))
        if owner is None:
            raise _RefusedField("device_id", "unknown_device")
        if owner != organization:
            raise _RefusedField("device_id", "device_of_another_organization")
    routed_by = decoded.organization_id if contract.routed_by == "organization_id" else body.get(contract.routed_by)
    if message.routing_key != f"{contract.topic}.{routed_by}":
        raise _RefusedField(contract.routed_by, "not_of_its_routing_key")
    if contract is METRICS:
        _check_samples(body.get("samples"))


def _check_samples(samples: Any) -> None:
    if not isinstance(samples, list):
        raise _RefusedField("samples", "not_a_list" if samples is not None else "missing")
    if not samples:
        raise _RefusedField("samples", "no_samples")
    if len(samples) > rules.MOST_SAMPLES:
        raise _RefusedField("samples", "too_many_samples")


def _checked(name: str, rule: rules.Rule, body: dict[str, Any]) -> Any:
    """The field's value by its rule. Raises _RefusedField."""
    value = body.get(name)
    if value is None:
        raise _RefusedField(name, "missing")
    try:
        return rule(value)
    except Refused as refused:
        raise _RefusedField(name, str(refused)) from None


def _decode_samples(samples: list[Any], decoded: Decoded, period: Period) -> None:
    times: list[int] = []
    rows: list[tuple[float | None, ...]] = []
    rejections: list[Rejection] = []
    for index, sample in enumerate(samples):
        time, row, problems = _decode_sample(sample, period)
        if problems:
            rejections += [Rejection(index, field, _shown(value), reason) for field, value, reason in problems]
        else:
            times.append(time)
            rows.append(row)
        if isinstance(sample, dict):
            decoded.unknown_fields += sum(name not in FIELDS and name != "timestamp" for name in sample)
    decoded.rejections = rejections
    if rows and decoded.organization_id and decoded.device_id:
        values = zip(*rows, strict=True)
        decoded.columns = _metric_columns(decoded.organization_id, decoded.device_id, times, values)


def _decode_sample(sample: Any, period: Period) -> tuple[int, tuple[float | None, ...], list[_Problem]]:
    """(time, values in the order of FIELDS, problems) of one sample."""
    if not isinstance(sample, dict):
        return 0, (), [(None, sample, "not_an_object")]
    time = 0
    row: list[float | None] = []
    problems: list[_Problem] = []
    try:
        time = period.check(sample["timestamp"])
    except KeyError:
        problems.append(("timestamp", None, "missing"))
    except Refused as refused:
        problems.append(("timestamp", sample["timestamp"], str(refused)))
    for name, rule in rules.METRIC_RULES.items():
        value = sample.get(name)
        try:
            row.append(None if value is None else rule(value))
        except Refused as refused:
            problems.append((name, value, str(refused)))
    if not problems and all(value is None for value in row):
        problems.append((None, sample, "no_known_field"))
    return time, tuple(row), problems


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
    row["timestamp"] = _checked("timestamp", period.check, body)
    for name, field in contract.fields.items():
        absent = body.get(name) is None and not field.required
        row[name] = None if absent else _checked(name, field.rule, body)
    row["message_id"] = str(decoded.message_id)
    decoded.columns = {name: [value] for name, value in row.items()}


def _refuse(decoded: Decoded, field: str | None, value: Any, refused: Refused) -> Decoded:
    decoded.whole = True
    decoded.rejections = [Rejection(None, field, _shown(value), str(refused))]
    return decoded


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        value = value[:_SHOWN]
    try:
        return repr(value)[:_SHOWN]
    except RecursionError:
        return "nested too deeply to be shown"
