"""One process per run, a process per step after a death, and another executor by a setting."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ninjait_pipelines.executor import RETRY_TAG, one_process_executor
from ninjait_pipelines_tests.nowhere import NOWHERE

DEADLY = "NINJAIT_TEST_DEADLY"
context = multiprocessing.get_context("forkserver")


def _pid() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"pid": os.getpid()})


@dg.asset
def a_first() -> dg.MaterializeResult:
    return _pid()


@dg.asset(deps=[a_first])
def b_deadly() -> dg.MaterializeResult:
    if DEADLY in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return _pid()


@dg.asset(deps=[b_deadly])
def c_after_it() -> dg.MaterializeResult:
    return _pid()


@dg.asset(deps=[a_first])
def d_beside_it() -> dg.MaterializeResult:
    return _pid()


def job() -> dg.JobDefinition:
    assets = [a_first, b_deadly, c_after_it, d_beside_it]
    every = dg.define_asset_job("every", selection=dg.AssetSelection.assets(*assets))
    return dg.Definitions(assets=assets, jobs=[every], executor=one_process_executor).resolve_job_def("every")


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with dg.DagsterInstance.get() as instance:
        yield instance


def _run(instance: dg.DagsterInstance, **tags: str) -> dict[str, int]:
    """A run; asset -> process that it was materialized in."""
    with dg.execute_job(dg.reconstructable(job), instance, tags=tags) as result:
        events = [event for event in result.all_events if event.is_step_materialization]
        return {str(event.step_key): event.materialization.metadata["pid"].value for event in events}


def _die(home: str) -> None:
    os.environ |= {"DAGSTER_HOME": home, DEADLY: "yes"}
    with dg.DagsterInstance.get() as instance:
        _run(instance)


def test_all_steps_of_a_run_share_its_process(instance: dg.DagsterInstance) -> None:
    assert _run(instance) == dict.fromkeys(["a_first", "b_deadly", "c_after_it", "d_beside_it"], os.getpid())


@pytest.mark.engines
def test_a_step_that_kills_its_process_fails_alone_at_the_retry(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits behind it in the run would never be materialized, however often the run is started again."""
    process = context.Process(target=_die, args=[os.environ["DAGSTER_HOME"]])
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert instance.get_latest_materialization_event(d_beside_it.key) is None
    monkeypatch.setenv(DEADLY, "yes")
    found = _run(instance, **{RETRY_TAG: "1"})
    assert found.keys() == {"a_first", "d_beside_it"}
    assert os.getpid() not in found.values()
    (run, *_) = instance.get_runs(limit=1)
    assert run.status == dg.DagsterRunStatus.FAILURE


@pytest.mark.engines
def test_a_retry_succeeds_where_the_death_was_an_accident(instance: dg.DagsterInstance) -> None:
    assert len(set(_run(instance, **{RETRY_TAG: "1"}).values()) - {os.getpid()}) == 4


def test_another_executor_is_a_setting() -> None:
    """Drains keep their own: one process."""
    from ninjait_pipelines.build import build_defs  # here: each process of the steps above would load it

    def names(**settings: str) -> set[str]:
        jobs = build_defs({**NOWHERE, **settings}).get_repository_def().get_all_jobs()
        return {job.executor_def.name for job in jobs if not job.name.startswith("drain_")}

    assert names() == {"one_process"}
    assert names(RUN_EXECUTOR="dagster.multiprocess_executor") == {"multiprocess"}
