"""The rules of ticket facts, as a table of cases. Times are minutes after Saturday 31 January 2026, 00:00 UTC."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from ninjait_pipelines.tickets.facts import Event, Fact, Published, Target, Ticket, fact, publish

DAY = datetime(2026, 1, 31, tzinfo=UTC)
END = DAY + timedelta(days=1)
HOUR = 60
ANA, BEN, ASKER = (uuid.UUID(int=number) for number in (1, 2, 3))
TARGETS = {"normal": Target(60, 240), "urgent": Target(15, 60)}


def at(minutes: float) -> datetime:
    return DAY + timedelta(minutes=minutes)


def event(minutes: float, kind: str, old: str | None = None, new: str | None = None, actor: uuid.UUID = ANA) -> Event:
    return Event(actor, kind, old, new, at(minutes))


def status(minutes: float, old: str, new: str) -> Event:
    return event(minutes, "status_changed", old, new)


def assigned(minutes: float, old: uuid.UUID | None, new: uuid.UUID | None) -> Event:
    return event(minutes, "assigned", old and str(old), new and str(new))


def of(
    *history: Event,
    created: float = 0,
    end: datetime = END,
    status: str = "closed",
    priority: str = "normal",
    assignee: uuid.UUID | None = None,
) -> Fact:
    """The fact of a ticket that NOW has this status, priority and assignee."""
    ticket = Ticket(uuid.UUID(int=8), uuid.UUID(int=9), 7, ASKER, at(created), status, priority, assignee)
    return fact(ticket, history, end, TARGETS)


def test_a_ticket_to_which_nothing_happened_is_what_it_is_now() -> None:
    new = of(event(0, "created"), status="new", assignee=ANA)
    assert (new.status, new.priority, new.assignee_id, new.closed_at, new.hours_to_close) == (
        "new",
        "normal",
        ANA,
        None,
        None,
    )


def test_what_changed_after_the_day_is_taken_back() -> None:
    """A day computed a year later showed the priority and assignee of a year later."""
    later = (
        status(1500, "open", "closed"),
        status(1600, "closed", "open"),
        event(1500, "priority_changed", "low", "urgent"),
        assigned(1500, None, ANA),
        assigned(1600, ANA, BEN),
    )
    then = of(event(0, "created"), *later, status="open", priority="urgent", assignee=BEN)
    assert (then.status, then.priority, then.assignee_id) == ("open", "low", None)


def test_the_last_change_of_the_day_counts_not_the_first_of_the_next() -> None:
    history = (status(10, "new", "open"), status(20, "open", "pending"), status(1440, "pending", "resolved"))
    assert of(*history).status == "pending"


def test_an_event_at_midnight_belongs_to_the_next_day() -> None:
    assert of(status(0, "new", "open"), status(1440, "open", "closed")).closed_at is None
    assert of(status(0, "new", "open"), status(1439.999, "open", "closed")).closed_at == at(1439.999)


CLOSINGS = {
    "never": ([status(5, "new", "open")], None),
    "resolved is not closed": ([status(5, "open", "resolved")], None),
    "closed": ([status(60, "open", "closed")], 60),
    "reopened": ([status(60, "open", "closed"), status(90, "closed", "open")], None),
    "reopened and resolved": ([status(60, "open", "closed"), status(90, "closed", "resolved")], None),
    "closed twice in a day": (
        [status(60, "open", "closed"), status(90, "closed", "open"), status(120, "open", "closed")],
        120,
    ),
    "closing a closed ticket is none": ([status(60, "open", "closed"), status(90, "closed", "closed")], 60),
    "reopened the next day": ([status(60, "open", "closed"), status(1500, "closed", "open")], 60),
    "closed the day before, commented today": ([status(-90, "open", "closed"), event(5, "commented")], -90),
}


@pytest.mark.parametrize(("history", "minutes"), CLOSINGS.values(), ids=CLOSINGS.keys())
def test_closed_at(history: list[Event], minutes: float | None) -> None:
    result = of(*history, created=-120)
    assert result.closed_at == (None if minutes is None else at(minutes))
    assert result.hours_to_close == (None if minutes is None else (minutes + 120) / 60)


def test_the_month_end_and_a_weekend_do_not_stop_the_wall_clock() -> None:
    friday_evening = -6 * HOUR
    monday = DAY + timedelta(days=3)
    result = of(status(2 * 24 * HOUR + 9 * HOUR, "open", "closed"), created=friday_evening, end=monday)
    assert result.hours_to_close == 6 + 48 + 9
    assert result.resolution_breached


RESPONSES = {
    "none": ([event(5, "commented")], None),
    "the requester's own is none": ([event(5, "responded", actor=ASKER)], None),
    "the first of two": ([event(5, "responded"), event(9, "responded", actor=BEN)], 5),
    "after midnight": ([event(5, "commented"), event(1450, "responded")], None),
}


@pytest.mark.parametrize(("history", "minutes"), RESPONSES.values(), ids=RESPONSES.keys())
def test_first_response(history: list[Event], minutes: float | None) -> None:
    result = of(*history)
    assert result.first_responded_at == (None if minutes is None else at(minutes))
    assert result.first_response_minutes == minutes


BREACHES = {  # history, created, (first response, resolution)
    "in time": ([event(60, "responded"), status(240, "open", "closed")], 0, (False, False)),
    "late by a second": ([event(60 + 1 / 60, "responded"), status(240 + 1 / 60, "open", "closed")], 0, (True, True)),
    "waiting, still in time": ([event(1400, "created")], 1400, (False, False)),
    "waiting, too late": ([event(0, "created")], 0, (True, True)),
    "response after midnight, target before": ([event(1370, "created"), event(1445, "responded")], 1370, (True, False)),
    "response after midnight, target too": ([event(1400, "created"), event(1445, "responded")], 1400, (False, False)),
    "closed without a word, in time": ([status(30, "open", "closed")], 0, (False, False)),
    "closed without a word, late": ([status(70, "open", "closed")], 0, (True, False)),
    "reopened": ([event(5, "responded"), status(9, "open", "closed"), status(10, "closed", "open")], 0, (False, True)),
}


@pytest.mark.parametrize(("history", "created", "breached"), BREACHES.values(), ids=BREACHES.keys())
def test_breaches_by_wall_clock(history: list[Event], created: float, breached: tuple[bool, bool]) -> None:
    result = of(*history, created=created)
    assert (result.first_response_breached, result.resolution_breached) == breached


def test_no_target_no_breach() -> None:
    result = of(event(0, "created"), priority="low")
    assert (result.first_response_target_minutes, result.resolution_target_minutes) == (None, None)
    assert not result.first_response_breached
    assert not result.resolution_breached


def test_the_target_is_that_of_the_priority_at_the_end_of_the_day() -> None:
    result = of(event(5, "priority_changed", "normal", "urgent"), event(30, "responded"), priority="urgent")
    assert result.first_response_target_minutes == 15
    assert result.first_response_breached


def test_the_closing_belongs_to_who_had_the_ticket_then() -> None:
    """Tickets handed over after their closing were counted for a technician who never saw them."""
    handed_over = of(assigned(5, None, ANA), status(60, "open", "closed"), assigned(61, ANA, BEN), assignee=BEN)
    assert (handed_over.closed_assignee_id, handed_over.assignee_id) == (ANA, BEN)
    taken_by_closing = of(assigned(5, None, ANA), status(60, "open", "closed"), assigned(60, ANA, BEN), assignee=BEN)
    assert taken_by_closing.closed_assignee_id == BEN
    nobodys = of(assigned(5, None, ANA), assigned(6, ANA, None), status(60, "open", "closed"))
    assert (nobodys.closed_assignee_id, nobodys.assignee_id) == (None, None)
    assert of(assigned(5, None, ANA), status(6, "new", "open"), assignee=ANA).closed_assignee_id is None


def published(*history: Event, created: float = 0, assignee: uuid.UUID | None = None) -> list[Published]:
    """What is published of each event of a day."""
    ticket = Ticket(uuid.UUID(int=8), uuid.UUID(int=9), 7, ASKER, at(created), "closed", "normal", assignee)
    return [publish(one, ticket, history, fact(ticket, history, END, TARGETS)) for one in history]


def test_a_closing_is_one_event_of_whoever_had_the_ticket_then() -> None:
    """Closed again it is no second one, and who gets the ticket afterwards did not close it."""
    history = (
        event(0, "created"),
        assigned(5, None, ANA),
        event(20, "responded"),
        status(100.5, "open", "closed"),
        status(101, "closed", "closed"),
        assigned(102, ANA, BEN),
    )
    assert published(*history) == [
        Published("created", 0, 0, None),
        Published("assigned", 300, 0, ANA),
        Published("responded", 1200, 0, ANA),
        Published("closed", 6030, 0, ANA),
        Published("status_changed", 6060, 0, ANA),
        Published("assigned", 6120, 0, BEN),
    ]


def test_two_closings_at_one_instant_are_one() -> None:
    twice = published(event(0, "created"), status(30, "open", "closed"), status(30, "open", "closed"))
    assert [one.event_type for one in twice] == ["created", "closed", "status_changed"]


def test_closed_and_opened_again_on_the_same_day_it_was_not_closed() -> None:
    history = (event(0, "created"), status(30, "open", "closed"), status(60, "closed", "open"))
    assert [one.event_type for one in published(*history)] == ["created", "status_changed", "status_changed"]
    closed = published(*history, status(90, "open", "closed"))
    assert [(one.event_type, one.duration_seconds) for one in closed][1:] == [
        ("status_changed", 1800),
        ("status_changed", 3600),
        ("closed", 5400),
    ]


def test_a_promise_is_broken_on_the_event_that_came_too_late() -> None:
    """Both promises, one, or by one event both; a ticket that waits has no event of it."""
    late = published(event(0, "created"), event(61, "responded"), event(62, "responded"), status(241, "open", "closed"))
    assert [one.sla_breached for one in late] == [0, 1, 0, 1]
    kept = published(event(0, "created"), event(60, "responded"), status(240, "open", "closed"))
    assert [one.sla_breached for one in kept] == [0, 0, 0]
    unanswered = published(event(0, "created"), event(30, "responded", actor=ASKER), status(61, "open", "closed"))
    assert [one.sla_breached for one in unanswered] == [0, 0, 1]
    assert [one.sla_breached for one in published(event(0, "created"), event(900, "commented"))] == [0, 0]


def test_a_duration_is_one_that_its_column_holds() -> None:
    [early] = published(event(-5, "commented"))
    [late] = published(event(60 * 24 * 365 * 300, "commented"))
    assert (early.duration_seconds, late.duration_seconds) == (0, 2**32 - 1)
