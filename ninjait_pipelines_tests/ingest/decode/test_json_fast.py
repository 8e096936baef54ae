"""The fast path for metrics messages: as strict as the rules, and with the same result."""

import itertools
import json
from datetime import timedelta

import pytest

from ninjait_pipelines.ingest.decode.json_fast import decode_good_metrics
from ninjait_pipelines.ingest.decode.rules import decode_by_rules
from ninjait_pipelines.messages import Message
from ninjait_pipelines_tests.ingest.decode.decoding import PERIOD
from ninjait_pipelines_tests.ingest.decode.fuzz import check
from ninjait_pipelines_tests.ingest.samples import (
    ANYBODY,
    DEVICE,
    NOW,
    ORG,
    REGISTRY,
    ago,
    message,
    metrics,
    sample,
)


def one_value(name: str, text: str) -> Message:
    """A message with one sample that has this JSON text in one of its fields."""
    body = json.dumps(metrics(sample() | {name: "HERE"}))
    return message("agent.metrics", body.replace('"HERE"', text).encode())


BAD_NUMBERS = ["true", "false", '"1"', '""', "[]", "{}", "NaN", "Infinity", "-Infinity", "1e999", "-1.5", "-2", "01"]
BAD_NUMBERS += ["1.", ".5", "+1", "0x1", "1_0", "9" * 30, "9" * 5000, "1000000000000001", "1e15000", "nul", "1 2", ""]
BAD_TIMES = ["true", "null", "1.5", '"1767225600000"', '"yesterday"', '""', "[]", "1e12", "-1", "9" * 30, "0"]
BAD_TIMES += ['"2026-01-01T00:00:00"', '"2026-01-01"', '"2026-02-30T00:00:00Z"', '"2026-01-01T24:00:01Z"']
BAD_TIMES += [f'"{ago(days=-1)}"', f'"{ago(days=731)}"', str(PERIOD.newest + 1), str(PERIOD.oldest - 1)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *itertools.product(["cpu", "uptime"], BAD_NUMBERS),
        *(("cpu", text) for text in ("-1.0000000000000002", "101.00000000000001", "102")),
        *(("timestamp", text) for text in BAD_TIMES),
    ],
)
def test_the_fast_path_takes_nothing_that_the_rules_refuse(name: str, text: str) -> None:
    incoming = one_value(name, text)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    assert decode_by_rules(incoming, ANYBODY, PERIOD).rejections


@pytest.mark.parametrize(
    ("text", "taken"),
    [("-0.9999", 0.0), ("-1e-9", 0.0), ("-1", 0.0), ("100.00000000000001", 100.0), ("100.9", 100.0), ("101", 100.0)],
)
def test_a_percentage_beyond_its_bounds_is_left_to_the_rules_which_mend_it(text: str, taken: float) -> None:
    incoming = one_value("cpu", text)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    assert list(check(incoming).columns["cpu"]) == [taken]


GOOD_NUMBERS = ["0", "-0", "-0.0", "1", "99.99999999999999", "1e1", "1E+1", "5e-324", "1e-400", "100", "null"]
GOOD_TIMES = [str(PERIOD.newest), str(PERIOD.oldest), json.dumps(NOW.isoformat().replace("+00:00", "Z"))]
GOOD_TIMES += [json.dumps((NOW + timedelta(microseconds=1999)).astimezone(tz=None).isoformat())]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *itertools.product(["cpu", "uptime"], GOOD_NUMBERS),
        ("uptime", "1e15"),
        *(("timestamp", text) for text in GOOD_TIMES),
    ],
)
def test_what_is_good_takes_the_fast_path(name: str, text: str) -> None:
    incoming = one_value(name, text)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD)
    assert check(incoming).points_accepted == 1


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "ninjait.metrics.v2"},
        {"hostname": "pc-1"},
        {"device_id": DEVICE.upper()},
        {"agent_version": ""},
        {"samples": []},
        {"samples": [sample()] * 1001},
        {"samples": [sample(), {"timestamp": ago()}]},
    ],
)
def test_what_is_unusual_is_left_to_the_rules(change: dict[str, object]) -> None:
    incoming = message("agent.metrics", metrics(sample()) | change)
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    check(incoming)


@pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\\ud800"', b'"\x01"', b'"\xf8"'])
def test_no_text_that_is_no_text_gets_in(text: bytes) -> None:
    """The fast path reads the bytes without decoding them first: UTF-8 is as strict in every string that it takes."""
    body = json.dumps(metrics(sample(), agent_version="HERE")).encode()
    incoming = message("agent.metrics", body.replace(b'"HERE"', text))
    assert decode_good_metrics(incoming, ANYBODY, PERIOD) is None
    check(incoming)


def test_a_good_message_takes_the_fast_path_and_keeps_every_value() -> None:
    body = metrics(sample(60), sample(30, timestamp=int(NOW.timestamp() * 1000), memory=None))
    result = decode_good_metrics(message("agent.metrics", body), REGISTRY, PERIOD)
    assert result is not None
    assert result == decode_by_rules(message("agent.metrics", body), REGISTRY, PERIOD)
    assert result.columns["time"] == [
        int((NOW - timedelta(seconds=60)).timestamp() * 1000),
        int(NOW.timestamp() * 1000),
    ]
    assert result.columns["memory"] == (2048.0, None)
    assert (result.points, result.points_accepted, result.points_rejected) == (2, 2, 0)
    assert (result.organization_id, result.device_id, result.agent_version) == (ORG, DEVICE, "2.4.1")
