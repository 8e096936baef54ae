"""The cores of a processor make its load only where none is missing."""

from typing import Any

import pytest

from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines_tests.ingest.decode.decoding import of_lines
from ninjait_pipelines_tests.ingest.decode.fuzz import check
from ninjait_pipelines_tests.ingest.samples import (
    line,
    telegraf,
)


def cpu(result: Decoded) -> list[float]:
    return [round(value, 6) for value in result.columns.get("cpu", ()) if value is not None]


def cores(idle: dict[Any, float], measurement: str = "cpu", seconds_ago: float = 60, host: str = "lap-2") -> list[str]:
    """A line for each core. Of Windows a comma in a core's name is one between its group and its number."""
    tag, field, name = (
        ("cpu", "usage_idle", "cpu{}") if measurement == "cpu" else ("instance", "Percent_Idle_Time", "{}")
    )
    return [
        line(measurement, f"{field}={value}", seconds_ago, host, **{tag: name.format(core).replace(",", "\\,")})
        for core, value in idle.items()
    ]


WHOLES: list[tuple[list[str], list[float]]] = [
    (cores({0: 99, 1: 50}), [25.5]),
    (cores({1: 50, 0: 99}), [25.5]),
    (cores(dict.fromkeys(range(64), 75)), [25.0]),
    (cores({0: 99, 1: 50}, "win_cpu"), [25.5]),
    (cores({"0,0": 99, "0,1": 50}, "win_cpu"), [25.5]),
    (cores({"0,0": 100, "1,0": 50, "0,1": 90, "1,1": 40}, "win_cpu"), [30.0]),
    (cores({0: 100, 1: 0}) + cores({0: 50, 1: 50}, seconds_ago=50), [50.0, 50.0]),
    (cores({0: 100, 1: 0}) + cores({0: 0, 1: 0}, host="lap-1"), [50.0, 100.0]),
    (cores({0: 100}) + cores({0: 40}, seconds_ago=50), [0.0, 60.0]),  # a machine of one core, seen twice
    # without hyperthreads the odd ones are missing: every instant has the same
    (cores({0: 100, 2: 0}) + cores({0: 80, 2: 80}, seconds_ago=50), [50.0, 20.0]),
    (cores({0: -0.4, 1: 100.3}), [50.0]),
    # the total counts, wherever in the message it is, and in whichever case its host
    ([*cores({0: 100, 1: 0}), line("cpu", "usage_idle=90", cpu="cpu-total")], [10.0]),
    ([*cores({0: 100, 1: 0}), line("cpu", "usage_idle=90", 10, "LAP-2", cpu="cpu-total")], [10.0]),
    (cores({0: 100, "_Total": 90}, "win_cpu"), [10.0]),
]
NO_WHOLES = [
    cores({0: 99}),
    cores({1: 99, 2: 50}),
    cores({0: 99, 2: 50}),
    cores({0: 99, 1: 50}) + cores({0: 99}, seconds_ago=50) + cores({0: 1, 1: 1, 2: 1, 4: 1}, seconds_ago=40),
    cores({"0,_Total": 99, "1,_Total": 1}, "win_cpu"),
    cores({"0,1": 99, "1,0": 1}, "win_cpu"),
]


@pytest.mark.parametrize(("lines", "busy"), WHOLES, ids=range(len(WHOLES)))
def test_the_mean_of_all_cores_is_the_device_s(lines: list[str], busy: list[float]) -> None:
    assert cpu(of_lines(*lines)) == busy


@pytest.mark.parametrize("lines", NO_WHOLES, ids=range(len(NO_WHOLES)))
def test_some_of_the_cores_are_no_device_s(lines: list[str]) -> None:
    """A mean of them would be a wrong number: they are left out, and seen to be."""
    result = of_lines(*lines)
    assert cpu(result) == []
    assert any(one.measurement in ("cpu", "win_cpu") for one in result.left_out)
    assert result.rejections == []


def test_a_full_batch_may_have_been_cut_within_its_last_instant() -> None:
    others = [line("swap", f"used={n}i") for n in range(48)]
    both = cores({0: 99, 1: 50})
    assert cpu(check(telegraf(*others, *both))) == []
    assert cpu(check(telegraf(*both, *others))) == cpu(check(telegraf(*others[1:], *both))) == [25.5]


def test_a_core_that_always_says_nonsense_leaves_no_mean_of_the_others() -> None:
    """Core 0 alone, half idle, was the whole of a device whose other core is busier than there is."""
    result = of_lines(*cores({0: 50, 1: -1.01}), *cores({0: 50, 1: -1.01}, seconds_ago=50))
    assert cpu(result) == []
    assert [(one.reason, one.field) for one in result.rejections] == [("negative", "cpu")] * 2
    assert [(one.measurement, one.readings) for one in result.left_out] == [("cpu", 2)]


def test_a_core_that_says_nonsense_costs_its_instant() -> None:
    lines = cores({0: 99, 1: -1305}) + cores({0: 99, 1: 50}, seconds_ago=50)
    result = of_lines(*lines)
    assert [(one.index, one.field, one.reason) for one in result.rejections] == [(1, "cpu", "negative")]
    assert cpu(result) == [25.5]
    assert of_lines(*lines, line("cpu", "usage_idle=1", cpu="cpu-total")).rejections == []  # nobody looks at it


def test_cores_of_a_host_that_is_not_known_wait_for_it_together() -> None:
    result = of_lines(*cores({0: 99, 1: 50}, host="new"))
    assert [(one.index, one.reason) for one in result.rejections] == [(0, "unknown_host"), (1, "unknown_host")]
