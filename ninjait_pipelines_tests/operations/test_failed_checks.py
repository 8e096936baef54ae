"""Alerts of runs that failed otherwise than in an asset, and after their retries."""

import dagster as dg
import pytest

from ninjait_pipelines.operations.sensors import failed_runs
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.operations.daemon import DAILY, Daemon


@dg.asset(partitions_def=DAILY)
def counted() -> None: ...


@dg.asset_check(asset=counted, blocking=True)
def adds_up() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description="3 of 4")


@dg.asset(deps=[counted])
def sums() -> None: ...


class Shop(Daemon):
    """The daemon over an asset whose blocking check fails."""

    definitions = dg.Definitions(assets=[counted, sums], asset_checks=[adds_up], sensors=[failed_runs])
    failing = counted


def test_what_waits_for_a_blocking_check_is_named(shared_stores: Stores) -> None:
    """A failed check has a step of its own name: the alert said that nothing depended on it."""
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(shared_stores, instance)
        shop.fail()
        shop.tick()
        [alert] = shop.alerts()
    assert (alert["steps"], alert["affects"]) == (["counted_adds_up"], ["sums"])
    assert "adds_up" in alert["error"]


@pytest.mark.parametrize(("will_retry", "alerts"), [("true", 0), ("false", 1)])
def test_only_the_last_attempt_alerts(shared_stores: Stores, will_retry: str, alerts: int) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        shop = Shop(shared_stores, instance)
        shop.fail(**{"dagster/will_retry": will_retry})
        shop.tick()
        assert len(shop.alerts()) == alerts
