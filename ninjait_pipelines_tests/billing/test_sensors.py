"""API calls and usage reports that come after their local day was measured make the day follow."""

import random
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.billing import assets, checks
from ninjait_pipelines.billing.local_time import DAY, day_window
from ninjait_pipelines.billing.sensors import late_billing_days
from ninjait_pipelines.late_days import note_events
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.conftest import LONG_AGO, Platform, one_item, today
from ninjait_pipelines_tests.billing.usage_data import add_calls
from ninjait_pipelines_tests.ingest.conftest import idle_seconds, make_drain
from ninjait_pipelines_tests.ingest.samples import outgoing
from ninjait_pipelines_tests.rollup.data import check
from ninjait_pipelines_tests.runs import content, run

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
    platform.agreement(organization, day - 30 * DAY)
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
    platform.agreement(organization, today() - 60 * DAY)
    first, last = today() - 12 * DAY, today() - 2 * DAY
    run(platform.stores, assets.billing_events, span=(first.isoformat(), last.isoformat()))
    moment = datetime.combine(today() - 10 * DAY, datetime.min.time(), UTC)
    platform.usage(organization, moment, "5", "1")
    note_events(platform.stores.clickhouse, "usage_reports", [(str(organization), moment)], "test")
    span = ((today() - 10 * DAY).isoformat(), (today() - 3 * DAY).isoformat())
    assert tick(platform.stores) == [span]
    run(platform.stores, assets.billing_events, span=span)
    assert tick(platform.stores) == []


def test_a_call_that_comes_late_moves_the_retries_of_the_seven_days_after_it(platform: Platform) -> None:
    """The first attempt came after the retries: the call was billed on both days."""
    organization = platform.organization("one", "UTC")
    platform.agreement(organization)
    first, last = today() - 12 * DAY, today() - 2 * DAY
    late = datetime.combine(today() - 10 * DAY, datetime.min.time(), UTC)
    id_ = str(uuid.uuid4())
    add_calls(platform.stores, [(id_, late + 5 * DAY, 200)], str(organization))
    span = (first.isoformat(), last.isoformat())
    run(platform.stores, assets.billing_events, span=span)
    assert billed(platform.stores) == {today() - 5 * DAY: 1}
    add_calls(platform.stores, [(id_, late, 200)], str(organization))
    note_events(platform.stores.clickhouse, "api_calls", [(str(organization), late)], "test")
    span = ((today() - 10 * DAY).isoformat(), (today() - 3 * DAY).isoformat())
    assert tick(platform.stores) == [span]
    run(platform.stores, assets.billing_events, span=span)
    assert tick(platform.stores) == []
    assert billed(platform.stores) == {today() - 10 * DAY: 1}


def test_a_report_that_comes_late_reaches_as_far_as_it_is_carried_forward(platform: Platform) -> None:
    organization = platform.organization("one", "UTC")
    term = {"from": LONG_AGO.isoformat()}
    platform.agreement(organization, items=[one_item("disk", term, "1", kind="storage", carried_forward_days=20)])
    first, last = today() - 30 * DAY, today() - 2 * DAY
    run(platform.stores, assets.billing_events, span=(first.isoformat(), last.isoformat()))
    moment = datetime.combine(today() - 25 * DAY, datetime.min.time(), UTC)
    note_events(platform.stores.clickhouse, "usage_reports", [(str(organization), moment)], "test")
    assert tick(platform.stores) == [((today() - 25 * DAY).isoformat(), (today() - 5 * DAY).isoformat())]


def billed(stores: Stores) -> dict[date, int]:
    """Calls by day, of days that have any."""
    rows = stores.clickhouse.rows(
        "SELECT local_day, quantity FROM billing_quantities WHERE kind = 'api_calls' AND quantity > 0"
    )
    return {row["local_day"]: int(row["quantity"]) for row in rows}


def test_shuffled_doubled_and_cut_into_many_drains_the_days_are_the_same(platform: Platform) -> None:
    organization = platform.organization("one", "Asia/Kolkata")
    platform.agreement(organization)
    chance = random.Random(1)
    start = day_window(today() - 6 * DAY, "Asia/Kolkata")[0]
    messages = []
    for number in range(200):
        at = (start + chance.randrange(4 * 86_400) * timedelta(seconds=1)).isoformat()
        body = {"organization_id": str(organization), "timestamp": at}
        if number % 10:
            call = {"schema": "ninjait.api_call.v1", "endpoint": "/v1/devices", "method": "GET", "user_id": None}
            call |= {"status_code": chance.choice([200, 404, 500]), "response_time_ms": 1.5}
            messages.append(outgoing("platform.api_calls", body | call, message_id=str(uuid.uuid4())))
        else:
            report = {"schema": "ninjait.usage.v1", "storage_gb": str(number), "backup_gb": "1.25"}
            messages.append(outgoing("platform.usage", body | report, message_id=str(uuid.uuid4())))
    first = _measured_after_drains(platform, messages, 1000)
    for table in ("api_calls_versions", "usage_reports_versions", "touched_events", "message_deliveries"):
        platform.stores.clickhouse.command(f"TRUNCATE TABLE {table}")
    doubled = messages + chance.sample(messages, 10)
    chance.shuffle(doubled)
    assert _measured_after_drains(platform, doubled, 10) == first
    assert first["billing_quantities"]


def _measured_after_drains(platform: Platform, messages: list[Any], at_once: int) -> dict[str, list[Any]]:
    """What the days are after these messages were drained, so many at once."""
    stores = platform.stores
    for number in range(0, len(messages), at_once):
        stores.message_queue.publish(messages[number : number + at_once])
        for queue in ("platform.api_calls", "platform.usage"):
            make_drain(stores, queue).run(idle_seconds=idle_seconds(stores))
    span = ((today() - 7 * DAY).isoformat(), (today() - 2 * DAY).isoformat())
    run(stores, assets.billing_events, span=span)
    return {mart: content(stores, mart) for mart in ("usage_days", "billing_quantities", "billing_events")}
