-- Grain: one organization. Of each ticket the last fact of the week counts: opened and closed in the week; breaches are
-- those of the tickets closed in it, also of tickets that nobody had.
SELECT
    organization_id,
    countIf(created_at >= {start:DateTime64(3, 'UTC')} AND created_at < {stop:DateTime64(3, 'UTC')}) AS opened,
    countIf(closed_at >= {start:DateTime64(3, 'UTC')}) AS closed,
    countIf(closed_at >= {start:DateTime64(3, 'UTC')} AND first_response_breached) AS first_response_breaches,
    countIf(closed_at >= {start:DateTime64(3, 'UTC')} AND resolution_breached) AS resolution_breaches
FROM (
    SELECT * FROM ticket_facts
    WHERE day >= toDate({start:DateTime64(3, 'UTC')}, 'UTC') AND day < toDate({stop:DateTime64(3, 'UTC')}, 'UTC')
    ORDER BY day DESC
    LIMIT 1 BY organization_id, ticket_id
)
GROUP BY organization_id
