"""The rules of the event contracts, version 1. Which queue has which contract is in streams.py.

A rule takes a JSON value and returns the value to store, or raises ContractViolation. The rules are the contract. The
msgspec struct at the end restates them for metrics messages, so that flawless ones are decoded without running them.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import bson
import msgspec
from bson.errors import BSONError

from ninjait_pipelines.metrics.model import FIELDS

MAX_BYTES = 1024 * 1024
MAX_SAMPLES = 1000
MAX_DOCUMENT_DEPTH = 20
# Larger than any real reading (it allows a disk of a zettabyte), and small enough that no sum of samples overflows.
MAX_NUMBER = 1e15
# Counters have 64 bits. The stores keep them as floats, which are exact up to 2^53 (9 PB) and rounded to multiples of
# 2 to 2,048 bytes above it: one reading may be off by that much, and no sum of increases by more.
MAX_COUNTER = 2.0**64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECIMAL = re.compile(r"-?\d{1,12}(\.\d{1,6})?", re.ASCII)
# The rounding error of percentages that an agent subtracts and averages: Telegraf's usage_idle may be -0.4.
_PERCENT_TOLERANCE = 1
# Control characters (newline, tab, NUL), and the Unicode separators that other systems treat as line ends.
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class ContractViolation(ValueError):
    """A value, or a whole message, breaks the contract. `code` is the reason, a slug that users see; `field` names the
    offending field, if a single one is to blame."""

    def __init__(self, code: str, field: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.field = field


Rule = Callable[[Any], Any]


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970, rounded down."""
    return all_milliseconds((moment,))[0]


def all_milliseconds(moments: Iterable[datetime | int]) -> list[int]:
    """`milliseconds` for many; integers already are milliseconds. Dividing by a timedelta would take twice as long."""
    return [
        moment
        if isinstance(moment, int)
        else (since := moment - _EPOCH).days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
        for moment in moments
    ]


def instant(value: Any) -> int:
    """Milliseconds since 1970, from RFC 3339 text with a time zone; an integer already is milliseconds."""
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise ContractViolation("not_a_time")
    try:
        moment = msgspec.convert(value, datetime)
    except ValueError:  # also raised for a lone surrogate
        raise ContractViolation("not_a_time") from None
    if moment.tzinfo is None:
        raise ContractViolation("no_time_zone")
    return milliseconds(moment)


def number(value: Any, limit: float = MAX_NUMBER, beyond: str = "out_of_range") -> float:
    """A finite number from 0 to `limit`. Booleans and text are not numbers."""
    if type(value) in (float, int) and 0 <= value <= limit:
        return float(value)
    if isinstance(value, bool):
        raise ContractViolation("boolean_as_number")
    if isinstance(value, str):
        raise ContractViolation("number_as_text")
    if not isinstance(value, int | float):
        raise ContractViolation("not_a_number")
    if not abs(value) < math.inf:
        raise ContractViolation("not_finite")
    raise ContractViolation("negative" if value < 0 else beyond)


def percent(value: Any) -> float:
    """A number from 0 to 100. A rounding error of up to one point outside that range is corrected to 0 or 100."""
    if type(value) in (float, int) and (-_PERCENT_TOLERANCE <= value < 0 or 100 < value <= 100 + _PERCENT_TOLERANCE):
        return 0.0 if value < 0 else 100.0
    return number(value, 100, "above_100")


def counter(value: Any) -> float:
    """A byte counter. Fractions mean that the agent sends rates instead of counters."""
    if not (counted := number(value, MAX_COUNTER)).is_integer():
        raise ContractViolation("not_an_integer")
    return counted


def integer(value: Any, minimum: int, limit: int) -> int:
    """An integer from `minimum` to `limit`, both included."""
    if number(value, limit) < minimum:
        raise ContractViolation("out_of_range")
    if not isinstance(value, int):
        raise ContractViolation("not_an_integer")
    return value


def text(value: Any, limit: int, minimum: int = 1) -> str:
    """Text of `minimum` to `limit` characters."""
    if not isinstance(value, str):
        raise ContractViolation("not_text")
    if not minimum <= len(value) <= limit:
        raise ContractViolation("too_long" if value else "empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no store accepts
        raise ContractViolation("invalid_text") from None
    return value


def name(value: Any) -> str:
    """The name of a host, interface or volume: a single line of up to 255 characters in any script."""
    if _NOT_IN_A_NAME.search(text(value, 255)):
        raise ContractViolation("invalid_text")
    return str(value)


def choice(value: Any, allowed: tuple[str, ...]) -> str:
    """One of the allowed words."""
    if value not in allowed:
        raise ContractViolation("not_one_of_" + "_".join(allowed))
    return str(value)


def identifier(value: Any) -> str:
    """A UUID, in its canonical spelling."""
    try:
        return str(UUID(value))
    except (ValueError, AttributeError, TypeError):
        raise ContractViolation("not_an_id") from None


def decimal_text(value: Any) -> Decimal:
    """A decimal sent as text, to avoid floating point: at most 12 digits before the point and 6 after it."""
    if not isinstance(value, str):
        raise ContractViolation("decimal_not_as_text")
    if not _DECIMAL.fullmatch(value):
        raise ContractViolation("not_a_decimal")
    if (converted := Decimal(value)) < 0:
        raise ContractViolation("negative")
    return converted


def document(value: Any) -> dict[str, Any]:
    """A JSON object that MongoDB can hold."""
    if not isinstance(value, dict):
        raise ContractViolation("not_an_object")
    if _unstorable(value, MAX_DOCUMENT_DEPTH):
        raise ContractViolation("not_storable")
    try:
        bson.encode(value)
    except (BSONError, OverflowError, UnicodeEncodeError):
        raise ContractViolation("not_storable") from None
    return value


def samples(value: Any) -> list[Any]:
    """The list of samples; checks only its length."""
    if not isinstance(value, list):
        raise ContractViolation("not_a_list")
    if not value:
        raise ContractViolation("no_samples")
    if len(value) > MAX_SAMPLES:
        raise ContractViolation("too_many_samples")
    return value


def _unstorable(value: Any, levels: int) -> bool:
    """Whether the value is nested too deeply, or holds a non-finite number or a key that MongoDB reserves (`$...`)."""
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


def field_value(name: str, field: Field, body: Mapping[str, Any]) -> Any:
    """The field's value by its rule; None if it is optional and absent. Raises ContractViolation, with the field."""
    value = body.get(name)
    if value is None:
        if field.required:
            raise ContractViolation("missing", name)
        return None
    try:
        return field.rule(value)
    except ContractViolation as violation:
        raise ContractViolation(violation.code, name) from None


def check_size(body: bytes, limit: int = MAX_BYTES) -> None:
    """Raises ContractViolation for a body that is too large to be read."""
    if len(body) > limit:
        raise ContractViolation("too_large")


class Contract(msgspec.Struct, frozen=True):
    """The messages of one queue; `device` is the rule for `device_id` where they belong to a device.

    The routing key is `<topic>.<value of the field routed_by>`. A body with another value in that field is rejected:
    brokers grant permissions by routing key, so it could claim to come from another organization.
    """

    topic: str
    fields: Mapping[str, Field]
    routed_by: str = "organization_id"
    device: Field | None = None

    @property
    def schema(self) -> str:
        """The value of the body's field `schema`."""
        return f"ninjait.{self.topic}.v1"


DEVICE = Field(identifier)
METRIC_RULES = {name: percent if metric.rule == "percent" else number for name, metric in FIELDS.items()}
METRICS = Contract("metrics", {name: Field(rule, False) for name, rule in METRIC_RULES.items()}, device=DEVICE)


def _annotation(rule: Rule) -> Any:
    return Annotated[float, msgspec.Meta(ge=0, le=100 if rule is percent else MAX_NUMBER)] | None


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
    """A flawless metrics message. Any other goes through the rules, which find out what is wrong.

    Unknown fields also send a message through the rules: msgspec would skip their content without checking it.
    """

    schema: Literal["ninjait.metrics.v1"]
    organization_id: str
    device_id: str
    samples: Annotated[list[Sample], msgspec.Meta(min_length=1, max_length=MAX_SAMPLES)]  # type: ignore[valid-type]
    agent_version: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    message_id: str | None = None
