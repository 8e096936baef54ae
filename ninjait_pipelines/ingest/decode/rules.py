"""Decodes a message of ours rule by rule, and finds out what is wrong with it and where."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from ninjait_pipelines import contract as contracts
from ninjait_pipelines.contract import METRICS, Contract, ContractViolation, Field, check_size, field_value
from ninjait_pipelines.ingest.decode.model import Decoded, Period, SenderRegistry
from ninjait_pipelines.ingest.decode.rejections import UNREADABLE, describe, name_form, rejected_message, rejection
from ninjait_pipelines.ingest.decode.tables import metric_columns
from ninjait_pipelines.ingest.decode.third_party import BYTE_ORDER_MARK
from ninjait_pipelines.messages import JSON, Message
from ninjait_pipelines.metrics.model import FIELDS
from ninjait_pipelines.streams import CONTRACTS

# Python refuses to convert longer ones; they are beyond every store's range, and read as infinite.
_MAX_DIGITS = 4300
_OUR_FORMS = {"ninjait_json", "json"}
_ID = Field(contracts.identifier)
_SAMPLES = Field(contracts.samples)


def decode_by_rules(message: Message, registry: SenderRegistry, period: Period) -> Decoded:
    """Decodes a message with any number of faults."""
    contract = CONTRACTS[message.queue]
    body: dict[str, Any] | None = None
    try:
        body = load_body(message)
        decoded = describe(message, body)
        _check_envelope(message, body, contract, registry)
        if contract is METRICS:
            _decode_samples(body["samples"], decoded, period)
        else:
            _decode_event(body, contract, decoded, period)
    except ContractViolation as violation:
        return rejected_message(message, body, name_form(violation, message.body, _OUR_FORMS))
    return decoded


def load_body(message: Message) -> dict[str, Any]:
    """The body as a dict. NaN and 1e999 become values, so that they cost their sample and not the message.

    Raises ContractViolation.
    """
    check_size(message.body)
    if not is_json(message.content_type):
        raise ContractViolation("unknown_content_type")
    try:
        body = read_json(message.body)
    except (ValueError, RecursionError) as error:
        raise ContractViolation(UNREADABLE.get(type(error), "not_json")) from None
    if not isinstance(body, dict):
        raise ContractViolation("not_an_object")
    return body


def is_json(content_type: str | None) -> bool:
    """Whether the content type is JSON or absent."""
    return content_type == JSON or not content_type or content_type.partition(";")[0].strip().lower() == JSON


def read_json(body: bytes) -> Any:
    """JSON as leniently as Python reads it, with integers of any length. Raises ValueError or RecursionError."""
    body = body.removeprefix(BYTE_ORDER_MARK)
    try:
        return msgspec.json.decode(body)  # four times as fast, but accepts strict JSON only
    except ValueError:
        return json.loads(body.decode(), parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _check_envelope(message: Message, body: dict[str, Any], contract: Contract, registry: SenderRegistry) -> None:
    """Raises ContractViolation for a message that must be rejected whatever its points are like."""
    if body.get("schema") != contract.schema:
        raise ContractViolation("wrong_schema", "schema")
    organization = field_value("organization_id", _ID, body)
    if organization not in registry.organizations:
        raise ContractViolation("unknown_organization", "organization_id")
    device = field_value("device_id", contract.device, body) if contract.device else None
    if device:
        if device not in registry.devices:
            raise ContractViolation("unknown_device", "device_id")
        if registry.devices[device] != organization:
            raise ContractViolation("device_of_another_organization", "device_id")
    routed_by = organization if contract.routed_by == "organization_id" else body.get(contract.routed_by)
    if message.routing_key != f"{contract.topic}.{routed_by}":
        raise ContractViolation("not_of_its_routing_key", contract.routed_by)
    if contract is METRICS:
        field_value("samples", _SAMPLES, body)


def _decode_samples(samples: list[Any], decoded: Decoded, period: Period) -> None:
    """Sets the columns of the good samples and the rejections of the others."""
    fields = {"timestamp": Field(period.check), **METRICS.fields}
    rows: list[list[Any]] = []
    indexes: list[int] = []
    decoded.rejections = []
    for index, sample in enumerate(samples):
        row, violations = _decode_sample(sample, fields)
        if violations:
            decoded.rejections += [rejection(index, violation, sample) for violation in violations]
        else:
            rows.append(row)
            indexes.append(index)
        if isinstance(sample, dict):
            decoded.unknown_fields += len(sample.keys() - fields.keys())
    if decoded.rejections:
        decoded.rows = indexes
    if rows and decoded.organization_id and decoded.device_id:
        times, *values = zip(*rows, strict=True)
        decoded.columns = metric_columns(decoded.organization_id, decoded.device_id, list(times), values)


def _decode_sample(sample: Any, fields: Mapping[str, Field]) -> tuple[list[Any], list[ContractViolation]]:
    """(the fields' values, all violations) of a sample."""
    if not isinstance(sample, dict):
        return [], [ContractViolation("not_an_object")]
    row: list[Any] = []
    violations: list[ContractViolation] = []
    for name, field in fields.items():
        try:
            row.append(field_value(name, field, sample))
        except ContractViolation as violation:
            violations.append(violation)
    if not violations and row.count(None) == len(FIELDS):
        violations.append(ContractViolation("no_known_field"))
    return row, violations


def _decode_event(body: dict[str, Any], contract: Contract, decoded: Decoded, period: Period) -> None:
    """An event is a single row: a bad field costs all of it. Raises ContractViolation."""
    row: dict[str, Any] = {"organization_id": decoded.organization_id}
    if contract.device:
        row["device_id"] = decoded.device_id
    for name, field in {"timestamp": Field(period.check), **contract.fields}.items():
        row[name] = field_value(name, field, body)
    row["message_id"] = str(decoded.message_id)
    decoded.columns = {name: [value] for name, value in row.items()}
