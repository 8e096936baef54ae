"""Outages are not the messages' fault: whatever a store does, good messages become no dead letters and end written."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from tenacity import wait_exponential_jitter

from ninjait_pipelines.ingest import outages, sensors
from ninjait_pipelines.ingest.assets import agent_metrics
from ninjait_pipelines.ingest.decode.model import Decoded
from ninjait_pipelines.ingest.quarantine import reasons
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.store import OutOfSpace, StoreError, StoreFailed, StoreUnavailable
from ninjait_pipelines.settings import Settings, validate
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain, metrics_url, sink_of
from ninjait_pipelines_tests.ingest.drains import Broken, Faulty, held, ledger, outstanding, poisoned
from ninjait_pipelines_tests.ingest.samples import EVENTS, OTHER_ORG, metrics, outgoing, sample
from ninjait_pipelines_tests.resources.http_proxy import Answer, HttpProxy
from ninjait_pipelines_tests.resources.queue_contract import eventually
from ninjait_pipelines_tests.runs import changed

pytestmark = pytest.mark.usefixtures("retries_at_once")
NO_SPACE = b"Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE) (version 25.8)"
FULL = {
    "INFLUXDB_URL": (500, {}, b'{"code":"internal error","message":"write /wal/1: no space left on device"}'),
    "CLICKHOUSE_URL": (500, {"X-ClickHouse-Exception-Code": "243"}, NO_SPACE),
}


def is_write(method: str, path: str) -> bool:
    return path.startswith("/api/v2/write") or "INSERT" in path


@contextmanager
def failing(settings: Settings, name: str, answer: Answer | None = None) -> Iterator[tuple[Stores, HttpProxy]]:
    """The stores, one of them by way of a proxy, which answers all writes itself."""
    with HttpProxy(settings[name]).running() as proxy, open_stores(validate({**settings, name: proxy.url})) as stores:
        proxy.instead = lambda method, path: (answer or FULL[name]) if is_write(method, path) else None
        yield stores, proxy


def published(stores: Stores, count: int = 100) -> None:
    stores.message_queue.publish([outgoing("agent.metrics", metrics(sample(n))) for n in range(1, count + 1)])


def drain(stores: Stores, **changes: Any) -> Any:
    return make_drain(stores, **changes).run(idle_seconds=idle_seconds(stores))


def all_written(stores: Stores, count: int) -> None:
    assert eventually(lambda: outstanding(stores) == (count, 0)), "dead letters were made, or messages lost"
    assert drain(stores).messages == count
    assert (ledger(stores), outstanding(stores)) == ({"written": count}, (0, 0))


@pytest.mark.parametrize("of", ["metrics store", "ClickHouse"])
def test_six_drains_against_a_store_that_answers_and_takes_no_writes_take_nothing(
    fleet: Stores, settings: Settings, of: str
) -> None:
    """InfluxDB answered 500 to writes and ClickHouse had no disk space; both answered the question whether they are
    there. Six drains made dead letters of all that waited, which a person had to replay."""
    published(fleet)
    name = metrics_url(settings) if of == "metrics store" else "CLICKHOUSE_URL"
    with failing(settings, name) as (stores, _):
        for _ in range(6):
            with pytest.raises(OutOfSpace, match=r"out of disk space.*Free space"):
                drain(stores)
    with fleet.message_queue.consume("agent.metrics", 100) as consumer:
        assert {message.deliveries for message in consumer.receive(100, 2)} == {1}
    all_written(fleet, 100)


def test_the_store_of_log_entries_takes_no_writes(fleet: Stores) -> None:
    """MongoDB's disk was full: its index was there already, so the drain began."""
    fleet.message_queue.publish([outgoing("platform.logs", EVENTS["platform.logs"])])

    def full() -> None:
        raise OutOfSpace("MongoDB", "mongodb://h", "code 14031")

    stores = replace(fleet, mongodb=Faulty(fleet.mongodb, probe=full))
    for _ in range(6):
        with pytest.raises(OutOfSpace):
            drain(stores, queue="platform.logs")
    assert drain(fleet, queue="platform.logs").messages == 1


@pytest.mark.parametrize("of", ["metrics store", "ClickHouse"])
def test_eight_drains_that_fail_under_way_make_no_dead_letters(fleet: Stores, settings: Settings, of: str) -> None:
    """The small write before a drain may pass where the large one does not: then all that came was given back, and at
    the sixth time it became dead letters."""
    published(fleet, 30)
    name = metrics_url(settings) if of == "metrics store" else "CLICKHOUSE_URL"
    with failing(settings, name) as (stores, _), ExitStack() as opened:
        passing = {
            one: opened.enter_context(changed(getattr(stores, one), probe=lambda _: None).open())
            for one in ("metrics_store", "clickhouse")
        }
        for _ in range(8):
            with pytest.raises(StoreUnavailable):
                drain(replace(stores, **passing))
    all_written(fleet, 30)


def test_a_store_that_fails_under_way_is_waited_for(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the messages in hand: nothing is given back, and nothing more is received than had been sent."""
    # An outage that lasts, as a store's own tries make it: with none between them it is over before it is seen.
    monkeypatch.setattr("ninjait_pipelines.resources.store.wait_exponential_jitter", wait_exponential_jitter)
    published(fleet, 80)
    name, waits = metrics_url(settings), []
    with failing(settings, name) as (stores, proxy):
        refuse, proxy.instead = proxy.instead, lambda method, path: None
        slow = make_drain(stores, batch_messages=10, prefetch=40, store_wait_seconds=60, sleep=waits.append)

        def fails_from_now_on(decoded: Sequence[Decoded]) -> None:
            if not waits:
                proxy.instead = refuse
            if len(waits) == 3:
                proxy.instead = lambda method, path: None

        first = Broken(sink_of(stores, "agent.metrics"), fails_from_now_on)  # type: ignore[arg-type]
        done = make_drain(
            stores, batch_messages=10, prefetch=40, sink=first, store_wait_seconds=60, sleep=slow.sleep
        ).run(idle_seconds=idle_seconds(stores))
    assert len(waits) == 3
    assert 10 <= done.messages <= 60
    with fleet.message_queue.consume("agent.metrics", 100) as consumer:
        assert {message.deliveries for message in consumer.receive(100, 2)} == {1}
    assert eventually(lambda: outstanding(fleet) == (80 - done.messages, 0))
    assert drain(fleet, batch_messages=10, prefetch=40).messages == 80 - done.messages
    assert ledger(fleet) == {"written": 80}


def often_delivered(stores: Stores, count: int, often: int = 2) -> None:
    """Publishes messages, and has them come back so often that they are suspects."""
    published(stores, count)

    def away(_: Sequence[Decoded]) -> None:
        raise StoreUnavailable("InfluxDB", "http://h", "silent", "Wait.")

    for _ in range(often):
        with suppress(StoreUnavailable):
            drain(stores, sink=Broken(sink_of(stores, "agent.metrics"), away))  # type: ignore[arg-type]
        assert eventually(lambda: outstanding(stores) == (count, 0))


@pytest.mark.parametrize("error", [StoreFailed, StoreUnavailable])
def test_isolated_messages_for_which_a_store_fails_are_not_rejected(fleet: Stores, error: type[StoreError]) -> None:
    """The first group went through, then the store refused everything for a minute: each of the others was taken for
    the culprit, as it had failed where another one had gone through."""
    often_delivered(fleet, 70)  # two groups: 64 and 6
    calls: list[int] = []

    def for_a_moment(decoded: Sequence[Decoded]) -> None:
        calls.append(len(decoded))
        if 2 <= len(calls) < 9:
            raise error("InfluxDB", "http://h", "engine is closed", "Wait.")

    done = drain(fleet, sink=Broken(sink_of(fleet, "agent.metrics"), for_a_moment))  # type: ignore[arg-type]
    assert (done.messages, outstanding(fleet)) == (70, (0, 0))
    assert ledger(fleet) == {"written": 70}


def test_an_outage_while_messages_are_isolated_is_an_outage(fleet: Stores) -> None:
    often_delivered(fleet, 70)
    calls: list[int] = []

    def after_the_first(decoded: Sequence[Decoded]) -> None:
        calls.append(len(decoded))
        if len(calls) > 1:
            clickhouse.probe = failed
            failed()

    def failed() -> None:
        raise StoreFailed("ClickHouse", "http://h", "Code: 4711", "Read ClickHouse's words above.")

    clickhouse = Faulty(fleet.clickhouse)
    sink = Broken(sink_of(fleet, "agent.metrics"), after_the_first)  # type: ignore[arg-type]
    with pytest.raises(StoreFailed):
        drain(fleet, sink=sink, clickhouse=clickhouse)
    assert len(calls) == 2, "it goes on asking a store that takes nothing"
    assert eventually(lambda: outstanding(fleet) == (6, 0))


@pytest.mark.parametrize("error", [StoreFailed, StoreUnavailable])
@pytest.mark.parametrize("culprit", [0, 9])
def test_one_message_that_a_store_always_fails_for_is_found_out(
    fleet: Stores, error: type[StoreError], culprit: int
) -> None:
    """It must not stop the queue for ever, nor take others along."""

    def refuses(decoded: Sequence[Decoded]) -> None:
        if any(13.0 in one.columns.get("cpu", []) for one in decoded):
            raise error("InfluxDB", "http://h", "panic: index out of range", "Read InfluxDB's words above.")

    bodies = [metrics(sample(n + 1, cpu=13 if n == culprit else 5)) for n in range(10)]
    fleet.message_queue.publish([outgoing("agent.metrics", body) for body in bodies])
    sink = Broken(sink_of(fleet, "agent.metrics"), refuses)  # type: ignore[arg-type]
    for _ in range(5):
        with suppress(error):
            drain(fleet, sink=sink)
        with suppress(StoreError):
            fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(30)))])
    assert eventually(lambda: outstanding(fleet)[0] <= 1)
    drain(fleet)
    (document,) = held(fleet)
    assert "panic: index out of range" in reasons.entries(reasons.read(document))[0].value
    assert ledger(fleet)["dead_lettered"] == 1


@pytest.mark.parametrize("others_go_through", [True, False])
def test_a_message_that_takes_its_store_down_is_found_out_and_an_outage_is_not(
    fleet: Stores, others_go_through: bool
) -> None:
    """It was spared for ever, and the store went down every few minutes. In an outage nothing else goes through."""
    clickhouse = Faulty(fleet.clickhouse)

    def away() -> None:
        raise StoreUnavailable("InfluxDB", "http://h", "connection reset", "Wait.")

    def takes_it_down(decoded: Sequence[Decoded]) -> None:
        if not others_go_through or any(13.0 in one.columns.get("cpu", []) for one in decoded):
            clickhouse.probe = away
            away()

    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(cpu=13)))])
    sink = Broken(sink_of(fleet, "agent.metrics"), takes_it_down)  # type: ignore[arg-type]
    good = 0
    with changed(fleet.message_queue, max_spares=1).open() as broker:
        for number in range(14):
            if outstanding(fleet)[1]:
                break
            fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(100 + number)))])
            good += 1
            with suppress(StoreUnavailable):
                drain(fleet, sink=sink, clickhouse=clickhouse, message_queue=broker)
            clickhouse.probe = lambda: None
    if others_go_through:
        assert eventually(lambda: outstanding(fleet)[1] == 1)
        drain(fleet)
        (document,) = held(fleet)
        words = reasons.entries(reasons.read(document))[0].value
        assert (document["points_quarantined"], words.startswith("it was being written alone")) == (1, True)
        assert ledger(fleet) == {"written": good, "dead_lettered": 1}
    else:
        all_written(fleet, good + 1)


def test_a_bug_of_ours_is_still_found_out(fleet: Stores) -> None:
    """An error that is none of a store's goes the way that it went."""
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(n, cpu=n))) for n in range(10, 20)])
    sink = Broken(sink_of(fleet, "agent.metrics"), poisoned)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            drain(fleet, sink=sink)
    assert drain(fleet, sink=sink).messages == 9
    assert eventually(lambda: outstanding(fleet) == (0, 1))


def test_status_says_that_a_store_takes_no_writes(settings: Settings, fleet: Stores) -> None:
    """`store_health` said that all was well while every write was answered with 500."""
    for name in {metrics_url(settings), "CLICKHOUSE_URL"}:
        with failing(settings, name) as (stores, _):
            status = (stores.clickhouse if name == "CLICKHOUSE_URL" else stores.metrics_store).status()
        assert (status.ok, bool(status.version)) == (False, True)
        assert "accepts no writes" in status.problem
        assert "out of disk space" in status.problem


JOB = sensors.jobs["agent.metrics"].name


def rejected(stores: Stores, reason: str, cpu: float = 5) -> None:
    """A good message among the dead letters of the broker, and then in quarantine."""
    stores.message_queue.publish([outgoing("agent.metrics", metrics(sample(cpu=cpu)))])
    with stores.message_queue.consume("agent.metrics", 10) as consumer:
        for message in consumer.receive(10, 2):
            consumer.reject(message, reason)
    assert eventually(lambda: outstanding(stores) == (0, 1))
    assert drain(stores).dead_letters == 1


def tick(stores: Stores, instance: dg.DagsterInstance) -> str:
    with dg.build_sensor_context(instance=instance, resources=stores.all()) as context:
        return str(sensors.after_outage.evaluate_tick(context).skip_message)


def test_what_an_outage_made_dead_letters_of_is_replayed_when_it_is_over(fleet: Stores, settings: Settings) -> None:
    rejected(fleet, "StoreFailed: ClickHouse at http://h: Code: 243, not enough space")
    with dg.DagsterInstance.ephemeral() as instance:
        with failing(settings, metrics_url(settings)) as (stores, _):
            assert "at least 1 wait, and the outage lasts" in tick(stores, instance)
        assert tick(fleet, instance) == "messages replayed: 1"
        assert tick(fleet, instance).startswith("no dead letter")
    assert drain(fleet).points_written == 1
    (copy,) = fleet.mongodb.database.quarantine.find()
    assert (copy["state"], copy["trail"][0]["who"]) == ("replayed", "after_outage")


def test_what_is_to_blame_after_all_is_not_replayed_for_ever(fleet: Stores) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        said = []
        for _ in range(4):
            with fleet.message_queue.consume("agent.metrics", 10) as consumer:
                for message in consumer.receive(10, 0.3):
                    consumer.acknowledge([message])
            rejected(fleet, "StoreUnavailable: InfluxDB at http://h: panic")
            said.append(tick(fleet, instance))
    assert said[:2] == ["messages replayed: 1"] * 2
    assert all(one.startswith("no dead letter") for one in said[2:])
    assert len(held(fleet)) == 2


@pytest.mark.parametrize("reason", ["ZeroDivisionError: a bug of ours", "tried it"])
def test_what_no_outage_made_dead_letters_of_waits_for_a_person(fleet: Stores, reason: str) -> None:
    rejected(fleet, reason)
    with dg.DagsterInstance.ephemeral() as instance:
        failed_for_a_store(instance)
        assert tick(fleet, instance).startswith("no dead letter")


@dg.job(name=JOB)
def stand_in() -> None:
    """A job with the drain's name, of which runs are made up."""


def failed_for_a_store(instance: dg.DagsterInstance) -> None:
    instance.report_run_failed(instance.create_run_for_job(stand_in, tags={outages.STORE_FAILED: "true"}))


@pytest.mark.parametrize("outage", [True, False])
def test_what_the_broker_counted_out_is_replayed_if_drains_failed_for_a_store(fleet: Stores, outage: bool) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        if outage:
            failed_for_a_store(instance)
        rejected(fleet, "delivered 6 times and never settled; the limit is 5")
        assert tick(fleet, instance) == (
            "messages replayed: 1" if outage else "no dead letter of an outage is in quarantine"
        )


def test_dagster_is_asked_once_for_what_was_held_together(fleet: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand that workers without memory had been counted out with: a question for each, at every tick, took the
    sensor's minute, and what an outage had made dead letters of was never replayed."""
    reason = reasons.stored(reasons.kinds([(None, None, "delivered 6 times and never settled", reasons.DEAD_LETTER)]))
    about = {"queue": "agent.metrics", "routing_key": "metrics.a", "envelope_organization": "a", "state": "held"}
    about |= {"reasons": reason, "quarantined_at": datetime(2026, 11, 30, tzinfo=UTC)}
    fleet.mongodb.database.quarantine.insert_many([{"_id": str(n), "message_id": str(n), **about} for n in range(50)])
    asked: list[str] = []

    def drain_failed(_: dg.DagsterInstance, job: str, before: datetime) -> bool:
        asked.append(job)
        return False

    monkeypatch.setattr(outages, "drain_failed_for_a_store", drain_failed)
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(fleet, instance).startswith("no dead letter")
    assert asked == [JOB]


def test_dead_letters_that_stay_hold_up_their_own_organization_only(
    fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest that one tick may replay were taken, replayable or not: as many that are not, and it was never anybody
    else's turn."""
    monkeypatch.setattr(sensors, "MAX_OF_ONE", 3)
    monkeypatch.setattr(sensors, "MAX_REPLAYED", 9)
    rejected(fleet, "StoreUnavailable: ClickHouse is away")
    [good] = fleet.mongodb.database.quarantine.find()
    stuck = {**good, "share": OTHER_ORG, "quarantined_at": good["quarantined_at"] - timedelta(days=1)}
    stuck |= {"routing_key": f"heartbeat.{OTHER_ORG}"}  # no key of this queue
    fleet.mongodb.database.quarantine.insert_many([{**stuck, "_id": f"agent.metrics/stuck-{n}"} for n in range(20)])
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(fleet, instance) == "messages replayed: 1"
    assert fleet.mongodb.database.quarantine.find_one({"_id": good["_id"]})["state"] == "replayed"
    assert fleet.mongodb.database.quarantine.count_documents({"state": "held"}) == 20


def test_a_drain_that_fails_for_a_store_says_so_in_its_run(fleet: Stores, settings: Settings) -> None:
    with failing(settings, metrics_url(settings)) as (stores, _), dg.DagsterInstance.ephemeral() as instance:
        job = dg.Definitions(assets=[agent_metrics], jobs=[sensors.jobs["agent.metrics"]], resources=stores.all())
        done = job.resolve_job_def(JOB).execute_in_process(instance=instance, raise_on_error=False)
        assert not done.success
        (run,) = instance.get_runs()
    assert run.tags[outages.STORE_FAILED] == "true"
