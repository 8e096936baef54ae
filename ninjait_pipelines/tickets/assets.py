"""The service desk's marts by UTC day, each with its checks: events, tickets at day's end, technicians' figures."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import dagster as dg

from ninjait_pipelines import automation, partitions
from ninjait_pipelines.left_out import LeftOut, nothing_is_left_out
from ninjait_pipelines.marts import Rows, Window, check, equal, mart
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres, check_times
from ninjait_pipelines.tickets.facts import Event, Fact, Target, Ticket, fact, publish

T = TypeVar("T")

DAILY: dict[str, Any] = {"group_name": "tickets", "partitions_def": partitions.DAILY}
CATCH_UP = automation.fill_missing()


@mart(**DAILY, kinds={"postgres", "python"}, automation_condition=CATCH_UP, notices_late_days=True)
def ticket_events(window: Window, postgres: Postgres) -> Rows:
    """What happened to tickets, as PostgreSQL's ticket_history has it, with what the platform publishes of it: how long
    it took, whether a promise was broken, and whose it was. Grain: one event."""
    return events_of_day(postgres, window.start, window.end)


ticket_events_left_nothing_out = nothing_is_left_out(ticket_events)


@check(ticket_events, blocking=True)
def every_event_copied(
    window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: int
) -> dg.AssetCheckResult:
    """The day has as many events in ClickHouse as in PostgreSQL."""
    return _events_copied(window, postgres, clickhouse, left_out)


@check(ticket_events, unless_late=True)
def past_history_is_copied(
    window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: int
) -> dg.AssetCheckResult:
    """The same of past days, each morning: history that was committed later is late, and no loss. It blocks nothing: a
    store that is away at night must not hold up five weeks."""
    return _events_copied(window, postgres, clickhouse, left_out)


def _events_copied(window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: int) -> dg.AssetCheckResult:
    query = (
        "SELECT count() FROM ticket_events WHERE timestamp >= {start:DateTime64(3, 'UTC')} "
        "AND timestamp < {end:DateTime64(3, 'UTC')}"
    )
    copied = clickhouse.scalar(query, **window._asdict()) + left_out
    return equal("events in PostgreSQL", _history(postgres, "count(*)", window), "in ClickHouse", copied)


@mart(**DAILY, kinds={"postgres", "python"}, automation_condition=CATCH_UP, notices_late_days=True)
def ticket_facts(window: Window, postgres: Postgres, left_out: LeftOut) -> Rows:
    """Tickets to which something happened on the day, as they stood at its end: state, first response, closing and
    breaches by wall clock. Computed from the history up to then, whenever it is computed. Grain: ticket and day."""
    return (
        {"day": window.day, **fact._asdict()} for fact in facts_of_day(postgres, window.start, window.end, left_out)
    )


def facts_of_day(postgres: Postgres, start: datetime, end: datetime, left_out: LeftOut | None = None) -> Iterator[Fact]:
    """The facts at `end` of every ticket with an event in [start, end)."""
    return _of_tickets(postgres, start, end, left_out or LeftOut(), lambda ticket, history, found: found)


def events_of_day(postgres: Postgres, start: datetime, end: datetime) -> list[dict[str, Any]]:
    """The events of [start, end), as the mart has them.

    Those of a ticket without a fact are there as well: what went wrong with the fact is ticket_facts' to say.
    """
    events = postgres.rows(sql("tickets/events"), {"start": start, "end": end})

    def publish_all(ticket: Ticket, history: list[Event], found: Fact) -> dict[UUID, dict[str, Any]]:
        return {event.event_id: publish(event, ticket, history, found)._asdict() for event in history}

    published: dict[UUID, dict[str, Any]] = {}
    for of_ticket in _of_tickets(postgres, start, end, LeftOut(), publish_all):
        published |= of_ticket
    unknown = {"duration_seconds": 0, "sla_breached": 0, "technician_id": None}
    return [{**event, **unknown, **published.get(event["event_id"], {})} for event in events]


def _of_tickets(
    postgres: Postgres,
    start: datetime,
    end: datetime,
    left_out: LeftOut,
    make: Callable[[Ticket, list[Event], Fact], T],
) -> Iterator[T]:
    """What `make` makes of each ticket with an event in [start, end), its whole history, and its fact at `end`."""
    targets: defaultdict[UUID, dict[str, Target]] = defaultdict(dict)
    for row in postgres.rows(sql("tickets/targets")):
        targets[row["organization_id"]][row["priority"]] = Target(
            row["first_response_minutes"], row["resolution_minutes"]
        )
    rows = postgres.rows(sql("tickets/histories"), {"start": start, "end": end})

    def compute(events: list[dict[str, Any]]) -> T:
        for event in events:
            check_times(event)
        ticket = Ticket(*(events[0][name] for name in Ticket._fields))
        history = [Event(*(event[name] for name in Event._fields)) for event in events]
        return make(ticket, history, fact(ticket, history, end, targets[ticket.organization_id]))

    histories = (list(history) for _, history in itertools.groupby(rows, key=lambda row: row["id"]))
    return left_out.each(histories, lambda events: f"ticket {events[0]['id']}", compute)


ticket_facts_left_nothing_out = nothing_is_left_out(ticket_facts)


@check(ticket_facts, blocking=True)
def every_ticket_has_a_fact(
    window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: int
) -> dg.AssetCheckResult:
    """Every ticket to which something happened on the day has a fact."""
    return _tickets_have_facts(window, postgres, clickhouse, left_out)


@check(ticket_facts, unless_late=True)
def past_tickets_have_facts(
    window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: int
) -> dg.AssetCheckResult:
    """The same of past days, each morning: history that was committed later is late, and no loss. It blocks nothing."""
    return _tickets_have_facts(window, postgres, clickhouse, left_out)


def _tickets_have_facts(
    window: Window, postgres: Postgres, clickhouse: ClickHouse, left_out: int
) -> dg.AssetCheckResult:
    facts = clickhouse.scalar("SELECT count() FROM ticket_facts WHERE day = {day:Date}", day=window.day) + left_out
    return equal("tickets in the history", _history(postgres, "count(DISTINCT ticket_id)", window), "facts", facts)


@mart(**DAILY, kinds=set(), deps=[ticket_facts], automation_condition=CATCH_UP | automation.FOLLOW_UPSTREAM)
def technician_performance(window: Window, clickhouse: ClickHouse) -> Rows:
    """Closed tickets by the technician who had them: count, hours to close, first response, breaches. Tickets that
    had no technician when they were closed count for none. Grain: technician and day."""
    return ({"day": window.day, **row} for row in clickhouse.rows(sql("tickets/performance"), day=window.day))


technician_performance_left_nothing_out = nothing_is_left_out(technician_performance)


@check(technician_performance, blocking=True)
def every_closing_counted_once(window: Window, clickhouse: ClickHouse) -> dg.AssetCheckResult:
    """Each closing of the day with a technician is in exactly one technician's figures."""
    counted = clickhouse.scalar(
        "SELECT sum(tickets_closed) FROM technician_performance WHERE day = {day:Date}", day=window.day
    )
    closed = clickhouse.scalar(
        "SELECT count() FROM ticket_facts WHERE day = {day:Date} AND closed_at >= {start:DateTime64(3, 'UTC')} "
        "AND closed_assignee_id IS NOT NULL",
        day=window.day,
        start=window.start,
    )
    return equal("closings", closed, "counted for technicians", counted)


all_assets = [ticket_events, ticket_facts, technician_performance]
all_checks = [
    ticket_events_left_nothing_out,
    every_event_copied,
    past_history_is_copied,
    ticket_facts_left_nothing_out,
    every_ticket_has_a_fact,
    past_tickets_have_facts,
    technician_performance_left_nothing_out,
    every_closing_counted_once,
]


def _history(postgres: Postgres, what: str, window: Window) -> int:
    query = f"SELECT {what} AS n FROM ticket_history WHERE occurred_at >= %(start)s AND occurred_at < %(end)s"  # noqa: S608
    return postgres.rows(query, window._asdict())[0]["n"]
