"""Rejections as they are reported: of a sample, an entry or a whole message."""

from collections.abc import Collection
from functools import partial
from typing import Any

from ninjait_pipelines import contract
from ninjait_pipelines.contract import METRICS, ContractViolation
from ninjait_pipelines.ingest.decode.forms import form_of
from ninjait_pipelines.ingest.decode.model import Decoded, Rejection
from ninjait_pipelines.messages import Message, identity
from ninjait_pipelines.streams import CONTRACTS

UNREADABLE: dict[type, str] = {UnicodeDecodeError: "invalid_utf8", RecursionError: "nested_too_deeply"}
MAX_SHOWN = 200
# Reasons that say only that the body is not of the expected form.
_WRONG_FORM = {"invalid_utf8", "not_json", "not_line_protocol", "not_a_list", "not_an_object", "wrong_schema"}
_WRONG_FORM |= {"unknown_content_type"}
_agent_version = partial(contract.text, limit=100)


def rejection(index: int | None, violation: ContractViolation, rejected: Any) -> Rejection:
    """`rejected` is the object that has the violation's field, or everything that is rejected if there is none."""
    value = rejected.get(violation.field) if violation.field else rejected
    return Rejection(index, violation.field, _shown(value), violation.code)


def rejected_message(message: Message, body: dict[str, Any] | None, violation: ContractViolation) -> Decoded:
    """A message that is rejected as a whole; `body` is None if it could not be read."""
    decoded = describe(message, body)
    decoded.whole = True
    decoded.rejections = [rejection(None, violation, body if violation.field else message.body[:MAX_SHOWN])]
    return decoded


def describe(message: Message, body: dict[str, Any] | None) -> Decoded:
    """The sender, as far as the body names it in readable form, and the number of points."""
    fields = body or {}
    own_id, samples = fields.get("message_id"), fields.get("samples")
    own_id = own_id if isinstance(own_id, str) else None
    points = samples if CONTRACTS[message.queue] is METRICS else [body]
    return Decoded(
        message_id=identity(message.queue, message.body, message.message_id, own_id),
        organization_id=_or_none(contract.identifier, fields.get("organization_id")),
        device_id=_or_none(contract.identifier, fields.get("device_id")),
        agent_version=_or_none(_agent_version, fields.get("agent_version")),
        points=len(points) if body is not None and isinstance(points, list) else 0,
    )


def name_form(violation: ContractViolation, body: bytes, expected: Collection[str]) -> ContractViolation:
    """The violation, with the body's actual form as its code if that is known and not among those expected."""
    form = form_of(body) if violation.code in _WRONG_FORM else None
    return ContractViolation(form, violation.field) if form and form not in expected else violation


def _or_none(rule: contract.Rule, value: Any) -> Any:
    try:
        return rule(value)
    except ContractViolation:
        return None


def _shown(value: Any) -> str:
    try:
        return repr(value)[:MAX_SHOWN]
    except RecursionError:
        return "nested too deeply to be shown"
