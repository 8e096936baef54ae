"""`ninjait publish` and `ninjait quarantine`, from the command line to the stores and back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import ninjait_pipelines.resources
from ninjait_pipelines.cli import queue as commands
from ninjait_pipelines.ingest import quarantine
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.message_queue import QUEUES, QueueFull
from ninjait_pipelines.resources.rabbitmq import RabbitMQ
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.emptied import rabbitmq_channel
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.samples import DEVICE, EVENTS, ORG, ago, metrics, outgoing, sample

app = typer.Typer()
commands.register(app)


@pytest.fixture
def ninjait(fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command with the test's settings."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return run


def lines(*bodies: Any) -> bytes:
    return b"".join((body if isinstance(body, bytes) else json.dumps(body).encode()) + b"\n" for body in bodies)


def drained(stores: Stores, queue: str = "agent.metrics") -> Any:
    return make_drain(stores, queue).run(idle_seconds=idle_seconds(stores))


def states(stores: Stores) -> list[str]:
    return [document["state"] for document in stores.mongodb.database["quarantine"].find().sort("_id", 1)]


def test_publish_a_file_and_standard_input(ninjait: Any, fleet: Stores, tmp_path: Path) -> None:
    file = tmp_path / "messages.jsonl"
    file.write_bytes(lines(metrics(sample(60)), b"", metrics(sample(30))))
    result = ninjait("publish", "agent.metrics", str(file), "--json")
    assert (result.exit_code, json.loads(result.stdout)["confirmed"]) == (0, 2)
    result = ninjait("publish", "platform.logs", stdin=lines(EVENTS["platform.logs"]))
    assert (result.exit_code, result.stdout) == (0, "platform.logs: the broker confirmed 1 messages\n")
    assert (drained(fleet).points_written, drained(fleet, "platform.logs").points_written) == (2, 1)


def test_publish_stops_at_the_first_line_that_is_not_json_and_says_how_many_went(
    ninjait: Any, fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "BATCH", 2)
    bad = lines(metrics(sample(1)), metrics(sample(2)), metrics(sample(3)), b"cpu=5", metrics(sample(4)))
    result = ninjait("publish", "agent.metrics", stdin=bad)
    assert result.exit_code == 1
    assert "confirmed 3 messages" in result.stdout
    assert "line 4 is not JSON" in result.stderr
    assert drained(fleet).messages == 3
    assert ninjait("publish", "agent.metrics", "--raw", stdin=bad).exit_code == 0
    assert drained(fleet).points_written == 4
    assert [document["reasons"][0]["reason"] for document in quarantine.select(fleet.mongodb)] == ["not_json"]


@contextmanager
def full(stores: Stores) -> Iterator[Stores]:
    """The stores, with a broker whose queue of metrics is full."""
    broker: Any = stores.message_queue
    with type(broker)(url=broker.url, max_length=1).open() as small:
        delete_queues(broker)
        small.declare()
        with suppress(QueueFull):
            for _ in range(10):
                small.publish([outgoing("agent.metrics", metrics(sample()))])
        yield replace(stores, message_queue=small)
    delete_queues(broker)


def delete_queues(broker: Any) -> None:
    """RabbitMQ learns how much a queue may hold when that is declared; Dragonfly at each message."""
    if isinstance(broker, RabbitMQ):
        with rabbitmq_channel(broker) as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)


def test_publish_refuses_what_has_no_routing_key_no_queue_no_file_and_a_full_queue(
    ninjait: Any, fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = lines({"schema": "ninjait.metrics.v1"})
    assert "line 1 has no organization_id" in ninjait("publish", "agent.metrics", stdin=nobody).stderr
    given = ninjait("publish", "agent.metrics", "--routing-key", f"metrics.{ORG}", stdin=nobody)
    assert given.exit_code == 0
    assert "there is no queue agent.metric;" in ninjait("publish", "agent.metric", stdin=b"").stderr
    assert "No such file" in ninjait("publish", "agent.metrics", "missing.jsonl").stderr
    with full(fleet) as stores:
        monkeypatch.setattr(ninjait_pipelines.resources, "open_stores", lambda _: nullcontext(stores))
        refused = ninjait("publish", "agent.metrics", "--json", stdin=lines(metrics(sample())))
    assert refused.exit_code == 1
    assert "the queue agent.metrics" in refused.stderr
    assert "holds 1 messages" in refused.stderr
    assert json.loads(refused.stdout)["confirmed"] == 0


def test_list_show_and_replay_of_an_unknown_device_once_it_is_registered(ninjait: Any, fleet: Stores) -> None:
    with fleet.postgres.transaction() as connection:
        connection.execute("DELETE FROM devices WHERE id = %s", (DEVICE,))
    ninjait(
        "publish", "agent.metrics", stdin=lines(metrics(sample(60)), metrics(sample(30)), b'{"organization_id": "x"}')
    )
    drained(fleet)
    listed = json.loads(ninjait("quarantine", "list", "--json").stdout)
    assert {(line["reason"], line["organization_id"], line["agent_version"], line["copies"]) for line in listed} == {
        ("unknown_device", ORG, "2.4.1", 2),
        ("wrong_schema", None, None, 1),
    }
    single = json.loads(ninjait("quarantine", "list", "--all", "--reason", "unknown_device", "--json").stdout)
    shown = ninjait("quarantine", "show", single[0]["id"])
    assert "device_id = '" + DEVICE in shown.stdout
    assert json.dumps(metrics(sample(60))) in shown.stdout
    as_json = json.loads(ninjait("quarantine", "show", single[0]["id"], "--json").stdout)
    assert json.loads(as_json["body"]) == metrics(sample(60))

    with fleet.postgres.transaction() as connection:
        connection.execute("INSERT INTO devices VALUES (%s, %s, 'back', 'server', 'x', now())", (DEVICE, ORG))
    result = ninjait("quarantine", "replay", "--reason", "unknown_device", "--json")
    assert json.loads(result.stdout) == {"replayed": 2}
    assert drained(fleet).points_written == 2
    found = quarantine.select(fleet.mongodb, state=None)
    assert sorted((document["reasons"][0]["reason"], document["state"]) for document in found) == [
        ("unknown_device", "replayed"),
        ("unknown_device", "replayed"),
        ("wrong_schema", "held"),
    ]
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome ORDER BY outcome")
    assert {row["outcome"]: row["n"] for row in rows} == {"duplicate": 2, "quarantined": 1, "written": 2}
    (step,) = quarantine.find(fleet.mongodb, single[0]["id"])["trail"]  # type: ignore[index]
    assert step["action"] == "replayed"
    assert fleet.mongodb.database["audit_trail"].count_documents({"action": "replayed"}) == 2
    assert json.loads(ninjait("quarantine", "replay", "--all-held", "--json").stdout) == {"replayed": 1}


def test_of_a_partly_good_message_only_the_rejected_samples_are_replayed(ninjait: Any, fleet: Stores) -> None:
    now = datetime.now(UTC)  # not NOW, which is minutes old by the time that the suite comes here
    early = (now.timestamp() + 400) * 1000
    body = metrics(sample(60, cpu=1), sample(timestamp=int(early), cpu=2), sample(30, cpu=float("nan")), note="kept")
    ninjait("publish", "agent.metrics", stdin=lines(body))
    drained(fleet)
    (document,) = quarantine.select(fleet.mongodb)
    shown = ninjait("quarantine", "show", document["_id"])
    assert "-> sample 2, cpu = nan: not_finite" in shown.stdout
    full = quarantine.find(fleet.mongodb, document["_id"])
    assert full
    again = json.loads(quarantine.again(full, quarantine.body_of(fleet.mongodb, full)).body)
    assert (len(again["samples"]), again["samples"][0]["cpu"]) == (2, 2)
    assert again["note"] == "kept"
    assert ninjait("quarantine", "replay", "--id", document["_id"]).exit_code == 0
    later = make_drain(fleet, clock=lambda: now + timedelta(minutes=5)).run(idle_seconds=idle_seconds(fleet))
    assert (later.points, later.points_written, later.points_quarantined) == (2, 1, 1)
    (still,) = quarantine.select(fleet.mongodb)
    assert [entry["reason"] for entry in still["reasons"]] == ["not_finite"]


def test_a_replay_that_died_after_publishing_is_a_duplicate(
    ninjait: Any, fleet: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    ninjait("publish", "agent.metrics", "--routing-key", "metrics.x", stdin=lines(metrics(sample())))
    drained(fleet)
    with monkeypatch.context() as patch:
        patch.setattr(quarantine, "_mark", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        ninjait("quarantine", "replay", "--all-held")
    assert states(fleet) == ["held"]
    ninjait("quarantine", "replay", "--all-held")
    assert drained(fleet).messages == 2
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome ORDER BY outcome")
    assert rows == [{"outcome": "duplicate", "n": 2}, {"outcome": "quarantined", "n": 1}]


def test_two_held_copies_of_one_call_are_one_call_once_replayed(ninjait: Any, fleet: Stores) -> None:
    """A call was published twice before its organization was registered, and both copies were held. Replayed, each came
    back under an id made from the copy, and the organization was billed for two calls."""
    with fleet.postgres.transaction() as connection:
        connection.execute("DELETE FROM devices WHERE organization_id = %s", (ORG,))
        connection.execute("DELETE FROM organizations WHERE id = %s", (ORG,))
    ninjait("publish", "platform.api_calls", stdin=lines(EVENTS["platform.api_calls"], EVENTS["platform.api_calls"]))
    drained(fleet, "platform.api_calls")
    assert states(fleet) == ["held", "held"]
    with fleet.postgres.transaction() as connection:
        connection.execute("INSERT INTO organizations VALUES (%s, 'x', 'x', 'UTC', now())", (ORG,))
    for document in list(quarantine.select(fleet.mongodb)):
        ninjait("quarantine", "replay", "--id", document["_id"])
    assert drained(fleet, "platform.api_calls").points_written == 2
    assert fleet.clickhouse.scalar("SELECT count() FROM api_calls") == 1
    assert ledger(fleet) == {"written": 1, "duplicate": 3}


def ledger(stores: Stores) -> dict[str, int]:
    rows = stores.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    return {row["outcome"]: row["n"] for row in rows}


@pytest.mark.parametrize("body", [metrics(sample(60), sample(cpu=-1)), metrics(sample(cpu=-1)), b"cpu=5"])
def test_what_stays_bad_is_held_once_however_often_its_replay_dies(
    ninjait: Any, fleet: Stores, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    """Each replay that died between publishing and marking left one more copy held, and the next one replayed them
    all: 1, 2, 4, 8 copies of the same bad message."""
    ninjait("publish", "agent.metrics", "--raw", "--routing-key", f"metrics.{ORG}", stdin=lines(body))
    drained(fleet)
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(quarantine, "_mark", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            ninjait("quarantine", "replay", "--all-held")
        drained(fleet)
    ninjait("quarantine", "replay", "--all-held")
    drained(fleet)
    ninjait("quarantine", "replay", "--all-held")
    drained(fleet)
    assert states(fleet).count("held") == 1


def test_discard_needs_a_reason_and_happens_once(ninjait: Any, fleet: Stores) -> None:
    ninjait("publish", "agent.metrics", stdin=lines(metrics(sample(timestamp=ago(days=900)))))
    drained(fleet)
    (document,) = quarantine.select(fleet.mongodb)
    assert ninjait("quarantine", "discard", "--id", document["_id"]).exit_code != 0
    assert ninjait("quarantine", "discard", "--id", document["_id"], "--because", "a test").exit_code == 0
    again = ninjait("quarantine", "discard", "--id", document["_id"], "--because", "a test")
    assert (again.exit_code, "is not held" in again.stderr) == (1, True)
    assert "is not held" in ninjait("quarantine", "replay", "--id", document["_id"]).stderr
    assert ninjait("quarantine", "list").stdout == "Nothing is held.\n"
    assert "a test" in ninjait("quarantine", "show", document["_id"]).stdout
    assert fleet.mongodb.database["audit_trail"].find_one({})["outcome"] == "a test"  # type: ignore[index]
    assert "is not in quarantine" in ninjait("quarantine", "show", "nothing").stderr
    assert "say which" in ninjait("quarantine", "replay").stderr
