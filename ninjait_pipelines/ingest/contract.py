"""The event contracts, version 1: what the messages of each queue look like, field by field. Nothing here reads one.

A rule takes a JSON value and returns what is stored, or raises Refused with the reason. The rules are the contract;
the msgspec struct at the end says the same of a metrics message once more, so that a perfectly good one is decoded
without running them.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import bson
import msgspec
from bson.errors import BSONError

from ninjait_pipelines.resources.metrics_store import FIELDS, RETENTION, Tier

MOST_BYTES = 1024 * 1024
MOST_SAMPLES = 1000
# Clocks of devices are wrong by minutes, not by hours.
AHEAD = timedelta(minutes=5)
BEHIND = RETENTION[Tier.ONE_HOUR]
DEEPEST_DOCUMENT = 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_DECIMAL = re.compile(r"-?\d{1,12}(\.\d{1,6})?", re.ASCII)


class Refused(ValueError):
    """A value, or a message, that the contract does not allow; its text is the reason, a short slug."""


Rule = Callable[[Any], Any]


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970, rounded down."""
    return (moment - _EPOCH) // _MILLISECOND


def instant(value: Any) -> int:
    """Milliseconds since 1970, of RFC 3339 text with a zone or of such an integer."""
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise Refused("not_a_time")
    try:
        moment = msgspec.convert(value, datetime)
    except ValueError:  # also for half of a surrogate pair
        raise Refused("not_a_time") from None
    if moment.tzinfo is None:
        raise Refused("no_time_zone")
    return milliseconds(moment)


def number(value: Any) -> float:
    """A finite number, not negative. True is not a number, and neither is text."""
    if isinstance(value, bool):
        raise Refused("boolean_as_number")
    if isinstance(value, str):
        raise Refused("number_as_text")
    if not isinstance(value, int | float):
        raise Refused("not_a_number")
    try:
        converted = float(value)
    except OverflowError:
        raise Refused("not_finite") from None
    if not math.isfinite(converted):
        raise Refused("not_finite")
    if converted < 0:
        raise Refused("negative")
    return converted


def percent(value: Any) -> float:
    """A number from 0 to 100."""
    if (converted := number(value)) > 100:
        raise Refused("above_100")
    return converted


def whole(least: int, most: int) -> Rule:
    """An integer within its bounds, both included."""

    def rule(value: Any) -> int:
        if number(value) > most or value < least:
            raise Refused("out_of_range")
        if not isinstance(value, int):
            raise Refused("not_an_integer")
        return value

    return rule


def text(most: int, least: int = 1) -> Rule:
    """Text of so many characters."""

    def rule(value: Any) -> str:
        if not isinstance(value, str):
            raise Refused("not_text")
        if not least <= len(value) <= most:
            raise Refused("too_long" if value else "empty")
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair: no store takes it
            raise Refused("invalid_text") from None
        return value

    return rule


def choice(*allowed: str) -> Rule:
    """One of these words."""

    def rule(value: Any) -> str:
        if value not in allowed:
            raise Refused("not_one_of_" + "_".join(allowed))
        return str(value)

    return rule


def identifier(value: Any) -> str:
    """A UUID, in its canonical spelling."""
    try:
        return str(UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise Refused("not_an_id") from None


def decimal_text(value: Any) -> Decimal:
    """A decimal as text, so that no floating point comes near it: 12 digits before the point, 6 after it at most."""
    if not isinstance(value, str):
        raise Refused("decimal_not_as_text")
    if not _DECIMAL.fullmatch(value):
        raise Refused("not_a_decimal")
    if (converted := Decimal(value)) < 0:
        raise Refused("negative")
    return converted


def document(value: Any) -> dict[str, Any]:
    """A JSON object that MongoDB can hold."""
    if not isinstance(value, dict):
        raise Refused("not_an_object")
    if _unstorable(value, DEEPEST_DOCUMENT):
        raise Refused("not_storable")
    try:
        bson.encode(value)
    except (BSONError, OverflowError, UnicodeEncodeError):
        raise Refused("not_storable") from None
    return value


def _unstorable(value: Any, levels: int) -> bool:
    """Whether it is too deep, or holds a number that is not finite or a key that MongoDB takes for its own."""
    if levels == 0:
        return True
    if isinstance(value, dict):
        return any(key.startswith("$") or _unstorable(inner, levels - 1) for key, inner in value.items())
    if isinstance(value, list):
        return any(_unstorable(inner, levels - 1) for inner in value)
    return isinstance(value, float) and not math.isfinite(value)


class Field(msgspec.Struct, frozen=True):
    """A field of an event or sample: its rule, and whether it may be absent (or null)."""

    rule: Rule
    required: bool = True


class Contract(msgspec.Struct, frozen=True):
    """What one queue carries.

    The routing key is `<topic>.<value of the field routed_by>`. A body that carries another value there is refused:
    brokers give rights by routing key, so it could speak for an organization that its sender is not.
    """

    schema: str
    topic: str
    fields: Mapping[str, Field]
    routed_by: str = "organization_id"
    device: Field | None = None


_DEVICE = Field(identifier)
METRIC_RULES = {name: percent if name == "cpu" else number for name in FIELDS}
METRICS = Contract(
    schema="ninjait.metrics.v1",
    topic="metrics",
    fields={name: Field(rule, required=False) for name, rule in METRIC_RULES.items()},
    device=_DEVICE,
)
CONTRACTS: Mapping[str, Contract] = {
    "agent.metrics": METRICS,
    "agent.heartbeats": Contract(
        schema="ninjait.heartbeat.v1",
        topic="heartbeat",
        fields={
            "status": Field(choice("online", "offline", "maintenance")),
            "agent_version": Field(text(100)),
            "os_version": Field(text(200)),
            "uptime_seconds": Field(whole(0, 2**53), required=False),
        },
        device=_DEVICE,
    ),
    "platform.api_calls": Contract(
        schema="ninjait.api_call.v1",
        topic="api_call",
        fields={
            "endpoint": Field(text(500)),
            "method": Field(text(20)),
            "status_code": Field(whole(100, 599)),
            "response_time_ms": Field(number),
            "user_id": Field(identifier, required=False),
        },
    ),
    "platform.usage": Contract(
        schema="ninjait.usage.v1",
        topic="usage",
        fields={"storage_gb": Field(decimal_text), "backup_gb": Field(decimal_text)},
    ),
    "platform.logs": Contract(
        schema="ninjait.log.v1",
        topic="log",
        fields={
            "level": Field(choice("debug", "info", "warning", "error", "critical")),
            "service": Field(text(200)),
            "message": Field(text(100_000, least=0)),
            "error": Field(document, required=False),
        },
        routed_by="level",
        device=Field(identifier, required=False),
    ),
}


def _annotation(rule: Rule) -> Any:
    bounds = msgspec.Meta(ge=0, le=100) if rule is percent else msgspec.Meta(ge=0)
    return Annotated[float, bounds] | None


Sample = msgspec.defstruct(
    "Sample",
    [
        ("timestamp", Annotated[datetime, msgspec.Meta(tz=True)] | int),
        *((name, _annotation(rule), None) for name, rule in METRIC_RULES.items()),
    ],
    forbid_unknown_fields=True,
    gc=False,
)


class Metrics(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A metrics message without a fault or a surprise. What does not fit is looked at by the rules, which know why.

    Fields that it does not name send a message to the rules as well: msgspec would skip their content unread.
    """

    schema: str
    organization_id: str
    device_id: str
    samples: Annotated[list[Sample], msgspec.Meta(min_length=1, max_length=MOST_SAMPLES)]  # type: ignore[valid-type]
    agent_version: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    message_id: str | None = None
