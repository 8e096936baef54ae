"""A drain that is killed between any two steps, or loses a store under way: nothing is lost, nothing counts twice."""

import signal
from datetime import timedelta
from typing import Any

import pytest

from ninjait_pipelines.ingest.series import MAX_NAMES
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.store import StoreUnavailable
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain, metrics_url, sink_of
from ninjait_pipelines_tests.ingest.deaths import (
    HELD,
    STEPS,
    contents,
    drain_once,
    empty,
    impatient,
    killed,
    proxied,
    publish_everything,
    waiting,
)
from ninjait_pipelines_tests.ingest.drains import Broken
from ninjait_pipelines_tests.ingest.samples import (
    EVENTS,
    NOW,
    ORG,
    as_published,
    line,
    metrics,
    outgoing,
    sample,
    telegraf,
)

pytestmark = pytest.mark.usefixtures("retries_at_once")


def publish_as_others(stores: Stores) -> None:
    """Messages of Telegraf's: nothing of one is for us, the other has two interfaces more than a device may have."""
    swap = [line("swap", "used=1i"), line("swap", "in=1i"), line("kernel", "boot=1i")]
    net = [line("net", "bytes_recv=1i", interface=f"if{number}") for number in range(MAX_NAMES + 2)]
    stores.message_queue.publish([as_published(telegraf(*lines, organization=ORG)) for lines in (swap, net)])


def test_killed_between_any_two_steps_and_run_again_the_stores_are_as_if_nothing_had_been(
    fleet: Stores, settings: Settings
) -> None:
    """A drain dies at each point in turn; it and the next one must write what one clean drain writes."""
    publish_everything(fleet)
    publish_as_others(fleet)
    make_drain(fleet).run(idle_seconds=idle_seconds(fleet))
    clean = contents(fleet)
    outcomes = {"written", "not_understood", "partly_quarantined", "quarantined", "duplicate"}
    assert {row["outcome"] for row in clean["ledger"]} == outcomes
    assert [row["readings"] for row in clean["left out"]] == [1, 2]
    assert len(clean["series"]) == MAX_NAMES

    empty(fleet)
    for death in STEPS:
        publish_everything(fleet)
        publish_as_others(fleet)
        assert killed(settings, "agent.metrics", death) == -signal.SIGKILL, death
        if death != "6 acknowledge":
            assert waiting(fleet, "agent.metrics", 27), f"{death}: acknowledged too early"
        drain_once(dict(settings), "agent.metrics", None)
        assert contents(fleet) == clean, death
        empty(fleet)


@pytest.mark.parametrize("queue", ["agent.heartbeats", "platform.logs"])
def test_events_are_rows_once_although_the_drain_died_before_its_acknowledgement(
    fleet: Stores, settings: Settings, queue: str
) -> None:
    fleet.message_queue.publish([outgoing(queue, EVENTS[queue]), outgoing(queue, EVENTS[queue] | {"timestamp": 5})])
    assert killed(settings, queue, "5 ledger") == -signal.SIGKILL
    assert waiting(fleet, queue, 2)
    died = contents(fleet)
    drain_once(dict(settings), queue, None)
    after = contents(fleet)
    assert died.pop("depths") != after.pop("depths")
    assert died == after
    assert [row["outcome"] for row in after["ledger"]] in (["written", "quarantined"], ["quarantined", "written"])


@pytest.mark.parametrize("at", ["write", "ledger"])
def test_a_store_that_stops_in_the_middle_stops_the_drain_and_loses_nothing(
    fleet: Stores, settings: Settings, at: str
) -> None:
    fleet.message_queue.publish(
        [outgoing("agent.metrics", metrics(sample(n), sample(n, cpu=-2))) for n in range(1, 41)]
    )
    store = metrics_url(settings) if at == "write" else "CLICKHOUSE_URL"
    with proxied(settings, store) as (through, proxy), open_stores(through) as stores:
        calls = iter(range(100))

        def cut(*_: object) -> None:
            if next(calls) == 1:
                proxy.refuse()

        class CutAtTheLedger(ClickHouse):
            def insert(self, table: str, *arguments: Any, **options: Any) -> None:
                if table == "message_deliveries":
                    cut()
                super().insert(table, *arguments, **options)

        with CutAtTheLedger(**stores.clickhouse.model_dump()).open() as clickhouse:
            broken = {
                "write": {"sink": Broken(sink_of(stores, "agent.metrics"), cut)},  # type: ignore[arg-type]
                "ledger": {"clickhouse": clickhouse},
            }[at]
            with pytest.raises(StoreUnavailable):
                make_drain(stores, batch_messages=10, **broken).run(idle_seconds=idle_seconds(stores))
    # the first batch was perhaps not recorded yet, as the second one met the store that was gone
    assert waiting(fleet, "agent.metrics", 30, 40)
    assert fleet.message_queue.depth("agent.metrics").dead == 0
    assert make_drain(fleet, batch_messages=10).run(idle_seconds=idle_seconds(fleet)).messages in (30, 40)
    assert len(fleet.metrics_store.read(NOW - timedelta(hours=2), NOW + timedelta(hours=1))) == 40
    assert fleet.mongodb.database[HELD].count_documents({}) == 40
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    assert rows == [{"outcome": "partly_quarantined", "n": 40}]


def test_an_outage_uses_up_no_deliveries(fleet: Stores, settings: Settings) -> None:
    """A store was away for an hour. The sensor started a drain every minute, each delivered the same messages and gave
    them back, and at the delivery limit good messages became dead letters."""
    stores_of = {
        "platform.logs": ("CLICKHOUSE_URL", "MONGODB_URL", "DATABASE_URL"),
        "agent.metrics": (metrics_url(settings),),
    }
    bodies = EVENTS | {"agent.metrics": metrics(sample())}
    for queue, names in stores_of.items():
        fleet.message_queue.publish([outgoing(queue, bodies[queue])])
        for name in names:
            with proxied(settings, name) as (through, proxy), open_stores(through) as stores:
                proxy.refuse()
                with pytest.raises(StoreUnavailable):
                    make_drain(impatient(stores), queue).run(idle_seconds=idle_seconds(stores))
        with fleet.message_queue.consume(queue, 1) as consumer:
            (message,) = consumer.receive(1, 1)
        assert message.deliveries == 1
