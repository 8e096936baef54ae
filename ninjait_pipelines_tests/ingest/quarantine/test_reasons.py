"""What is kept of why a message was refused: little, and exact."""

import uuid
from typing import Any

import bson
from hypothesis import given
from hypothesis import strategies as st

from ninjait_pipelines.ingest.quarantine import query, reasons
from ninjait_pipelines.ingest.quarantine.query import summarize_selection
from ninjait_pipelines.ingest.sensors import held_for_known_hosts
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.examples import examples
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.quarantine.helpers import KIB, hold
from ninjait_pipelines_tests.ingest.samples import (
    ORG,
    REGISTRY,
    as_published,
    gzipped,
    line,
    message,
    metrics,
    sample,
    telegraf,
)

REFUSALS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 9_999),
        st.sampled_from([None, "cpu", "memory", "host"]),
        st.text(max_size=200),
        st.sampled_from(["negative", "bad_line", "unknown_host", "too_old"]),
    ),
    max_size=300,
)


def test_what_is_kept_of_a_message_does_not_grow_with_what_is_wrong_in_it(fleet: Stores) -> None:
    """118 kB of packed lines made reasons of 9,114 times as much, and one tenant stopped everybody's ingest."""
    lines = gzipped((line("swap", "used=1i") + "\n" + "x y z\n" * 9_999).encode())
    sent = [message("agent.metrics", lines, routing_key=f"metrics.telegraf.{ORG}", message_id=None)]
    samples = [sample(n, cpu=-2, memory="\u4e00" * 20, disk_used=True, uptime=-5) for n in range(1_000)]
    sent.append(message("agent.metrics", metrics(*samples)))
    fleet.message_queue.publish(map(as_published, sent))
    summary = drained(fleet)
    assert (summary.points, summary.points_quarantined) == (10_999, 10_999)
    documents = list(query.select(fleet.mongodb))
    assert sorted(one["points_quarantined"] for one in documents) == [1_000, 9_999]
    for one in documents:
        assert len(bson.encode(one)) < 20 * KIB
        assert len(bson.encode(one)) <= one["held_bytes"] < one["body_bytes"] + 20 * KIB
    counts = {line.reason: (line.messages, line.points) for line in summarize_selection(fleet.mongodb)[0]}
    assert counts["bad_line"] == (1, 9_999)
    assert counts["negative"] == counts["boolean_as_number"] == (1, 1_000)


@examples(200)
@given(REFUSALS)
def test_of_whatever_is_refused_the_counts_and_the_samples_stay_exact(refusals: list[Any]) -> None:
    stored = {"reasons": reasons.stored(reasons.kinds(refusals))}
    assert len(bson.encode(stored)) < 40 * KIB
    found = {(kind.reason, kind.field): kind for kind in reasons.read(bson.decode(bson.encode(stored)))}
    for key, kind in found.items():
        of = [one for one in refusals if (one[3], one[1]) == key]
        assert kind.count == len(of)
        assert set(kind.indexes) == {one[0] for one in of if one[0] is not None}
        assert set(kind.examples) <= {(one[0], one[2]) for one in of}
    assert sum(kind.count for kind in found.values()) == len(refusals)
    assert reasons.indexes_of(found.values()) == sorted({one[0] for one in refusals if one[0] is not None})


def test_a_host_among_hundreds_that_nobody_knew_is_found_once_it_is_registered(fleet: Stores) -> None:
    names = [f"host-{n}" for n in range(400)]
    copy = hold(fleet, telegraf(*(line("mem", "used=1i", host=name) for name in names)))
    registry = type(REGISTRY)(REGISTRY.organizations, REGISTRY.devices, {"host-399": {ORG: str(uuid.UUID(int=5))}})
    assert [one["_id"] for one in held_for_known_hosts(fleet.mongodb, registry)] == [copy]
    assert list(held_for_known_hosts(fleet.mongodb, REGISTRY)) == []
