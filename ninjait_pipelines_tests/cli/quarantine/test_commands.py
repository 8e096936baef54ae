"""`ninjait quarantine`, from the command line to the stores and back."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import ninjait_pipelines.resources
from ninjait_pipelines.cli.quarantine import commands
from ninjait_pipelines.ingest.decode.message import decode
from ninjait_pipelines.ingest.decode.model import Period
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.documents import body_of
from ninjait_pipelines.ingest.quarantine.edit import Edits
from ninjait_pipelines.ingest.quarantine.hold import hold_messages
from ninjait_pipelines.ingest.quarantine.replay import rebuild_message
from ninjait_pipelines.ingest.quarantine.spool import Spool
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import LOG, drained, idle_seconds, lines, make_drain
from ninjait_pipelines_tests.ingest.quarantine.helpers import (
    as_json,
    publish_bad,
    replay_and_die,
    spooled,
    states,
    without_mongodb,
)
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    NOW,
    ORG,
    OTHER_ORG,
    REGISTRY,
    ago,
    as_published,
    collectd,
    line,
    message,
    metrics,
    sample,
    telegraf,
    value_list,
)

AT_ONCE = pytest.mark.usefixtures("retries_at_once")

# A device, or an organization, that nobody knows any more.
OLD = str(uuid.UUID(int=9))


def test_list_show_and_replay_of_an_unknown_device_once_it_is_registered(ninjait: Any, fleet: Stores) -> None:
    with fleet.postgres.transaction() as connection:
        connection.execute("DELETE FROM devices WHERE id = %s", (DEVICE,))
    ninjait(
        "publish", "agent.metrics", stdin=lines(metrics(sample(60)), metrics(sample(30)), b'{"organization_id": "x"}')
    )
    drained(fleet)
    listed = json.loads(ninjait("quarantine", "list", "--json").stdout)
    assert {(line["reason"], line["organization_id"], line["agent_version"], line["messages"]) for line in listed} == {
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
    assert json.loads(result.stdout) == {"replayed": 2, "left": {}}
    assert drained(fleet).points_written == 2
    found = query.select(fleet.mongodb, state=None)
    assert sorted((document["reasons"][0]["reason"], document["state"]) for document in found) == [
        ("unknown_device", "replayed"),
        ("unknown_device", "replayed"),
        ("wrong_schema", "held"),
    ]
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome ORDER BY outcome")
    assert {row["outcome"]: row["n"] for row in rows} == {"duplicate": 2, "quarantined": 1, "written": 2}
    (step,) = query.find(fleet.mongodb, single[0]["id"])["trail"]  # type: ignore[index]
    assert step["action"] == "replayed"
    assert fleet.mongodb.database["audit_trail"].count_documents({"action": "replayed"}) == 2
    assert json.loads(ninjait("quarantine", "replay", "--everything", "--json").stdout) == {
        "replayed": 1,
        "left": {},
    }


def test_the_list_says_under_which_organization_a_message_was_published(ninjait: Any, fleet: Stores) -> None:
    """What nobody could read was of nobody in the list, and what named another organization was of that one."""
    stolen = json.dumps(metrics(sample(), organization_id=OTHER_ORG))
    ninjait("publish", "agent.metrics", "--raw", "--routing-key", f"metrics.{ORG}", stdin=f"not json\n{stolen}\n")
    drained(fleet)
    listed = json.loads(ninjait("quarantine", "list", "--json").stdout)
    assert {(line["reason"], line["organization_id"]) for line in listed} == {
        ("not_json", ORG),
        ("device_of_another_organization", ORG),
    }


def test_of_a_partly_good_message_only_the_rejected_samples_are_replayed(ninjait: Any, fleet: Stores) -> None:
    now = datetime.now(UTC)  # not NOW, which is minutes old by the time that the suite comes here
    early = (now.timestamp() + 400) * 1000
    body = metrics(sample(60, cpu=1), sample(timestamp=int(early), cpu=2), sample(30, cpu=float("nan")), note="kept")
    ninjait("publish", "agent.metrics", stdin=lines(body))
    drained(fleet)
    (document,) = query.select(fleet.mongodb)
    shown = ninjait("quarantine", "show", document["_id"])
    assert "-> sample 2, cpu = nan: not_finite" in shown.stdout
    full = query.find(fleet.mongodb, document["_id"])
    assert full
    again = json.loads(rebuild_message(full, body_of(fleet.mongodb, full)).body)
    assert (len(again["samples"]), again["samples"][0]["cpu"]) == (2, 2)
    assert again["note"] == "kept"
    assert ninjait("quarantine", "replay", "--id", document["_id"]).exit_code == 0
    later = make_drain(fleet, clock=lambda: now + timedelta(minutes=5)).run(idle_seconds=idle_seconds(fleet))
    assert (later.points, later.points_written, later.points_quarantined) == (2, 1, 1)
    (still,) = query.select(fleet.mongodb)
    assert [entry["reason"] for entry in still["reasons"]] == ["not_finite"]


def test_samples_with_a_field_put_right_are_written(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(60, cpu=5), sample(30, cpu=-2)), metrics(sample(20, cpu="7")))
    rehearsed = as_json(ninjait("quarantine", "replay", "--everything", "--set", "cpu=9", "--dry-run", "--json"))
    assert [(one["accepted"], one["rejected"]) for one in rehearsed] == [(1, 0), (1, 0)]
    said = ninjait("quarantine", "replay", "--reason", "negative", "--set", "cpu=-3", "--dry-run").stdout
    assert "would publish 1 message: 0 points accepted now, 1 rejected\n1 would come back: negative" in said
    assert '"cpu":-3' in said
    assert (states(fleet), fleet.message_queue.depth("agent.metrics").outstanding) == (["held", "held"], 0)

    assert as_json(ninjait("quarantine", "replay", "--everything", "--set", "cpu=9", "--json"))["replayed"] == 2
    shown = ninjait("quarantine", "show", rehearsed[0]["id"]).stdout
    assert "--set cpu=9\n   not drained yet\n" in shown
    assert drained(fleet).points_written == 2
    rows = fleet.metrics_store.read(NOW - timedelta(hours=1), NOW).to_pylist()
    assert sorted(row["cpu"] for row in rows) == [5, 9, 9]
    assert "   written (1 of 1 points) by run run-1\n" in ninjait("quarantine", "show", rehearsed[0]["id"]).stdout
    (audited, _) = fleet.mongodb.database["audit_trail"].find({"action": "replayed"})
    assert (audited["changes"], audited["message_id"]) == (["--set cpu=9"], rehearsed[0]["message_id"])


def test_an_old_device_becomes_a_new_one_once_however_often_the_replay_dies(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(60), device_id=OLD), metrics(sample(30)), metrics(sample(20, cpu=-2)))
    replay = ("quarantine", "replay", "--everything", "--map", f"{OLD}={DEVICE}", "--json")
    for _ in range(2):
        replay_and_die(fleet, Edits(values={OLD: DEVICE}))
        assert states(fleet) == ["held", "held"]
    done = as_json(ninjait(*replay))
    assert (done["replayed"], list(done["left"].values())) == (1, ["the edits change nothing in it"])
    nothing = ninjait(*replay)
    assert (nothing.exit_code, json.loads(nothing.stdout)["replayed"]) == (1, 0)
    assert drained(fleet).messages == 3
    assert len(fleet.metrics_store.read(NOW - timedelta(hours=1), NOW)) == 2
    rows = fleet.clickhouse.rows("SELECT outcome, count() AS n FROM message_ledger GROUP BY outcome")
    assert {row["outcome"]: row["n"] for row in rows} == {"written": 2, "duplicate": 3, "quarantined": 1}
    assert fleet.mongodb.database["audit_trail"].count_documents({}) == 1


def test_events_of_a_wrong_organization_follow_their_routing_key_and_count_once(ninjait: Any, fleet: Stores) -> None:
    call = EVENTS["platform.api_calls"] | {"organization_id": OLD}
    publish_bad(fleet, call, call, queue="platform.api_calls")
    assert as_json(ninjait("quarantine", "replay", "--everything", "--map", f"{OLD}={ORG}", "--json"))["replayed"] == 1
    assert drained(fleet, "platform.api_calls").points_written == 1
    assert fleet.clickhouse.scalar("SELECT organization_id::String FROM api_calls") == ORG


def test_hosts_of_other_agents_are_mapped(ninjait: Any, fleet: Stores) -> None:
    mib = 1024 * 1024
    one = telegraf(line("mem", f"used={mib}i", host="old"), line("mem", f"used={mib}i"), organization=ORG)
    two = collectd(value_list("memory", "memory", mib, type_instance="used", host="old"), organization=ORG)
    fleet.message_queue.publish([as_published(one), as_published(two)])
    assert drained(fleet).points_written == 1
    refused = ninjait("quarantine", "replay", "--everything", "--set", "host=lap-1")
    assert refused.exit_code == 1
    assert "2 messages left: it is from a third-party agent" in refused.stdout
    assert as_json(ninjait("quarantine", "replay", "--everything", "--map", "old=lap-1", "--json"))["replayed"] == 2
    assert drained(fleet).points_written == 2


def test_the_list_is_bounded_and_knows_names_queues_and_times(ninjait: Any, fleet: Stores) -> None:
    strangers = [
        message("agent.metrics", metrics(sample(), device_id=f"{n:032x}", agent_version=f"1.{n}"), n) for n in range(60)
    ]
    known = [message("agent.metrics", metrics(sample(cpu=-2)), n) for n in (61, 62)]
    later = [message("platform.usage", EVENTS["platform.usage"] | {"storage_gb": 1}, 63)]
    for lot, moment in ((strangers + known, NOW), (later, NOW + timedelta(minutes=2))):
        rejected = [(one, decode(one, REGISTRY, Period.at(NOW))) for one in lot]
        hold_messages(fleet.mongodb, rejected, "run", moment, LOG)
    shown = ninjait("quarantine", "list").stdout.splitlines()
    assert shown[1].split() == ["negative", "agent.metrics", ORG, ORG, "2.4.1", "2", "2"], "the name, then the id"
    assert (len(shown), shown[-1]) == (52, "and 12 more groups, 12 messages: --all-groups")
    assert len(ninjait("quarantine", "list", "--all-groups").stdout.splitlines()) == 63
    assert len(as_json(ninjait("quarantine", "list", "--json"))) == 62
    (usage,) = as_json(ninjait("quarantine", "list", "--queue", "platform.usage", "--json"))
    assert (usage["organization"], usage["reason"]) == (ORG, "decimal_not_as_text")
    minute = f"{NOW + timedelta(minutes=1):%Y-%m-%dT%H:%M}"
    assert as_json(ninjait("quarantine", "list", "--since", minute, "--json")) == [usage]
    assert len(as_json(ninjait("quarantine", "list", "--until", minute, "--json"))) == 61


def test_many_are_discarded_with_a_reason_and_a_yes(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(cpu=-2)), metrics(sample(2, cpu=-2)), b"not json")
    many = ("quarantine", "discard", "--reason", "negative", "--because", "a test rig")
    refused = ninjait(*many)
    assert (refused.exit_code, "that is 2 messages: --yes" in refused.stderr) == (1, True)
    assert states(fleet).count("held") == 3
    assert ninjait(*many, "--yes").stdout == "discarded 2 messages\n"
    assert sorted(states(fleet)) == ["discarded", "discarded", "held"]
    nothing = ninjait(*many, "--yes")
    assert (nothing.exit_code, nothing.stderr) == (
        1,
        "ninjait: no quarantined message matches; the reasons are not_json (1)\n",
    )
    unset = ninjait("quarantine", "discard", "--id", "", "--queue", "agent.metrics", "--because", "x", "--yes")
    assert (unset.exit_code, sorted(states(fleet))) == (1, ["discarded", "discarded", "held"]), (
        "a shell's unset variable"
    )
    assert "needs a reason" in ninjait("quarantine", "discard", "--everything", "--because", " ").stderr
    assert "say which" in ninjait("quarantine", "discard", "--because", "x").stderr


def test_a_rehearsal_of_what_is_not_possible_fails(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(cpu=-2)))
    for options in ((), ("--json",)):
        assert (
            ninjait("quarantine", "replay", "--everything", "--set", "memory=1", "--dry-run", *options).exit_code == 1
        )
        assert ninjait("quarantine", "replay", "--everything", "--set", "cpu=1", "--dry-run", *options).exit_code == 0


def test_what_was_typed_stays_text_where_the_field_takes_text(ninjait: Any, fleet: Stores) -> None:
    """2.5 was read as a JSON number, and refused once more for being one."""
    publish_bad(fleet, EVENTS["platform.usage"] | {"storage_gb": 2.25}, queue="platform.usage")
    assert (
        as_json(ninjait("quarantine", "replay", "--everything", "--set", "storage_gb=2.50", "--json"))["replayed"] == 1
    )
    assert drained(fleet, "platform.usage").points_written == 1


def test_discard_needs_a_reason_and_happens_once(ninjait: Any, fleet: Stores) -> None:
    ninjait("publish", "agent.metrics", stdin=lines(metrics(sample(timestamp=ago(days=900)))))
    drained(fleet)
    (document,) = query.select(fleet.mongodb)
    assert ninjait("quarantine", "discard", "--id", document["_id"]).exit_code != 0
    assert ninjait("quarantine", "discard", "--id", document["_id"], "--because", "a test").exit_code == 0
    again = ninjait("quarantine", "discard", "--id", document["_id"], "--because", "a test")
    assert (again.exit_code, "is no longer in quarantine" in again.stderr) == (1, True)
    discarded = r"is no longer in quarantine: \S+ discarded it at \S+ \S+ UTC: a test\n"
    assert re.search(discarded, ninjait("quarantine", "replay", "--id", document["_id"]).stderr)
    assert "nothing is not in quarantine" in ninjait("quarantine", "replay", "--id", "nothing").stderr
    assert ninjait("quarantine", "list").stdout == "Nothing is quarantined.\n"
    assert "a test" in ninjait("quarantine", "show", document["_id"]).stdout
    fleet.mongodb.database["quarantine"].delete_one({"_id": document["_id"]})  # 30 days later
    assert re.search(discarded, ninjait("quarantine", "replay", "--id", document["_id"]).stderr)
    assert fleet.mongodb.database["audit_trail"].find_one({})["outcome"] == "a test"  # type: ignore[index]
    assert "is not in quarantine" in ninjait("quarantine", "show", "nothing").stderr
    assert "say which" in ninjait("quarantine", "replay").stderr


@AT_ONCE
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
