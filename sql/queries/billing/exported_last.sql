-- PostgreSQL. Grain: a row of the month %(period)s that was exported, as it was sent last; of %(organization_id)s, or of all.
-- exports_by_period is in this order.
SELECT DISTINCT ON (key) key, hash, sent
FROM billing.exports
WHERE period = %(period)s AND (%(organization_id)s::uuid IS NULL OR organization_id = %(organization_id)s)
ORDER BY key, batch DESC
