"""The health of the stores, as an asset with its check; `ninjait status` and `ninjait sql` when all is not well."""

import json
import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner, Result

from ninjait_pipelines.cli import app
from ninjait_pipelines.cli import status as status_command
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.ingest.quarantine.usage import Usage, read_usage
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.operations import health
from ninjait_pipelines.operations.assets import store_health, stores_are_up
from ninjait_pipelines.operations.health import check_all
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.resources.dragonfly import Dragonfly
from ninjait_pipelines.resources.dragonfly_queue import DragonflyQueue
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines.settings import REQUIRED, Settings, validate
from ninjait_pipelines_tests.ingest.deaths import impatient
from ninjait_pipelines_tests.resources.queue_contract import eventually
from ninjait_pipelines_tests.runs import passed, run

ALL_PASS = dict.fromkeys(
    ("stores_are_up", "no_dead_letters_wait", "bodies_are_kept", "pipeline_start_is_unchanged"), True
)


def up(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    """What `stores_are_up` says."""
    (found,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "stores_are_up"]
    return found


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def with_dragonfly_at(settings: Settings, port: int) -> Settings:
    return validate({**settings, "DRAGONFLY_URL": f"redis://:secret-of-the-test@127.0.0.1:{port}/0"})


def test_every_store_answers_with_version_and_latency(shared_stores: Stores) -> None:
    statuses = check_all(shared_stores.all())
    assert [status.problem for status in statuses] == [""] * 7
    assert all(status.ok and status.version for status in statuses)
    assert all(status.latency_seconds is not None and status.latency_seconds < 5 for status in statuses)


def test_a_store_that_hangs_costs_no_more_than_the_wait(settings: Settings, mute: int) -> None:
    with open_stores(with_dragonfly_at(settings, mute)) as stores:
        started = time.monotonic()
        found = dict(zip(stores.all(), check_all(stores.all(), seconds=1), strict=True))
        assert time.monotonic() - started < 3
    assert found["postgres"].ok
    assert not found["dragonfly"].ok
    assert "no answer within 1 second" in found["dragonfly"].problem
    assert "secret-of-the-test" not in repr(found)


def test_a_quarantine_that_cannot_be_counted_in_time_costs_no_more_than_the_wait(
    shared_stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MongoDB answered the ping and then nothing: whoever asked waited for its time-out of half a minute."""

    def slow(mongodb: MongoDB, away: bool = False) -> Usage:
        time.sleep(0 if away else 3)
        return read_usage(mongodb, away=True)

    monkeypatch.setattr(health, "read_usage", slow)
    started = time.monotonic()
    (status,) = check_all({"mongodb": shared_stores.mongodb}, seconds=1)
    assert time.monotonic() - started < 2
    assert (status.ok, status.optional, "no answer within 1 second" in status.problem) == (False, True, True)


def test_the_asset_shows_all_and_its_check_passes(shared_stores: Stores) -> None:
    result = run(shared_stores, store_health)
    assert passed(result) == ALL_PASS
    table: Any = result.asset_materializations_for_node("store_health")[0].metadata["stores"]
    assert len(table.records) == 7


@pytest.mark.parametrize("where", ["the broker", "quarantine"])
def test_the_check_is_red_while_dead_letters_wait(shared_stores: Stores, where: str) -> None:
    """100 good messages waited among the dead letters for a person, and `store_health` said that all was well."""
    queue = shared_stores.message_queue
    if where == "quarantine":
        reasons = [{"reason": "dead_letter", "value": "delivered 6 times", "index": None, "field": None}]
        shared_stores.mongodb.database.quarantine.insert_one({"_id": "queue/9", "state": "held", "reasons": reasons})
    else:
        queue.publish([Outgoing("platform.logs", "log.info", b"{}")])
        with queue.consume("platform.logs", 1) as consumer:
            (message,) = consumer.receive(1, 2)
            consumer.reject(message, "tried it")
        assert eventually(lambda: queue.depth("platform.logs").dead == 1)
    result = run(shared_stores, store_health)
    assert passed(result) == ALL_PASS | {"no_dead_letters_wait": False}
    found = {one.check_name: one.description for one in result.get_asset_check_evaluations()}
    assert ("1 in quarantine" if where == "quarantine" else "1 in platform.logs.dead") in found["no_dead_letters_wait"]
    shared_stores.mongodb.database.quarantine.delete_many({})


def test_store_health_deletes_what_was_settled_long_ago(shared_stores: Stores) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=31)
    trail = [{"at": long_ago, "who": "somebody", "action": "discarded", "outcome": "a test"}]
    settled = {"_id": "queue/1", "state": "discarded", "quarantined_at": long_ago, "body_pieces": 0, "trail": trail}
    shared_stores.mongodb.database.quarantine.insert_many([settled, settled | {"_id": "queue/2", "state": "held"}])
    (event,) = run(shared_stores, store_health).asset_materializations_for_node("store_health")
    assert event.metadata["resolved_messages_deleted"].value == 1
    assert [found["_id"] for found in shared_stores.mongodb.database.quarantine.find()] == ["queue/2"]
    shared_stores.mongodb.database.quarantine.delete_many({})


def test_a_store_that_is_down_fails_the_check_and_not_the_asset(settings: Settings) -> None:
    with open_stores(with_dragonfly_at(settings, 1)) as stores:
        result = run(stores, store_health)
    evaluation = up(result)
    severity = dg.AssetCheckSeverity.WARN if "RABBITMQ_URL" in settings else dg.AssetCheckSeverity.ERROR
    assert (evaluation.passed, evaluation.severity) == (False, severity), "it is needed where it is the queue"
    assert "Dragonfly at redis://127.0.0.1:1/0" in str(evaluation.description)
    assert "PostgreSQL" not in str(evaluation.description)


@pytest.fixture
def spooling(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a spool in which two messages wait."""
    settings = validate({**settings, "QUARANTINE_SPOOL": str(tmp_path / "spool")})
    with open_stores(settings) as stores:
        Spool(stores.mongodb).put([{"_id": f"queue/{n}", "body": b"bad", "summary": "[]"} for n in (1, 2)], "run")
    return settings


@pytest.mark.usefixtures("retries_at_once")
def test_what_waits_in_the_spool_is_moved_by_store_health_once_mongodb_is_back(spooling: Settings) -> None:
    away = validate({**spooling, "MONGODB_URL": without_server(spooling["MONGODB_URL"])})
    with open_stores(away) as stores:
        result = run(impatient(stores), store_health)
    evaluation = up(result)
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "MongoDB at mongodb://127.0.0.1:1/" in str(evaluation.description)
    assert "2 messages wait there" in str(evaluation.description)
    with open_stores(spooling) as stores:
        assert passed(run(stores, store_health))["stores_are_up"] is True
        assert stores.mongodb.count_ids("quarantine", ["queue/1", "queue/2"]) == 2
        stores.mongodb.database.quarantine.delete_many({})
        assert Spool(stores.mongodb).waiting() == (0, 0)


def without_server(url: str) -> str:
    return re.sub(r"127.0.0.1:\d+", "127.0.0.1:1", url)


def test_what_cannot_be_moved_is_a_warning_although_all_stores_answer(spooling: Settings) -> None:
    with open_stores(spooling) as stores:
        (file,) = Spool(stores.mongodb).files()
        file.write_bytes(b"damaged")
        evaluation = up(run(stores, store_health))
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "Not yet moved from the spool" in str(evaluation.description)


def test_a_note_of_full_shares_names_some(monkeypatch: pytest.MonkeyPatch, shared_stores: Stores) -> None:
    """Once the quarantine is full, most of a thousand organizations may be at their bound."""
    shares = {f"organization-{number}": 2**20 for number in range(1_000)}
    monkeypatch.setattr(health, "read_usage", lambda *_, **__: Usage(1_000, 1_000 * 2**20, 1_000 * 2**20, shares))
    (status,) = check_all({"mongodb": shared_stores.mongodb})
    assert (status.note.count("--organization"), status.note.endswith("So have 990 more.")) == (10, True)


def test_dragonfly_is_optional_unless_it_is_the_queue() -> None:
    away = Dragonfly(url="redis://127.0.0.1:1/0")
    queue = DragonflyQueue(url="redis://127.0.0.1:1/0")
    (alone,) = check_all({"dragonfly": away})
    assert (alone.ok, alone.optional) == (False, True)
    assert "Caches are cold" in alone.note
    both = check_all({"dragonfly": away, "message_queue": queue})
    assert [status.optional for status in both] == [False, False]
    assert stores_are_up([alone]).severity == dg.AssetCheckSeverity.WARN
    assert stores_are_up([alone, *both]).severity == dg.AssetCheckSeverity.ERROR


def test_status_says_what_an_optional_store_that_is_away_means(
    spooling: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in spooling.items():
        monkeypatch.setenv(name, value)
    waiting = ninjait("status")
    assert (waiting.exit_code, "2 messages wait there" in waiting.stderr) == (0, True)
    monkeypatch.setenv("MONGODB_URL", without_server(spooling["MONGODB_URL"]))
    away = ninjait("status", "--seconds", "1")
    assert away.exit_code == 1
    (line,) = [line for line in away.stdout.splitlines() if line.startswith("MongoDB")]
    assert line.split()[1] == "away"
    assert "Quarantine goes to the spool" in away.stderr
    found = {one["store"]: one for one in json.loads(ninjait("status", "--seconds", "1", "--json").stdout)}
    mongodb, optional = found["MongoDB"], {name for name, one in found.items() if one["optional"]}
    assert optional == {"MongoDB"} | ({"Dragonfly"} if "RABBITMQ_URL" in spooling else set())
    assert mongodb["spooled_messages"] == 2
    assert mongodb["spooled_bytes"] > 20


def ninjait(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def shell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A shell that has the settings in its environment."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


def test_status_of_a_stack_that_was_never_started_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in REQUIRED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(status_command, "LOCAL_STACK", tmp_path)
    result = ninjait("status")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["ninjait: the local stack was never started; start it with: ninjait up"]


@pytest.mark.parametrize(
    ("count", "text"), [(None, ""), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 << 40, "3.0 TiB")]
)
def test_sizes_are_for_people(count: int | None, text: str) -> None:
    assert status_command.size(count) == text


@pytest.mark.parametrize(
    ("statement", "says"), [("SELECT * FROM nowhere", "nowhere"), ("SELECT (", "yntax"), ("SELECT 1/'a'", "Code: ")]
)
def test_a_wrong_statement_is_one_clear_line(shell: Settings, statement: str, says: str) -> None:
    result = ninjait("sql", statement)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert says in result.stderr
    assert result.stdout == ""


def test_two_formats_at_once_are_refused(shell: Settings) -> None:
    assert "choose one" in ninjait("sql", "SELECT 1", "--json", "--csv").stderr
