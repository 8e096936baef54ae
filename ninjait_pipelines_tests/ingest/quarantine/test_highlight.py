"""What was refused is found in the original bytes, whatever these are."""

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.ingest.decode.message import decode_nothing
from ninjait_pipelines.ingest.quarantine.documents import make_document
from ninjait_pipelines.ingest.quarantine.edit import EditRejected, Edits
from ninjait_pipelines.ingest.quarantine.highlight import locate_errors
from ninjait_pipelines.ingest.quarantine.reasons import entries, read
from ninjait_pipelines.ingest.quarantine.replay import rebuild_message
from ninjait_pipelines.messages import Message
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.ingest.quarantine.helpers import (
    document_of,
    with_body,
)
from ninjait_pipelines_tests.ingest.samples import (
    EVENTS,
    NOW,
    ORG,
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
# (message, the text that is marked for each reason; None where it is not in the body)
MARKED: list[tuple[Message, list[str | None]]] = [
    (message(METRICS, metrics(sample(60), sample(30, cpu=-2, memory="x"))), ['"cpu": -2', '"memory": "x"']),
    (message(METRICS, b'{"samples": [], "schema": "x", "schema":\n\t"y"}'), ['"schema":\n\t"y"']),
    (message(METRICS, metrics(sample(device_id=1), device_id=NOBODY_KNOWS)), [f'"device_id": "{NOBODY_KNOWS}"']),
    (message(METRICS, metrics({"cpu": 1})), ['{"cpu": 1}']),
    (message(METRICS, metrics(5, sample())), ["5"]),
    (message(METRICS, {"schema": "ninjait.metrics.v1"}, routing_key=f"metrics.{ORG}"), [None]),
    (message(METRICS, b'{"cpu": 5,}'), ["}"]),
    (message(METRICS, b'{"a": "caf\xe9"}'), ["\\xe9"]),
    (message(METRICS, b"[" * 100_000), [None]),
    (message(METRICS, b"x" * 1_100_000), [None]),
    (message("platform.usage", EVENTS["platform.usage"] | {"storage_gb": 1.5}), ['"storage_gb": 1.5']),
    (message("platform.logs", EVENTS["platform.logs"] | {"error": {"$a": [1]}}), ['"error": {"$a": [1]}']),
    (
        telegraf(
            line("cpu", 'usage_user=1,note="usage_idle=5, x",usage_idle=102', cpu="cpu-total"),
            "bad line",
            line("mem", "used=5i", host="nobody"),
            line("net", "bytes_recv=-5i,bytes_sent=3i", interface="eth0"),
            "mem,host=lap-2 used=5i 99999999999999999",
            "mem,host=lap-2 used=5i",
            organization=ORG,
        ),
        [
            "usage_idle=102",
            "bad line",
            "host=nobody",
            "bytes_recv=-5i",
            "99999999999999999",
            "mem,host=lap-2 used=5i",
        ],
    ),
    (telegraf(line("mem", "used=5i"), organization="nobody"), [None]),
    (with_body(telegraf(), gzipped(line("mem", "used=5i", host="nobody").encode())), ["host=nobody"]),
    (
        collectd(
            value_list("memory", "memory", -5, type_instance="used"),
            value_list("interface", "if_octets", 5, -1, plugin_instance="eth0"),
            value_list("memory", "memory", 5, type_instance="used", host="nobody"),
            7,
        ),
        ["-5", "-1", '"host": "nobody"', "7"],
    ),
    (with_body(collectd(), b'[{"a": NaN}]'), ["N"]),
    (
        telegraf(
            line("disk", "free=5i,used=-1i", path="/", device="sda1"),
            line("disk", "free=5i", path="/" + "x" * 255),
            line("win_disk", "Free_Megabytes=-5,Percent_Free_Space=5", instance="C:"),
            line("win_cpu", "Percent_Idle_Time=-5", instance="_Total"),
            line("system", "load1=1,uptime=-1i"),
            organization=ORG,
        ),
        ["used=-1i", f"path=/{'x' * 255}", "Free_Megabytes=-5", "Percent_Idle_Time=-5", "uptime=-1i"],
    ),
    (
        collectd(
            value_list("df", "df_complex", -5, plugin_instance="root", type_instance="free"),
            value_list("df", "df_complex", 5, plugin_instance="x" * 256, type_instance="free"),
            value_list("uptime", "uptime", -7),
            organization=ORG,
        ),
        ["-5", f'"plugin_instance": "{"x" * 256}"', "-7"],
    ),
]
KEYS = st.sampled_from([f"metrics.{ORG}", "metrics.telegraf", f"metrics.collectd.{ORG}", "metrics.x"])
PIECES = st.sampled_from(
    [
        *(
            b'{"schema": "ninjait.metrics.v1"',
            b'"samples": [',
            b'"cpu": -2',
            json.dumps(metrics(sample(cpu=-2))).encode(),
        ),
        *(b"mem,host=a used=5i\n", b",host=", b"\x1f\x8b", b"\xff"),
        *(bytes([one]) for one in b'{}[],"\\ \n'),
    ]
)
BODIES = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join))


@pytest.mark.parametrize(("one", "expected"), MARKED, ids=range(len(MARKED)))
def test_what_was_refused_is_highlighted_in_the_original_bytes(one: Message, expected: list[str | None]) -> None:
    text, spans = locate_errors(document_of(one), one.body)
    assert [span and text[slice(*span)] for span in spans] == expected


def test_a_dead_letter_points_at_nothing() -> None:
    one = message(METRICS, metrics(sample()))
    document = make_document(one, decode_nothing(one, "dead_letter", "delivered 21 times"), "run", NOW)
    assert locate_errors(document, one.body)[1] == [None]


@examples(200)
@given(BODIES, KEYS)
def test_whatever_was_held_is_shown_and_changed_or_not_without_an_accident(body: bytes, key: str) -> None:
    one = message(METRICS, body, routing_key=key)
    document = document_of(one)
    text, spans = locate_errors(document, body)
    assert len(spans) == len(entries(read(document)))
    assert all(span is None or 0 <= span[0] < span[1] <= len(text) + 1 for span in spans)
    if document["reasons"]:
        for change in (Edits({"cpu": "1"}), Edits({"schema": "x"}), Edits(values={"a": "b"})):
            try:
                rebuild_message(document, body, change)
            except EditRejected:
                continue
