"""When the weekly report asks to be made: by what happens in the marts, not by what is new all the time."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from ninjait_pipelines.partitions import DAILY, HOURLY, MONTHLY
from ninjait_pipelines.reports.assets import ALWAYS_NEW, UPSTREAM, weekly_reports
from ninjait_pipelines_tests.rollup.ticks import inert

PARTITIONS = dict(zip(UPSTREAM, (HOURLY, DAILY, DAILY, MONTHLY), strict=True))
NOW = datetime(2026, 11, 18, 12, 7, tzinfo=UTC)
RUNNING = "2026-11-16"


def test_a_new_hour_asks_for_its_week_and_drains_ask_for_nothing() -> None:
    specs = [dg.AssetSpec(name, partitions_def=definition) for name, definition in PARTITIONS.items()]
    definitions = dg.Definitions([*specs, *map(dg.AssetSpec, ALWAYS_NEW), inert(weekly_reports)])
    with dg.DagsterInstance.ephemeral() as instance:
        cursor: Any = None

        def asked() -> list[str]:
            nonlocal cursor
            result = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor, evaluation_time=NOW)
            cursor = result.cursor
            return sorted(result.get_requested_partitions(weekly_reports.key))

        def happens(name: str, key: str | None = None) -> None:
            instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=key))

        first = asked()
        assert first[-1] == RUNNING, "a week's report is made although hours of it are missing"
        for week in first:
            happens("weekly_reports", week)
        assert asked() == []
        for name in ALWAYS_NEW:
            happens(name)
        assert asked() == []
        happens("device_metrics_hourly", "2026-11-16-03:00")
        assert asked() == [RUNNING]
        happens("weekly_reports", RUNNING)
        happens("device_metrics_hourly", "2026-03-04-03:00")
        assert asked() == ["2026-03-02"], "a late hour, however old"
