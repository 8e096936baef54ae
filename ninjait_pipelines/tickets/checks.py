"""Checks of the service desk's assets, by day: nothing is lost on the way from PostgreSQL to the figures."""

from datetime import datetime
from typing import Any

import dagster as dg

from ninjait_pipelines import partitions
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.tickets.assets import technician_performance, ticket_events, ticket_facts

BLOCKING: dict[str, Any] = {"blocking": True, "partitions_def": partitions.DAILY}


@dg.asset_check(
    asset=ticket_events, **BLOCKING, description="The day has as many events in ClickHouse as in PostgreSQL."
)
def every_event_copied(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Counts the day's history on both sides."""

    def examine(start: datetime, end: datetime) -> dg.AssetCheckResult:
        copied = clickhouse.scalar(
            "SELECT count() FROM ticket_events WHERE occurred_at >= {start:DateTime64(3, 'UTC')} "
            "AND occurred_at < {end:DateTime64(3, 'UTC')}",
            start=start,
            end=end,
        )
        return _equal("events in PostgreSQL", _history(postgres, "count(*)", start, end), "in ClickHouse", copied)

    return partitions.check_each(context, examine)


@dg.asset_check(
    asset=ticket_facts, **BLOCKING, description="Every ticket to which something happened on the day has a fact."
)
def every_ticket_has_a_fact(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Counts the day's tickets in the history and in the facts."""

    def examine(start: datetime, end: datetime) -> dg.AssetCheckResult:
        facts = clickhouse.scalar("SELECT count() FROM ticket_facts WHERE day = {day:Date}", day=start.date())
        tickets = _history(postgres, "count(DISTINCT ticket_id)", start, end)
        return _equal("tickets in the history", tickets, "facts", facts)

    return partitions.check_each(context, examine)


@dg.asset_check(
    asset=technician_performance,
    **BLOCKING,
    description="The closings of the day that somebody had are all in somebody's figures, once.",
)
def every_closing_counted_once(context: dg.AssetCheckExecutionContext, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Adds up tickets_closed, and counts the facts that they were made of."""

    def examine(start: datetime, end: datetime) -> dg.AssetCheckResult:
        day = start.date()
        counted = clickhouse.scalar(
            "SELECT sum(tickets_closed) FROM technician_performance WHERE day = {day:Date}", day=day
        )
        closed = clickhouse.scalar(
            "SELECT count() FROM ticket_facts WHERE day = {day:Date} AND closed_at >= {start:DateTime64(3, 'UTC')} "
            "AND closed_assignee_id IS NOT NULL",
            day=day,
            start=start,
        )
        return _equal("closings", closed, "counted for technicians", counted)

    return partitions.check_each(context, examine)


def _history(postgres: Postgres, what: str, start: datetime, end: datetime) -> int:
    query = f"SELECT {what} AS n FROM ticket_history WHERE occurred_at >= %(start)s AND occurred_at < %(end)s"  # noqa: S608
    return postgres.rows(query, {"start": start, "end": end})[0]["n"]


def _equal(name: str, expected: int, other_name: str, found: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=expected == found,
        description=f"{expected} {name}, {found} {other_name}.",
        metadata={name.replace(" ", "_"): expected, other_name.replace(" ", "_"): found},
    )
