"""collectd's value lists: what is taken of them."""

import itertools
from typing import Any

import pytest

from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines_tests.ingest.decode.decoding import (
    MIB,
    TIME,
    decoded,
    gauges,
    of_lists,
    reasons,
    rounded_volumes,
    volumes,
)
from ninjait_pipelines_tests.ingest.samples import (
    collectd,
    value_list,
)


def test_what_is_taken_of_collectd() -> None:
    result = decoded(
        collectd(
            value_list("cpu", "percent", 97.5, type_instance="idle"),
            value_list("cpu", "percent", 2.0, type_instance="user"),
            value_list("cpu", "percent", 50.0, plugin_instance="0", type_instance="idle"),
            value_list("cpu", "cpu", 12345, type_instance="idle", dstypes=["derive"]),
            value_list("memory", "memory", 512 * MIB, type_instance="used"),
            value_list("memory", "percent", 12.5, type_instance="used"),
            value_list("df", "df_complex", 100 * MIB, plugin_instance="root", type_instance="used"),
            value_list("df", "df_complex", 5, plugin_instance="run", type_instance="used"),
            value_list("interface", "if_octets", 1000, 500, plugin_instance="eth0"),
            value_list("interface", "if_octets", 1, 1, plugin_instance="lo"),
            value_list("interface", "if_errors", 0, 0, plugin_instance="eth0"),
            value_list("interface", "if_octets", 1.5, 1, plugin_instance="eth1", dstypes=["gauge", "gauge"]),
            value_list("cpu", "percent", 40, type_instance="active", seconds_ago=30),
            value_list("uptime", "uptime", 86400),
        )
    )
    assert (result.points, result.points_rejected, result.unknown_fields) == (6, 0, 11)
    assert (result.rows, result.counter_rows, result.volume_rows) == ([0, 4, 12, 13], [8], [6])
    assert gauges(result) == {
        "cpu": [2.5, None, 40.0, None],
        "memory": [None, 512.0, None, None],
        "uptime": [None, None, None, 86400.0],
    }
    assert result.columns["time"] == [TIME, TIME, TIME + 30_000, TIME]
    assert (result.counters["network_in"], result.counters["network_out"]) == ([1000.0], [500.0])
    assert (volumes(result), result.volumes["source"]) == ([("", "root", 100.0, None, None)], ["collectd"])


BAD_LISTS: list[tuple[Any, str | None, str]] = [
    (5, None, "not_an_object"),
    ({}, None, "bad_value_list"),
    (value_list("memory", "memory", 1, 2), None, "bad_value_list"),
    (value_list("memory", "memory", 1, dsnames=[5]), None, "bad_value_list"),
    (value_list("memory", ["memory"], 1), None, "bad_value_list"),
    (value_list("memory", "memory", 1, type_instance="used", host=None), "host", "missing"),
    (value_list("memory", "memory", 1, type_instance="used", host=["lap-2"]), "host", "not_text"),
    (value_list("memory", "memory", 1, type_instance="used", host="nobody"), "host", "unknown_host"),
    (value_list("memory", "memory", 1, type_instance="used", time=None), "time", "no_time"),
    (value_list("memory", "memory", 1, type_instance="used", time="now"), "time", "no_time"),
    (value_list("memory", "memory", 1, type_instance="used", time=1e300), "time", "no_time"),
    (value_list("memory", "memory", 1, type_instance="used", time=0), "time", "too_old"),
    (value_list("memory", "memory", "1", type_instance="used"), "memory", "number_as_text"),
    (value_list("memory", "memory", [1], type_instance="used"), "memory", "not_a_number"),
    (value_list("interface", "if_octets", 1, -1, plugin_instance="eth0"), "network_out", "negative"),
    (value_list("interface", "if_octets", 1, 1, plugin_instance=""), "interface", "empty"),
    (value_list("interface", "if_octets", 1, 1, plugin_instance="e", seconds_ago=8 * 86400), "time", "counter_too_old"),
]


@pytest.mark.parametrize(("bad", "field", "reason"), BAD_LISTS)
def test_a_bad_value_list_costs_itself_and_nothing_else(bad: Any, field: str | None, reason: str) -> None:
    good = value_list("memory", "memory", MIB, type_instance="used")
    result = decoded(collectd(good, bad, good))
    assert reasons(result) == [(1, field, reason)]
    assert (result.points, result.points_accepted, result.rows, result.whole) == (3, 2, [0, 2], False)


def test_a_value_that_collectd_does_not_know_is_none() -> None:
    lists = [
        value_list("memory", "memory", None, type_instance="used"),
        value_list("interface", "if_octets", None, 5, plugin_instance="eth0"),
    ]
    result = decoded(collectd(*lists))
    assert (result.points, result.unknown_fields, result.rejections) == (1, 2, [])
    assert (result.counters["network_in"], result.counters["network_out"]) == ([None], [5.0])


def test_a_notification_of_collectd_costs_itself_only() -> None:
    notification = {"labels": {"alertname": "collectd_load"}, "annotations": {"summary": "high"}}
    good = value_list("memory", "memory", MIB, type_instance="used")
    result = decoded(collectd(notification, good))
    assert (reasons(result), result.rows) == ([(0, None, "bad_value_list")], [1])


def cpu(result: Decoded) -> list[float]:
    return [round(value, 6) for value in result.columns.get("cpu", ()) if value is not None]


def core_lists(idle: dict[str, float], **fields: Any) -> list[dict[str, Any]]:
    return [
        value_list("cpu", "percent", value, plugin_instance=core, type_instance="idle", **fields)
        for core, value in idle.items()
    ]


def test_cores_and_totals_of_collectd() -> None:
    assert cpu(of_lists(*core_lists({"0": 99, "1": 50}))) == [25.5]
    assert cpu(of_lists(*core_lists({"0": 99, "1": 50}), *core_lists({"0": 1}, seconds_ago=50))) == [25.5]
    assert cpu(of_lists(*core_lists({"0": 99}))) == []  # as its amqp plugin sends them, one by one
    assert cpu(of_lists(*core_lists({"0": 99, "1": 50}), value_list("cpu", "percent", 7, type_instance="active"))) == [
        7
    ]
    average = value_list("aggregation", "percent", 90, plugin_instance="cpu-average", type_instance="idle")
    assert cpu(of_lists(average, *core_lists({"0": 99, "1": 50}))) == [10.0]
    assert cpu(of_lists(average | {"plugin_instance": "cpu-sum"})) == []
    active = [one | {"type_instance": "active"} for one in core_lists({"0": 20, "1": 40})]
    assert cpu(of_lists(*active)) == [30.0]


def stamped(lists: list[dict[str, Any]], every: float) -> list[dict[str, Any]]:
    """The value lists with times that are `every` seconds apart, as collectd stamps them when it dispatches each."""
    return [one | {"time": one["time"] + n * every} for n, one in enumerate(lists)]


def test_cores_are_of_one_read_though_each_has_its_own_time() -> None:
    """Those of a machine with many cores were hardly ever all stamped in one millisecond, and left out."""
    read = stamped(core_lists({str(core): 75 for core in range(64)}), 0.001)
    assert cpu(of_lists(*read)) == [25.0]
    later = stamped(core_lists({str(core): 50 for core in range(64)}, seconds_ago=50), 0.001)
    assert cpu(of_lists(*read, *later)) == [25.0, 50.0]
    both = [list_ for one in read for list_ in (one, one | {"host": "lap-1"})]
    assert cpu(of_lists(*both)) == [25.0, 25.0]
    assert cpu(of_lists(*stamped(core_lists({"0": 99, "1": 50}), 1.0))) == []  # of two reads


def test_a_core_that_says_nonsense_costs_its_read() -> None:
    result = of_lists(*stamped(core_lists({"0": 50, "1": 50, "2": -1305}), 0.001))
    assert cpu(result) == []
    assert reasons(result) == [(2, "cpu", "negative")]


def test_states_are_of_one_read_though_each_has_its_own_time() -> None:
    assert of_lists(*stamped(memory_lists(STATES), 0.001)).columns["memory_total"] == [9 * 1024.0]
    assert rounded_volumes(of_lists(*stamped(df("root", WHOLE), 0.001))) == [("", "root", 4, 8, 3)]


STATES = {"used": 4, "buffered": 1, "cached": 2, "free": 1, "slab_unrecl": 0.5, "slab_recl": 0.5}


def memory_lists(states: dict[str, float | None], **fields: Any) -> list[dict[str, Any]]:
    return [
        value_list("memory", "memory", None if value is None else value * 2**30, type_instance=state, **fields)
        for state, value in states.items()
    ]


@pytest.mark.parametrize(
    ("states", "total"),
    [
        (STATES, 9 * 1024.0),
        ({state: STATES[state] for state in ("free", "cached", "buffered", "used")}, 8 * 1024.0),
        ({state: STATES[state] for state in ("used", "buffered", "cached")}, None),
        ({state: STATES[state] for state in STATES if state != "slab_recl"}, None),
        (STATES | {"free": None}, None),
        (STATES | {"free": -1}, None),
        ({"used": 4}, None),
    ],
)
def test_the_size_of_memory_is_the_sum_of_all_its_states(states: dict[str, float | None], total: float | None) -> None:
    result = of_lists(*memory_lists(states))
    assert (result.columns["memory"], result.columns["memory_total"]) == ([4096.0], [total])
    assert (result.points, result.unknown_fields) == (1, 0 if total else len(states) - 1)
    assert bool(result.left_out) == (total is None and len(states) > 1)


def test_states_of_two_instants_are_no_sum() -> None:
    some, rest = dict(itertools.islice(STATES.items(), 2)), dict(itertools.islice(STATES.items(), 2, None))
    result = of_lists(*memory_lists(some), *memory_lists(rest, seconds_ago=50))
    assert result.columns["memory_total"] == [None]


def df(instance: str, values: dict[str, float | None], **fields: Any) -> list[dict[str, Any]]:
    return [
        value_list("df", "df_complex", None if value is None else value * MIB, plugin_instance=instance, **fields)
        | {"type_instance": state}
        for state, value in values.items()
    ]


WHOLE = {"free": 3, "reserved": 1, "used": 4}


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        (df("root", WHOLE), [("", "root", 4, 8, 3)]),
        (df("vda1", WHOLE), [("", "vda1", 4, 8, 3)]),
        (df("root", {"used": 4, "free": 3}), [("", "root", 4, None, 3)]),
        (df("root", WHOLE | {"reserved": None}), [("", "root", 4, None, 3)]),
        (df("root", {"reserved": 1}), []),
        (df("root", WHOLE) + df("home", WHOLE), [("", "root", 4, 8, 3), ("", "home", 4, 8, 3)]),
        (
            df("root", {"used": 4}) + df("root", {"free": 3}, seconds_ago=50),
            [("", "root", 4, None, None), ("", "root", None, None, 3)],
        ),
        (df("dev-shm", WHOLE) + df("run", WHOLE) + df("snap-core-1", WHOLE) + df("tmpfs", WHOLE), []),
        (df("var-lib-docker-overlay2-0a1b-merged", WHOLE) + df("", WHOLE) + df("loop3", WHOLE), []),
        (df("nas:_export_data", WHOLE) + df("10.0.0.5:-export", WHOLE) + df("--nas-share", WHOLE), []),
        (df("mapper_vg0-root", WHOLE), [("", "mapper_vg0-root", 4, 8, 3)]),
    ],
)
def test_a_volume_of_collectd_is_one_row_of_an_instant(lists: list[Any], found: list[tuple[Any, ...]]) -> None:
    result = of_lists(*lists)
    assert (rounded_volumes(result), result.points) == (found, len(found))


def test_a_volume_keeps_what_is_good_of_it() -> None:
    result = of_lists(*df("root", {"used": -1, "free": 3, "reserved": 1}))
    assert [(one.index, one.field, one.reason) for one in result.rejections] == [(0, "used", "negative")]
    assert rounded_volumes(result) == [("", "root", None, None, 3)]
