"""What Dagster is given of this stage: the service desk's days, and what computes late ones again."""

import dagster as dg

from ninjait_pipelines.tickets.assets import (
    every_closing_counted_once,
    every_event_copied,
    every_ticket_has_a_fact,
    past_history_is_copied,
    past_tickets_have_facts,
    technician_performance,
    technician_performance_left_nothing_out,
    ticket_events,
    ticket_events_left_nothing_out,
    ticket_facts,
    ticket_facts_left_nothing_out,
)
from ninjait_pipelines.tickets.sensors import (
    check_past_ticket_days,
    compute_late_ticket_days,
    late_ticket_days,
    past_ticket_days,
)

defs = dg.Definitions(
    assets=[ticket_events, ticket_facts, technician_performance],
    asset_checks=[
        ticket_events_left_nothing_out,
        every_event_copied,
        past_history_is_copied,
        ticket_facts_left_nothing_out,
        every_ticket_has_a_fact,
        past_tickets_have_facts,
        technician_performance_left_nothing_out,
        every_closing_counted_once,
    ],
    jobs=[compute_late_ticket_days, check_past_ticket_days],
    sensors=[late_ticket_days],
    schedules=[past_ticket_days],
)
