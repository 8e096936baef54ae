"""Checks of the service desk's assets, by day: nothing is lost on the way from PostgreSQL to the figures."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import dagster as dg

from ninjait_pipelines import partitions
from ninjait_pipelines.late_days import is_late
from ninjait_pipelines.left_out import latest, nothing_is_left_out
from ninjait_pipelines.resources.clickhouse import ClickHouse
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.tickets.assets import technician_performance, ticket_events, ticket_facts

ticket_events_left_nothing_out = nothing_is_left_out(ticket_events)
ticket_facts_left_nothing_out = nothing_is_left_out(ticket_facts)
BLOCKING: dict[str, Any] = {"blocking": True, "partitions_def": partitions.DAILY}


@dg.asset_check(
    asset=ticket_events, **BLOCKING, description="The day has as many events in ClickHouse as in PostgreSQL."
)
def every_event_copied(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Counts the day's history on both sides."""
    return partitions.check_each(context, partial(_events_copied, context, postgres, clickhouse))


@dg.asset_check(
    asset=ticket_events,
    partitions_def=partitions.DAILY,
    description="The same of past days, each morning: history that was committed later is late, and no loss.",
)
def past_history_is_copied(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """As `every_event_copied`. It blocks nothing: a store that is away at night must not hold up five weeks."""
    examine = partial(_events_copied, context, postgres, clickhouse)
    return partitions.check_each(context, partial(_unless_late, clickhouse, "ticket_events", examine))


def _events_copied(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse, start: datetime, end: datetime
) -> dg.AssetCheckResult:
    copied = clickhouse.scalar(
        "SELECT count() FROM ticket_events WHERE occurred_at >= {start:DateTime64(3, 'UTC')} "
        "AND occurred_at < {end:DateTime64(3, 'UTC')}",
        start=start,
        end=end,
    )
    copied += _left_out(context, ticket_events, start)
    return _equal("events in PostgreSQL", _history(postgres, "count(*)", start, end), "in ClickHouse", copied)


@dg.asset_check(
    asset=ticket_facts, **BLOCKING, description="Every ticket to which something happened on the day has a fact."
)
def every_ticket_has_a_fact(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """Counts the day's tickets in the history and in the facts."""
    return partitions.check_each(context, partial(_tickets_have_facts, context, postgres, clickhouse))


@dg.asset_check(
    asset=ticket_facts,
    partitions_def=partitions.DAILY,
    description="The same of past days, each morning: history that was committed later is late, and no loss.",
)
def past_tickets_have_facts(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse
) -> dg.AssetCheckResult:
    """As `every_ticket_has_a_fact`, and it blocks nothing."""
    examine = partial(_tickets_have_facts, context, postgres, clickhouse)
    return partitions.check_each(context, partial(_unless_late, clickhouse, "ticket_facts", examine))


def _tickets_have_facts(
    context: dg.AssetCheckExecutionContext, postgres: Postgres, clickhouse: ClickHouse, start: datetime, end: datetime
) -> dg.AssetCheckResult:
    facts = clickhouse.scalar("SELECT count() FROM ticket_facts WHERE day = {day:Date}", day=start.date())
    facts += _left_out(context, ticket_facts, start)
    tickets = _history(postgres, "count(DISTINCT ticket_id)", start, end)
    return _equal("tickets in the history", tickets, "facts", facts)


def _unless_late(
    clickhouse: ClickHouse,
    asset: str,
    examine: Callable[[datetime, datetime], dg.AssetCheckResult],
    start: datetime,
    end: datetime,
) -> dg.AssetCheckResult:
    """A day that repairs itself has lost nothing."""
    result = examine(start, end)
    if result.passed or not is_late(clickhouse, asset, start.date()):
        return result
    words = f"{result.description} The rest came later; it repairs itself."
    return dg.AssetCheckResult(passed=True, description=words, metadata=result.metadata)


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


def _left_out(context: dg.AssetCheckExecutionContext, asset: dg.AssetsDefinition, start: datetime) -> int:
    """What the day's last run left out: another check names it, and what is right goes on."""
    return latest(context.instance, asset.key, partitions.DAILY.get_partition_key_for_timestamp(start.timestamp()))[0]


def _history(postgres: Postgres, what: str, start: datetime, end: datetime) -> int:
    query = f"SELECT {what} AS n FROM ticket_history WHERE occurred_at >= %(start)s AND occurred_at < %(end)s"  # noqa: S608
    return postgres.rows(query, {"start": start, "end": end})[0]["n"]


def _equal(name: str, expected: int, other_name: str, found: int) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=expected == found,
        description=f"{expected} {name}, {found} {other_name}.",
        metadata={name.replace(" ", "_"): expected, other_name.replace(" ", "_"): found},
    )
