-- PostgreSQL. Grain: one event, of every ticket to which something happened in [start, end), with its ticket's columns.
-- The whole history, also after `end`: what the first later change replaced is what stood at `end`.
-- One statement, so that tickets and history come from one snapshot: a change between two reads would be half seen.
-- The window is served by the index ticket_history_by_time, the histories by ticket_history_by_ticket.
SELECT
    t.id, t.organization_id, t.number, t.created_by AS requester_id, t.created_at, t.status, t.priority,
    t.assigned_to AS assignee_id,
    h.id AS event_id, h.actor_id, h.event, h.old_value, h.new_value, h.occurred_at
FROM tickets AS t
JOIN ticket_history AS h ON h.ticket_id = t.id
WHERE t.id IN (SELECT ticket_id FROM ticket_history WHERE occurred_at >= %(start)s AND occurred_at < %(end)s)
ORDER BY t.id, h.occurred_at, h.id
