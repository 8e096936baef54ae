"""Drains without MongoDB and without Dragonfly: they go on, and what was missing is made good afterwards."""

import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import typer
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError
from typer.testing import CliRunner

import ninjait_pipelines.resources
from ninjait_pipelines import keys
from ninjait_pipelines.cache.assets import device_caches
from ninjait_pipelines.cli.quarantine import commands
from ninjait_pipelines.ingest import drain as drain_module
from ninjait_pipelines.ingest.drain import DrainSummary
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import PIECES, body_of
from ninjait_pipelines.ingest.quarantine.hold import move_spooled
from ninjait_pipelines.ingest.quarantine.query import ReasonSummary, summarize
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.sinks import MetricsSink
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.resources.store import StoreFailed, StoreUnavailable
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import LOG, idle_seconds, make_drain, metrics_url
from ninjait_pipelines_tests.ingest.samples import DEVICE, NOW, SECOND_DEVICE, metrics, outgoing, sample
from ninjait_pipelines_tests.ingest.test_assets import KEY, definitions, drain, outcomes
from ninjait_pipelines_tests.ingest.test_drain_dies import (
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
from ninjait_pipelines_tests.resources.test_dragonfly_queue import Server
from ninjait_pipelines_tests.runs import run

pytestmark = pytest.mark.usefixtures("retries_at_once")
LONG = b'{"a": "' + b"x" * 9_000_000 + b'"}'


@contextmanager
def without_mongodb(settings: Settings) -> Iterator[Stores]:
    """The stores, with a MongoDB that is away."""
    with proxied(settings, "MONGODB_URL") as (through, proxy), open_stores(through) as stores:
        proxy.refuse()
        yield impatient(stores)


def away(settings: Settings) -> Settings:
    """The settings, with a MongoDB that is away."""
    with proxied(settings, "MONGODB_URL") as (through, _):
        return through


def drained(stores: Stores, long_bodies: bool = False, **changes: Any) -> DrainSummary:
    """A drain, which waits for RabbitMQ to send bodies of many megabytes if there are some."""
    waited = 2.0 if long_bodies else idle_seconds(stores)
    return make_drain(stores, clock=lambda: NOW, **changes).run(idle_seconds=waited)


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


def test_what_was_spooled_is_moved_document_for_document(fleet: Stores, settings: Settings) -> None:
    publish_with_dead_letters(fleet)
    drained(fleet, long_bodies=True)
    clean, documents, lines = contents(fleet), held(fleet), listed(fleet)
    assert len(documents) == 34
    empty_all(fleet)

    publish_with_dead_letters(fleet)
    with without_mongodb(settings) as stores:
        assert drained(stores, long_bodies=True).dead_letters == 30
    assert contents(fleet) == clean | {"held": []}
    spool = Spool(fleet.mongodb)
    assert spool.waiting()[0] == len(list(spool.documents())) == 34
    assert {path.stat().st_mode & 0o777 for path in spool.files()} == {0o600}
    assert drained(fleet).messages == 0
    assert (held(fleet), listed(fleet), contents(fleet)) == (documents, lines, clean)
    assert {path.name for path in spool.folder.iterdir()} == {"held.json"}, "the sizes, which stay"


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


def test_a_mover_that_is_killed_half_way_moves_again_onto_itself(fleet: Stores, settings: Settings) -> None:
    publish_everything(fleet)
    drained(fleet)
    documents = held(fleet)
    empty(fleet)
    publish_everything(fleet)
    with without_mongodb(settings) as stores:
        drained(stores)
    assert killed(settings, "agent.metrics", "insert what was spooled") == -signal.SIGKILL
    assert (held(fleet), Spool(fleet.mongodb).waiting()[0]) == (documents, 3)
    assert move_spooled(fleet.mongodb, NOW) == 3
    assert (held(fleet), Spool(fleet.mongodb).waiting()[0]) == (documents, 0)


def test_mongodb_goes_between_the_pieces_of_a_long_body(fleet: Stores, settings: Settings) -> None:
    """The document that is spooled has its body, whatever was cut off it already."""
    fleet.message_queue.publish([outgoing("agent.metrics", LONG), outgoing("agent.metrics", b"not json")])
    with proxied(settings, "MONGODB_URL") as (through, proxy), open_stores(through) as stores:

        class GoesAfterAnInsert(MongoDB):
            def insert_new(self, collection: str, documents: Any) -> None:
                super().insert_new(collection, documents)
                proxy.refuse()

        mongodb = GoesAfterAnInsert(**impatient(stores).mongodb.model_dump())
        assert drained(stores, long_bodies=True, mongodb=mongodb).messages == 2
    assert (len(held(fleet)), Spool(fleet.mongodb).waiting()[0]) == (0, 2)
    drained(fleet)
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


def test_with_neither_mongodb_nor_room_for_the_spool_nothing_is_received(fleet: Stores, settings: Settings) -> None:
    fleet.message_queue.publish([outgoing("agent.metrics", b"not json")])
    for _ in range(6):  # more often than the delivery limit
        no_room = pytest.raises(StoreUnavailable, match=r"spool at file:///.* cannot be written: File too large")
        with without_mongodb(settings) as stores, files_up_to(1_000_000), no_room:
            drained(stores)
    folder = Spool(fleet.mongodb).folder
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.touch()
    with without_mongodb(settings) as stores, pytest.raises(StoreUnavailable, match="cannot be written"):
        drained(stores)
    folder.unlink()
    with fleet.message_queue.consume("agent.metrics", 1) as consumer:
        (message,) = consumer.receive(1, 0.1)
    assert message.deliveries == 1


def test_a_disk_that_fills_up_during_a_drain_acknowledges_nothing(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.message_queue.publish([outgoing("agent.metrics", b"x" * 2_000_000) for _ in range(3)])
    monkeypatch.setattr(Spool, "check_room", lambda _: None)
    full = pytest.raises(StoreUnavailable, match="File too large")
    with without_mongodb(settings) as stores, files_up_to(5_000_000), full:
        drained(stores, long_bodies=True)
    assert waiting(fleet, "agent.metrics", 3)
    assert list(Spool(fleet.mongodb).folder.iterdir()) == []
    assert fleet.clickhouse.scalar("SELECT count() FROM message_deliveries") == 0
    assert drained(fleet, long_bodies=True).messages_quarantined == 3


def test_what_mongodb_may_take_back_goes_to_the_spool(fleet: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica set whose majority did not answer in time says so beside the insert, and may roll it back."""
    unsure = {"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "waiting for replication timed out"}]}

    def insert_many(*_: Any, **__: Any) -> None:
        raise BulkWriteError(unsure)

    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(cpu=-2)))])
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "insert_many", insert_many)
        assert drained(fleet).messages_quarantined == 1
        assert len(list(Spool(fleet.mongodb).documents())) == 1
        with pytest.raises(StoreFailed, match="replication timed out"):
            move_spooled(fleet.mongodb, NOW)
        assert len(list(Spool(fleet.mongodb).documents())) == 1
    assert move_spooled(fleet.mongodb, NOW) == 1


def test_two_drains_and_two_movers_at_once(fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 5)
    fleet.message_queue.publish(
        [outgoing("agent.metrics", metrics(sample(n), sample(n, cpu=-2))) for n in range(1, 101)]
    )
    done = threading.Event()
    errors: list[Exception] = []

    def work(name: str) -> None:
        with without_mongodb(settings) as stores:
            drained(stores, run_id=name)

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
    drained(fleet)
    assert errors == []
    assert Spool(fleet.mongodb).waiting() == (0, 0)
    assert len(held(fleet)) == 100
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    assert rows == [{"outcome": "partly_quarantined", "n": 100}]


def spooled(fleet: Stores, settings: Settings, *bodies: Any) -> list[Path]:
    """Spools these bad messages, each in a file of its own; returns the new files."""
    before = set(Spool(fleet.mongodb).files())
    with without_mongodb(settings) as stores:
        for body in bodies:
            fleet.message_queue.publish([outgoing("agent.metrics", body)])
            drained(stores)
    return sorted(set(Spool(fleet.mongodb).files()) - before)


def test_a_damaged_file_is_left_and_named_and_the_others_are_moved(
    fleet: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    files = spooled(fleet, settings, b"one", b"two", b"three")
    torn, emptied, _ = files
    torn.write_bytes(torn.read_bytes()[:-3])
    emptied.write_bytes(b"")
    with pytest.raises(StoreFailed, match=f"{emptied.name}.*0 documents are left of it"):
        move_spooled(fleet.mongodb, NOW)
    assert Spool(fleet.mongodb).files() == [torn, emptied]
    assert len(held(fleet)) == 1
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample()))])
    assert drained(fleet).points_written == 1
    assert emptied.name in caplog.text


def test_an_unfinished_file_is_nobodys_and_is_cleared_away_a_day_later(fleet: Stores) -> None:
    spool = Spool(fleet.mongodb)
    spool.folder.mkdir(parents=True)
    left = spool.folder / "run.part"
    left.write_bytes(b"half")
    move_spooled(fleet.mongodb, datetime.now(UTC))
    assert (spool.files(), left.exists()) == ([], True)
    move_spooled(fleet.mongodb, datetime.now(UTC) + timedelta(days=2))
    assert not left.exists()


def test_the_spool_of_another_database_is_left_alone(fleet: Stores, settings: Settings) -> None:
    """A test's drain must not move what waits for the database of the developer's own stack."""
    (file,) = spooled(fleet, settings, b"bad")
    other = Settings(settings | {"MONGODB_URL": settings["MONGODB_URL"] + "_other"})
    with open_stores(other) as stores:
        assert move_spooled(stores.mongodb, NOW) == 0
    assert file.exists()


def test_a_mongodb_that_is_away_costs_one_time_out_a_drain(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten batches and four lots of dead letters."""
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 10)
    fleet.message_queue.publish([outgoing("agent.metrics", b"x" * n) for n in range(1, 101)])
    with fleet.message_queue.consume("agent.metrics", 100) as consumer:
        for message in consumer.receive(100, 0.1):
            consumer.reject(message, "tried it")
    fleet.message_queue.publish([outgoing("agent.metrics", b"y" * n) for n in range(1, 101)])
    with without_mongodb(settings) as stores:
        started = time.monotonic()
        summary = drained(stores)
        seconds = time.monotonic() - started
    assert (summary.messages, summary.dead_letters) == (100, 100)
    assert len(Spool(fleet.mongodb).files()) == 14
    assert 1 <= seconds < 5


@contextmanager
def mute() -> Iterator[tuple[str, list[Any]]]:
    """(URL of a server that accepts connections and never says a word, those that it accepted)."""
    accepted: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    accepted.append(server.accept())
            except OSError:
                return

        threading.Thread(target=accept, daemon=True).start()
        yield f"redis://:x@127.0.0.1:{server.getsockname()[1]}/0", accepted
        server.shutdown(socket.SHUT_RDWR)


def cached_in(fleet: Stores, dragonfly: Dragonfly) -> MetricsSink:
    return MetricsSink(fleet.metrics_store, dragonfly, fleet.clickhouse, LOG)


def test_a_dragonfly_that_hangs_costs_one_time_out_a_drain_and_then_one_try_a_pause(
    fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 10)
    bodies = [outgoing("agent.metrics", metrics(sample(n))) for n in range(1, 101)]
    fleet.message_queue.publish(bodies)
    with mute() as (url, accepted), Dragonfly(url=url, timeout_seconds=1).open() as dragonfly:
        sink = cached_in(fleet, dragonfly)
        started = time.monotonic()
        assert drained(fleet, sink=sink).messages == 100
        assert 1 <= time.monotonic() - started < 4
        assert len(accepted) == 1
        fleet.message_queue.publish(bodies[:30])
        drained(fleet, sink=sink)
        assert len(accepted) == 1
        dragonfly._breaker.reset_timeout = 0
        fleet.message_queue.publish(bodies[:10])
        drained(fleet, sink=sink)
        assert len(accepted) == 2
    assert fleet.clickhouse.scalar("SELECT count() FROM message_ledger") == 140


def test_the_breaker_closes_once_the_store_answers(fleet: Stores, tmp_path: Path) -> None:
    server = Server(tmp_path / "dragonfly")
    with Dragonfly(url=server.url, timeout_seconds=1).open() as dragonfly:
        dragonfly._breaker.reset_timeout = 0.2
        server.stop()
        with pytest.raises(StoreUnavailable), dragonfly.optional():
            dragonfly.set_many_if_newer([("key", {"as_of": "1"})])
        with pytest.raises(StoreUnavailable, match="left alone"), dragonfly.optional():
            pytest.fail("the store was asked")
        server.start()
        time.sleep(0.25)
        for as_of in ("1", "2"):
            with dragonfly.optional():
                assert dragonfly.set_many_if_newer([("key", {"as_of": as_of})]) == 1
        with pytest.raises(ZeroDivisionError), dragonfly.optional():
            raise ZeroDivisionError
        with dragonfly.optional():  # our own bug said nothing about the store
            assert dragonfly.client.ping()
    server.stop()


def latest(dragonfly: Dragonfly) -> dict[str, Any]:
    found = sorted(dragonfly.client.scan_iter("device:*"))
    return {key: dragonfly.client.get(key) for key in found}


def test_a_dragonfly_that_died_during_a_drain_is_repaired_from_the_store(
    fleet: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It dies after the second of four batches, comes back empty, and has afterwards what it would have had."""
    monkeypatch.setattr(drain_module, "BATCH_MESSAGES", 5)
    devices = (DEVICE, SECOND_DEVICE)
    bodies = [metrics(sample(60 - n, cpu=n, memory=n * 1.5), device_id=devices[n % 2]) for n in range(20)]
    fleet.message_queue.publish([outgoing("agent.metrics", body) for body in bodies])
    server = Server(tmp_path / "dragonfly")
    try:
        with Dragonfly(url=server.url, timeout_seconds=1).open() as dragonfly:
            sink = cached_in(fleet, dragonfly)
            write, batches = sink.write, iter(range(1, 100))

            def dying(*arguments: Any) -> Any:
                hours = write(*arguments)
                if next(batches) == 2:
                    server.stop()
                return hours

            with monkeypatch.context() as patch:
                patch.setattr(sink, "write", dying)
                assert drained(fleet, sink=sink).points_written == 20
            (tmp_path / "dragonfly" / "appendonly.aof").unlink()
            server.start()
            assert latest(dragonfly) == {}
            dragonfly.set_if_newer(newer := keys.device_latest("another"), {"as_of": "9", "kept": True})
            result = run(replace(fleet, dragonfly=dragonfly), device_caches)
            repaired = latest(dragonfly)
        (event,) = result.asset_materializations_for_node("device_caches")
        assert event.metadata["latest_written"].value == 2
        assert json.loads(repaired.pop(newer))["kept"]
    finally:
        server.stop()
    empty(fleet)
    fleet.message_queue.publish([outgoing("agent.metrics", body) for body in bodies])
    drained(fleet)
    assert repaired == latest(fleet.dragonfly)
    assert [json.loads(text)["cpu"] for text in repaired.values()] in ([18, 19], [19, 18])


def test_the_repair_keeps_newer_values_and_joins_readings_that_came_apart(fleet: Stores) -> None:
    """Of an agent that sends each field by itself the cache has what the whole reading says."""
    fleet.message_queue.publish(
        [
            outgoing("agent.metrics", metrics(sample(30, cpu=5))),
            outgoing(
                "agent.metrics", metrics({"timestamp": sample(90)["timestamp"], "cpu": 7}, device_id=SECOND_DEVICE)
            ),
            outgoing(
                "agent.metrics", metrics({"timestamp": sample(80)["timestamp"], "memory": 9}, device_id=SECOND_DEVICE)
            ),
        ]
    )
    drained(fleet)
    newer = json.loads(str(fleet.dragonfly.client.get(keys.device_latest(DEVICE)))) | {"cpu": 99.0}
    newer["as_of"] = (NOW + timedelta(minutes=1)).isoformat(timespec="microseconds")
    fleet.dragonfly.set_if_newer(keys.device_latest(DEVICE), newer)
    run(fleet, device_caches)
    first, second = (
        json.loads(str(fleet.dragonfly.client.get(keys.device_latest(one)))) for one in (DEVICE, SECOND_DEVICE)
    )
    assert first == newer
    assert (second["cpu"], second["memory"], second["uptime"]) == (7, 9, None)
    assert second["as_of"] == (NOW - timedelta(seconds=80)).isoformat(timespec="microseconds")


def test_device_lists_are_written_without_the_metrics_store(fleet: Stores, settings: Settings) -> None:
    with proxied(settings, metrics_url(settings)) as (through, proxy), open_stores(through) as cut_off:
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            cut_off.metrics_store.read(NOW - timedelta(hours=1), NOW)
        run(replace(fleet, metrics_store=cut_off.metrics_store), device_caches)
    assert fleet.dragonfly.client.exists(*fleet.dragonfly.client.keys("api:devices:*")) == 2


def conservation(stores: Stores, instance: dg.DagsterInstance) -> Any:
    """The check alone, of the last drain."""
    only = dg.define_asset_job("only_checks", selection=dg.AssetSelection.checks_for_assets(KEY))
    job = dg.Definitions.merge(definitions(stores), dg.Definitions(jobs=[only])).resolve_job_def("only_checks")
    found = job.execute_in_process(instance=instance).get_asset_check_evaluations()
    return next(one for one in found if one.check_name == "conservation")


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


def test_the_commands_show_what_waits_in_the_spool(
    fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    commands.register(app)
    body = metrics(sample(60), sample(30, cpu=-2))
    spooled(fleet, settings, body, b"not json")
    document = next(one for one in Spool(fleet.mongodb).documents() if not one["whole"])

    def ninjait(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["quarantine", *arguments])

    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with monkeypatch.context() as patch, without_mongodb(settings) as stores:
        patch.setenv("MONGODB_URL", stores.mongodb.url)
        patch.setattr(ninjait_pipelines.resources, "open_stores", lambda _: _opened(stores))
        result = ninjait("list", "--json")
        assert result.exit_code == 1
        assert "can be listed: 2 messages" in result.stderr
        assert {line["reason"] for line in json.loads(result.stdout)} == {"not_json", "negative"}
        assert json.loads(ninjait("list", "--reason", "not_json", "--json").stdout)[0]["messages"] == 1
        shown = ninjait("show", document["_id"], "--json")
        assert (shown.exit_code, json.loads(json.loads(shown.stdout)["body"])) == (0, body)
        missing = ninjait("show", "nothing")
        assert (missing.exit_code, "not among the 2 messages" in missing.stderr) == (1, True)
        assert ninjait("replay", "--everything").exit_code == 1
    assert Spool(fleet.mongodb).waiting()[0] == 2
    assert len(json.loads(ninjait("list", "--all", "--json").stdout)) == 2
    assert Spool(fleet.mongodb).waiting()[0] == 0
    assert json.loads(ninjait("replay", "--everything", "--json").stdout) == {"replayed": 2, "left": {}}


@contextmanager
def _opened(stores: Stores) -> Iterator[Stores]:
    yield stores


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
        assert drained(fleet).points_written == 1
    assert "make the folder writable" in caplog.text
    assert (len(held(fleet)), file.exists()) == (1, True)
    drained(fleet)
    assert (len(held(fleet)), file.exists()) == (1, False)
