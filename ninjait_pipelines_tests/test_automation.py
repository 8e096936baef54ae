"""When partitions are requested, evaluated by Dagster at moments of our choice."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ninjait_pipelines.automation import ACTIVE_RUN_STATUSES, fill_missing
from ninjait_pipelines.partitions import DAILY

DAY = "2026-03-09"
NOON = datetime(2026, 3, 10, 12, 20, tzinfo=UTC)


def test_a_partition_that_failed_is_tried_again_once_an_hour() -> None:
    """ClickHouse was away for half a minute at night: what ran then failed, and stayed missing until somebody woke."""
    away = True

    @dg.asset(partitions_def=DAILY, automation_condition=fill_missing(timedelta(days=1)))
    def mart() -> None:
        if away:
            raise RuntimeError("the store is away")

    with dg.DagsterInstance.ephemeral() as instance:
        cursor: Any = None

        def asked(**after_noon: int) -> list[str]:
            nonlocal cursor
            moment = NOON + timedelta(**after_noon)
            result = dg.evaluate_automation_conditions([mart], instance, evaluation_time=moment, cursor=cursor)
            cursor = result.cursor
            return sorted(result.get_requested_partitions(dg.AssetKey("mart")) or ())

        assert asked() == [DAY]
        assert not dg.materialize([mart], instance=instance, partition_key=DAY, raise_on_error=False).success
        assert asked(minutes=1) == []
        assert asked(minutes=49) == []
        assert asked(minutes=51) == [DAY], "ten past the hour"
        away = False
        assert dg.materialize([mart], instance=instance, partition_key=DAY).success
        assert asked(minutes=52) == []
        assert asked(minutes=112) == []


def test_a_run_that_waits_in_the_queue_is_active() -> None:
    """Dagster's own IN_PROGRESS_RUN_STATUSES leaves it out: a sensor would queue another drain at every tick."""
    assert dg.DagsterRunStatus.QUEUED in ACTIVE_RUN_STATUSES


def test_a_run_that_died_before_it_was_queued_is_not_active() -> None:
    """It stays NOT_STARTED, and its late hours would never have been requested again."""
    assert dg.DagsterRunStatus.NOT_STARTED not in ACTIVE_RUN_STATUSES
