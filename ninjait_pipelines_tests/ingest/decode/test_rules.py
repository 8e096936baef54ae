"""Messages that the rules read: what each fault costs, and how it is reported."""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from ninjait_pipelines.contract import MAX_BYTES
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines_tests.ingest.decode.decoding import PERIOD, decoded, reasons
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    ago,
    message,
    metrics,
    sample,
)

UNKNOWN = "99999999-9999-4999-8999-999999999999"


def body_decoded(body: Any, queue: str = "agent.metrics", **fields: Any) -> Decoded:
    return decode(message(queue, body, **fields), REGISTRY, PERIOD)


def raw(text: str) -> bytes:
    """A body with one good sample, one whose cpu is this JSON text, and another good one."""
    body = json.dumps(metrics(sample(90), sample(60, cpu="HERE"), sample(30)))
    return body.replace('"HERE"', text).encode()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"12.5"', "number_as_text"),
        ("true", "boolean_as_number"),
        ("false", "boolean_as_number"),
        ("NaN", "not_finite"),
        ("Infinity", "not_finite"),
        ("-Infinity", "not_finite"),
        ("1e999", "not_finite"),
        ("101.00000000000001", "above_100"),
        ("-1.0000000000000002", "negative"),
        ("9" * 400, "above_100"),
        ("9" * 5000, "not_finite"),
        ("-1.001", "negative"),
        ("-" + "9" * 30, "negative"),
        ("101.0001", "above_100"),
        ("9" * 30, "above_100"),
        ("[1]", "not_a_number"),
        ('{"value": 1}', "not_a_number"),
    ],
)
def test_a_bad_value_costs_its_sample_and_nothing_else(text: str, reason: str) -> None:
    result = body_decoded(raw(text))
    assert reasons(result) == [(1, "cpu", reason)]
    assert (result.points, result.points_accepted, result.points_rejected, result.whole) == (3, 2, 1, False)
    assert len(result.columns["time"]) == 2


@pytest.mark.parametrize("text", ["0", "-0.0", "100", "100.0", "null", "1e-320", "12.5"])
def test_values_at_the_edge_are_taken(text: str) -> None:
    assert body_decoded(raw(text)).points_accepted == 3


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"timestamp": (NOW + timedelta(minutes=5, seconds=1)).isoformat()}, ("timestamp", "in_the_future")),
        ({"timestamp": ago(days=731)}, ("timestamp", "too_old")),
        ({"timestamp": 1_700_000_000}, ("timestamp", "too_old")),  # seconds for milliseconds
        ({"timestamp": NOW.replace(tzinfo=None).isoformat()}, ("timestamp", "no_time_zone")),
        ({"timestamp": "yesterday"}, ("timestamp", "not_a_time")),
        ({"timestamp": "2026-02-30T00:00:00Z"}, ("timestamp", "not_a_time")),
        ({"timestamp": NOW.timestamp()}, ("timestamp", "not_a_time")),
        ({"timestamp": True}, ("timestamp", "not_a_time")),
        ({"timestamp": 10**40}, ("timestamp", "in_the_future")),
        ({"timestamp": None}, ("timestamp", "missing")),
        ({"memory": -1}, ("memory", "negative")),
        ({"memory": 1e300}, ("memory", "out_of_range")),  # two of them would sum to infinity
        ({"network_in": -1}, ("network_in", "negative")),
        ({"uptime": -0.5}, ("uptime", "negative")),
    ],
)
def test_a_bad_sample_is_named_by_its_field(bad: dict[str, Any], expected: tuple[str, str]) -> None:
    result = body_decoded(metrics(sample(90), sample(60, **bad)))
    assert reasons(result) == [(1, *expected)]
    assert result.points_accepted == 1


def test_every_bad_field_of_a_sample_is_named_and_the_sample_counts_once() -> None:
    result = body_decoded(metrics(sample(cpu=102, memory="1", timestamp="x")))
    assert reasons(result) == [(0, "timestamp", "not_a_time"), (0, "cpu", "above_100"), (0, "memory", "number_as_text")]
    assert (result.points, result.points_rejected, result.columns) == (1, 1, {})


@pytest.mark.parametrize("bad", [5, None, "sample", [], [1], True])
def test_a_sample_that_is_no_object(bad: Any) -> None:
    assert reasons(body_decoded(metrics(sample(), bad))) == [(1, None, "not_an_object")]


@pytest.mark.parametrize("fields", [{}, {"cpu": None}, {"temperature": 40}])
def test_a_sample_without_a_known_field(fields: dict[str, Any]) -> None:
    result = body_decoded(metrics(sample(), {"timestamp": ago(seconds=5)} | fields))
    assert reasons(result) == [(1, None, "no_known_field")]
    assert result.points_accepted == 1


def test_times_at_the_very_edge_are_taken() -> None:
    edges = [NOW + timedelta(minutes=5), NOW - timedelta(days=730)]
    assert body_decoded(metrics(*(sample(timestamp=edge.isoformat()) for edge in edges))).points_accepted == 2


def test_a_time_in_another_zone_is_the_same_instant() -> None:
    there = NOW.astimezone(datetime.strptime("+0530", "%z").tzinfo)
    result = body_decoded(metrics(sample(timestamp=there.isoformat())))
    assert result.columns["time"] == [int(NOW.timestamp() * 1000)]


def test_unknown_fields_of_samples_are_counted_and_left_out() -> None:
    body = metrics(sample(temperature=40, fans=[1, 2]), sample(30), hostname="pc-1")
    result = body_decoded(body)
    assert (result.unknown_fields, result.points_accepted, result.rejections) == (2, 2, [])
    assert "temperature" not in result.columns


WHOLE: list[tuple[str, Any, dict[str, Any], str]] = [
    ("not JSON", b"cpu=5", {}, "not_json"),
    ("empty", b"", {}, "not_json"),
    ("cut off", json.dumps(metrics(sample())).encode()[:-3], {}, "not_json"),
    (
        "invalid UTF-8",
        json.dumps(metrics(sample(), note="HERE")).encode().replace(b"HERE", b"\xff"),
        {},
        "invalid_utf8",
    ),
    ("UTF-16", json.dumps(metrics(sample())).encode("utf-16"), {}, "utf_16"),
    ("a list", b"[]", {}, "not_an_object"),
    ("null", b"null", {}, "not_an_object"),
    ("deep", b"[" * 200_000, {}, "nested_too_deeply"),
    ("10 MB", b'{"a": "' + b"x" * 10_000_000 + b'"}', {}, "too_large"),
    ("another format", metrics(sample()), {"content_type": "application/xml"}, "unknown_content_type"),
    ("wrong schema", metrics(sample(), schema="ninjait.metrics.v2"), {}, "wrong_schema"),
    ("no schema", metrics(sample(), schema=None), {}, "wrong_schema"),
    ("no organization", metrics(sample(), organization_id=None), {}, "missing"),
    ("organization is a number", metrics(sample(), organization_id=5), {}, "not_an_id"),
    ("organization is a name", metrics(sample(), organization_id="acme"), {}, "not_an_id"),
    ("unknown organization", metrics(sample(), organization_id=UNKNOWN), {}, "unknown_organization"),
    ("no device", metrics(sample(), device_id=None), {}, "missing"),
    ("unknown device", metrics(sample(), device_id=UNKNOWN), {}, "unknown_device"),
    ("device of another", metrics(sample(), device_id=OTHER_DEVICE), {}, "device_of_another_organization"),
    ("key of another", metrics(sample()), {"routing_key": f"metrics.{OTHER_ORG}"}, "not_of_its_routing_key"),
    ("samples missing", {k: v for k, v in metrics().items() if k != "samples"}, {}, "missing"),
    ("samples are an object", metrics() | {"samples": {"0": sample()}}, {}, "not_a_list"),
    ("no samples", metrics(), {}, "no_samples"),
    ("1,001 samples", metrics(*[sample()] * 1001), {}, "too_many_samples"),
]


@pytest.mark.parametrize(("body", "fields", "reason"), [row[1:] for row in WHOLE], ids=[row[0] for row in WHOLE])
def test_what_cannot_be_taken_at_all(body: Any, fields: dict[str, Any], reason: str) -> None:
    result = body_decoded(body, **fields)
    assert [rejection.reason for rejection in result.rejections] == [reason]
    assert result.whole
    assert result.columns == {}
    assert result.points_accepted == 0
    assert len(result.rejections[0].value) <= 200


def test_the_largest_allowed_message_is_taken() -> None:
    body = metrics(*[sample()] * 1000)
    padding = MAX_BYTES - len(json.dumps(body | {"agent_version": ""}).encode())
    assert body_decoded(body | {"agent_version": "x" * padding}).points_accepted == 1000


def test_an_unknown_device_is_still_told_with_its_samples_and_sender() -> None:
    result = body_decoded(metrics(sample(), sample(30), device_id=UNKNOWN))
    assert (result.points, result.points_rejected, result.device_id) == (2, 2, UNKNOWN)
    assert (result.organization_id, result.agent_version) == (ORG, "2.4.1")


def test_ids_in_another_spelling_are_the_same_ids() -> None:
    body = metrics(sample(), organization_id=ORG.upper(), device_id="{" + DEVICE + "}")
    result = body_decoded(body, routing_key=f"metrics.{ORG}")
    assert (result.organization_id, result.device_id, result.points_accepted) == (ORG, DEVICE, 1)


def test_the_message_id_is_the_property_else_the_body_s_else_made_from_the_content() -> None:
    body = metrics(sample(), message_id=UNKNOWN)
    assert body_decoded(body, number=5).message_id.int == 5
    assert str(body_decoded(body, message_id=None).message_id) == UNKNOWN
    nameless = body_decoded(metrics(sample()), message_id=None).message_id
    assert nameless == body_decoded(metrics(sample()), message_id="no uuid", delivery_id="another").message_id
    assert nameless != body_decoded(metrics(sample(30)), message_id=None).message_id


@pytest.mark.parametrize("queue", EVENTS)
def test_a_good_event_is_one_row(queue: str) -> None:
    result = body_decoded(EVENTS[queue], queue)
    assert (result.rejections, result.points, result.points_accepted) == ([], 1, 1)
    assert result.columns["timestamp"] == [int((NOW - timedelta(minutes=1)).timestamp() * 1000)]
    assert result.columns["message_id"] == [str(result.message_id)]


def test_usage_is_decimal_to_the_last_place() -> None:
    result = body_decoded(EVENTS["platform.usage"] | {"storage_gb": "123456789012.123456"}, "platform.usage")
    assert result.columns["storage_gb"] == [Decimal("123456789012.123456")]


@pytest.mark.parametrize("queue", EVENTS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": "ninjait.metrics.v1"}, "wrong_schema"),
        ({"organization_id": UNKNOWN}, "unknown_organization"),
        ({"timestamp": None}, "missing"),
        ({"timestamp": "2026-01-01T00:00:00"}, "no_time_zone"),
        ({"timestamp": ago(days=800)}, "too_old"),
        ({"timestamp": ago(days=-1)}, "in_the_future"),
    ],
)
def test_a_bad_event_is_refused_whole(queue: str, change: dict[str, Any], reason: str) -> None:
    result = body_decoded(EVENTS[queue] | change, queue)
    assert [rejection.reason for rejection in result.rejections] == [reason]
    assert (result.points, result.points_rejected, result.columns) == (1, 1, {})


@pytest.mark.parametrize(
    ("queue", "field", "value", "reason"),
    [
        ("agent.heartbeats", "status", "asleep", "not_one_of_online_offline_maintenance"),
        ("agent.heartbeats", "status", ["online"], "not_one_of_online_offline_maintenance"),
        ("agent.heartbeats", "agent_version", None, "missing"),
        ("agent.heartbeats", "os_version", 12, "not_text"),
        ("agent.heartbeats", "os_version", "x" * 201, "too_long"),
        ("agent.heartbeats", "os_version", "", "empty"),
        ("agent.heartbeats", "uptime_seconds", 1.5, "not_an_integer"),
        ("agent.heartbeats", "uptime_seconds", -1, "negative"),
        ("agent.heartbeats", "uptime_seconds", 2**70, "out_of_range"),
        ("agent.heartbeats", "device_id", UNKNOWN, "unknown_device"),
        ("agent.heartbeats", "device_id", OTHER_DEVICE, "device_of_another_organization"),
        ("platform.api_calls", "status_code", True, "boolean_as_number"),
        ("platform.api_calls", "status_code", 99, "out_of_range"),
        ("platform.api_calls", "status_code", "200", "number_as_text"),
        ("platform.api_calls", "response_time_ms", -1, "negative"),
        ("platform.api_calls", "response_time_ms", float("nan"), "not_finite"),
        ("platform.api_calls", "user_id", "root", "not_an_id"),
        ("platform.usage", "storage_gb", 12.5, "decimal_not_as_text"),
        ("platform.usage", "storage_gb", "1e3", "not_a_decimal"),
        ("platform.usage", "storage_gb", "1.2345678", "not_a_decimal"),
        ("platform.usage", "storage_gb", "١٢", "not_a_decimal"),
        ("platform.usage", "backup_gb", "-1", "negative"),
        ("platform.logs", "level", "loud", "not_one_of_debug_info_warning_error_critical"),
        ("platform.logs", "message", "\ud800", "invalid_text"),
        ("platform.logs", "device_id", OTHER_DEVICE, "device_of_another_organization"),
        ("platform.logs", "error", "text", "not_an_object"),
        ("platform.logs", "error", {"n": float("inf")}, "not_storable"),
        ("platform.logs", "error", {"n": 2**64}, "not_storable"),
        ("platform.logs", "error", {"a": [{"$where": "1"}]}, "not_storable"),
        ("platform.logs", "error", {"a\0b": 1}, "not_storable"),
        ("platform.logs", "error", {"text": "\ud800"}, "not_storable"),
        ("platform.logs", "error", json.loads('{"a":' * 30 + "1" + "}" * 30), "not_storable"),
    ],
)
def test_a_bad_field_of_an_event(queue: str, field: str, value: Any, reason: str) -> None:
    result = body_decoded(EVENTS[queue] | {field: value}, queue)
    assert reasons(result) == [(None, field, reason)]


def test_a_log_is_held_to_the_level_of_its_routing_key() -> None:
    result = body_decoded(EVENTS["platform.logs"], "platform.logs", routing_key="log.debug")
    assert reasons(result) == [(None, "level", "not_of_its_routing_key")]


EVENT: dict[str, Any] = {
    "schema": "ninjait.usage.v1",
    "organization_id": ORG,
    "timestamp": NOW.isoformat(),
    "storage_gb": "1",
    "backup_gb": "2",
}


def test_a_mark_costs_no_event() -> None:
    body = b"\xef\xbb\xbf" + json.dumps(EVENT).encode()
    result = decoded(message("platform.usage", body, routing_key=f"usage.{ORG}"))
    assert (reasons(result), result.points_accepted) == ([], 1)
