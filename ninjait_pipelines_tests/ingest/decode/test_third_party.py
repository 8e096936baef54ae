"""Messages of third-party agents of every format: packed, large, broken."""

import json
import time
import tracemalloc

import pytest

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.third_party import MAX_BYTES, MAX_ENTRIES
from ninjait_pipelines.ingest.quarantine.documents import make_document
from ninjait_pipelines.ingest.quarantine.replay import rebuild_message
from ninjait_pipelines.messages import Message
from ninjait_pipelines_tests.ingest.decode.decoding import MIB, PERIOD, decoded
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    REGISTRY,
    batch,
    collectd,
    gzipped,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("telegraf", b"", "not_line_protocol"),
        ("telegraf", b"\n# nothing\n", "not_line_protocol"),
        ("telegraf", json.dumps(metrics(sample())).encode(), "ninjait_json"),
        ("telegraf", b"mem used=1i 1\n\xff", "invalid_utf8"),
        ("telegraf", b"m f=1 1\n" * (MAX_ENTRIES + 1), "too_many_readings"),
        ("telegraf", b"x" * (2**24 + 1), "too_large"),
        ("collectd", b"", "not_json"),
        ("collectd", b"[{]", "not_json"),
        ("collectd", b'["\\ud800"]', "not_json"),
        ("collectd", b"[1" + b"0" * 5000 + b"]", "not_json"),
        ("collectd", b'{"values": []}', "not_a_list"),
        ("collectd", b"[]", "no_samples"),
        ("collectd", b"[" * 100_000, "nested_too_deeply"),
        ("collectd", b"[" + b"1," * MAX_ENTRIES + b"1]", "too_many_readings"),
    ],
)
def test_what_cannot_be_taken_at_all(key: str, body: bytes, reason: str) -> None:
    result = decoded(message("agent.metrics", body, routing_key=f"metrics.{key}.{ORG}", message_id=None))
    assert ([rejection.reason for rejection in result.rejections], result.whole) == ([reason], True)
    assert (result.points, result.points_accepted, result.organization_id) == (0, 0, ORG)


def packed(delivered: Message, body: bytes | None = None) -> Message:
    """The message as Telegraf publishes it with `content_encoding = "gzip"`."""
    fields = {"routing_key": delivered.routing_key, "content_type": delivered.content_type, "message_id": None}
    return message("agent.metrics", gzipped(delivered.body) if body is None else body, **fields)


def test_a_batch_packed_by_gzip_is_read_and_its_bad_lines_are_replayed_as_text() -> None:
    plain = telegraf(line("mem", f"used={MIB}i"), line("mem", "used=1i", host="nobody"), "oops")
    result, expected = decoded(packed(plain)), decoded(plain)
    assert (result.columns, result.rejections) == (expected.columns, expected.rejections)
    assert (result.points, result.points_accepted, result.rows) == (3, 1, [0])
    held = make_document(packed(plain), result, "run", NOW)
    again = rebuild_message(held, packed(plain).body)
    assert again == rebuild_message(make_document(plain, expected, "run", NOW), plain.body)
    assert again.body.startswith(b"mem,host=nobody")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzipped(b"mem used=1i 1\n" * 10)[:-9], "bad_gzip"),
        (gzipped(b"mem used=1i 1\n") + b"more", "bad_gzip"),
        (b"\x1f\x8b", "bad_gzip"),
        (b"\x1f\x8bnothing of the kind", "bad_gzip"),
        (gzipped(b"x" * 2 * MAX_BYTES), "too_large"),
        (gzipped(b"\xff"), "invalid_utf8"),
        (gzipped(b"{}"), "json"),
    ],
    ids=["cut", "more after it", "empty", "damaged", "bomb", "not text", "of another format"],
)
def test_what_cannot_be_unpacked_is_refused_whole(body: bytes, reason: str) -> None:
    result = decoded(packed(telegraf(organization=ORG), body))
    assert (result.whole, [one.reason for one in result.rejections]) == (True, [reason])
    assert (result.points, result.organization_id) == (0, ORG)


@pytest.mark.large
@pytest.mark.parametrize("packed", [False, True])
def test_a_large_batch_is_one_message_of_all_its_lines(packed: bool) -> None:
    """1,000 lines of 1.2 kB are a batch of Telegraf's by default, and 20,000 short ones somebody's own."""
    for one in (batch(1_000, 1_150), batch(20_000, 1)):
        body = gzipped(one.body) if packed else one.body
        result = decode(message("agent.metrics", body, routing_key=one.routing_key, message_id=None), REGISTRY, PERIOD)
        assert (result.points_accepted, result.rejections) == (one.body.count(b"\n"), [])
    bad = one.body + b"oops\n"
    result = decode(message("agent.metrics", bad, routing_key=one.routing_key, message_id=None), REGISTRY, PERIOD)
    assert (result.points_accepted, [one.reason for one in result.rejections]) == (20_000, ["bad_line"])


@pytest.mark.large
def test_a_large_list_of_collectd_s_is_taken() -> None:
    lists = [value_list("memory", "memory", n, type_instance="used", seconds_ago=n % 3600) for n in range(12_000)]
    delivered = collectd(*lists, organization=ORG)
    assert len(delivered.body) > 2 * MIB
    assert decode(delivered, REGISTRY, PERIOD).points_accepted == 12_000


@pytest.mark.parametrize("of", [b"{},", b"[],", b"1,", b'"",', b"null,"])
def test_junk_of_16_mib_takes_bounded_memory_and_time(of: bytes) -> None:
    body = b"[" + of * ((MAX_BYTES - 4) // len(of)) + b"1]"
    delivered = message("agent.metrics", body, routing_key=f"metrics.collectd.{ORG}", message_id=None)
    tracemalloc.start()
    started = time.thread_time()
    try:
        assert [one.reason for one in decode(delivered, REGISTRY, PERIOD).rejections] == ["too_many_readings"]
        assert tracemalloc.get_traced_memory()[1] < 150 * MIB
    finally:
        tracemalloc.stop()
    assert time.thread_time() - started < 5
