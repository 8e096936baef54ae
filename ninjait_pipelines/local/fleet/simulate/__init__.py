"""A simulated fleet: the messages that the devices and the platform of some organizations would send in a window.

`simulate` is pure and deterministic: the same fleet, window and options give the same bytes with the same message ids.
It states for every message what must become of it, so that a ledger can be checked against the Tally:
1. `sources`: perfect messages, each source in order of time.
2. `mischief`: some are spoiled, some published twice, and those of laptops without a connection held back.
3. `mischief.in_order_of_delivery` merges what was held back into what follows.
"""

import hashlib
import heapq
import random
from collections.abc import Iterator, Sequence

import msgspec

from ninjait_pipelines.local.fleet.simulate.fleet import Device, Options, Organization, Window, read_fleet
from ninjait_pipelines.local.fleet.simulate.mischief import (
    BAD_DEVICES,
    BAD_MESSAGES,
    BAD_METRICS,
    BAD_SAMPLES,
    MAX_BYTES,
    Mischief,
    in_order_of_delivery,
)
from ninjait_pipelines.local.fleet.simulate.sources import (
    DeviceSource,
    Draft,
    LocalClock,
    Scene,
    api_calls,
    logs,
    usage,
)
from ninjait_pipelines.local.fleet.simulate.tally import Published, QueueTally, Tally, publish

__all__ = [
    "BAD_DEVICES",
    "BAD_MESSAGES",
    "BAD_METRICS",
    "BAD_SAMPLES",
    "MAX_BYTES",
    "Device",
    "Options",
    "Organization",
    "Published",
    "QueueTally",
    "Tally",
    "Window",
    "publish",
    "read_fleet",
    "simulate",
]


def simulate(fleet: Sequence[Organization], window: Window, options: Options) -> Iterator[Published]:
    """The messages of a fleet in the order in which they are published."""
    # All that is random hangs on all of the arguments: another window or fleet never uses a message id again.
    root = hashlib.sha256(msgspec.json.encode([fleet, window, options])).hexdigest()
    sources: list[Iterator[Draft]] = []
    for organization in fleet:
        scene = Scene(organization, LocalClock(organization.time_zone), window, options, root)
        sources += [DeviceSource(device, scene).messages() for device in organization.devices]
        sources += [api_calls(scene), usage(scene), logs(scene)]
    drafts = heapq.merge(*sources, key=lambda draft: draft.at)
    mischief = Mischief(fleet, options, random.Random(f"{root}/mischief"))
    return in_order_of_delivery(mischief.messages(draft) for draft in drafts)
