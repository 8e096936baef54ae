"""Combines entries of a message that describe one instant: the cores of a processor, the states of memory.

Parts are combined only if they came in one message and evidently none is missing: the mean of some of the cores would
be a wrong number that no one could recognize as wrong. Parts that cannot be combined are left out and counted.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

# A core's number; on Windows (group, core). The empty tuple stands for all cores together.
Number = tuple[int, ...]
ALL_CORES: Number = ()
# A full Telegraf batch (1,000 lines by default, always a multiple of this in practice) may end in mid-instant.
FULL_BATCHES_OF = 50
# collectd's memory states. Linux always has these four, and both slabs since collectd 5.5.
_MEMORY = {"used", "free", "buffered", "cached"}
_SLABS = {"slab_recl", "slab_unrecl"}
MEMORY_STATES = frozenset(_MEMORY | _SLABS)
VOLUME_STATES = frozenset({"used", "free", "reserved"})

Device = tuple[str, str]


class Core(msgspec.Struct, frozen=True, gc=False):
    """One core's load: percent busy at `time` (milliseconds since 1970); `index` is the entry that reported it."""

    index: int
    device: Device
    time: int
    number: Number
    busy: float


def complete_processors(cores: Sequence[Core], entries: int) -> list[list[Core]]:
    """The cores of each device and instant that has all of the device's cores; `entries` is the message's length.

    A device's cores are those that appear at any instant of the message. If only a single instant has them all, they
    must also be several, numbered without a gap, and not at the end of a full batch: a lone core may be all of a small
    machine, or one of many on a large machine.
    """
    instants: dict[tuple[Device, int], dict[Number, Core]] = defaultdict(dict)
    for core in cores:
        instants[core.device, core.time][core.number] = core
    numbers: dict[Device, set[Number]] = defaultdict(set)
    seen: dict[tuple[Device, frozenset[Number]], int] = defaultdict(int)
    for (device, _), by_number in instants.items():
        numbers[device] |= by_number.keys()
        seen[device, frozenset(by_number)] += 1
    end_of_full_batch = entries - 1 if entries % FULL_BATCHES_OF == 0 else None
    complete = []
    for (device, _), by_number in instants.items():
        is_repeated = seen[device, frozenset(by_number)] > 1
        may_be_cut = any(core.index == end_of_full_batch for core in by_number.values())
        if by_number.keys() == numbers[device] and (is_repeated or (_without_gap(by_number) and not may_be_cut)):
            complete.append(list(by_number.values()))
    return complete


def _without_gap(numbers: Iterable[Number]) -> bool:
    """Whether there are several cores, numbered 0, 1, 2, ... in each group."""
    groups: dict[Number, list[int]] = defaultdict(list)
    for number in numbers:
        groups[number[:-1]].append(number[-1])
    several = sum(map(len, groups.values())) > 1
    return several and all(sorted(group) == list(range(len(group))) for group in groups.values())


def mean(cores: Sequence[Core]) -> float:
    """The mean load of the cores, in percent."""
    return sum(core.busy for core in cores) / len(cores)


def memory_total(states: Mapping[str, Any]) -> float | None:
    """A device's memory in bytes: the sum of collectd's states. None if one is missing or not a number."""
    if not states.keys() >= _MEMORY or len(states.keys() & _SLABS) == 1:
        return None
    return _sum(states.values())


def volume_total(states: Mapping[str, Any]) -> float | None:
    """A volume's size in bytes: the sum of its states. None if one is missing or not a number."""
    return _sum(states.values()) if states.keys() == VOLUME_STATES else None


def _sum(values: Iterable[Any]) -> float | None:
    numbers = list(values)
    known = all(type(value) in (int, float) and value >= 0 for value in numbers)
    return sum(numbers) if known else None
