-- PostgreSQL. Grain: one event of the window [start, end). Served by the index ticket_history_by_time.
SELECT id AS event_id, organization_id, ticket_id, actor_id, event AS event_type, old_value, new_value, occurred_at AS timestamp
FROM ticket_history
WHERE occurred_at >= %(start)s AND occurred_at < %(end)s
ORDER BY occurred_at, id
