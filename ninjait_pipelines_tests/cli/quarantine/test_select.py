"""What a command of `ninjait quarantine` is about, and why it is about nothing."""

import re
import uuid
from typing import Any

import pytest
import typer

from ninjait_pipelines.cli.quarantine.select import check_edits_merge_nothing
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.edit import Edits
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.settings import Settings
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.quarantine.helpers import (
    as_json,
    document_of,
    publish_bad,
    states,
)
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    EVENTS,
    ORG,
    ago,
    line,
    metrics,
    sample,
    telegraf,
)

AT_ONCE = pytest.mark.usefixtures("retries_at_once")
# An organization that nobody knows any more.
UNKNOWN = str(uuid.UUID(int=9))


def test_what_comes_back_from_a_replay_is_named(ninjait: Any, fleet: Stores) -> None:
    publish_bad(fleet, metrics(sample(cpu=-2)))
    (document,) = query.select(fleet.mongodb)
    ninjait("quarantine", "replay", "--id", document["_id"], "--set", "cpu=500")
    drained(fleet)
    (again,) = query.select(fleet.mongodb)
    became = as_json(ninjait("quarantine", "show", document["_id"], "--json"))["trail"][0]["became"]
    assert became == f"quarantined (0 of 1 points) by run run-1, see {again['_id']}"


def test_what_is_of_several_organizations_is_not_given_to_one(ninjait: Any, fleet: Stores) -> None:
    call = EVENTS["platform.api_calls"]
    publish_bad(
        fleet, *(call | {"organization_id": one, "method": 1} for one in (ORG, UNKNOWN)), queue="platform.api_calls"
    )
    given = ninjait("quarantine", "replay", "--everything", "--set", f"organization_id={ORG}", "--set", "method=GET")
    assert (given.exit_code, "these are of several" in given.stderr, states(fleet)) == (1, True, ["held", "held"])


def test_a_change_that_is_not_written_as_one_is_refused(ninjait: Any, fleet: Stores) -> None:
    assert "write it as FIELD=VALUE" in ninjait("quarantine", "replay", "--everything", "--set", "cpu").stderr
    assert "write it as OLD=NEW" in ninjait("quarantine", "replay", "--everything", "--map", "=x").stderr
    twice = ninjait("quarantine", "replay", "--everything", "--set", "cpu=1", "--set", "cpu=2")
    assert (twice.exit_code, "--set cpu=2: cpu is given twice" in twice.stderr) == (1, True)
    assert "old is given twice" in ninjait("quarantine", "replay", "--everything", *["--map", "old=new"] * 2).stderr


def test_a_mistyped_queue_or_reason_is_no_success(ninjait: Any, fleet: Stores) -> None:
    """A script that replayed `--reason unknown_devise` was told of 0 messages, and went on."""
    because = ("--because", "x", "--yes")
    for command, rest in (("list", ()), ("replay", ()), ("discard", because)):
        wrong = ninjait("quarantine", command, "--queue", "agent.metric", *rest)
        assert (wrong.exit_code, "the queues are agent.metrics, agent.heartbeats" in wrong.stderr) == (1, True)
    assert ninjait("quarantine", "list", "--reason", "negativ").stdout == "Nothing is quarantined.\n"
    for many in (("replay",), ("discard", *because)):
        assert ninjait("quarantine", *many, "--everything").stderr == "ninjait: nothing is quarantined\n"
    publish_bad(fleet, metrics(sample(cpu=-2)), metrics(sample(2, cpu=-2, memory="x")), b"not json")
    for some in (("replay",), ("replay", "--dry-run"), ("discard", *because)):
        nothing = ninjait("quarantine", *some, "--reason", "negativ")
        assert (nothing.exit_code, nothing.stderr) == (
            1,
            "ninjait: no quarantined message matches; the reasons are negative (2), number_as_text (1), not_json (1)\n",
        )
    other = ninjait(
        "quarantine", "replay", "--queue", "platform.usage", "--id", next(query.select(fleet.mongodb))["_id"]
    )
    assert "is quarantined, but the other options exclude it" in other.stderr
    assert "3 other messages are." in ninjait("quarantine", "list", "--reason", "negativ").stdout
    assert "3 other messages are." in ninjait("quarantine", "list", "--all", "--queue", "platform.usage").stdout


def test_what_tells_messages_apart_is_not_set_to_one_value(ninjait: Any, fleet: Stores) -> None:
    """Three calls of a device whose clock was wrong became one call, of one instant."""
    call = EVENTS["platform.api_calls"] | {"timestamp": "yesterday"}
    publish_bad(fleet, call, call, call | {"method": "POST"}, queue="platform.api_calls")
    change = ("--set", f"timestamp={ago(minutes=5)}")
    refused = ninjait("quarantine", "replay", "--everything", *change)
    assert (refused.exit_code, "these are 3: choose one by --id" in refused.stderr) == (1, True)
    assert states(fleet) == ["held"] * 3
    single = as_json(ninjait("quarantine", "list", "--all", "--json"))[2]["id"]
    ninjait("quarantine", "discard", "--id", single, "--because", "a test")
    assert as_json(ninjait("quarantine", "replay", "--everything", *change, "--json"))["replayed"] == 1, "of two copies"

    beats = [EVENTS["agent.heartbeats"] | {"device_id": one} for one in ("lap-1", "lap-2")]
    publish_bad(fleet, *beats, queue="agent.heartbeats")
    refused = ninjait("quarantine", "replay", "--queue", "agent.heartbeats", "--set", f"device_id={DEVICE}")
    assert (refused.exit_code, "--set device_id is for messages of one device" in refused.stderr) == (1, True)
    publish_bad(fleet, *(metrics(sample(n), device_id=UNKNOWN) for n in range(2)))
    replay = ("quarantine", "replay", "--queue", "agent.metrics", "--set", f"device_id={DEVICE}", "--json")
    assert as_json(ninjait(*replay))["replayed"] == 2


def test_messages_without_an_organization_are_given_to_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Hosts of the same name may be of several organizations."""
    one = telegraf(line("mem", "used=1i"), organization=None)
    lost = [document_of(one) | {"routing_key": one.routing_key}] * 2
    edits = Edits(fields={"organization_id": ORG})
    check_edits_merge_nothing(lost[:1], edits)
    with pytest.raises(typer.Exit):
        check_edits_merge_nothing(lost, edits)
    assert "2 of these messages have no routing key that names their organization" in capsys.readouterr().err


@AT_ONCE
def test_names_and_outcomes_are_left_out_while_their_stores_are_away(
    ninjait: Any, fleet: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quarantine is looked into when something is down: only MongoDB has to be up for that."""
    [held] = publish_bad(fleet, metrics(sample(cpu=-2)))
    assert ninjait("quarantine", "replay", "--id", held, "--set", "cpu=9").exit_code == 0
    publish_bad(fleet, metrics(sample(cpu=-3)))
    monkeypatch.setenv("DATABASE_URL", re.sub(r":\d+/", ":1/", settings["DATABASE_URL"]))
    monkeypatch.setenv("CLICKHOUSE_URL", "http://127.0.0.1:1")
    [row] = [one for one in as_json(ninjait("quarantine", "list", "--json")) if one["reason"] == "negative"]
    assert (row["organization"], row["organization_id"]) == (None, ORG)
    [step] = as_json(ninjait("quarantine", "show", held, "--json"))["trail"]
    assert step["became"].startswith("not known: ClickHouse at http://127.0.0.1:1")
