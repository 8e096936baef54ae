"""Which run starts next: Dagster's own coordinator, with what dagster.yaml says, over a real instance."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from ninjait_pipelines.build import build_defs
from ninjait_pipelines.paths import ROOT
from ninjait_pipelines_tests.nowhere import NOWHERE

# Where a queued run would be loaded from; none is.
PLACE = RemoteRepositoryOrigin(InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="nowhere")), "nowhere")
QUEUED, STARTED = dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED


@dg.job
def stand_in() -> None:
    """A job without a step: which one runs makes no difference here."""


class Queue:
    """Runs that wait, and those that the coordinator lets start; none of them does anything."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance

    def add(self, kind: str, count: int, tags: Mapping[str, str], status: dg.DagsterRunStatus = QUEUED) -> None:
        for _ in range(count):
            origin = RemoteJobOrigin(PLACE, stand_in.name)
            given = {"kind": kind, **tags}
            self.instance.create_run_for_job(stand_in, status=status, tags=given, remote_job_origin=origin)

    def start(self) -> Counter[str]:
        """What the coordinator lets start now, which runs from then on."""
        daemon = QueuedRunCoordinatorDaemon(interval_seconds=1)
        found = daemon._get_runs_to_dequeue(self.instance, self.instance.get_concurrency_config(), None)
        for run in found:
            started = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
            self.instance.report_dagster_event(started, run.run_id)
        return Counter(run.tags["kind"] for run in found)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    file = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    overrides: dict[str, Any] = {name: file[name] for name in ("run_queue", "concurrency")}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        yield Queue(instance)


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_defs(NOWHERE).get_repository_def()


@pytest.fixture(scope="module")
def drain(repository: dg.RepositoryDefinition) -> Mapping[str, str]:
    """The tags of a drain's run."""
    return repository.get_job("drain_agent_metrics").tags


BACKFILL = {"dagster/backfill": "one"}


def test_a_drain_does_not_wait_for_a_backfill(queue: Queue, drain: Mapping[str, str]) -> None:
    """20 messages lay untouched for three and a half minutes: a backfill's runs had all slots, one after another."""
    queue.add("backfill", 8, BACKFILL)
    assert queue.start() == {"backfill": 2}
    queue.add("drain", 1, drain)
    assert queue.start() == {"drain": 1}
    assert queue.start() == {}


def test_what_automation_asks_for_leaves_room_beside_a_backfill_too(
    queue: Queue, drain: Mapping[str, str], repository: dg.RepositoryDefinition
) -> None:
    (sensor,) = [one for one in repository.sensor_defs if one.name == "automation_conditions"]
    queue.add("backfill", 4, BACKFILL)
    queue.add("automation", 4, sensor.run_tags)  # type: ignore[attr-defined]
    assert queue.start() == {"backfill": 2, "automation": 2}
    queue.add("drain", 2, drain)
    assert queue.start() == {"drain": 2}


def test_a_drain_is_the_first_to_get_a_slot(queue: Queue, drain: Mapping[str, str]) -> None:
    queue.add("person", 5, {}, STARTED)
    queue.add("person", 3, {})
    queue.add("drain", 1, drain)
    assert queue.start() == {"drain": 1}


def test_every_job_has_its_lane(repository: dg.RepositoryDefinition) -> None:
    """A job without one could fill all slots."""
    for job in repository.get_all_jobs():
        if not job.name.startswith("__"):
            lane = job.tags.get("ninjait/lane") == "automation"
            assert lane or (job.name.startswith("drain_") and job.tags["dagster/priority"] == "10"), job.name
