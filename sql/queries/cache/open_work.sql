-- PostgreSQL. Grain: organization, kind of work (ticket, alert) and its priority or severity. `alerts` has an index of
-- the open ones; an organization's tickets are few.
SELECT organization_id, 'ticket' AS work, priority AS level, count(*) AS open
FROM tickets WHERE status NOT IN ('resolved', 'closed') GROUP BY organization_id, priority
UNION ALL
SELECT organization_id, 'alert', severity, count(*)
FROM alerts WHERE resolved_at IS NULL GROUP BY organization_id, severity
