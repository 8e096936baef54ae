"""Mutation fuzzing of the one way in: `python -m ninjait_pipelines_tests.ingest.decode.fuzz --minutes 10`.

Messages of every queue and format are damaged, a little or a lot, and decoded; `check` says what must hold of whatever
comes out. A message with an outcome that was not seen before is damaged further, so the walk goes on from the odd ones.
A finding is printed as the code of the message that showed it, to be kept as a test.
"""

import argparse
import gzip
import json
import random
import re
import time
import traceback
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from ninjait_pipelines.contract import MAX_COUNTER, MAX_NUMBER
from ninjait_pipelines.ingest.decode.json_fast import decode_good_metrics
from ninjait_pipelines.ingest.decode.line_protocol_fast import decode_good_lines
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import HOST_REASONS, Decoded, Period
from ninjait_pipelines.ingest.decode.readings import decode_third_party
from ninjait_pipelines.ingest.decode.routing import format_of, organization_of
from ninjait_pipelines.ingest.decode.rules import decode_by_rules
from ninjait_pipelines.ingest.decode.telegraf import LINE_PROTOCOL
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.model import COUNTERS, FIELDS, POINTS, VOLUMES
from ninjait_pipelines.streams import CONTRACTS
from ninjait_pipelines_tests.ingest.samples import (
    ANYBODY,
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    collectd,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)

PERIOD = Period.at(NOW)
MEMORY_STATES = ("used", "buffered", "cached", "free", "slab_unrecl", "slab_recl")
# JSON of values that senders get wrong, and of some that lie at an edge; not all of it is JSON.
WORDS = "null true false 0 -0 -0.0 0.1 1 -1 100 100.00000000000001 1e15 1000000000000001 1e-320 5e-324 1e308 1e999"
WORDS += (
    " 9007199254740993 9223372036854775808 18446744073709551616 NaN Infinity -Infinity 01 1. .5 1e +1 0x10 [] {} [1]"
)
WORDS += ' {"a":1} "" "1" "12.5" "123456789012.123456" "\\ud800" "\\u0000" "\\ud83d\\ude00" "\\n" "\\u0063pu" -1e999'
VALUES = [*WORDS.split(), '"online"', '"error"']
VALUES += ["9" * 400, "-" + "9" * 5000, "[" * 30 + "]" * 30, "[" * 2000, '"' + "x" * 300 + '"', '"\x01"', '"é"']
VALUES += [json.dumps(text) for text in (ORG, OTHER_ORG.upper(), DEVICE, OTHER_DEVICE, NOW.isoformat())]
VALUES += ['"2026-01-01T00:00:00"', '"2026-02-30T00:00:00Z"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:60Z"']
VALUES += [str(int(NOW.timestamp() * 1000)), str(PERIOD.oldest), str(PERIOD.newest + 1), json.dumps(NOW.timestamp())]
TOKENS = [text.encode() for text in VALUES] + [
    *(b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"\n", b"\r\n", b"\0", b" ", b"=", b"#", b"i", b"u", b"e", b"-"),
    *(b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc0\xaf", b"\x1f\x8b", b'"cpu":', b'"samples":[', b'"timestamp":'),
    *(b",host=lap-2", b"usage_idle=", b"cpu,cpu=cpu-total ", b"net,interface=eth0,host=lap-2 ", b'bytes_recv="a\nb"'),
    *(b",used=7i", b"x", b"7", b".", b"-0", b"1e1", b"t", b'"a, b"', b'"a=b"', b"\\ ", b"\\\\ ", b"\\,", b"\\=", b"\t"),
]
_WORD = re.compile(rb"""[^][{}:,= \n"\\]+""")
KINDS = ["application/json", "APPLICATION/JSON; charset=utf-8", "", "text/plain", "application/vnd.influx.lines", "x/y"]
KEYS = ["", ".", "metrics", "metrics.", "metrics.telegraf", f"metrics.telegraf.{ORG}", "metrics.collectd", "log.debug"]
KEYS += [f"metrics.{OTHER_ORG}", f"metrics.collectd.{ORG}", f"usage.{ORG}", "metrics.telegraf..", "metrics.\ud800"]
# What collectd sends of ours, and a line of Telegraf's at its simplest: written down once more, not taken from the
# tables by which the decoder reads.
READINGS = {"cpu/percent/idle/": ("value",), "cpu/percent/active/": ("value",), "memory/memory/used/": ("value",)}
READINGS |= {"uptime/uptime//": ("value",), "interface/if_octets/": ("rx", "tx")}
READINGS |= {f"aggregation/percent/{state}/cpu-average": ("value",) for state in ("idle", "active")}
# Of these one reading may be spread over several value lists.
SPREAD = re.compile(r"cpu/percent/(idle|active)/\d+|df/df_complex/(used|free)/.+", re.ASCII | re.DOTALL)
_SIMPLE_READING = re.compile(
    r"(cpu,cpu=cpu-total,host=[a-z0-9-]+ usage_idle=|mem,host=[a-z0-9-]+ used=|disk,host=[a-z0-9-]+,path=/ used="
    r"|system,host=[a-z0-9-]+ uptime=|net,host=[a-z0-9-]+,interface=eth\d (bytes_recv|bytes_sent)=)[^ ]+ [0-9]{19}"
)


class Decoders(NamedTuple):
    """What is checked: the entrance, and each way that a message may go."""

    decode: Callable[..., Decoded] = decode
    good_metrics: Callable[..., Decoded | None] = decode_good_metrics
    by_rules: Callable[..., Decoded] = decode_by_rules
    good_lines: Callable[..., Decoded | None] = decode_good_lines
    third_party: Callable[..., Decoded] = decode_third_party


OURS = Decoders()


def check(incoming: Message, decoders: Decoders = OURS, values: bool = True, count: bool = True) -> Decoded:
    """Decodes a message and asserts all that must hold, whatever it was; `values` and `count` compare with other
    readers."""
    result = decoders.decode(incoming, ANYBODY, PERIOD)
    indexes = {rejection.index for rejection in result.rejections}
    assert result.points_accepted >= 0
    for rejection in result.rejections:
        assert rejection.reason
        assert len(rejection.value) <= (1000 if rejection.reason in HOST_REASONS else 200)
    rows = _rows(result.columns, result.rows)
    counter_rows = _rows(result.counters, result.counter_rows)
    volume_rows = _rows(result.volumes, result.volume_rows)
    assert len(rows) + len(counter_rows) + len(volume_rows) == result.points_accepted
    if result.whole:
        assert indexes == {None}
    elif incoming.queue == "agent.metrics":
        taken = {*rows, *counter_rows, *volume_rows}
        assert len(taken) == result.points_accepted  # no row is of the same sample as another one
        assert not taken & indexes
        assert len(taken | indexes) == result.points
    if count:
        _check_count(incoming, result)
    (_check_metrics if incoming.queue == "agent.metrics" else _check_event)(incoming, result)
    if fast := fast_path(incoming, decoders):
        if _is_line_protocol(incoming):
            slow = decoders.third_party(incoming, LINE_PROTOCOL, ANYBODY, PERIOD)
        else:
            slow = decoders.by_rules(incoming, ANYBODY, PERIOD)
            if values:
                _check_values(json.loads(incoming.body)["samples"], fast)
        assert fast == slow == result
        assert repr(fast) == repr(slow)  # which tells -0.0 from 0.0, and 1 from 1.0
    return result


def fast_path(incoming: Message, decoders: Decoders = OURS) -> Decoded | None:
    """What the fast path of its format makes of a message, if it takes it."""
    if _is_line_protocol(incoming):
        return decoders.good_lines(incoming, ANYBODY, PERIOD)
    return decoders.good_metrics(incoming, ANYBODY, PERIOD) if incoming.queue == "agent.metrics" else None


def _check_count(incoming: Message, result: Decoded) -> None:
    """Nothing was skipped: all that was sent is accepted or rejected, as counted by a reader that is not the decoder's.

    Of what the decoder can refuse whole before it reads it, and does, nothing is known.
    """
    format_ = format_of(incoming.queue, incoming.routing_key, incoming.content_type, incoming.body)
    handled = {*_rows(result.columns, result.rows), *_rows(result.counters, result.counter_rows)}
    handled |= {*_rows(result.volumes, result.volume_rows)}
    handled |= {rejection.index for rejection in result.rejections if rejection.index is not None}
    if format_ and result.whole:
        assert result.points == 0
    elif format_ is LINE_PROTOCOL:
        assert _simple_readings(_unpacked(incoming.body)) <= handled
    elif format_:
        kinds = [_kind_of(one) for one in json.loads(_unpacked(incoming.body))]
        assert {at for at, kind in enumerate(kinds) if kind == "point"} <= handled
        assert handled <= {at for at, kind in enumerate(kinds) if kind != "nothing"}
    elif not result.whole or result.rejections[0].field:  # a body that has fields was read
        body = json.loads(incoming.body.decode("utf-8-sig"), parse_int=float)
        samples = body.get("samples") if incoming.queue == "agent.metrics" else [body]
        assert result.points == (len(samples) if isinstance(samples, list) else 0)
        assert result.whole or incoming.queue != "agent.metrics" or handled == {*range(result.points)}
    else:
        assert result.points == 0


def _unpacked(body: bytes) -> str:
    return (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body).decode().removeprefix("\ufeff")


def _simple_readings(text: str) -> set[int]:
    """Which lines are readings that we know, among the lines whose meaning is plain to see; the others are skipped.

    Without quotes and backslashes in the text, a line ends where it seems to.
    """
    lines = [] if '"' in text or "\\" in text else text.split("\n")
    return {at for at, one in enumerate(lines) if _SIMPLE_READING.fullmatch(one)}


def _kind_of(value_list: Any) -> str:
    """What a value list of collectd's is: a "point", which is a reading that we know, or what cannot be read; a "part"
    of one, which may be in another's; "nothing"."""
    if not isinstance(value_list, dict):
        return "point"
    parts = [value_list.get(name) for name in ("dsnames", "values", "dstypes")]
    if not all(isinstance(part, list) for part in parts) or len({len(part) for part in parts}) > 1:
        return "point"
    names, values, types = parts
    what = [value_list.get(name, "") for name in ("plugin", "type", "type_instance", "plugin_instance")]
    network = what[0] == "interface"
    if not all(isinstance(one, str) for one in names + types):
        return "point"
    if any(isinstance(one, list | dict) for one in (what[:3] if network else what)):
        return "point"
    key, last = "/".join(map(str, what[:3] if network else what)), dict(zip(names, values, strict=True))
    if SPREAD.fullmatch(key):
        return "part" if last.get("value") is not None else "nothing"
    if network and (is_stacked(what[3]) or not {*types} <= {"counter", "derive"}):
        return "nothing"
    return "point" if any(last.get(name) is not None for name in READINGS.get(key, ())) else "nothing"


def is_stacked(interface: Any) -> bool:
    """Of the interfaces that these tests know."""
    return isinstance(interface, str) and bool(re.fullmatch(r"lo\d*|br\d+|docker.*|.*\.20", interface, re.IGNORECASE))


def _is_line_protocol(incoming: Message) -> bool:
    return format_of(incoming.queue, incoming.routing_key, incoming.content_type, incoming.body) is LINE_PROTOCOL


def _check_values(samples: Sequence[Mapping[str, Any]], result: Decoded) -> None:
    """All samples were taken, and what was taken of them is what another reader of JSON reads."""
    for name in FIELDS:
        sent = [sample.get(name) for sample in samples]
        assert repr([*result.columns[name]]) == repr([None if value is None else float(value) for value in sent])


def _rows(columns: Mapping[str, Sequence[Any]], rows: Sequence[int]) -> Sequence[int]:
    """Of which sample or line each row of the columns is."""
    assert len({len(values) for values in columns.values()}) <= 1
    count = len(next(iter(columns.values()), ()))
    assert len(rows) in (0, count)
    return rows or range(count)


def _check_metrics(incoming: Message, result: Decoded) -> None:
    for columns, schema in ((result.columns, POINTS), (result.counters, COUNTERS), (result.volumes, VOLUMES)):
        if not columns:
            continue
        assert list(columns) == schema.names
        for name, values in columns.items():
            pa.array(values, pa.int64() if name == "time" else schema.field(name).type)
        assert all(ANYBODY.devices[device] == of for of, device in zip(*_key(columns), strict=True))
        organization = organization_of(incoming.routing_key)
        assert organization is None or set(columns["organization_id"]) == {organization}
        oldest = PERIOD.oldest if schema is POINTS else PERIOD.oldest_counter
        assert all(type(moment) is int and oldest <= moment <= PERIOD.newest for moment in columns["time"])
        fields = [columns[name] for name in schema.names[schema.get_field_index("time") + 1 :]]
        assert (None,) * len(fields) not in zip(*fields, strict=True)
        if schema is VOLUMES:
            assert all(_number(value, MAX_NUMBER) for values in fields for value in values)
            assert all(columns["volume"])
        for name, values in zip(FIELDS, fields, strict=False) if schema is POINTS else ():
            assert all(_number(value, 100 if name == "cpu" else MAX_NUMBER) for value in values)
        for values in fields if schema is COUNTERS else ():
            assert all(_number(value, MAX_COUNTER) and (value is None or value.is_integer()) for value in values)


def _key(columns: Mapping[str, Sequence[Any]]) -> tuple[Sequence[str], Sequence[str]]:
    return columns["organization_id"], columns["device_id"]


def _number(value: Any, limit: float) -> bool:
    return value is None or (type(value) is float and 0 <= value <= limit)


def _check_event(incoming: Message, result: Decoded) -> None:
    assert bool(result.columns) != bool(result.rejections)
    assert not result.counters
    for name, values in result.columns.items():
        value = values[0]
        if name == "timestamp":
            assert PERIOD.oldest <= value <= PERIOD.newest
        if isinstance(value, str):
            value.encode()
        if isinstance(value, float | int | Decimal):
            assert 0 <= value <= max(MAX_NUMBER, MAX_COUNTER)
    if result.columns:
        assert set(CONTRACTS[incoming.queue].fields) < set(result.columns)
        assert result.columns["organization_id"][0] in ANYBODY.organizations


def seeds() -> list[Message]:
    """Good messages of every queue and format."""
    ours = [sample(90), sample(60, timestamp=int(NOW.timestamp() * 1000)), sample(30, cpu=None), {"memory": 1, "x": 2}]
    lines = [line("cpu", "usage_idle=97.5", cpu="cpu-total"), line("mem", "used=4294967296i,free=1i")]
    lines += [line("disk", "free=1u,used=1i", path="/"), line("mem", "total=9i,available_percent=40.5", 50)]
    lines += [line("net", 'bytes_recv=5i,bytes_sent=6i,s="a,b"', interface="eth0"), line("system", "uptime=420i")]
    lines += [line("cpu", f"usage_idle={30 * core}", 40, host="lap-1", cpu=f"cpu{core}") for core in range(3)]
    lines += [line("disk", "free=5i,total=9i,used=1i", path="/", device="disk3s1s1", fstype="apfs", mode="ro")]
    lines += [line("win_disk", "Free_Megabytes=9,Percent_Free_Space=45.5", instance="C:", objectname="LogicalDisk")]
    lines += [line("win_cpu", "Percent_Idle_Time=97.5", instance=f"0\\,{core}") for core in range(2)]
    lists = [value_list("memory", "memory", 2**30, type_instance=state) for state in MEMORY_STATES]
    lists += [value_list("interface", "if_octets", 5, 6, plugin_instance="eth0"), value_list("cpu", "percent", 12.5)]
    lists += [value_list("cpu", "percent", 12.5, plugin_instance=f"{n}", type_instance="idle") for n in range(2)]
    lists += [
        value_list("df", "df_complex", 2**30, plugin_instance="root", type_instance=state)
        for state in ("used", "free", "reserved")
    ]
    found = [message("agent.metrics", metrics(*ours[:count])) for count in (1, 2, 4)]
    found += [message(queue, body) for queue, body in EVENTS.items()]
    for make, parts in ((telegraf, lines), (collectd, lists)):
        for organization in (None, ORG):
            good = make(*parts, organization=organization)
            found += [good, msgspec.structs.replace(good, body=gzip.compress(good.body, mtime=0))]
    return found


def mutated(rng: random.Random, of: Message, other: Message) -> Message:
    """The message, damaged in one to four ways."""
    changes: dict[str, Any] = {"body": of.body}
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        kind = rng.random()
        if kind < 0.9:
            changes["body"] = rng.choice(MUTATIONS)(rng, changes["body"], other.body)
        elif kind < 0.93:
            changes["routing_key"] = rng.choice((*KEYS, other.routing_key))
        elif kind < 0.96:
            changes["content_type"] = rng.choice((*KINDS, other.content_type))
        elif kind < 0.98:
            changes["queue"] = rng.choice(list(CONTRACTS))
        else:
            changes["message_id"] = rng.choice((None, "", "x", ORG, "\ud800"))
    return msgspec.structs.replace(of, **changes)


def _flipped(rng: random.Random, body: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :] if at < len(body) else body


def _cut(rng: random.Random, body: bytes, other: bytes) -> bytes:
    start, end = _slice(rng, body)
    return body[:start] + body[end:]


def _doubled(rng: random.Random, body: bytes, other: bytes) -> bytes:
    start, end = _slice(rng, body)
    return body[:end] + body[start:]


def _spliced(rng: random.Random, body: bytes, other: bytes) -> bytes:
    (start, end), (of, to) = _slice(rng, body), _slice(rng, other)
    return body[:start] + other[of:to] + body[end:]


def _with_token(rng: random.Random, body: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(body) + 1)
    return body[:at] + rng.choice(TOKENS) + body[at + rng.choice((0, 0, 1, 4)) :]


def _with_word(rng: random.Random, body: bytes, other: bytes) -> bytes:
    """Another word, or none, in the place of one: what comes of it is nearly a line."""
    start, end = rng.choice([word.span() for word in _WORD.finditer(body)] or [(0, 0)])
    words = _WORD.findall(other) or [b"x"]
    return body[:start] + rng.choice((b"", rng.choice(TOKENS), rng.choice(words))) + body[end:]


def _packed(rng: random.Random, body: bytes, other: bytes) -> bytes:
    if not body.startswith(b"\x1f\x8b"):
        return gzip.compress(body, mtime=0)
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        return body


def _with_value(rng: random.Random, body: bytes, other: bytes) -> bytes:
    """JSON with one of its values replaced, left out, or named twice; what is no JSON stays as it is."""
    try:
        root = json.loads(body)
    except (ValueError, RecursionError):
        return _with_token(rng, body, other)
    inner = root
    parents: list[tuple[Any, Any]] = []
    while isinstance(inner, dict | list) and inner and (not parents or rng.random() < 0.8):
        name = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        parents.append((inner, name))
        inner = inner[name]
    if not parents:
        return rng.choice(TOKENS)
    parent, name = parents[-1]
    how = rng.random()
    if how < 0.1:
        del parent[name]
    elif how < 0.2 and isinstance(parent, dict):
        parent["HERE"] = 0
        return json.dumps(root).encode().replace(b'"HERE": 0', f"{json.dumps(name)}: {rng.choice(VALUES)}".encode(), 1)
    else:
        parent[name] = "HERE"
    return json.dumps(root).encode().replace(b'"HERE"', rng.choice(VALUES).encode(), 1)


def _slice(rng: random.Random, of: bytes) -> tuple[int, int]:
    start = rng.randrange(len(of) + 1)
    return start, min(len(of), start + rng.choice((1, 2, 4, 16, 64, 1000)))


Mutation = Callable[[random.Random, bytes, bytes], bytes]
MUTATIONS: Sequence[Mutation] = (
    *(_flipped, _cut, _doubled, _spliced, _with_token, _with_token, _with_word, _with_word),
    *(_with_value,) * 5,
    _packed,
)


def outcome(incoming: Message, result: Decoded) -> Hashable:
    """What a message came to, as far as two messages of one kind have it alike."""
    reasons = frozenset((rejection.field, rejection.reason) for rejection in result.rejections)
    fast = fast_path(incoming) is not None
    return incoming.queue, reasons, result.whole, min(result.points_accepted, 3), bool(result.counters), fast


def fuzz(seconds: float, seed: int) -> tuple[int, dict[str, Message], Mapping[Hashable, int]]:
    """(executions, findings: traceback -> message, outcomes and how often each was seen)."""
    rng = random.Random(seed)
    pool = seeds()
    outcomes: dict[Hashable, int] = {}
    findings: dict[str, Message] = {}
    executions, slowest, end = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        candidate = mutated(rng, rng.choice(pool), rng.choice(pool))
        executions += 1
        started = time.thread_time()
        try:
            seen = outcome(candidate, check(candidate))
        except Exception:  # noqa: BLE001 -- a finding, whatever it is
            where = "".join(traceback.format_exc(limit=-3))
            if where not in findings:
                findings[where] = candidate
                print(f"{where}{candidate!r}\n", flush=True)
            continue
        if (taken := time.thread_time() - started) > slowest:
            slowest = taken
            print(f"slowest so far: {taken * 1000:.1f} ms for {len(candidate.body):,} bytes", flush=True)
        if seen not in outcomes and len(candidate.body) < 4000:
            pool.append(candidate)
        outcomes[seen] = outcomes.get(seen, 0) + 1
    return executions, findings, outcomes


def main() -> None:
    """Fuzzes for a while; ends with 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="to walk the same way once more")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    executions, findings, outcomes = fuzz(options.minutes * 60, options.seed)
    rate = executions / (options.minutes * 60)
    print(f"{executions:,} executions, {rate:,.0f}/s, {len(outcomes):,} outcomes, {len(findings)} findings")
    raise SystemExit(bool(findings))


if __name__ == "__main__":
    main()
