"""The ingest assets as Dagster runs them: metadata, checks that can fail, and the sensors that start them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.ingest import assets, checks, sensors
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.message_queue import Depth
from ninjait_pipelines_tests.ingest.conftest import idle_seconds
from ninjait_pipelines_tests.ingest.samples import EVENTS, NOW, metrics, outgoing, sample

KEY = dg.AssetKey("agent_metrics")


def definitions(stores: Stores) -> dg.Definitions:
    return dg.Definitions(
        assets=dg.load_assets_from_modules([assets, sensors]),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=sensors.drain_jobs,
        sensors=sensors.drain_sensors,
        resources=stores.all(),
    )


def drain(stores: Stores, instance: dg.DagsterInstance, name: str) -> dg.ExecuteInProcessResult:
    job = definitions(stores).resolve_job_def(f"drain_{name}")
    config = {"ops": {name: {"config": {"idle_seconds": idle_seconds(stores)}}}}
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def outcomes(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {evaluation.check_name: evaluation.passed for evaluation in result.get_asset_check_evaluations()}


def test_every_queue_has_its_asset_job_sensor_and_checks(fleet: Stores) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for queue, asset in assets.BY_QUEUE.items():
            good = EVENTS.get(queue, metrics(sample(60), sample(30)))
            fleet.message_queue.publish([outgoing(queue, good), outgoing(queue, good)])
            result = drain(fleet, instance, asset.key.to_user_string())
            assert result.success
            assert outcomes(result) == {"quarantine_share": True, "conservation": True}
            (event,) = result.asset_materializations_for_node(asset.key.to_user_string())
            metadata = {name: value.value for name, value in event.metadata.items()}
            points = 4 if queue == "agent.metrics" else 2
            assert (metadata["messages"], metadata["points_written"], metadata["dagster/row_count"]) == (
                2,
                points,
                points,
            )
            assert (metadata["remaining_messages"], metadata["points_quarantined"]) == (0, 0)
            assert metadata["drained_by"] == result.run_id
            assert metadata["bytes"] > 0
            assert metadata["duration_seconds"] > 0


def test_the_conservation_check_fails_when_the_ledger_or_the_quarantine_lost_something(fleet: Stores) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample(60), sample(30, cpu=-1)))])
        assert outcomes(drain(fleet, instance, "agent_metrics")) == {"quarantine_share": False, "conservation": True}
        only_checks = dg.define_asset_job("only_checks", selection=dg.AssetSelection.checks_for_assets(KEY))
        job = dg.Definitions.merge(definitions(fleet), dg.Definitions(jobs=[only_checks])).resolve_job_def(
            "only_checks"
        )
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


@pytest.mark.parametrize(
    ("depth", "active", "failed_seconds_ago", "reason"),
    [
        (Depth(0, 0, 0), False, None, "the queue is empty"),
        (Depth(5, 0, 0), True, None, "a drain is under way"),
        (Depth(5, 0, 0), False, 10, "the last drain failed"),
        (Depth(5, 0, 0), False, 61, None),
        (Depth(5, 0, 0), False, None, None),
        (Depth(0, 5, 0), False, None, None),
        (Depth(0, 0, 1), False, None, None),
    ],
)
def test_when_a_drain_starts(depth: Depth, active: bool, failed_seconds_ago: int | None, reason: str | None) -> None:
    failed_at = NOW - timedelta(seconds=failed_seconds_ago) if failed_seconds_ago else None
    assert (sensors.decide(depth, active, failed_at, NOW) or "").startswith(reason or "")
    assert bool(sensors.decide(depth, active, failed_at, NOW)) == bool(reason)


def test_a_sensor_starts_a_drain_skips_while_one_runs_and_waits_after_a_failure(fleet: Stores) -> None:
    sensor = sensors.drain_sensors[list(assets.BY_QUEUE).index("agent.metrics")]
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, resources={"message_queue": fleet.message_queue}) as context,
    ):

        def tick() -> tuple[int, str | None]:
            result = sensor.evaluate_tick(context)
            return len(result.run_requests or ()), result.skip_message

        assert tick() == (0, "the queue is empty")
        fleet.message_queue.publish([outgoing("agent.metrics", metrics(sample()))])
        assert tick() == (1, None)
        job = definitions(fleet).resolve_job_def("drain_agent_metrics")
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        assert tick() == (0, "a drain is under way")
        instance.report_run_canceled(run)
        assert tick() == (1, None)
        instance.report_run_failed(instance.create_run_for_job(job))
        assert tick()[0] == 0
        assert sensors.last_drain(instance, job.name)[1] > datetime.now(UTC) - timedelta(seconds=30)  # type: ignore[operator]
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 10


def test_a_drain_that_waits_in_the_queue_of_runs_counts_as_under_way() -> None:
    """Dagster's own IN_PROGRESS_RUN_STATUSES leaves it out: a sensor would queue another drain at every tick."""
    assert dg.DagsterRunStatus.QUEUED in sensors.UNDER_WAY
