"""API calls and usage reports that come after their local day was measured make the day follow."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ninjait_pipelines.billing import assets, checks
from ninjait_pipelines.billing.local_time import DAY, day_window
from ninjait_pipelines.billing.sensors import late_billing_days
from ninjait_pipelines.late_days import note_events
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.conftest import Platform, today
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.samples import outgoing
from ninjait_pipelines_tests.rollup.data import check
from ninjait_pipelines_tests.runs import run

KEY = (today() - 3 * DAY).isoformat()


def tick(stores: Stores) -> list[tuple[str, str]]:
    """The ranges of days that the sensor asks for."""
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, resources={"clickhouse": stores.clickhouse}) as context,
    ):
        requests = late_billing_days.evaluate_tick(context).run_requests
    tags = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    return [(one.tags[tags[0]], one.tags[tags[1]]) for one in requests or ()]


def past(stores: Stores) -> bool:
    return bool(
        check(stores, [assets.billing_events], [checks.past_days_are_measured], KEY)["past_days_are_measured"].passed
    )


@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Pacific/Auckland", "Asia/Kolkata"])
def test_calls_that_come_late_are_counted(platform: Platform, zone: str) -> None:
    """They were never counted, with every check green."""
    day = today() - 3 * DAY
    start, end = day_window(day, zone)
    organization = platform.organization("one", zone)
    platform.contract(organization, day - 30 * DAY)
    platform.calls(organization, start)
    span = ((day - DAY).isoformat(), (day + DAY).isoformat())
    run(platform.stores, assets.billing_events, span=span)
    assert tick(platform.stores) == []
    assert past(platform.stores)
    call = {"organization_id": str(organization), "endpoint": "/v1/devices", "method": "GET", "status_code": 200}
    call |= {"schema": "ninjait.api_call.v1", "response_time_ms": 1.5, "user_id": None}
    moments = (start, end - timedelta(seconds=1))
    messages = [outgoing("platform.api_calls", {**call, "timestamp": moment.isoformat()}) for moment in moments]
    platform.stores.message_queue.publish(messages)
    make_drain(platform.stores, "platform.api_calls").run(idle_seconds=idle_seconds(platform.stores))
    assert platform.stores.clickhouse.scalar("SELECT count() FROM api_calls") == 3
    assert any(first <= KEY <= last for first, last in tick(platform.stores))
    assert past(platform.stores), "it repairs itself"
    platform.stores.clickhouse.command("TRUNCATE TABLE touched_events")
    assert not past(platform.stores), "what nobody noted is found all the same"
    run(platform.stores, assets.billing_events, key=KEY)
    assert past(platform.stores)
    query = "SELECT quantity FROM billing_quantities WHERE kind = 'api_calls' AND local_day = {day:Date}"
    assert platform.stores.clickhouse.scalar(query, day=day) == 3


def test_a_report_that_comes_late_touches_the_seven_days_after_it(platform: Platform) -> None:
    organization = platform.organization("one", "UTC")
    platform.contract(organization, today() - 60 * DAY)
    first, last = today() - 12 * DAY, today() - 2 * DAY
    run(platform.stores, assets.billing_events, span=(first.isoformat(), last.isoformat()))
    moment = datetime.combine(today() - 10 * DAY, datetime.min.time(), UTC)
    platform.usage(organization, moment, "5", "1")
    note_events(platform.stores.clickhouse, "usage_reports", [(str(organization), moment)], "test")
    span = ((today() - 10 * DAY).isoformat(), (today() - 3 * DAY).isoformat())
    assert tick(platform.stores) == [span]
    run(platform.stores, assets.billing_events, span=span)
    assert tick(platform.stores) == []
