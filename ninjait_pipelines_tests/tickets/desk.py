"""A service desk: tickets with histories, the day of them, and the assets that are computed from them."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ninjait_pipelines.resources import Stores
from ninjait_pipelines.tickets import assets
from ninjait_pipelines_tests.runs import add

ALL = (assets.ticket_events, assets.ticket_facts, assets.technician_performance)


CHECKS = (assets.every_event_copied, assets.every_ticket_has_a_fact, assets.every_closing_counted_once)


DAY = datetime.combine(datetime.now(UTC).date() - timedelta(days=3), datetime.min.time(), UTC)


KEY = DAY.date().isoformat()


NEXT = (DAY.date() + timedelta(days=1)).isoformat()


ORGANIZATION, ASKER, ANA, BEN = (uuid.UUID(int=number) for number in (1, 2, 3, 4))


class Desk:
    """A service desk to write tickets into; `minutes` are after the beginning of DAY."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        since = DAY - timedelta(days=90)
        one = {"id": ORGANIZATION, "name": "One", "slug": "one", "time_zone": "UTC", "created_at": since}
        add(stores, "organizations", [one])
        user = {"organization_id": ORGANIZATION, "role": "technician", "created_at": since}
        people = {ASKER: "asker", ANA: "ana", BEN: "ben"}
        add(stores, "users", [{**user, "id": id_, "email": name, "full_name": name} for id_, name in people.items()])
        promise = {"organization_id": ORGANIZATION, "first_response_minutes": 60, "resolution_minutes": 240}
        add(stores, "sla_targets", [{**promise, "priority": "normal"}])
        self.number = 0

    def ticket(
        self, created: float, *events: tuple[float, str, Any, Any], assignee: uuid.UUID | None = ANA
    ) -> uuid.UUID:
        self.number += 1
        ticket = {"id": uuid.uuid4(), "organization_id": ORGANIZATION, "number": self.number, "created_by": ASKER}
        state = {"assigned_to": assignee, "title": "?", "priority": "normal", "status": "open"}
        add(self.stores, "tickets", [{**ticket, **state, "created_at": DAY + timedelta(minutes=created)}])
        self.happens(ticket["id"], (created, "created", None, None), *events)
        return ticket["id"]

    def happens(self, ticket_id: uuid.UUID, *events: tuple[float, str, Any, Any]) -> None:
        common = {"organization_id": ORGANIZATION, "ticket_id": ticket_id, "actor_id": ANA}
        rows = [
            {
                **common,
                "id": uuid.uuid4(),
                "event": event,
                "old_value": old and str(old),
                "new_value": new and str(new),
                "occurred_at": DAY + timedelta(minutes=minutes),
            }
            for minutes, event, old, new in events
        ]
        add(self.stores, "ticket_history", rows)


@pytest.fixture
def desk(shared_stores: Stores) -> Desk:
    """Ana closes four (after 1, 2, 4 and 9 hours), Ben one; one is nobody's, one open, one closed the day before."""
    desk = Desk(shared_stores)
    for hours in (1, 2, 4, 9):
        desk.ticket(30, (45, "responded", None, None), (30 + 60 * hours, "status_changed", "open", "closed"))
    desk.ticket(0, (5, "assigned", ANA, BEN), (90, "status_changed", "open", "closed"), assignee=BEN)
    desk.ticket(0, (90, "status_changed", "open", "closed"), assignee=None)
    desk.ticket(100)
    desk.ticket(-60, (-30, "status_changed", "open", "closed"), (30, "commented", None, None))
    return desk
