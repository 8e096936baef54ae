"""The streams as they are declared: told apart, stored whole, and with the rules of their contracts."""

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from ninjait_pipelines.contract import ContractViolation, field_value
from ninjait_pipelines.messages import fits
from ninjait_pipelines.resources.clickhouse_schema import written_columns
from ninjait_pipelines.streams import CONTRACTS, QUEUES, STREAMS


@pytest.mark.parametrize("name", ["queue", "asset", "table", "description"])
def test_no_two_streams_share_anything(name: str) -> None:
    """Two drains of one queue or table would each find the other's rows missing from its ledger."""
    found = Counter(getattr(stream, name) for stream in STREAMS)
    assert max(found.values()) == 1, found


def test_a_routing_key_leads_to_one_queue() -> None:
    """RabbitMQ copies a message into each queue whose binding fits."""
    for stream in STREAMS:
        key = f"{stream.contract.topic}.0b5e3b2e-8f0a-4c6e-9d3a-1f2e3d4c5b6a"
        assert [queue for queue in QUEUES if fits(queue, key)] == [stream.queue]
        assert not fits(stream.queue, stream.contract.topic), "it names nobody"


def test_a_schema_is_named_after_its_topic() -> None:
    schemas = {queue: contract.schema for queue, contract in CONTRACTS.items()}
    assert schemas["platform.api_calls"] == "ninjait.api_call.v1"
    assert len({*schemas.values()}) == len(STREAMS)


def test_an_event_has_a_column_for_each_of_its_fields() -> None:
    """A field without a column would be dropped in silence, or would fail the whole batch."""
    stored = [stream for stream in STREAMS if stream.store == "clickhouse"]
    assert len(stored) == 3
    for stream in stored:
        fields = {*stream.contract.fields, "organization_id", "timestamp", "message_id"}
        fields |= {"device_id"} if stream.contract.device else set()
        assert {*written_columns(stream.table)} == fields


@pytest.mark.parametrize(
    ("queue", "field", "value", "stored"),
    [
        ("agent.heartbeats", "status", "maintenance", "maintenance"),
        ("agent.heartbeats", "status", "unknown", "not_one_of_online_offline_maintenance"),
        ("agent.heartbeats", "uptime_seconds", 2**53, 2**53),
        ("agent.heartbeats", "uptime_seconds", 2**53 + 2, "out_of_range"),
        ("agent.heartbeats", "uptime_seconds", -1, "negative"),
        ("agent.heartbeats", "uptime_seconds", None, None),
        ("agent.heartbeats", "agent_version", "", "empty"),
        ("agent.heartbeats", "agent_version", None, "missing"),
        ("platform.api_calls", "status_code", 100, 100),
        ("platform.api_calls", "status_code", 600, "out_of_range"),
        ("platform.api_calls", "response_time_ms", 0, 0.0),
        ("platform.api_calls", "endpoint", "x" * 501, "too_long"),
        ("platform.api_calls", "user_id", None, None),
        ("platform.api_calls", "user_id", "me", "not_an_id"),
        ("platform.usage", "storage_gb", "12.345", Decimal("12.345")),
        ("platform.usage", "storage_gb", 12.345, "decimal_not_as_text"),
        ("platform.usage", "backup_gb", None, "missing"),
        ("platform.logs", "message", "", ""),
        ("platform.logs", "message", "x" * 100_001, "too_long"),
        ("platform.logs", "level", "fatal", "not_one_of_debug_info_warning_error_critical"),
        ("platform.logs", "error", {"code": 5}, {"code": 5}),
        ("platform.logs", "error", {"$code": 5}, "not_storable"),
        ("agent.metrics", "cpu", 100.5, 100.0),
        ("agent.metrics", "memory", 100.5, 100.5),
    ],
)
def test_the_rules_of_each_stream(queue: str, field: str, value: Any, stored: Any) -> None:
    """`stored`: the value, or the code of its rejection."""
    try:
        found = field_value(field, CONTRACTS[queue].fields[field], {field: value})
    except ContractViolation as violation:
        found = violation.code
    assert (type(found), found) == (type(stored), stored)


def test_logs_belong_to_no_organization_s_key_and_need_no_device() -> None:
    logs = CONTRACTS["platform.logs"]
    assert (logs.routed_by, logs.device is not None and logs.device.required) == ("level", False)
    assert {contract.routed_by for queue, contract in CONTRACTS.items() if queue != "platform.logs"} == {
        "organization_id"
    }
