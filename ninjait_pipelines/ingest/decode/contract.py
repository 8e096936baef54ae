"""The event contracts, version 1: what the messages of each queue look like, field by field. Nothing here reads one.

A rule takes a JSON value and returns what is stored, or raises Refused with the reason. The rules are the contract;
the msgspec struct at the end says the same of a metrics message once more, so that a perfectly good one is decoded
without running them.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import bson
import msgspec
from bson.errors import BSONError

from ninjait_pipelines.metrics.model import FIELDS

MAX_BYTES = 1024 * 1024
MAX_SAMPLES = 1000
MAX_DOCUMENT_DEPTH = 20
# Beyond any real reading (a disk of an exabyte), and small enough that no sum of samples becomes infinite.
MAX_NUMBER = 1e15
# Counters have 64 bits. The stores keep them as floats, which have every whole number up to 2^53 (9 PB) and beyond it
# those in steps of 2 to 2,048 bytes: so far may one reading be off, and no sum of increases by more than that.
MAX_COUNTER = 2.0**64

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECIMAL = re.compile(r"-?\d{1,12}(\.\d{1,6})?", re.ASCII)
# What subtracting and averaging may lose or gain of a percentage: Telegraf's usage_idle misses 0 by up to 0.4.
_PERCENT_BEYOND = 1
# Control characters (newlines, tabs, NUL), and the separators that end a line elsewhere.
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class ContractViolation(ValueError):
    """A value, or a message for one of its fields, that the contract does not allow; its text is the reason, a slug."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.field = field


Rule = Callable[[Any], Any]


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970, rounded down."""
    return all_milliseconds((moment,))[0]


def all_milliseconds(moments: Iterable[datetime | int]) -> list[int]:
    """The same of many; integers are milliseconds already. Dividing by a timedelta would take twice as long."""
    return [
        moment
        if isinstance(moment, int)
        else (since := moment - _EPOCH).days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
        for moment in moments
    ]


def instant(value: Any) -> int:
    """Milliseconds since 1970, of RFC 3339 text with a zone or of such an integer."""
    if type(value) is int:
        return value
    if not isinstance(value, str):
        raise ContractViolation("not_a_time")
    try:
        moment = msgspec.convert(value, datetime)
    except ValueError:  # also for half of a surrogate pair
        raise ContractViolation("not_a_time") from None
    if moment.tzinfo is None:
        raise ContractViolation("no_time_zone")
    return milliseconds(moment)


def number(value: Any, limit: float = MAX_NUMBER, beyond: str = "out_of_range") -> float:
    """A finite number from 0 to `most`. True is not a number, and neither is text."""
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
    """A number from 0 to 100; one that is beyond by up to a point is 0 or 100, which is what it is meant to say."""
    if type(value) in (float, int) and (-_PERCENT_BEYOND <= value < 0 or 100 < value <= 100 + _PERCENT_BEYOND):
        return 0.0 if value < 0 else 100.0
    return number(value, 100, "above_100")


def counter(value: Any) -> float:
    """A counter of bytes. It has no fractions: where there are some, somebody sends rates in its place."""
    if not (counted := number(value, MAX_COUNTER)).is_integer():
        raise ContractViolation("not_an_integer")
    return counted


def whole(value: Any, least: int, limit: int) -> int:
    """An integer within its bounds, both included."""
    if number(value, limit) < least:
        raise ContractViolation("out_of_range")
    if not isinstance(value, int):
        raise ContractViolation("not_an_integer")
    return value


def text(value: Any, limit: int, least: int = 1) -> str:
    """Text of so many characters."""
    if not isinstance(value, str):
        raise ContractViolation("not_text")
    if not least <= len(value) <= limit:
        raise ContractViolation("too_long" if value else "empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: no store takes it
        raise ContractViolation("invalid_text") from None
    return value


def name(value: Any) -> str:
    """The name of a host, an interface or a volume: one line of up to 255 characters, whatever its script."""
    if _NOT_IN_A_NAME.search(text(value, 255)):
        raise ContractViolation("invalid_text")
    return str(value)


def choice(value: Any, allowed: tuple[str, ...]) -> str:
    """One of these words."""
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
    """A decimal as text, so that no floating point comes near it: 12 digits before the point, 6 after it at most."""
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
    """The samples of a message, as far as their number."""
    if not isinstance(value, list):
        raise ContractViolation("not_a_list")
    if not value:
        raise ContractViolation("no_samples")
    if len(value) > MAX_SAMPLES:
        raise ContractViolation("too_many_samples")
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
    """What one queue carries; `device` where it is of a device.

    The routing key is `<topic>.<value of the field routed_by>`. A body that carries another value there is refused:
    brokers give rights by routing key, so it could speak for an organization that its sender is not.
    """

    topic: str
    fields: Mapping[str, Field]
    routed_by: str = "organization_id"
    device: Field | None = None

    @property
    def schema(self) -> str:
        """What the body says of itself."""
        return f"ninjait.{self.topic}.v1"


_DEVICE = Field(identifier)
METRIC_RULES = {name: percent if name == "cpu" else number for name in FIELDS}
METRICS = Contract("metrics", {name: Field(rule, False) for name, rule in METRIC_RULES.items()}, device=_DEVICE)
HEARTBEATS = Contract(
    "heartbeat",
    {
        "status": Field(partial(choice, allowed=("online", "offline", "maintenance"))),
        "agent_version": Field(partial(text, limit=100)),
        "os_version": Field(partial(text, limit=200)),
        "uptime_seconds": Field(partial(whole, least=0, limit=2**53), required=False),
    },
    device=_DEVICE,
)
API_CALLS = Contract(
    "api_call",
    {
        "endpoint": Field(partial(text, limit=500)),
        "method": Field(partial(text, limit=20)),
        "status_code": Field(partial(whole, least=100, limit=599)),
        "response_time_ms": Field(number),
        "user_id": Field(identifier, required=False),
    },
)
USAGE = Contract("usage", {"storage_gb": Field(decimal_text), "backup_gb": Field(decimal_text)})
LOGS = Contract(
    "log",
    {
        "level": Field(partial(choice, allowed=("debug", "info", "warning", "error", "critical"))),
        "service": Field(partial(text, limit=200)),
        "message": Field(partial(text, limit=100_000, least=0)),
        "error": Field(document, required=False),
    },
    routed_by="level",
    device=Field(identifier, required=False),
)
CONTRACTS: Mapping[str, Contract] = {
    "agent.metrics": METRICS,
    "agent.heartbeats": HEARTBEATS,
    "platform.api_calls": API_CALLS,
    "platform.usage": USAGE,
    "platform.logs": LOGS,
}


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
    """A metrics message without a fault or a surprise. What does not fit is looked at by the rules, which know why.

    Fields that it does not name send a message to the rules as well: msgspec would skip their content unread.
    """

    schema: Literal["ninjait.metrics.v1"]
    organization_id: str
    device_id: str
    samples: Annotated[list[Sample], msgspec.Meta(min_length=1, max_length=MAX_SAMPLES)]  # type: ignore[valid-type]
    agent_version: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] | None = None
    message_id: str | None = None
