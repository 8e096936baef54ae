"""The checks of the drains: what does not add up, who sends what nobody understands, and who is named."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.ingest import checks
from ninjait_pipelines.ingest.decode.model import NOBODY
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse import sql
from ninjait_pipelines.resources.mongodb import MongoDB
from ninjait_pipelines_tests.ingest.conftest import drained
from ninjait_pipelines_tests.ingest.materialized import KEY, definitions, drain, outcomes
from ninjait_pipelines_tests.ingest.samples import (
    DEVICE,
    ORG,
    SECOND_DEVICE,
    as_published,
    line,
    metrics,
    outgoing,
    sample,
    telegraf,
)


def only_checks(stores: Stores) -> dg.JobDefinition:
    job = dg.define_asset_job("only_checks", selection=dg.AssetSelection.checks_for_assets(KEY))
    return dg.Definitions.merge(definitions(stores), dg.Definitions(jobs=[job])).resolve_job_def("only_checks")


def test_the_conservation_check_fails_when_the_ledger_or_the_quarantine_lost_something(fleet: Stores) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(60), sample(30, cpu=-2)))])
        found = outcomes(drain(fleet, instance, "agent_metrics"))
        assert (found["quarantine_share"], found["conservation"]) == (False, True)
        job = only_checks(fleet)
        fleet.mongodb.database["quarantine"].delete_many({})
        result = job.execute_in_process(instance=instance)
        (conservation,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "conservation"]
        assert (conservation.passed, conservation.description) == (False, "quarantined messages: 1 against 0")
        fleet.clickhouse.command("TRUNCATE TABLE message_deliveries")
        assert outcomes(job.execute_in_process(instance=instance))["conservation"] is False


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"messages": 9}, "messages: 11 against 10"),
        ({"points_written": 17}, "points: 20 against 19"),
        ({"points": 21}, "points: 21 against 20"),
        ({"quarantined": 3}, "quarantined messages: 3 against 2"),
    ],
)
def test_the_conservation_check_names_what_does_not_add_up(change: dict[str, int], wrong: str) -> None:
    drained = {"messages": 10, "dead_letters": 1, "points_written": 18}
    ledger = {"messages": 11, "points": 20, "points_written": 18, "points_quarantined": 2, "quarantined": 2}
    assert checks.conservation(KEY, drained, ledger, held=2).passed
    changed = ledger | change if "messages" not in change else ledger | {"messages": 10}
    result = checks.conservation(KEY, drained, changed, held=2)
    assert not result.passed
    assert wrong in str(result.description)


@pytest.mark.parametrize(
    ("messages", "quarantined", "passed", "severity"),
    [
        (0, 0, True, dg.AssetCheckSeverity.WARN),
        (100, 5, True, dg.AssetCheckSeverity.WARN),
        (100, 6, False, dg.AssetCheckSeverity.WARN),
        (100, 50, False, dg.AssetCheckSeverity.WARN),
        (100, 51, False, dg.AssetCheckSeverity.ERROR),
    ],
)
def test_the_share_of_bad_messages(messages: int, quarantined: int, passed: bool, severity: Any) -> None:
    result = checks.quarantine_share(KEY, messages, quarantined)
    assert (result.passed, result.severity) == (passed, severity)


def test_thresholds_of_the_share_of_bad_messages_are_config() -> None:
    config = checks.DrainChecksConfig(warn_share=0.2, error_share=0.9)
    assert checks.quarantine_share(KEY, 100, 20, config=config).passed
    found = checks.quarantine_share(KEY, 100, 60, config=config)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)


def evaluations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()}


def test_one_loud_agent_that_is_well_hides_no_broken_ones(fleet: Stores) -> None:
    """Four broken agents beside one that sent ninety-six good messages were 4 %, and the check was green."""
    good = [outgoing("agent.metrics", metrics(sample(number + 1))) for number in range(96)]
    broken = [telegraf(line("mem", "used=-1i", host=f"pc-{number}"), organization=ORG) for number in range(4)]
    fleet.message_queue.publish([*good, *map(as_published, broken)])
    with dg.DagsterInstance.ephemeral() as instance:
        share = evaluations(drain(fleet, instance, "agent_metrics"))["quarantine_share"]
    assert (share.passed, share.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "(4.0%)" in str(share.description)
    named = "; ".join(f"pc-{number} (1 of 1: unknown_host)" for number in range(4))
    assert f": 4, such as {named}. See" in str(share.description)
    tables = {name: share.metadata[name].value.records for name in ("broken", "loudest")}
    assert [record.data["name"] for record in tables["broken"]] == ["pc-0", "pc-1", "pc-2", "pc-3"]
    assert tables["loudest"][0].data["name"] == "lap-1"
    assert tables["loudest"][0].data["messages"] == 96


def test_one_bad_message_of_many_is_no_broken_sender_and_names_are_bounded(fleet: Stores) -> None:
    good = [outgoing("agent.metrics", metrics(sample(number + 1))) for number in range(15)]
    bad = outgoing("agent.metrics", metrics(sample(40, cpu=103)))
    with dg.DagsterInstance.ephemeral() as instance:
        fleet.message_queue.publish([*good, bad, *(outgoing("agent.metrics", good[0].body) for _ in range(9))])
        share = evaluations(drain(fleet, instance, "agent_metrics"))["quarantine_share"]
        assert share.passed, share.description
        invented = [telegraf(line("mem", "used=1i", host=f"pc-{number:02}"), organization=ORG) for number in range(40)]
        fleet.message_queue.publish(list(map(as_published, invented)))
        share = evaluations(drain(fleet, instance, "agent_metrics"))["quarantine_share"]
    assert share.severity is dg.AssetCheckSeverity.ERROR
    assert share.metadata["broken_senders"].value == 40
    assert len(share.metadata["broken"].value.records) == 20


def test_a_registered_device_that_sends_and_is_not_understood_is_named(fleet: Stores) -> None:
    """A Windows fleet was written with 0 points, and every check was green."""
    windows = telegraf(line("win_services", "state=4i"), line("net", "bytes_recv=1i", interface="e"), organization=ORG)
    fleet.message_queue.publish([as_published(windows), outgoing("agent.metrics", metrics(sample(10)))])
    with dg.DagsterInstance.ephemeral() as instance:
        found = evaluations(drain(fleet, instance, "agent_metrics"))["devices_are_understood"]
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "1 devices send" in str(found.description)
        assert "lap-2 (no cpu, memory, disk_used)" in str(found.description)
        readings = [line("mem", "used=1048576i", 5), line("cpu", "usage_idle=9.0", 5, cpu="cpu-total")]
        readings.append(line("disk", "used=1048576i", 60, path="/"))
        fleet.message_queue.publish([as_published(telegraf(*readings, organization=ORG))])
        found = evaluations(drain(fleet, instance, "agent_metrics"))["devices_are_understood"]
        assert found.passed, found.description


@pytest.mark.parametrize(
    ("hours_ago", "fields", "missing"),
    [
        (0, {}, []),
        (48, {}, []),  # a laptop that sends what it has kept
        (0, {"disk_used": None}, ["disk_used"]),
        (0, {"cpu": None, "memory": None}, ["cpu", "memory"]),
    ],
)
def test_which_kinds_of_readings_a_device_lacks(
    fleet: Stores, hours_ago: int, fields: dict[str, Any], missing: list[str]
) -> None:
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(3600 * hours_ago + 5, **fields)))])
    drained(fleet)
    since = datetime.now(UTC) - timedelta(hours=3)
    rows = fleet.clickhouse.rows(sql("ingest/devices_without"), since=since, hours=3)
    assert [row["missing"] for row in rows] == ([missing] if missing else [])


def test_a_drain_that_never_ran_cannot_be_checked() -> None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        pytest.raises(dg.Failure, match="agent_metrics has never been mat"),
    ):
        checks.last_drain(instance, KEY)


def test_devices_are_named_up_to_a_bound_and_counted_beyond_it() -> None:
    devices = [{"name": f"pc-{number:02}", "missing": ["cpu"]} for number in range(30)]
    found = checks.devices_are_understood(KEY, devices)
    assert (found.passed, found.metadata["devices"].value) == (False, 30)
    assert "pc-19 (no cpu). See: left_out" in str(found.description)
    assert "pc-20" not in str(found.description)
    assert checks.devices_are_understood(KEY, []).passed


def test_a_sender_is_named_by_what_is_known_of_it(fleet: Stores) -> None:
    new = str(uuid.UUID(int=99))
    with fleet.postgres.transaction() as connection:
        connection.execute("UPDATE devices SET retired_at = now() WHERE id = %s", (SECOND_DEVICE,))
    senders = [
        {"device_id": uuid.UUID(DEVICE)},
        {"device_id": uuid.UUID(SECOND_DEVICE)},
        {"device_id": uuid.UUID(new)},
        {"device_id": uuid.UUID(NOBODY), "host": "new-pc", "agent": "telegraf"},
        {"device_id": uuid.UUID(NOBODY), "host": "", "agent": "collectd"},
        {"device_id": uuid.UUID(NOBODY)},
    ]
    names = [row["name"] for row in checks.named(fleet.postgres, senders)]
    assert names == ["lap-1", "lap-2", new, "new-pc", "an unnamed collectd", "an unnamed sender"]
    assert [row["name"] for row in checks.named(fleet.postgres, senders, only_active=True)] == ["lap-1"]
    assert checks.named(fleet.postgres, []) == []


def test_a_quarantine_that_cannot_be_read_is_a_warning(fleet: Stores) -> None:
    """What MongoDB has is not lost: the check says that it could not look, and is not green."""
    fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(60, cpu=-2)))])
    away = MongoDB(url="mongodb://127.0.0.1:1/x", timeout_seconds=1)
    with dg.DagsterInstance.ephemeral() as instance:
        drain(fleet, instance, "agent_metrics")
        found = evaluations(only_checks(replace(fleet, mongodb=away)).execute_in_process(instance=instance))
    assert (found["conservation"].passed, found["conservation"].severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "The quarantine could not be read: MongoDB at mongodb://127.0.0.1:1/x" in str(
        found["conservation"].description
    )
    assert not found["quarantine_share"].passed, "the others look at other stores"
