"""The limit of the quarantine, and the share of it that each organization has."""

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.ledger import BODY_NOT_KEPT
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import body_of
from ninjait_pipelines.ingest.quarantine.hold import count_held, hold_messages, move_spooled
from ninjait_pipelines.ingest.quarantine.query import QuarantineFilter
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.quarantine.usage import Room, Usage, read_usage
from ninjait_pipelines.operations.assets import _bodies, stores_are_up
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines_tests.ingest.conftest import LOG, drained
from ninjait_pipelines_tests.ingest.quarantine.helpers import KIB, PERIOD, bad, fill, small
from ninjait_pipelines_tests.ingest.samples import (
    NOW,
    ORG,
    OTHER_DEVICE,
    OTHER_ORG,
    REGISTRY,
    message,
    metrics,
    outgoing,
    sample,
)


def kept(stores: Stores) -> dict[str, int]:
    """How many copies are held, by the organization of their routing key."""
    found = [one["envelope_organization"] for one in query.select(stores.mongodb)]
    return {name: found.count(name) for name in set(found)}


def test_a_full_share_is_one_organization_s_matter(fleet: Stores, ninjait: Any) -> None:
    """One tenant filled the quarantine, and no drain of anybody began."""
    fleet.message_queue.publish([bad(n) for n in range(60)])
    fleet.message_queue.publish([bad(99, OTHER_ORG), outgoing("agent.metrics", metrics(sample(5)))])
    summary = drained(small(fleet))
    assert (summary.messages, summary.points_written, summary.messages_quarantined) == (62, 1, 61)
    held = kept(fleet)
    assert (held[OTHER_ORG], 13 <= held[ORG] <= 16) == (1, True)
    assert summary.bodies_not_kept == 60 - held[ORG]
    count = f"SELECT countIf(has(reasons, '{BODY_NOT_KEPT}')) AS gone, count() AS n FROM message_deliveries FINAL"
    (row,) = fleet.clickhouse.rows(f"{count} WHERE outcome = 'quarantined'")
    assert row == {"gone": 60 - held[ORG], "n": 61}
    since = NOW - timedelta(days=1)
    (ledger,) = fleet.clickhouse.rows(sql("ingest/ledger_of_run"), queue="agent.metrics", run_id="run-1", since=since)
    ids = [f"agent.metrics/{one}" for one in ledger["quarantined_ids"]]
    assert len(ids) == count_held(fleet.mongodb, ids, "run-1") == held[ORG] + 1

    fleet.message_queue.publish([bad(100), bad(101, OTHER_ORG), outgoing("agent.metrics", metrics(sample(6)))])
    summary = drained(small(fleet))
    assert (summary.points_written, summary.bodies_not_kept, kept(fleet)[OTHER_ORG]) == (1, 1, 2)
    (status,) = check_all({"mongodb": small(fleet).mongodb})
    assert (status.ok, stores_are_up([status]).passed) == (True, False)
    assert f"The organization {ORG} has filled 9" in status.note
    assert OTHER_ORG not in status.note
    result = _bodies(fleet.clickhouse, 24)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert f"the organization {ORG} {61 - held[ORG]} (" in str(result.description)
    assert OTHER_ORG not in str(result.description)

    done = ninjait("quarantine", "discard", "--organization", ORG, "--because", "a test", "--yes")
    assert done.stdout == f"discarded {held[ORG]} messages\n"
    fleet.message_queue.publish([bad(102)])
    assert drained(small(fleet)).bodies_not_kept == 0


def test_drains_at_once_leave_one_organization_one_share(fleet: Stores) -> None:
    """By four queues it had four shares, each drain with one of its own: the whole quarantine, and nobody's drain began
    any more."""
    mongodb = small(fleet).mongodb
    rooms = [Room() for _ in range(4)]
    for room in rooms:
        room.begin(read_usage(mongodb), {ORG})
    for n in range(30):
        for number, room in enumerate(rooms):
            one = message("agent.metrics", metrics(sample(), schema="x" * 16 * KIB), n, delivery_id=f"{number}-{n}")
            hold_messages(mongodb, [(one, decode(one, REGISTRY, PERIOD))], "run", NOW, LOG, room)
    assert 13 <= kept(fleet)[ORG] <= 19  # of 120: 15 fill the share, and each drain may put in one more


def test_four_organizations_with_full_shares_stop_nobody_else(fleet: Stores) -> None:
    """With a quarter of the limit each they filled it, and no drain of anybody began."""
    loud = [str(uuid.UUID(int=n)) for n in range(1, 7)]
    with fleet.postgres.transaction() as connection:
        for one in loud:
            connection.execute("INSERT INTO organizations VALUES (%s, %s, %s, 'UTC', now())", (one, one, one))
    stores = small(fleet)
    for _ in range(3):
        fleet.message_queue.publish([bad(n, organization) for n in range(20) for organization in loud])
        drained(stores)
    used = read_usage(stores.mongodb)
    assert 0.6 < used.share < 0.9
    assert {*used.shares} == {*loud}
    fleet.message_queue.publish([bad(99), outgoing("agent.metrics", metrics(sample(5)))])
    summary = drained(stores)
    assert (summary.points_written, summary.bodies_not_kept, kept(fleet)[ORG]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("why", "least", "limit"),
    [
        ("expired", 0.2, 0.26),
        ("StoreUnavailable: ClickHouse is away", 0.4, 0.52),
        ("delivered 6 times and never settled", 0.4, 0.52),
    ],
)
def test_dead_letters_have_a_bound_too(fleet: Stores, why: str, least: float, limit: float) -> None:
    """Whoever sets an expiry makes as many as it likes, and they were kept beyond every share. An outage's have more
    room than those, because nothing is wrong with them."""
    for n in range(120):
        fleet.message_queue.publish([bad(n)])
    with fleet.message_queue.consume("agent.metrics", 200) as consumer:
        while got := consumer.receive(200, 0.5):
            for one in got:
                consumer.reject(one, why)
    stores = small(fleet)
    assert drained(stores).dead_letters == 120
    assert least < read_usage(stores.mongodb).share < limit
    fleet.message_queue.publish([bad(99, OTHER_ORG)])
    assert (drained(stores).bodies_not_kept, kept(fleet)[OTHER_ORG]) == (0, 1)
    result = _bodies(fleet.clickhouse, 24)
    assert f"the organization {ORG} {120 - kept(fleet)[ORG]} (" in str(result.description)


def test_organizations_that_nobody_knows_share_one_share(fleet: Stores) -> None:
    """Whoever may publish under any key makes up as many as it likes."""
    fleet.message_queue.publish([bad(n, str(uuid.UUID(int=1000 + n))) for n in range(60)])
    fleet.message_queue.publish([bad(99)])
    summary = drained(small(fleet))
    assert 40 <= summary.bodies_not_kept <= 46
    assert kept(fleet)[ORG] == 1


def test_the_spool_has_the_same_shares(fleet: Stores) -> None:
    gone = f"mongodb://127.0.0.1:1/{fleet.mongodb.spool.name}"
    away = MongoDB(url=gone, spool_folder=fleet.mongodb.spool_folder, timeout_seconds=1, quarantine_limit_mib=1)
    for first in (0, 30):
        fleet.message_queue.publish([bad(n) for n in range(first, first + 30)])
        fleet.message_queue.publish([bad(90 + first, OTHER_ORG), outgoing("agent.metrics", metrics(sample(first + 5)))])
        assert drained(replace(fleet, mongodb=away)).points_written == 1
    assert move_spooled(fleet.mongodb, NOW) == sum(kept(fleet).values())
    assert (kept(fleet)[OTHER_ORG], 14 <= kept(fleet)[ORG] <= 17) == (2, True)
    rows = fleet.clickhouse.rows("SELECT count() AS n FROM message_deliveries FINAL WHERE outcome = 'quarantined'")
    assert rows == [{"n": 62}]


def test_dead_letters_are_kept_though_the_share_is_full(fleet: Stores) -> None:
    """They may be good messages, and nothing but their bodies says so."""
    fleet.message_queue.publish([bad(n) for n in range(20)])
    drained(small(fleet))
    good = outgoing("agent.metrics", metrics(sample(1)))
    fleet.message_queue.publish([good])
    with fleet.message_queue.consume("agent.metrics", 1) as consumer:
        (one,) = consumer.receive(1, 2)
        consumer.reject(one, "why")
    assert drained(small(fleet)).dead_letters == 1
    (held,) = query.select(fleet.mongodb, QuarantineFilter(reason="dead_letter"))
    found = query.find(fleet.mongodb, held["_id"]) or {}
    assert body_of(fleet.mongodb, found) == good.body


def test_a_step_that_is_done_again_takes_no_more_room() -> None:
    room = Room()
    room.begin(Usage(0, 0, 400), {ORG})
    one = {"_id": "a", "share": ORG, "held_bytes": 100, "reasons": []}
    assert [room.takes(one), room.takes(one), room.takes(one | {"_id": "b"}), room.takes(one)] == [
        True,
        True,
        False,
        True,
    ]
    assert (room.share_of(OTHER_ORG), room.share_of(None), room.share_of(ORG)) == ("", "", ORG)


def test_a_full_quarantine_stops_nobody(ninjait: Any, fleet: Stores) -> None:
    """By an earlier version, or because the limit was lowered. Good messages went on waiting in their queues, of
    everybody; the bad ones of whoever holds next to nothing are kept even now."""
    bodies = [
        *(metrics(sample(n)) for n in range(1, 6)),
        metrics(sample(6, cpu=-2), organization_id=OTHER_ORG, device_id=OTHER_DEVICE),
    ]
    fleet.message_queue.publish([outgoing("agent.metrics", body) for body in bodies])
    fleet.message_queue.publish([outgoing("agent.metrics", b"x" * 3000)])
    fill(fleet, 4.1)
    stores = replace(fleet, mongodb=fleet.mongodb.model_copy(update={"quarantine_limit_mib": 4}))
    done = drained(stores)
    assert (done.points_written, done.messages_quarantined, done.bodies_not_kept) == (5, 2, 1)
    (held,) = query.select(fleet.mongodb, QuarantineFilter(reason="negative"))
    assert held["envelope_organization"] == OTHER_ORG
    (status,) = check_all({"mongodb": stores.mongodb})
    assert (status.ok, "The quarantine is 10" in status.note) == (True, True)


def test_a_quarantine_that_is_nearly_full_is_a_warning(fleet: Stores) -> None:
    fill(fleet, 0.75)
    (status,) = check_all({"mongodb": small(fleet).mongodb})
    assert (status.ok, "The quarantine is" in status.note) == (True, False)
    fill(fleet, 0.9)
    (status,) = check_all({"mongodb": small(fleet).mongodb})
    assert "The quarantine is 89% full" in status.note
    assert "0 of 1 MiB in 14 quarantined messages; beyond it bad messages are only counted" in status.note
    assert stores_are_up([status]).severity == dg.AssetCheckSeverity.WARN
    drained(small(fleet))


def test_the_spool_and_mongodb_have_one_limit(fleet: Stores) -> None:
    """While MongoDB was away the spool was counted alone: what filled a share there had another one here."""
    url = f"mongodb://127.0.0.1:1/{fleet.mongodb.spool.name}"
    gone = MongoDB(url=url, spool_folder=fleet.mongodb.spool_folder, timeout_seconds=1, quarantine_limit_mib=1)
    fill(fleet, 0.3)
    drained(small(fleet))
    fleet.message_queue.publish([outgoing("agent.metrics", bytes([n]) * 30_000) for n in range(3)])
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample()))])
    done = drained(replace(fleet, mongodb=gone))
    assert (done.points_written, done.messages_quarantined, done.bodies_not_kept) == (1, 3, 3)
    assert Spool(fleet.mongodb).waiting() == (0, 0)
    (status,) = check_all({"mongodb": gone})
    assert f"The organization {ORG} has filled" in status.note
