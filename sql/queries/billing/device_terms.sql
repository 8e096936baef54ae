-- PostgreSQL. Grain: one term of a device that one of %(organizations)s has or had, with those of them that had it at any
-- time: a device that moved is neither unbilled nor retired for the one that it left. Ordered, so that the same rows give
-- the same usage.
SELECT
    t.device_id::text AS device_id, t.organization_id::text AS organization_id, t.class, t.site, t.tags, t.billable,
    to_char(lower(t.term) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "from",
    to_char(upper(t.term) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "to",
    owners.organizations
FROM billing.device_terms AS t
JOIN (
    SELECT device_id, array_agg(DISTINCT organization_id::text) AS organizations
    FROM billing.device_terms
    WHERE organization_id = ANY(%(organizations)s::uuid[])
    GROUP BY device_id
) AS owners USING (device_id)
ORDER BY t.device_id, lower(t.term)
