-- PostgreSQL. Grain: one organization that is active and has no agreement in force on the local day %(day)s.
SELECT o.name
FROM organizations AS o
WHERE o.created_at < %(end)s
    AND (o.deactivated_at IS NULL OR o.deactivated_at >= %(end)s)
    AND NOT EXISTS (SELECT FROM billing.agreements AS a WHERE a.organization_id = o.id AND a.term @> %(day)s::date)
ORDER BY o.name
