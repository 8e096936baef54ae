"""History that is committed after its day was computed makes the day follow, and the later days of its tickets."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ninjait_pipelines.resources import Stores
from ninjait_pipelines.tickets import assets
from ninjait_pipelines.tickets.sensors import compute_late_ticket_days, late_ticket_days, past_ticket_days
from ninjait_pipelines_tests.rollup.data import check
from ninjait_pipelines_tests.runs import passed, run
from ninjait_pipelines_tests.tickets.desk import ALL, CHECKS, DAY, KEY, NEXT, Desk

PAST = (assets.past_history_is_copied, assets.past_tickets_have_facts)


def tick(stores: Stores, instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    """The ranges of days that the sensor asks for."""
    resources = {"clickhouse": stores.clickhouse, "postgres": stores.postgres}
    with dg.build_sensor_context(instance, resources=resources) as context:
        requests = late_ticket_days.evaluate_tick(context).run_requests
    tags = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    return [(one.tags[tags[0]], one.tags[tags[1]]) for one in requests or ()]


def test_history_that_was_committed_late_is_counted(desk: Desk) -> None:
    """A transaction that was open over night committed yesterday's history after yesterday's run; nothing was red."""
    old = desk.ticket(1500)  # on the next day, and seen there as it stood
    run(desk.stores, *ALL, *CHECKS, span=(KEY, NEXT))
    closed = "SELECT count() FROM ticket_facts WHERE day = {day:Date} AND status = 'closed'"
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(desk.stores, instance) == []
        desk.ticket(700, (705, "responded", None, None))
        desk.happens(old, (1300, "status_changed", "open", "closed"))
        red = check(desk.stores, ALL, PAST, KEY)
        assert {name: one.passed for name, one in red.items()} == dict.fromkeys(red, False)
        assert tick(desk.stores, instance) == [(KEY, NEXT)], "the next day's fact of the old ticket has changed as well"
        late = check(desk.stores, ALL, PAST, KEY)
        assert {name: one.passed for name, one in late.items()} == dict.fromkeys(late, True), "it repairs itself"
        run(desk.stores, *ALL, span=(KEY, NEXT))
        assert tick(desk.stores, instance) == []
    assert desk.stores.clickhouse.scalar(closed, day=DAY.date() + timedelta(days=1)) == 1
    assert all(passed(run(desk.stores, *ALL, *CHECKS, *PAST, key=KEY)).values())


def test_a_day_that_was_never_computed_is_left_to_the_schedule(desk: Desk) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(desk.stores, instance) == []


def test_the_job_computes_all_three(desk: Desk) -> None:
    definitions = dg.Definitions(
        list(ALL), jobs=[compute_late_ticket_days], asset_checks=list(CHECKS), resources=desk.stores.all()
    )
    tags = {"dagster/asset_partition_range_start": KEY, "dagster/asset_partition_range_end": NEXT}
    result = definitions.resolve_job_def("compute_late_ticket_days").execute_in_process(tags=tags)
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {asset.key for asset in ALL}


def test_past_days_are_compared_each_morning() -> None:
    morning = datetime(2026, 11, 30, 4, 40, tzinfo=UTC)
    request: Any = past_ticket_days(dg.build_schedule_context(scheduled_execution_time=morning))
    assert request.tags["dagster/asset_partition_range_start"] == "2026-10-26"
    assert request.tags["dagster/asset_partition_range_end"] == "2026-11-28"
