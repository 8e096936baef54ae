"""Lists and selections are bounded, and served by indexes."""

import json
import uuid
from datetime import timedelta
from typing import Any

import pytest

from ninjait_pipelines.ingest.decode.model import Decoded, Rejection
from ninjait_pipelines.ingest.quarantine.documents import COLLECTION
from ninjait_pipelines.ingest.quarantine.hold import hold_messages, prepare_quarantine
from ninjait_pipelines.ingest.quarantine.query import QuarantineFilter
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.conftest import LOG
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    message,
)


def test_lists_are_bounded_and_say_what_they_leave_out(fleet: Stores, ninjait: Any) -> None:
    """7 s for 5,000 copies: every document was read, with its body and all of its reasons."""
    refused = [Rejection(0, "cpu", "-1", "negative"), Rejection(1, "cpu", "-1", "negative")]
    batch = [
        (message("agent.metrics", b"x" * 3000, n, delivery_id=f"d{n}"), Decoded(uuid.UUID(int=n), rejections=refused))
        for n in range(500)
    ]
    for at in range(0, 500, 100):
        moment = NOW + timedelta(seconds=at)
        hold_messages(fleet.mongodb, batch[at : at + 100], "run", moment, LOG)
    (group,) = json.loads(ninjait("quarantine", "list", "--json").stdout)
    assert (group["messages"], group["points"]) == (500, 1000)
    listed = ninjait("quarantine", "list", "--all", "--json")
    assert (len(json.loads(listed.stdout)), listed.stderr) == (200, "and 300 older messages: --limit\n")
    assert {row["id"] for row in json.loads(listed.stdout)} == {f"agent.metrics/d{n}" for n in range(300, 500)}
    more = ninjait("quarantine", "list", "--all", "--limit", "600", "--json")
    assert (len(json.loads(more.stdout)), more.stderr) == (500, "")
    assert all(not one["body"] for one in fleet.mongodb.database[COLLECTION].find())


@pytest.mark.parametrize("name", ["reason", "queue", "organization"])
def test_a_selection_is_served_by_an_index(fleet: Stores, name: str) -> None:
    prepare_quarantine(fleet.mongodb, NOW, LOG)
    keys = [list(index["key"]) for index in fleet.mongodb.database[COLLECTION].list_indexes()]
    (field,) = QuarantineFilter(**{name: "x"}).query()
    assert ["state", field, "quarantined_at"] in keys
