"""What the decoder takes and gives: who may send, which times are accepted, and a decoded message. Pure values."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import msgspec

from ninjait_pipelines.contract import ContractViolation, instant, milliseconds
from ninjait_pipelines.metrics.interfaces import LEFT_OUT
from ninjait_pipelines.metrics.model import MAX_AGE, MAX_CLOCK_SKEW, MAX_COUNTER_AGE

Columns = Mapping[str, Sequence[Any]]  # name -> one value per row
# The organization and device of readings whose host is not registered.
NOBODY = str(uuid.UUID(int=0))
# Rejections that resolve themselves once PostgreSQL knows the host.
HOST_REASONS = ("unknown_host", "ambiguous_host")
# One for all messages of our own agents: a new dict in each of them would trigger the garbage collector more often.
_NO_COLUMNS: Columns = MappingProxyType({})


class SenderRegistry(msgspec.Struct, frozen=True):
    """Who may send: the organizations, the organization of each device, and the devices behind each host name.

    Ids are in canonical spelling. `hosts` serves agents that know no ids: host name -> organization -> device. `folded`
    has the same names regardless of case, each with all its devices. A routing key without an organization is rejected
    unless `hosts_without_organization`, because it could speak for any host. `interfaces_left_out` are the patterns of
    the interfaces whose bytes do not count.
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
        """Why third-party messages whose routing key names this organization (or none) are rejected; None if not."""
        if organization is None:
            return None if self.hosts_without_organization else "no_organization_in_key"
        return None if organization in self.organizations else "unknown_organization"


class Period(msgspec.Struct, frozen=True):
    """The accepted times, in milliseconds since 1970, both ends included."""

    oldest: int
    newest: int
    oldest_counter: int

    @classmethod
    def at(cls, now: datetime) -> "Period":
        """The times that are accepted at this moment."""
        bounds = (now - MAX_AGE, now + MAX_CLOCK_SKEW, now - MAX_COUNTER_AGE)
        return cls(*map(milliseconds, bounds))

    def check(self, value: Any) -> int:
        """The time of a sample or event, in milliseconds since 1970. Raises ContractViolation."""
        moment = instant(value)
        if moment > self.newest:
            raise ContractViolation("in_the_future")
        if moment < self.oldest:
            raise ContractViolation("too_old")
        return moment

    def check_counter(self, value: Any) -> int:
        """The time of a reading of counters or of a volume, likewise."""
        moment = self.check(value)
        if moment < self.oldest_counter:
            raise ContractViolation("counter_too_old")
        return moment


class Rejection(msgspec.Struct, frozen=True):
    """Why a sample or entry (at `index`) or the whole message (None) was rejected; `value` is its repr, shortened."""

    index: int | None
    field: str | None
    value: str
    reason: str


class LeftOut(msgspec.Struct, gc=False):
    """How many `readings` of one host and measurement of a third-party message had nothing that is stored.

    `example` is the name of one of their values. The ids are NOBODY if the host is not registered.
    """

    organization_id: str
    device_id: str
    host: str
    measurement: str
    example: str = ""
    readings: int = 0


class Decoded(msgspec.Struct, gc=False):
    """A decoded message: accepted rows as `columns` (gauges or events), `counters` and `volumes`; and `rejections`.

    `points` counts the samples of a metrics message, and is 1 for an event and 0 for an unreadable message. `rows`,
    `counter_rows` and `volume_rows` map each row of the columns to the index of its sample, line or entry; empty means
    0, 1, 2, ... Indexes count all lines or entries, also those that are no points. `whole`: the message was rejected as
    a whole. `agent` names a third-party agent, `host` is the first host in its message, `left_out` what was not stored.
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
        """The number of points that were rejected."""
        return self.points if self.whole else len({rejection.index for rejection in self.rejections})

    @property
    def points_accepted(self) -> int:
        """The number of points to be written."""
        return self.points - self.points_rejected
