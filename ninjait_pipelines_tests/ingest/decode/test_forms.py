"""A message that cannot be read is rejected as what it is, so that its sender learns what to configure."""

import bz2
import gzip
import json
import lzma
import zlib

import pytest

from ninjait_pipelines.ingest.decode.forms import form_of
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines.ingest.decode.third_party import MEBIBYTE
from ninjait_pipelines_tests.ingest.decode.decoding import (
    PERIOD,
)
from ninjait_pipelines_tests.ingest.samples import (
    ORG,
    REGISTRY,
    line,
    message,
    metrics,
    sample,
    value_list,
)

USED = line("mem", f"used={MEBIBYTE}i")
LINES = f"{USED}\n{line('mem', 'used=0i', 50)}\n"
LISTS = json.dumps([value_list("memory", "memory", MEBIBYTE, type_instance="used")])
OURS = json.dumps(metrics(sample()))
TELEGRAF_JSON = json.dumps({"fields": {"used": 5}, "name": "mem", "tags": {"host": "lap-2"}, "timestamp": 1})
TELEGRAF_BATCH = json.dumps({"metrics": [json.loads(TELEGRAF_JSON)]})
PROMETHEUS = '# HELP mem_used used\n# TYPE mem_used gauge\nmem_used{host="lap-2"} 5\n'
MSGPACK = b"\x84\xa4name\xa3mem\xa4time\xd6\xff\x00\x00\x00\x05\xa4tags\x80\xa6fields\x81\xa4used\x05"
BINARY = b"\x00\x00\x00\x0alap-2\x00\x00\x08\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x01"
ZSTD, SNAPPY = b"\x28\xb5\x2f\xfd\x04\x00A\x00\x00x", b"\xff\x06\x00\x00sNaPpY\x01\x05"
FORMS = [
    (ZSTD, "zstd"),
    (SNAPPY, "snappy"),
    (zlib.compress(LINES.encode(), 1), "zlib"),
    (zlib.compress(LINES.encode()), "zlib"),
    (zlib.compress(LINES.encode(), 9), "zlib"),
    (bz2.compress(b"x"), "bzip2"),
    (lzma.compress(b"x"), "xz"),
    (b"\x04\x22\x4d\x18\x64", "lz4"),
    (MSGPACK, "msgpack"),
    (BINARY, "collectd_binary"),
    (LINES.encode("utf-16"), "utf_16"),
    (LINES.encode("utf-16-le"), "utf_16"),
    (OURS.encode("utf-16-be"), "utf_16"),
    (b"\xfe\xff" + LISTS.encode("utf-16-be"), "utf_16"),
    (OURS.encode("utf-32"), "utf_32"),
    (PROMETHEUS.encode(), "prometheus_text"),
    (b'mem_used{host="lap-2"} 5\n', "prometheus_text"),
    (b"hosts.lap-2.mem.used 5 1795298000\n", "graphite"),
    (b"mem.used;host=lap-2 5.5 1795298000\r\n", "graphite"),
    (b'PUTVAL "lap-2/memory/memory-used" interval=10.000 1795298000.352:5\r\n', "collectd_command"),
    (json.dumps({"resourceMetrics": []}).encode(), "otlp_json"),
    (TELEGRAF_JSON.encode(), "telegraf_json"),
    (TELEGRAF_BATCH.encode(), "telegraf_json"),
    (f"{TELEGRAF_JSON}\n{TELEGRAF_JSON}\n".encode(), "telegraf_json"),
]


def codes(result: Decoded) -> list[str]:
    return [one.reason for one in result.rejections]


def result_of(key: str, body: bytes, kind: str = "text/plain") -> Decoded:
    return decode(
        message("agent.metrics", body, routing_key=f"{key}.{ORG}", content_type=kind, message_id=None),
        REGISTRY,
        PERIOD,
    )


@pytest.mark.parametrize(("body", "form"), FORMS, ids=lambda one: repr(one)[:40])
@pytest.mark.parametrize(("key", "kind"), [("metrics.telegraf", ""), ("metrics.collectd", ""), ("metrics", "")])
def test_a_form_that_is_not_taken_is_named(key: str, kind: str, body: bytes, form: str) -> None:
    """Telegraf's `data_format = "json"` was refused as `not_line_protocol`, and zstd as `invalid_utf8`."""
    for packed in (body, gzip.compress(body, mtime=0)) if key != "metrics" else (body,):
        result = result_of(key, packed, kind)
        assert (result.whole, codes(result), result.points) == (True, [form], 0)


@pytest.mark.parametrize(
    ("key", "body", "form"),
    [
        ("metrics.telegraf", LISTS.encode(), "collectd_json"),
        ("metrics.telegraf", OURS.encode(), "ninjait_json"),
        ("metrics.telegraf", b'{"a": 1}', "json"),
        ("metrics.telegraf", b"[1]", "json"),
        ("metrics.collectd", LINES.encode(), "line_protocol"),
        ("metrics", LINES.encode(), "line_protocol"),
        ("metrics", gzip.compress(OURS.encode(), mtime=0), "gzip"),
        ("metrics.telegraf", gzip.compress(gzip.compress(LINES.encode(), mtime=0), mtime=0), "gzip"),
    ],
)
def test_a_good_form_in_the_wrong_place_is_named_too(key: str, body: bytes, form: str) -> None:
    assert codes(result_of(key, body, "application/json")) == [form]


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("metrics.telegraf", b"", "not_line_protocol"),
        ("metrics.telegraf", b"mem used", "not_line_protocol"),
        ("metrics.telegraf", LINES.encode() + b"\xff", "invalid_utf8"),
        ("metrics.collectd", LISTS.encode()[:-1], "not_json"),
        ("metrics.collectd", b'{"a": 1}', "not_a_list"),
        ("metrics", OURS.encode()[:-1], "not_json"),
        ("metrics", b'{"a": 1}', "wrong_schema"),
        ("metrics", b"[1]", "not_an_object"),
        ("metrics", b"\xff\xfe not even text", "invalid_utf8"),
    ],
)
def test_what_is_of_its_form_and_broken_is_not_renamed(key: str, body: bytes, reason: str) -> None:
    assert codes(result_of(key, body, "application/json")) == [reason]


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"{", b" " * 5000, b"#" * 5000, b"a." * 2500, b"a,b=c" * 1000, b"\xff" * 9]
)
def test_guessing_is_quick_and_never_raises(body: bytes) -> None:
    form_of(body)


@pytest.mark.parametrize("mark", ["\ufeff", "", "\ufeff\r\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_order_mark_and_crlf_cost_no_reading(mark: str, end: str, packed: bool) -> None:
    """PowerShell writes a mark before what it writes, and the first line of every batch was a bad one."""
    texts: list[tuple[str, str, int]] = [
        ("metrics.telegraf", LINES.replace("\n", end), 2),
        ("metrics.telegraf", LINES.replace("\n", end + "\ufeff").removesuffix("\ufeff"), 2),
        ("metrics.collectd", json.dumps(json.loads(LISTS), indent=1).replace("\n", end), 1),
    ]
    if not packed:
        texts += [
            ("metrics", json.dumps(json.loads(OURS), indent=1).replace("\n", end), 1),
            ("metrics", json.dumps(json.loads(LISTS), indent=1).replace("\n", end), 1),
        ]
    for key, text, points in texts:
        body = (mark + text).encode()
        kind = "text/plain" if "telegraf" in key else "application/json"
        result = result_of(key, gzip.compress(body, mtime=0) if packed else body, kind)
        assert (codes(result), result.points_accepted) == ([], points)
