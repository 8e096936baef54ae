"""A ticket as it stood at the end of a day, from its history: pure, no store, no clock."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
LONGEST_SECONDS = 2**32 - 1  # 136 years, which the column holds


class Event(NamedTuple):
    """One row of ticket_history; `occurred_at` is UTC."""

    actor_id: UUID
    event: str
    old_value: str | None
    new_value: str | None
    occurred_at: datetime
    event_id: UUID = UUID(int=0)


class Ticket(NamedTuple):
    """A ticket as it stands now, which may be after the day that is asked for."""

    id: UUID
    organization_id: UUID
    number: int
    requester_id: UUID
    created_at: datetime
    status: str
    priority: str
    assignee_id: UUID | None


class Target(NamedTuple):
    """What is promised for a priority, in minutes of wall clock."""

    first_response_minutes: int
    resolution_minutes: int


class Fact(NamedTuple):
    """One row of the mart ticket_facts, without day and as_of; sql/clickhouse says what each column means."""

    organization_id: UUID
    ticket_id: UUID
    number: int
    assignee_id: UUID | None
    priority: str
    status: str
    created_at: datetime
    first_responded_at: datetime | None
    closed_at: datetime | None
    closed_assignee_id: UUID | None
    first_response_minutes: float | None
    hours_to_close: float | None
    first_response_target_minutes: int | None
    resolution_target_minutes: int | None
    first_response_breached: bool
    resolution_breached: bool


def fact(ticket: Ticket, history: Sequence[Event], end: datetime, targets: Mapping[str, Target]) -> Fact:
    """The ticket at `end` (exclusive).

    history: all its events in order of time, also those after `end`; targets: its organization's, by priority, as
    they are agreed now (they have no history); a priority without a target cannot be breached.
    """
    known = [event for event in history if event.occurred_at < end]
    priority = value_at(history, "priority_changed", end, ticket.priority) or ticket.priority
    responded_at = first_response(known, ticket.requester_id)
    closed_at = closing(known)
    target = targets.get(priority)
    return Fact(
        organization_id=ticket.organization_id,
        ticket_id=ticket.id,
        number=ticket.number,
        assignee_id=_assignee(ticket, history, end),
        priority=priority,
        status=value_at(history, "status_changed", end, ticket.status) or ticket.status,
        created_at=ticket.created_at,
        first_responded_at=responded_at,
        closed_at=closed_at,
        # What closes a ticket may assign it in the same instant: that assignment counts.
        closed_assignee_id=_assignee(ticket, history, closed_at + timedelta.resolution) if closed_at else None,
        first_response_minutes=(responded_at - ticket.created_at) / MINUTE if responded_at else None,
        hours_to_close=(closed_at - ticket.created_at) / HOUR if closed_at else None,
        first_response_target_minutes=target.first_response_minutes if target else None,
        resolution_target_minutes=target.resolution_minutes if target else None,
        # Closing ends the wait for a first response: no one waits for an answer any more.
        first_response_breached=bool(
            target and _late(ticket, responded_at or closed_at or end, target.first_response_minutes)
        ),
        resolution_breached=bool(target and _late(ticket, closed_at or end, target.resolution_minutes)),
    )


class Published(NamedTuple):
    """What a row of the mart ticket_events says beyond the history's; sql/clickhouse says what each column means."""

    event_type: str
    duration_seconds: int
    sla_breached: int
    technician_id: UUID | None


def publish(event: Event, ticket: Ticket, history: Sequence[Event], fact: Fact) -> Published:
    """One event of the day at whose end the ticket stood as `fact` says.

    A ticket that is closed then has one event `closed`, so that these add up to technician_performance: closed and
    reopened on the same day it has none, closed again on a later day it has one on each. A breach is on the event that
    ended the wait too late: the first response, or the closing.
    """
    closes = event is _found(history, fact.closed_at, _closes)
    responds = event is _found(history, fact.first_responded_at, lambda one: _responds(one, ticket.requester_id))
    late = closes and fact.resolution_breached
    # Without a response the closing ended that wait as well.
    late = late or (fact.first_response_breached and (responds or (closes and fact.first_responded_at is None)))
    return Published(
        event_type="closed" if closes else event.event,
        duration_seconds=min(max(0, (event.occurred_at - ticket.created_at) // SECOND), LONGEST_SECONDS),
        sla_breached=int(late),
        technician_id=_assignee(ticket, history, event.occurred_at + timedelta.resolution),
    )


def _found(history: Sequence[Event], moment: datetime | None, condition: Callable[[Event], bool]) -> Event | None:
    return next((event for event in history if event.occurred_at == moment and condition(event)), None)


def _closes(event: Event) -> bool:
    return event.event == "status_changed" and event.new_value == "closed"


def _responds(event: Event, requester_id: UUID) -> bool:
    return event.event == "responded" and event.actor_id != requester_id


def value_at(history: Sequence[Event], change: str, moment: datetime, current: str | None) -> str | None:
    """Status, priority or assignee at `moment` (exclusive); change: the event that sets it.

    The value that the last change before `moment` set; without one, the value that the first later change replaced;
    without any change at all, the current one. So it is the same whether it is asked that night or a year later.
    """
    changes = [event for event in history if event.event == change]
    before = [event for event in changes if event.occurred_at < moment]
    if before:
        return before[-1].new_value
    return changes[0].old_value if changes else current


def first_response(history: Sequence[Event], requester_id: UUID) -> datetime | None:
    """The first response by anyone but the requester: an answer to oneself does not stop the clock."""
    return next((event.occurred_at for event in history if _responds(event, requester_id)), None)


def closing(history: Sequence[Event]) -> datetime | None:
    """When a ticket that is closed at the end of `history` was closed; None if it is open. Resolved is not closed.

    A ticket closed, reopened and closed again counts from its last closing. Closing a closed ticket is ignored: it
    would move the closing to a later day and count it on both.
    """
    closed_at = None
    for event in history:
        if event.event == "status_changed":
            closed_at = (closed_at or event.occurred_at) if event.new_value == "closed" else None
    return closed_at


def _assignee(ticket: Ticket, history: Sequence[Event], moment: datetime) -> UUID | None:
    current = str(ticket.assignee_id) if ticket.assignee_id else None
    assignee = value_at(history, "assigned", moment, current)
    return UUID(assignee) if assignee else None


def _late(ticket: Ticket, moment: datetime, target_minutes: int) -> bool:
    return moment - ticket.created_at > target_minutes * MINUTE
