-- PostgreSQL. Grain: one event of the window [start, end). Served by the index ticket_history_by_time.
SELECT id AS event_id, organization_id, ticket_id, actor_id, event, old_value, new_value, occurred_at
FROM ticket_history
WHERE occurred_at >= %(start)s AND occurred_at < %(end)s
ORDER BY occurred_at, id
