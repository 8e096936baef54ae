"""Days of the service desk that history was committed for after they were computed are computed again."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import dagster as dg

from ninjait_pipelines.automation import AUTOMATION
from ninjait_pipelines.late_days import COMPARED, DAY, late_days_sensor, midnight, note_events, past_days_schedule
from ninjait_pipelines.partitions import START
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres
from ninjait_pipelines.tickets.assets import (
    past_history_is_copied,
    past_tickets_have_facts,
    technician_performance,
    ticket_events,
    ticket_facts,
)

compute_late_ticket_days = dg.define_asset_job(
    "compute_late_ticket_days",
    selection=dg.AssetSelection.assets(ticket_events, ticket_facts, technician_performance),
    tags=AUTOMATION,
    description="Computes days of the service desk again that history came for after they were computed.",
)
check_past_ticket_days = dg.define_asset_job(
    "check_past_ticket_days",
    selection=dg.AssetSelection.checks(past_history_is_copied, past_tickets_have_facts),
    tags=AUTOMATION,
    description="Compares PostgreSQL's history with the service desk's marts, day by day.",
)


def note_late_history(postgres: Postgres, clickhouse: ClickHouse, since: date, run_id: str) -> list[date]:
    """Notes the days that committed history is missing from, or that history was removed from; returns them.

    PostgreSQL's history has no watermark: a transaction that began yesterday may commit today, with yesterday's times.
    So the two sides are compared, day by day, by number and a sum of the ids; only what differs is read.
    """
    computed = clickhouse.rows("SELECT day FROM computed_days FINAL WHERE asset = 'ticket_events'")
    source = _sums(postgres.rows(sql("tickets/history_sums"), {"since": midnight(since)}))
    copy = _sums(clickhouse.rows(sql("tickets/events_sums"), since=since))
    days = sorted(
        {row["day"] for row in computed if row["day"] >= since and source.get(row["day"]) != copy.get(row["day"])}
    )
    if days:
        until = max(row["day"] for row in computed) + DAY
        note_events(clickhouse, "ticket_history", list(_affected(postgres, clickhouse, days, until)), run_id)
    return days


def _sums(rows: Sequence[Mapping[str, Any]]) -> dict[date, tuple[int, int]]:
    return {row["day"]: (int(row["events"]), int(row["sum"])) for row in rows}


def _affected(
    postgres: Postgres, clickhouse: ClickHouse, days: Sequence[date], until: date
) -> set[tuple[str, datetime]]:
    """The organizations and days of what differs, and the later days before `until` on which something happened to
    these tickets: how a ticket stood at their ends has changed, too."""
    found: set[tuple[str, datetime]] = set()
    for day in days:
        window = {"start": midnight(day), "end": midnight(day + DAY)}
        query = "SELECT event_id, organization_id, ticket_id FROM ticket_events WHERE toDate(timestamp) = {day:Date}"
        copied = {row["event_id"]: row for row in clickhouse.rows(query, day=day)}
        committed = {row["event_id"]: row for row in postgres.rows(sql("tickets/events"), window)}
        differing = [(committed | copied)[id_] for id_ in committed.keys() ^ copied.keys()]
        found |= {(str(row["organization_id"]), midnight(day)) for row in differing}
        tickets = list({row["ticket_id"] for row in differing})
        after = {"tickets": tickets, "end": window["end"], "until": midnight(until)}
        later = postgres.rows(sql("tickets/later_days"), after)
        found |= {(str(row["organization_id"]), midnight(row["day"])) for row in later}
    return found


def _find(context: dg.SensorEvaluationContext, clickhouse: ClickHouse, resources: Any) -> None:
    """The last five weeks at each tick; once a day everything."""
    today = clickhouse.now().date()
    everything = context.cursor != today.isoformat()
    since = START.date() if everything else today - COMPARED
    note_late_history(resources.postgres, clickhouse, since, "late_ticket_days")
    context.update_cursor(today.isoformat())


late_ticket_days = late_days_sensor(
    "late_ticket_days",
    ["ticket_events", "ticket_facts"],
    compute_late_ticket_days,
    _find,
    frozenset({"clickhouse", "postgres"}),
)
past_ticket_days = past_days_schedule("past_ticket_days", check_past_ticket_days, "40 4 * * *")
