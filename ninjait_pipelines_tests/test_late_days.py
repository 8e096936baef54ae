"""Days that receive data after they were computed: how they are recorded, found, requested and compared."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest

from ninjait_pipelines.late_days import (
    DAY,
    LONGEST,
    is_late,
    late_days_of,
    late_days_sensor,
    midnight,
    note_events,
    past_days_schedule,
    ranges,
    record_day,
)
from ninjait_pipelines.partitions import RANGE_END_TAG, RANGE_START_TAG
from ninjait_pipelines.resources import Stores

D = date(2026, 3, 10)
ORG, OTHER_ORG = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


def test_consecutive_days_are_one_range() -> None:
    days = [D + number * DAY for number in (5, 0, 1, 1, 2, 4, 9)]
    assert ranges(days) == [(D, D + 2 * DAY), (D + 4 * DAY, D + 5 * DAY), (D + 9 * DAY, D + 9 * DAY)]
    assert ranges([]) == []


def test_a_range_is_no_longer_than_what_a_run_may_lose() -> None:
    days = [D + number * DAY for number in range(2 * LONGEST + 1)]
    found = ranges(days)
    assert [(last - first).days + 1 for first, last in found] == [LONGEST, LONGEST, 1]
    assert [day for first, last in found for day in (first, last)] == sorted(
        [D, D + (LONGEST - 1) * DAY, D + LONGEST * DAY, D + (2 * LONGEST - 1) * DAY, days[-1], days[-1]]
    )


def test_the_first_instant_of_a_day_is_in_utc() -> None:
    assert midnight(D) == datetime(2026, 3, 10, tzinfo=UTC)


def test_hours_of_events_are_noted_once_per_organization(stores: Stores) -> None:
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    moments = [noon, noon + timedelta(minutes=59, microseconds=999_999), noon + timedelta(hours=1)]
    events = [*((ORG, moment) for moment in moments), (OTHER_ORG, noon)]
    note_events(stores.clickhouse, "api_calls", events, "run")
    note_events(stores.clickhouse, "api_calls", [], "run")
    rows = stores.clickhouse.rows("SELECT organization_id, hour, events FROM touched_events ORDER BY ALL")
    assert [(str(row["organization_id"]), row["hour"].hour, row["events"]) for row in rows] == [
        (ORG, 12, 2),
        (ORG, 13, 1),
        (OTHER_ORG, 12, 1),
    ]


def test_a_day_is_late_from_its_first_event_until_it_is_computed_again(stores: Stores) -> None:
    """The state is in the store: a tick that was missed, or a run that failed, changes nothing."""
    clickhouse = stores.clickhouse
    asset, other = "ticket_events", "ticket_facts"
    for name in (asset, other):
        record_day(clickhouse, name, D, clickhouse.now())
    assert late_days_of(clickhouse, [asset, other]) == []
    note_events(clickhouse, "ticket_history", [(ORG, midnight(D)), (ORG, midnight(D + DAY))], "run")
    assert late_days_of(clickhouse, [asset, other]) == [D], "the day after it was never computed, so it is not late"
    record_day(clickhouse, asset, D, clickhouse.now())
    assert (is_late(clickhouse, asset, D), is_late(clickhouse, other, D)) == (False, True)
    assert (late_days_of(clickhouse, [asset]), late_days_of(clickhouse, [asset, other])) == ([], [D])
    assert late_days_of(clickhouse, []) == []


@dg.asset
def mart() -> None: ...


JOB = dg.define_asset_job("late", selection=[mart])


def ticks(*minutes: float, days: list[date], instance: dg.DagsterInstance, **options: Any) -> list[Any]:
    """The sensor's results at these minutes after noon; a day is late until it is taken out of `days`."""
    clock = SimpleNamespace()
    sensor = late_days_sensor("late_marts", ["mart"], JOB, late=lambda clickhouse, assets: days, **options)
    found = []
    for minute in minutes:
        clock.now = lambda minute=minute: datetime(2026, 3, 12, 12, tzinfo=UTC) + timedelta(minutes=minute)
        with dg.build_sensor_context(instance, resources={"clickhouse": clock}) as context:
            found.append(sensor.evaluate_tick(context))
    return found


def test_late_days_are_requested_as_ranges_and_again_after_a_while() -> None:
    """A request with a run key that was used starts nothing: what failed is tried again, and not at every tick."""
    with dg.DagsterInstance.ephemeral() as instance:
        first, soon, later = ticks(0, 14, 16, days=[D, D + DAY, D + 5 * DAY], instance=instance)
    spans = [(one.tags[RANGE_START_TAG], one.tags[RANGE_END_TAG]) for one in first.run_requests]
    assert spans == [("2026-03-10", "2026-03-11"), ("2026-03-15", "2026-03-15")]
    keys = [[one.run_key for one in tick.run_requests] for tick in (first, soon, later)]
    assert keys[0] == keys[1]
    assert {*keys[0]}.isdisjoint(keys[2])
    assert len({*keys[0]}) == 2


def test_nothing_is_requested_without_late_days_or_while_they_are_computed() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert ticks(0, days=[], instance=instance)[0].skip_message == "no late days"
        job = dg.Definitions([mart], jobs=[JOB]).resolve_job_def("late")
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        assert ticks(0, days=[D], instance=instance)[0].skip_message == "late days are being computed"
        instance.report_run_canceled(run)
        assert len(ticks(0, days=[D], instance=instance)[0].run_requests) == 1


def test_changes_that_were_not_noted_are_looked_for_while_a_repair_runs_too() -> None:
    """They are noted with the time of the tick that finds them."""
    days: list[date] = []
    with dg.DagsterInstance.ephemeral() as instance:
        [tick] = ticks(0, days=days, instance=instance, find=lambda *_: days.append(D))
        assert len(tick.run_requests) == 1
        job = dg.Definitions([mart], jobs=[JOB]).resolve_job_def("late")
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        ticks(0, days=days, instance=instance, find=lambda *_: days.append(D))
    assert days == [D, D]


@pytest.mark.parametrize(
    ("today", "whole", "span"),
    [
        ("2026-03-10", 1, ("2026-02-03", "2026-03-08")),
        ("2026-03-10", 7, ("2026-02-02", "2026-03-02")),  # a Tuesday: the week that ended on Sunday is over for a day
        ("2026-03-09", 7, ("2026-02-02", "2026-02-23")),  # on the Monday before that it is not
        ("2024-01-03", 1, ("2024-01-01", "2024-01-01")),
        ("2024-01-02", 1, None),
        ("2024-01-09", 7, ("2024-01-01", "2024-01-01")),
        ("2024-01-08", 7, None),
    ],
)
def test_past_days_are_compared_from_the_start_on(today: str, whole: int, span: tuple[str, str] | None) -> None:
    schedule = past_days_schedule("past", JOB, "0 6 * * *", whole)
    moment = datetime.fromisoformat(f"{today}T06:00:00+00:00")
    found: Any = schedule(dg.build_schedule_context(scheduled_execution_time=moment))
    if span:
        assert (found.tags[RANGE_START_TAG], found.tags[RANGE_END_TAG]) == span
    else:
        assert found.skip_message == "nothing is over yet"
