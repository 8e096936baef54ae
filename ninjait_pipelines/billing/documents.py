"""The asset of documents, by local month, and the job that issues them, which a person starts or a schedule."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from ninjait_pipelines import automation, partitions
from ninjait_pipelines.automation import AUTOMATION
from ninjait_pipelines.billing.assets import AGREEMENTS_CHANGED, CORRECTED, FOLLOW_UPSTREAM, billing_events
from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.finalise import GRACE, finalise
from ninjait_pipelines.billing.write import save_drafts
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.marts import Window, computed
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.clickhouse_schema import column_schema
from ninjait_pipelines.resources.postgres import Postgres


@computed(
    group_name="billing",
    kinds={"clickhouse", "postgres", "python"},
    partitions_def=partitions.MONTHLY,
    deps=[
        dg.AssetDep(billing_events, partition_mapping=partitions.INCLUDES_CURRENT_PERIOD),
        "agreements",
        "device_terms",
    ],
    metadata={"dagster/column_schema": column_schema("invoices")},
    automation_condition=(
        automation.fill_missing(CORRECTED, wait_for_missing=False) | FOLLOW_UPSTREAM | AGREEMENTS_CHANGED
    ),
)
def invoices(
    window: Window,
    as_of: datetime,
    postgres: Postgres,
    clickhouse: ClickHouse,
    left_out: LeftOut,
    metadata: dict[str, Any],
) -> int:
    """Drafts of the local month's documents: days_covered of days_in_period, and the completeness of each line, say how
    much of it is in yet. What is issued stays as it is. PostgreSQL's billing.invoices is the system of record,
    ClickHouse has a copy. Grain: agreement and month; an issued document has its own row, even when it is void."""
    drawn = draw_up(postgres, clickhouse, window.day, left_out)
    save_drafts(postgres, clickhouse, window.day, drawn, as_of)
    metadata["lines"] = sum(len(one.document.lines) for one in drawn)
    return len(drawn)


PERIOD = dg.Field(str, default_value="", description="The month, as 2026-05; the newest that is over, if empty")


@dg.op(required_resource_keys={"postgres", "clickhouse"}, config_schema={"period": PERIOD})
def issue_documents(context: dg.OpExecutionContext) -> None:
    """Issues the documents of a month, of all agreements; what waits is named in the log."""
    period = context.op_config["period"]
    month = date.fromisoformat(f"{period}-01") if period else last_month(datetime.now(UTC))
    found = finalise(context.resources.postgres, context.resources.clickhouse, month)
    for agreement, why in sorted(found.waiting.items()):
        context.log.warning(f"{agreement} waits: {why}")
    context.log.info(f"{len(found.issued)} documents of {month:%Y-%m} are issued, {len(found.waiting)} wait")
    context.add_output_metadata({"issued": len(found.issued), "waiting": len(found.waiting)})


@dg.job(
    tags=AUTOMATION,
    description="Issues the documents of a month. Numbers are taken; nothing can be undone but by voiding.",
)
def finalise_invoices() -> None:
    issue_documents()


def last_month(now: datetime) -> date:
    """The newest month that is over, with its grace time, everywhere: its first day."""
    over = (now - GRACE).date()
    return date(over.year - (over.month == 1), (over.month - 2) % 12 + 1, 1)


@dg.schedule(cron_schedule="30 6 * * *", job=finalise_invoices, default_status=dg.DefaultScheduleStatus.STOPPED)
def finalise_monthly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Issues documents a day after their grace time, and each day those that waited. Off until a person starts it."""
    month = last_month(context.scheduled_execution_time - timedelta(days=1))
    return dg.RunRequest(run_config={"ops": {"issue_documents": {"config": {"period": f"{month:%Y-%m}"}}}})
