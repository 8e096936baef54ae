"""API calls that come after their week was reported make its reports follow, whatever contract there is."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import dagster as dg

from ninjait_pipelines.late_days import note_events
from ninjait_pipelines.reports.assets import past_reports_are_right, weekly_reports
from ninjait_pipelines.reports.sensors import late_report_weeks, past_report_weeks
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.reports.weeks import DAY, KEY, THIS_WEEK, WEEK, archived, publish, put
from ninjait_pipelines_tests.rollup.data import HOUR, ORGANIZATION, check


def tick(stores: Stores) -> list[str]:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, resources={"clickhouse": stores.clickhouse}) as context,
    ):
        requests = late_report_weeks.evaluate_tick(context).run_requests or ()
    first, last = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
    assert all(one.tags[first] == one.tags[last] for one in requests)
    return [one.tags[first] for one in requests]


def past(stores: Stores) -> Any:
    return check(stores, [weekly_reports], [past_reports_are_right], KEY)["past_reports_are_right"]


def call(stores: Stores, moment: datetime, note: bool = True) -> None:
    row = {"organization_id": ORGANIZATION, "timestamp": moment, "message_id": uuid4(), "endpoint": "/v1/devices"}
    put(stores, "api_calls", {**row, "method": "GET", "status_code": 200, "response_time_ms": 1.0, "user_id": None})
    if note:
        note_events(stores.clickhouse, "api_calls", [(ORGANIZATION, moment)], "test")


def test_calls_that_come_late_are_reported(marts: Stores) -> None:
    """Billing followed them, and with it the reports, but only where a contract was in force."""
    call(marts, WEEK)
    publish(marts)
    publish(marts, f"{THIS_WEEK:%Y-%m-%d}")
    assert tick(marts) == []
    assert past(marts).passed
    for moment in (WEEK - HOUR, WEEK + 7 * DAY - timedelta(seconds=1), THIS_WEEK):
        call(marts, moment)
    assert tick(marts) == [KEY], "the week that goes on is reported each hour; the one before was never reported"
    assert past(marts).passed, "it repairs itself"
    publish(marts)
    assert archived(marts)["api"]["calls"] == 2
    assert tick(marts) == []
    call(marts, WEEK + DAY, note=False)
    assert not past(marts).passed, "what nobody noted is found all the same"
    assert f"{ORGANIZATION} api" in past(marts).description
    publish(marts)
    assert past(marts).passed


def test_weeks_that_are_over_are_compared_each_morning() -> None:
    for morning, last in (("2026-11-29", "2026-11-16"), ("2026-11-30", "2026-11-16"), ("2026-12-01", "2026-11-23")):
        moment = datetime.fromisoformat(morning).replace(tzinfo=UTC)
        request: Any = past_report_weeks(dg.build_schedule_context(scheduled_execution_time=moment))
        assert request.tags["dagster/asset_partition_range_start"] in ("2026-10-19", "2026-10-26")
        assert request.tags["dagster/asset_partition_range_end"] == last
