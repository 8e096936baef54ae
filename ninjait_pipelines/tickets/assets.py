"""The service desk's assets, by UTC day: events, tickets at the day's end, technicians' figures."""

import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import dagster as dg

from ninjait_pipelines import partitions
from ninjait_pipelines.late_days import record_day
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse, column_schema, convertible, mart_rows, sql
from ninjait_pipelines.resources.postgres import Postgres, check_times
from ninjait_pipelines.tickets.facts import Event, Fact, Target, Ticket, fact

COMMON: dict[str, Any] = {
    "group_name": "tickets",
    "owners": ["team:data-engineering"],
    "partitions_def": partitions.DAILY,
    "backfill_policy": dg.BackfillPolicy.multi_run(max_partitions_per_run=168),
}
CATCH_UP = partitions.catch_up(timedelta(days=14))


@dg.asset(
    **COMMON,
    kinds={"postgres", "clickhouse"},
    description="What happened to tickets, as PostgreSQL's ticket_history has it. Grain: one event.",
    metadata={"dagster/column_schema": column_schema("ticket_events")},
    automation_condition=CATCH_UP,
)
def ticket_events(context: dg.AssetExecutionContext, postgres: Postgres, clickhouse: ClickHouse) -> None:
    """Copies the history of the day."""
    for key, start, end in partitions.windows(context):
        started = time.perf_counter()
        as_of = clickhouse.now()
        left_out = LeftOut()
        events = postgres.rows(sql("tickets/events"), {"start": start, "end": end})
        rows = mart_rows("ticket_events", convertible("ticket_events", events, left_out))
        # Dying here, or in it: replace_slice says what is seen; a rerun of the day heals it. As in all assets below.
        count = clickhouse.replace_slice("ticket_events", rows, as_of, [start.date()])
        record_day(clickhouse, "ticket_events", start.date(), as_of)
        _record(context, key, count, started, left_out)


@dg.asset(
    **COMMON,
    kinds={"postgres", "clickhouse", "python"},
    description=(
        "Tickets to which something happened on the day, as they stood at its end: state, first response, closing and "
        "breaches by wall clock. Computed from the history up to then, whenever it is computed. Grain: ticket and day."
    ),
    metadata={"dagster/column_schema": column_schema("ticket_facts")},
    automation_condition=CATCH_UP,
)
def ticket_facts(context: dg.AssetExecutionContext, postgres: Postgres, clickhouse: ClickHouse) -> None:
    """Reads the histories of the day's tickets and writes the facts; the rules are in facts.py."""
    for key, start, end in partitions.windows(context):
        started = time.perf_counter()
        as_of = clickhouse.now()
        day = start.date()
        left_out = LeftOut()
        facts = ({"day": day, **one._asdict()} for one in facts_of_day(postgres, start, end, left_out))
        rows = mart_rows("ticket_facts", convertible("ticket_facts", facts, left_out))
        count = clickhouse.replace_slice("ticket_facts", rows, as_of, [day])
        record_day(clickhouse, "ticket_facts", day, as_of)
        _record(context, key, count, started, left_out)


@dg.asset(
    **COMMON,
    kinds={"clickhouse"},
    deps=[ticket_facts],
    description=(
        "Closed tickets by the technician who had them: count, hours to close, first response, breaches. "
        "Tickets that nobody had when they were closed are in nobody's figures. Grain: technician and day."
    ),
    metadata={"dagster/column_schema": column_schema("technician_performance")},
    automation_condition=CATCH_UP | partitions.FOLLOW,
)
def technician_performance(context: dg.AssetExecutionContext, clickhouse: ClickHouse) -> None:
    """Condenses the day's ticket_facts, in ClickHouse."""
    for key, start, _ in partitions.windows(context):
        started = time.perf_counter()
        as_of = clickhouse.now()
        day = start.date()
        rows = ({"day": day, **row} for row in clickhouse.rows(sql("tickets/performance"), day=day))
        count = clickhouse.replace_slice(
            "technician_performance", mart_rows("technician_performance", rows), as_of, [day]
        )
        _record(context, key, count, started)


def facts_of_day(postgres: Postgres, start: datetime, end: datetime, left_out: LeftOut | None = None) -> Iterator[Fact]:
    """The facts at `end` of every ticket with an event in [start, end)."""
    targets: defaultdict[UUID, dict[str, Target]] = defaultdict(dict)
    for row in postgres.rows(sql("tickets/targets")):
        targets[row["organization_id"]][row["priority"]] = Target(
            row["first_response_minutes"], row["resolution_minutes"]
        )
    rows = postgres.rows(sql("tickets/histories"), {"start": start, "end": end})

    def compute(events: list[dict[str, Any]]) -> Fact:
        for event in events:
            check_times(event)
        ticket = Ticket(*(events[0][name] for name in Ticket._fields))
        history = [Event(*(event[name] for name in Event._fields)) for event in events]
        return fact(ticket, history, end, targets[ticket.organization_id])

    histories = (list(history) for _, history in itertools.groupby(rows, key=lambda row: row["id"]))
    return (left_out or LeftOut()).each(histories, lambda events: f"ticket {events[0]['id']}", compute)


def _record(
    context: dg.AssetExecutionContext, key: str, count: int, started: float, left_out: LeftOut | None = None
) -> None:
    metadata = {"dagster/partition_row_count": count, "duration_seconds": time.perf_counter() - started}
    context.add_asset_metadata(metadata | (left_out or LeftOut()).metadata(), partition_key=key)
