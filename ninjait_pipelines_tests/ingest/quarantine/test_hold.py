"""What is put into quarantine, and under which organization."""

import uuid
from datetime import timedelta

import pytest

from ninjait_pipelines.ingest.decode.model import NOBODY, Decoded, Rejection
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.hold import hold_messages
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import LOG, drained
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    as_published,
    encoded,
    line,
    metrics,
    sample,
    telegraf,
)


def test_a_refused_message_is_in_the_ledger_as_what_the_broker_let_it_be(fleet: Stores) -> None:
    """An organization whose bodies named another one showed up as that one, in the ledger and in alarms."""
    body = metrics(sample(), organization_id=OTHER_ORG, device_id=OTHER_DEVICE)
    fleet.message_queue.publish([Outgoing("agent.metrics", f"metrics.{ORG}", encoded(body))])
    assert drained(fleet).points_written == 0
    (row,) = fleet.clickhouse.rows("SELECT toString(organization_id) AS id FROM message_deliveries FINAL")
    assert row == {"id": ORG}


@pytest.mark.parametrize("key", [ORG.upper(), f"{{{ORG}}}", f"urn:uuid:{ORG}", f"{ORG}\n", ORG.replace("-", "")])
def test_another_spelling_of_an_organization_in_a_key_is_not_that_organization(fleet: Stores, key: str) -> None:
    """A right to another key is no right to this one: its bad messages were the organization's in the ledger."""
    fleet.message_queue.publish([Outgoing("agent.metrics", f"metrics.{key}", b"x")])
    drained(fleet)
    (row,) = fleet.clickhouse.rows("SELECT toString(organization_id) AS id FROM message_deliveries FINAL")
    (held,) = query.select(fleet.mongodb)
    assert (row["id"], held["share"]) == (NOBODY, "")


def test_of_what_a_device_repeats_one_body_a_day_is_kept(fleet: Stores) -> None:
    """A host of containers with too many interfaces filled its organization's share in weeks, with one thing said."""
    names = [f"eth{n}" for n in range(70)]

    def sent(*hosts: str) -> Outgoing:
        fields = "bytes_recv=1i,bytes_sent=1i"
        return as_published(
            telegraf(*(line("net", fields, 60, host, interface=name) for host in hosts for name in names))
        )

    for hosts in (("lap-1",), ("lap-1", "lap-2"), ("lap-2",), ("lap-1",)):
        fleet.message_queue.publish([sent(*hosts)])
        assert drained(fleet).bodies_not_kept == 0
    assert len(list(query.select(fleet.mongodb))) == 2
    said = "SELECT countIf(has(reasons, 'kept_once_a_day')) AS n, sum(points_quarantined) AS points"
    assert fleet.clickhouse.rows(f"{said} FROM message_deliveries FINAL") == [{"n": 2, "points": 5 * 6}]
    refused = [Rejection(0, "interface", "'eth70'", "too_many_interfaces")]
    decoded = Decoded(uuid.uuid4(), device_id=DEVICE, counters={"time": [1]}, rejections=refused)
    for number, days in enumerate((1, 1, 2)):
        one = telegraf("", delivery_id=f"later-{number}")
        hold_messages(fleet.mongodb, [(one, decoded)], "run", NOW + timedelta(days=days), LOG)
    assert len(list(query.select(fleet.mongodb))) == 4
