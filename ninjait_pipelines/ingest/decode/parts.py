"""What several entries of a message say together of one instant: the cores of a processor, the states of memory.

A whole is only made of parts that came in one message, and only where it is plain that none is missing: a mean of some
of the cores would be a wrong number, and nobody could see that. Parts that make no whole are left out and counted.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

# The number of a core; on Windows of its group and of the core in it. None at all: all of them.
Number = tuple[int, ...]
ALL_CORES: Number = ()
# Telegraf's batches are full at a multiple of this (1,000 by default), and may be cut in the middle of an instant then.
FULL_BATCHES_OF = 50
# collectd's states of memory. Linux has the first four always, and the slabs since collectd 5.5.
_MEMORY = {"used", "free", "buffered", "cached"}
_SLABS = {"slab_recl", "slab_unrecl"}
MEMORY_STATES = frozenset(_MEMORY | _SLABS)
VOLUME_STATES = frozenset({"used", "free", "reserved"})

Device = tuple[str, str]


class Core(msgspec.Struct, frozen=True, gc=False):
    """What one core says: percent busy at an instant, in milliseconds since 1970, by which entry of the message."""

    index: int
    device: Device
    time: int
    number: Number
    busy: float


def whole_processors(cores: Sequence[Core], entries: int) -> list[list[Core]]:
    """The cores of each device and instant for which all of its cores are there; `entries` is the message's length.

    All are those that any instant of the message has. Where a single instant has them they must be numbered without a
    gap, and be several: one core may be all of a small machine, or the only one of a large one that came along. And
    they must not be where a full batch ends.
    """
    instants: dict[tuple[Device, int], dict[Number, Core]] = defaultdict(dict)
    for core in cores:
        instants[core.device, core.time][core.number] = core
    numbers: dict[Device, set[Number]] = defaultdict(set)
    seen: dict[tuple[Device, frozenset[Number]], int] = defaultdict(int)
    for (device, _), found in instants.items():
        numbers[device] |= found.keys()
        seen[device, frozenset(found)] += 1
    end = entries - 1 if entries % FULL_BATCHES_OF == 0 else None
    wholes = []
    for (device, _), found in instants.items():
        again = seen[device, frozenset(found)] > 1
        is_cut = any(core.index == end for core in found.values())
        if found.keys() == numbers[device] and (again or (_without_gap(found) and not is_cut)):
            wholes.append(list(found.values()))
    return wholes


def _without_gap(numbers: Iterable[Number]) -> bool:
    """Whether several cores are numbered 0, 1, 2 and so on, in each of their groups."""
    groups: dict[Number, list[int]] = defaultdict(list)
    for number in numbers:
        groups[number[:-1]].append(number[-1])
    several = sum(map(len, groups.values())) > 1
    return several and all(sorted(group) == list(range(len(group))) for group in groups.values())


def mean(cores: Sequence[Core]) -> float:
    """Percent of all cores."""
    return sum(core.busy for core in cores) / len(cores)


def memory_total(states: Mapping[str, Any]) -> float | None:
    """Bytes of memory, of the bytes in each of collectd's states; None where one is missing or no number."""
    if not states.keys() >= _MEMORY or len(states.keys() & _SLABS) == 1:
        return None
    return _sum(states.values())


def volume_total(states: Mapping[str, Any]) -> float | None:
    """Bytes of a volume, likewise."""
    return _sum(states.values()) if states.keys() == VOLUME_STATES else None


def _sum(values: Iterable[Any]) -> float | None:
    numbers = list(values)
    known = all(type(value) in (int, float) and value >= 0 for value in numbers)
    return sum(numbers) if known else None
