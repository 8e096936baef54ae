"""The weekly report of each organization."""

import time
from datetime import timedelta
from functools import partial

import dagster as dg

from ninjait_pipelines.late_days import record_day
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.partitions import RUNNING, WEEKLY, catch_up, news, windows
from ninjait_pipelines.reports.weekly import WEEK, completeness, name_of, publish, read_week, report
from ninjait_pipelines.resources.archive import Archive
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.dragonfly import Dragonfly

UPSTREAM = ("device_metrics_hourly", "ticket_facts", "billing_events", "invoices")
# They have no partitions and are materialized all the time: they ask for no report and hold none up.
ALWAYS_NEW = ("organizations", "devices", "api_calls")
_ALWAYS_NEW = dg.AssetSelection.assets(*ALWAYS_NEW)
# A report says how complete it is, so it waits for nothing: the running week's grows with every hour, and the first
# week of an installation, of which hours are missing for ever, has one too.
_FOLLOW = (
    news(_ALWAYS_NEW)
    & ~dg.AutomationCondition.any_deps_in_progress().ignore(_ALWAYS_NEW)
    & ~dg.AutomationCondition.in_progress()
)
AUTOMATION = (catch_up(timedelta(days=14)).without(~dg.AutomationCondition.any_deps_missing()) | _FOLLOW).with_label(
    "weekly"
)


@dg.asset(
    group_name="reports",
    deps=[*(dg.AssetDep(name, partition_mapping=RUNNING) for name in UPSTREAM), *ALWAYS_NEW],
    partitions_def=WEEKLY,
    backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=168),
    automation_condition=AUTOMATION,
    kinds={"s3", "redis"},
    owners=["team:data-engineering"],
)
def weekly_reports(
    context: dg.AssetExecutionContext, clickhouse: ClickHouse, archive: Archive, dragonfly: Dragonfly
) -> None:
    """A report for each organization of a week from Monday, UTC: to the archive, and the latest to Dragonfly."""
    for key, start, end in windows(context):
        started = time.perf_counter()
        as_of = clickhouse.now()
        complete = completeness(clickhouse.scalar(sql("rollup/rolled_up"), start=start, stop=end), start, as_of)
        left_out, write = LeftOut(), partial(report, week=start.date(), as_of=as_of, complete=complete)
        week = list(left_out.each(read_week(clickhouse, start, end), name_of, write))
        # The API shows the latest week. A backfill of an older one must not bring it back, not even to an expired key.
        recent = as_of < end + WEEK
        published = sum(publish(archive, dragonfly, one, cached=recent) for one in week)
        # Dying before: the week counts as computed at the run before this one, and may be computed once more.
        record_day(clickhouse, "weekly_reports", start.date(), as_of)
        context.add_asset_metadata(
            {
                "dagster/partition_row_count": len(week),
                "published": published,
                "completeness": complete,
                **left_out.metadata(),
                "duration_seconds": time.perf_counter() - started,
            },
            partition_key=key,
        )
