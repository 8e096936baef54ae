"""The devices behind the host names of a third-party message, and what of their readings is left out."""

import re
from typing import Any

from ninjait_pipelines.contract import ContractViolation, Field, field_value, name
from ninjait_pipelines.ingest.decode.model import NOBODY, LeftOut, SenderRegistry
from ninjait_pipelines.ingest.decode.telegraf import Series
from ninjait_pipelines.ingest.decode.third_party import Reading

# Limits per message: how many pairs of host and measurement are counted separately, and characters of a name.
MAX_LEFT_OUT, _MAX_NAME = 64, 100
OTHERS = "(others)"
_HOST = Field(name)
_HOST_IN, _SEARCHED_BYTES = re.compile(rb"""\bhost"?[=:]\s?"?([^"\s,=]+)"""), 4096


def device_of(host: str, organization: str | None, registry: SenderRegistry) -> tuple[str, str]:
    """(organization, device) of a host name, within the organization if one is given. Raises ContractViolation.

    Case matters only if several names differ by nothing else: Windows spells one name both ways. Without an
    organization, where that is allowed, the name must belong to a single device of all organizations.
    """
    if organization is None and not registry.hosts_without_organization:
        raise ContractViolation("no_organization_in_key", "routing_key")
    exact = registry.hosts.get(host, {})
    devices = [owner for owner in exact.items() if organization in (None, owner[0])]
    if not devices:
        devices = [owner for owner in registry.folded.get(host.casefold(), ()) if organization in (None, owner[0])]
    if not devices:
        raise ContractViolation("unknown_host", "host")
    if len(devices) > 1:
        raise ContractViolation("ambiguous_host", "host")
    return devices[0]


class Devices(dict[str, tuple[str, str]]):
    """(organization, device) of each host of a message, looked up once. Raises ContractViolation, with the field."""

    def __init__(self, organization: str | None, registry: SenderRegistry) -> None:
        self._organization, self._registry = organization, registry

    def __missing__(self, host: str) -> tuple[str, str]:
        self[host] = device = device_of(field_value("host", _HOST, {"host": host}), self._organization, self._registry)
        return device


class LeftOutCounts(dict[tuple[str | None, str], LeftOut]):
    """What is left out of a message, by host and measurement.

    A sender could invent a name per line: beyond MAX_LEFT_OUT they are counted together, per host while that is below
    twice the limit.
    """

    def __init__(self, devices: Devices) -> None:
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
        self[key] = counts = LeftOut(*owner, shortened(host or ""), shortened(measurement))
        return counts

    def _find(self, host: str | None) -> tuple[str, str]:
        try:
            owner = self._devices[host or ""]
        except ContractViolation:
            owner = NOBODY, NOBODY
        self._owners[host] = owner
        return owner

    def add(self, reading: Reading | Series, example: str, readings: int = 1) -> None:
        """Counts a reading, or several like it."""
        counts = self[reading.host if isinstance(reading.host, str) else None, reading.measurement]
        counts.readings += readings
        counts.example = counts.example or shortened(example)


def folded(host: Any) -> str:
    """The host for comparisons that ignore case."""
    return host.casefold() if isinstance(host, str) else repr(host)


def host_in(body: bytes) -> str:
    """A host name in an unreadable body: only good enough to tell one broken sender from another."""
    match = _HOST_IN.search(body[:_SEARCHED_BYTES])
    return shortened(match[1].decode(errors="replace")) if match else ""


def shortened(text: str) -> str:
    """A name with as many characters as are kept of it."""
    return text[:_MAX_NAME]
