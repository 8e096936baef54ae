"""Windows of runs and results of partitioned checks, as Dagster runs them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest

from ninjait_pipelines.partitions import (
    DAILY,
    FIRST_MONTH,
    FIRST_WEEK,
    HOURLY,
    LOCAL_DAY,
    MONTHLY,
    START,
    WEEKLY,
    per_partition,
    range_tags,
    windows,
)

DAYS = ("2026-03-08", "2026-03-10")


def test_the_week_and_the_month_of_the_start_exist() -> None:
    assert (FIRST_WEEK.weekday(), FIRST_MONTH.day) == (0, 1)
    for first, definition in ((FIRST_WEEK, WEEKLY), (FIRST_MONTH, MONTHLY)):
        window = definition.time_window_for_partition_key(definition.get_first_partition_key() or "")
        assert window.start == first
        assert window.start <= START < window.end


def test_the_current_week_and_month_exist_and_the_current_day_does_not() -> None:
    """A draft of what goes on can be seen; a day is computed when it is over."""
    now = datetime(2026, 3, 11, 12, tzinfo=UTC)  # a Wednesday
    last = [definition.get_partition_keys(now)[-1] for definition in (HOURLY, DAILY, WEEKLY, MONTHLY)]
    assert last == ["2026-03-11-11:00", "2026-03-10", "2026-03-09", "2026-03-01"]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "America/Los_Angeles", "Australia/Lord_Howe"])
def test_a_local_day_of_any_zone_lies_in_the_hours_that_it_waits_for(zone: str) -> None:
    """Around the changes of daylight saving time too: a mart of local days must not run before its hours."""
    for day in ("2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-11-01"):
        hours = LOCAL_DAY.get_upstream_mapped_partitions_result_for_partitions(
            DAILY.subset_with_partition_keys([day]), DAILY, HOURLY, datetime(2026, 12, 1, tzinfo=UTC)
        ).partitions_subset
        found = [HOURLY.time_window_for_partition_key(key) for key in hours.get_partition_keys()]
        local = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
        assert min(window.start for window in found) <= local
        assert max(window.end for window in found) >= local + timedelta(days=1)


def materialized(
    found: Callable[[dg.AssetExecutionContext], Any], span: tuple[str, str] | None = DAYS, **asset: Any
) -> dg.ExecuteInProcessResult:
    @dg.asset(**{"name": "mart", "partitions_def": DAILY, "backfill_policy": dg.BackfillPolicy.single_run(), **asset})
    def mart(context: dg.AssetExecutionContext) -> None:
        found(context)

    key = {"partition_key": span[0]} if span and span[0] == span[1] else {}
    return dg.materialize([mart], tags=range_tags(*span) if span and not key else {}, **key)  # type: ignore[arg-type]


def test_a_run_takes_its_windows_in_order_and_half_open() -> None:
    seen: list[Any] = []
    materialized(lambda context: seen.extend(windows(context)))
    assert [key for key, _, _ in seen] == ["2026-03-08", "2026-03-09", "2026-03-10"]
    assert [start for _, start, _ in seen] == [datetime(2026, 3, day, tzinfo=UTC) for day in (8, 9, 10)]
    assert [end for _, _, end in seen] == [datetime(2026, 3, day, tzinfo=UTC) for day in (9, 10, 11)]
    assert {moment.utcoffset() for _, *window in seen for moment in window} == {timedelta(0)}


@pytest.mark.parametrize("definition", [None, dg.StaticPartitionsDefinition(["a"])])
def test_an_asset_without_windows_is_an_error(definition: Any) -> None:
    with pytest.raises(TypeError, match="mart has no time windows"):
        materialized(
            lambda context: list(windows(context)),
            ("a", "a") if definition else None,
            partitions_def=definition,
            backfill_policy=None,
        )


def evaluations(results: dict[int, dg.AssetCheckResult], first: str, last: str) -> dict[str | None, Any]:
    """The evaluations of a check of these days, by partition; that of the run as a whole is of None."""

    @dg.asset(partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run())
    def mart() -> None: ...

    @dg.asset_check(asset=mart, partitions_def=DAILY)
    def right(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return per_partition(context, lambda start, _: results.get(start.day, dg.AssetCheckResult(passed=True)))

    run: dict[str, Any] = {"partition_key": first} if first == last else {"tags": range_tags(first, last)}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([mart, right], instance=instance, **run)
        return {found.partition: found for found in result.get_asset_check_evaluations()}


WRONG = dg.AssetCheckResult(passed=False, description="a row is missing", metadata={"rows": 1})
WARNED = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="late")


def test_each_day_of_a_range_has_its_own_result_about_its_own_materialization() -> None:
    """Dagster records the result of a range run for no partition at all, and whatever follows it waited for ever."""
    found = evaluations({9: WRONG}, *DAYS)
    whole = found.pop(None)
    assert {day: one.passed for day, one in found.items()} == {
        "2026-03-08": True,
        "2026-03-09": False,
        "2026-03-10": True,
    }
    wrong = found["2026-03-09"]
    assert (wrong.description, wrong.metadata["rows"].value) == ("a row is missing", 1)
    assert len({one.target_materialization_data.storage_id for one in found.values()}) == 3
    assert (whole.passed, whole.description) == (False, "2026-03-09: a row is missing")


@pytest.mark.parametrize(
    ("results", "severity"),
    [
        ({8: WARNED}, dg.AssetCheckSeverity.WARN),
        ({8: WARNED, 9: WRONG, 10: WARNED}, dg.AssetCheckSeverity.ERROR),
    ],
)
def test_a_range_is_as_bad_as_its_worst_day(results: dict[int, dg.AssetCheckResult], severity: Any) -> None:
    whole = evaluations(results, *DAYS)[None]
    assert (whole.passed, whole.severity) == (False, severity)
    assert str(whole.description).count("late") == sum(one is WARNED for one in results.values())


def test_a_run_of_one_day_has_the_day_s_result_as_it_is() -> None:
    [(day, one)] = evaluations({8: WARNED}, DAYS[0], DAYS[0]).items()
    assert (day, one.passed, one.severity, one.description) == (DAYS[0], False, dg.AssetCheckSeverity.WARN, "late")
