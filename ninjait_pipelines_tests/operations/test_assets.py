"""`store_health` and its checks: what an on-call engineer sees first, and what it tidies."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import dagster as dg
import pytest

from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.messages import Outgoing
from ninjait_pipelines.operations.assets import NAMED, bodies_are_kept, no_dead_letters_wait, store_health
from ninjait_pipelines.resources import Stores, open_stores
from ninjait_pipelines.settings import Settings, validate
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
    away = validate({**settings, "DRAGONFLY_URL": "redis://127.0.0.1:1/0"})
    with open_stores(away) as stores:
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


@pytest.mark.usefixtures("retries_at_once")
def test_what_could_not_be_counted_is_no_success(settings: Settings) -> None:
    """Each check has its own source; the one that is away is named, and the others are still judged."""
    away = {"CLICKHOUSE_URL": "http://127.0.0.1:1", "DATABASE_URL": re.sub(r":\d+/", ":1/", settings["DATABASE_URL"])}
    with open_stores(validate({**settings, **away})) as stores:
        result = run(impatient(stores), store_health)
    assert passed(result) == ALL_PASS | dict.fromkeys(
        ("stores_are_up", "bodies_are_kept", "pipeline_start_is_unchanged"), False
    )
    said = {one.check_name: str(one.description) for one in result.get_asset_check_evaluations()}
    assert "could not be counted: ClickHouse" in said["bodies_are_kept"]
    assert "could not be read: PostgreSQL" in said["pipeline_start_is_unchanged"]


def test_dead_letters_are_counted_where_they_wait() -> None:
    found = no_dead_letters_wait({"agent.metrics": 2, "platform.logs": 0, "platform.usage": 1}, 3)
    assert not found.passed
    assert "2 in agent.metrics.dead, 1 in platform.usage.dead, 3 in quarantine." in str(found.description)
    assert {name: value.value for name, value in found.metadata.items()} == {"in_broker": 3, "held": 3}
    assert no_dead_letters_wait({"agent.metrics": 0}, 0).passed


def test_lost_bodies_name_whose_they_were_and_not_a_thousand() -> None:
    lost = [{"organization_id": UUID(int=number), "messages": 2, "bytes": 10} for number in range(NAMED + 5)]
    found = bodies_are_kept(lost, hours=3)
    said = str(found.description)
    assert (found.passed, found.metadata["messages"].value) == (False, 2 * (NAMED + 5))
    assert f"in the last 3 hours, as their share of the quarantine was full. {NAMED + 5} lost some: " in said
    assert "senders of no known organization 2 (10 bytes); the organization " in said
    assert said.count("(10 bytes)") == NAMED
    assert bodies_are_kept([]).passed
