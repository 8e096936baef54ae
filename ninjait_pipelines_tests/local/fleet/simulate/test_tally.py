"""The tally is what the ledger and the stores have afterwards."""

import logging
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from ninjait_pipelines.ingest.drain import Drain
from ninjait_pipelines.local.fleet.seed import seed
from ninjait_pipelines.local.fleet.simulate import (
    Options,
    Published,
    QueueTally,
    Tally,
    Window,
    publish,
    read_fleet,
    simulate,
)
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.streams import QUEUES
from ninjait_pipelines_tests.ingest.conftest import sink_of
from ninjait_pipelines_tests.local.fleet.simulate.fleets import DAY, YESTERDAY


def test_what_was_published_is_in_the_ledger_and_in_the_stores(shared_stores: Stores) -> None:
    """The whole way: the ledger has the tally's messages by outcome, and the stores exactly its points."""
    seed(shared_stores.postgres, "testing", YESTERDAY.date())
    window = Window(DAY.start, DAY.start + timedelta(hours=12))
    fleet = read_fleet(shared_stores.postgres, window.end)
    tally = publish(
        shared_stores.message_queue, simulate(fleet, window, Options(broken=0.1, duplicates=0.1, resent=0.1))
    )
    for queue in QUEUES:
        drain = Drain(
            sink_of(shared_stores, queue),
            shared_stores.message_queue,
            shared_stores.postgres,
            shared_stores.clickhouse,
            shared_stores.mongodb,
            "run",
            lambda: datetime.now(UTC),
            logging.getLogger("test"),
        )
        drain.run(idle_seconds=0.05)
    assert ledger(shared_stores) == expected(tally)
    read = shared_stores.metrics_store.read(window.start, window.end)
    assert read.num_rows == tally["agent.metrics"].points
    for table, queue in (("device_heartbeats", "agent.heartbeats"), ("api_calls", "platform.api_calls")):
        assert shared_stores.clickhouse.scalar(f"SELECT count() FROM {table}") == tally[queue].points
    assert shared_stores.mongodb.database["application_logs"].count_documents({}) == tally["platform.logs"].points


def ledger(stores: Stores) -> dict[tuple[str, str], int]:
    rows = stores.clickhouse.rows("SELECT queue, outcome, count() AS n FROM message_ledger GROUP BY queue, outcome")
    return {(row["queue"], row["outcome"]): row["n"] for row in rows}


def expected(tally: Tally) -> dict[tuple[str, str], int]:
    outcomes = ("written", "partly_quarantined", "quarantined", "duplicate")
    for queue in tally.values():
        assert queue.messages == sum(getattr(queue, outcome) for outcome in outcomes) == queue.kinds.total()
    counts = {(name, outcome): getattr(queue, outcome) for name, queue in tally.items() for outcome in outcomes}
    return {key: count for key, count in counts.items() if count}


def test_messages_are_counted_once_the_broker_has_confirmed_them() -> None:
    """Of a batch that the broker refuses nothing is counted, and what was confirmed before it was reported."""
    ready = [
        Published(Outgoing("platform.logs", "log.info", b"{}", str(number)), outcome, outcome, points, bad)
        for number, (outcome, points, bad) in enumerate(
            [("written", 1, 0), ("partly_quarantined", 3, 2), ("quarantined", 0, 0), ("duplicate", 0, 0)]
        )
    ]
    taken: list[Outgoing] = []
    confirmed: list[int] = []
    counted = publish(Broker(taken), [*ready, ready[0]], confirmed.append, at_once=2)
    assert (len(taken), confirmed) == (5, [2, 4, 5])
    assert counted == {
        "platform.logs": QueueTally(
            5, written=2, partly_quarantined=1, quarantined=1, duplicate=1, points=5, bad_points=2,
            kinds=Counter({"written": 2, "partly_quarantined": 1, "quarantined": 1, "duplicate": 1}),
        )
    }  # fmt: skip
    confirmed.clear()
    with pytest.raises(StoreUnavailable):
        publish(Broker([], room=3), ready, confirmed.append, at_once=2)
    assert confirmed == [2]


class Broker:
    """Takes messages until it has no more room."""

    def __init__(self, taken: list[Outgoing], room: int = 100) -> None:
        self.taken, self.room = taken, room

    def publish(self, messages: Iterable[Outgoing]) -> None:
        self.taken.extend(messages)
        if len(self.taken) > self.room:
            raise StoreUnavailable("Broker", "amqp://127.0.0.1", "no room", "Wait.")
