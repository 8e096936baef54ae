"""Rejections as they are reported: short, of the right object, and with whatever is known of the sender."""

from typing import Any

import pytest

from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest.decode.rejections import MAX_SHOWN, describe, name_form, rejected_message, rejection
from ninjait_pipelines.messages import identity
from ninjait_pipelines_tests.ingest.samples import DEVICE, EVENTS, ORG, message, metrics, sample

NEGATIVE = ContractViolation("negative", "cpu")


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def test_a_rejection_shows_its_field_s_value_or_everything() -> None:
    assert rejection(3, NEGATIVE, {"cpu": -1, "memory": 5}).value == "-1"
    assert rejection(3, NEGATIVE, {"memory": 5}).value == "None"
    assert rejection(3, ContractViolation("not_an_object"), [1]).value == "[1]"


@pytest.mark.parametrize("value", ["x" * 5000, b"x" * 5000, list(range(5000)), {"a": "é" * 5000}])
def test_what_is_shown_is_bounded(value: Any) -> None:
    assert len(rejection(0, NEGATIVE, {"cpu": value}).value) == MAX_SHOWN


def test_what_is_nested_too_deeply_is_not_shown() -> None:
    assert rejection(0, NEGATIVE, {"cpu": nested(100_000)}).value == "nested too deeply to be shown"


def test_a_sender_is_described_as_far_as_it_can_be_read() -> None:
    """Who has a broken agent is found by it, and no text of the sender's gets into an id."""
    good = metrics(sample(), sample(30))
    decoded = describe(message("agent.metrics", good), good)
    assert (decoded.organization_id, decoded.device_id, decoded.agent_version, decoded.points) == (
        ORG,
        DEVICE,
        "2.4.1",
        2,
    )
    bad = {"organization_id": "'; DROP", "device_id": 5, "agent_version": "x" * 101, "samples": {}, "message_id": [1]}
    decoded = describe(message("agent.metrics", bad, message_id=None), bad)
    assert (decoded.organization_id, decoded.device_id, decoded.agent_version, decoded.points) == (None, None, None, 0)


def test_an_event_is_one_point_and_what_cannot_be_read_is_none() -> None:
    event = EVENTS["agent.heartbeats"]
    assert describe(message("agent.heartbeats", event), event).points == 1
    assert describe(message("agent.heartbeats", b"{"), None).points == 0


def test_the_envelope_s_id_counts_before_the_body_s_and_the_content_s() -> None:
    inner = "0b5e3b2e-8f0a-4c6e-9d3a-1f2e3d4c5b6a"
    body = {"message_id": inner}
    ids = [
        str(describe(one, found).message_id)
        for one, found in (
            (message("agent.metrics", body, number=7), body),
            (message("agent.metrics", body, message_id=None), body),
            (message("agent.metrics", b"{", message_id=None), None),
        )
    ]
    assert ids == ["00000000-0000-0000-0000-000000000007", inner, str(identity("agent.metrics", b"{"))]


def test_a_message_is_rejected_whole_with_its_field_or_its_first_bytes() -> None:
    body = metrics(sample()) | {"device_id": "x"}
    decoded = rejected_message(message("agent.metrics", body), body, ContractViolation("not_an_id", "device_id"))
    assert (decoded.whole, decoded.points, decoded.points_accepted) == (True, 1, 0)
    assert [(one.index, one.field, one.value) for one in decoded.rejections] == [(None, "device_id", "'x'")]
    unread = rejected_message(message("agent.metrics", b"\xff" * 5000), None, ContractViolation("invalid_utf8"))
    assert unread.rejections[0].value == repr(b"\xff" * MAX_SHOWN)[:MAX_SHOWN]


@pytest.mark.parametrize(
    ("code", "body", "expected", "named"),
    [
        ("not_json", b"mem,host=a used=1i 1", set(), "line_protocol"),
        ("not_json", b"mem,host=a used=1i 1", {"line_protocol"}, "not_json"),  # of its form, and broken
        ("not_json", b"???", set(), "not_json"),
        ("unknown_device", b"mem,host=a used=1i 1", set(), "unknown_device"),  # it was understood
    ],
)
def test_the_form_of_a_message_in_the_wrong_place_is_its_code(
    code: str, body: bytes, expected: set[str], named: str
) -> None:
    violation = name_form(ContractViolation(code, "schema"), body, expected)
    assert (violation.code, violation.field) == (named, "schema")
