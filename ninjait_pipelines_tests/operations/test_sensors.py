"""A run that failed becomes an alert, by real ticks over a real instance."""

from collections.abc import Iterator

import dagster as dg
import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.operations.daemon import Daemon, elsewhere


@pytest.fixture
def daemon(shared_stores: Stores) -> Iterator[Daemon]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Daemon(shared_stores, instance)


def test_an_alert_says_what_failed_why_and_what_waits_for_it(daemon: Daemon) -> None:
    run_id = daemon.fail()
    daemon.tick()
    [alert] = daemon.alerts()
    assert (alert["_id"], alert["run_id"], alert["partition"]) == (run_id, run_id, "2026-02-01")
    assert (alert["steps"], alert["assets"]) == (["upstream"], ["upstream"])
    assert "no room for the day" in alert["error"]
    assert alert["affects"] == ["last", "middle"]
    assert alert["acknowledged_at"] is None
    assert alert["raised_at"].tzinfo is not None


def test_a_repeated_tick_is_the_same_alert(daemon: Daemon) -> None:
    """A tick that died after its write is evaluated again from the same cursor; a person may have acted meanwhile."""
    daemon.fail()
    cursor = daemon.cursor
    daemon.tick()
    daemon.stores.mongodb.database.alerts.update_many({}, {"$set": {"acknowledged_at": "now"}})
    daemon.cursor = cursor
    daemon.tick()
    assert [alert["acknowledged_at"] for alert in daemon.alerts()] == ["now"]


def test_a_run_that_will_be_retried_is_no_alert(daemon: Daemon) -> None:
    daemon.fail(**{"dagster/will_retry": "true"})
    daemon.tick()
    assert daemon.alerts() == []


def test_a_run_that_succeeds_is_no_alert(daemon: Daemon) -> None:
    job = daemon.definitions.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(asset_selection=[elsewhere.key], instance=daemon.instance).success
    daemon.tick()
    assert daemon.alerts() == []
