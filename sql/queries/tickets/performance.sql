-- ClickHouse. Grain: organization and technician, of the tickets closed on the day (and still closed at its end).
-- A ticket closed earlier that only saw a comment on the day has a fact on it too: closed_at decides, not the fact's day.
-- Tickets that nobody had when they were closed count for nobody. The day is the first column of the table's sort key.
SELECT
    organization_id,
    assumeNotNull(closed_assignee_id) AS technician_id,
    count() AS tickets_closed,
    avg(assumeNotNull(hours_to_close)) AS mean_hours_to_close,
    -- of an even number: the mean of the middle two
    quantileExactInclusive(0.5)(assumeNotNull(hours_to_close)) AS median_hours_to_close,
    avg(first_response_minutes) AS mean_first_response_minutes,
    countIf(first_response_breached) AS first_response_breaches,
    countIf(resolution_breached) AS resolution_breaches
FROM ticket_facts
WHERE day = {day:Date} AND toDate(closed_at, 'UTC') = {day:Date} AND closed_assignee_id IS NOT NULL
GROUP BY organization_id, closed_assignee_id
ORDER BY organization_id, technician_id
