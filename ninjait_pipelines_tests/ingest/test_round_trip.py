"""What is published reads back from the store to the last bit."""

import itertools
import json
import struct
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ninjait_pipelines.ingest.decode.third_party import MEBIBYTE
from ninjait_pipelines.messages import Message
from ninjait_pipelines.metrics.model import FIELDS, Tier
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    SECOND_DEVICE,
    as_published,
    line,
    message,
    metrics,
    telegraf,
    value_list,
)

AWKWARD = ["-0.0", "5e-324", "2.2250738585072011e-308", "0.30000000000000004", "1e15", "999999999999999.9", "1e-400"]
AWKWARD += ["999999999999999", "0.1000000000000000055511151231257827", "9007199254740991e-1", "1" + "0" * 15]
NUMBERS = (
    st.floats(0, 1e15).map(repr)
    | st.floats(0, 1).map(lambda value: f"{value:.25f}")
    | st.integers(0, 10**15).map(str)
    | st.sampled_from(AWKWARD)
)
PERCENTAGES = st.floats(0, 100).map(repr) | st.integers(0, 100).map(str) | st.sampled_from(["-0.0", "5e-324", "1e2"])
Reading = dict[str, str]  # field -> its number, as its sender writes it
READINGS = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, NUMBERS) | {"cpu": PERCENTAGES}).filter(bool)
SPAN = timedelta(hours=3)
MILLISECOND = timedelta(milliseconds=1)
_examples = itertools.count()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, SPAN // MILLISECOND - 1), READINGS, min_size=1, max_size=30), st.booleans())
@example({at: dict.fromkeys(FIELDS, text) | {"cpu": "1e-7"} for at, text in enumerate(AWKWARD)}, False)
@example({at * 997: dict.fromkeys(FIELDS, text) | {"cpu": "-0.0"} for at, text in enumerate(AWKWARD)}, True)
def test_what_is_published_reads_back_from_the_store_to_the_last_bit(
    fleet: Stores, readings: dict[int, Reading], broken: bool
) -> None:
    """All fields, in each format, through the drain: by the fast paths, and by the rules where every message has
    something broken in it. A device for each format."""
    began = NOW - timedelta(days=6) + next(_examples) * SPAN
    sent = {began + at * MILLISECOND: reading for at, reading in sorted(readings.items())}
    moments = [*sent]
    parts = [{moment: sent[moment] for moment in moments[start : start + 7]} for start in range(0, len(moments), 7)]
    messages = [*(our_message(part, broken) for part in parts), lines_of(sent, broken), value_lists_of(sent, broken)]
    fleet.message_queue.publish(map(as_published, messages))
    assert drained(fleet).messages == len(messages)
    for device, kept in ((DEVICE, dict.fromkeys(FIELDS, 1)), (OTHER_DEVICE, THEIRS), (SECOND_DEVICE, THEIRS)):
        expected = {
            moment: {name: bits(float(reading[name]) / unit) for name, unit in kept.items() if name in reading}
            for moment, reading in sent.items()
        }
        back = {
            row["time"]: {name: bits(row[name]) for name in FIELDS if row[name] is not None}
            for row in fleet.metrics_store.read(began, began + SPAN, [device]).to_pylist()
        }
        assert back == {moment: fields for moment, fields in expected.items() if fields}


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ([f"{2**53 - back}i" for back in (2, 1, 0)], 2),  # the last whole numbers that a float tells apart
        ([f"{2**53 + more}i" for more in (0, 1_000, 5_000)], 5_000),
        ([f"{2**63 - 1 - back}i" for back in (4_096, 2_048, 0)], 4_096),
        ([f"{2**64 - 1 - back}u" for back in (8_192, 4_096, 0)], 8_192),
        ([f"{2**64 - 1 - back}u" for back in (5_000_000, 1_000_000, 0)], 4_999_168),  # the steps are of 2,048 bytes
    ],
)
def test_the_largest_counters_increase(fleet: Stores, values: list[str], added: float) -> None:
    """Counters have 64 bits; what went beyond 2^53 was refused."""
    lines = [line("net", f"bytes_recv={one}", 602 - n, interface="eth0") for n, one in enumerate(values)]
    fleet.message_queue.publish(map(as_published, [telegraf(one, organization=ORG) for one in lines]))
    drained(fleet)
    start = NOW.replace(minute=0, second=0) - timedelta(hours=1)
    hours = fleet.metrics_store.aggregate(Tier.RAW, start, start + timedelta(hours=2), timedelta(hours=1))
    assert sum(value or 0 for value in hours["network_in_sum"].to_pylist()) == added


# What other agents know of our fields, and how much of their unit is one of ours.
THEIRS = {"cpu": 1, "memory": MEBIBYTE, "uptime": 1}
SERIES = {
    "cpu": ("cpu,cpu=cpu-total,host=lap-1 usage_active=", value_list("cpu", "percent", type_instance="active")),
    "memory": ("mem,host=lap-1 used=", value_list("memory", "memory", type_instance="used")),
    "uptime": ("system,host=lap-1 uptime=", value_list("uptime", "uptime")),
}


def our_message(part: dict[datetime, Reading], broken: bool) -> Message:
    """Times in each spelling; what is below a millisecond is cut off."""
    samples = ['{"timestamp": 7.5}'] * broken
    for number, (moment, reading) in enumerate(part.items()):
        late = moment + timedelta(microseconds=999)
        zone = timezone(timedelta(hours=5, minutes=30))
        spelling = [(moment - EPOCH) // MILLISECOND, late.isoformat(), late.astimezone(zone).isoformat()][number % 3]
        fields = "".join(f', "{name}": {text}' for name, text in reading.items())
        samples.append(f'{{"timestamp": {json.dumps(spelling)}{fields}}}')
    body = json.dumps(metrics("HERE")).replace('"HERE"', ", ".join(samples))
    return message("agent.metrics", body.encode(), message_id=None)


def lines_of(sent: dict[datetime, Reading], broken: bool) -> Message:
    """A line for each field: readings of one time are one point."""
    lines = ["oops"] * broken
    for moment, reading in sent.items():
        at = (moment - EPOCH) // MILLISECOND * 1_000_000 + 999_999
        lines += [f"{SERIES[name][0]}{text} {at}" for name, text in reading.items() if name in SERIES]
    return telegraf(*(lines or ["m f=1"]), organization=OTHER_ORG)


def value_lists_of(sent: dict[datetime, Reading], broken: bool) -> Message:
    """A value list for each field."""
    lists = ["7"] * broken
    for moment, reading in sent.items():
        for name, text in reading.items():
            if name in SERIES:
                fields = SERIES[name][1] | {"values": ["HERE"], "time": moment.timestamp()}
                lists.append(json.dumps(fields).replace('"HERE"', text))
    body = f"[{', '.join(lists) or '{}'}]".encode()
    return message("agent.metrics", body, routing_key=f"metrics.collectd.{ORG}", message_id=None)


def bits(value: float) -> bytes:
    return struct.pack("d", value)
