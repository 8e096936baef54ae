-- PostgreSQL. Grain: organization and UTC day from `end` until `until` on which something happened to one of these tickets.
-- Served by the index ticket_history_by_ticket.
SELECT DISTINCT organization_id, (occurred_at AT TIME ZONE 'UTC')::date AS day
FROM ticket_history
WHERE ticket_id = ANY(%(tickets)s) AND occurred_at >= %(end)s AND occurred_at < %(until)s
