"""The spool: what a drain quarantines while MongoDB is away, slow or full, and how it gets there afterwards."""

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import PIECES, body_of
from ninjait_pipelines.ingest.quarantine.hold import move_spooled
from ninjait_pipelines.ingest.quarantine.query import ReasonSummary, summarize
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable
from ninjait_pipelines.settings import Settings, validate
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.deaths import (
    HELD,
    contents,
    drain_once,
    empty,
    impatient,
    killed,
    proxied,
    publish_everything,
    waiting,
)
from ninjait_pipelines_tests.ingest.materialized import KEY, definitions, drain, outcomes
from ninjait_pipelines_tests.ingest.quarantine.helpers import drain_now, spooled, without_mongodb
from ninjait_pipelines_tests.ingest.samples import NOW, metrics, outgoing, sample
from ninjait_pipelines_tests.proxy import Proxy

AT_ONCE = pytest.mark.usefixtures("retries_at_once")

LONG = b'{"a": "' + b"x" * 9_000_000 + b'"}'


def away(settings: Settings) -> Settings:
    """The settings, with a MongoDB that is away."""
    with proxied(settings, "MONGODB_URL") as (through, _):
        return through


def held(stores: Stores) -> list[dict[str, Any]]:
    """Every document of the quarantine with its whole body, but for its id, which is another at each publication, and
    its size, which the id is part of."""
    documents = list(stores.mongodb.database[HELD].find({}, {"held_bytes": 0}))
    whole = [one | {"_id": 0, "body": body_of(stores.mongodb, one)} for one in documents]
    return sorted(whole, key=lambda one: (one["message_id"], repr(one["reasons"])))


def publish_with_dead_letters(stores: Stores) -> None:
    """Everything, a body too long for one document, and thirty messages that were given up."""
    stores.message_queue.publish([outgoing("agent.metrics", metrics(sample(n, cpu=3))) for n in range(200, 230)])
    with stores.message_queue.consume("agent.metrics", 50) as consumer:
        for message in consumer.receive(50, 0.1):
            consumer.reject(message, "tried it")
    publish_everything(stores)
    stores.message_queue.publish([outgoing("agent.metrics", LONG)])


def empty_all(stores: Stores) -> None:
    empty(stores)
    stores.mongodb.database[PIECES].delete_many({})


def listed(stores: Stores) -> list[ReasonSummary]:
    return sorted(summarize(query.select(stores.mongodb)), key=repr)


@AT_ONCE
def test_what_was_spooled_is_moved_document_for_document(fleet: Stores, settings: Settings) -> None:
    publish_with_dead_letters(fleet)
    drain_now(fleet, long_bodies=True)
    clean, documents, lines = contents(fleet), held(fleet), listed(fleet)
    assert len(documents) == 34
    empty_all(fleet)

    publish_with_dead_letters(fleet)
    with without_mongodb(settings) as stores:
        assert drain_now(stores, long_bodies=True).dead_letters == 30
    assert contents(fleet) == clean | {"held": []}
    spool = Spool(fleet.mongodb)
    assert spool.waiting()[0] == len(list(spool.documents())) == 34
    assert {path.stat().st_mode & 0o777 for path in spool.files()} == {0o600}
    assert drain_now(fleet).messages == 0
    assert (held(fleet), listed(fleet), contents(fleet)) == (documents, lines, clean)
    assert {path.name for path in spool.folder.iterdir()} == {"held.json"}, "the sizes, which stay"


@AT_ONCE
@pytest.mark.parametrize("death", ["spool", "5 ledger", "6 acknowledge"])
def test_killed_after_any_step_without_mongodb(fleet: Stores, settings: Settings, death: str) -> None:
    """The next drain may find no MongoDB either, and spool the same copies again: they are moved as one."""
    publish_everything(fleet)
    make_drain(fleet).run(idle_seconds=idle_seconds(fleet))
    clean = contents(fleet)
    for next_one in (settings, away(settings)):
        empty(fleet)
        publish_everything(fleet)
        assert killed(away(settings), "agent.metrics", death) == -signal.SIGKILL
        if death == "6 acknowledge":  # RabbitMQ is told a moment later than the drain goes on
            assert fleet.message_queue.depth("agent.metrics").outstanding in (0, 25)
        else:
            assert waiting(fleet, "agent.metrics", 25)
        drain_once(dict(next_one), "agent.metrics", None)
        move_spooled(fleet.mongodb, NOW)
        assert contents(fleet) == clean
        assert Spool(fleet.mongodb).waiting() == (0, 0)


@AT_ONCE
def test_a_mover_that_is_killed_half_way_moves_again_onto_itself(fleet: Stores, settings: Settings) -> None:
    publish_everything(fleet)
    drain_now(fleet)
    documents = held(fleet)
    empty(fleet)
    publish_everything(fleet)
    with without_mongodb(settings) as stores:
        drain_now(stores)
    assert killed(settings, "agent.metrics", "insert what was spooled") == -signal.SIGKILL
    assert (held(fleet), Spool(fleet.mongodb).waiting()[0]) == (documents, 3)
    assert move_spooled(fleet.mongodb, NOW) == 3
    assert (held(fleet), Spool(fleet.mongodb).waiting()[0]) == (documents, 0)


@AT_ONCE
def test_mongodb_goes_between_the_pieces_of_a_long_body(fleet: Stores, settings: Settings) -> None:
    """The document that is spooled has its body, whatever was cut off it already."""
    fleet.message_queue.publish([outgoing("agent.metrics", LONG), outgoing("agent.metrics", b"not json")])
    with proxied(settings, "MONGODB_URL") as (through, proxy), open_stores(through) as stores:

        class GoesAfterAnInsert(MongoDB):
            def insert_new(self, collection: str, documents: Any) -> None:
                super().insert_new(collection, documents)
                proxy.refuse()

        mongodb = GoesAfterAnInsert(**impatient(stores).mongodb.model_dump())
        assert drain_now(stores, long_bodies=True, mongodb=mongodb).messages == 2
    assert (len(held(fleet)), Spool(fleet.mongodb).waiting()[0]) == (0, 2)
    drain_now(fleet)
    assert sorted(one["body"] for one in held(fleet)) == sorted([LONG, b"not json"])


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@AT_ONCE
def test_with_neither_mongodb_nor_room_for_the_spool_nothing_is_received(fleet: Stores, settings: Settings) -> None:
    fleet.message_queue.publish([outgoing("agent.metrics", b"not json")])
    for _ in range(6):  # more often than the delivery limit
        no_room = pytest.raises(StoreUnavailable, match=r"spool at file:///.* cannot be written: File too large")
        with without_mongodb(settings) as stores, files_up_to(1_000_000), no_room:
            drain_now(stores)
    folder = Spool(fleet.mongodb).folder
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.touch()
    with without_mongodb(settings) as stores, pytest.raises(StoreUnavailable, match="cannot be written"):
        drain_now(stores)
    folder.unlink()
    with fleet.message_queue.consume("agent.metrics", 1) as consumer:
        (message,) = consumer.receive(1, 0.1)
    assert message.deliveries == 1


@AT_ONCE
def test_a_disk_that_fills_up_during_a_drain_acknowledges_nothing(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.message_queue.publish([outgoing("agent.metrics", b"x" * 2_000_000) for _ in range(3)])
    monkeypatch.setattr(Spool, "check_room", lambda _: None)
    full = pytest.raises(StoreUnavailable, match="File too large")
    with without_mongodb(settings) as stores, files_up_to(5_000_000), full:
        drain_now(stores, long_bodies=True)
    assert waiting(fleet, "agent.metrics", 3)
    assert list(Spool(fleet.mongodb).folder.iterdir()) == []
    assert fleet.clickhouse.scalar("SELECT count() FROM message_deliveries") == 0
    assert drain_now(fleet, long_bodies=True).messages_quarantined == 3


@AT_ONCE
def test_what_mongodb_may_take_back_goes_to_the_spool(fleet: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica set whose majority did not answer in time says so beside the insert, and may roll it back."""
    unsure = {"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "waiting for replication timed out"}]}

    def insert_many(*_: Any, **__: Any) -> None:
        raise BulkWriteError(unsure)

    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(cpu=-2)))])
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "insert_many", insert_many)
        assert drain_now(fleet).messages_quarantined == 1
        assert len(list(Spool(fleet.mongodb).documents())) == 1
        with pytest.raises(StoreFailed, match="replication timed out"):
            move_spooled(fleet.mongodb, NOW)
        assert len(list(Spool(fleet.mongodb).documents())) == 1
    assert move_spooled(fleet.mongodb, NOW) == 1


@AT_ONCE
def test_two_drains_and_two_movers_at_once(fleet: Stores, settings: Settings) -> None:
    fleet.message_queue.publish(
        [outgoing("agent.metrics", metrics(sample(n), sample(n, cpu=-2))) for n in range(1, 101)]
    )
    done = threading.Event()
    errors: list[Exception] = []

    def work(name: str) -> None:
        with without_mongodb(settings) as stores:
            drain_now(stores, batch_messages=5, run_id=name)

    def move() -> None:
        with open_stores(settings) as stores:
            while not done.is_set():
                try:
                    move_spooled(stores.mongodb, NOW)
                except StoreFailed as error:
                    errors.append(error)

    drains = [threading.Thread(target=work, args=(name,)) for name in ("left", "right")]
    movers = [threading.Thread(target=move) for _ in range(2)]
    for thread in (*movers, *drains):
        thread.start()
    for thread in drains:
        thread.join()
    done.set()
    for thread in movers:
        thread.join()
    drain_now(fleet, batch_messages=5)
    assert errors == []
    assert Spool(fleet.mongodb).waiting() == (0, 0)
    assert len(held(fleet)) == 100
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    assert rows == [{"outcome": "partly_quarantined", "n": 100}]


@AT_ONCE
def test_a_damaged_file_is_left_and_named_and_the_others_are_moved(
    fleet: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    files = spooled(fleet, settings, b"one", b"two", b"three")
    torn, emptied, _ = files
    torn.write_bytes(torn.read_bytes()[:-3])
    emptied.write_bytes(b"")
    with pytest.raises(StoreFailed, match=f"{emptied.name}.*0 documents are left in it"):
        move_spooled(fleet.mongodb, NOW)
    assert Spool(fleet.mongodb).files() == [torn, emptied]
    assert len(held(fleet)) == 1
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample()))])
    assert drain_now(fleet).points_written == 1
    assert emptied.name in caplog.text


@AT_ONCE
def test_an_unfinished_file_is_nobodys_and_is_cleared_away_a_day_later(fleet: Stores) -> None:
    spool = Spool(fleet.mongodb)
    spool.folder.mkdir(parents=True)
    left = spool.folder / "run.part"
    left.write_bytes(b"half")
    move_spooled(fleet.mongodb, datetime.now(UTC))
    assert (spool.files(), left.exists()) == ([], True)
    move_spooled(fleet.mongodb, datetime.now(UTC) + timedelta(days=2))
    assert not left.exists()


@AT_ONCE
def test_the_spool_of_another_database_is_left_alone(fleet: Stores, settings: Settings) -> None:
    """A test's drain must not move what waits for the database of the developer's own stack."""
    (file,) = spooled(fleet, settings, b"bad")
    other = validate({**settings, "MONGODB_URL": settings["MONGODB_URL"] + "_other"})
    with open_stores(other) as stores:
        assert move_spooled(stores.mongodb, NOW) == 0
    assert file.exists()


@AT_ONCE
def test_a_mongodb_that_is_away_costs_one_time_out_a_drain(fleet: Stores, settings: Settings) -> None:
    """Of ten batches and four lots of dead letters."""
    fleet.message_queue.publish([outgoing("agent.metrics", b"x" * n) for n in range(1, 101)])
    with fleet.message_queue.consume("agent.metrics", 100) as consumer:
        for message in consumer.receive(100, 0.1):
            consumer.reject(message, "tried it")
    fleet.message_queue.publish([outgoing("agent.metrics", b"y" * n) for n in range(1, 101)])
    with without_mongodb(settings) as stores:
        started = time.monotonic()
        summary = drain_now(stores, batch_messages=10)
        seconds = time.monotonic() - started
    assert (summary.messages, summary.dead_letters) == (100, 100)
    assert len(Spool(fleet.mongodb).files()) == 14
    assert 1 <= seconds < 5


def conservation(stores: Stores, instance: dg.DagsterInstance) -> Any:
    """The check alone, of the last drain."""
    only = dg.define_asset_job("only_checks", selection=dg.AssetSelection.checks_for_assets(KEY))
    job = dg.Definitions.merge(definitions(stores), dg.Definitions(jobs=[only])).resolve_job_def("only_checks")
    found = job.execute_in_process(instance=instance).get_asset_check_evaluations()
    return next(one for one in found if one.check_name == "conservation")


@AT_ONCE
def test_conservation_counts_what_waits_in_the_spool(fleet: Stores, settings: Settings) -> None:
    bad = [outgoing("agent.metrics", metrics(sample(n), sample(n, cpu=-2))) for n in range(1, 31)]
    with dg.DagsterInstance.ephemeral() as instance, without_mongodb(settings) as stores:
        fleet.message_queue.publish(bad)
        assert outcomes(drain(stores, instance, "agent_metrics"))["conservation"]
        assert conservation(stores, instance).metadata["held"].value == 30
        move_spooled(fleet.mongodb, NOW)
        assert conservation(fleet, instance).metadata["held"].value == 30

        unseen = conservation(stores, instance)
        assert (unseen.passed, unseen.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "MongoDB at" in unseen.description

        fleet.message_queue.publish(bad)
        drain(stores, instance, "agent_metrics")
        for file in Spool(fleet.mongodb).files():
            file.unlink()
        lost = conservation(fleet, instance)
        assert (lost.passed, lost.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert "quarantined messages: 30 against 0" in lost.description


@AT_ONCE
def test_a_file_that_cannot_be_deleted_is_moved_again_onto_itself(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A spool that was mounted read-only after the outage stopped every drain."""
    (file,) = spooled(fleet, settings, b"bad")

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample()))])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        assert drain_now(fleet).points_written == 1
    assert "make the folder writable" in caplog.text
    assert (len(held(fleet)), file.exists()) == (1, True)
    drain_now(fleet)
    assert (len(held(fleet)), file.exists()) == (1, False)


@contextmanager
def through_proxy(settings: Settings) -> Iterator[tuple[Stores, Proxy]]:
    """The stores, with a proxy before MongoDB."""
    with Proxy(settings["MONGODB_URL"]) as proxy:
        through = validate({**settings, "MONGODB_URL": proxy.url})
        with open_stores(through) as stores:
            yield impatient(stores), proxy


def ledger_outcomes(stores: Stores) -> list[tuple[str, int]]:
    rows = stores.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome ORDER BY outcome")
    return [(row["outcome"], row["n"]) for row in rows]


def test_a_mongodb_that_stops_answering_costs_one_time_out_a_drain(fleet: Stores, settings: Settings) -> None:
    """Its connections stay open and say nothing: not refused, so only a time-out tells."""
    with through_proxy(settings) as (stores, proxy):
        stores.mongodb.database["quarantine"].find_one({})
        proxy.pause()
        fleet.message_queue.publish([outgoing("agent.metrics", b"x" * n) for n in range(1, 101)])
        started = time.monotonic()
        assert drain_now(stores, batch_messages=10).messages == 100
        assert time.monotonic() - started < 8  # one time-out of an answer is 3 seconds here
        proxy.resume()
    assert Spool(fleet.mongodb).waiting()[0] == 100
    assert drain_now(fleet, batch_messages=10).messages == 0
    assert fleet.mongodb.database["quarantine"].count_documents({}) == 100


def test_mongodb_that_hangs_in_the_middle_of_a_drain(fleet: Stores, settings: Settings) -> None:
    """What it was given last it may have taken, though it never said so: that is held once all the same."""
    fleet.message_queue.publish([outgoing("agent.metrics", b"x" * n) for n in range(1, 51)])
    with through_proxy(settings) as (stores, proxy):
        inserts = iter(range(100))

        class HangsAtTheThirdBatch(MongoDB):
            def insert_new(self, collection: str, documents: Any) -> None:
                if documents and next(inserts) == 2:
                    proxy.pause()
                super().insert_new(collection, documents)

        started = time.monotonic()
        assert (
            drain_now(stores, batch_messages=10, mongodb=HangsAtTheThirdBatch(**stores.mongodb.model_dump())).messages
            == 50
        )
        assert time.monotonic() - started < 15
        proxy.resume()  # the request that was given up reaches MongoDB now
        assert Spool(fleet.mongodb).waiting()[0] == 30
        drain_now(fleet, batch_messages=10)
        time.sleep(0.2)
    assert fleet.mongodb.database["quarantine"].count_documents({}) == 50
    assert ledger_outcomes(fleet) == [("quarantined", 50)]


def test_mongodb_goes_between_the_quarantine_and_the_ledger(fleet: Stores, settings: Settings) -> None:
    """What was held before it went is not spooled as well, and what comes after is."""
    fleet.message_queue.publish([outgoing("agent.metrics", b"one"), outgoing("agent.metrics", b"two")])
    with through_proxy(settings) as (stores, proxy):

        class MongoDBGoesBeforeTheLedger(ClickHouse):
            def insert(self, table: str, *arguments: Any, **options: Any) -> Any:
                if table == "message_deliveries":
                    proxy.refuse()
                return super().insert(table, *arguments, **options)

        with MongoDBGoesBeforeTheLedger(**stores.clickhouse.model_dump()).open() as clickhouse:
            assert drain_now(stores, batch_messages=1, clickhouse=clickhouse).messages_quarantined == 2
    assert fleet.mongodb.database["quarantine"].count_documents({}) == 1
    assert Spool(fleet.mongodb).waiting()[0] == 1
    assert ledger_outcomes(fleet) == [("quarantined", 2)]


def test_a_spool_that_cannot_be_used_matters_only_while_mongodb_is_away(fleet: Stores, settings: Settings) -> None:
    folder = Spool(fleet.mongodb).folder
    folder.parent.mkdir(parents=True)
    folder.touch()  # a file where the folder should be
    fleet.message_queue.publish([outgoing("agent.metrics", b"bad"), outgoing("agent.metrics", metrics(sample()))])
    assert drain_now(fleet).messages_quarantined == 1
    with through_proxy(settings) as (stores, proxy):
        proxy.refuse()
        with pytest.raises(StoreUnavailable, match="cannot be written"):
            drain_now(stores)
        (status,) = check_all({"mongodb": stores.mongodb})
    assert (status.ok, status.optional, status.spooled_messages) == (False, True, None)
    assert "Not a directory" in status.note
