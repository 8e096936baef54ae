"""A fleet to simulate, without a store: three organizations, of which one has no devices."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ninjait_pipelines.local.fleet.simulate import (
    Device,
    Options,
    Organization,
    Published,
    Window,
    simulate,
)

YESTERDAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)

DAY = Window(YESTERDAY, YESTERDAY + timedelta(days=1))

# Where the day of the week matters, and nothing looks at the clock.
MONDAY = datetime(2026, 5, 4, tzinfo=UTC)

WEEK = Window(MONDAY, MONDAY + timedelta(days=7))

KINDS = ("server", "workstation", "laptop", "laptop")


def organization(number: int, devices: int, time_zone: str) -> Organization:
    def name(kind: int, index: int) -> str:
        return f"00000000-0000-4000-8000-{number:04}{kind:04}{index:04}"

    members = tuple(Device(name(1, index), KINDS[index % 4], "Test OS 1") for index in range(devices))
    return Organization(name(0, 0), time_zone, members, (name(2, 0), name(2, 1)))


FLEET = [organization(1, 8, "Asia/Kolkata"), organization(2, 4, "America/New_York"), organization(3, 0, "UTC")]


def all_of(options: Options, window: Window = DAY, fleet: Sequence[Organization] = FLEET) -> list[Published]:
    return list(simulate(fleet, window, options))


def samples(messages: Sequence[Published]) -> list[tuple[str, datetime]]:
    """(device, time) of all samples of these messages."""
    found = []
    for one in messages:
        body = json.loads(one.message.body)
        for sample in body["samples"]:
            at = sample["timestamp"]
            moment = datetime.fromtimestamp(at / 1000, UTC) if isinstance(at, int) else datetime.fromisoformat(at)
            found.append((body["device_id"], moment))
    return found


def of(messages: Sequence[Published], queue: str, *kinds: str) -> list[Published]:
    return [one for one in messages if one.message.queue == queue and (not kinds or one.kind in kinds)]
