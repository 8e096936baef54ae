"""From the bytes of a message to rows and rejections. Pure: no store, no clock, and no exception for whatever bytes.

accepted + rejected = sent, for every message. Of a JSON object that names a key twice, the last one counts.
"""

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain, compress, repeat
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import msgspec

from ninjait_pipelines.ingest.decode import contract as rules
from ninjait_pipelines.ingest.decode import line_protocol as telegraf
from ninjait_pipelines.ingest.decode.collectd import COLLECTD
from ninjait_pipelines.ingest.decode.contract import CONTRACTS, METRICS, Contract, ContractViolation, Field
from ninjait_pipelines.ingest.decode.forms import form_of
from ninjait_pipelines.ingest.decode.line_protocol import LINE_PROTOCOL
from ninjait_pipelines.ingest.decode.parts import ALL_CORES, Core, mean, memory_total, volume_total, whole_processors
from ninjait_pipelines.ingest.decode.third_party import (
    BYTE_ORDER_MARK,
    MAX_BYTES,
    MAX_ENTRIES,
    MEMORY_TOTAL,
    TOTAL,
    Format,
    Reading,
    Target,
    converted,
    text_of,
    unpacked,
)
from ninjait_pipelines.ingest.decode.volumes import Place
from ninjait_pipelines.messages import JSON, Message, identity
from ninjait_pipelines.metrics.interfaces import LEFT_OUT, is_left_out
from ninjait_pipelines.metrics.model import (
    COUNTERS,
    FIELDS,
    MAX_AGE,
    MAX_CLOCK_SKEW,
    MAX_COUNTER_AGE,
    POINTS,
    VOLUMES,
)

Columns = Mapping[str, Sequence[Any]]  # name -> a value a row
# Python refuses to read longer integers, which are infinite to every store.
_MAX_DIGITS = 4300
_SHOWN = 200
# Of what is left out of one message: pairs of host and measurement that are told apart, and characters of a name.
MAX_LEFT_OUT, _MAX_OF_NAME = 64, 100
OTHERS = "(others)"
# What mends itself once PostgreSQL knows the host.
HOST_REASONS = ("unknown_host", "ambiguous_host")
NOBODY = str(uuid.UUID(int=0))
_UNREADABLE: dict[type, str] = {UnicodeDecodeError: "invalid_utf8", RecursionError: "nested_too_deeply"}
AGENTS = {"telegraf": LINE_PROTOCOL, "collectd": COLLECTD}
_HOST_IN, _LOOKED_THROUGH = re.compile(rb"""\bhost"?[=:]\s?"?([^"\s,=]+)"""), 4096
_LIST_OF_OBJECTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")
# What a message is refused for that cannot be read as what it should be, and the forms that would be no news then.
_NOT_READ = {"invalid_utf8", "not_json", "not_line_protocol", "not_a_list", "not_an_object", "wrong_schema"}
_NOT_READ |= {"unknown_content_type"}
_OUR_FORMS = {"ninjait_json", "json"}
_FORMS = {id(LINE_PROTOCOL): {"line_protocol"}, id(COLLECTD): {"collectd_json", "json"}}
_metrics = msgspec.json.Decoder(rules.Metrics)
_values = msgspec.structs.astuple
_agent_version = partial(rules.text, limit=100)
# Shared by all messages of our own agents: empty ones of their own would make the garbage collector run more often.
_NO_COLUMNS: Columns = MappingProxyType({})
# Asking a schema for its names takes as long as a row.
_GAUGES = tuple(POINTS.names)
_NAMES = (_GAUGES, tuple(COUNTERS.names), tuple(VOLUMES.names))
_GAUGE, _COUNTER, _VOLUME = range(3)
_TIME_IN = tuple(names.index("time") for names in _NAMES)
_CPU = list(FIELDS).index("cpu")
_ID = Field(rules.identifier)
_SAMPLES = Field(rules.samples)
_NAME = Field(rules.name)


class SenderRegistry(msgspec.Struct, frozen=True):
    """Who may send: the organizations, the organization of each device, and the devices of each host name.

    Ids in canonical spelling. `hosts` is for agents that know no ids: host name -> organization -> device; `folded` are
    the same names without upper and lower case, each with all its devices. A routing key without an organization is
    refused unless `hosts_without_organization`: it speaks for every host. `interfaces_left_out` are the patterns of the
    interfaces whose bytes do not count.
    """

    organizations: frozenset[str]
    devices: Mapping[str, str]
    hosts: Mapping[str, Mapping[str, str]] = {}
    hosts_without_organization: bool = False
    interfaces_left_out: Sequence[str] = LEFT_OUT
    folded: Mapping[str, Sequence[tuple[str, str]]] = {}

    def __post_init__(self) -> None:
        folded: dict[str, list[tuple[str, str]]] = {}
        for host, owners in self.hosts.items():
            folded.setdefault(host.casefold(), []).extend(owners.items())
        msgspec.structs.force_setattr(self, "folded", folded)

    def refusal(self, organization: str | None) -> str | None:
        """Why what another agent sends under a key that names this organization, or none, is not to be taken."""
        if organization is None:
            return None if self.hosts_without_organization else "no_organization_in_key"
        return None if organization in self.organizations else "unknown_organization"


class Period(msgspec.Struct, frozen=True):
    """The times that are accepted, in milliseconds since 1970, both included."""

    oldest: int
    newest: int
    oldest_counter: int

    @classmethod
    def at(cls, now: datetime) -> "Period":
        """What the contract accepts at this moment."""
        bounds = (now - MAX_AGE, now + MAX_CLOCK_SKEW, now - MAX_COUNTER_AGE)
        return cls(*map(rules.milliseconds, bounds))

    def check(self, value: Any) -> int:
        """The time of a sample or an event, in milliseconds since 1970. Raises Refused."""
        moment = rules.instant(value)
        if moment > self.newest:
            raise ContractViolation("in_the_future")
        if moment < self.oldest:
            raise ContractViolation("too_old")
        return moment

    def check_counter(self, value: Any) -> int:
        """The time of a reading of counters, likewise."""
        moment = self.check(value)
        if moment < self.oldest_counter:
            raise ContractViolation("counter_too_old")
        return moment


class Rejection(msgspec.Struct, frozen=True):
    """Why a sample or entry (`index`) or a whole message (None) was not taken; `value` is its repr, cut."""

    index: int | None
    field: str | None
    value: str
    reason: str


class LeftOut(msgspec.Struct, gc=False):
    """So many `readings` of another agent of which nothing was taken: of one host and one measurement of a message.

    `example` is the name of one of their values. Ids are NOBODY's where the host is nobody's that is registered.
    """

    organization_id: str
    device_id: str
    host: str
    measurement: str
    example: str = ""
    readings: int = 0


class Decoded(msgspec.Struct, gc=False):
    """What a message holds. `columns` are those of the good points, `counters` those of the good readings of counters,
    `volumes` those of the good readings of volumes; empty where there are none.

    `points` counts the samples of a metrics message and is 1 for an event; 0 where that could not be read. An `index`
    of another agent's message is that of the line or entry, whether or not those before it are points. `rows`,
    `counter_rows` and `volume_rows` say which of them each row of `columns`, `counters` and `volumes` is; empty means
    0, 1, 2 and so on. `agent` is another agent's name, `host` the first one that its message names, and `left_out` what
    was not taken of it.
    """

    message_id: uuid.UUID
    organization_id: str | None = None
    device_id: str | None = None
    agent_version: str | None = None
    points: int = 0
    columns: Columns = {}
    counters: Columns = _NO_COLUMNS
    volumes: Columns = _NO_COLUMNS
    rows: Sequence[int] = ()
    counter_rows: Sequence[int] = ()
    volume_rows: Sequence[int] = ()
    rejections: list[Rejection] = []
    whole: bool = False
    unknown_fields: int = 0
    agent: str = ""
    host: str = ""
    left_out: Sequence[LeftOut] = ()

    @property
    def points_rejected(self) -> int:
        """How many of the points were not taken."""
        return self.points if self.whole else len({rejection.index for rejection in self.rejections})

    @property
    def points_accepted(self) -> int:
        """How many of the points are to be written."""
        return self.points - self.points_rejected


def decode(message: Message, registry: SenderRegistry, period: Period) -> Decoded:
    """The one way in, for every queue and format: what is good of a message, as columns, and what is not, with reasons.

    The body may be any bytes, and the routing key and the content type any text: no exception comes of them. A metrics
    message gives columns as POINTS (and COUNTERS and VOLUMES) name them, time in milliseconds since 1970; an event
    gives one row of the fields of its contract. points_accepted + points_rejected = points, and the columns hold what
    was accepted.
    """
    good = decode_good_metrics(message, registry, period) if message.queue == "agent.metrics" else None
    if good:
        return good
    foreign = format_of(message.queue, message.routing_key, message.content_type, message.body)
    if foreign:
        good = decode_good_lines(message, registry, period) if foreign is LINE_PROTOCOL else None
        return good or decode_foreign(message, foreign, registry, period)
    return decode_by_rules(message, registry, period)


def decode_good_metrics(message: Message, registry: SenderRegistry, period: Period) -> Decoded | None:
    """Decodes a metrics message in which everything is right; None where anything is not, or is unusual."""
    if len(message.body) > rules.MAX_BYTES or not _is_json(message.content_type):
        return None
    try:
        body = _metrics.decode(message.body)
    except (ValueError, RecursionError):
        return None
    organization, device = body.organization_id, body.device_id
    if registry.devices.get(device) != organization or message.routing_key != f"metrics.{organization}":
        return None
    moments, *values = zip(*map(_values, body.samples), strict=True)
    times = rules.all_milliseconds(moments)
    if min(times) < period.oldest or max(times) > period.newest:
        return None
    if None in values[0] and (None,) * len(values) in zip(*values, strict=True):
        return None  # a sample without any known field
    return Decoded(
        message_id=identity(message.queue, message.body, message.message_id, body.message_id),
        organization_id=organization,
        device_id=device,
        agent_version=body.agent_version,
        points=len(times),
        columns=_metric_columns(organization, device, times, values),
    )


def decode_good_lines(message: Message, registry: SenderRegistry, period: Period) -> Decoded | None:
    """Decodes a message of line protocol in which every line is plain and good; None where any is not."""
    try:
        _check_size(message, MAX_BYTES)
        text = telegraf.plain(unpacked(message.body))
        organization = organization_of(message.routing_key)
        if not 0 < text.count("\n") <= MAX_ENTRIES or registry.refusal(organization):
            return None
        found = _PlainLines(text, _Devices(organization, registry), registry.interfaces_left_out)
        columns, indexes = found.tables()
    except ValueError:
        return None
    for part, oldest in zip(columns, (period.oldest, period.oldest_counter, period.oldest_counter), strict=True):
        if part and (min(part["time"]) < oldest or max(part["time"]) > period.newest):
            return None
    decoded = Decoded(message_id=identity(message.queue, message.body, message.message_id))
    _fill(decoded, columns, indexes)
    decoded.organization_id = decoded.organization_id or organization
    decoded.unknown_fields = found.unknown
    decoded.agent, decoded.host = LINE_PROTOCOL.source, found.host
    decoded.left_out = list(found.left_out.values())
    return decoded


def _fill(decoded: Decoded, columns: Sequence[Columns], indexes: Sequence[list[int]]) -> None:
    """Puts the columns of the three tables into it, and whose they are if they are one organization's."""
    decoded.columns, decoded.counters, decoded.volumes = columns
    decoded.rows, decoded.counter_rows, decoded.volume_rows = indexes
    decoded.points = sum(map(len, indexes)) + len(decoded.rejections)
    seen = {one for part in columns if part for one in part["organization_id"]}
    decoded.organization_id = seen.pop() if len(seen) == 1 else None


def _row_of_cores(cores: Sequence[Core]) -> list[Any]:
    """The row of POINTS that all cores of a device make together."""
    values = {"cpu": mean(cores)}
    return [*cores[0].device, cores[0].time, *map(values.get, FIELDS)]


def _index_of(cores: Sequence[Core]) -> int:
    return max(core.index for core in cores)


def decode_by_rules(message: Message, registry: SenderRegistry, period: Period) -> Decoded:
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
    except ContractViolation as refused:
        return _refuse(message, body, _named(refused, message.body, _OUR_FORMS))
    return decoded


def format_of(queue: str, routing_key: str, content_type: str | None, body: bytes) -> Format | None:
    """The format of another agent that this is in, by the routing key, else by the content type; None for our own."""
    if queue != "agent.metrics":
        return None
    agent = AGENTS.get("".join(routing_key.split(".")[1:2]))
    if agent:
        return agent
    kind = (content_type or JSON).partition(";")[0].strip().lower()
    if kind == "text/plain" or kind.startswith("application/vnd.influx"):
        return LINE_PROTOCOL
    return COLLECTD if kind == JSON and _LIST_OF_OBJECTS.match(body) else None


def organization_of(routing_key: str) -> str | None:
    """What the routing key of another agent's message names as its organization, if anything."""
    words = routing_key.split(".")[1:]
    words = words[1:] if words and words[0] in AGENTS else words
    return ".".join(words) if words else None  # a key that ends in a dot names one, which nobody is


def device_of(host: str, organization: str | None, registry: SenderRegistry) -> tuple[str, str]:
    """(organization, device) of a host name, within the organization if one is given. Raises Refused.

    Upper and lower case count only where there are several such names: Windows writes one name in both. Without an
    organization, where that is allowed, the name has to be that of a single device of all: nobody may guess whose
    readings they are.
    """
    if organization is None and not registry.hosts_without_organization:
        raise ContractViolation("no_organization_in_key", "routing_key")
    exact = registry.hosts.get(host, {})
    found = [one for one in exact.items() if organization in (None, one[0])]
    if not found:
        found = [one for one in registry.folded.get(host.casefold(), ()) if organization in (None, one[0])]
    if not found:
        raise ContractViolation("unknown_host", "host")
    if len(found) > 1:
        raise ContractViolation("ambiguous_host", "host")
    return found[0]


def decode_foreign(message: Message, foreign: Format, registry: SenderRegistry, period: Period) -> Decoded:
    """Decodes a message of another agent. A point is an entry that holds a reading, or cannot be read."""
    organization = organization_of(message.routing_key)
    refusal = registry.refusal(organization)
    text = ""
    try:
        _check_size(message, MAX_BYTES)
        text = text_of(message.body)
        entries = foreign.entries(text)
        if refusal:
            raise ContractViolation(refusal, "routing_key")
    except (ContractViolation, UnicodeDecodeError, RecursionError) as error:
        refused = error if isinstance(error, ContractViolation) else ContractViolation(_UNREADABLE[type(error)])
        unpacked = error.object if isinstance(error, UnicodeDecodeError) else text.encode()
        named = _named(refused, unpacked, _FORMS[id(foreign)])
        decoded = _refuse(message, {"routing_key": message.routing_key}, named)
        decoded.host = _host_in(message.body)
    else:
        decoded = Decoded(message_id=identity(message.queue, message.body, message.message_id))
        _decode_entries(entries, foreign, organization, decoded, registry, period)
    decoded.agent = foreign.source
    decoded.organization_id = decoded.organization_id or (None if refusal else organization)
    return decoded


def _named(refused: ContractViolation, body: bytes, expected: Collection[str]) -> ContractViolation:
    """The reason of a message that cannot be read: the form that it is in, where that is none of those expected."""
    form = form_of(body) if str(refused) in _NOT_READ else None
    return ContractViolation(form, refused.field) if form and form not in expected else refused


def decode_nothing(message: Message, reason: str, words: str = "") -> Decoded:
    """A message that is not to be taken, for a reason that lies outside it; who sent it is read where it can be.

    `words` is what somebody else says of it: beside the reason, which stays one however many words there are.
    """
    try:
        decoded = _refuse(message, _load(message), ContractViolation(reason))
    except ContractViolation:
        decoded = _refuse(message, None, ContractViolation(reason))
    if words:
        decoded.rejections = [Rejection(None, None, words[:_SHOWN], reason)]
    return decoded


def _load(message: Message) -> dict[str, Any]:
    """The body as a dict. NaN and 1e999 are values in it, so that they cost their sample and not the message."""
    _check_size(message)
    if not _is_json(message.content_type):
        raise ContractViolation("unknown_content_type")
    try:
        body = read_json(message.body)
    except (ValueError, RecursionError) as error:
        raise ContractViolation(_UNREADABLE.get(type(error), "not_json")) from None
    if not isinstance(body, dict):
        raise ContractViolation("not_an_object")
    return body


def _check_size(message: Message, limit: int = rules.MAX_BYTES) -> None:
    if len(message.body) > limit:
        raise ContractViolation("too_large")


def _is_json(content_type: str | None) -> bool:
    return content_type == JSON or not content_type or content_type.partition(";")[0].strip().lower() == JSON


def read_json(body: bytes) -> Any:
    """JSON as widely as Python reads it, with integers of any length. Raises ValueError or RecursionError."""
    body = body.removeprefix(BYTE_ORDER_MARK)
    try:
        return msgspec.json.decode(body)  # four times as fast, but for strict JSON only
    except ValueError:
        return json.loads(body.decode(), parse_int=_integer)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _refuse(message: Message, body: dict[str, Any] | None, refused: ContractViolation) -> Decoded:
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
    except ContractViolation:
        return None


def _check_envelope(
    message: Message, body: dict[str, Any], contract: Contract, decoded: Decoded, registry: SenderRegistry
) -> None:
    """Raises Refused for a message that must not be taken at all, whatever its points are like."""
    if body.get("schema") != contract.schema:
        raise ContractViolation("wrong_schema", "schema")
    organization = _value("organization_id", _ID, body)
    if organization not in registry.organizations:
        raise ContractViolation("unknown_organization", "organization_id")
    device = _value("device_id", contract.device, body) if contract.device else None
    if device:
        if device not in registry.devices:
            raise ContractViolation("unknown_device", "device_id")
        if registry.devices[device] != organization:
            raise ContractViolation("device_of_another_organization", "device_id")
    routed_by = organization if contract.routed_by == "organization_id" else body.get(contract.routed_by)
    if message.routing_key != f"{contract.topic}.{routed_by}":
        raise ContractViolation("not_of_its_routing_key", contract.routed_by)
    if contract is METRICS:
        _value("samples", _SAMPLES, body)


def _value(name: str, field: Field, body: Mapping[str, Any]) -> Any:
    """The field's value by its rule; None where it may be absent, and is. Raises Refused, with the field."""
    value = body.get(name)
    if value is None:
        if field.required:
            raise ContractViolation("missing", name)
        return None
    try:
        return field.rule(value)
    except ContractViolation as refused:
        raise ContractViolation(str(refused), name) from None


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
            decoded.unknown_fields += len(sample.keys() - fields.keys())
    if decoded.rejections:
        decoded.rows = taken
    if rows and decoded.organization_id and decoded.device_id:
        times, *values = zip(*rows, strict=True)
        decoded.columns = _metric_columns(decoded.organization_id, decoded.device_id, list(times), values)


def _decode_sample(sample: Any, fields: Mapping[str, Field]) -> tuple[list[Any], list[ContractViolation]]:
    """(the values of the fields, all that is wrong) of one sample."""
    if not isinstance(sample, dict):
        return [], [ContractViolation("not_an_object")]
    row: list[Any] = []
    problems: list[ContractViolation] = []
    for name, field in fields.items():
        try:
            row.append(_value(name, field, sample))
        except ContractViolation as refused:
            problems.append(refused)
    if not problems and row.count(None) == len(FIELDS):
        problems.append(ContractViolation("no_known_field"))
    return row, problems


def _metric_columns(organization: str, device: str, times: list[int], values: Any) -> Columns:
    count = len(times)
    return dict(zip(_GAUGES, ((organization,) * count, (device,) * count, times, *values), strict=True))


def _decode_entries(
    entries: Sequence[Any],
    foreign: Format,
    organization: str | None,
    decoded: Decoded,
    registry: SenderRegistry,
    period: Period,
) -> None:
    found = _Found(foreign.source, _Devices(organization, registry), period, registry.interfaces_left_out)
    rejections: list[Rejection] = []
    for index, entry in enumerate(entries):
        reading = None
        try:
            reading = foreign.read(entry)
            found.add(index, reading)
        except ContractViolation as refused:
            rejections.append(_foreign_rejection(index, refused, foreign.shown(entry), reading))
    for index, reading in found.lone_cores():
        try:
            found.add_core(index, reading)
        except ContractViolation as refused:
            rejections.append(_foreign_rejection(index, refused, foreign.shown(entries[index]), reading))
    found.finish(len(entries))
    decoded.rejections = sorted(rejections, key=lambda one: one.index or 0)
    decoded.unknown_fields, decoded.host, decoded.left_out = found.unknown, found.host, list(found.left_out.values())
    _fill(decoded, [_columns(names, rows) for names, rows in zip(_NAMES, found.tables, strict=True)], found.indexes)


class _Found:
    """What is found in the entries of a message, one after the other: the rows of the three tables."""

    def __init__(self, source: str, devices: "_Devices", period: Period, interfaces_left_out: Sequence[str]) -> None:
        self._source, self._devices, self._period = source, devices, period
        self._interfaces_left_out = interfaces_left_out
        self.tables: tuple[list[list[Any]], ...] = ([], [], [])
        self.indexes: tuple[list[int], ...] = ([], [], [])
        self.unknown = 0
        self.host = ""  # the first one
        self.left_out = _LeftOut(devices)
        self._cores: list[tuple[int, Reading]] = []
        self._whole: set[str] = set()  # hosts that say what all their cores do together
        self._made: dict[int, Core] = {}
        # By host, instant and place: the states that may make a total, and the row that it is for.
        self._states: dict[tuple[Any, ...], list[Reading]] = defaultdict(list)
        self._rows: dict[tuple[Any, ...], list[Any]] = {}

    def add(self, index: int, reading: Reading) -> None:
        """Takes a reading. Raises Refused, with the field."""
        self.unknown += reading.unknown
        if not self.host and isinstance(reading.host, str):
            self.host = _cut(reading.host)
        if reading.core == ALL_CORES:
            self._whole.add(_folded(reading.host))
        elif reading.core is not None:
            self._cores.append((index, reading))
            return
        if reading.interface is not None and _is_left_out(reading.interface, self._interfaces_left_out):
            self._leave_out(reading)
        elif reading.values:
            self._add_row(index, reading)
        elif reading.state is not None:
            self._states[_key(reading)].append(reading)
        elif reading.unknown:
            self.left_out.add(reading, reading.example)

    def _leave_out(self, reading: Reading) -> None:
        self.unknown += len(reading.values)
        self.left_out.add(reading, reading.example)

    def _add_row(self, index: int, reading: Reading) -> None:
        row, table = _row(reading, self._source, self._devices, self._period), _table_of(reading)
        if reading.state is not None:
            self._states[_key(reading)].append(reading)
            if self._is_put_into_another(reading, row):
                return
        self.tables[table].append(row)
        self.indexes[table].append(index)

    def _is_put_into_another(self, reading: Reading, row: list[Any]) -> bool:
        """Whether the volume's row of this instant, which another value list began, has the value now."""
        first = self._rows.setdefault(_key(reading), row)
        if first is row or reading.place is None:
            return False
        at = _NAMES[_VOLUME].index(reading.values[0][0].field)
        if first[at] is not None:
            return False
        first[at] = row[at]
        return True

    def lone_cores(self) -> Iterator[tuple[int, Reading]]:
        """The readings of cores of the hosts that say nothing of all of them together."""
        self.unknown += sum(len(one.values) for _, one in self._cores if _folded(one.host) in self._whole)
        self._cores = [one for one in self._cores if _folded(one[1].host) not in self._whole]
        yield from (one for one in self._cores if one[1].values)

    def add_core(self, index: int, reading: Reading) -> None:
        """Takes what one core says. Raises Refused, with the field."""
        organization, device, time, *values = _row(reading, self._source, self._devices, self._period)
        self._made[index] = Core(index, (organization, device), time, reading.core or (), values[_CPU])

    def finish(self, entries: int) -> None:
        """Adds what several entries of the message make together, of which there were so many."""
        # Of what is refused one core has no value, and the mean of the others would be another number.
        refused = {_key(one) for index, one in self._cores if one.values and index not in self._made}
        known = [self._made[index] for index, one in self._cores if index in self._made and _key(one) not in refused]
        wholes = whole_processors(known, entries)
        for whole in wholes:
            self.tables[_GAUGE].append(_row_of_cores(whole))
            self.indexes[_GAUGE].append(_index_of(whole))
        taken = {core.index for whole in wholes for core in whole}
        for index, reading in self._cores:
            if index not in taken and (index in self._made or not reading.values):
                self._leave_out(reading)
        for key, states in self._states.items():
            alone = [one for one in states if not one.values]
            if _add_total(self._rows.get(key), states):
                self.unknown -= len(alone)
            else:
                for one in alone:
                    self.left_out.add(one, one.example)


def _add_total(row: list[Any] | None, states: Sequence[Reading]) -> bool:
    """Puts the total of the states into the row, and says whether they make one."""
    amounts = dict(one.state for one in states if one.state)
    is_volume = states[0].place is not None
    total, target = (volume_total(amounts), TOTAL) if is_volume else (memory_total(amounts), MEMORY_TOTAL)
    if row is None or total is None:
        return False
    try:
        row[_NAMES[_table_of(states[0])].index(target.field)] = target.convert(total)
    except ContractViolation:  # beyond any memory or disk
        return False
    return True


def _folded(host: Any) -> str:
    return host.casefold() if isinstance(host, str) else repr(host)


def _key(reading: Reading) -> tuple[Any, ...]:
    return _folded(reading.host), reading.time, reading.place


def _is_left_out(interface: Any, patterns: Sequence[str]) -> bool:
    return isinstance(interface, str) and is_left_out(interface, patterns)


def _table_of(reading: Reading) -> int:
    return _COUNTER if reading.interface is not None else _GAUGE if reading.place is None else _VOLUME


class _Devices(dict[str, tuple[str, str]]):
    """(organization, device) of each host of a message, looked up once. Raises Refused, with the field."""

    def __init__(self, organization: str | None, registry: SenderRegistry) -> None:
        self._organization, self._registry = organization, registry

    def __missing__(self, host: str) -> tuple[str, str]:
        found = device_of(_value("host", _NAME, {"host": host}), self._organization, self._registry)
        self[host] = found
        return found


class _LeftOut(dict[tuple[str | None, str], LeftOut]):
    """What is left out of a message, by host and measurement.

    A sender may invent a name for each line: beyond the bound they count together, by host while there is room for it.
    """

    def __init__(self, devices: _Devices) -> None:
        self._devices = devices
        self._owners: dict[str | None, tuple[str, str]] = {}

    def __missing__(self, key: tuple[str | None, str]) -> LeftOut:
        host, measurement = key
        if len(self) >= MAX_LEFT_OUT:
            if measurement is not OTHERS:
                return self[host, OTHERS]
            if len(self) >= 2 * MAX_LEFT_OUT and host is not OTHERS:
                return self[OTHERS, OTHERS]
        owner = self._owners.get(host) or self._find(host)
        self[key] = one = LeftOut(*owner, host[:_MAX_OF_NAME] if host else "", measurement[:_MAX_OF_NAME])
        return one

    def _find(self, host: str | None) -> tuple[str, str]:
        try:
            owner = self._devices[host or ""]
        except ContractViolation:
            owner = NOBODY, NOBODY
        self._owners[host] = owner
        return owner

    def add(self, reading: Reading | telegraf.Series, example: str, readings: int = 1) -> None:
        """Counts a reading, or several that are like it."""
        one = self[reading.host if isinstance(reading.host, str) else None, reading.measurement]
        one.readings += readings
        one.example = one.example or _cut(example)


class _LinesOfKey(msgspec.Struct, gc=False):
    """The lines of a plain text that have one key: the number of each, where its key ends, where its fields do.

    A row of theirs is `start` with its time and values; where that is empty nothing is taken of them. known: name after
    a comma, place in the row, rule.
    """

    series: telegraf.Series
    lines: list[telegraf.PlainLine]
    start: Sequence[Any] = ()
    table: int = _GAUGE
    known: Sequence[tuple[str, int, rules.Rule]] = ()

    def columns(self, text: str) -> tuple[list[list[Any]], list[int]]:
        """The columns of all these lines, and how many values of each are taken. Raises ValueError."""
        _, spaces, ends = zip(*self.lines, strict=True)
        columns = [[value] * len(ends) for value in self.start]
        columns[_TIME_IN[self.table]] = telegraf.times_at(text, ends)
        taken = [0] * len(ends)
        for name, place, rule in self.known:
            texts = telegraf.values_at(text, name, spaces, ends)
            if all(texts):
                columns[place] = converted(rule, texts)
                taken = [values + 1 for values in taken]
            elif any(texts):
                places = [at for at, found in enumerate(texts) if found]
                for at, value in zip(places, converted(rule, list(filter(None, texts))), strict=True):
                    columns[place][at] = value
                    taken[at] += 1
        if self.series.derived and min(taken) < len(self.known):
            taken = [values + self._derive(columns, at, text, values) for at, values in enumerate(taken)]
        return columns, taken

    def _derive(self, columns: Sequence[list[Any]], at: int, text: str, taken: int) -> int:
        """Adds to a row what follows from several fields of its line, and returns how many of them it is the only use
        of. Raises ValueError."""
        if taken == len(self.known):
            return 0

        def number(name: str) -> float | None:
            _, space, end = self.lines[at]
            found = telegraf.values_at(text, name, [space], [end])[0]
            return telegraf.number_of(found) if found else None

        names = _NAMES[self.table]
        there = {name for name, column in zip(names, columns, strict=True) if column[at] is not None}
        used: set[str] = set()
        for target, value, sources in telegraf.derived(self.series, there, number):
            columns[names.index(target.field)][at] = target.convert(value)
            used.update(sources)
        return len(used - {name for name, _ in self.series.known})


_Part = list[list[Any]]  # the lines that the rows are of, then their columns


@lru_cache(maxsize=64)
def _places_of(known: Sequence[tuple[str, Target]], names: Sequence[str]) -> Sequence[tuple[str, int, rules.Rule]]:
    return [(name, names.index(target.field), target.convert) for name, target in known]


class _PlainLines:
    """The lines of a plain text by their keys. Raises ContractViolation for a key that is not good."""

    def __init__(self, text: str, devices: "_Devices", interfaces_left_out: Sequence[str]) -> None:
        self._text = text
        self._devices = devices
        self._interfaces_left_out = interfaces_left_out
        self._whole: set[str] = set()
        self.host = ""  # the first one
        self.left_out = _LeftOut(devices)
        keys = telegraf.lines_by_key(text)
        self.unknown = text.count("=") - sum(key.count("=") * len(lines) for key, lines in keys.items())
        self._keys = [self._of_key(telegraf.series(key), lines) for key, lines in keys.items()]

    def _of_key(self, series: telegraf.Series, lines: list[telegraf.PlainLine]) -> _LinesOfKey:
        if not self.host and series.host:
            self.host = _cut(series.host)
        return self._taken(series, lines) if self._is_taken(series) else _LinesOfKey(series, lines)

    def _is_taken(self, series: telegraf.Series) -> bool:
        if series.interface is not None and is_left_out(series.interface, self._interfaces_left_out):
            return False
        return bool(series.known or series.derived)

    def _taken(self, series: telegraf.Series, lines: list[telegraf.PlainLine]) -> _LinesOfKey:
        if series.core == ALL_CORES:
            self._whole.add(_folded(series.host))
        table = _COUNTER if series.interface is not None else _GAUGE if series.place is None else _VOLUME
        start: list[Any] = [*self._device(series)]
        if series.interface is not None:
            start += [series.source, rules.name(series.interface)]
        if series.place is not None:
            start += [series.source, *_names_of(series.place)]
        names = _NAMES[table]
        start += [None] * (len(names) - len(start))
        known = _places_of(series.known, names)
        return _LinesOfKey(series, lines, start, table, known)

    def _device(self, series: telegraf.Series) -> tuple[str, str]:
        return self._devices[_value("host", _NAME, {"host": series.host})]

    def tables(self) -> tuple[list[Columns], list[list[int]]]:
        """The columns of the three tables, and which line each row is: in the order of the lines, but for what single
        cores make together, which stands behind. Raises ValueError."""
        parts: tuple[list[_Part], ...] = ([], [], [])
        left_out: list[tuple[telegraf.PlainLine, telegraf.Series, int]] = []  # a line, and how many are like it
        for of in self._keys:
            if not of.start:
                left_out.append((of.lines[0], of.series, len(of.lines)))
            elif not of.series.core:
                columns, taken = of.columns(self._text)
                self.unknown -= sum(taken)
                part = [[number for number, _, _ in of.lines], *columns]
                if 0 in taken:
                    left_out += [(of.lines[at], of.series, 1) for at, values in enumerate(taken) if not values]
                    part = [list(compress(column, taken)) for column in part]
                parts[of.table].append(part)
        for line, series, readings in sorted(left_out, key=itemgetter(0)):
            self.left_out.add(series, telegraf.first_name(self._text, line), readings)
        found = [_in_order(names, of_table) for names, of_table in zip(_NAMES, parts, strict=True)]
        for whole in self._processors():
            for column, value in zip(found[_GAUGE], (_index_of(whole), *_row_of_cores(whole)), strict=True):
                column.append(value)
        tables: list[Columns] = [
            dict(zip(names, columns, strict=True)) if lines else {}
            for names, (lines, *columns) in zip(_NAMES, found, strict=True)
        ]
        return tables, [lines for lines, *_ in found]

    def _processors(self) -> list[list[Core]]:
        """The cores that make wholes; what makes none is left out. Raises ValueError."""
        found: list[tuple[telegraf.PlainLine, telegraf.Series, int, float | None, int]] = []
        for of in self._keys:
            if of.series.core and _folded(of.series.host) not in self._whole:
                columns, taken = of.columns(self._text)
                times, busy = (columns[_GAUGES.index(name)] for name in ("time", "cpu"))
                found += zip(of.lines, repeat(of.series), times, busy, taken, strict=False)
        found.sort(key=itemgetter(0))
        cores = [
            Core(line[0], self._device(series), time, series.core or (), busy)
            for line, series, time, busy, _ in found
            if busy is not None
        ]
        wholes = whole_processors(cores, self._text.count("\n"))
        made = {core.index for whole in wholes for core in whole}
        for line, series, _, _, values in found:
            if line[0] in made:
                self.unknown -= values
            else:
                self.left_out.add(series, telegraf.first_name(self._text, line))
        return wholes


def _in_order(names: Sequence[str], parts: Sequence[_Part]) -> _Part:
    """The rows of all parts, in the order of their lines."""
    parts = [part for part in parts if part[0]]
    if len(parts) < 2:
        return parts[0] if parts else [[] for _ in ("line", *names)]
    together = [list(chain.from_iterable(columns)) for columns in zip(*parts, strict=True)]
    lines = together[0]
    order = itemgetter(*sorted(range(len(lines)), key=lines.__getitem__))
    return [column if column.count(None) == len(column) else list(order(column)) for column in together]


def _names_of(place: Place) -> tuple[str, str]:
    """Disk and volume, as they are stored. Raises Refused."""
    return rules.name(place.disk) if place.disk else "", rules.name(place.volume)


def _row(reading: Reading, source: str, devices: _Devices, period: Period) -> list[Any]:
    """A row of POINTS, of COUNTERS where the reading is of an interface, of VOLUMES where it is of a volume.

    Raises Refused, with the field.
    """
    host, time, interface = reading.host, reading.time, reading.interface
    organization, device = devices[host] if isinstance(host, str) else devices.__missing__(host)
    if time is None:
        raise ContractViolation("no_time", "time")
    values: dict[str, float] = {}
    field = "time"
    try:
        for target, value in reading.values:
            field = target.field
            values[field] = target.convert(value)
        where: list[str] = []
        if interface is not None:
            field = "interface"
            where = [reading.source or source, rules.name(interface)]
        if reading.place is not None:
            field = "volume"
            where = [source, *_names_of(reading.place)]
        field = "time"
        time = period.check_counter(time) if where else period.check(time)
    except ContractViolation as refused:
        raise ContractViolation(str(refused), field) from None
    return [organization, device, *where, time, *map(values.get, _NAMES[_table_of(reading)][3 + len(where) :])]


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}


def _foreign_rejection(index: int, refused: ContractViolation, entry: Any, reading: Reading | None) -> Rejection:
    """A host that may be registered later is kept whole: what is held for it is found by its name."""
    rejection = _rejection(index, refused, reading.shown() if reading else entry)
    if reading and str(refused) in HOST_REASONS:
        return msgspec.structs.replace(rejection, value=repr(reading.host))
    return rejection


def _decode_event(body: dict[str, Any], contract: Contract, decoded: Decoded, period: Period) -> None:
    """An event is one row: a field that is wrong costs the whole of it."""
    row: dict[str, Any] = {"organization_id": decoded.organization_id}
    if contract.device:
        row["device_id"] = decoded.device_id
    for name, field in {"timestamp": Field(period.check), **contract.fields}.items():
        row[name] = _value(name, field, body)
    row["message_id"] = str(decoded.message_id)
    decoded.columns = {name: [value] for name, value in row.items()}


def _rejection(index: int | None, refused: ContractViolation, of: Any) -> Rejection:
    """`of` is the object that has the field, or all that was refused."""
    return Rejection(index, refused.field, _shown(of.get(refused.field) if refused.field else of), str(refused))


def _host_in(body: bytes) -> str:
    """A host's name in what cannot be read: good enough to tell one broken sender from another, and for no more."""
    found = _HOST_IN.search(body[:_LOOKED_THROUGH])
    return _cut(found[1].decode(errors="replace")) if found else ""


def _cut(name: str) -> str:
    return name[:_MAX_OF_NAME]


def _shown(value: Any) -> str:
    try:
        return repr(value)[:_SHOWN]
    except RecursionError:
        return "nested too deeply to be shown"
