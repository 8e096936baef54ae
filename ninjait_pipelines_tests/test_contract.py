"""The contract's rules: which values they take, why they reject others; names and percentages in every format."""

import json
from decimal import Decimal
from functools import partial
from math import inf, nan
from typing import Any

import msgspec
import pytest

from ninjait_pipelines import contract
from ninjait_pipelines.contract import MAX_COUNTER, MAX_NUMBER, METRICS, ContractViolation, Field, Metrics, field_value
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

SURROGATE = "\ud800"


def rejected(rule: Any, value: Any) -> str:
    """The code with which a rule rejects a value; "" if it takes it."""
    try:
        rule(value)
    except ContractViolation as violation:
        return violation.code
    return ""


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, ""),
        (MAX_NUMBER, ""),
        (1e-300, ""),
        (MAX_NUMBER * 1.001, "out_of_range"),
        (10**400, "out_of_range"),
        (-1e-300, "negative"),
        (-(10**400), "negative"),
        (True, "boolean_as_number"),
        ("5", "number_as_text"),
        (None, "not_a_number"),
        ([5], "not_a_number"),
        (nan, "not_finite"),
        (inf, "not_finite"),
        (-inf, "not_finite"),
    ],
)
def test_which_numbers_are_taken(value: Any, code: str) -> None:
    assert rejected(contract.number, value) == code


def test_a_number_of_any_type_is_stored_as_a_float() -> None:
    """One integer in a field of floats blocked InfluxDB's batch."""
    assert [type(rule(5)) for rule in (contract.number, contract.percent, contract.counter)] == [float] * 3


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, ""),
        (MAX_COUNTER, ""),
        (5.0, ""),
        (MAX_COUNTER * 2, "out_of_range"),
        (0.5, "not_an_integer"),
        (-1, "negative"),
        (inf, "not_finite"),
    ],
)
def test_which_counters_are_taken(value: Any, code: str) -> None:
    assert rejected(contract.counter, value) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (100, ""),
        (599, ""),
        (99, "out_of_range"),
        (600, "out_of_range"),
        (-1, "negative"),
        (200.0, "not_an_integer"),
        (False, "boolean_as_number"),
        ("200", "number_as_text"),
    ],
)
def test_which_integers_are_taken(value: Any, code: str) -> None:
    assert rejected(partial(contract.integer, minimum=100, limit=599), value) == code


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (0, 0),
        (-1, -1),
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T01:00:00.0019+01:00", 1),
        ("1969-12-31T23:59:59.9999Z", -1),
    ],
)
def test_a_time_becomes_milliseconds_rounded_down(value: Any, milliseconds: int) -> None:
    assert contract.instant(value) == milliseconds


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("1970-01-01T00:00:01", "no_time_zone"),
        ("1970-01-01", "not_a_time"),
        ("1970-02-30T00:00:00Z", "not_a_time"),
        ("yesterday", "not_a_time"),
        (SURROGATE, "not_a_time"),
        (1.5, "not_a_time"),
        (True, "not_a_time"),
        (None, "not_a_time"),
    ],
)
def test_which_times_are_rejected(value: Any, code: str) -> None:
    assert rejected(contract.instant, value) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [("ab", ""), ("é" * 5, ""), ("", "empty"), ("x" * 6, "too_long"), (SURROGATE, "invalid_text"), (5, "not_text")],
)
def test_which_texts_are_taken(value: Any, code: str) -> None:
    assert rejected(partial(contract.text, limit=5), value) == code


def test_a_text_may_be_empty_where_its_field_allows_it() -> None:
    assert contract.text("", 5, minimum=0) == ""


@pytest.mark.parametrize("value", [None, 5, ["online"], "Online", ""])
def test_a_choice_is_one_of_its_words(value: Any) -> None:
    allowed = ("online", "offline")
    assert contract.choice("offline", allowed) == "offline"
    assert rejected(partial(contract.choice, allowed=allowed), value) == "not_one_of_online_offline"


ID = "0b5e3b2e-8f0a-4c6e-9d3a-1f2e3d4c5b6a"


@pytest.mark.parametrize("value", [ID, ID.upper(), f"{{{ID}}}", ID.replace("-", ""), f"urn:uuid:{ID}"])
def test_an_id_is_stored_in_its_canonical_spelling(value: str) -> None:
    """Two spellings of one id would be two devices."""
    assert contract.identifier(value) == ID


@pytest.mark.parametrize("value", [None, 5, "", ID[:-1], ID + "0", "x" * 32, b"0" * 16, SURROGATE])
def test_what_is_no_id(value: Any) -> None:
    assert rejected(contract.identifier, value) == "not_an_id"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("0", ""),
        ("999999999999.999999", ""),
        (1.5, "decimal_not_as_text"),
        (1, "decimal_not_as_text"),
        ("1000000000000", "not_a_decimal"),
        ("0.0000001", "not_a_decimal"),
        ("1.", "not_a_decimal"),
        (".5", "not_a_decimal"),
        ("1e3", "not_a_decimal"),
        ("NaN", "not_a_decimal"),
        ("+1", "not_a_decimal"),
        (" 1", "not_a_decimal"),
        ("1\n", "not_a_decimal"),
        ("١", "not_a_decimal"),
        ("-0.1", "negative"),
    ],
)
def test_which_decimals_are_taken(value: Any, code: str) -> None:
    """What would be rounded, or is no number to ClickHouse, is rejected here."""
    assert rejected(contract.decimal_text, value) == code


def test_a_decimal_keeps_every_digit() -> None:
    assert contract.decimal_text("999999999999.999999") == Decimal("999999999999.999999")


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return {"a": value}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, ""),
        ({"a": None, "b.c": [1, "x", {"$": 0}]}, "not_storable"),
        ({"a": [{"b": 2**63 - 1}], "b.c": True}, ""),
        ({"a": 2**63}, "not_storable"),
        ({"a": {"$set": 1}}, "not_storable"),
        ({"a\0b": 1}, "not_storable"),
        ({"a": [nan]}, "not_storable"),
        ({"a": SURROGATE}, "not_storable"),
        (nested(contract.MAX_DOCUMENT_DEPTH - 2), ""),
        (nested(contract.MAX_DOCUMENT_DEPTH - 1), "not_storable"),
        ([], "not_an_object"),
        (None, "not_an_object"),
    ],
)
def test_which_documents_mongodb_can_hold(value: Any, code: str) -> None:
    assert rejected(contract.document, value) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [([1], ""), ([1] * 1000, ""), ([1] * 1001, "too_many_samples"), ([], "no_samples"), ({}, "not_a_list")],
)
def test_how_many_samples_a_message_may_have(value: Any, code: str) -> None:
    assert rejected(contract.samples, value) == code


@pytest.mark.parametrize("body", [{}, {"a": None}])
def test_a_field_that_is_absent_or_null_is_missing_or_optional(body: dict[str, Any]) -> None:
    assert field_value("a", Field(contract.number, required=False), body) is None
    with pytest.raises(ContractViolation) as missing:
        field_value("a", Field(contract.number), body)
    assert (missing.value.code, missing.value.field) == ("missing", "a")


def test_a_violation_names_its_field() -> None:
    with pytest.raises(ContractViolation) as violation:
        field_value("a", Field(contract.number), {"a": -1})
    assert (violation.value.code, violation.value.field) == ("negative", "a")


def test_a_body_may_be_as_large_as_the_limit() -> None:
    contract.check_size(b"x" * 5, 5)
    with pytest.raises(ContractViolation, match="too_large"):
        contract.check_size(b"x" * 6, 5)


@pytest.mark.parametrize("name", METRICS.fields)
def test_the_struct_takes_no_value_that_its_rule_rejects(name: str) -> None:
    """The struct restates the rules for a faster decoder; whatever it took beyond them would be stored unchecked."""
    rule = METRICS.fields[name].rule
    for value in (0, 0.5, 100, 100.5, -0.5, -1, MAX_NUMBER, MAX_NUMBER * 2, 10**400, True, "5", [5]):
        body = metrics(sample(**{name: value}))
        try:
            msgspec.json.decode(msgspec.json.encode(body), type=Metrics)
        except msgspec.ValidationError:
            continue
        assert rejected(rule, value) == "", value


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
