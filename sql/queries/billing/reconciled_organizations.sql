-- PostgreSQL. Grain: an organization that existed before %(end)s, the end of the local month [%(month)s, %(next_month)s) everywhere;
-- %(organization_id)s, or all. Ordered by id.
SELECT
    o.id::text AS organization_id, o.time_zone, o.deactivated_at,
    EXISTS (
        SELECT FROM billing.agreements AS a
        WHERE a.organization_id = o.id AND a.term && daterange(%(month)s, %(next_month)s)
    ) AS has_agreement
FROM organizations AS o
WHERE o.created_at < %(end)s AND (%(organization_id)s::uuid IS NULL OR o.id = %(organization_id)s)
ORDER BY o.id
