"""The contract's rules for names and percentages, in every format."""

import json

import pytest

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines_tests.ingest.decode.decoding import PERIOD
from ninjait_pipelines_tests.ingest.samples import (
    ORG,
    REGISTRY,
    collectd,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)


def codes(result: Decoded) -> list[str]:
    return [one.reason for one in result.rejections]


NAMES = ["Connexion réseau\u00a02", "本地连接* 1", "Ethernet 👩‍💻", "שלום\u200f", "a\u202eb", "\ue000", "e\u0301"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_hold_whatever_the_stores_can_hold(name: str) -> None:
    """U+00A0 and the joiner inside an emoji cannot be printed, as Python sees it, and cost their interface."""
    escaped = name.replace(" ", r"\ ")
    both = [
        telegraf(line("net", "bytes_recv=1i,bytes_sent=1i", interface=escaped), organization=ORG),
        collectd(value_list("interface", "if_octets", 1, 1, plugin_instance=name), organization=ORG),
    ]
    for delivered in both:
        result = decode(delivered, REGISTRY, PERIOD)
        assert (result.rejections, result.counters["interface"]) == ([], [name])


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\x00b", "a\x1b[2Jb", "a\x7fb", "a\x85b", "a\u2028b", "a\u2029b"])
def test_a_name_is_one_line_without_control_characters(name: str) -> None:
    result = decode(
        collectd(value_list("interface", "if_octets", 1, 1, plugin_instance=name), organization=ORG),
        REGISTRY,
        PERIOD,
    )
    assert codes(result) == ["invalid_text"]


@pytest.mark.parametrize(
    ("idle", "busy"),
    [
        (0.0, 100.0),
        (-0.367, 100.0),
        (-0.99, 100.0),
        (-1, 100.0),
        (100.4, 0.0),
        (100.99, 0.0),
        (101, 0.0),
        (100, 0.0),
        (47.5, 52.5),
        (0, 100.0),
    ],
)
def test_a_percentage_that_misses_its_bounds_by_up_to_a_point_is_at_them(idle: float, busy: float) -> None:
    """Telegraf's usage_idle of a busy machine is -0.37: its busiest readings were refused, and it looked idler."""
    values = {"cpu": "cpu-total"}, f"usage_idle={idle}", f"usage_active={busy}"
    own = json.dumps(metrics(sample(cpu=100 - idle))).encode()
    for delivered in (
        telegraf(line("cpu", values[1], **values[0]), organization=ORG),
        telegraf(line("cpu", f"usage_active={100 - idle}", **values[0]), organization=ORG),
        collectd(value_list("cpu", "percent", idle, type_instance="idle"), organization=ORG),
        collectd(value_list("cpu", "percent", 100 - idle, type_instance="active"), organization=ORG),
        message("agent.metrics", own),
    ):
        result = decode(delivered, REGISTRY, PERIOD)
        assert (result.rejections, [round(value, 9) for value in result.columns["cpu"]]) == ([], [busy])


@pytest.mark.parametrize(
    ("idle", "reason"),
    [(-1.01, "negative"), (101.01, "above_100"), (-1305.2, "negative"), (101.5, "above_100"), (200, "above_100")],
)
def test_a_percentage_that_is_absurd_is_refused(idle: float, reason: str) -> None:
    result = decode(telegraf(line("cpu", f"usage_idle={idle}", cpu="cpu-total")), REGISTRY, PERIOD)
    assert codes(result) == [reason]
    result = decode(message("agent.metrics", metrics(sample(cpu=idle))), REGISTRY, PERIOD)
    assert codes(result) == [reason]
