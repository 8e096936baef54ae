"""Edits of a quarantined message: what they change, and what they refuse."""

import json
import uuid
from typing import Any

import pytest

from ninjait_pipelines.contract import ContractViolation
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.quarantine import edit as mend
from ninjait_pipelines.ingest.quarantine.edit import EditRejected, Edits
from ninjait_pipelines.ingest.quarantine.highlight import locate_errors
from ninjait_pipelines.ingest.quarantine.replay import rebuild_message
from ninjait_pipelines.messages import Message, Outgoing
from ninjait_pipelines.streams import CONTRACTS
from ninjait_pipelines_tests.ingest.quarantine.helpers import (
    PERIOD,
    document_of,
    with_body,
)
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    collectd,
    gzipped,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)

METRICS = "agent.metrics"
NOBODY_KNOWS = str(uuid.UUID(int=9))
TYPED: list[tuple[str, str, str, Any]] = [
    ("platform.usage", "storage_gb", "2.50", "2.50"),
    ("agent.metrics", "agent_version", "2.10", "2.10"),
    ("agent.metrics", "agent_version", '"2.10"', "2.10"),
    ("agent.metrics", "agent_version", "null", None),
    ("agent.heartbeats", "agent_version", "2", "2"),
    ("agent.heartbeats", "status", "true", "true"),
    ("agent.heartbeats", "uptime_seconds", "7", 7),
    ("agent.heartbeats", "timestamp", "1700000000000", 1_700_000_000_000),
    ("agent.heartbeats", "timestamp", "2026-03-01T10:00:00Z", "2026-03-01T10:00:00Z"),
    ("platform.api_calls", "endpoint", "5", "5"),
    ("platform.logs", "message", '{"a": 1}', '{"a": 1}'),
    ("platform.logs", "error", '{"a": 1}', {"a": 1}),
]


def edited(one: Message, change: Edits) -> Outgoing:
    return rebuild_message(document_of(one), one.body, change)


def accepted(outgoing: Outgoing) -> tuple[int, int]:
    """(points, of them accepted) once it is published."""
    again = message(outgoing.queue, outgoing.body, routing_key=outgoing.routing_key, content_type=outgoing.content_type)
    decoded = decode(again, REGISTRY, PERIOD)
    return decoded.points, decoded.points_accepted


def test_a_field_is_set_in_those_samples_only_that_were_rejected_for_it() -> None:
    one = message(METRICS, metrics(sample(60, cpu=-2), sample(50, cpu=7), sample(40, cpu=8, memory=-1), "bad"))
    body = json.loads(rebuild_message(document_of(one), one.body).body)
    assert [type(row) for row in body["samples"]] == [dict, dict, str], "of the rejected ones, in their order"
    with pytest.raises(EditRejected, match="is not a JSON object"):
        edited(one, Edits({"cpu": "5"}))
    one = message(METRICS, metrics(sample(60, cpu=-2), sample(50, cpu=7), sample(40, cpu=8, memory=-1)))
    result = edited(one, Edits({"cpu": "5"}))
    assert [row["cpu"] for row in json.loads(result.body)["samples"]] == [5, 8]
    assert accepted(result) == (2, 1)
    assert accepted(edited(one, Edits({"cpu": "null", "memory": "1"}))) == (2, 2)
    with pytest.raises(
        EditRejected, match="none of its samples was rejected for uptime, but for cpu: negative, memory"
    ):
        edited(one, Edits({"uptime": "5"}))


def test_a_message_keeps_its_id_whatever_is_changed() -> None:
    """Ids were made from the new content. A call that was mended in two ways, because the first replay was killed, was
    billed twice; and two calls that differed in nothing but their id were billed once."""
    one = message(METRICS, metrics(sample(), device_id=NOBODY_KNOWS))
    first, second = (edited(one, Edits(values={NOBODY_KNOWS: DEVICE})) for _ in range(2))
    assert first == second == edited(one, Edits({"device_id": DEVICE}))
    assert (first.message_id, accepted(first)) == (one.message_id, (1, 1))
    part = message(METRICS, metrics(sample(60), sample(30, cpu=-2)))
    assert (
        edited(part, Edits({"cpu": "5"})).message_id == edited(part, Edits({"cpu": "6"})).message_id != part.message_id
    )
    calls = [message("platform.api_calls", EVENTS["platform.api_calls"] | {"method": 1}, number) for number in (1, 2)]
    assert [edited(call, Edits({"method": "GET"})).message_id for call in calls] == [call.message_id for call in calls]


def test_what_a_body_says_of_its_organization_is_no_routing_key() -> None:
    """One organization's sender named another one in its bodies, which nobody knew any more; mapped with all others to
    its successor, it came in under the successor's routing key."""
    forged = message(METRICS, metrics(sample(), organization_id=NOBODY_KNOWS), routing_key=f"metrics.{OTHER_ORG}")
    assert document_of(forged)["reasons"][0]["reason"] == "unknown_organization"
    result = edited(forged, Edits(values={NOBODY_KNOWS: ORG}))
    assert (result.routing_key, accepted(result)) == (f"metrics.{OTHER_ORG}", (1, 0))


def test_a_change_that_would_lose_or_mean_nothing_is_refused() -> None:
    one = message(METRICS, metrics(sample(timestamp=0, cpu=1), sample(timestamp=1, cpu=2)))
    with pytest.raises(EditRejected, match="several of its samples would get the same timestamp"):
        edited(one, Edits({"timestamp": NOW.isoformat()}))
    one = message(METRICS, metrics(sample(timestamp=0)))
    assert accepted(edited(one, Edits({"timestamp": NOW.isoformat()}))) == (1, 1)
    for name in ("error.code", "samples.0.cpu", "message_id", "cpus"):
        with pytest.raises(EditRejected, match=f"agent.metrics has no field {name}; it has schema, .*, cpu, memory"):
            edited(one, Edits({name: "1"}))


@pytest.mark.parametrize(("queue", "name", "typed", "meant"), TYPED)
def test_what_is_typed_is_text_where_the_field_takes_text(queue: str, name: str, typed: str, meant: Any) -> None:
    body = b'{"x": 1}'
    one = message(queue, body, routing_key=f"{CONTRACTS[queue].topic}.{ORG}")
    assert json.loads(edited(one, Edits({name: typed})).body) == {"x": 1, name: meant}


def test_every_field_is_known_as_one_of_text_or_not() -> None:
    """A rule of text that mend.py does not know would get its numbers as JSON, and refuse them."""
    fields = {(queue, name): field.rule for queue, one in CONTRACTS.items() for name, field in one.fields.items()}
    for (queue, name), rule in fields.items():
        takes_text = getattr(rule, "func", rule) in mend._RULES_OF_TEXT
        try:
            rule(100)
            takes_number = True
        except ContractViolation as refused:
            takes_number = str(refused) == "not_an_object"
        assert takes_text != takes_number, (queue, name)


def test_the_tags_of_a_good_line_are_found_at_once_however_it_is_escaped() -> None:
    """A good line whose first field begins with a quote took minutes, and was left as it was."""
    host = r"\," * 200 + "x"
    one = with_body(telegraf(organization=ORG), rf'm\,a=old,host={host},b=old "a=5,used=6i'.encode() + b"\nbad")
    text, [span] = locate_errors(document_of(one), one.body)
    assert span
    assert text[slice(*span)] == "bad"
    whole = {**document_of(one), "whole": True}
    result = rebuild_message(whole, one.body, Edits(values={"old": "new", "," * 200 + "x": "lap-1"}))
    assert result.body == rb'm\,a=old,host=lap-1,b=new "a=5,used=6i' + b"\nbad"


@pytest.mark.parametrize(
    "change", [Edits({"organization_id": OTHER_ORG}), Edits(values={ORG: OTHER_ORG})], ids=["set", "map"]
)
def test_the_routing_key_follows_the_organization(change: Edits) -> None:
    one = message(METRICS, metrics(sample(), device_id=OTHER_DEVICE))
    assert document_of(one)["reasons"][0]["reason"] == "device_of_another_organization"
    result = edited(one, change)
    assert (result.routing_key, accepted(result)) == (f"metrics.{OTHER_ORG}", (1, 1))


def test_a_body_that_is_not_of_its_routing_key_can_be_put_right_either_way() -> None:
    one = message(METRICS, metrics(sample()), routing_key=f"metrics.{OTHER_ORG}")
    assert edited(one, Edits({"organization_id": ORG})).routing_key == f"metrics.{ORG}"
    assert edited(one, Edits(values={OTHER_ORG: ORG})).routing_key == f"metrics.{ORG}"
    event = message("platform.logs", EVENTS["platform.logs"] | {"level": "eror"})
    result = edited(event, Edits(values={"eror": "error"}))
    assert (result.routing_key, accepted(result)) == ("log.error", (1, 1))
    for value in ("null", "a.b", "a#", ""):
        with pytest.raises(EditRejected, match="organization_id is part of the routing key"):
            edited(one, Edits({"organization_id": value}))


def test_a_whole_value_is_replaced_wherever_it_stands_and_no_part_or_name_of_one() -> None:
    body = EVENTS["platform.logs"] | {
        "error": {"old": ["old", {"in": "old"}, "older", 5]},
        "service": "old",
        "level": 1,
    }
    result = edited(message("platform.logs", body, routing_key="log.1"), Edits({"level": "info"}, {"old": "new"}))
    changed = json.loads(result.body)
    assert changed["error"] == {"old": ["new", {"in": "new"}, "older", 5]}
    assert (changed["service"], result.routing_key) == ("new", "log.info")


@pytest.mark.parametrize("packed", [False, True])
def test_the_host_of_line_protocol(packed: bool) -> None:
    text = "\n".join(
        [
            line("mem", 'used=5i,note="a b,host=old,x=1"', host=r"old\ na\,me"),
            "no line, host=old name",
            "# comment,host=x y=1",
            line("mem", "used=6i", host="lap-2"),
            line("cpu", "usage_idle=50", host=r"old\ na\,me", cpu="cpu-total"),
        ]
    ).encode()
    one = with_body(telegraf(organization=ORG), gzipped(text) if packed else text)
    result = edited(one, Edits(values={"old na,me": "lap-1"}))
    assert accepted(result) == (3, 2)
    assert b'note="a b,host=old,x=1"' in result.body
    assert result.body.count(b",host=lap-1 ") == 2
    with pytest.raises(EditRejected, match="change nothing"):
        edited(one, Edits(values={"old": "lap-1"}))
    with pytest.raises(EditRejected, match="--map changes hosts and tags"):
        edited(one, Edits({"host": "lap-1"}))
    for bad in ("", "a\\", "a\nb"):
        with pytest.raises(EditRejected, match="cannot be a tag's value"):
            edited(one, Edits(values={"old na,me": bad}))


def test_a_host_is_escaped_as_line_protocol_wants_it() -> None:
    one = telegraf(line("mem", "used=5i", host="old"), organization=ORG)
    result = edited(one, Edits(values={"old": "a b,c=d"}))
    assert rb",host=a\ b\,c\=d " in result.body
    decoded = decode(message(METRICS, result.body, routing_key=one.routing_key), REGISTRY, PERIOD)
    assert decoded.rejections[0].value == repr("a b,c=d")


def test_the_organization_of_another_agents_routing_key() -> None:
    one = telegraf(line("mem", "used=5i"), "# comment", "bad", organization="customer-7")
    result = edited(one, Edits(values={"customer-7": ORG}))
    assert (result.routing_key, result.body) == (f"metrics.telegraf.{ORG}", one.body)
    assert accepted(result) == (2, 1)


def test_the_host_of_collectd() -> None:
    one = collectd(
        value_list("memory", "memory", 5, type_instance="used", host="old"),
        value_list("memory", "memory", 6, type_instance="used"),
        organization=ORG,
    )
    result = edited(one, Edits(values={"old": "lap-1"}))
    assert (len(json.loads(result.body)), accepted(result)) == (1, (1, 1))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"cpu=5", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"5", "not a JSON object"),
        (b'{"schema": 1}', None),
    ],
)
def test_what_cannot_be_changed_says_why(body: bytes, says: str | None) -> None:
    change = Edits({"schema": "ninjait.metrics.v1"}, {"x": "y"})
    if says:
        with pytest.raises(EditRejected, match=says):
            edited(message(METRICS, body, routing_key=f"metrics.{ORG}"), change)
    else:
        assert json.loads(edited(message(METRICS, body), change).body) == {"schema": "ninjait.metrics.v1"}
    with pytest.raises(EditRejected, match="it cannot be read: bad_gzip"):
        edited(with_body(telegraf(), b"\x1f\x8bxx"), Edits(values={"x": "y"}))
