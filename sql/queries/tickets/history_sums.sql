-- PostgreSQL. Grain: one UTC day since `since`: its events, and a sum of their ids, by which two sides are compared
-- without reading them. Served by the index ticket_history_by_time.
SELECT
    (occurred_at AT TIME ZONE 'UTC')::date AS day, count(*) AS events,
    sum(('x' || substr(id::text, 1, 8))::bit(32)::bigint + ('x' || right(id::text, 8))::bit(32)::bigint) AS sum
FROM ticket_history
WHERE occurred_at >= %(since)s
GROUP BY 1
